"""What the page says, as a plain dict: every number of it comes from here."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labeler.config import FAMILIES
from labeler.errors import RunError
from labeler.eval.heldout import load_heldout_firings
from labeler.fitted import FDR, MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.report.audit_section import audit_section
from labeler.report.cards import Card, make_cards, read_scores
from labeler.report.charts import BUDGETS, f1_panel, rewrite_chart, stacked_bars, tone, tones_of
from labeler.report.choose import cards_per_hookpoint, choose
from labeler.report.contexts import Sample
from labeler.report.evidence import read_tried
from labeler.report.explained import explained_section
from labeler.report.origin import commands, facts, hashes, short
from labeler.report.rewriting import dearest, dearest_of_all, fraction_charts, stand_ins
from labeler.report.unlabeled import (
    Example,
    pick_examples,
    triage_run,
    triage_section,
    types_section,
)
from labeler.report.verdicts import verdicts_section
from labeler.summary import read_curves, read_explained, read_rewrite

LEVEL = 0.7
"""The F1 of the headline, explained@0.7."""

OTHER_TYPES = "other types"
"""Where plug-ins, refinements and types not fitted by default are counted."""

WHOLE = "all layers"
"""Name of the row and the line of every layer at once."""


def report_content(run: Run) -> dict[str, Any]:
    """Summarise a run.

    Raises
    ------
    RunError, LabelError, CacheError
        If a step has not been run; names it.
    """
    tokens = run.tokens
    heldout = tokens.heldout
    names = run.hookpoints
    n_documents = len(np.unique(heldout.doc))
    sample: Sample | None = None
    labels: LabelSet | None = None
    layers = []
    rewritten = {name: read_rewrite(run.out, name) for name in names}
    triaged = triage_run(run)
    examples = pick_examples(run, triaged)
    for name in names:
        # Types and nodes are the run's, not the hookpoint's: read once, found once.
        tree = labels.shared if labels else None
        labels = LabelSet.load(label_folder(run.out, name), tree)
        sample = sample or Sample.take(heldout, labels.shared)
        layers.append(_layer(run, name, labels, rewritten[name], sample, n_documents, examples))
    any_labels = _loaded(labels)
    types = list(any_labels.manifest["types"])
    families = [*FAMILIES, OTHER_TYPES]
    whole = read_rewrite(run.out, "all_layers") if len(names) > 1 else None
    counts = {layer["name"]: layer["counts"] for layer in layers}
    by_family = {name: _by_family(found) for name, found in counts.items()}
    series = {layer["name"]: layer["recovered"] for layer in layers}
    if whole:
        series[WHOLE] = whole["recovered"]
    return {
        "title": short(run.config.model),
        "facts": facts(run, n_documents),
        "hashes": hashes(run, any_labels),
        "budgets": list(BUDGETS),
        "readable": READABLE,
        "level": LEVEL,
        "rows": [_row(layer) for layer in layers] + ([_whole_row(layers, whole)] if whole else []),
        "verdicts": verdicts_section({layer["name"]: layer["tried"] for layer in layers}),
        "stand_ins": stand_ins(
            [layer["rewritten"] for layer in layers] + ([whole] if whole else [])
        ),
        "fractions": fraction_charts(
            {one: read_curves(run.out, name) for one, name in _measured(names, whole)}
        ),
        "dearest": dearest_of_all([layer["dearest"] for layer in layers]),
        "shown": {
            f"{layer['name']}-{one['card']['latent']}" for layer in layers for one in layer["cards"]
        },
        "rewrite": {
            "n_tokens": (whole or layers[0]["rewritten"])["n_tokens"],
            "n_documents": (whole or layers[0]["rewritten"])["n_documents"],
        },
        "types": [
            name
            for name in [*types, "abstained", "too rare"]
            if any(found.get(name) for found in counts.values())
        ],
        "families": [
            {"name": name, "tone": tone(name, families)}
            for name in [*families, "abstained", "too rare"]
            if any(found.get(name) for found in by_family.values())
        ],
        "bars": stacked_bars(by_family, tones_of(families)),
        "type_tables": types_section(run),
        "prose": explained_section(run),
        "explain_command": shlex.join(["labeler", "explain", "--out", str(run.out)]),
        "audits": audit_section(run),
        "curve": rewrite_chart(series, WHOLE),
        "triage": triage_section(
            triaged,
            examples,
            {key: card for one in layers for key, card in one["examples"].items()},
        ),
        "layers": layers,
        "tones": {name: tone(_family(name), families) for name in types},
        "notes": {
            "abstained_types": dict(any_labels.manifest["abstained_types"]),
            "min_fit": MIN_FIT_FIRINGS,
            "min_heldout": MIN_HELDOUT_FIRINGS,
            "fdr": FDR,
            "few_documents": n_documents < 30,
            "n_documents": n_documents,
        },
        "commands": commands(run, any_labels),
        "verify_command": shlex.join(["labeler", "verify", "--out", str(run.out), "--all"]),
    }


def _measured(names: Sequence[str], whole: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What was rewritten: its name on the page, and that of its files."""
    return [(name, name) for name in names] + ([(WHOLE, "all_layers")] if whole else [])


