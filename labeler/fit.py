"""Fit one hookpoint: scores of all types, the winning type, short labels, and significance.

`fit_hookpoint` is the driver; its steps are the functions below it, in order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles
from labeler.corrections import (
    Correction,
    Fitted,
    Residuals,
    join_fitted,
    pick_corrections,
)
from labeler.curves import FiringCurve
from labeler.entries import Entries
from labeler.fitted import BUDGETS, MIN_FIT_FIRINGS, HookpointFit
from labeler.keytree import KeyTree
from labeler.material import Material
from labeler.null import (
    benjamini_hochberg,
    dispersion,
    p_values,
    shift_firings,
    shifted_positions,
)
from labeler.pick import pick_runs, pick_type
from labeler.scores import BlockScorer, LevelScore, Shrinkage, fit_shrinkage
from labeler.select import choose
from labeler.short import ShortLabels, join_short, short_labels
from labeler.statistics import LatentFirings, Rows
from labeler.threads import map_threads
from labeler.tokens import Tokens

BLOCK = 64
"""Latents scored at once: the arrays of a block stay below 200 MB at 10^6 tokens."""

_SHRINKAGE_LATENTS = 32
_CORRECTION_LATENTS = 32
_NULL_LATENTS = 256
_NULL_DRAWS = 250
"""Of which the largest tenth tells the tail's scale to a fifth."""


@dataclass(frozen=True, eq=False)
class _Block:
    scorer: BlockScorer
    scores: dict[str, LevelScore]
    short: dict[int, ShortLabels]
    runs: npt.NDArray[np.int64]
    extra: list[Fitted]
    error: Doubles
    threshold: Doubles
    f1: Doubles


def fit_hookpoint(
    made: Material,
    firings: LatentFirings,
    *,
    seed: int = 0,
    advance: Callable[[float], None] = lambda share: None,
) -> HookpointFit:
    """Fit all latents of a range.

    Parameters
    ----------
    made : Material
    firings : LatentFirings
        Of the range, on the fit split.
    seed : int
        Of the latents sampled for the shrinkage and of the null's shift.
    advance : callable
        Told each share of the work as it is done; the shares add up to 1.
    """
    tree, rows, fit = made.scored, made.rows, made.fit
    shrinkage = _shrinkage(tree, rows, fit, _sample(firings, _SHRINKAGE_LATENTS, seed))
    corrections = _corrections(made, shrinkage, _sample(firings, _CORRECTION_LATENTS, seed + 1))
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
        result = _fit_block(made, block, shrinkage, corrections)
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
    return _assemble(made, firings, shrinkage, corrections, done, drawn)


def _corrections(
    made: Material, shrinkage: Mapping[str, Shrinkage], sample: LatentFirings
) -> list[Correction]:
    """Which levels correct the whole tables of a hookpoint, by the residuals of a sample."""
    if not made.members or not sample.n_latents:
        return []
    scorer = BlockScorer(made.scored, made.rows, made.fit, sample)
    scores = dict(scorer.scores(shrinkage))
    runs = pick_runs(made.scored, list(scores), np.stack([one.sse for one in scores.values()]))
    residuals = _residuals(made, scorer, scores, runs, sample)
    return pick_corrections(made.members, residuals)


def _residuals(
    made: Material,
    scorer: BlockScorer,
    scores: Mapping[str, LevelScore],
    runs: npt.NDArray[np.int64],
    block: LatentFirings,
) -> Residuals:
    """What the whole tables of a block leave over, out of fold."""
    fit = made.fit
    fold = np.repeat(fit.fold, fit.ctx_len)
    left = np.empty((fit.ids.size, block.n_latents), dtype=np.float32)
    types = list(scores)
    for end in np.unique(runs):
        mine = np.flatnonzero(runs == end)
        every = len(mine) == len(runs)
        for name, at in made.deepest(types[end]).items():
            # A slice at a time: what is gathered stays in the processor's cache.
            for part in np.array_split(at, max(1, len(at) >> 12)):
                if name is None:
                    found = scorer.base.mean[fold[part]]
                else:
                    found = scores[name].mean[made.rows[name].of_position[part, 0]]
                if every:
                    np.negative(found, out=found)
                    left[part] = found
                else:
                    left[part[:, None], mine] = -found[:, mine]
    left[~fit.valid.ravel()] = 0
    left[block.position, block.column] += block.act
    return Residuals(left, fit.n_positions)


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
    made: Material,
    block: LatentFirings,
    shrinkage: Mapping[str, Shrinkage],
    corrections: Sequence[Correction],
) -> _Block:
    scorer = BlockScorer(made.scored, made.rows, made.fit, block)
    scores = dict(scorer.scores(shrinkage))
    types = list(scores)
    runs = pick_runs(made.scored, types, np.stack([one.sse for one in scores.values()]))
    acts = made.sample.acts(block)
    fires = acts > 0
    short = _short(made, scorer, scores, block, fires)
    residuals = _residuals(made, scorer, scores, runs, block)
    # The means and entries have served; the rest is small.
    scores = {name: one.without_tables() for name, one in scores.items()}
    extra = [residuals.fit(made.members[one.level], one.shrinkage) for one in corrections]
    predicted = acts - residuals.left[made.sample.position]
    f1, threshold = FiringCurve.of(predicted, fires, scorer.mean_act).best()
    return _Block(scorer, scores, short, runs, extra, residuals.error, threshold, f1)


