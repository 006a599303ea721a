"""Scores that others report, by their definitions, beside ours (docs/standard-scores.md).

The label itself is the scorer: it answers what a language model is asked elsewhere, from the whole
context that the latent reads. Whether it calls is all that detection and fuzzing ask; simulation
and N2G take the activation it predicts.
"""

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl

from labeler.arrays import Bools, Doubles, Floats, Longs
from labeler.eval.bootstrap import mean_interval
from labeler.eval.heldout import DocumentSums
from labeler.eval.scene import Scene
from labeler.eval.standard_sums import Sums
from labeler.eval.standard_windows import (
    Chosen,
    Cut,
    Peaks,
    Sizes,
    detection_windows,
    simulation_windows,
    tested_firings,
    top_prompts,
    wrong_marks,
)
from labeler.level import Nodes

OTHERS = ("detection", "fuzzing", "simulation_r", "n2g_f1")
"""Scores by definitions of others that every latent gets."""

OURS = ("f1", "precision", "recall", "pearson")
"""Scores over all positions of the held-out text."""

_RATES = ("detection_tpr", "detection_tnr")


class _Plan:
    """What is looked at; the same for own labels and controls."""

    def __init__(self, scene: Scene, sizes: Sizes) -> None:
        rng = np.random.default_rng(scene.seed)
        text, self.n, self.sizes = scene.heldout, len(scene.latents), sizes
        position, column, act = tested_firings(scene.firings, scene.latents)

        def cut(length: int) -> tuple[Cut, Peaks]:
            made = Cut.of(text, length) if length else Cut.contexts(text)
            return made, Peaks.find(made, position, column, act, self.n)

        windows, peaks = cut(sizes.window)
        self.detection = detection_windows(windows, peaks, sizes, rng)
        self.wrong = wrong_marks(self.detection, peaks, rng)
        self.simulation = simulation_windows(*cut(sizes.sequence), sizes, rng)
        self.prompts = top_prompts(*cut(0), sizes)
        self.half = np.full(self.n, np.inf, dtype=np.float32)
        highest = np.zeros(self.n, dtype=np.float32)
        np.maximum.at(highest, column, act)
        self.half[highest > 0] = sizes.firing * highest[highest > 0]
        self.shuffle = rng.random((self.n, sizes.n_silent, sizes.n_active), dtype=np.float32)


class _Reader:
    """Collects what labels say, own ones or controls."""

    def __init__(self, plan: _Plan, threshold: Floats) -> None:
        self.plan, self.threshold = plan, threshold
        n_rows = len(plan.detection.column)
        self.called = np.zeros(n_rows, dtype=bool)
        self.agreed = np.zeros(n_rows, dtype=bool)
        self.highest = np.zeros(n_rows, dtype=np.float32)
        self.everywhere, self.simulated, self.prompted = (Sums(plan.n) for _ in range(3))

    def read(self, begin: int, predicted: Floats, act: Floats, valid: Bools) -> None:
        """Take in some contexts.

        Parameters
        ----------
        begin : int
            Flat position of the first token.
        predicted, act : float32 [n_positions, n_latents]
        valid : bool [n_positions]
        """
        plan, sizes = self.plan, self.plan.sizes
        self.everywhere.add_all(predicted[valid], act[valid], self.threshold)

        def part(chosen: Chosen) -> tuple[slice, Longs, Floats, Floats, Bools]:
            rows = chosen.rows(begin, begin + len(valid))
            column = chosen.column[rows]
            where = (chosen.cut.start(chosen.window[rows]) - begin)[:, None]
            where = where + np.arange(chosen.cut.length)
            cell = where, column[:, None]
            return rows, column, predicted[cell], act[cell], valid[where]

        rows, column, guess, true, _ = part(plan.detection)
        call = guess >= self.threshold[column][:, None]
        marked = (true > 0) & (true >= sizes.marked * true.max(axis=1, keepdims=True, initial=0))
        marked |= plan.wrong[rows]
        self.called[rows] = call.any(axis=1)
        self.agreed[rows] = (call | ~marked).all(axis=1)
        self.highest[rows] = guess.max(axis=1, initial=0)

        _, column, guess, true, real = part(plan.simulation)
        self.simulated.add(column, guess, true, real, true > 0, guess > 0)
        _, column, guess, true, real = part(plan.prompts)
        half = plan.half[column][:, None]
        self.prompted.add(column, guess, true, real, true >= half, guess >= half)

    def scores(self, *, intruder: bool) -> dict[str, Doubles]:
        """Every score, float64 [n_latents]."""
        plan = self.plan
        tpr, tnr, detection = self._balanced(self.called)
        everywhere, prompted = self.everywhere.total(), self.prompted.total()
        found = {
            "detection": detection,
            "detection_tpr": tpr,
            "detection_tnr": tnr,
            "fuzzing": self._balanced(self.agreed)[2],
            "simulation_r": _correlation(self.simulated.total()),
            "n2g_f1": np.where(prompted.fires > 0, prompted.f1(), np.nan)[0],
        }
        if intruder:
            found["intruder"] = _intruders(plan, self.highest)
        fires = everywhere.fires[0] > 0
        natural = {
            "f1": everywhere.f1()[0],
            "precision": everywhere.precision()[0],
            "recall": everywhere.recall()[0],
            "pearson": _correlation(everywhere),
        }
        return found | {name: np.where(fires, value, np.nan) for name, value in natural.items()}

    def _balanced(self, said: Bools) -> tuple[Doubles, Doubles, Doubles]:
        """Shares of active windows affirmed and of silent ones denied, and their mean."""
        chosen, n = self.plan.detection, self.plan.n
        rates = []
        for mine, right in ((chosen.active, said), (~chosen.active, ~said)):
            total = np.bincount(chosen.column[mine], minlength=n).astype(np.float64)
            hits = np.bincount(chosen.column[mine & right], minlength=n)
            rates.append(np.divide(hits, total, out=np.full(n, np.nan), where=total > 0))
        return rates[0], rates[1], (rates[0] + rates[1]) / 2


