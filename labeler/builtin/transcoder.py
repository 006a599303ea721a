"""Skip transcoders with TopK latents: the module to train, and sparsify's files."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labeler.errors import CoderError


class Encoded(NamedTuple):
    """The active latents of each position; a latent with activation 0 is not firing."""

    acts: Tensor
    """Activations, float [n, k]."""

    indices: Tensor
    """Which latents, int64 [n, k]."""

    pre_acts: Tensor
    """Activations before TopK, at least 0, float [n, num_latents]."""


class SkipTranscoder(nn.Module):
    """``TopK(relu(W_enc x + b_enc)) @ W_dec + b_dec + x @ W_skip.T``, in sparsify's words.

    Parameters
    ----------
    d_in : int
        Width of the input and of the output.
    num_latents : int
        Number of latents.
    k : int
        Latents kept at each position.
    """

    def __init__(self, d_in: int, num_latents: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.encoder = nn.Linear(d_in, num_latents)
        self.W_dec = nn.Parameter(torch.zeros(num_latents, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.W_skip = nn.Parameter(torch.zeros(d_in, d_in))

    @property
    def d_in(self) -> int:
        """Width of the input and of the output."""
        return self.encoder.in_features

    @property
    def num_latents(self) -> int:
        """Number of latents."""
        return self.encoder.out_features

    def encode(self, x: Tensor) -> Encoded:
        """Active latents at each row of `x`, float [n, d_in]."""
        pre_acts = torch.relu(self.encoder(x))
        acts, indices = pre_acts.topk(self.k, dim=-1, sorted=False)
        return Encoded(acts, indices, pre_acts)

    def decode(self, acts: Tensor, indices: Tensor) -> Tensor:
        """Sum of the decoder rows `indices`, weighted by `acts`: float [n, d_in]."""
        dense = acts.new_zeros(len(acts), self.num_latents).scatter_(1, indices, acts)
        return dense @ self.W_dec

    def skip(self, x: Tensor) -> Tensor:
        """What the output is without any latent: skip path and bias, float [n, d_in]."""
        return nn.functional.linear(x, self.W_skip, self.b_dec)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the MLP's output from its input, float [n, d_in]."""
        encoded = self.encode(x)
        return self.decode(encoded.acts, encoded.indices) + self.skip(x)


def save_transcoder(transcoder: SkipTranscoder, folder: Path) -> None:
    """Write an fp16 copy in sparsify's layout: ``cfg.json`` and ``sae.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in transcoder.state_dict().items()}
    save_file(state, folder / "sae.safetensors")
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, transcoder.num_latents // transcoder.d_in),
        "normalize_decoder": False,
        "num_latents": transcoder.num_latents,
        "k": transcoder.k,
        "multi_topk": False,
        "skip_connection": True,
        "transcode": True,
        "d_in": transcoder.d_in,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg) + "\n")


def load_transcoder(folder: Path) -> SkipTranscoder:
    """Read what `save_transcoder` wrote, as float32 with the stored (rounded) values."""
    try:
        cfg = json.loads((folder / "cfg.json").read_text())
        state = load_file(folder / "sae.safetensors")
    except FileNotFoundError as error:
        raise CoderError(f"no transcoder in {folder}: {error.filename} is missing") from error
    transcoder = SkipTranscoder(cfg["d_in"], cfg["num_latents"], cfg["k"])
    transcoder.load_state_dict(state)
    return transcoder
