"""Fit one hookpoint: scores of all types, the winning type, short labels, and significance.

`fit_hookpoint` is the driver; its steps are the functions below it, in order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles, Longs
from labeler.entries import Pool
from labeler.keytree import KeyTree
from labeler.null import (
    benjamini_hochberg,
    dispersion,
    p_values,
    shift_firings,
    shifted_positions,
)
from labeler.scores import BlockScorer, LevelScore, Shrinkage, fit_shrinkage
from labeler.select import choose
from labeler.short import ShortLabels, best_family, join_short
from labeler.statistics import LatentFirings, Rows
from labeler.threads import map_threads
from labeler.tokens import Tokens

BUDGETS = (16, 100)
"""Key budgets of short labels; the third budget, unlimited, keeps every key."""

BLOCK = 64
"""Latents scored at once: the arrays of a block stay below 200 MB at 10^6 tokens."""

PARSIMONY = 0.05
"""A simpler type wins when its net bits are within this share of the best type's."""

SLACK = 0.01
"""Share of the error that a latent may lose by running on the finest type of its family."""

FDR = 0.01
"""False-discovery rate at which a latent is labeled rather than left unexplained."""

MIN_FIT_FIRINGS = 30
"""Latents with fewer firings in the fit split are not fitted (design.md, live latent)."""

MIN_HELDOUT_FIRINGS = 5
"""Latents with fewer firings in the held-out split cannot be scored (design.md, live latent)."""

_SHRINKAGE_LATENTS = 64
_NULL_LATENTS = 512
_NULL_DRAWS = 500
"""Of which the largest tenth tells the tail's scale to a seventh."""


@dataclass(frozen=True, eq=False)
class HookpointFit:
    """Everything fitted for a range of latents of one hookpoint.

    Attributes
    ----------
    types : list of str
        Function types scored, in tree order; the first axis of the arrays below.
    shrinkage : dict of str to Shrinkage
    n_positions : int
        Positions of the fit split.
    count, mean, mean_act, sst : float64 [n_latents]
        Firings, mean activation over all positions, mean where it fires, total sum of squares.
    r2, bits, net_bits, f1, threshold : float64 [n_types, n_latents]
        Out-of-fold R2, bits saved, bits saved less the cost to state the paying keys, F1 at the
        best threshold, and that threshold.
    n_paying : int64 [n_types, n_latents]
        Keys that save more than they cost.
    winner : int64 [n_latents]
        Index of the winning type by net bits and parsimony.
    runs : int64 [n_latents]
        Index of the type whose whole table runs at the unlimited budget.
    p, q : float64 [n_latents]
        Against the shifted null, and adjusted; 1 where not fitted.
    short : dict of int to ShortLabels
        By budget.
    """

    types: list[str]
    shrinkage: dict[str, Shrinkage]
    n_positions: int
    count: Doubles
    mean: Doubles
    mean_act: Doubles
    sst: Doubles
    r2: Doubles
    bits: Doubles
    net_bits: Doubles
    f1: Doubles
    threshold: Doubles
    n_paying: npt.NDArray[np.int64]
    winner: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int64]
    p: Doubles
    q: Doubles
    short: dict[int, ShortLabels]

    @property
    def fitted(self) -> npt.NDArray[np.bool_]:
        """Latents with enough firings to fit, bool [n_latents]."""
        return self.count >= MIN_FIT_FIRINGS

    @property
    def labeled(self) -> npt.NDArray[np.bool_]:
        """Latents with a label that beats the null at the false-discovery rate."""
        best = np.take_along_axis(self.net_bits, self.winner[None], axis=0)[0]
        saves = (best > 0) & (self.bits.max(axis=0) > 0)
        labeled: Bools = self.fitted & (self.q <= FDR) & saves
        return labeled


@dataclass(frozen=True, eq=False)
class _Block:
    scorer: BlockScorer
    scores: dict[str, LevelScore]
    short: dict[int, ShortLabels]


