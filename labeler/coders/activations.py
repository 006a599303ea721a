"""What turns pre-activations into activations: ReLU, JumpReLU, TopK, groupmax.

All of them cut negative values off; activations are >= 0 and 0 means silent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Firing = tuple[Tensor, Tensor, Tensor]
"""Row int64 [m], latent int64 [m] and activation [m] (> 0), sorted by row, then latent."""

MAX_AT_ONCE = 1 << 24
"""Pre-activations held at once: 64 MiB of float32, whatever num_latents is."""


@dataclass(frozen=True, eq=False)
class Relu:
    """``relu(pre)``."""

    activation: ClassVar[str] = "relu"

    @property
    def k(self) -> int | None:
        """How many latents fire at most in a row; None where nothing limits it."""
        return None

    def to(self, device: str) -> "Relu":
        """The same on a device."""
        return self

    def dense(self, pre: Tensor) -> Tensor:
        """Activations [n, num_latents] of pre-activations [n, num_latents], which it overwrites."""
        return pre.relu_()

    def firings(self, pre: Tensor) -> Firing:
        """Every activation above 0 of pre-activations [n, num_latents], which it overwrites."""
        return above_zero(self.dense(pre))


@dataclass(frozen=True, eq=False)
class JumpRelu(Relu):
    """``relu(pre) * (pre > threshold)`` (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

    activation: ClassVar[str] = "jumprelu"

    threshold: Tensor
    """float32 [num_latents]."""

    def to(self, device: str) -> "JumpRelu":  # noqa: D102
        return JumpRelu(self.threshold.to(device))

    def dense(self, pre: Tensor) -> Tensor:  # noqa: D102
        return pre.mul_(pre > self.threshold).relu_()


@dataclass(frozen=True, eq=False)
class TopK(Relu):
    """The `k` largest of ``relu(pre)`` in each row, the others silent."""

    activation: ClassVar[str] = "topk"

    largest: int
    """How many: k."""

    @property
    def k(self) -> int | None:  # noqa: D102
        return self.largest

    def chosen(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Activations [n, k], some maybe 0, and latents int64 [n, k]; overwrites `pre`."""
        top = pre.relu_().topk(self.largest, dim=-1, sorted=False)
        return top.values, top.indices

    def dense(self, pre: Tensor) -> Tensor:  # noqa: D102
        acts, latents = self.chosen(pre)
        return pre.zero_().scatter_(1, latents, acts)

    def firings(self, pre: Tensor) -> Firing:  # noqa: D102
        return of_chosen(*self.chosen(pre))


@dataclass(frozen=True, eq=False)
class GroupMax(TopK):
    """The largest of ``relu(pre)`` in each of `k` groups of neighbouring latents."""

    activation: ClassVar[str] = "groupmax"

    def chosen(self, pre: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        n_rows, n_latents = pre.shape
        best = pre.relu_().view(n_rows, self.largest, -1).max(dim=-1)
        first = torch.arange(0, n_latents, n_latents // self.largest, device=pre.device)
        return best.values, best.indices + first


def above_zero(acts: Tensor) -> Firing:
    """Every activation above 0 of activations [n, num_latents]."""
    row, latent = (acts > 0).nonzero(as_tuple=True)
    return row, latent, acts[row, latent]


def of_chosen(acts: Tensor, latents: Tensor) -> Firing:
    """Every activation above 0 of those of some latents of each row, [n, k], in any order."""
    ordered, order = latents.sort(dim=1)
    acts = acts.gather(1, order)
    row, column = (acts > 0).nonzero(as_tuple=True)
    return row, ordered[row, column], acts[row, column]


def in_slices(x: Tensor, width: int, firings: Callable[[Tensor], Firing]) -> Firing:
    """Firings of inputs [n, d], some rows at a time: memory does not grow with `width`.

    `width` is how many numbers `firings` makes of a row.
    """
    step = max(1, MAX_AT_ONCE // width)
    starts = range(0, max(1, x.shape[0]), step)
    parts = [(start, *firings(x[start : start + step])) for start in starts]
    return (
        torch.cat([row + start for start, row, _, _ in parts]),
        torch.cat([latent for _, _, latent, _ in parts]),
        torch.cat([act for _, _, _, act in parts]),
    )
