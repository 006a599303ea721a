"""What the page of an audit says, as a plain dict."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from labeler.eval.audit.verdicts import FITS, GOOD
from labeler.report.audit_contexts import Shown
from labeler.report.audit_text import MAX_LINE, MAX_TEXT, cut, prose, short_line, shown_name
from labeler.report.charts import stacked_bars
from labeler.report.glyphs import visible

MEANS = {
    "supported": f"better than other explanations, with a precision and recall of at least {GOOD}; "
    f"of prose, or words of which a part can be read, from an AUROC of {FITS}",
    "too broad": "better than other explanations, but most places that it names are no firings",
    "too narrow": "better than other explanations, but most of its activation is elsewhere",
    "contradicted": f"no better than other explanations, and below {GOOD} with its whole interval",
    "failed": "no explanation: empty, an error message, a refusal, boilerplate",
    "duplicate": "many latents have this very text, and nothing here can check it",
    "unverifiable": "nothing here can check it, or there is too little to tell",
}
"""What each verdict says, in the order of tables and bars."""

ORDER = ("contradicted", "too broad", "too narrow", "supported", "unverifiable", "duplicate")
"""Verdicts in the order of the cards: what is wrong first; `failed` last."""

MOST_SHOWN = 200
"""Explanations of each verdict on the page; the table has all."""

MOST_BESIDE = 12
"""Rows of rule beside explanation."""

MOST_BARS = 8
"""Places with a bar of their own; of more, only the sum."""

MOST_SETS = 8
"""Suspicious sets that are shown at once; the others unfold."""

_SCORES = ("precision", "recall", "f1", "auroc")
_TITLES = {"f1": "F1", "auroc": "AUROC"}
TEXTS = {
    "run": "held-out text of a run",
    "model": "held-out text of a corpus, with a model and coders",
    "contexts": "the contexts that came with the explanations",
    "none": "nothing: only what needs no activations was checked",
}
"""What explanations were checked on, by kind."""


_NUMBERS = re.compile(r"([0-9]{1,9})")


def audit_content(
    frame: pl.DataFrame,
    facts: Mapping[str, Any],
    shown: Mapping[int, Sequence[Shown]] | None = None,
) -> dict[str, Any]:
    """Summarise an audit.

    Parameters
    ----------
    frame : DataFrame
        ``audit.parquet``.
    facts : mapping
        ``audit.json``.
    shown : mapping of int to sequence of Shown
        By row of the frame, contexts in which the latent fires.
    """
    picked = picked_rows(frame)
    rows = frame.to_dicts()
    return {
        "title": visible(cut(str(facts["source"]), 200)["text"]),
        "facts": _facts(facts),
        "notes": [visible(cut(str(note), MAX_LINE)["text"]) for note in facts["notes"]],
        "n": len(rows),
        "verdicts": verdict_table(frame),
        "methods": _methods(frame),
        "suspicious": [_suspicious(one) for one in facts["suspicious"]],
        "beside": beside(frame),
        "with_rules": rule_means(frame),
        "groups": [
            {
                "verdict": verdict,
                "n": facts["verdicts"].get(verdict, 0),
                "cards": [_card(rows[index], (shown or {}).get(index, ())) for index in indices],
            }
            for verdict, indices in picked.items()
        ],
        "most": MOST_SHOWN,
        "most_sets": MOST_SETS,
    }


def picked_rows(frame: pl.DataFrame) -> dict[str, list[int]]:
    """Rows that the page shows: the first `MOST_SHOWN` of each verdict there is."""
    verdicts = frame["verdict"].to_list()
    found: dict[str, list[int]] = {}
    for index, verdict in enumerate(verdicts):
        found.setdefault(verdict, []).append(index)
    ordered = [name for name in (*ORDER, "failed") if name in found]
    return {name: found[name][:MOST_SHOWN] for name in ordered}


def verdict_table(frame: pl.DataFrame) -> dict[str, Any]:
    """Verdicts by hookpoint, as a table and as bars."""
    counts: dict[str, dict[str, int]] = {}
    grouped = frame.group_by("hookpoint", "verdict").len().rows()
    for hookpoint, verdict, n in sorted(grouped, key=lambda one: _natural(one[0])):
        counts.setdefault(shown_name(hookpoint), dict.fromkeys(MEANS, 0))[verdict] = n
    total = {name: sum(found[name] for found in counts.values()) for name in MEANS}
    barred = counts if len(counts) <= MOST_BARS else {f"all {len(counts)} places": total}
    return {
        "rows": [
            {"name": name, "n": sum(found.values()), "counts": found}
            for name, found in counts.items()
        ],
        "total": total,
        "bars": stacked_bars(barred, {name: name.replace(" ", "-") for name in MEANS}),
        "legend": [{"name": name, "tone": name.replace(" ", "-")} for name in MEANS if total[name]],
        "means": [
            {"name": name, "text": text, "count": total[name]}
            for name, text in MEANS.items()
            if total[name]
        ],
    }


def beside(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Explanations that our rule disagrees with most, both judged on the same text.

    By how far apart their F1 are; one without an F1, judged by its nearness to contexts, comes
    after, if it was not supported.
    """
    ruled = frame.filter(pl.col("rule").is_not_null()).with_columns(
        (pl.col("rule_f1") - pl.col("f1")).fill_nan(None).alias("gap")
    )
    apart = ruled.filter(pl.col("gap").is_not_null())
    apart = apart.sort(pl.col("gap").abs(), descending=True, maintain_order=True)
    other = ruled.filter(
        pl.col("gap").is_null() & pl.col("verdict").is_in(["contradicted", "too broad"])
    )
    chosen = pl.concat([apart.head(MOST_BESIDE), other]).head(MOST_BESIDE)
    return [
        {
            "hookpoint": shown_name(row["hookpoint"]),
            "latent": row["latent"],
            "explanation": prose(row["explanation"], 200),
            "rule": short_line(row["rule"], 200),
            "f1": row["f1"],
            "auroc": row["auroc"],
            "rule_f1": row["rule_f1"],
            "verdict": row["verdict"],
        }
        for row in chosen.to_dicts()
    ]


