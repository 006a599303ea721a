"""Whose firings an explanation's words match, if not its own latent's."""

import numpy as np

from labeler.arrays import Longs
from labeler.eval.audit.measure import Held
from labeler.eval.audit.site import Site
from labeler.eval.audit.verdicts import GOOD, MIN_FIRINGS

FAR = 2.0
"""How many times its own latent's F1 another's must be."""

_MOST = 0.25
"""Share of the text beyond which a claim holds too often to belong to any one latent."""


def better_latent(site: Site, held: Held, f1: float) -> tuple[int, float] | None:
    """The column that the words match far better than their own, and its F1; None for none.

    Far better: F1 of at least `GOOD`, and `FAR` times that of their own latent. Only where all
    latents were watched on the same text.

    Parameters
    ----------
    site : Site
        All contexts of the ground.
    held : Held
        Where the claim holds.
    f1 : float
        F1 of the explanation's own latent.
    """
    tokens = int((held.last - held.first + 1).sum())
    if not tokens or tokens > _MOST * len(site.index):
        return None
    firings = site.ground.firings
    n = firings.n_latents
    occurrence = np.repeat(np.arange(len(held.first)), held.last - held.first + 1)
    token = _ranges(held.first, held.last)
    position = site.index.position[token]
    size = firings.start[position + 1] - firings.start[position]
    entry = _ranges(firings.start[position], firings.start[position + 1] - 1)
    latent = firings.latent[entry].astype(np.int64)
    # Sorted by hand: np.unique hashes, and is slow on numbers as regular as these.
    pairs = np.sort(np.repeat(occurrence, size) * n + latent)
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    precision = np.bincount(pairs % n, minlength=n) / len(held.first)
    fresh = np.diff(np.maximum.accumulate(position), prepend=-1) > 0
    covered = np.repeat(fresh, size)
    mass = np.bincount(latent[covered], weights=firings.act[entry[covered]], minlength=n)
    count, total = site.everywhere
    recall = mass / np.maximum(total, 1e-30)
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-30)
    scores[count < MIN_FIRINGS] = 0
    found = int(scores.argmax())
    if scores[found] < max(GOOD, FAR * f1):
        return None
    return found, float(scores[found])


def _ranges(first: Longs, last: Longs) -> Longs:
    """All numbers of each range, ends included, one range after the other."""
    size = last - first + 1
    start = np.cumsum(size) - size
    ranges: Longs = np.arange(int(size.sum())) - np.repeat(start, size) + np.repeat(first, size)
    return ranges
