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
