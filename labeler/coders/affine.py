"""One sparse coder for all formats: affine encoder, activation function, affine decoder.

    pre  = (norm(x) - b_in) @ W_enc.T + b_enc
    acts = activation(pre)
    out  = acts @ W_dec + b_dec + x @ W_skip.T

The parts that a format lacks are absent. A format reads its files and says which parts there are.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from labeler.coders.activations import Firing, Relu, in_slices
from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint

Norm = Literal["none", "center", "standardize"]
"""What is done to every input first: nothing; its mean is taken off; and it is divided by its
standard deviation (unbiased, plus 1e-5), by which the output is scaled back (OpenAI's coders)."""

_EPS = 1e-5


@dataclass(frozen=True, eq=False)
class AffineWeights:
    """The tensors of a coder, all float32."""

    W_enc: Tensor
    """[num_latents, d_in]: a row per latent, whatever the file's orientation."""

    b_enc: Tensor
    """[num_latents]."""

    W_dec: Tensor
    """[num_latents, d_out]."""

    b_dec: Tensor
    """[d_out]: added to the output."""

    b_in: Tensor | None = None
    """[d_in]: subtracted from the input before encoding."""

    W_skip: Tensor | None = None
    """[d_out, d_in]: a linear path from input to output."""

    def to(self, device: str) -> "AffineWeights":
        """The same on a device."""
        return replace(
            self,
            **{
                field.name: found.to(device)
                for field in fields(self)
                if (found := getattr(self, field.name)) is not None
            },
        )


class AffineCoder:
    """A sparse coder of any format that is an affine map, an activation and an affine map.

    Attributes
    ----------
    config : Relu, JumpRelu, TopK or GroupMax
        The activation function. ``config.activation`` is its name, ``config.k`` how many latents
        may fire in a row (None where nothing limits it).
    norm : {'none', 'center', 'standardize'}
        What is done to every input first.
    """

    def __init__(
        self,
        hookpoint: Hookpoint,
        weights: AffineWeights,
        activation: Relu,
        *,
        fingerprint: str,
        norm: Norm = "none",
        device: str = "cpu",
    ) -> None:
        self.hookpoint = hookpoint
        self.fingerprint = fingerprint
        self.config = activation.to(device)
        self.norm = norm
        self._weights = weights.to(device)
        self.num_latents, self.d_in = (int(size) for size in weights.W_enc.shape)
        self.d_out = int(weights.W_dec.shape[1])

    @property
    def W_dec(self) -> Tensor:  # noqa: N802
        """Decoder directions, float32 [num_latents, d_out]."""
        return self._weights.W_dec

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """Encoder directions, float32 [num_latents, d_in]."""
        return self._weights.W_enc

    def _pre(self, x: Tensor) -> Tensor:
        """Pre-activations [n, num_latents] of inputs [n, d_in]."""
        if self.norm == "center":
            x = x - x.mean(dim=-1, keepdim=True)
        elif self.norm == "standardize":
            mean, std = _moments(x)
            x = (x - mean) / (std + _EPS)
        if self._weights.b_in is not None:
            x = x - self._weights.b_in
        return linear(x, self._weights.W_enc, self._weights.b_enc)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        """Activations float32 [n, num_latents] (0 = silent) of inputs [n, d_in]."""
        return self.config.dense(self._pre(x))

    @torch.inference_mode()
    def firings(self, x: Tensor) -> Firing:
        """Row int64 [m], latent int64 [m] and activation float32 [m] (> 0) of every firing.

        Sorted by row, then latent. Made in slices, so that memory does not grow with `num_latents`.
        """
        return in_slices(x, self.num_latents, lambda some: self.config.firings(self._pre(some)))

    @torch.inference_mode()
    def decode(self, acts: Tensor) -> Tensor:
        """Output [n, d_out] of activations [n, num_latents]: decoder and bias, without the skip.

        Raises
        ------
        CoderError
            If the coder standardizes: its output depends on its input, too, see `output`.
        """
        if self.norm == "standardize":
            raise CoderError(
                f"the coder at {self.hookpoint.name} standardizes every input and scales its "
                "output back, so activations alone do not give the output; it can be labeled and "
                "verified, not decoded without the input"
            )
        return torch.addmm(self._weights.b_dec, acts, self._weights.W_dec)

    @torch.inference_mode()
    def skip(self, x: Tensor) -> Tensor:
        """Skip path [n, d_out] of inputs [n, d_in]; a zero that broadcasts where there is none."""
        matrix = self._weights.W_skip
        return x.new_zeros(()) if matrix is None else x @ matrix.T

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
        if self.norm != "standardize":
            return self.decode(acts) + self.skip(x)
        mean, std = _moments(x)
        return torch.addmm(self._weights.b_dec, acts, self._weights.W_dec) * std + mean


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of every row, each [n, 1]."""
    return x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
