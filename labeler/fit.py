"""Fit one hookpoint: scores of all types, the winning type, short labels, and significance.

`fit_hookpoint` is the driver; its steps are the functions below it, in order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.keytree import KeyTree
from labeler.null import benjamini_hochberg, p_values, shift_firings, shifted_positions
from labeler.scores import BlockScorer, LevelScore, Shrinkage, fit_shrinkage
from labeler.select import Chosen, Pool, choose
from labeler.statistics import Doubles, LatentFirings, Rows
from labeler.threads import map_threads
from labeler.tokens import Tokens

BUDGETS = (16, 100)
"""Key budgets of short labels; the third budget, unlimited, keeps every key."""

BLOCK = 64
"""Latents scored at once: the arrays of a block stay below 200 MB at 10^6 tokens."""

PARSIMONY = 0.05
"""A simpler type wins when its net bits are within this share of the best type's."""

FDR = 0.01
"""False-discovery rate at which a latent is labeled rather than left unexplained."""

MIN_FIT_FIRINGS = 30
"""Latents with fewer firings in the fit split are not fitted (design.md, live latent)."""

MIN_HELDOUT_FIRINGS = 5
"""Latents with fewer firings in the held-out split cannot be scored (design.md, live latent)."""

_SHRINKAGE_LATENTS = 64
_NULL_LATENTS = 512
_NULL_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class ShortLabels:
    """Labels of at most `budget` keys for a block or range of latents.

    Attributes
    ----------
    family : list of str
        Per latent the finest type of the chain its keys come from.
    latent, node : int32 [n]
        Absolute latent number and node of each entry.
    level : list of str
        Function type of each entry.
    value : float32 [n]
        What the label predicts there.
    n, count : float32 [n]
        Positions and firings of the fit split left to the entry.
    default, threshold, f1 : float32 [n_latents]
        Prediction elsewhere, activation above which the label says "fires", F1 in sample.
    """

    family: npt.NDArray[np.str_]
    latent: npt.NDArray[np.int32]
    level: npt.NDArray[np.str_]
    node: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    n: npt.NDArray[np.float32]
    count: npt.NDArray[np.float32]
    default: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    f1: npt.NDArray[np.float32]


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
        return self.fitted & (self.q <= FDR) & (best > 0)


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
    shrinkage = fit_shrinkage(tree, rows, fit, _sample(firings, _SHRINKAGE_LATENTS, seed))
    blocks = list(firings.blocks(BLOCK))
    null_sample = _sample(firings, _NULL_LATENTS, seed + 1)
    n_shifts = max(1, -(-_NULL_DRAWS // max(null_sample.n_latents, 1)))
    null_blocks = [
        shift_firings(block, shifted_positions(fit, seed + 2 + shift))
        for shift in range(n_shifts)
        for block in null_sample.blocks(BLOCK)
    ]
    share = 1 / max(len(blocks) + len(null_blocks), 1)

    def real(block: LatentFirings) -> _Block:
        result = _fit_block(tree, rows, fit, block, shrinkage)
        advance(share)
        return result

    def null(block: LatentFirings) -> tuple[Doubles, Doubles]:
        scorer = BlockScorer(tree, rows, fit, block)
        best = np.max([score.bits for _, score in scorer.scores(shrinkage)], axis=0)
        advance(share)
        return best, scorer.count.sum(axis=0)

    done = map_threads(real, blocks)
    null_best, null_count = (
        np.concatenate(part) for part in zip(*map_threads(null, null_blocks), strict=True)
    )
    return _assemble(tree, fit, firings, shrinkage, done, null_best, null_count)


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
            )
            for family in families
        }
        short[budget] = _best_family(tree, chosen, block.first, scorer.mean_act)
    # The entries have served; the rest is small.
    return _Block(scorer, scores, short)


def _best_family(
    tree: KeyTree, chosen: Mapping[str, Chosen], first: int, mean_act: Doubles
) -> ShortLabels:
    """For each latent the family whose kept keys save most."""
    families = list(chosen)
    saved = np.stack([chosen[family].saved for family in families])
    best = saved.argmax(axis=0)
    parts = []
    n_latents = len(mean_act)
    default, threshold, f1 = np.zeros(n_latents), np.zeros(n_latents), np.zeros(n_latents)
    for index, family in enumerate(families):
        mine = best == index
        picked = chosen[family]
        default[mine] = picked.default[mine]
        cut, score = picked.thresholds()
        threshold[mine], f1[mine] = cut[mine], score[mine]
        keep = mine[picked.entries.latent]
        entries = picked.entries.take(keep)
        chain = np.array(tree.chain(family))
        parts.append(
            (
                entries.latent + first,
                chain[entries.level],
                entries.node,
                picked.value[keep].astype(np.float32),
                picked.n_left[keep].astype(np.float32),
                picked.count_left[keep].astype(np.float32),
            )
        )
    latent, level, node, value, n, count = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    order = np.argsort(latent, kind="stable")
    return ShortLabels(
        np.array(families)[best],
        latent[order],
        level[order],
        node[order],
        value[order],
        n[order],
        count[order],
        default.astype(np.float32),
        threshold.astype(np.float32),
        f1.astype(np.float32),
    )


def _assemble(
    tree: KeyTree,
    fit: Tokens,
    firings: LatentFirings,
    shrinkage: dict[str, Shrinkage],
    blocks: list[_Block],
    null_best: Doubles,
    null_count: Doubles,
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
        p[fitted] = p_values(bits.max(axis=0)[fitted], count[fitted], null_best, null_count)
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
        n_paying=per_type(lambda s: s.n_paying).astype(np.int64),
        winner=pick_type(tree, types, net_bits),
        runs=sse.argmin(axis=0),
        p=p,
        q=q,
        short={
            budget: _join_short([block.short[budget] for block in blocks]) for budget in BUDGETS
        },
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
    return np.where(allowed, net_bits, -np.inf).argmax(axis=0)


def _join_short(parts: list[ShortLabels]) -> ShortLabels:
    names = ShortLabels.__dataclass_fields__
    return ShortLabels(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
