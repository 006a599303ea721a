"""A label's verdict and the evidence for it, from `labeler verify --all`. For page and terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import polars as pl

from labeler.errors import RunError
from labeler.report.glyphs import visible
from labeler.summary import read_tests

UNTRIED = "not tried"
"""In place of a verdict: the label was not among those drawn."""


class Evidence(TypedDict):
    """One test of one label."""

    test: str
    n: int
    """Trials; firings in the held-out text for the test "heldout"."""
    own: float
    control: float
    """NaN where the label has no partner, as are the next three."""
    difference: float
    low: float
    high: float
    failed: int
    """Trials that could not be made."""


class Verdict(TypedDict):
    """What became of a label."""

    verdict: str
    """One of `labeler.eval.verdict.VERDICTS`, or UNTRIED."""
    reason: str
    claimed: float
    """F1 on the fit split; NaN where untried."""
    budget: str
    """Keys of the label that was tried."""
    evidence: list[Evidence]


@dataclass(frozen=True, eq=False)
class Tried:
    """Files of one hookpoint's tests.

    Attributes
    ----------
    facts : dict
        Of ``tests.json``: counts of verdicts, means of tests.
    verdicts : polars.DataFrame
        A row per tried latent.
    evidence : polars.DataFrame
        A row per tried latent and test.
    """

    facts: Mapping[str, Any]
    verdicts: pl.DataFrame
    evidence: pl.DataFrame

    def of(self, latent: int) -> Verdict:
        """The verdict on a labeled latent."""
        mine = self.verdicts.filter(pl.col("latent") == latent)
        if mine.is_empty():
            return Verdict(
                verdict=UNTRIED,
                reason=f"not among the {self.facts['n_tested']:,} labels of this layer drawn for "
                "the tests",
                claimed=float("nan"),
                budget=str(self.facts["budget"]),
                evidence=[],
            )
        row = mine.row(0, named=True)
        tests = self.evidence.filter(pl.col("latent") == latent)
        return Verdict(
            verdict=row["verdict"],
            # A generator is named by its server or folder: text like any other.
            reason=visible(row["reason"]),
            claimed=row["claimed"],
            budget=str(self.facts["budget"]),
            evidence=[_evidence(one) for one in tests.iter_rows(named=True)],
        )


def read_tried(out: Path, hookpoint: str) -> Tried | None:
    """What the tests of a hookpoint found; None before `labeler verify --all`.

    Raises
    ------
    RunError
        If a file is missing or damaged.
    """
    facts = read_tests(out, hookpoint)
    if facts is None:
        return None
    verdicts, evidence = (
        _read(out / "verify" / hookpoint / name, columns)
        for name, columns in (
            ("verdicts.parquet", ("latent", "verdict", "reason", "claimed")),
            ("evidence.parquet", ("latent", *Evidence.__annotations__)),
        )
    )
    return Tried(facts, verdicts, evidence)


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path).select(columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); delete tests.json beside it and run "
            "`labeler verify --all` again"
        ) from error


def _evidence(row: Mapping[str, Any]) -> Evidence:
    return Evidence(
        test=visible(row["test"]),
        n=row["n"],
        own=row["own"],
        control=row["control"],
        difference=row["difference"],
        low=row["low"],
        high=row["high"],
        failed=row["failed"],
    )
