"""`labeler rewrite`: the table of baselines, the curves, and what each label costs.

Files in ``<run>/rewrite/`` (docs/rewriting.md), <name> a hookpoint or all_layers:

    <name>.json                 cross-entropy of every variant, share recovered
    <name>-curves.json          the same by share of latents replaced; the protocol of 2501.18838
    <hookpoint>-latents.parquet what each label costs by itself
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.errors import RunError
from labeler.eval import rewrite as measure
from labeler.eval.rewrite import BASE, CrossEntropies, Forecast, Source
from labeler.eval.rewrite_curves import (
    COARSE,
    RANKINGS,
    TRANSFORMS,
    Curve,
    Maps,
    curve_json,
    curve_variants,
    rankings,
)
from labeler.eval.rewrite_latents import label_costs
from labeler.eval.rewrite_maps import QuantileMap, least_squares_scale
from labeler.eval.rewrite_paper import (
    paper_baselines,
    paper_curves,
    paper_protocol,
    paper_windows,
)
from labeler.eval.rewrite_sample import dense_acts, spread
from labeler.eval.rewrite_unigram import UnigramTable
from labeler.eval.rewrite_variants import UNIGRAM, variants
from labeler.inputs import Run
from labeler.labels import ALL_BUDGETS, READABLE, Budget, LabelSet, label_folder
from labeler.progress import progress_bar
from labeler.provenance import is_done, key_of, mark_done
from labeler.store import read_json, write_parquet
from labeler.tokens import Tokens

ALL = "all_layers"
"""Name of all hookpoints replaced together."""

MAP_POSITIONS = 16_384
"""Positions of the fit split that quantile maps and scales are fitted on."""

_MAX_MAP_CELLS = 1 << 28
"""Predictions held while they are fitted: 1 GiB."""

N_EXACT = 4
"""Costliest labels of a hookpoint whose cost is measured and not only estimated."""

CURVES = (
    *(Curve(ranking, READABLE) for ranking in RANKINGS),
    *(Curve("score", READABLE, transform, COARSE) for transform in TRANSFORMS[1:]),
    Curve("score", "unlimited", "none", COARSE),
)
"""Every ranking with predictions as they are; the transforms and all keys beside the first."""

_IN_CURVES = ("base", "coder", "zero", "mean", "skip")

Order = dict[tuple[str, Budget], npt.NDArray[np.int64]]


def rewrite_run(
    run: Run,
    heldout: Tokens,
    keys: Mapping[str, str],
    curves_tokens: int,
    say: Callable[[str], None],
) -> None:
    """Measure every hookpoint alone and all together.

    Parameters
    ----------
    run : Run
    heldout : Tokens
        Contexts of the table.
    keys : mapping of str to str
        By hookpoint, what its labels were made from.
    curves_tokens : int
        Held-out tokens of the curves; 0 for none.
    say : callable
        Told a line per hookpoint.
    """
    sets: dict[str, tuple[str, ...]] = {hookpoint: (hookpoint,) for hookpoint in run.hookpoints}
    if len(sets) > 1:
        sets[ALL] = tuple(run.hookpoints)
    made = _Made(run)
    for name, chosen in sets.items():
        mine = [keys[one] for one in chosen]
        _forget_stale(run, name, mine)
        _table(made, name, chosen, heldout, mine, say)
    if not curves_tokens:
        return
    for name, chosen in sets.items():
        _curves(made, name, chosen, curves_tokens, [keys[one] for one in chosen])


def _forget_stale(run: Run, name: str, keys: Sequence[str]) -> None:
    """Delete curves and costs of other labels, which nothing may replace in this call."""
    path = run.out / "rewrite" / f"{name}-curves.json"
    if path.exists() and read_json(path, RunError, f"delete {path}").get("labels") != keys:
        _costs_path(run, name).unlink(missing_ok=True)
        path.unlink()


class _Made:
    """What several sets of hookpoints share, made when first asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.base: CrossEntropies | None = None
        self.labels = cache(self._labels)
        self.unigram = cache(self._unigram)
        self.maps = cache(self._maps)
        self._tree: Any = None

    def _labels(self, hookpoint: str) -> LabelSet:
        found = LabelSet.load(label_folder(self.run.out, hookpoint), self._tree)
        self._tree = found.shared
        return found

    def _unigram(self, hookpoint: str) -> UnigramTable:
        firings = self.run.cache.iter_shards(hookpoint, "fit")
        return UnigramTable.make(self.labels(hookpoint), self.run.tokens.fit, firings)

    def _maps(self, hookpoint: str) -> Maps:
        labels, fit = self.labels(hookpoint), self.run.tokens.fit
        wanted = min(MAP_POSITIONS, max(_MAX_MAP_CELLS // labels.n_latents, 1))
        contexts = spread(fit, wanted, self.run.config.seed)
        sample = fit.select(contexts)
        firings = self.run.cache.iter_shards(hookpoint, "fit")
        act = dense_acts(fit, contexts, firings, labels.n_latents)
        said = labels.predictor(READABLE).predict(sample).reshape(act.shape)
        valid = sample.valid.ravel()
        said, act = said[valid], act[valid]
        return Maps(QuantileMap.fit(said, act), least_squares_scale(said, act))

    def order(self, hookpoint: str) -> Order:
        """The rankings; what labels cost was measured before."""
        costs = pl.read_parquet(_costs_path(self.run, hookpoint))["first_order"].to_numpy()
        labels, seed = self.labels(hookpoint), self.run.config.seed
        return {
            key: latents
            for budget in (READABLE, "unlimited")
            for key, latents in rankings(labels, budget, costs, seed).items()
        }


def _table(
    made: _Made,
    name: str,
    chosen: Sequence[str],
    heldout: Tokens,
    keys: Sequence[str],
    say: Callable[[str], None],
) -> None:
    run = made.run
    path = run.out / "rewrite" / f"{name}.json"
    key = key_of(labels=keys, tokens=heldout.fingerprint)
    if is_done(path, key):
        return
    labels = {hookpoint: made.labels(hookpoint) for hookpoint in chosen}
    coders = {hookpoint: run.coders[hookpoint] for hookpoint in chosen}
    forecasts: dict[tuple[str, Source], Forecast] = {
        (hookpoint, UNIGRAM): made.unigram(hookpoint) for hookpoint in chosen
    }
    seed = run.config.seed
    wanted = variants(chosen, labels, ALL_BUDGETS, seed)
    total = heldout.n_ctx * (len(wanted) + (made.base is None))
    with progress_bar(f"rewriting {name}", total, quiet=run.quiet) as advance:
        if made.base is None:
            made.base = measure.cross_entropies(run.model, {}, {}, heldout, [BASE], advance=advance)
        found = measure.cross_entropies(
            run.model, coders, labels, heldout, wanted, ALL_BUDGETS, advance, forecasts=forecasts
        )
    found = made.base.join(found)
    recovered = {str(one): found.summary(f"labels_{one}", seed) for one in ALL_BUDGETS}
    mark_done(
        path,
        key,
        labels=list(keys),
        hookpoints=list(chosen),
        n_tokens=int(found.n.sum()),
        n_documents=len(found.n),
        ce=found.mean(),
        recovered=recovered,
        shuffled=found.recovered("shuffled"),
        recovered_by_variant=_finite({one: found.summary(one, seed) for one in found.names}),
    )
    say(f"{name}: recovered {recovered['unlimited']['value']:.3f}")


def _curves(
    made: _Made, name: str, chosen: Sequence[str], n_tokens: int, keys: Sequence[str]
) -> None:
    run, seed = made.run, made.run.config.seed
    path = run.out / "rewrite" / f"{name}-curves.json"
    split = run.tokens.heldout
    heldout = split.select(spread(split, n_tokens, seed))
    pieces = paper_windows(split, n_tokens, seed)
    key = key_of(labels=keys, tokens=heldout.fingerprint, pieces=pieces.fingerprint)
    if is_done(path, key):
        return
    labels = {hookpoint: made.labels(hookpoint) for hookpoint in chosen}
    coders = {hookpoint: run.coders[hookpoint] for hookpoint in chosen}
    costs = _costs(made, chosen[0], n_tokens) if len(chosen) == 1 else None
    maps = {hookpoint: made.maps(hookpoint) for hookpoint in chosen}
    order = {hookpoint: made.order(hookpoint) for hookpoint in chosen}
    baselines = [one for one in variants(chosen, labels, (), seed) if one.name in _IN_CURVES]
    wanted = [BASE, *baselines, *curve_variants(CURVES, order, maps)]
    of_paper = [
        *paper_baselines(chosen, labels),
        *curve_variants(paper_curves(READABLE), order, maps),
    ]
    total = heldout.n_ctx * len(wanted) + pieces.n_ctx * len(of_paper)
    with progress_bar(f"curves of {name}", total, quiet=run.quiet) as advance:
        found = measure.cross_entropies(
            run.model, coders, labels, heldout, wanted, (READABLE, "unlimited"), advance
        )
        paper = None
        if pieces.n_ctx:  # contexts shorter than the protocol's have no place for it
            paper = paper_protocol(
                run.model, coders, labels, pieces, order, maps, READABLE, seed, advance
            )
    ce = found.mean()
    sizes = [one.n_latents for one in labels.values()]
    mark_done(
        path,
        key,
        labels=list(keys),
        hookpoints=list(chosen),
        n_tokens=int(found.n.sum()),
        n_documents=len(found.n),
        ce={one: ce[one] for one in _IN_CURVES},
        curves=_finite([curve_json(curve, found, sizes, seed) for curve in CURVES]),
        paper_2501_18838=_finite(paper),
        costs=costs,
    )


def _costs(made: _Made, hookpoint: str, n_tokens: int) -> dict[str, Any]:
    """Measure what labels cost, on fit contexts: the order of a curve must not know its text."""
    run, labels = made.run, made.labels(hookpoint)
    fit = run.tokens.fit
    sample = fit.select(spread(fit, n_tokens, run.config.seed))
    total = sample.n_ctx * (N_EXACT + 2)
    with progress_bar(f"costs of {hookpoint}", total, quiet=run.quiet) as advance:
        found = label_costs(
            run.model, run.coders[hookpoint], labels, sample, READABLE, N_EXACT, advance
        )
    write_parquet(_costs_path(run, hookpoint), found.frame())
    return {"budget": READABLE, "n_tokens": found.n_tokens, "n_exact": int(found.exact.sum())}


def _costs_path(run: Run, hookpoint: str) -> Path:
    return run.out / "rewrite" / f"{hookpoint}-latents.parquet"


def _finite(value: Any) -> Any:
    """The same with null for what is not a number, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
