"""The page's part on explanations by a language model, side by side with the rules."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import polars as pl

from labeler.beside_run import MARKER, TABLE, labels_of, read_beside
from labeler.errors import RunError
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.report.glyphs import Segment, segments, visible
from labeler.store import read_json

DIFFER = 5
"""Latents shown where the rule is better by most, and where the explanation is."""

LEAST = 3
"""Firings in the shared windows that a latent needs to be shown there."""

TESTS = {
    "detect": "Detection: in which windows does the latent fire? Half of them have a firing. "
    "Balanced accuracy.",
    "fuzz": "Fuzzing: are all marked tokens of a window right? Balanced accuracy.",
    "simulate": "Simulation: how strong is it on each token of its strongest windows, and of as "
    "many drawn from all text? Correlation with the truth.",
    "natural": "Simulation on windows drawn from all text alone, where firings are as rare as they "
    "are. Correlation with the truth.",
}

MEASURES = {
    "f1": "Harmonic mean of precision and recall.",
    "precision": "Of the positions at which they say that it fires, those where it does.",
    "recall": "Of its firings, those that are found.",
    "auroc": "How often a firing is predicted higher than a silent position (chance: .50).",
    "average_precision": "Mean precision over thresholds (chance: the share of firings).",
    "pearson": "Of predicted and true activation: the simulation score.",
}
"""What is measured of rule and explanation alike; the order of the page."""

_NAMES = {
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "pearson": "correlation",
}

_SHORT = ("f1", "auroc", "pearson")
"""Measures shown of all latents, with rule and explanation or not."""

STAND_INS = {
    "rule": "what the rules predict",
    "explanation": "what was answered for the explanations",
    "explanation_scaled": "the same times the factor that fits best on other documents",
    "mean": "each at its mean",
    "zero": "none of them fires",
    "rule_control": "what the partners’ rules predict, scaled to the own mean",
    "control": "what was answered for the partners’ explanations",
}
"""What the latents run on, in the order of the page."""


class Pair(TypedDict):
    """Rule and explanation of one latent."""

    hookpoint: str
    latent: int
    rule: list[Segment]
    explanation: str
    n_firings: int
    """In the shared windows."""
    f1: dict[str, float]
    """By `rule` and `explanation`."""
    pearson: dict[str, float]


def explained_section(run: Run) -> list[dict[str, Any]]:
    """What language models said about the latents of a run, author by author.

    Returns
    -------
    list of dict
        Of each folder in ``<run>/explain``; empty where `labeler explain` was not run.

    Raises
    ------
    RunError
        If a file is damaged.
    """
    markers = sorted((run.out / "explain").glob("*/done.json"))
    return [_author(run, marker.parent) for marker in markers]


def _author(run: Run, folder: Path) -> dict[str, Any]:
    done = _json(folder / "done.json")
    # Layer order, not the order of a file.
    hookpoints = {
        name: done["hookpoints"][name] for name in run.hookpoints if name in done["hookpoints"]
    }
    failures: dict[str, int] = {}
    for facts in hookpoints.values():
        for kind, count in facts["failures"].items():
            failures[visible(kind)] = failures.get(visible(kind), 0) + count
    return {
        # Named by a server or folder: text like any other.
        "name": visible(done["author"]),
        "n_latents": sum(one["n_latents"] for one in hookpoints.values()),
        "n_explained": sum(one["n_explained"] for one in hookpoints.values()),
        "failures": failures,
        "n_open": done["n_open"],
        "usage": _json(folder / "usage.json") if (folder / "usage.json").exists() else None,
        "tests": _tests(hookpoints),
        **_beside(run, folder),
    }


def _tests(hookpoints: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means of each test, a row per hookpoint."""
    return [
        {
            "name": test,
            "means": means,
            "rows": [
                {"hookpoint": name, **facts["tests"][test]}
                for name, facts in hookpoints.items()
                if test in facts["tests"]
            ],
        }
        for test, means in TESTS.items()
    ]


def _beside(run: Run, folder: Path) -> dict[str, Any]:
    """What was measured of rules and explanations alike, if it was, and of the present labels."""
    nothing: dict[str, Any] = {"beside": None, "stale": False, "pairs": []}
    if not (folder / MARKER).exists():
        return nothing
    found = read_beside(folder)
    hookpoints: Mapping[str, Any] = found["hookpoints"]
    if any(found["labels"].get(name) != labels_of(run, name) for name in hookpoints):
        return nothing | {"stale": True}
    whole = any(_more(one["means"]) for one in hookpoints.values())
    beside = {
        "budget": found["budget"],
        "fires_from": found["fires_from"],
        "notes": [visible(note) for note in found["notes"]],
        "n_windows": max((one["n_windows"] for one in hookpoints.values()), default=0),
        "n_tokens": max((one["n_tokens"] for one in hookpoints.values()), default=0),
        "n_documents": max((one["n_documents"] for one in hookpoints.values()), default=0),
        "both": _groups(hookpoints, "both", tuple(MEASURES)),
        "all": _groups(hookpoints, "all", _SHORT) if whole else [],
        "by_digit": [
            {"hookpoint": name, "f1": one["f1_by_digit"]} for name, one in hookpoints.items()
        ],
        "costs": _costs(hookpoints),
    }
    return {"beside": beside, "stale": False, "pairs": _pairs(run, folder)}


