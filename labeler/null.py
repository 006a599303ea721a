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

TAIL = 0.1
"""Share of the null draws, the largest, that the tail beyond them is fitted to."""


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


def dispersion(fit: Tokens, firings: LatentFirings) -> Doubles:
    """How much more firings vary between documents than independent ones; float64 [n_latents].

    Pearson's chi-squared of the counts per document over its degrees of freedom, at least 1.
    Bits are log-likelihood ratios of independent positions; a latent that fires in bursts gains
    and loses whole documents by chance, so its bits are divided by this, as quasi-likelihood
    does (McCullagh and Nelder, Generalized Linear Models, 1989, section 4.5). Then the null is
    much the same for all latents, rare or frequent, steady or bursty.
    """
    width = firings.n_latents
    documents, document = np.unique(fit.doc, return_inverse=True)
    length = np.bincount(document, weights=fit.length)[:, None]
    cell = document[firings.position // fit.ctx_len] * width + firings.column
    count = np.bincount(cell, minlength=len(documents) * width).reshape(-1, width)
    expected = length * (count.sum(axis=0) / length.sum())
    chi2 = ((count - expected) ** 2 / np.maximum(expected, 1e-12)).sum(axis=0)
    ratio: Doubles = np.maximum(chi2 / max(len(documents) - 1, 1), 1.0)
    return ratio


def p_values(observed: Doubles, null: Doubles) -> Doubles:
    """Chance of a null draw at least as large.

    Parameters
    ----------
    observed : float64 [n_latents]
        Best bits over function types, over the latent's dispersion.
    null : float64 [n_draws]
        The same for shifted activations.

    Returns
    -------
    float64 [n_latents]
        In (0, 1]. The share of draws, with one added to both sides; beyond the largest TAIL of
        them, an exponential tail fitted to those, as a log-likelihood ratio of b bits has a
        chance of at most 2^-b under the null. A share alone could never be small enough to
        survive the correction for many latents where few have anything to find.
    """
    null = np.sort(null)
    n = len(null)
    beaten = n - np.searchsorted(null, observed, side="left")
    share = (beaten + 1) / (n + 1)
    largest = null[n - max(int(TAIL * n), 1) :]
    edge = largest[0]
    scale = max(float((largest - edge).mean()), 1e-12)
    tail = (len(largest) + 1) / (n + 1) * np.exp(-np.maximum(observed - edge, 0) / scale)
    p: Doubles = np.where(observed > edge, np.maximum(tail, beaten / (n + 1)), share)
    return np.maximum(p, np.finfo(np.float64).tiny)


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
