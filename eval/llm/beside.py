"""An explanation beside the rule of the same latent: the same measures, windows and controls.

The windows are those that all latents of a run share (`labeler.eval.llm.windows`), drawn from all
held-out text; positions count at their natural rate. What is compared:

    rule          the label of 100 keys; fires from the threshold it was fitted with
    rule_control  the label of the partner
    explanation   the answers of a language model on a scale of 0 to 10; fires from `FIRES_FROM`
    control       the same for the partner's explanation

A latent without a rule has a rule that is silent, and one without an explanation an explanation
that is silent; an answer that failed is 0. None is left out for it. A rule reads its whole context,
a language model the window alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from labeler.arrays import Bools, Doubles, Floats, Longs
from labeler.eval.bootstrap import document_weights, interval
from labeler.eval.heldout import DocumentSums
from labeler.eval.llm.prompts import SCALE
from labeler.eval.llm.shared import Rules, Shared, wide
from labeler.eval.ranking import RankHistogram

FIRES_FROM = 1.0
"""Answer from which an explanation says that its latent fires. Not fitted: strengths are told to
the language model as ceil(10 act / highest), so that 1 is what the faintest firing gets."""

MEASURES = ("precision", "recall", "f1", "auroc", "average_precision", "pearson")

STANDS = ("rule", "rule_control", "explanation", "control")

SCHEMA = {
    "latent": pl.Int64,
    "stand": pl.String,
    "partner": pl.Int64,
    "n": pl.Int64,
    "n_firings": pl.Int64,
    "n_called": pl.Int64,
    "failed": pl.Int64,
    **{
        name: pl.Float64
        for measure in MEASURES
        for name in (measure, f"{measure}_low", f"{measure}_high")
    },
}
"""Columns of `Beside.frame`."""


@dataclass(frozen=True, eq=False)
class Stand:
    """Something that says where latents fire, and how strongly.

    Attributes
    ----------
    predicted : float32 [n, m, t]
        On any scale.
    called : bool [n, m, t]
        Where it says that the latent fires.
    known : bool [n]
        False where there is nothing to judge: a latent without a partner has no control.
    failed : int64 [n]
        Answers of a language model that failed.
    """

    predicted: Floats
    called: Bools
    known: Bools
    failed: Longs


def stands(shared: Shared, rules: Rules) -> dict[str, Stand]:
    """Rules, explanations and the controls of both, by the names of `STANDS`."""
    paired, partner = shared.partner >= 0, shared.partner
    every = np.ones(len(partner), dtype=bool)
    fires = rules.predicted >= wide(rules.threshold, shared.act)
    says = shared.said >= FIRES_FROM
    failed = shared.failed.sum(axis=(1, 2))
    none = np.zeros_like(failed)
    return {
        "rule": Stand(rules.predicted, fires, every, none),
        "rule_control": Stand(
            shared.of_partner(rules.predicted),
            fires[partner],
            paired & rules.labeled[partner],
            none,
        ),
        "explanation": Stand(shared.said, says, every, failed),
        "control": Stand(
            shared.of_partner(shared.said),
            says[partner],
            paired,
            np.where(paired, failed[partner], 0),
        ),
    }


@dataclass(frozen=True, eq=False)
class Measured:
    """Measures of one stand for all latents.

    Attributes
    ----------
    stand : Stand
    called : int64 [n]
        Positions at which it says that the latent fires.
    values : dict of str to float64 [n_resamples + 1, n]
        By measure: first on the windows as they are, then on resampled documents. NaN where a
        latent does not fire, for the precision also where nothing is called.
    """

    stand: Stand
    called: Longs
    values: Mapping[str, Doubles]

    def known(self, measure: str, rows: Bools) -> Doubles:
        """Values of some latents, those that have any, float64 [n_resamples + 1, k]."""
        values = self.values[measure]
        return values[:, rows & self.stand.known & np.isfinite(values[0])]


def measured(
    shared: Shared, stand: Stand, seed: int, advance: Callable[[float], None] = lambda n: None
) -> Measured:
    """Measure one stand; `advance` is told the latents done.

    By the formulas of the held-out scores of labels (`DocumentSums`, `RankHistogram`). A prediction
    that is the same everywhere correlates 0.
    """
    documents, document = np.unique(shared.document, return_inverse=True)
    # The first resample is the documents as they are.
    whole = np.ones((1, len(documents)))
    weights = np.concatenate([whole, document_weights(len(documents), seed)])[:, document]
    sums = _sums(shared, stand, weights)
    silent = sums.fires == 0
    pearson = np.where(np.isnan(sums.pearson()), 0.0, sums.pearson())
    values = {
        "precision": np.where(silent, np.nan, sums.precision()),
        "recall": sums.recall(),
        "f1": np.where(silent, np.nan, sums.f1()),
        "auroc": np.full_like(pearson, np.nan),
        "average_precision": np.full_like(pearson, np.nan),
        "pearson": np.where(silent, np.nan, pearson),
    }
    for number in range(len(shared.latents)):
        # Columns of the histogram are windows, then resamples.
        ranks = RankHistogram.empty(len(document))
        fires = shared.act[number].T > 0
        ranks.add(np.ascontiguousarray(stand.predicted[number].T), fires)
        some = ranks.positions.any(axis=1)  # few of all bins hold anything
        drawn = RankHistogram(ranks.positions[some] @ weights.T, ranks.firings[some] @ weights.T)
        values["auroc"][:, number] = drawn.auroc()
        values["average_precision"][:, number] = drawn.average_precision()
        advance(1)
    return Measured(stand, sums.called[0].astype(np.int64), values)


def _sums(shared: Shared, stand: Stand, weights: Doubles) -> DocumentSums:
    """Sums of each resample, [n_resamples + 1, n], from weights [n_resamples + 1, m]."""
    act, said = shared.act.astype(np.float64), stand.predicted.astype(np.float64)
    fires, called = shared.act > 0, stand.called
    parts = {
        "fires": fires,
        "called": called,
        "hit": fires & called,
        "predicted": said,
        "predicted2": said**2,
        "act": act,
        "act2": act**2,
        "product": said * act,
    }
    n = shared.length * weights.sum(axis=1, keepdims=True)
    return DocumentSums(n=n, **{name: weights @ one.sum(axis=2).T for name, one in parts.items()})


@dataclass(frozen=True, eq=False)
class Beside:
    """Rules and explanations of one hookpoint, measured alike.

    Attributes
    ----------
    shared : Shared
    rules : Rules
    found : dict of str to Measured
        By the names of `STANDS`.
    """

    shared: Shared
    rules: Rules
    found: Mapping[str, Measured]

    @classmethod
    def make(
        cls,
        shared: Shared,
        rules: Rules,
        seed: int,
        advance: Callable[[float], None] = lambda n: None,
    ) -> "Beside":
        """Measure everything; `advance` is told latents, each once for every stand."""
        found = {
            name: measured(shared, stand, seed, advance)
            for name, stand in stands(shared, rules).items()
        }
        return cls(shared, rules, found)

    def frame(self) -> pl.DataFrame:
        """A row per latent and stand that it has: the columns of `SCHEMA`.

        Without a rule only the explanation's rows, and the other way round.
        """
        shared, rows = self.shared, []
        n_firings = (shared.act > 0).sum(axis=(1, 2))
        has = {"rule": self.rules.labeled, "explanation": shared.explained}
        for name, one in self.found.items():
            bounds = {
                measure: interval(_filled(values[1:])) for measure, values in one.values.items()
            }
            mine = one.stand.known & has["rule" if name.startswith("rule") else "explanation"]
            for at in np.flatnonzero(mine).tolist():
                partner = int(shared.partner[at])
                row: dict[str, Any] = {
                    "latent": int(shared.latents[at]),
                    "stand": name,
                    "partner": int(shared.latents[partner]) if partner >= 0 else -1,
                    "n": shared.act[at].size,
                    "n_firings": int(n_firings[at]),
                    "n_called": int(one.called[at]),
                    "failed": int(one.stand.failed[at]),
                }
                for measure, values in one.values.items():
                    known = np.isfinite(values[0, at])
                    low, high = bounds[measure]
                    row[measure] = float(values[0, at])
                    row[f"{measure}_low"] = float(low[at]) if known else np.nan
                    row[f"{measure}_high"] = float(high[at]) if known else np.nan
                rows.append(row)
        return pl.DataFrame(rows, schema=SCHEMA).sort("latent", maintain_order=True)

    def groups(self) -> dict[str, Bools]:
        """Latents that means are taken of, bool [n].

        ``both`` have a rule and an explanation, ``all`` were asked about, ``no_rule`` have only an
        explanation.
        """
        ruled, explained = self.rules.labeled, self.shared.explained
        return {
            "both": ruled & explained,
            "all": np.ones_like(ruled),
            "no_rule": ~ruled & explained,
        }

    def means(self) -> dict[str, dict[str, Any]]:
        """Means over the latents that fire in the windows, each counted once, by group.

        Returns
        -------
        dict
            By group: n_latents, n_firing, and by stand and measure value, low, high (95% over
            documents) and n; for ``both`` also the paired ``difference``, rule less explanation.
        """
        fires = (self.shared.act > 0).any(axis=(1, 2))
        out: dict[str, dict[str, Any]] = {}
        for group, rows in self.groups().items():
            if group == "no_rule" and not rows.any():
                continue
            names = STANDS if group != "no_rule" else STANDS[2:]
            entry: dict[str, Any] = {
                "n_latents": int(rows.sum()),
                "n_firing": int((rows & fires).sum()),
            }
            for name in names:
                one = self.found[name]
                entry[name] = {measure: mean_of(one.known(measure, rows)) for measure in MEASURES}
            if group == "both":
                pair = self.found["rule"].values, self.found["explanation"].values
                gaps = {measure: pair[0][measure] - pair[1][measure] for measure in MEASURES}
                entry["difference"] = {
                    measure: mean_of(gap[:, rows & np.isfinite(gap[0])])
                    for measure, gap in gaps.items()
                }
            out[group] = entry
        return out

    def f1_by_digit(self) -> list[float | None]:
        """Mean F1 of all explanations were 1, 2, ... 10 what counts as firing.

        To be looked at: none of them is chosen by it.
        """
        found: list[float | None] = []
        for digit in range(1, SCALE + 1):
            called = self.shared.said >= digit
            hit = (called & (self.shared.act > 0)).sum(axis=(1, 2))
            fires = (self.shared.act > 0).sum(axis=(1, 2))
            f1 = 2 * hit / np.maximum(called.sum(axis=(1, 2)) + fires, 1)
            found.append(float(f1[fires > 0].mean()) if (fires > 0).any() else None)
        return found


def mean_of(values: Doubles) -> dict[str, float | int | None]:
    """Mean over latents with its interval, from values [n_resamples + 1, k], the first as it is.

    In a resample in which a latent does not fire, the mean is over the others.
    """
    known = np.isfinite(values)
    count = known.sum(axis=1)
    if not values.shape[1]:
        return {"value": None, "low": None, "high": None, "n": 0}
    mean = np.where(known, values, 0).sum(axis=1) / np.maximum(count, 1)
    low, high = interval(np.where(count > 0, mean, np.nan)[1:])
    return {
        "value": float(mean[0]),
        "low": float(low),
        "high": float(high),
        "n": values.shape[1],
    }


def _filled(drawn: Doubles) -> Doubles:
    """The same with 0 in columns that have no value at all, of which there is no quantile."""
    return np.where(np.isfinite(drawn).any(axis=0), drawn, 0.0)