def _family(name: str) -> str:
    """Family of a winning type, by which the page is coloured; other names stay."""
    if name in ("abstained", "too rare"):
        return name
    return next((family for family, types in FAMILIES.items() if name in types), OTHER_TYPES)


def _by_family(counts: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in counts.items():
        found[_family(name)] = found.get(_family(name), 0) + count
    return found


def _loaded(labels: LabelSet | None) -> LabelSet:
    if labels is None:
        raise RunError("the run has no hookpoints; run `labeler cache` first")
    return labels


def _layer(
    run: Run,
    name: str,
    labels: LabelSet,
    rewritten: dict[str, Any],
    sample: Sample,
    n_documents: int,
    examples: Sequence[Example],
) -> dict[str, Any]:
    explained = read_explained(run.out, name)
    scores = read_scores(run.out, name)
    if scores is None or len(scores) != labels.n_latents:
        raise RunError(
            f"{run.out / 'verify' / name} lacks the scores of {name}; run `labeler verify` first"
        )
    seed = run.config.seed
    most = cards_per_hookpoint(len(run.hookpoints))
    tried = read_tried(run.out, name)
    verdicts = tried.verdicts if tried else None
    choices = choose(labels.latents, scores, most, seed, verdicts)
    firings = load_heldout_firings(run.cache, name, run.tokens)
    mine = [one.latent for one in examples if one.hookpoint == name]
    cards = make_cards(
        labels,
        [*(choice.latent for choice in choices), *mine],
        scores,
        n_documents=n_documents,
        text=(sample, firings),
        seed=seed,
        tried=tried,
    )
    return {
        "name": name,
        "explained": explained,
        "rewritten": rewritten,
        "tried": tried,
        "dearest": dearest(run.out, labels, scores, verdicts),
        "recovered": rewritten["recovered"],
        "counts": _counts(labels.latents),
        "panel": _panel(run.out, name, labels, explained["n_live"]),
        "cards": [
            {"why": choice.why, "reason": _reason(card), "card": card}
            for choice, card in zip(choices, cards[: len(choices)], strict=True)
        ],
        "examples": {(name, card["latent"]): card for card in cards[len(choices) :]},
    }


def _reason(card: Card) -> str | None:
    """Why a latent has no label, beyond its own line."""
    if card["status"] == "too_rare" and not card["excerpts"]:
        return "It never fires in the held-out text searched, so there is nothing to show."
    return None


def _counts(latents: pl.DataFrame) -> dict[str, int]:
    """Latents by winning type, abstained and too rare."""
    kind = pl.when(pl.col("status") == "labeled").then(pl.col("function_type"))
    names = latents.select(kind.otherwise(pl.col("status").str.replace("_", " ")).alias("name"))
    return dict(sorted(names["name"].value_counts().iter_rows()))


def _panel(out: Path, name: str, labels: LabelSet, n_live: int) -> dict[str, Any]:
    frame = pl.read_parquet(out / "verify" / name / "latents.parquet")
    counted = labels.latents.filter(
        (pl.col("status") == "labeled") & (pl.col("n_fit") >= MIN_FIT_FIRINGS)
    )["latent"]
    mine = frame.filter(
        pl.col("latent").is_in(counted.implode()) & (pl.col("n_heldout") >= MIN_HELDOUT_FIRINGS)
    )
    f1 = {
        budget: mine.filter(pl.col("budget") == budget)["f1"].to_numpy().astype(np.float64)
        for budget in BUDGETS
    }
    readable = f1[str(READABLE)]
    median = float(np.median(readable)) if len(readable) else None
    return {**f1_panel(f1, n_live, LEVEL), "median": median}


def _row(layer: dict[str, Any]) -> dict[str, Any]:
    counted = layer["explained"]
    return {
        "name": layer["name"],
        "n_latents": counted["n_latents"],
        "n_live": counted["n_live"],
        "n_labeled": counted["n_labeled"],
        "n_abstained": counted["n_live"] - counted["n_labeled"],
        "explained": {budget: counted["explained"][budget][str(LEVEL)] for budget in BUDGETS},
        "recovered": layer["recovered"],
        "recovered_shuffled": layer["rewritten"]["shuffled"],
        "whole": False,
    }


def _whole_row(layers: list[dict[str, Any]], rewritten: dict[str, Any]) -> dict[str, Any]:
    """All layers together: counts add up, explained is pooled over live latents."""
    rows = [_row(layer) for layer in layers]
    live = sum(row["n_live"] for row in rows)
    return {
        "name": WHOLE,
        **{
            name: sum(row[name] for row in rows)
            for name in ("n_latents", "n_live", "n_labeled", "n_abstained")
        },
        "explained": {
            budget: {
                "share": sum(row["explained"][budget]["share"] * row["n_live"] for row in rows)
                / max(live, 1),
                "low": None,
                "high": None,
            }
            for budget in BUDGETS
        },
        "recovered": rewritten["recovered"],
        "recovered_shuffled": rewritten["shuffled"],
        "whole": True,
    }
