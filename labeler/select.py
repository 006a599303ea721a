"""Which keys a label of few keys keeps, and what it predicts on them.

A label with kept entries predicts, at each position, the value of its deepest kept entry there,
and its default where none matches. Each value is the mean of what is *left* at the entry once
the deeper kept entries have taken theirs (exclusive mean), so keeping an entry changes the
value of the one above it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles, Floats
from labeler.entries import Entries, Pool

SCHEDULE = (0.06, 0.12, 0.18, 0.25, 0.32, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0)
"""Share of the budget kept after each round; every round ranks all entries anew."""

_APART = 1e-5
"""Relative difference of two predictions that no threshold parts: float32 sums may swap them."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The kept entries of a block of latents and what they predict.

    Attributes
    ----------
    entries : Entries
        The kept ones.
    value : float64 [n]
        Exclusive mean of each.
    n_left, count_left : float64 [n]
        Positions and firings left to each.
    default : float64 [n_latents]
        Mean where no kept entry matches.
    n_default, count_default : float64 [n_latents]
        Positions and firings there.
    saved : float64 [n_latents]
        Squared error saved over the mean alone, as out-of-fold trust estimates it.
    """

    entries: Entries
    value: Doubles
    n_left: Doubles
    count_left: Doubles
    default: Doubles
    n_default: Doubles
    count_default: Doubles
    saved: Doubles

    def thresholds(self) -> tuple[Doubles, Doubles]:
        """Threshold of highest F1 on the fit split, and that F1, each float64 [n_latents].

        The label says "fires" where it predicts at least the threshold. In sample: a label of a
        hundred keys fitted on a million positions has next to no room to overfit.
        """
        n_latents = len(self.default)
        latent = np.concatenate([self.entries.latent, np.arange(n_latents)])
        value = np.concatenate([self.value, self.default])
        n = np.concatenate([self.n_left, self.n_default])
        count = np.concatenate([self.count_left, self.count_default])
        order = np.lexsort((-value, latent))
        latent, value = latent[order], value[order]
        first = np.searchsorted(latent, np.arange(n_latents))

        def running(values: Doubles) -> Doubles:
            total: Doubles = np.cumsum(values[order])
            before: Doubles = total[first] - values[order][first]
            since: Doubles = total - before[latent]
            return since

        called, hit = running(n), running(count)
        all_firings = np.bincount(latent, weights=count[order], minlength=n_latents)
        f1 = 2 * hit / np.maximum(called + all_firings[latent], 1e-12)
        # Entries of the same value are called together: a threshold lies below the last of them.
        last = np.append(latent[1:] != latent[:-1], True)
        below = np.where(last, 0, np.append(value[1:], 0))
        tied = ~last & (value - below <= _APART * value)
        best = np.lexsort((-np.where(tied, -1, f1), latent))[first]
        # Halfway to the next lower value, so that rounding cannot move an entry across.
        return (value[best] + below[best]) / 2, f1[best]


def choose(
    pool: Pool,
    budget: int,
    n_positions: float,
    totals: Doubles,
    counts: Doubles,
    lam: float,
    worth: Doubles,
) -> Chosen:
    """Keep at most `budget` entries per latent, those that save the most squared error.

    Parameters
    ----------
    pool : Pool
    budget : int
        Keys per label, >= 1.
    n_positions : float
        Positions of the fit split.
    totals, counts : float64 [n_latents]
        Sum of acts and number of firings over the fit split.
    lam : float
        Positions that the prediction above counts for in each value.
    worth : float64 [n_latents]
        Squared error that an entry must save, given the others, to be kept.

    Notes
    -----
    The error saved by splitting a group of n positions and mean m into parts (n1, m1) and
    (n2, m2) is n1 n2 / n * (m1 - m2)^2; it is multiplied by the entry's out-of-fold trust.
    Entries are added and replaced in rounds; the round that saved most, less what its entries must
    be worth, counts, latent by latent.
    """
    latent = pool.entries.latent
    kept = np.zeros(len(pool.entries), dtype=bool)
    best, saved = kept, np.zeros(len(totals))
    for share in SCHEDULE:
        score = _scores(pool, kept, n_positions, totals, lam) - worth[latent]
        kept = _top(latent, _ranked(pool, kept, score), max(1, round(share * budget)))
        cost = worth * np.bincount(latent[kept], minlength=len(totals))
        found = _chosen(pool, kept, n_positions, totals, counts, lam).saved - cost
        best = np.where((found > saved)[latent], kept, best)
        saved = np.maximum(found, saved)
    return _chosen(pool, best, n_positions, totals, counts, lam)


def _ranked(pool: Pool, kept: npt.NDArray[np.bool_], score: Doubles) -> Doubles:
    """Scores by which entries compete for the next round's places; float64 [n], <= 0 = none.

    Entries at the same positions, one above the other, save much of the same error: of such a
    chain only the best enters in one round and only the weakest can leave; of equals the coarser
    is kept.
    """
    above, below = _along_chain(pool, np.where(kept, -np.inf, score), np.maximum, -np.inf)
    waits = ~kept & ((score <= above) | (score < below))
    above, below = _along_chain(pool, np.where(kept, score, np.inf), np.minimum, np.inf)
    stays = kept & ((score > above) | (score >= below))
    return np.where(stays, np.inf, np.where(waits, -np.inf, score))


def _along_chain(
    pool: Pool, values: Doubles, extreme: np.ufunc, empty: float
) -> tuple[Doubles, Doubles]:
    """The extreme value of the entries above each entry, and of those below it."""
    up, down = np.full(len(values), empty), np.full(len(values), empty)
    for above in pool.above:
        has = np.flatnonzero(above >= 0)
        up[has] = extreme(up[has], values[above[has]])
        extreme.at(down, above[has], values[has])
    return up, down


def _nearest_kept(pool: Pool, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Nearest kept entry strictly above each entry; -1 = the default."""
    nearest = np.full(len(kept), -1, dtype=np.int64)
    for above in pool.above[::-1]:
        hit = (above >= 0) & kept[above]
        nearest[hit] = above[hit]
    return nearest