def standard_scores(
    scene: Scene,
    *,
    intruder: bool = False,
    sizes: Sizes | None = None,
    nodes: Mapping[str, Nodes] | None = None,
    advance: Callable[[float], None] = lambda n: None,
) -> pl.DataFrame:
    """Scores of the labels under test on held-out text, each beside its control.

    - detection: does the label call anywhere in a window, for windows in which the latent fires
      and windows in which it does not; mean of the true positive and true negative rate (delphi,
      scorers/classifier/detection.py; log/result_analysis.py, `compute_classification_metrics`;
      Paulo et al. 2024, arXiv 2410.13928).
    - fuzzing: some tokens of a window are marked; does the label call every one of them. In active
      windows those of at least 0.3 of its peak, in silent windows as many at random (delphi,
      scorers/classifier/fuzz.py, fuzz_type "default"; its prompt asks whether *all* are right).
    - simulation_r: correlation of predicted and true activations over all tokens of 5 of the 20
      top sequences and 5 random ones together (Bills et al. 2023; automated-interpretability,
      explanations/scoring.py, `ev_correlation_score`).
    - n2g_f1: F1 over the tokens of the top 20 prompts, where a token fires from half the latent's
      maximum on, in truth and in prediction (Foote et al. 2023, arXiv 2305.19911; `evaluate` with
      fire_threshold 0.5).
    - intruder: four windows of the latent, from one quantile, and a silent one, which is found if
      it is the one the label predicts least (delphi, scorers/classifier/intruder.py, where a model
      is shown the windows and no explanation).
    - f1, precision, recall, pearson: over all positions, at the natural base rate.

    Parameters
    ----------
    scene : Scene
    intruder : bool
        Whether to add intruder detection.
    sizes : Sizes, optional
    nodes : mapping of str to Nodes, optional
        Those of the held-out text in the labels' tree, where they are known already.
    advance : callable
        Told the contexts done.

    Returns
    -------
    polars.DataFrame
        A row per latent under test: latent, n_active, n_silent (windows of detection), the scores,
        and the scores of the partner's label on the same latent with suffix ``_control``. NaN where
        the latent fires in too few windows, or has no partner; a label that predicts a constant
        correlates 0 with any latent.
    """
    plan = _Plan(scene, sizes or Sizes())
    latents, text = scene.latents, scene.heldout
    partner = scene.partner[latents]
    alone = partner < 0
    other = np.where(alone, 0, np.searchsorted(latents, partner))
    threshold = scene.claims.threshold[latents]
    own, control = _Reader(plan, threshold), _Reader(plan, threshold[other])
    column = scene.claims.column(latents)
    for span, predicted in scene.claims.iterate(text, nodes):
        begin, end = span.start * text.ctx_len, span.stop * text.ctx_len
        act = scene.firings.dense(begin, end)[:, latents]
        valid, mine = text.valid[span].ravel(), predicted[:, column]
        own.read(begin, mine, act, valid)
        control.read(begin, mine[:, other], act, valid)
        advance(span.stop - span.start)
    active = plan.detection.active
    counts = [
        np.bincount(plan.detection.column[mine], minlength=plan.n) for mine in (active, ~active)
    ]
    columns = {"latent": latents.astype(np.int32), "n_active": counts[0], "n_silent": counts[1]}
    beside = control.scores(intruder=intruder)
    beside = {f"{name}_control": np.where(alone, np.nan, value) for name, value in beside.items()}
    return pl.DataFrame(columns | own.scores(intruder=intruder) | beside)


