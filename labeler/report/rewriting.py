"""The page's part on labels that run in the layer: stand-ins, curves, dearest labels."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import polars as pl

from labeler.errors import RunError
from labeler.labels import READABLE, LabelSet
from labeler.report.charts import Scale
from labeler.report.glyphs import Segment, segments

DEAREST = 10
"""Labels shown of those that cost most."""

_STAND_INS = {
    "base": "the model as it is",
    "coder": "its sparse coder in place of the sublayer",
    "oracle_value": "oracle: the true activation wherever a label rightly calls; wrong calls stay",
    "oracle_support": "oracle: what the labels predict, but silent where the latent truly is",
    "labels_unlimited": "every latent predicted by its label, any number of keys",
    "labels_100": "the same with 100 keys",
    "labels_16": "the same with 16 keys",
    "unigram": "every latent by a table of single tokens",
    "mean": "every latent at its mean",
    "skip": "no latents: skip path and bias only",
    "random": "every latent fires by chance, as often and as strongly as it does",
    "shuffled": "every latent runs another one’s label, scaled to its own mean",
    "zero": "the sublayer’s output set to 0",
}
"""What may stand in for a sublayer, roughly from best to worst."""

_RANKINGS = {
    "score": "best labels first",
    "dce": "cheapest labels first",
    "random": "at random",
}
_TRANSFORMS = {
    "none": "as predicted",
    "quantile": "quantile-normalised",
    "topk": "re-TopK",
    "scale": "scaled",
    "quantile+topk": "quantile-normalised, re-TopK",
}
_KINDS = ("ranking", "transform", "paper")

_TONES = 6
"""Colours and dashes of a panel's lines in page.css."""

_LOWEST, _HIGHEST = -0.5, 1.1


class StandIn(TypedDict):
    """Cross-entropies of one stand-in."""

    name: str
    means: str
    cells: list[dict[str, Any]]
    """A row of the run each: `ce`, nats per token, and `recovered` (value, low, high); or None."""


def stand_ins(measured: Sequence[Mapping[str, Any]]) -> list[StandIn]:
    """What was measured with each stand-in.

    Parameters
    ----------
    measured : sequence of mapping
        What ``rewrite/<name>.json`` holds, of each hookpoint and then of all layers.
    """
    every = dict.fromkeys(itertools.chain.from_iterable(one["ce"] for one in measured))
    return [
        StandIn(
            name=name.replace("_", " "),
            means=_STAND_INS.get(name, ""),
            cells=[
                {
                    "ce": one["ce"].get(name),
                    "recovered": one.get("recovered_by_variant", {}).get(name),
                }
                for one in measured
            ],
        )
        for name in dict.fromkeys([*_STAND_INS, *every])
        if name in every
    ]


class Line(TypedDict):
    """A curve of a panel."""

    name: str
    tone: str
    path: str
    whiskers: str
    """Intervals, as the data of one SVG path."""
    points: list[dict[str, float]]


Points = Sequence[Mapping[str, Any]]
"""`fraction`, `recovered`, `low` and `high` each; None where nothing could be recovered."""


