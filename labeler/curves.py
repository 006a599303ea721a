"""Firings and positions by predicted activation: where a label's firing threshold comes from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles, Floats

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
    def of(cls, predicted: Floats, fires: Bools, mean_act: Doubles) -> "FiringCurve":
        """Curve of predictions and firings, both [n_positions, n_latents]."""
        scale = mean_act.astype(np.float32)
        width = predicted.shape[1]
        bins = np.zeros(predicted.shape, dtype=np.int16)
        # Most cells predict next to nothing: they stay in bin 0.
        cell = np.flatnonzero(predicted > scale * np.float32(_LOWEST))
        column = cell % width
        bins.reshape(-1)[cell] = bin_of(predicted.reshape(-1)[cell], scale[column])
        size = N_BINS * width
        high = bins.reshape(-1)[cell].astype(np.int64) * width + column
        positions = np.bincount(high, minlength=size).reshape(N_BINS, width).astype(np.float64)
        positions[0] += len(predicted) - positions.sum(axis=0)
        row, column = np.nonzero(fires)
        hit = bins[row, column].astype(np.int64) * width + column
        firings = np.bincount(hit, minlength=size).reshape(N_BINS, width).astype(np.float64)
        return cls(scale, positions, firings)

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
