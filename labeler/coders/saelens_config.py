"""What SAELens' ``cfg.json`` says, checked without the library.

Since version 6 the fields that matter are at the top and where the coder sits is under
``metadata``. Before that all was at the top, under names that changed over time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from labeler.errors import CoderError

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

Fields = dict[str, object]

_SAE = ("W_enc", "b_enc", "W_dec", "b_dec")
TENSORS: dict[str, tuple[str, ...]] = {
    "standard": _SAE,
    "topk": _SAE,
    "jumprelu": (*_SAE, "threshold"),
    "gated": ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec"),
    "matching_pursuit": ("W_dec", "b_dec"),
    "transcoder": _SAE,
    "skip_transcoder": (*_SAE, "W_skip"),
    "jumprelu_transcoder": (*_SAE, "threshold"),
    "jumprelu_skip_transcoder": (*_SAE, "threshold", "W_skip"),
}
"""The architectures that can be used, and the tensors of each."""

_REFUSED = {
    "temporal": "its latents depend on all positions before, not on one activation",
    "abstopk": "its latents fire in both directions, and a firing here is a positive activation",
    "batchtopk": "it is a checkpoint of a training; save it with save_inference_model in sae-lens",
    "matryoshka_batchtopk": (
        "it is a checkpoint of a training; save it with save_inference_model in sae-lens"
    ),
}
_UNFOLDED = {
    "expected_average_only_in": "fold_activation_norm_scaling_factor",
    "covariance_whitening": "fold_activation_whitening",
}
"""Normalizations whose numbers are not in the file, and what folds them into the weights."""

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_PASSED = (
    *("d_in", "d_sae", "d_out", "k", "apply_b_dec_to_input", "normalize_activations"),
    *("reshape_activations", "rescale_acts_by_decoder_norm", "residual_threshold"),
    *("max_iterations", "stop_on_duplicate_support"),
)


@dataclass(frozen=True)
class SaeLensConfig:
    """The part of SAELens' ``cfg.json`` that matters for inference."""

    architecture: str
    """One of `TENSORS`."""

    d_in: int
    d_sae: int
    d_out: int
    """Sizes; `d_out` is `d_in` for an autoencoder."""

    normalizes_output: bool
    """Whether the output is scaled back with the mean or norm of the input."""

    hook_name: str | None
    hook_name_out: str | None
    """Where it sits, as its author wrote it; the latter for transcoders only."""

    model_kwargs: Fields | None
    """How its author had TransformerLens process the model; None where a flat file has no word."""

    library: Fields
    """What the library is given: these fields, checked, and nothing else of the file."""

    @property
    def transcodes(self) -> bool:
        """Whether it maps one place to another."""
        return self.architecture.endswith("transcoder")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        known: dict[str, tuple[int, ...]] = {
            "W_enc": (self.d_in, self.d_sae),
            "W_dec": (self.d_sae, self.d_out),
            "b_dec": (self.d_out,),
            "W_skip": (self.d_out, self.d_in),
        }
        return {name: known.get(name, (self.d_sae,)) for name in TENSORS[self.architecture]}


def holds(path: Path) -> bool:
    """Whether a folder is one coder of SAELens; reads no more than ``cfg.json``."""
    if not (path / CONFIG).is_file():
        return False
    if (path / WEIGHTS).is_file():
        return True
    # Incomplete, but nobody else's: sparsify's weights have another name and its config no d_sae.
    try:
        raw = _read_json(path / CONFIG)
    except CoderError:
        return False
    return "d_sae" in raw and bool(raw.keys() & {"hook_name", "hook_point", "metadata"})


