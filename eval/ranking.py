"""Ranking scores of many latents at once, from histograms of their predictions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles, Floats

_SHIFT = 20
"""Low bits dropped from a float32: what stays orders predictions to within one part in 8."""

_LOWEST = np.float32(2.0**-20)
_BASE = int(np.array(_LOWEST).view(np.int32)) >> _SHIFT
N_BINS = (int(np.array(np.float32(2.0**12)).view(np.int32)) >> _SHIFT) - _BASE + 1


@dataclass(frozen=True, eq=False)
class RankHistogram:
    """Positions and firings per bin of prediction, higher bins for higher predictions.

    Attributes
    ----------
    positions, firings : float64 [N_BINS, n_latents]
    """

    positions: Doubles
    firings: Doubles

    @classmethod
    def empty(cls, n_latents: int) -> "RankHistogram":
        """No positions yet."""
        return cls(np.zeros((N_BINS, n_latents)), np.zeros((N_BINS, n_latents)))

    def add(self, predicted: Floats, fires: npt.NDArray[np.bool_]) -> None:
        """Count positions, predicted and true, each [n, n_latents]."""
        width = predicted.shape[1]
        bits = np.clip(predicted, _LOWEST, np.float32(2.0**12)).view(np.int32)
        cell = ((bits >> _SHIFT) - _BASE).astype(np.int64) * width + np.arange(width)
        shape = (N_BINS, width)
        self.positions[:] += np.bincount(cell.ravel(), minlength=N_BINS * width).reshape(shape)
        hit = cell[fires]
        self.firings[:] += np.bincount(hit, minlength=N_BINS * width).reshape(shape)

    def auroc(self) -> Doubles:
        """Chance that a firing position is predicted above a silent one, ties half.

        Predictions within one part in 8 of each other count as ties. NaN where a latent always or
        never fires.
        """
        silent = self.positions - self.firings
        below = np.cumsum(silent, axis=0) - silent
        won = (self.firings * (below + 0.5 * silent)).sum(axis=0)
        pairs = self.firings.sum(axis=0) * silent.sum(axis=0)
        return ratio(won, pairs)

    def average_precision(self) -> Doubles:
        """Mean over firings of the precision at their bin or above; NaN where none fires.

        Within a bin the precision is that of the whole bin and those above (ties together).
        """
        called = np.cumsum(self.positions[::-1], axis=0)[::-1]
        hit = np.cumsum(self.firings[::-1], axis=0)[::-1]
        precision = hit / np.maximum(called, 1)
        total = self.firings.sum(axis=0)
        area = (self.firings * precision).sum(axis=0)
        return ratio(area, total)


def ratio(above: Doubles, below: Doubles) -> Doubles:
    """Quotient, NaN where the denominator is 0 (the arrays broadcast)."""
    above, below = np.broadcast_arrays(above, below)
    out: Doubles = np.full(above.shape, np.nan)
    np.divide(above, below, out=out, where=below > 1e-12)
    return out
