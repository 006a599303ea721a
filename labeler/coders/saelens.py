"""Sparse coders in the layout of SAELens, through the library (the extra ``saelens``).

``cfg.json`` and ``sae_weights.safetensors``; a ``sparsity.safetensors`` beside them is not read.
The files are checked first (`labeler.coders.saelens_config`), so that a broken or hostile one is
named here; the library gets checked fields and tensors only, and computes.

SAELens' coders belong to TransformerLens' model, which may have been processed. What that changes
at a hook is undone, or the coder refused.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeler.coders.activations import Firing, above_zero, in_slices
from labeler.coders.coder import CoderFormat
from labeler.coders.saelens_config import CONFIG, WEIGHTS, SaeLensConfig, holds, read_config
from labeler.coders.tensors import check_fit, check_tensors, read_safetensors
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, hookpoint_between, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json

_CENTERED = (
    *("hook_in", "hook_resid_mid", "hook_out"),
    *("attn.hook_out", "hook_attn_out", "mlp.hook_out", "hook_mlp_out"),
)
"""What a model with centered weights has no mean in."""

_NORMALIZED = ("ln1.hook_normalized", "ln2.hook_normalized")
_HEADS = "attn.o.hook_in"


class SaeLensCoder:
    """A sparse coder that ``sae_lens`` has loaded.

    Attributes
    ----------
    config : SaeLensConfig
        What its ``cfg.json`` says.
    centered : bool
        Whether it was trained on a model whose weights write nothing along the mean
        (``center_writing_weights``). Its input is centered before encoding. Its output is, too:
        what is missing from it, no LayerNorm sees.
    """

    def __init__(
        self,
        sae: Any,
        config: SaeLensConfig,
        hookpoint: Hookpoint,
        *,
        fingerprint: str,
        centered: bool = False,
    ) -> None:
        self._sae = sae
        self.config = config
        self.hookpoint = hookpoint
        self.fingerprint = fingerprint
        self.centered = centered
        self.num_latents, self.d_in, self.d_out = config.d_sae, config.d_in, config.d_out
        # As elsewhere: a row per latent, [num_latents, d_in].
        self.W_enc: Tensor = sae.W_enc.detach().T
        # The library's decoder divides activations by these norms where its encoder multiplied.
        scaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
        decoder: Tensor = sae.W_dec.detach()
        self.W_dec = decoder / decoder.norm(dim=-1, keepdim=True) if scaled else decoder

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """Activations float32 [n, num_latents] (0 = silent) of inputs [n, d_in]."""
        acts: Tensor = self._sae.encode(self._centered(x))
        return acts

    @torch.inference_mode()
    def firings(self, x: Tensor) -> Firing:
        """Row int64 [m], latent int64 [m] and activation float32 [m] (> 0) of every firing.

        Sorted by row, then latent. Made in slices, so that memory does not grow with `num_latents`.
        """
        return in_slices(x, self.num_latents, lambda some: above_zero(self.encode(some)))

    @torch.inference_mode()
    def decode(self, acts: Tensor) -> Tensor:
        """Output [n, d_out] of activations [n, num_latents]: decoder and bias, without the skip.

        Raises
        ------
        CoderError
            If the output depends on the input's mean or norm, too: see `output`.
        """
        if self.config.normalizes_output:
            raise CoderError(
                f"the coder at {self.hookpoint.name} has normalize_activations: it scales its "
                "output back by its input, so activations alone do not give the output; it can be "
                "labeled and verified, not rewritten"
            )
        out: Tensor = self._sae.decode(acts)
        return out

    @torch.inference_mode()
    def skip(self, x: Tensor) -> Tensor:
        """Skip path [n, d_out] of inputs [n, d_in]; a zero that broadcasts where there is none."""
        if not hasattr(self._sae, "W_skip"):
            return x.new_zeros(())
        out: Tensor = self._centered(x) @ self._sae.W_skip.T
        return out

    @torch.inference_mode()
    def output(self, acts: Tensor, x: Tensor) -> Tensor:
        """What stands for the sublayer, [n, d_out]: ``decode(acts) + skip(x)``, scaled back.

        Parameters
        ----------
        acts : float32 [n, num_latents] or [1, num_latents]
            Activations, the coder's own or others.
        x : float32 [n, d_in]
            The input.
        """
        if not self.config.normalizes_output:
            return self.decode(acts) + self.skip(x)
        # The library keeps the scale of what it normalized last, for the decoder to use once.
        self._sae.run_time_activation_norm_fn_in(self._centered(x))
        out: Tensor = self._sae.decode(acts)
        return out

    def _centered(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=-1, keepdim=True) if self.centered else x


def load_saelens(folder: Path, model: SubjectModel, hookpoint: str | None) -> SaeLensCoder:
    """Load one coder in SAELens' layout, checked against the model it belongs to.

    Raises
    ------
    CoderError
        If a file is missing, damaged or says something that cannot be used, if it belongs to
        another place than `hookpoint`, or if sae-lens is not installed.
    """
    config_path, path = folder / CONFIG, folder / WEIGHTS
    config = read_config(config_path)
    place = _hookpoint(folder, config, hookpoint)
    check_fit(config_path, place, config.d_in, config.d_out, model)
    centered = _processing(config_path, config, place, model)
    found = read_safetensors(path)
    scale = found.get("scaling_factor")
    if scale is not None and not bool((scale == 1).all()):
        raise CoderError(
            f"{path}: scaling_factor is not 1 everywhere; sae-lens has dropped this fine-tuning of "
            "activations, multiply W_dec by it and remove it"
        )
    tensors = check_tensors(path, found, config.shapes(), said_by=CONFIG)
    sae = _through_library(folder, config, tensors).to(str(model.device))
    fingerprint = hash_json([hash_file(path), hash_file(config_path)])
    return SaeLensCoder(sae, config, place, fingerprint=fingerprint, centered=centered)


def _through_library(folder: Path, config: SaeLensConfig, tensors: dict[str, Tensor]) -> Any:
    try:
        from sae_lens import SAE
    except ImportError as error:
        raise CoderError(
            f"{folder} is a coder of SAELens, which sae-lens computes, and that cannot be "
            f"imported ({error}): pip install 'labeler[saelens]' (it brings transformer-lens 3 in "
            "place of 4, and the packages that train coders)"
        ) from error

    def given(*_: object, **__: object) -> tuple[dict[str, object], dict[str, Tensor]]:
        return dict(config.library), dict(tensors)

    try:
        sae = SAE.load_from_disk(folder, converter=given)
    except Exception as error:
        # All was checked, so this is a version of the library with other rules.
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise CoderError(
            f"{folder}: sae-lens cannot load this coder: {type(error).__name__}: {first}; "
            "load and save it with the version of sae-lens that is installed"
        ) from error
    # Our values at hook_z have the heads side by side already.
    sae.turn_off_forward_pass_hook_z_reshaping()
    return sae.eval().requires_grad_(False)


def _hookpoint(folder: Path, config: SaeLensConfig, asked: str | None) -> Hookpoint:
    """Where the files say that the coder sits, or the user where they do not."""
    wanted = None if asked is None else parse_hookpoint(asked, transcode=config.transcodes)
    place = _said(folder, config) or wanted
    if place is None:
        raise CoderError(
            f"{folder / CONFIG} does not say where the coder sits (hook_name); name one --hookpoint"
        )
    if wanted is not None and place.name != wanted.name:
        raise CoderError(f"{folder} says that the coder sits at {place.name}, not at {wanted.name}")
    return place


def _said(folder: Path, config: SaeLensConfig) -> Hookpoint | None:
    """Where ``cfg.json`` says that the coder sits, or the folder's name where it does not."""
    if config.hook_name is None:
        try:
            return parse_hookpoint(folder.name, transcode=config.transcodes)
        except CoderError:
            return None
    try:
        if config.transcodes and config.hook_name_out is None:
            return parse_hookpoint(config.hook_name)
        written = config.hook_name_out if config.transcodes else None
        return hookpoint_between(config.hook_name, written or config.hook_name)
    except CoderError as error:
        raise CoderError(f"{folder / CONFIG}: hook_name: {error}") from None