def fit_hookpoint(
    tree: KeyTree,
    rows: Mapping[str, Rows],
    fit: Tokens,
    firings: LatentFirings,
    *,
    seed: int = 0,
    advance: Callable[[float], None] = lambda share: None,
) -> HookpointFit:
    """Fit all latents of a range.

    Parameters
    ----------
    tree : KeyTree
        Of the fit split.
    rows : dict of str to Rows
        From `make_rows`.
    fit : Tokens
        The fit split.
    firings : LatentFirings
        Of the range, on the fit split.
    seed : int
        Of the latents sampled for the shrinkage and of the null's shift.
    advance : callable
        Told each share of the work as it is done; the shares add up to 1.
    """
    shrinkage = _shrinkage(tree, rows, fit, _sample(firings, _SHRINKAGE_LATENTS, seed))
    blocks = list(firings.blocks(BLOCK))
    null_sample = _sample(firings, _NULL_LATENTS, seed + 1)
    n_shifts = max(1, -(-_NULL_DRAWS // max(null_sample.n_latents, 1)))
    draws = [block for _ in range(n_shifts) for block in null_sample.blocks(BLOCK)]
    # A shift of its own for each block: draws that share one are not independent.
    null_blocks = [
        shift_firings(block, shifted_positions(fit, seed + 2 + index))
        for index, block in enumerate(draws)
    ]
    share = 1 / max(len(blocks) + len(null_blocks), 1)

    def real(block: LatentFirings) -> _Block:
        result = _fit_block(tree, rows, fit, block, shrinkage)
        advance(share)
        return result

    def null(block: LatentFirings) -> Doubles:
        scores = BlockScorer(tree, rows, fit, block).scores(shrinkage, bits_only=True)
        best: Doubles = np.max([score.bits for _, score in scores], axis=0)
        advance(share)
        return best / dispersion(fit, block)

    done = map_threads(real, blocks)
    # Empty where no latent is fitted.
    drawn = np.concatenate([np.zeros(0), *map_threads(null, null_blocks)])
    return _assemble(tree, fit, firings, shrinkage, done, drawn)


def _shrinkage(
    tree: KeyTree, rows: Mapping[str, Rows], fit: Tokens, sample: LatentFirings
) -> dict[str, Shrinkage]:
    """Shrinkage fitted to the latents of a sample that some type says anything about.

    What no type explains is best shrunk without end, which tells nothing about the others.
    """
    shrinkage = fit_shrinkage(tree, rows, fit, sample)
    scores = BlockScorer(tree, rows, fit, sample).scores(shrinkage, bits_only=True)
    saves = np.max([score.bits for _, score in scores], axis=0) > 0
    if saves.all() or not saves.any():
        return shrinkage
    return fit_shrinkage(tree, rows, fit, sample.take(np.flatnonzero(saves)))


def _sample(firings: LatentFirings, n: int, seed: int) -> LatentFirings:
    """Firings of at most `n` fitted latents, drawn by the seed, renumbered from 0."""
    candidates = np.flatnonzero(np.diff(firings.start) >= MIN_FIT_FIRINGS)
    if len(candidates) > n:
        candidates = np.random.default_rng(seed).choice(candidates, n, replace=False)
    return firings.take(np.sort(candidates))


def _fit_block(
    tree: KeyTree,
    rows: Mapping[str, Rows],
    fit: Tokens,
    block: LatentFirings,
    shrinkage: Mapping[str, Shrinkage],
) -> _Block:
    scorer = BlockScorer(tree, rows, fit, block)
    scores = dict(scorer.scores(shrinkage))
    totals, counts = scorer.total.sum(axis=0), scorer.count.sum(axis=0)
    short = {}
    families = tree.leaves
    pools = {}
    for family in families:
        chain = tree.chain(family)
        pools[family] = Pool.make(
            [scores[name].entries for name in chain], [tree.levels[name] for name in chain]
        )
    for budget in BUDGETS:
        chosen = {
            family: choose(
                pools[family],
                budget,
                fit.n_positions,
                totals,
                counts,
                shrinkage[tree.chain(family)[0]].mean,
                scorer.worth(len(rows[tree.chain(family)[0]].alive)),
            )
            for family in families
        }
        short[budget] = best_family(tree, chosen, block.first, scorer.mean_act)
    # The entries have served; the rest is small.
    return _Block(scorer, scores, short)


def _assemble(
    tree: KeyTree,
    fit: Tokens,
    firings: LatentFirings,
    shrinkage: dict[str, Shrinkage],
    blocks: list[_Block],
    null: Doubles,
) -> HookpointFit:
    types = list(tree.levels)

    def per_latent(get: Callable[[BlockScorer], Doubles]) -> Doubles:
        return np.concatenate([get(block.scorer) for block in blocks])

    def per_type(get: Callable[[LevelScore], Doubles]) -> Doubles:
        return np.stack(
            [np.concatenate([get(block.scores[name]) for block in blocks]) for name in types]
        )

    count = per_latent(lambda s: s.count.sum(axis=0))
    sst = per_latent(lambda s: s.sst)
    bits = per_type(lambda s: s.bits)
    net_bits = per_type(lambda s: s.net_bits)
    sse = per_type(lambda s: s.sse)
    fitted = count >= MIN_FIT_FIRINGS
    p = np.ones(len(count))
    if fitted.any():
        spread = np.concatenate([dispersion(fit, block) for block in firings.blocks(BLOCK)])
        strength = bits.max(axis=0) / spread
        p[fitted] = p_values(strength[fitted], null)
    q = np.ones(len(count))
    q[fitted] = benjamini_hochberg(p[fitted])
    return HookpointFit(
        types=types,
        shrinkage=shrinkage,
        n_positions=fit.n_positions,
        count=count,
        mean=per_latent(lambda s: s.total.sum(axis=0)) / fit.n_positions,
        mean_act=per_latent(lambda s: s.mean_act),
        sst=sst,
        r2=1 - sse / np.maximum(sst, 1e-12),
        bits=bits,
        net_bits=net_bits,
        f1=per_type(lambda s: s.firing.best()[0]),
        threshold=per_type(lambda s: s.firing.best()[1]),
        n_paying=per_type(lambda s: s.n_paying.astype(np.float64)).astype(np.int64),
        winner=pick_type(tree, types, net_bits),
        runs=pick_runs(tree, types, sse),
        p=p,
        q=q,
        short={budget: join_short([block.short[budget] for block in blocks]) for budget in BUDGETS},
    )


def pick_type(tree: KeyTree, types: list[str], net_bits: Doubles) -> npt.NDArray[np.int64]:
    """Index of the winning type per latent, from net bits [n_types, n_latents].

    Among the types within PARSIMONY of the best, the one with the shortest chain of back-off;
    among those, the one with the most net bits.
    """
    depth = np.array([len(tree.chain(name)) for name in types])
    close = net_bits >= (1 - PARSIMONY) * net_bits.max(axis=0)
    simplest = np.where(close, depth[:, None], depth.max() + 1).min(axis=0)
    allowed = close & (depth[:, None] == simplest)
    winner: Longs = np.where(allowed, net_bits, -np.inf).argmax(axis=0)
    return winner


def pick_runs(tree: KeyTree, types: list[str], sse: Doubles) -> npt.NDArray[np.int64]:
    """Index of the type whose whole table runs, from out-of-fold error [n_types, n_latents].

    The type with the least error, or the finest type of its family where that costs at most
    SLACK of it: latents that run on the same tables are predicted together.
    """
    best: Longs = sse.argmin(axis=0)
    least = sse[best, np.arange(sse.shape[1])]
    for leaf in tree.leaves:
        index = types.index(leaf)
        family = np.isin(best, [types.index(name) for name in tree.chain(leaf)])
        best[family & (sse[index] <= (1 + SLACK) * least)] = index
    return best
