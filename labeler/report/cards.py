"""The card of a latent: its label, its scores, its keys and real text. For page and terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import polars as pl

from labeler.errors import RunError
from labeler.eval.firings import TextFirings
from labeler.fitted import FDR, MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS
from labeler.labels import READABLE, LabelSet
from labeler.report.contexts import Excerpt, Sample, excerpts, respond
from labeler.report.evidence import Tried, Verdict
from labeler.report.glyphs import Segment, segments
from labeler.text import formula

KEYS_SHOWN = 10
"""Keys in a card's table, those that carry most of the predicted activation first."""


class Scores(TypedDict):
    """Scores on held-out text of the label of READABLE keys."""

    n_heldout: int
    f1: float
    f1_low: float
    f1_high: float
    precision: float
    recall: float
    auroc: float
    average_precision: float
    pearson: float
    false_per_1000: float


class KeyRow(TypedDict):
    """An entry of the label's table."""

    text: list[Segment]
    type: str
    weight: float
    """What the key adds to the prediction."""
    value: float
    """Predicted activation at the key and the kept keys that it refines."""
    n: int
    """Positions of the fit split at this key."""
    firings: int
    fires: bool
    """Whether `value` reaches the label's threshold; else it is an exception or a hint."""


class Candidate(TypedDict):
    """A function type that came close to labeling a latent, and why it did not."""

    type: str
    bits: float
    net_bits: float
    why: str


class Card(TypedDict):
    """Everything shown of a latent; numbers unrounded."""

    hookpoint: str
    latent: int
    status: str
    """labeled, abstained or too_rare."""
    live: bool | None
    """None where nothing was scored."""
    function_type: str | None
    line: list[Segment]
    code: list[Segment]
    """The label as a formula; empty without a label."""
    weights: list[Segment]
    """What the weights alone say; empty where they could not be read."""
    scores: Scores | None
    verdict: Verdict | None
    """None without a label, or before `labeler verify --all`."""
    n_documents: int
    n_fit: int
    bits: float
    net_bits: float
    threshold: float
    n_keys: int
    """Entries of the label at READABLE keys."""
    key_rows: list[KeyRow]
    candidates: list[Candidate]
    excerpts: list[Excerpt]


