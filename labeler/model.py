"""The subject model: a causal language model with hooks, through ``TransformerBridge``."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from labeler.errors import ModelError
from labeler.store import hash_file, hash_json, looks_local, safetensors_fault

Hook = Callable[[Tensor], Tensor | None]
"""Gets a hook's value [b, t, d], heads side by side; returns what replaces it, or None."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


_SAME = 0.01
"""Change of logits, in their standard deviations, that is still rounding."""


class _StopForward(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass once the last wanted hook has run."""


class SubjectModel:
    """A causal language model whose activations can be read and replaced.

    Made by `load_model`.

    Attributes
    ----------
    name : str
        The folder or hub name it came from.
    n_layers, d_model, n_vocab, max_ctx : int
        Blocks, residual width, size of the output vocabulary, longest context.
    layer_norm : bool
        Whether its norms subtract the mean (LayerNorm) or only scale (RMSNorm).
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    fingerprint : str
        SHA-256 over the weight files and the config.
    device : torch.device
        Where it runs.
    """

    def __init__(self, bridge: Any, *, name: str, fingerprint: str, device: str) -> None:
        self.bridge = bridge
        self.name = name
        self.fingerprint = fingerprint
        self.device = torch.device(device)
        self.tokenizer: Any = bridge.tokenizer
        self.n_layers = int(bridge.cfg.n_layers)
        self.d_model = int(bridge.cfg.d_model)
        self.n_vocab = int(bridge.cfg.d_vocab)
        self.max_ctx = int(bridge.cfg.n_ctx)
        self.layer_norm = not bridge.cfg.uses_rms_norm
        self._hook_names = frozenset(bridge.hook_dict)
        self._widths: dict[str, int] = {}

    def width(self, hook_name: str) -> int:
        """Size of the last axis at a hook, found by a pass over one token.

        Raises
        ------
        ModelError
            If there is no such hook, or a forward pass does not reach it.
        """
        if hook_name not in self._widths:

            def measure(value: Tensor) -> None:
                self._widths[hook_name] = value.shape[-1]

            self.run(torch.zeros(1, 1, dtype=torch.long), {hook_name: measure})
        return self._widths[hook_name]

    @torch.inference_mode()
    def run(
        self,
        ids: Tensor | npt.NDArray[np.integer[Any]],
        hooks: Mapping[str, Hook] | None = None,
        *,
        stop_after: str | None = None,
    ) -> Tensor | None:
        """Run one batch, without a key-value cache and without adding a BOS.

        Right padding needs no mask: attention is causal, so no real position sees it.

        Parameters
        ----------
        ids : int [b, t]
            Token ids.
        hooks : mapping of str to callable
            Bridge hook name to a function of its value [b, t, d]; what it returns (unless None)
            replaces the value.
        stop_after : str, optional
            End the pass as soon as this hook and all of `hooks` have run; the rest of the pass, the
            unembedding above all, is saved.

        Returns
        -------
        float32 [b, t, n_vocab] or None
            The logits; None with `stop_after`.

        Raises
        ------
        ModelError
            If a hook does not exist, never ran, or `ids` do not fit the model.
        """
        ids = self._check_ids(ids)
        hooks = dict(hooks or {})
        ran: set[str] = set()
        wanted = list(hooks)
        if stop_after is not None and stop_after not in hooks:
            wanted.append(stop_after)
        for name in wanted:
            if name not in self._hook_names:
                raise ModelError(
                    f"{self.name} has no hook {name!r}; it has {self.n_layers} blocks with hooks "
                    f"such as blocks.0.mlp.hook_in and blocks.{self.n_layers - 1}.hook_out"
                )

        def wrap(name: str) -> Callable[..., Tensor | None]:
            def hooked(value: Tensor, hook: object) -> Tensor | None:
                ran.add(name)
                function = hooks.get(name)
                # The bridge splits some values into heads and merges contexts in others.
                result = None if function is None else function(value.reshape(*ids.shape, -1))
                result = None if result is None else result.reshape(value.shape)
                if stop_after is not None and ran.issuperset(wanted):
                    raise _StopForward
                return result

            return hooked

        logits: Tensor | None = None
        try:
            logits = self.bridge.run_with_hooks(
                ids,
                fwd_hooks=[(name, wrap(name)) for name in wanted],
                return_type="logits",
                prepend_bos=False,
                use_cache=False,
            )
        except _StopForward:
            return None
        if missed := [name for name in wanted if name not in ran]:
            raise ModelError(f"hooks that never ran in {self.name}: {', '.join(missed)}")
        return logits

    @torch.inference_mode()
    def cross_entropy(
        self,
        ids: Tensor | npt.NDArray[np.integer[Any]],
        length: Tensor | npt.NDArray[np.integer[Any]],
        hooks: Mapping[str, Hook] | None = None,
    ) -> Tensor:
        """Cross-entropy of every next token.

        Parameters
        ----------
        ids : int [b, t]
            Token ids, padded on the right.
        length : int [b]
            Number of real tokens per row.
        hooks : mapping of str to callable
            As for `run`.

        Returns
        -------
        float32 [b, t - 1]
            Nats for predicting ``ids[:, i + 1]``; NaN where that is padding.
        """
        ids = self._check_ids(ids)
        logits = self.run(ids, hooks)
        if logits is None:
            raise ModelError(f"{self.name} returned no logits")
        # Row by row: log-softmax over a large vocabulary would copy the whole logits tensor.
        losses = torch.stack(
            [
                cross_entropy(row[:-1].float(), target[1:], reduction="none")
                for row, target in zip(logits, ids, strict=True)
            ]
        )
        ends = torch.as_tensor(length, device=self.device).long()
        target = torch.arange(1, ids.shape[1], device=self.device)
        return losses.masked_fill(target[None, :] >= ends[:, None], float("nan"))

    def _check_ids(self, ids: Tensor | npt.NDArray[np.integer[Any]]) -> Tensor:
        tensor = torch.as_tensor(ids).to(self.device).long()
        if tensor.ndim != 2:
            raise ModelError(f"ids must be [batch, ctx_len], got shape {tuple(tensor.shape)}")
        if tensor.shape[1] > self.max_ctx:
            raise ModelError(
                f"context of {tensor.shape[1]} tokens, but {self.name} takes at most "
                f"{self.max_ctx}; use --ctx-len {self.max_ctx} or less"
            )
        if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < self.n_vocab:
            raise ModelError(
                f"token ids {int(tensor.min())} to {int(tensor.max())} are outside the vocabulary "
                f"of {self.name} (0 to {self.n_vocab - 1}); tokenize with the model's own tokenizer"
            )
        return tensor


def load_model(name_or_path: str | Path, *, device: str = "cpu") -> SubjectModel:
    """Load a causal language model in float32.

    Parameters
    ----------
    name_or_path : str or Path
        A folder in Hugging Face layout, or a hub name.
    device : str
        ``cpu``, ``cuda``, ...

    Raises
    ------
    ModelError
        If the folder is missing or incomplete (said before any look at the hub), a weight file is
        truncated, or the architecture is not supported.
    """
    name = str(name_or_path)
    folder = Path(name).expanduser() if looks_local(name) else None
    weights = check_folder(folder) if folder is not None else []
    source = name if folder is None else str(folder)
    # Imported here: several seconds, which a missing folder need not cost.
    from transformer_lens.model_bridge import TransformerBridge

    try:
        with quiet():
            bridge = TransformerBridge.boot_transformers(source, device=device, dtype=torch.float32)
    except Exception as error:
        # transformers and transformer_lens raise a dozen unrelated types here.
        # The first line says what happened; transformers adds paragraphs of advice.
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        reason = f"{type(error).__name__}: {first}"
        cure = "check the name and the connection, or give a local folder"
        if folder is not None:
            cure = "it must be a causal language model that transformers and transformer-lens know"
        raise ModelError(f"cannot load the model {name}: {reason}; {cure}") from error
    if bridge.tokenizer is None:
        raise ModelError(f"{name} has no tokenizer; add tokenizer.json to the folder")
    fingerprint = (
        weights_fingerprint(folder, weights)
        if folder is not None
        else _hub_fingerprint(bridge, name)
    )
    model = SubjectModel(bridge, name=name, fingerprint=fingerprint, device=device)
    _check_causal(model)
    return model


def _check_causal(model: SubjectModel) -> None:
    """Refuse a model that does not run, or whose predictions depend on later tokens.

    Both load without a word, and every position is read as if it knew only what came before it.
    """
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % model.n_vocab
    try:
        logits = model.run(ids)
    except ModelError:
        raise
    except Exception as error:
        # Whatever an architecture's own code raises.
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ModelError(
            f"{model.name} loads but does not run: {type(error).__name__}: {first}; another "
            "version of transformer-lens or transformers may run it"
        ) from error
    if logits is None:
        raise ModelError(f"{model.name} returned no logits")
    one, other = logits[0, :3].float(), logits[1, :3].float()
    if float((one - other).abs().max()) > _SAME * float(one.std()):
        raise ModelError(
            f"{model.name} is no causal language model: later tokens change what it predicts for "
            "earlier ones; give a decoder (BERT needs is_decoder in its config)"
        )


def check_folder(folder: Path) -> list[Path]:
    """Return the weight files of a local model folder, or say what is missing."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"model folder {folder} {what}; give a Hugging Face folder (config.json, "
            "model.safetensors, tokenizer.json) or a hub name such as EleutherAI/pythia-70m"
        )
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        missing.append("model.safetensors")
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        raise ModelError(
            f"model folder {folder} lacks {', '.join(missing)}; save the model and its tokenizer "
            "there with save_pretrained"
        )
    for path in weights:
        fault = safetensors_fault(path) if path.suffix == ".safetensors" else None
        if fault:
            raise ModelError(f"{path} is damaged: {fault}; copy or download it again")
    return weights


def weights_fingerprint(folder: Path, weights: list[Path]) -> str:
    """SHA-256 over a model folder's config and weight files, in hex."""
    return hash_json([hash_file(path) for path in [folder / "config.json", *weights]])


def _hub_fingerprint(bridge: Any, name: str) -> str:
    """The commit says which weights a hub name stood for."""
    config = bridge.original_model.config
    return hash_json([name, getattr(config, "_commit_hash", None), str(config.to_json_string())])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep loading bars and advice for library users off the terminal."""
    from transformers.utils import logging as hf_logging

    had_bar = hf_logging.is_progress_bar_enabled()
    verbosity = hf_logging.get_verbosity()
    root = logging.getLogger()
    level = root.level
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        hf_logging.set_verbosity(verbosity)
        if had_bar:
            hf_logging.enable_progress_bar()
