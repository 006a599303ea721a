"""Sparse coders in the layout of EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import torch
from torch import Tensor
from torch.nn.functional import linear

from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import hash_file, hash_json, safetensors_fault

_MAX_PRE_ACTS = 1 << 24
"""Pre-activations held at once by `firings`: 64 MiB of float32, whatever num_latents is."""


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


class SparsifyCoder:
    """A sparse coder stored by EleutherAI's sparsify.

    Reproduces ``sparsify.SparseCoder``: ReLU first, then TopK or groupmax; the decoder is used as
    stored (``normalize_decoder`` acts in training only).
    """

    def __init__(
        self,
        config: SparsifyConfig,
        hookpoint: Hookpoint,
        weights: dict[str, Tensor],
        *,
        fingerprint: str,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self.hookpoint = hookpoint
        self.fingerprint = fingerprint
        self.d_in = config.d_in
        self.num_latents = config.num_latents or config.d_in * config.expansion_factor
        moved = {key: value.to(device, torch.float32) for key, value in weights.items()}
        self.W_enc = moved["encoder.weight"]
        self.b_enc = moved["encoder.bias"]
        self.W_dec = moved["W_dec"]
        self.b_dec = moved["b_dec"]
        self.W_skip = moved.get("W_skip")
        self.d_out = int(self.W_dec.shape[1])

    @torch.inference_mode()
    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations float32 [n, k] and latents int64 [n, k]; activations may be 0 (silent)."""
        if not self.config.transcode:
            x = x - self.b_dec
        pre = linear(x, self.W_enc, self.b_enc).relu_()
        if self.config.activation == "topk":
            top = pre.topk(self.config.k, dim=-1, sorted=False)
            return top.values, top.indices
        groups = pre.view(pre.shape[0], self.config.k, -1).max(dim=-1)
        width = self.num_latents // self.config.k
        return groups.values, groups.indices + torch.arange(
            0, self.num_latents, width, device=x.device
        )

    def encode(self, x: Tensor) -> Tensor:
        """Activations float32 [n, num_latents] (0 = silent) of inputs [n, d_in]."""
        acts, latents = self.encode_sparse(x)
        return acts.new_zeros(x.shape[0], self.num_latents).scatter_(1, latents, acts)

    @torch.inference_mode()
    def firings(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row int64 [m], latent int64 [m] and activation float32 [m] (> 0) of every firing.

        Sorted by row, then latent. Made in slices, so that memory does not grow with `num_latents`.
        """
        step = max(1, _MAX_PRE_ACTS // self.num_latents)
        rows, latents, acts = [], [], []
        for start in range(0, max(1, x.shape[0]), step):
            top_acts, top_latents = self.encode_sparse(x[start : start + step])
            ordered, order = top_latents.sort(dim=1)
            top_acts = top_acts.gather(1, order)
            row, column = (top_acts > 0).nonzero(as_tuple=True)
            rows.append(row + start)
            latents.append(ordered[row, column])
            acts.append(top_acts[row, column])
        return torch.cat(rows), torch.cat(latents), torch.cat(acts)

    @torch.inference_mode()
    def decode(self, acts: Tensor) -> Tensor:
        """Output [n, d_out] of activations [n, num_latents]: decoder and bias, without the skip."""
        return torch.addmm(self.b_dec, acts, self.W_dec)

    @torch.inference_mode()
    def skip(self, x: Tensor) -> Tensor:
        """Skip path [n, d_out] of inputs [n, d_in]; a zero that broadcasts where there is none."""
        return x.new_zeros(()) if self.W_skip is None else x @ self.W_skip.T


def load_sparsify(folder: Path, model: SubjectModel) -> SparsifyCoder:
    """Load one coder in sparsify's layout, checked against the model it belongs to."""
    config = _read_config(folder / "cfg.json")
    hookpoint = parse_hookpoint(folder.name, transcode=config.transcode)
    if hookpoint.layer >= model.n_layers:
        raise CoderError(
            f"{folder} is for layer {hookpoint.layer}, but {model.name} has layers 0 to "
            f"{model.n_layers - 1}; is it the coder of another model?"
        )
    if config.d_in != model.d_model:
        raise CoderError(
            f"{folder / 'cfg.json'}: d_in is {config.d_in}, but {model.name} has d_model "
            f"{model.d_model}; is it the coder of another model?"
        )
    path = folder / "sae.safetensors"
    weights = _read_weights(path, config)
    fingerprint = hash_json([hash_file(path), hash_file(folder / "cfg.json")])
    return SparsifyCoder(
        config, hookpoint, weights, fingerprint=fingerprint, device=str(model.device)
    )


def _read_config(path: Path) -> SparsifyConfig:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    from safetensors.torch import load_file

    if not path.is_file():
        raise CoderError(f"{path} is missing; a sparsify coder is cfg.json and sae.safetensors")
    if fault := safetensors_fault(path):
        raise CoderError(f"{path} is damaged: {fault}; copy or download it again")
    weights: dict[str, Tensor] = load_file(path)
    num_latents = config.num_latents or config.d_in * config.expansion_factor
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (num_latents, config.d_in),
        "encoder.bias": (num_latents,),
        "W_dec": (num_latents, config.d_in),
        "b_dec": (config.d_in,),
    }
    if config.skip_connection:
        shapes["W_skip"] = (config.d_in, config.d_in)
    if missing := [name for name in shapes if name not in weights]:
        raise CoderError(
            f"{path} lacks the tensors {', '.join(missing)}; it has {', '.join(sorted(weights))}"
        )
    for name, shape in shapes.items():
        found = tuple(weights[name].shape)
        if found != shape:
            raise CoderError(f"{path}: {name} has shape {found}, cfg.json calls for {shape}")
        if not bool(weights[name].isfinite().all()):
            raise CoderError(f"{path}: {name} has values that are not finite (NaN or infinity)")
    return {name: weights[name] for name in shapes}
