"""Firings and positions by predicted activation: where a label's firing threshold comes from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles, Floats
from labeler.rowsums import Chunk

BINS_PER_OCTAVE = 6
"""Thresholds tried per doubling of the predicted activation."""

N_BINS = 8 * BINS_PER_OCTAVE
"""Bins from 1/64 of a latent's mean activation to 4 times it; bin 0 holds all below."""

_LOWEST = 1 / 64


@dataclass(frozen=True, eq=False)
class FiringCurve:
    """How many positions, and how many true firings, have a prediction in each bin.

    Attributes
    ----------
    scale : float32 [n_latents]
        The latent's mean activation where it fires.
    positions, firings : float64 [N_BINS, n_latents]
        Counts per bin of prediction / scale; bin 0 is never called firing.
    """

    scale: Floats
    positions: Doubles
    firings: Doubles

    @classmethod
    def empty(cls, mean_act: Doubles) -> "FiringCurve":
        """No positions yet."""
        shape = (N_BINS, len(mean_act))
        return cls(mean_act.astype(np.float32), np.zeros(shape), np.zeros(shape))

    @classmethod
    def at_base_rate(
        cls, mean: Floats, n_fold: Doubles, count: Doubles, mean_act: Doubles
    ) -> "FiringCurve":
        """Every position at its fold's base rate, [n_folds, n_latents]."""
        curve = cls.empty(mean_act)
        bins = bin_of(mean, curve.scale)
        column = np.arange(mean.shape[1])
        for fold, row in enumerate(bins):
            curve.positions[row, column] += n_fold[fold]
            curve.firings[row, column] += count[fold]
        return curve

    def plus(self, other: "FiringCurve") -> "FiringCurve":
        """Sum of two curves of the same latents."""
        return FiringCurve(
            self.scale, self.positions + other.positions, self.firings + other.firings
        )

    def move(self, chunk: Chunk, before: Floats, after: Floats) -> None:
        """Move a chunk's positions from one prediction to another, float32 [n, n_latents]."""
        width = len(self.scale)
        count = np.zeros(before.size, dtype=np.float32)
        count[chunk.cell] = chunk.count_in
        floor = self.scale * np.float32(_LOWEST)
        # Most cells predict next to nothing before and after: they stay in bin 0.
        cell = np.flatnonzero((before > floor) | (after > floor))
        row, column = np.divmod(cell, width)
        scale = self.scale[column]
        n, fired = chunk.n_in[row, 0], count[cell]
        for values, sign in ((before, -1.0), (after, 1.0)):
            where = bin_of(values.reshape(-1)[cell], scale).astype(np.int64) * width + column
            size = N_BINS * width
            shape = self.positions.shape
            self.positions[:] += sign * np.bincount(where, n, size).reshape(shape)
            self.firings[:] += sign * np.bincount(where, fired, size).reshape(shape)

    def best(self) -> tuple[Doubles, Doubles]:
        """Highest F1 over thresholds, and the threshold on the activation, each [n_latents].

        The true firings include those in bin 0, so that recall counts every firing.
        """
        called = self.positions[::-1].cumsum(axis=0)[::-1]
        hit = self.firings[::-1].cumsum(axis=0)[::-1]
        f1 = 2 * hit / np.maximum(called + hit[0], 1e-12)
        best = f1[1:].argmax(axis=0) + 1
        threshold = self.scale * _LOWEST * 2.0 ** ((best - 1) / BINS_PER_OCTAVE)
        return f1[best, np.arange(f1.shape[1])], threshold


def bin_of(values: Floats, scale: Floats) -> npt.NDArray[np.int64]:
    """Bin of each prediction: 0 at or below scale / 64, then BINS_PER_OCTAVE per doubling."""
    ratio = np.maximum(values / scale, 1e-30) * np.float32(1 / _LOWEST)
    octave = np.floor(np.log2(ratio) * BINS_PER_OCTAVE).astype(np.int64) + 1
    bins: npt.NDArray[np.int64] = np.clip(octave, 0, N_BINS - 1)
    return bins