def fraction_charts(found: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Recovered by the share of latents replaced, as groups of small charts.

    Parameters
    ----------
    found : mapping of name to mapping, or None
        What ``rewrite/<name>-curves.json`` holds, by hookpoint and of all layers.

    Returns
    -------
    list of dict
        Lines by ranking, lines by transform, and the protocol of arXiv 2501.18838: those of which
        there is anything.
    """
    by_kind: dict[str, dict[str, dict[str, Points]]] = {}
    for name, one in found.items():
        for kind, lines in _lines(one or {}):
            if lines:
                by_kind.setdefault(kind, {})[name] = lines
    return [_group(kind, by_kind[kind]) for kind in _KINDS if kind in by_kind]


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Points]]]:
    """Kinds of charts of one hookpoint, each with its lines by name."""
    curves = found.get("curves", [])
    yield (
        "ranking",
        {
            _RANKINGS.get(one["ranking"], one["ranking"]): one["points"]
            for one in curves
            if one["budget"] == READABLE and one["transform"] == "none"
        },
    )
    yield (
        "transform",
        {_transform(one): one["points"] for one in curves if one["ranking"] == "score"},
    )
    yield (
        "paper",
        {
            _transform(one): one["points"]
            for one in (found.get("paper_2501_18838") or {}).get("curves", [])
        },
    )


def _transform(curve: Mapping[str, Any]) -> str:
    name = _TRANSFORMS.get(curve["transform"], curve["transform"])
    return name if curve["budget"] == READABLE else f"{name}, {curve['budget']} keys"


def _group(kind: str, mine: Mapping[str, Mapping[str, Points]]) -> dict[str, Any]:
    names = dict.fromkeys(itertools.chain.from_iterable(mine.values()))
    tones = {name: f"c{number % _TONES}" for number, name in enumerate(names)}
    return {
        "kind": kind,
        "legend": [{"name": name, "tone": tone} for name, tone in tones.items()],
        "ends": [
            {"name": line, "cells": [_end(lines.get(line, [])) for lines in mine.values()]}
            for line in names
        ],
        "panels": [{"name": name, **fraction_panel(lines, tones)} for name, lines in mine.items()],
    }


def _end(points: Points) -> Mapping[str, Any] | None:
    """The point at which every latent runs on its label."""
    return next((point for point in points if point["fraction"] == 1), None)


def fraction_panel(curves: Mapping[str, Points], tones: Mapping[str, str]) -> dict[str, Any]:
    """One small chart: the fractions measured at even steps, a line per curve.

    Parameters
    ----------
    curves : mapping of name to points
    tones : mapping of name to str
        CSS classes.
    """
    curves = {
        name: [point for point in points if point["recovered"] is not None]
        for name, points in curves.items()
    }
    width, height, left, right, top, bottom = 330, 220, 34, 14, 12, 38
    fractions = sorted({point["fraction"] for points in curves.values() for point in points})
    values = [point["recovered"] for points in curves.values() for point in points]
    low, high = max(min([0.0, *values]), _LOWEST), min(max([1.0, *values]), _HIGHEST)
    y = Scale(low - 0.03, high + 0.03, height - bottom, top)
    x = Scale(0, max(len(fractions) - 1, 1), left + 12, width - right - 4)
    at = {fraction: x(number) for number, fraction in enumerate(fractions)}
    lines = []
    for name, points in curves.items():
        drawn = [
            {
                "x": at[point["fraction"]],
                "y": y(point["recovered"]),
                **{key: point[key] for key in ("fraction", "recovered", "low", "high")},
            }
            for point in points
        ]
        lines.append(
            Line(
                name=name,
                tone=tones[name],
                path=" ".join(f"{point['x']},{point['y']}" for point in drawn),
                whiskers="".join(
                    f"M{point['x']},{y(point['low'])}V{y(point['high'])}" for point in drawn
                ),
                points=drawn,
            )
        )
    return {
        "width": width,
        "height": height,
        "left": left,
        "right": width - right,
        "bottom": height - bottom,
        "lines": lines,
        "fractions": fractions,
        "x_ticks": [{"x": at[one], "text": f"{100 * one:g}%"} for one in fractions],
        "y_ticks": [
            {"y": y(value), "text": f"{value:.1f}"}
            for value in (-0.5, 0.0, 0.5, 1.0)
            if low - 0.03 <= value <= high + 0.03
        ],
        "references": [y(0.0), y(1.0)],
    }


class Dear(TypedDict):
    """A label that costs much."""

    hookpoint: str
    latent: int
    line: list[Segment]
    cost: float
    """Nats per token."""
    exact: bool
    """Whether it was measured; else estimated to first order."""
    f1: float
    verdict: str | None


def read_costs(out: Path, hookpoint: str) -> pl.DataFrame | None:
    """What each label costs; None before it was measured.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    path = out / "rewrite" / f"{hookpoint}-latents.parquet"
    if not path.exists():
        return None
    try:
        return pl.read_parquet(path).select("latent", "dce", "exact")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); delete it and run `labeler rewrite` again"
        ) from error


def dearest(
    out: Path, labels: LabelSet, scores: pl.DataFrame, verdicts: pl.DataFrame | None
) -> list[Dear]:
    """The labels of a hookpoint that cost most, dearest first; none before costs were measured."""
    costs = read_costs(out, labels.hookpoint)
    if costs is None:
        return []
    found = (
        costs.filter(
            pl.Series(labels.labeled[costs["latent"].to_numpy()]) & pl.col("dce").is_finite()
        )
        .sort(["dce", "latent"], descending=[True, False])
        .head(DEAREST)
    )
    said = dict(verdicts.select("latent", "verdict").iter_rows()) if verdicts is not None else {}
    return [
        Dear(
            hookpoint=labels.hookpoint,
            latent=row["latent"],
            line=segments(labels.latents["text"][row["latent"]]),
            cost=row["dce"],
            exact=row["exact"],
            f1=scores["f1"][row["latent"]],
            verdict=said.get(row["latent"]),
        )
        for row in found.iter_rows(named=True)
    ]


def dearest_of_all(found: Sequence[Sequence[Dear]]) -> list[Dear]:
    """The dearest of several hookpoints."""
    every = list(itertools.chain.from_iterable(found))
    order = np.argsort([-one["cost"] for one in every], kind="stable")
    return [every[index] for index in order[:DEAREST]]
