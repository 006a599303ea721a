"""Share of live latents that are explained, with its interval over documents."""

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.eval.bootstrap import interval

LEVELS = (0.5, 0.7)
"""Firing F1 on held-out text from which a latent counts as explained."""


def explained(
    f1: Doubles,
    resampled: Doubles,
    live: npt.NDArray[np.bool_],
    labeled: npt.NDArray[np.bool_],
    level: float,
) -> dict[str, float]:
    """Share of live latents with a label of at least this F1.

    Parameters
    ----------
    f1 : float64 [n_latents]
        On held-out text at the natural base rate, at the label's own threshold.
    resampled : float64 [n_resamples, n_latents]
        The same on resampled documents.
    live, labeled : bool [n_latents]
        A latent without a label (abstained at the false-discovery rate) is not explained.
    level : float

    Returns
    -------
    dict
        share, low, high (95% over documents, centred on the share); 0 where no latent is live.
    """
    if not live.any():
        return {"share": 0.0, "low": 0.0, "high": 0.0}
    share = (f1 >= level)[live & labeled].sum() / live.sum()
    samples = (resampled[:, live & labeled] >= level).sum(axis=1) / live.sum()
    # Resampling adds noise to every F1 and moves latents near the level across it, more of them to
    # the thinner side: the samples' width is right, their centre is not.
    low, high = interval(samples - np.median(samples) + share)
    return {"share": float(share), "low": max(float(low), 0.0), "high": min(float(high), 1.0)}
