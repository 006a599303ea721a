"""Intervals by resampling documents, which are the independent units of a corpus."""

import numpy as np

from labeler.arrays import Doubles

RESAMPLES = 500
LEVEL = 0.95


def document_weights(n_documents: int, seed: int, n: int = RESAMPLES) -> Doubles:
    """How often each document is drawn in each resample, float64 [n, n_documents]."""
    rng = np.random.default_rng(seed)
    share = np.full(n_documents, 1 / max(n_documents, 1))
    return rng.multinomial(n_documents, share, size=n).astype(np.float64)


def interval(samples: Doubles, level: float = LEVEL) -> tuple[Doubles, Doubles]:
    """Percentile interval over the first axis; NaN samples (nothing drawn) are left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def mean_interval(
    values: Doubles, seed: int
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Mean over labels or latents, each counted once, and its interval; None where there are none.

    They share text, so that they are not quite the independent units that this takes them for.
    """
    if not len(values):
        return None, None, None
    low, high = interval(document_weights(len(values), seed) @ values / len(values))
    return float(values.mean()), float(low), float(high)