def _short(
    made: Material,
    scorer: BlockScorer,
    scores: Mapping[str, LevelScore],
    block: LatentFirings,
    fires: Bools,
) -> dict[int, ShortLabels]:
    """Short labels of a block under every budget."""
    tree, fit = made.scored, made.fit
    causal = [name for name in tree.levels if not tree.looks_ahead(name)]
    totals = scorer.total.sum(axis=0)
    chosen = choose(
        tree,
        made.overlaps,
        Entries.join([scores[name].entries for name in causal]),
        max(BUDGETS),
        fit.n_positions,
        totals,
        {name: scorer.worth(len(made.rows[name].alive)) for name in tree.levels},
    )
    return {
        budget: short_labels(
            tree,
            chosen,
            budget,
            block.first,
            totals / fit.n_positions,
            scorer.mean_act,
            fit.n_positions,
            made.sample,
            fires,
        )
        for budget in BUDGETS
    }


def _assemble(
    made: Material,
    firings: LatentFirings,
    shrinkage: dict[str, Shrinkage],
    corrections: list[Correction],
    blocks: list[_Block],
    null: Doubles,
) -> HookpointFit:
    types, fit = list(made.scored.levels), made.fit

    def per_latent(get: Callable[[_Block], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate([get(block) for block in blocks])

    def per_type(get: Callable[[LevelScore], Doubles]) -> Doubles:
        return np.stack(
            [np.concatenate([get(block.scores[name]) for block in blocks]) for name in types]
        )

    count = per_latent(lambda b: b.scorer.count.sum(axis=0))
    sst = per_latent(lambda b: b.scorer.sst)
    bits = per_type(lambda s: s.bits)
    net_bits = per_type(lambda s: s.net_bits)
    fitted = count >= MIN_FIT_FIRINGS
    p = np.ones(len(count))
    if fitted.any():
        spread = np.concatenate([dispersion(fit, block) for block in firings.blocks(BLOCK)])
        strength = bits.max(axis=0) / spread
        p[fitted] = p_values(strength[fitted], null)
    q = np.ones(len(count))
    q[fitted] = benjamini_hochberg(p[fitted])
    firsts = [block.scorer.firings.first for block in blocks]
    return HookpointFit(
        types=types,
        shrinkage=shrinkage,
        n_positions=fit.n_positions,
        count=count,
        mean=per_latent(lambda b: b.scorer.total.sum(axis=0)) / fit.n_positions,
        mean_act=per_latent(lambda b: b.scorer.mean_act),
        sst=sst,
        r2=1 - per_type(lambda s: s.sse) / np.maximum(sst, 1e-12),
        r2_whole=1 - per_latent(lambda b: b.error) / np.maximum(sst, 1e-12),
        bits=bits,
        net_bits=net_bits,
        n_paying=per_type(lambda s: s.n_paying.astype(np.float64)).astype(np.int64),
        winner=pick_type(made.scored, types, net_bits),
        runs=per_latent(lambda b: b.runs),
        threshold=per_latent(lambda b: b.threshold),
        f1=per_latent(lambda b: b.f1),
        p=p,
        q=q,
        short={budget: join_short([block.short[budget] for block in blocks]) for budget in BUDGETS},
        corrections=corrections,
        extra=[
            join_fitted([block.extra[index] for block in blocks], firsts)
            for index in range(len(corrections))
        ],
    )
