"""Maps from what a label predicts to what its latent does, fitted on the fit split.

Quantile normalisation sends a latent's predictions to its activations rank by rank: the r-th
largest prediction becomes the r-th largest activation. Predictions that are equal get the mean of
the activations of their ranks, so that the map is one value to one value, never falls, and keeps
the latent's mean. A prediction of zero that most positions share therefore maps to about zero, and
a label that says the same everywhere to its latent's mean, neither to the largest activation.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats


@dataclass(frozen=True, eq=False)
class QuantileMap:
    """A monotone map for each latent, by its corners.

    Below a latent's first corner it is 0, between corners straight, above the last one level.

    Attributes
    ----------
    start : int64 [n_latents + 1]
        Where each latent's corners begin.
    said, meant : float32 [n_corners]
        Prediction, ascending within a latent, and the activation that it becomes.
    """

    start: npt.NDArray[np.int64]
    said: Floats
    meant: Floats

    @classmethod
    def fit(cls, predicted: Floats, act: Floats) -> "QuantileMap":
        """From predictions and activations at the same positions, float32 [n, n_latents]."""
        # Latent by latent in memory: columns of many rows are slow to sort.
        columns = np.ascontiguousarray(predicted.T), np.ascontiguousarray(act.T)
        corners = [_corners(*pair) for pair in zip(*columns, strict=True)]
        counts = [len(said) for said, _ in corners]
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([said for said, _ in corners]),
            np.concatenate([meant for _, meant in corners]),
        )

    def apply(self, predicted: Floats) -> Floats:
        """What the predictions become, float32 [n, n_latents]."""
        out = np.zeros_like(predicted)
        for latent, (low, high) in enumerate(zip(self.start[:-1], self.start[1:], strict=True)):
            if low == high:
                continue
            said = self.said[low:high]
            at = np.flatnonzero(predicted[:, latent] >= said[0])
            out[at, latent] = np.interp(predicted[at, latent], said, self.meant[low:high])
        return out


def _corners(predicted: Floats, act: Floats) -> tuple[Floats, Floats]:
    """Distinct predictions that become more than 0, and what they become."""
    fires = np.sort(act[act > 0])[::-1].astype(np.float64)
    if not len(fires):
        return predicted[:0], act[:0]
    # Only as many of the largest predictions as there are firings become more than 0.
    cut = len(predicted) - len(fires)
    lowest = np.partition(predicted, cut)[cut]
    said, counts = np.unique(predicted[predicted >= lowest], return_counts=True)
    bounds = np.minimum(np.concatenate([[0], np.cumsum(counts[::-1])]), len(fires))
    sums = np.diff(np.concatenate([[0.0], np.cumsum(fires)])[bounds])[::-1]
    return said, (sums / counts).astype(np.float32)


def least_squares_scale(predicted: Floats, act: Floats) -> Floats:
    """E[s a] / E[s^2] of each latent, float32 [n_latents]; 1 where nothing is ever predicted.

    The factor that brings predictions s closest to activations a, both float32 [n, n_latents].
    """
    product = np.einsum("ij,ij->j", predicted, act, dtype=np.float64)
    square = np.einsum("ij,ij->j", predicted, predicted, dtype=np.float64)
    scale = np.divide(product, square, out=np.ones_like(product), where=square > 0)
    out: Floats = scale.astype(np.float32)
    return out