def _place(folder: Path) -> Hookpoint | None:
    try:
        return _said(folder, read_config(folder / CONFIG))
    except CoderError:
        # Loading says what is wrong.
        return None


def _processing(path: Path, config: SaeLensConfig, place: Hookpoint, model: SubjectModel) -> bool:
    """Whether the coder wants its input centered; an error where it wants what cannot be had.

    TransformerLens can process a model when it loads it, without changing its logits (see
    ``HookedTransformer.from_pretrained``). SAELens' files say since September 2024 what was done
    (decoderesearch/SAELens#279), and since then nothing is done unless they say so. Only LayerNorm
    models have anything to center. For what holds at the norms, see `labeler.hookpoints`.
    """
    kwargs = config.model_kwargs or {}
    site = place.hook_in.split(".", 2)[2]
    for key in ("fold_value_biases", "refactor_factored_attn_matrices"):
        if kwargs.get(key) and site == _HEADS:
            raise CoderError(
                f"{path}: model_from_pretrained_kwargs has {key}, which changes what hook_z holds; "
                "such a coder cannot be used with the model as it is"
            )
    if not model.layer_norm:
        return False
    if config.model_kwargs is None and site in (*_CENTERED, _HEADS):
        raise CoderError(
            f"{path} has no model_from_pretrained_kwargs, as before September 2024, when some "
            "coders were trained on a processed model and others were not; add "
            '"model_from_pretrained_kwargs": {"center_writing_weights": true} if its author loaded '
            'the model with from_pretrained, and "model_from_pretrained_kwargs": {} if not'
        )
    if site in _NORMALIZED and not kwargs.get("fold_ln"):
        raise CoderError(
            f"{path}: in LayerNorm models, {config.hook_name} held values after the norm's gain "
            "and bias before transformer-lens 3, and before them since; write mlp.hook_in or "
            'attn.hook_in in its place for the former, or "fold_ln": true into '
            "model_from_pretrained_kwargs for the latter"
        )
    return bool(kwargs.get("center_writing_weights")) and site in _CENTERED


SAE_LENS = CoderFormat(
    name="sae_lens",
    layout=f"{CONFIG} and {WEIGHTS}",
    holds=holds,
    load=load_saelens,
    place=_place,
)