@dataclass(frozen=True, eq=False)
class _Left:
    """What is left to each entry, and to each latent's default, once kept entries took theirs."""

    nearest: npt.NDArray[np.int64]
    n: Doubles
    total: Doubles
    count: Doubles
    default_n: Doubles
    default_total: Doubles
    default_count: Doubles


def _left(
    pool: Pool,
    kept: npt.NDArray[np.bool_],
    n_positions: float,
    totals: Doubles,
    counts: Doubles,
) -> _Left:
    e = pool.entries
    nearest = _nearest_kept(pool, kept)
    sums = {"n": e.n, "total": e.total, "count": e.count}
    left: dict[str, Doubles] = {name: values.astype(np.float64) for name, values in sums.items()}
    taker = np.flatnonzero(kept)
    # A kept entry takes its positions from the nearest kept entry above it, and from the entries
    # in between, which would lose them too if they were kept.
    open_ = np.ones(len(taker), dtype=bool)
    for above in pool.above:
        owner = above[taker]
        take = open_ & (owner >= 0)
        for name, values in left.items():
            source = sums[name][taker[take]]
            np.subtract.at(values, owner[take], source)
        open_ &= ~(take & kept[owner])
    free = taker[nearest[taker] < 0]
    width = len(totals)

    def rest(whole: Doubles | float, taken: Floats) -> Doubles:
        gone = np.bincount(e.latent[free], weights=taken[free], minlength=width)
        return np.subtract(whole, gone)

    return _Left(
        nearest,
        left["n"],
        left["total"],
        left["count"],
        rest(n_positions, e.n),
        rest(totals, e.total),
        rest(counts, e.count),
    )


