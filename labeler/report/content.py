"""What the page says, as a plain dict: every number of it comes from here."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labeler import __version__
from labeler.config import CORRECTIONS, DEFAULT_FUNCTIONS, FAMILIES, RunConfig
from labeler.errors import RunError
from labeler.eval.heldout import load_heldout_firings
from labeler.fitted import FDR, MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.report.cards import Card, make_cards, read_scores
from labeler.report.charts import BUDGETS, f1_panel, rewrite_chart, stacked_bars, tone
from labeler.report.choose import cards_per_hookpoint, choose
from labeler.report.contexts import Sample
from labeler.report.unlabeled import (
    Example,
    pick_examples,
    triage_run,
    triage_section,
    types_section,
)
from labeler.store import looks_local
from labeler.summary import read_explained, read_rewrite

LEVEL = 0.7
"""The F1 of the headline, explained@0.7."""

OTHER_TYPES = "other types"
"""Where plug-ins, refinements and types not fitted by default are counted."""

WHOLE = "all layers"
"""Name of the row and the line of every layer at once."""

_CE = ("base", "coder", *(f"labels_{budget}" for budget in BUDGETS), "mean", "skip", "zero")
CE_COLUMNS = (*_CE, "shuffled")


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
        "title": _short(run.config.model),
        "facts": _facts(run, n_documents),
        "hashes": _hashes(run, any_labels),
        "budgets": list(BUDGETS),
        "readable": READABLE,
        "level": LEVEL,
        "rows": [_row(layer) for layer in layers] + ([_whole_row(layers, whole)] if whole else []),
        "ce_columns": list(CE_COLUMNS),
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
        "bars": stacked_bars(by_family, families),
        "type_tables": types_section(run),
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
    }


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
    choices = choose(labels.latents, scores, most, seed)
    firings = load_heldout_firings(run.cache, name, run.tokens)
    mine = [one.latent for one in examples if one.hookpoint == name]
    cards = make_cards(
        labels,
        [*(choice.latent for choice in choices), *mine],
        scores,
        n_documents=n_documents,
        text=(sample, firings),
        seed=seed,
    )
    return {
        "name": name,
        "explained": explained,
        "rewritten": rewritten,
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
        "ce": {name: layer["rewritten"]["ce"][name] for name in CE_COLUMNS},
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
        "ce": {name: rewritten["ce"][name] for name in CE_COLUMNS},
        "recovered_shuffled": rewritten["shuffled"],
        "whole": True,
    }


def _facts(run: Run, n_documents: int) -> list[tuple[str, str]]:
    config, tokens = run.config, run.tokens
    fit = tokens.fit
    return [
        ("model", _short(config.model)),
        ("coders", f"{_short(config.coder)} ({len(run.hookpoints)})"),
        ("corpus", _short(config.corpus)),
        ("fit", f"{fit.n_positions:,} tokens of {len(np.unique(fit.doc)):,} documents"),
        ("held out", f"{tokens.heldout.n_positions:,} tokens of {n_documents:,} documents"),
        ("contexts", f"{tokens.ctx_len} tokens"),
    ]


def _hashes(run: Run, labels: LabelSet) -> list[tuple[str, str]]:
    manifest = labels.manifest
    coders = [
        (f"coder {name}", run.cache.manifest.hookpoints[name].coder[:12]) for name in run.hookpoints
    ]
    return [
        ("corpus", str(manifest["corpus"])[:12]),
        ("model", str(manifest["model"])[:12]),
        ("tokens", run.tokens.fingerprint[:12]),
        *coders,
        ("fitted by", str(manifest["code"])),
        ("report by", __version__),
        ("seed", str(run.config.seed)),
    ]


def _short(source: str) -> str:
    """The last two parts of a path; hub names and the built-in corpus as they are."""
    return "/".join(Path(source).parts[-2:]) if looks_local(source) else source


def commands(run: Run, labels: LabelSet) -> list[str]:
    """Commands that make this run again, and that look further into it."""
    config: RunConfig = run.config
    words = ["labeler", "run", "--model", config.model, "--coder", config.coder]
    words += ["--corpus", config.corpus]
    if config.text_column != "text":
        words += ["--text-column", config.text_column]
    for column in config.topic_columns:
        words += ["--topic-column", column]
    if config.split_column:
        words += ["--split-column", config.split_column]
    words += ["--tokens", str(config.tokens), "--heldout-tokens", str(config.heldout_tokens)]
    words += ["--ctx-len", str(config.ctx_len)]
    for name in config.hookpoints:
        words += ["--hookpoint", name]
    asked = labels.manifest["asked"]
    if set(asked["functions"]) != set(DEFAULT_FUNCTIONS):
        words += ["--functions", ",".join(asked["functions"])]
    if set(asked["corrections"]) != set(CORRECTIONS):
        words += ["--corrections", ",".join(asked["corrections"]) or "none"]
    for plugin in run.plugins:
        words += ["--plugin", str(plugin.path)]
    words += ["--rewrite-tokens", str(_rewrite_tokens(run)), "--seed", str(config.seed)]
    out = ["--out", str(run.out)]
    first = run.hookpoints[0]
    return [
        shlex.join(words + out),
        shlex.join(["labeler", "show", first, "0", *out]),
        shlex.join(["labeler", "export", first, "0", *out]),
    ]


def _rewrite_tokens(run: Run) -> int:
    """Positions of the documents that `rewrite` used: asking for as many takes the same ones."""
    heldout = run.tokens.heldout
    n = read_rewrite(run.out, run.hookpoints[0])["n_documents"]
    documents = np.unique(heldout.doc)[:n]
    return int(heldout.length[np.isin(heldout.doc, documents)].sum())