def pooled(frame: pl.DataFrame, seed: int) -> dict[str, dict[str, float | int | None]]:
    """Mean of each score over latents, for ``tests.json["standard"]``.

    Over the latents that have all scores, so that the scores can be compared with each other.

    Parameters
    ----------
    frame : polars.DataFrame
        Of `standard_scores`.
    seed : int
        Of the resamples.

    Returns
    -------
    dict
        By score: n_latents, own, own_low, own_high, control, difference, low, high. Percentile
        intervals of 95% over latents; low and high are those of the difference. None where no
        latent has the score.
    """
    whole = frame.filter(pl.all_horizontal(pl.col(name).is_finite() for name in OTHERS))
    names = [name for name in (*OTHERS, *_RATES, "intruder", *OURS) if name in frame.columns]
    return {name: _pool(whole, name, seed) for name in names}


def _pool(frame: pl.DataFrame, name: str, seed: int) -> dict[str, float | int | None]:
    own, control = (
        frame[column].to_numpy().astype(np.float64) for column in (name, f"{name}_control")
    )
    kept = np.isfinite(own)
    own, difference = own[kept], (own - control)[kept]
    paired = np.isfinite(difference)
    mean, low, high = mean_interval(own, seed)
    gap, gap_low, gap_high = mean_interval(difference[paired], seed)
    return {
        "n_latents": len(own),
        "own": mean,
        "own_low": low,
        "own_high": high,
        "control": float(control[kept][paired].mean()) if paired.any() else None,
        "difference": gap,
        "low": gap_low,
        "high": gap_high,
    }


def _correlation(sums: DocumentSums) -> Doubles:
    """Correlation over tokens; 0 where only the prediction is constant, NaN without a firing."""
    found = sums.pearson()[0]
    return np.where(sums.fires[0] > 0, np.nan_to_num(found, nan=0.0), np.nan)


def _intruders(plan: _Plan, highest: Floats) -> Doubles:
    """Share of silent windows that the label predicts less than four active ones.

    The quantiles take turns. Where several windows share the lowest prediction, the label guesses
    among them.
    """
    chosen, sizes = plan.detection, plan.sizes
    n_each = sizes.n_active // sizes.n_quantiles
    active = np.full((plan.n, sizes.n_quantiles, n_each), np.inf)
    silent = np.full((plan.n, sizes.n_silent), np.nan)
    group = np.where(chosen.active, chosen.quantile, sizes.n_quantiles)
    order = np.lexsort((group, chosen.column))
    column, group = chosen.column[order], group[order]
    run = column * (sizes.n_quantiles + 1) + group
    edges = np.flatnonzero(np.diff(run, prepend=-1))
    place = np.arange(len(run)) - np.repeat(edges, np.diff(np.append(edges, len(run))))
    value, fires = highest[order], group < sizes.n_quantiles
    active[column[fires], group[fires], place[fires]] = value[fires]
    silent[column[~fires], place[~fires]] = value[~fires]
    found = np.full(silent.shape, np.nan)
    for number in range(sizes.n_silent):
        shown = active[:, number % sizes.n_quantiles]
        key = np.where(np.isfinite(shown), plan.shuffle[:, number, :n_each], 2)
        drawn = np.take_along_axis(shown, key.argsort(axis=1)[:, : sizes.n_shown - 1], axis=1)
        mine = silent[:, number][:, None]
        tied = (drawn == mine).sum(axis=1)
        found[:, number] = np.where((drawn < mine).any(axis=1), 0.0, 1 / (1 + tied))
    found[np.isnan(silent)] = np.nan
    n = (~np.isnan(found)).sum(axis=1)
    total = np.nansum(found, axis=1)
    share: Doubles = np.divide(total, n, out=np.full(plan.n, np.nan), where=n > 0)
    return share
