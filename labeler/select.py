"""Which keys a short label keeps, and how much each adds.

A short label predicts its default plus the weights of those of its keys that apply. Keys of any
types compete: tokens, words, topics, exceptions (a negative weight on a key under another one).
Weights are a ridge regression on the keys' indicators over the whole fit split. It needs only
sums: how often a key occurs, how much the latent fires there, and how often two keys meet.

Keys enter one by one, each time the one that saves most squared error given those kept so far:
forward selection, as orthogonal least squares does it (Chen, Billings and Luo, Int. J. Control
50, 1989), here on the Gram matrix of centred indicators by a pivoted Cholesky factorisation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.entries import Entries
from labeler.keytree import KeyTree
from labeler.overlap import Overlaps

CANDIDATES = 400
"""Keys per latent that compete for a place."""

LEVELS = 10
"""Levels per latent they come from: those whose keys save most."""

RIDGE = 2.0
"""Positions at weight zero that each key's own count for."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The candidates of a block of latents, padded to the same number.

    Attributes
    ----------
    index : int64 [n_latents, m]
        Rows of the entries they were taken from, best first; -1 = none.
    entries : Entries
    """

    index: npt.NDArray[np.int64]
    entries: Entries

    @classmethod
    def make(cls, entries: Entries, n_latents: int, n_levels: int) -> "Pool":
        """Keep each latent's best keys, from the levels that serve it best."""
        strength = np.bincount(
            entries.latent.astype(np.int64) * n_levels + entries.level,
            weights=_head(entries),
            minlength=n_latents * n_levels,
        ).reshape(n_latents, n_levels)
        if n_levels > LEVELS:
            least = np.partition(strength, -LEVELS, axis=1)[:, -LEVELS]
            serves = strength >= np.maximum(least, 1e-30)[:, None]
            allowed = np.flatnonzero(serves[entries.latent, entries.level])
        else:
            allowed = np.arange(len(entries))
        order, rank = _ranked(entries.latent[allowed], entries.gain[allowed])
        order, rank = allowed[order[rank < CANDIDATES]], rank[rank < CANDIDATES]
        index = np.full((n_latents, CANDIDATES), -1, dtype=np.int64)
        index[entries.latent[order], rank] = order
        used = max(int(rank.max(initial=-1)) + 1, 1)
        return cls(index[:, :used], entries)

    def padded(self, values: npt.NDArray[np.generic]) -> Doubles:
        """A column of the entries, float64 [n_latents, m]; 0 where there is none."""
        out: Doubles = np.where(self.index >= 0, np.append(values, 0)[self.index], 0)
        return out.astype(np.float64)


