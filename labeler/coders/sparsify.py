"""Sparse coders in the layout of EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from torch import Tensor

from labeler.coders.activations import GroupMax, TopK
from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.coder import CoderFormat
from labeler.coders.tensors import check_fit, check_tensors, read_safetensors
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json


@dataclass(frozen=True)
class SparsifyConfig:
    """The part of sparsify's ``cfg.json`` that matters for inference."""

    d_in: int
    """Width of the input."""

    activation: str = "topk"
    """``topk``: the k largest pre-activations; ``groupmax``: the largest of each of k groups."""

    expansion_factor: int = 32
    """Latents per input dimension, where `num_latents` is 0."""

    num_latents: int = 0
    """Number of latents; 0 means ``d_in * expansion_factor``."""

    k: int = 32
    """Number of latents that may fire."""

    skip_connection: bool = False
    """Whether there is a linear skip path."""

    transcode: bool = False
    """Transcoder (encodes the input of a module) or autoencoder (of its output, minus b_dec)."""


class SparsifyCoder(AffineCoder):
    """A sparse coder stored by EleutherAI's sparsify.

    Reproduces ``sparsify.SparseCoder``: ReLU first, then TopK or groupmax; the decoder is used as
    stored (``normalize_decoder`` acts in training only).
    """

    def __init__(
        self,
        config: SparsifyConfig,
        hookpoint: Hookpoint,
        weights: Mapping[str, Tensor],
        *,
        fingerprint: str,
        device: str = "cpu",
    ) -> None:
        affine = AffineWeights(
            weights["encoder.weight"],
            weights["encoder.bias"],
            weights["W_dec"],
            weights["b_dec"],
            b_in=None if config.transcode else weights["b_dec"],
            W_skip=weights.get("W_skip"),
        )
        activation = GroupMax(config.k) if config.activation == "groupmax" else TopK(config.k)
        super().__init__(hookpoint, affine, activation, fingerprint=fingerprint, device=device)


def load_sparsify(folder: Path, model: SubjectModel, where: str | None = None) -> SparsifyCoder:
    """Load one coder in sparsify's layout, checked against the model it belongs to.

    Raises
    ------
    CoderError
        If a file is missing or malformed, the coder does not fit the model, or neither the folder's
        name nor `where` is a hookpoint.
    """
    config = _read_config(folder / "cfg.json")
    try:
        hookpoint = parse_hookpoint(folder.name, transcode=config.transcode)
    except CoderError as error:
        if where is None:
            raise CoderError(
                f"{folder} holds a coder, but its name does not say where: {error}; rename it, or "
                "name one --hookpoint"
            ) from None
        hookpoint = parse_hookpoint(where, transcode=config.transcode)
    check_fit(folder / "cfg.json", hookpoint, config.d_in, config.d_in, model)
    path = folder / "sae.safetensors"
    weights = _read_weights(path, config)
    fingerprint = hash_json([hash_file(path), hash_file(folder / "cfg.json")])
    return SparsifyCoder(
        config, hookpoint, weights, fingerprint=fingerprint, device=str(model.device)
    )


def _holds(folder: Path) -> bool:
    """A config of SAELens lies beside ``sae_weights.safetensors``, that of a trainer alone."""
    if not (folder / "cfg.json").is_file() or (folder / "sae_weights.safetensors").exists():
        return False
    return (folder / "sae.safetensors").exists() or not any(folder.glob("*/cfg.json"))


def _place(folder: Path) -> Hookpoint | None:
    try:
        return parse_hookpoint(folder.name)
    except CoderError:
        return None


SPARSIFY = CoderFormat(
    name="sparsify",
    layout="layers.3.mlp/cfg.json and layers.3.mlp/sae.safetensors",
    holds=_holds,
    load=load_sparsify,
    place=_place,
)


def _read_config(path: Path) -> SparsifyConfig:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CoderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict) or "d_in" not in raw:
        raise CoderError(f"{path} has no field d_in; it is not a config of sparsify")
    known: dict[str, type] = get_type_hints(SparsifyConfig)
    values = {key: value for key, value in raw.items() if key in known}
    for key, value in values.items():
        if type(value) is not known[key]:
            raise CoderError(f"{path}: {key} is {value!r}, expected {known[key].__name__}")
    config = SparsifyConfig(**values)
    num_latents = config.num_latents or config.d_in * config.expansion_factor
    if config.activation not in ("topk", "groupmax"):
        raise CoderError(
            f"{path}: activation {config.activation!r} is unknown; known: topk, groupmax"
        )
    if not 1 <= config.k <= num_latents:
        raise CoderError(f"{path}: k is {config.k}, expected 1 to num_latents = {num_latents}")
    if config.activation == "groupmax" and num_latents % config.k:
        raise CoderError(
            f"{path}: groupmax needs num_latents {num_latents} divisible by k {config.k}"
        )
    return config


def _read_weights(path: Path, config: SparsifyConfig) -> dict[str, Tensor]:
    num_latents = config.num_latents or config.d_in * config.expansion_factor
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (num_latents, config.d_in),
        "encoder.bias": (num_latents,),
        "W_dec": (num_latents, config.d_in),
        "b_dec": (config.d_in,),
    }
    if config.skip_connection:
        shapes["W_skip"] = (config.d_in, config.d_in)
    return check_tensors(path, read_safetensors(path), shapes, said_by="cfg.json")