def _more(means: Mapping[str, Any]) -> bool:
    """Whether some latents lack a rule or an explanation."""
    return bool(means["all"]["n_latents"] != means["both"]["n_latents"])


def _groups(
    hookpoints: Mapping[str, Any], group: str, measures: tuple[str, ...]
) -> list[dict[str, Any]]:
    """By measure a row per hookpoint: each stand's mean with its interval."""
    return [
        {
            "name": _NAMES.get(measure, measure),
            "means": MEASURES[measure],
            "rows": [
                {
                    "hookpoint": name,
                    "n": found["explanation"][measure]["n"],
                    "rule_n": found["rule"][measure]["n"],
                    **{
                        stand: found[stand][measure] if stand in found else None
                        for stand in (
                            "rule",
                            "explanation",
                            "difference",
                            "rule_control",
                            "control",
                        )
                    },
                }
                for name, one in hookpoints.items()
                if (found := one["means"][group])["n_firing"]
            ],
        }
        for measure in measures
    ]


def _costs(hookpoints: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the stand-ins cost; of latents with rule and explanation, where there are others too."""
    measured = {
        name: rewritten.get("both", rewritten["all"])
        for name, one in hookpoints.items()
        if (rewritten := one["rewritten"])
    }
    if not measured:
        return None
    return {
        "columns": [{"hookpoint": name, **one} for name, one in measured.items()],
        "rows": [
            {
                "name": name.replace("_", " "),
                "means": means,
                "cells": [
                    {
                        "above": one["above_coder"][name],
                        "recovered": one["recovered"][name]
                        if one["recovered"] and name in one["recovered"]
                        else None,
                    }
                    for one in measured.values()
                ],
            }
            for name, means in STAND_INS.items()
        ],
        "some_unclear": any(one["recovered"] is None for one in measured.values()),
    }


def _pairs(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Latents where rule and explanation differ most in F1, whichever is better first."""
    frame = _table(folder / TABLE)
    texts = _texts(folder / "explanations.jsonl")
    sides = {
        stand: frame.filter((pl.col("stand") == stand) & (pl.col("n_firings") >= LEAST))
        for stand in ("rule", "explanation")
    }
    both = sides["rule"].join(
        sides["explanation"], on=["hookpoint", "latent"], suffix="_explanation"
    )
    gap = pl.col("f1") - pl.col("f1_explanation")
    lines: dict[str, pl.Series] = {}
    out = []
    for name, sign in (("rule", 1), ("explanation", -1)):
        chosen = (
            both.with_columns(gap=sign * gap)
            .filter(pl.col("gap") > 0)
            .sort(["gap", "hookpoint", "latent"], descending=[True, False, False])
            .head(DIFFER)
        )
        found = []
        for row in chosen.iter_rows(named=True):
            hookpoint, latent = row["hookpoint"], row["latent"]
            if hookpoint not in lines:
                frame = LabelSet.load_latents(label_folder(run.out, hookpoint))
                lines[hookpoint] = frame["text"]
            found.append(
                Pair(
                    hookpoint=hookpoint,
                    latent=latent,
                    rule=segments(lines[hookpoint][latent]),
                    explanation=visible(texts.get((hookpoint, latent), "")),
                    n_firings=row["n_firings"],
                    f1={"rule": row["f1"], "explanation": row["f1_explanation"]},
                    pearson={"rule": row["pearson"], "explanation": row["pearson_explanation"]},
                )
            )
        out.append({"better": name, "pairs": found})
    return [one for one in out if one["pairs"]]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(
        path, RunError, f"delete {path} and run `labeler explain` again"
    )
    return found


def _table(path: Path) -> pl.DataFrame:
    columns = ("hookpoint", "latent", "stand", "n_firings", "f1", "pearson")
    try:
        return pl.read_parquet(path).select(columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); delete {MARKER} beside it and run "
            "`labeler explain` again"
        ) from error


def _texts(path: Path) -> dict[tuple[str, int], str]:
    try:
        lines = filter(None, path.read_text(encoding="utf-8").split("\n"))
        rows = [json.loads(line) for line in lines]
        return {(row["hookpoint"], int(row["latent"])): str(row["text"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run `labeler explain` again") from error