def _ranked(
    latent: npt.NDArray[np.int32], gain: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Order by latent, then by falling gain; and each one's rank in its latent."""
    order = np.lexsort((-gain, latent))
    ordered = latent[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order, rank


def _head(entries: Entries) -> Doubles:
    """Gains of the keys that could find a place in a label of CANDIDATES; 0 of the rest."""
    order, rank = _ranked(
        entries.latent.astype(np.int64) * (int(entries.level.max(initial=0)) + 1) + entries.level,
        entries.gain,
    )
    gain = np.zeros(len(entries))
    head = order[rank < CANDIDATES // 2]
    gain[head] = entries.gain[head]
    return gain


@dataclass(frozen=True, eq=False)
class Chosen:
    """The keys kept for a block of latents, in the order they were chosen.

    Attributes
    ----------
    entries : Entries
        Sorted by latent, then by rank.
    rank : int64 [n]
        0 for a latent's first key.
    gram : float64 [n_latents, k, k]
        Centred, with the ridge, in order of rank; the identity where there is no key.
    moment : float64 [n_latents, k]
        Centred sums of acts.
    """

    entries: Entries
    rank: npt.NDArray[np.int64]
    gram: Doubles
    moment: Doubles

    def weights(self, budget: int) -> Doubles:
        """Ridge weights of the first `budget` keys, float64 [n_latents, k]; 0 for the rest."""
        k = min(budget, self.moment.shape[1])
        out = np.zeros_like(self.moment)
        if k:
            solved = np.linalg.solve(self.gram[:, :k, :k], self.moment[:, :k, None])
            out[:, :k] = solved[:, :, 0]
        return out


def choose(
    tree: KeyTree,
    overlaps: Overlaps,
    entries: Entries,
    budget: int,
    n_positions: float,
    totals: Doubles,
    worth: Mapping[str, Doubles],
) -> Chosen:
    """Keep at most `budget` keys per latent, those that save the most squared error.

    Parameters
    ----------
    tree : KeyTree
    overlaps : Overlaps
        Of the fit split.
    entries : Entries
        Candidates of all levels.
    budget : int
        Keys per label, >= 1.
    n_positions : float
        Positions of the fit split.
    totals : float64 [n_latents]
        Sum of acts over the fit split.
    worth : mapping of str to float64 [n_latents]
        By level, the squared error that a key must save, given the others, to be kept.
    """
    names = list(tree.levels)
    n_latents = len(totals)
    pool = Pool.make(entries, n_latents, len(names))
    there = pool.index >= 0
    n, total = pool.padded(entries.n), pool.padded(entries.total)
    gram = _gram(pool, overlaps, names)
    gram -= n[:, :, None] * n[:, None, :] / n_positions
    moment = total - n * (totals / n_positions)[:, None]
    diagonal = np.einsum("jii->ji", gram)
    diagonal += RIDGE
    trust = pool.padded(entries.trust)
    by_level = np.stack([worth[name] for name in names])
    level = pool.padded(entries.level).astype(np.int64)
    price = by_level[level, np.arange(n_latents)[:, None]]
    order = _forward(gram, moment, there, trust, price, min(budget, pool.index.shape[1]))
    kept = order >= 0
    latent = np.arange(n_latents)[:, None]
    at = np.maximum(order, 0)
    small = gram[latent[:, :, None], at[:, :, None], at[:, None, :]]
    both = kept[:, :, None] & kept[:, None, :]
    small = np.where(both, small, np.eye(order.shape[1]))
    rows = pool.index[latent, at]
    rank = np.broadcast_to(np.arange(order.shape[1]), order.shape)
    return Chosen(
        entries.take(rows[kept]), rank[kept], small, np.where(kept, moment[latent, at], 0.0)
    )


def _gram(pool: Pool, overlaps: Overlaps, names: Sequence[str]) -> Doubles:
    """How often each two candidates of a latent meet, float64 [n_latents, m, m]."""
    n_latents, m = pool.index.shape
    gram = np.zeros((n_latents, m, m))
    levels, nodes = pool.entries.level, pool.entries.node
    for latent in range(n_latents):
        rows = pool.index[latent][pool.index[latent] >= 0]
        present, where = np.unique(levels[rows], return_inverse=True)
        places = [np.flatnonzero(where == group) for group in range(len(present))]
        for i, a in enumerate(places):
            for k in range(i, len(places)):
                b = places[k]
                shared = overlaps.grid(
                    names[present[i]], nodes[rows[a]], names[present[k]], nodes[rows[b]]
                )
                gram[latent, a[:, None], b[None, :]] = shared
                gram[latent, b[:, None], a[None, :]] = shared.T
    return gram


def _forward(
    gram: Doubles,
    moment: Doubles,
    there: npt.NDArray[np.bool_],
    trust: Doubles,
    price: Doubles,
    budget: int,
) -> npt.NDArray[np.int64]:
    """Candidates in the order they are chosen, int64 [n_latents, budget]; -1 = none pays.

    After k choices, `left` is the diagonal of the Gram matrix and `pull` the moments, both given
    the chosen ones; `factor` holds the first k rows of the pivoted Cholesky factor.
    """
    n_latents, m = moment.shape
    latent = np.arange(n_latents)
    left = np.einsum("jii->ji", gram).copy()
    pull = moment.copy()
    open_ = there.copy()
    factor = np.zeros((n_latents, budget, m))
    order = np.full((n_latents, budget), -1, dtype=np.int64)
    for step in range(budget):
        saves = pull**2 / np.maximum(left, RIDGE) * trust - price
        saves[~open_] = -1
        best = saves.argmax(axis=1)
        pays = saves[latent, best] > 0
        if not pays.any():
            break
        order[pays, step] = best[pays]
        known = factor[:, :step]
        row = gram[latent, best] - np.einsum("jk,jkm->jm", known[latent, :, best], known)
        row /= np.sqrt(np.maximum(left[latent, best], RIDGE))[:, None]
        row[~pays] = 0
        factor[:, step] = row
        pull -= row * (pull[latent, best] / np.sqrt(np.maximum(left[latent, best], RIDGE)))[:, None]
        left -= row**2
        open_[latent, best] = False
        open_[~pays] = False
    return order