def _scores(
    pool: Pool,
    kept: npt.NDArray[np.bool_],
    n_positions: float,
    totals: Doubles,
    lam: float,
) -> Doubles:
    """Error saved by keeping each entry, given the others kept now; float64 [n]."""
    e = pool.entries
    left = _left(pool, kept, n_positions, totals, totals)
    has_kept = left.nearest >= 0
    n_up = np.where(has_kept, left.n[left.nearest], left.default_n[e.latent])
    total_up = np.where(has_kept, left.total[left.nearest], left.default_total[e.latent])
    # For an entry not kept, what is above still holds its positions; for a kept one it does not.
    n_rest = np.where(kept, n_up, n_up - left.n)
    total_rest = np.where(kept, total_up, total_up - left.total)
    n, n_rest = np.maximum(left.n, 0), np.maximum(n_rest, 0)
    difference = left.total / np.maximum(n, 1) - total_rest / np.maximum(n_rest, 1)
    saved = n * n_rest / np.maximum(n + n_rest, 1) * difference**2
    # A value shrunk by lam reaches only part of the saving.
    pull = n / (n + lam)
    trusted: Doubles = saved * (2 * pull - pull**2) * e.trust
    return trusted


def _top(latent: npt.NDArray[np.int32], score: Doubles, budget: int) -> npt.NDArray[np.bool_]:
    """The `budget` best-scoring entries of each latent with a score above 0."""
    order = np.lexsort((-score, latent))
    sorted_latent = latent[order]
    first = np.searchsorted(sorted_latent, sorted_latent)
    rank = np.arange(len(order)) - first
    kept = np.zeros(len(order), dtype=bool)
    kept[order[(rank < budget) & (score[order] > 0)]] = True
    return kept


def _chosen(
    pool: Pool,
    kept: npt.NDArray[np.bool_],
    n_positions: float,
    totals: Doubles,
    counts: Doubles,
    lam: float,
) -> Chosen:
    e = pool.entries
    left = _left(pool, kept, n_positions, totals, counts)
    default = left.default_total / np.maximum(left.default_n, 1)
    value = np.zeros(len(e))
    for level in range(len(pool.above) + 1):
        at = np.flatnonzero(kept & (e.level == level))
        up = np.where(left.nearest[at] >= 0, value[left.nearest[at]], default[e.latent[at]])
        value[at] = (np.maximum(left.total[at], 0) + lam * up) / (np.maximum(left.n[at], 0) + lam)
    index = np.flatnonzero(kept)
    return Chosen(
        e.take(index),
        value[index],
        np.maximum(left.n[index], 0),
        np.maximum(left.count[index], 0),
        np.maximum(default, 0),
        left.default_n,
        left.default_count,
        _saved(e, left, index, totals, n_positions, lam),
    )


def _saved(
    e: Entries,
    left: _Left,
    kept: npt.NDArray[np.integer],
    totals: Doubles,
    n_positions: float,
    lam: float,
) -> Doubles:
    """Squared error that the kept entries save over the mean alone, float64 [n_latents].

    Variance between groups adds up over a tree: that of an entry's parts (the kept entries just
    below it, and what is left to it) about its own mean, summed over entries, the default as the
    root included. Of each such sum, the share that the parts' trust promises counts.
    """
    width, owner = len(totals), left.nearest[kept]
    # Owners: kept entries by their index, then the defaults by latent.
    owner = np.where(owner >= 0, owner, len(e) + e.latent[kept])
    whole = np.concatenate([e.total / np.maximum(e.n, 1), totals / n_positions])
    rest_n = np.concatenate([left.n, left.default_n])
    rest = np.concatenate([left.total, left.default_total]) / np.maximum(rest_n, 1)
    between = e.n[kept] * (whole[kept] - whole[owner]) ** 2
    pull = left.n[kept] / (np.maximum(left.n[kept], 0) + lam)
    trust = e.trust[kept] * (2 * pull - pull**2)
    of_parts = np.bincount(owner, between, len(whole))
    trusted = np.bincount(owner, between * trust, len(whole))
    of_rest = np.maximum(rest_n, 0) * (rest - whole) ** 2
    saved = trusted * (1 + of_rest / np.maximum(of_parts, 1e-30))
    latent = np.concatenate([e.latent, np.arange(width)])
    return np.bincount(latent, saved, width).astype(np.float64)
