"""The page's sections on function types and on what stays unlabeled."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from labeler.analysis import analyse_types, pool, type_shares
from labeler.fitted import MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.report.cards import Card
from labeler.report.charts import stacked_bars, tone, tones_of
from labeler.triage import REASONS, count_reasons, write_triage
from labeler.triage_facts import WEAK_F1

EXAMPLES = 2
"""Latents shown for each reason."""

_TYPES_SHOWN = 12
"""Function types of the table that are seen without unfolding it."""

_GREY = "too rare"
"""The reason that has its own grey, as in the bars of function types."""


class Example(NamedTuple):
    """A latent that shows a reason."""

    reason: str
    hookpoint: str
    latent: int
    detail: str


def triage_run(run: Run) -> dict[str, pl.DataFrame]:
    """Triage every hookpoint of a run, and write what was found."""
    return {name: write_triage(run, name) for name in run.hookpoints}


def pick_examples(run: Run, triaged: Mapping[str, pl.DataFrame]) -> list[Example]:
    """For each reason, latents drawn by the run's seed, those that held-out text shows first."""
    rng = np.random.default_rng(run.config.seed)
    together = pl.concat(
        frame.with_columns(
            pl.lit(name).alias("hookpoint"),
            pl.Series("shown", run.cache.summary(name).n_heldout[frame["latent"].to_numpy()]).clip(
                upper_bound=MIN_HELDOUT_FIRINGS
            ),
        )
        for name, frame in triaged.items()
    )
    examples = []
    for reason in REASONS:
        mine = together.filter(pl.col("reason") == reason.name)
        shuffled = mine[rng.permutation(len(mine))]
        for row in (
            shuffled.sort("shown", descending=True, maintain_order=True)
            .head(EXAMPLES)
            .rows(named=True)
        ):
            examples.append(Example(reason.name, row["hookpoint"], row["latent"], row["detail"]))
    return examples


def triage_section(
    triaged: Mapping[str, pl.DataFrame],
    examples: Sequence[Example],
    cards: Mapping[tuple[str, int], Card],
) -> dict[str, Any]:
    """Counts, bars and examples; `cards` are those of the examples, by hookpoint and latent."""
    counts = {name: count_reasons(found) for name, found in triaged.items()}
    total = {
        reason.name: sum(found[reason.name] for found in counts.values()) for reason in REASONS
    }
    coloured = [reason.name for reason in REASONS if reason.name != _GREY]
    return {
        "weak": WEAK_F1,
        "counts": counts,
        "total": total,
        "bars": stacked_bars(counts, tones_of(coloured)),
        "legend": [
            {"name": name, "tone": tone(name, coloured)}
            for name in [*coloured, _GREY]
            if total[name]
        ],
        "reasons": [
            {
                "name": reason.name,
                "means": reason.means,
                "count": total[reason.name],
                "examples": [
                    {"detail": one.detail, "card": cards[one.hookpoint, one.latent]}
                    for one in examples
                    if one.reason == reason.name
                ],
            }
            for reason in REASONS
            if total[reason.name]
        ],
    }


def types_section(run: Run) -> list[dict[str, Any]]:
    """Shares of every function type that saves anything: over all hookpoints, then by hookpoint."""
    counts = analyse_types(run.out, run.hookpoints)
    tables = {"all layers": pool(counts.values()), **counts} if len(counts) > 1 else counts
    return [
        {
            "name": name,
            "rows": type_shares(table.filter(pl.col("n_covered") > 0)).to_dicts(),
            "first": _TYPES_SHOWN,
            "idle": table.filter(pl.col("n_covered") == 0)["type"].to_list(),
        }
        for name, table in tables.items()
    ]