def rule_means(frame: pl.DataFrame) -> dict[str, Any] | None:
    """Mean F1 of explanations and rules, over those that have both; None where none has."""
    both = frame.select(pl.col("f1", "rule_f1").fill_nan(None)).drop_nulls()
    if not len(both):
        return None
    own, rule = (float(column.sum()) / len(both) for column in both.get_columns())
    return {"n": len(both), "f1": own, "rule_f1": rule}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts layers.9 before layers.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBERS.split(name)]


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    text = facts["text"]
    further = {name: value for name, value in text.items() if name != "kind" and value is not None}
    return [
        ("explanations", f"{facts['n']:,}"),
        ("read as", str(facts["read_as"])),
        ("checked on", TEXTS[text["kind"]]),
        *(
            (name.replace("_", " "), visible(cut(_plain(value), 200)["text"]))
            for name, value in further.items()
        ),
    ]


def _plain(value: object) -> str:
    """A fact as a person writes it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _methods(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Verdicts by what checked them."""
    counts = frame.group_by("method", "verdict").len()
    return [
        {
            "name": name,
            "n": int(found["len"].sum()),
            "counts": dict(found.select("verdict", "len").iter_rows()),
        }
        for name in ("words", "embedding", "simulator", "none")
        if len(found := counts.filter(pl.col("method") == name))
    ]


def _suspicious(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": one["kind"],
        "n": one["n"],
        "p": one["p"],
        "text": visible(cut(str(one["text"]), MAX_TEXT)["text"]),
        "examples": [
            visible(cut(example if isinstance(example, str) else json.dumps(example), 200)["text"])
            for example in one["examples"]
        ],
    }


def _card(row: Mapping[str, Any], shown: Sequence[Shown]) -> dict[str, Any]:
    published = json.loads(row["published"] or "{}")
    return {
        "hookpoint": shown_name(row["hookpoint"]),
        "latent": row["latent"],
        "verdict": row["verdict"],
        "method": row["method"],
        "author": visible(cut(row["author"] or "", 80)["text"]),
        "origin": visible(cut(row["origin"] or "", 200)["text"]),
        "explanation": prose(row["explanation"], MAX_TEXT),
        "reason": short_line(row["reason"] or "", MAX_TEXT),
        "claim": short_line(row["claim"] or "", MAX_LINE),
        "rule": short_line(row["rule"] or "", MAX_LINE),
        "scores": [_TITLES.get(name, name) for name in _measured(row)],
        "numbers": _numbers(row),
        "f1": row["f1"],
        "n_firings": row["n_firings"],
        "n_contexts": row["n_contexts"],
        "published": [
            (visible(cut(str(name), 60)["text"]), value)
            for name, value in list(published.items())[:12]
        ],
        "copies": row["copies"],
        "better_latent": row["better_latent"],
        "better_f1": row["better_f1"],
        "shown": list(shown),
    }


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _measured(row: Mapping[str, Any]) -> list[str]:
    """Scores that anything of a row has."""
    return [
        name
        for name in _SCORES
        if any(_known(row.get(f"{of}{name}")) for of in ("", "control_", "rule_"))
    ]


def _numbers(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of the explanation, of its controls and of our rule; those without any left out."""
    lines = (
        ("this explanation", ""),
        ("others’ explanations, on average", "control_"),
        ("our rule", "rule_"),
    )
    found = []
    for title, of in lines:
        cells = [
            {
                "value": row.get(f"{of}{name}"),
                "low": row.get(f"{name}_low") if not of else None,
                "high": row.get(f"{name}_high") if not of else None,
            }
            for name in _measured(row)
        ]
        if any(_known(cell["value"]) for cell in cells):
            found.append({"title": title, "cells": cells})
    return found
