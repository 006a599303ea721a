"""A hookpoint, its labels, and the text they are tried on: what every test reads."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.subject import Subject
from labeler.level import Nodes
from labeler.tokens import Tokens

_TRIED = 8
"""Latents of similar rate that are tried as partner."""

_SAME = 0.5
"""Share of the rarer label's calls from which two labels are too alike to control each other."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What the tests of a hookpoint read.

    Attributes
    ----------
    subject : Subject
    claims : Claims
    source : Tokens
        Contexts of the fit split: where keys are taken from.
    source_calls : TextFirings
        What the labels call there.
    heldout : Tokens
        Contexts that edits start from.
    firings : TextFirings
        True firings on `heldout`.
    calls : TextFirings
        What the labels call on `heldout`.
    latents : int64 [n]
        Latents under test, ascending; all have a label.
    partner : int64 [n_latents]
        Latent under test whose label is a latent's control; -1 where not under test.
    seed : int
    """

    subject: Subject
    claims: Claims
    source: Tokens
    source_calls: TextFirings
    heldout: Tokens
    firings: TextFirings
    calls: TextFirings
    latents: npt.NDArray[np.int64]
    partner: npt.NDArray[np.int64]
    seed: int

    @classmethod
    def make(
        cls,
        subject: Subject,
        claims: Claims,
        source: Tokens,
        heldout: Tokens,
        firings: TextFirings,
        latents: npt.NDArray[np.integer],
        *,
        seed: int,
        source_nodes: Mapping[str, Nodes] | None = None,
        heldout_nodes: Mapping[str, Nodes] | None = None,
    ) -> "Scene":
        """Run the labels on both texts and pair latents with their controls.

        Nodes are those of the texts in the labels' shared tree, where they are known already.
        """
        calls = claims.calls(heldout, heldout_nodes)
        tested = np.sort(np.asarray(latents, dtype=np.int64))
        return cls(
            subject,
            claims,
            source,
            claims.calls(source, source_nodes),
            heldout,
            firings,
            calls,
            tested,
            partners(calls, tested, seed),
            seed,
        )


def partners(
    calls: TextFirings, latents: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.int64]:
    """For each latent another one whose label calls about as often, int64 [n_latents].

    Among the nearest in rate the first whose label is not much the same: its calls and the
    latent's own share less than half of the rarer one's. What fires plays no part in it. -1 for
    latents not among `latents`, and where there is only one.
    """
    out = np.full(calls.n_latents, -1, dtype=np.int64)
    n = len(latents)
    if n < 2:
        return out
    rng = np.random.default_rng(seed)
    count = calls.count[latents]
    order = np.lexsort((rng.random(n), count))  # by rate, ties at random
    column = np.full(calls.n_latents, -1, dtype=np.int64)
    column[latents] = np.arange(n)
    mine = np.flatnonzero(column[calls.latent] >= 0)
    called = sparse.csc_matrix(
        (np.ones(len(mine), np.float32), (calls.position[mine], column[calls.latent[mine]])),
        shape=(calls.n_positions, n),
    )
    left = np.ones(n, dtype=bool)
    chosen = np.empty(n, dtype=np.int64)
    # The nearest above in rate and then the nearest below; the least alike if all are alike.
    offsets = [sign * step for step in range(1, min(_TRIED, n - 1) + 1) for sign in (1, -1)]
    least = np.full(n, np.inf)
    for offset in offsets:
        other = np.empty(n, dtype=np.int64)
        other[order] = np.roll(order, -offset)
        met = np.asarray(called.multiply(called[:, other]).sum(axis=0)).ravel()
        alike = met / np.maximum(np.minimum(count, count[other]), 1)
        better = left & (alike < least)
        chosen[better], least[better] = other[better], alike[better]
        left &= least >= _SAME
    out[latents] = latents[chosen]
    return out