def read_scores(out: Path, hookpoint: str) -> pl.DataFrame | None:
    """Held-out scores of a hookpoint's labels at READABLE keys; None before `labeler verify`.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    path = out / "verify" / hookpoint / "latents.parquet"
    if not path.exists():
        return None
    try:
        return pl.read_parquet(path).filter(pl.col("budget") == str(READABLE)).sort("latent")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); delete its folder and run `labeler verify` again"
        ) from error


def make_cards(
    labels: LabelSet,
    latents: Sequence[int],
    scores: pl.DataFrame | None,
    *,
    n_documents: int,
    text: tuple[Sample, TextFirings] | None,
    seed: int,
    tried: Tried | None = None,
) -> list[Card]:
    """Cards of some latents of a hookpoint, in the order given.

    Parameters
    ----------
    labels : LabelSet
    latents : sequence of int
    scores : polars.DataFrame or None
        From `read_scores`.
    n_documents : int
        Held-out documents that the scores come from.
    text : (Sample, TextFirings) or None
        Where excerpts come from; None for cards without any.
    seed : int
    tried : Tried, optional
        From `read_tried`; None for cards without verdicts.
    """
    ordered = sorted(set(latents))
    short = labels.entries.filter(
        (pl.col("budget") == READABLE) & pl.col("latent").is_in(ordered)
    ).sort(pl.col("weight").abs() * pl.col("n"), descending=True, maintain_order=True)
    shown: dict[int, list[Excerpt]] = {}
    if text is not None:
        sample, firings = text
        responses = respond(labels, firings, sample, ordered)
        for row, latent in enumerate(ordered):
            labeled = bool(labels.labeled[latent])
            shown[latent] = excerpts(sample, responses, row, labeled=labeled, seed=(seed, latent))
    return [
        _card(
            labels.latents.row(latent, named=True),
            labels.hookpoint,
            None if scores is None else scores.row(latent, named=True),
            n_documents,
            short.filter(pl.col("latent") == latent),
            shown.get(latent, []),
            None if tried is None or not labels.labeled[latent] else tried.of(latent),
        )
        for latent in latents
    ]


def _card(
    row: Mapping[str, Any],
    hookpoint: str,
    scored: Mapping[str, Any] | None,
    n_documents: int,
    entries: pl.DataFrame,
    shown: list[Excerpt],
    verdict: Verdict | None,
) -> Card:
    labeled = row["status"] == "labeled"
    threshold = float(row[f"threshold_{READABLE}"]) if labeled else np.inf
    return Card(
        hookpoint=hookpoint,
        latent=row["latent"],
        status=row["status"],
        live=None if scored is None else is_live(row["n_fit"], scored["n_heldout"]),
        function_type=row["function_type"] if labeled else None,
        line=segments(row["text"]),
        code=segments(formula(entries, float(row[f"default_{READABLE}"]))) if labeled else [],
        # A latent too rare to fit has it in its line.
        weights=segments(row.get("weights") or "") if row["status"] != "too_rare" else [],
        # Without a label the predictions are the mean, and their scores say nothing.
        scores=_scores(scored) if scored is not None and labeled else None,
        verdict=verdict,
        n_documents=n_documents,
        n_fit=row["n_fit"],
        bits=row["bits"],
        net_bits=row["net_bits"],
        threshold=threshold,
        n_keys=len(entries),
        key_rows=[_key_row(entry, threshold) for entry in _heaviest(entries, threshold)],
        candidates=[] if labeled else [_candidate(one, row["q"]) for one in _tried(row)],
        excerpts=shown,
    )


def is_live(n_fit: int, n_heldout: int) -> bool:
    """Whether a latent fires often enough in both splits (design.md, section 2)."""
    return n_fit >= MIN_FIT_FIRINGS and n_heldout >= MIN_HELDOUT_FIRINGS


def _scores(scored: Mapping[str, Any]) -> Scores:
    return Scores(
        n_heldout=scored["n_heldout"],
        f1=scored["f1"],
        f1_low=scored["f1_low"],
        f1_high=scored["f1_high"],
        precision=scored["precision"],
        recall=scored["recall"],
        auroc=scored["auroc"],
        average_precision=scored["average_precision"],
        pearson=scored["pearson"],
        false_per_1000=scored["false_per_1000"],
    )


def _heaviest(entries: pl.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """The heaviest entries; those that say "fires" before the rest."""
    fires = pl.col("value") >= threshold
    return pl.concat([entries.filter(fires), entries.filter(~fires)]).head(KEYS_SHOWN).to_dicts()


def _key_row(entry: Mapping[str, Any], threshold: float) -> KeyRow:
    return KeyRow(
        text=segments(entry["text"]),
        type=entry["level"],
        weight=entry["weight"],
        value=entry["value"],
        n=entry["n"],
        firings=entry["firings"],
        fires=entry["value"] >= threshold,
    )


def _tried(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The closest types of a latent that was fitted; none for one too rare to fit."""
    return list(row["closest"]) if row["status"] == "abstained" else []


def _candidate(one: Mapping[str, Any], q: float) -> Candidate:
    bits, net = one["bits"], one["net_bits"]
    if bits <= 0:
        why = "saves no bits out of fold"
    elif net <= 0:
        why = f"saves {bits:,.0f} bits, but no key pays for stating it"
    elif q > FDR:
        why = f"saves {bits:,.0f} bits, as shifted activations do (q = {q:.2g})"
    else:
        why = "the type that won instead failed"
    return Candidate(type=one["type"], bits=bits, net_bits=net, why=why)
