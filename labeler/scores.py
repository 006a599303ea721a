"""Out-of-fold scores of every function type for a block of latents, from sums alone.

With node κ of latent j and fold f, and everything with a superscript −f summed over the other
folds (docs/design.md, section 6):

    mu  = (S^-f + lam * mu_parent) / (n^-f + lam)           expected activation
    p   = (k^-f + nu * p_parent)  / (n^-f + nu)             firing probability
    SSE = sum over f, κ of  Q_f - 2 mu S_f + n_f mu^2
    bits = sum over f, κ of k_f log2(p / p_base) + (n_f - k_f) log2((1 - p) / (1 - p_base))

Each level's score is its parent's plus what its rows change, so that a position without a key, or
with a key unseen outside its fold, counts as its parent predicts it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles, Floats
from labeler.entries import Entries
from labeler.keytree import KeyTree
from labeler.rowsums import RowSums
from labeler.statistics import LatentFirings, Rows, sums_by_fold
from labeler.tokens import N_FOLDS, Tokens

SHRINKAGE_GRID = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Pseudo-positions of the parent that are tried."""


WEIGHT_BITS = 8
"""Bits to state a key's weight: half a per cent of precision, far below a label's own error."""


def _no_means() -> Floats:
    return np.zeros((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Shrinkage:
    """How many positions the parent's prediction counts for.

    Attributes
    ----------
    mean : float
        lam, for the expected activation.
    fires : float
        nu, for the firing probability.
    """

    mean: float
    fires: float


@dataclass(frozen=True, eq=False)
class Predictions:
    """A level's out-of-fold predictions per row, which its children are shrunk towards.

    Attributes
    ----------
    mean : float32 [n_rows, n_latents]
        Expected activation; the root has one row per fold.
    fires : float32 [n_rows, n_latents]
        Firing probability.
    """

    mean: Floats
    fires: Floats

    @classmethod
    def empty(cls, sums: RowSums) -> "Predictions":
        """Room for the predictions of a level."""
        shape = (sums.rows.n_rows, sums.width)
        return cls(np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class LevelScore:
    """Out-of-fold scores of one function type, its back-off included.

    Attributes
    ----------
    sse : float64 [n_latents]
        Squared error of the activation over the fit split.
    bits : float64 [n_latents]
        Bits saved on the firing events against the base rate, all keys free of charge.
    net_bits : float64 [n_latents]
        Bits saved by the keys that save more than it costs to state them, less that cost: on top
        of what the parent's keys save, or alone against the base rate, whichever is more.
    n_paying : int64 [n_latents]
        How many keys those are.
    entries : Entries
        The level's keys worth considering for a label of few keys.
    mean : float32 [n_rows, n_latents]
        Expected activation per row, out of fold; empty where it was not asked for.
    """

    sse: Doubles
    bits: Doubles
    net_bits: Doubles
    n_paying: npt.NDArray[np.int64]
    entries: Entries
    mean: Floats = field(default_factory=_no_means)

    def without_tables(self) -> "LevelScore":
        """The figures per latent only."""
        return replace(self, entries=Entries.none(), mean=_no_means())


class BlockScorer:
    """Scores a block of latents level by level, parents first.

    Parameters
    ----------
    tree : KeyTree
    rows : dict of str to Rows
    fit : Tokens
        The fit split.
    firings : LatentFirings
        The block.
    """

    def __init__(
        self, tree: KeyTree, rows: Mapping[str, Rows], fit: Tokens, firings: LatentFirings
    ) -> None:
        self.tree, self.rows, self.firings = tree, rows, firings
        self._roots = {name for name, level in tree.levels.items() if level.parent_name is None}
        positions = np.bincount(fit.fold, weights=fit.length, minlength=N_FOLDS)
        n_fold: Doubles = positions.astype(np.float64)[:, None]
        self.n_fold = n_fold
        self.count, self.total, self.square = sums_by_fold(fit, firings)
        outside = np.maximum(n_fold.sum() - n_fold, 1)
        # Half a firing in the rest of the text keeps the base rate off 0 and 1.
        fires = (self.count.sum(axis=0) - self.count + 0.5) / (outside + 1)
        mean = (self.total.sum(axis=0) - self.total) / outside
        self.base = Predictions(mean.astype(np.float32), fires.astype(np.float32))
        base_sse: Doubles = (self.square - 2 * mean * self.total + n_fold * mean**2).sum(axis=0)
        nothing = np.zeros(firings.n_latents)
        self.base_score = LevelScore(
            sse=base_sse,
            bits=nothing,
            net_bits=nothing,
            n_paying=nothing.astype(np.int64),
            entries=Entries.none(),
        )

    @property
    def sst(self) -> Doubles:
        """Sum of squares about the mean of the fit split, float64 [n_latents]."""
        sst: Doubles = self.square.sum(axis=0) - self.total.sum(axis=0) ** 2 / self.n_fold.sum()
        return sst

    def worth(self, n_keys: int) -> Doubles:
        """Squared error that a key must save to pay for itself, float64 [n_latents].

        In a Gaussian code with the latent's variance, squared error e less is e / (2 ln 2 variance)
        bits less; the key itself costs `bits_per_key`.
        """
        variance = self.sst / self.n_fold.sum()
        worth: Doubles = 2 * np.log(2) * bits_per_key(n_keys) * variance
        return worth

    @property
    def mean_act(self) -> Doubles:
        """Mean activation where the latent fires, float64 [n_latents]; 1 where it never does."""
        count = self.count.sum(axis=0)
        return np.where(count > 0, self.total.sum(axis=0) / np.maximum(count, 1), 1.0)

    def scores(
        self, shrinkage: Mapping[str, Shrinkage], *, bits_only: bool = False
    ) -> Iterator[tuple[str, LevelScore]]:
        """Score every level in order; yields (name, scores).

        With `bits_only`, entries and means are left out: the null needs neither. A level of
        several keys per position is no partition, and its keys' savings cannot be added up: its
        score is that of its best key alone.
        """
        predictions: dict[str | None, Predictions] = {None: self.base}
        scores: dict[str | None, LevelScore] = {None: self.base_score}
        parents = {level.parent_name for level in self.tree.levels.values()}
        for name, level in self.tree.levels.items():
            sums = RowSums.make(self.rows[name], self.firings)
            keep = name in parents or not bits_only
            mine = Predictions.empty(sums) if keep else None
            parent = predictions[level.parent_name]
            score, alone = self._level(name, sums, parent, shrinkage[name], mine, bits_only)
            above = scores[level.parent_name]
            scores[name] = LevelScore(
                sse=above.sse - score.sse,
                bits=above.bits + score.bits,
                # What is above need not be stated where the level's own keys say it all.
                net_bits=np.maximum(above.net_bits + score.net_bits, alone),
                n_paying=above.n_paying + score.n_paying,
                entries=score.entries,
                mean=score.mean,
            )
            if mine is not None:
                predictions[name] = mine
            yield name, scores[name]

    def _level(
        self,
        name: str,
        sums: RowSums,
        parent: Predictions,
        shrinkage: Shrinkage,
        mine: Predictions | None,
        bits_only: bool,
    ) -> tuple[LevelScore, Doubles]:
        """What the level changes against its parent; fills `mine`, probabilities for children.

        With it the net bits of the level's keys stated alone, against the base rate.
        """
        rows, width = sums.rows, sums.width
        parents = {level.parent_name for level in self.tree.levels.values()}
        error, bits, net, alone = (np.zeros(width) for _ in range(4))
        n_paying = np.zeros(width, dtype=np.int64)
        several = self.tree.several_keys(name)
        number = list(self.tree.levels).index(name)
        found: list[Entries] = []
        price = bits_per_key(len(rows.alive))
        worth = self.worth(len(rows.alive)).astype(np.float32)
        n_total = self.tree.levels[name].n_total
        for chunk in sums.chunks():
            parent_row = rows.parent_row[chunk.plan.rows]
            parent_mean, parent_fires = parent.mean[parent_row], parent.fires[parent_row]
            mean = chunk.mean(parent_mean, shrinkage.mean)
            fires = chunk.fires(parent_fires, shrinkage.fires)
            if mine is not None:
                mine.mean[chunk.plan.rows] = mean
            if mine is not None and name in parents:
                mine.fires[chunk.plan.rows] = fires
            error_gain = chunk.by_node(chunk.error_gain(mean, parent_mean))
            bit_gain = chunk.by_node(chunk.bit_gain(fires, parent_fires))
            surplus = np.maximum(bit_gain - np.float32(price), 0)
            if name not in self._roots and not bits_only:
                base = self.base.fires[rows.fold[chunk.plan.rows]]
                own = np.maximum(chunk.by_node(chunk.bit_gain(fires, base)) - np.float32(price), 0)
                if several:
                    alone = np.maximum(alone, own.max(axis=0, initial=0))
                else:
                    alone += own.sum(axis=0, dtype=np.float64)
            if several:
                error = np.maximum(error, error_gain.max(axis=0, initial=0))
                bits = np.maximum(bits, bit_gain.max(axis=0, initial=0))
                net = np.maximum(net, surplus.max(axis=0, initial=0))
                n_paying = np.maximum(n_paying, (surplus > 0).any(axis=0))
            else:
                error += error_gain.sum(axis=0, dtype=np.float64)
                bits += bit_gain.sum(axis=0, dtype=np.float64)
                net += surplus.sum(axis=0, dtype=np.float64)
                n_paying += (surplus > 0).sum(axis=0)
            if bits_only:
                continue
            alive = rows.alive[chunk.plan.nodes]
            found.append(
                Entries.worth(chunk, number, alive, n_total, error_gain, parent_mean, worth)
            )
        score = LevelScore(
            error, bits, net, n_paying, Entries.join(found), mine.mean if mine else _no_means()
        )
        return score, alone


def bits_per_key(n_keys: int) -> float:
    """Bits to state one key and its weight: which of `n_keys`, and a weight of WEIGHT_BITS."""
    return float(np.log2(max(n_keys, 2))) + WEIGHT_BITS


def fit_shrinkage(
    tree: KeyTree, rows: Mapping[str, Rows], fit: Tokens, firings: LatentFirings
) -> dict[str, Shrinkage]:
    """Choose lam and nu per type by out-of-fold likelihood on the given latents.

    Level by level, coarse to fine: lam minimises the mean over latents of SSE / SST (each latent
    a Gaussian with its own variance), nu maximises the mean over latents of bits per firing.
    """
    scorer = BlockScorer(tree, rows, fit, firings)
    chosen: dict[str, Shrinkage] = {}
    predictions: dict[str | None, Predictions] = {None: scorer.base}
    weight = 1 / np.maximum(scorer.sst, 1e-12)
    per_firing = 1 / np.maximum(scorer.count.sum(axis=0), 1)
    for name, level in tree.levels.items():
        sums = RowSums.make(rows[name], firings)
        parent = predictions[level.parent_name]
        error, bits = np.zeros(len(SHRINKAGE_GRID)), np.zeros(len(SHRINKAGE_GRID))
        for chunk in sums.chunks():
            parent_row = rows[name].parent_row[chunk.plan.rows]
            parent_mean, parent_fires = parent.mean[parent_row], parent.fires[parent_row]
            for index, value in enumerate(SHRINKAGE_GRID):
                mean = chunk.mean(parent_mean, value)
                fires = chunk.fires(parent_fires, value)
                error[index] += chunk.error_gain(mean, parent_mean).sum(axis=0) @ weight
                bits[index] += chunk.bit_gain(fires, parent_fires).sum(axis=0) @ per_firing
        chosen[name] = Shrinkage(
            SHRINKAGE_GRID[int(error.argmax())], SHRINKAGE_GRID[int(bits.argmax())]
        )
        predictions[name] = _predict(sums, parent, chosen[name])
    return chosen


def _predict(sums: RowSums, parent: Predictions, shrinkage: Shrinkage) -> Predictions:
    out = Predictions.empty(sums)
    for chunk in sums.chunks():
        parent_row = sums.rows.parent_row[chunk.plan.rows]
        out.mean[chunk.plan.rows] = chunk.mean(parent.mean[parent_row], shrinkage.mean)
        out.fires[chunk.plan.rows] = chunk.fires(parent.fires[parent_row], shrinkage.fires)
    return out