def read_config(path: Path) -> SaeLensConfig:
    """Read and check a ``cfg.json``, of version 6 or before.

    Raises
    ------
    CoderError
        If it cannot be read, a field has an impossible value, or what it says cannot be used; names
        the field.
    """
    raw = _read_json(path)
    nested = raw.get("metadata")
    flat = not isinstance(nested, dict)
    fields = {_RENAMED.get(key, key): value for key, value in raw.items()} if flat else raw
    where: Fields = nested if isinstance(nested, dict) else fields
    check = _Checks(path, fields)
    architecture, k = _architecture(check, flat)
    d_in, d_sae = check.size("d_in"), check.size("d_sae")
    transcodes = architecture.endswith("transcoder")
    if transcodes and check.flag("apply_b_dec_to_input", True):
        raise check.wrong("apply_b_dec_to_input", "false: a transcoder's input has no such bias")
    # sae-lens has its own default for d_out, which is nobody's.
    d_out = check.size("d_out") if transcodes else d_in
    check.flag("apply_b_dec_to_input", True)
    check.flag("rescale_acts_by_decoder_norm", False)
    check.flag("stop_on_duplicate_support", True)
    if architecture == "topk" and not (type(k) is int and 1 <= k <= d_sae):
        raise CoderError(f"{path}: k is {k!r}, expected 1 to d_sae = {d_sae}")
    if architecture == "matching_pursuit":
        check.pursuit()
    normalization = _normalization(check)
    place = _Checks(path, where)
    hook_name, hook_name_out = place.text("hook_name"), place.text("hook_name_out")
    if where.get("hook_head_index") is not None:
        raise place.wrong("hook_head_index", "null: a coder of one head alone cannot be used")
    reshape = check.text("reshape_activations") or "none"
    if reshape not in ("none", "hook_z") or (
        reshape == "hook_z" and not (hook_name or "_z").endswith("_z")
    ):
        raise check.wrong("reshape_activations", "none, or hook_z for a coder at hook_z")
    kwargs = where.get("model_from_pretrained_kwargs")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise place.wrong("model_from_pretrained_kwargs", "an object")
    passed: Fields = {name: fields[name] for name in _PASSED if name in fields}
    passed |= {"architecture": architecture, "dtype": "float32", "device": "cpu"}
    passed |= {"hook_name": hook_name or ""} | ({"k": k} if architecture == "topk" else {})
    if not flat:
        # The version decides whether the library takes the layout for an old one.
        passed["metadata"] = {"sae_lens_version": "6.0.0", "hook_name": hook_name}
    return SaeLensConfig(
        architecture=architecture,
        d_in=d_in,
        d_sae=d_sae,
        d_out=d_out,
        normalizes_output=normalization != "none" and not transcodes,
        hook_name=hook_name,
        hook_name_out=hook_name_out,
        model_kwargs=kwargs if flat or kwargs is not None else {},
        library=passed,
    )


def _read_json(path: Path) -> Fields:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CoderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise CoderError(f"{path} holds no object; it is not a config of SAELens")
    return raw


@dataclass(frozen=True)
class _Checks:
    """The fields of a file, each looked at before use."""

    path: Path
    fields: Mapping[str, object]

    def wrong(self, name: str, expected: str) -> CoderError:
        return CoderError(f"{self.path}: {name} is {self.fields.get(name)!r}, expected {expected}")

    def size(self, name: str) -> int:
        value = self.fields.get(name)
        if type(value) is not int or value < 1:
            raise self.wrong(name, "a whole number above 0")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def pursuit(self) -> None:
        threshold = self.fields.get("residual_threshold", 0.0)
        if type(threshold) not in (int, float) or not isfinite(threshold):  # type: ignore[arg-type]
            raise self.wrong("residual_threshold", "a number")
        if self.fields.get("max_iterations") is not None:
            self.size("max_iterations")


def _architecture(check: _Checks, flat: bool) -> tuple[str, object]:
    """The architecture and k; an old file says them by its activation function."""
    name, k = check.text("architecture") or "standard", check.fields.get("k")
    if flat:
        function = check.text("activation_fn") or "relu"
        kwargs = check.fields.get("activation_fn_kwargs") or {}
        if not isinstance(kwargs, dict):
            raise check.wrong("activation_fn_kwargs", "an object")
        if function == "topk":
            name, k = "topk", kwargs.get("k", k)
        elif function != "relu":
            # sae-lens would read the file and compute with a ReLU.
            raise check.wrong("activation_fn", "relu or topk, all that sae-lens still has")
    if name in _REFUSED:
        raise CoderError(f"{check.path}: architecture {name!r} cannot be used: {_REFUSED[name]}")
    if name not in TENSORS:
        raise check.wrong("architecture", f"one of {', '.join(TENSORS)}")
    return name, k


def _normalization(check: _Checks) -> str:
    if isinstance(check.fields.get("normalize_activations"), bool):
        # From before version 3.
        name = "expected_average_only_in" if check.fields["normalize_activations"] else "none"
    else:
        name = check.text("normalize_activations") or "none"
    if name in _UNFOLDED:
        raise check.wrong(
            "normalize_activations",
            f"none: the scale it needs is not in the file; call {_UNFOLDED[name]} in sae-lens and "
            "save the coder again",
        )
    if name not in ("none", "layer_norm", "constant_norm_rescale"):
        raise check.wrong("normalize_activations", "none, layer_norm or constant_norm_rescale")
    return name
