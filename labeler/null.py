"""What the same search finds where there is nothing to find: p-values and false discovery.

The activations are moved, as one piece, to other positions: documents are laid out in a random
order and everything shifts by a random offset along that line. A latent keeps its firing rate
and its autocorrelation; its alignment with tokens *and* with topics is gone. (A shift within
documents, as design.md first had it, keeps each document's rate, and with it any alignment with
topics: topics could then never be significant.)
"""

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.statistics import LatentFirings
from labeler.tokens import Tokens

NEIGHBOURS = 1000
"""Null draws, nearest in number of firings, that a latent is compared with."""


def shifted_positions(fit: Tokens, seed: int) -> npt.NDArray[np.int32]:
    """Where each position's activation goes, int32 [n_ctx * ctx_len]; -1 for padding.

    A permutation of the real positions: documents in random order, then one circular shift by
    at least a document and at most all but one.
    """
    rng = np.random.default_rng(seed)
    documents = rng.permutation(len(fit.doc_ids))
    context = np.argsort(documents[fit.doc], kind="stable")
    flat = (context[:, None] * fit.ctx_len + np.arange(fit.ctx_len))[fit.valid[context]]
    longest = int(np.bincount(fit.doc, weights=fit.length).max())
    low = min(longest, len(flat) // 3)
    offset = int(rng.integers(low, max(len(flat) - low, low + 1)))
    target = np.full(fit.ids.size, -1, dtype=np.int32)
    target[flat] = np.roll(flat, -offset)
    return target


def shift_firings(firings: LatentFirings, target: npt.NDArray[np.int32]) -> LatentFirings:
    """The same firings at other positions (unsorted within a latent)."""
    return LatentFirings(firings.first, firings.start, target[firings.position], firings.act)


def p_values(observed: Doubles, firings: Doubles, null: Doubles, null_firings: Doubles) -> Doubles:
    """Share of comparable null draws at least as large, with one added to both sides.

    Parameters
    ----------
    observed, firings : float64 [n_latents]
        Best score over function types, and number of firings.
    null, null_firings : float64 [n_draws]
        The same for shifted activations.

    Returns
    -------
    float64 [n_latents]
        In (0, 1]; at least 1 / (NEIGHBOURS + 1). A latent is compared with the NEIGHBOURS draws
        that have the most similar number of firings, because the score of noise grows with it.
    """
    order = np.argsort(null_firings, kind="stable")
    null, null_firings = null[order], null_firings[order]
    width = min(NEIGHBOURS, len(null))
    centre = np.searchsorted(null_firings, firings)
    begin = np.clip(centre - width // 2, 0, len(null) - width)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(null, width), axis=1)
    out = np.empty(len(observed))
    for index, (score, first) in enumerate(zip(observed, begin, strict=True)):
        beaten = width - np.searchsorted(windows[first], score, side="left")
        out[index] = (beaten + 1) / (width + 1)
    return out


def benjamini_hochberg(p: Doubles) -> Doubles:
    """Adjusted p-values (q-values): the false discovery rate at which each is accepted.

    Benjamini and Hochberg (1995), step-up; monotone in `p`, in (0, 1].
    """
    n = len(p)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * n / np.arange(1, n + 1)
    adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    out = np.empty(n)
    out[order] = np.minimum(adjusted, 1)
    return out
