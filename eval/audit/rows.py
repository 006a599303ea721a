"""One row of the audit's table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from labeler.eval.audit.measure import Estimate, Fit
from labeler.eval.audit.terms import Claim
from labeler.eval.audit.verdicts import Against
from labeler.explanations import Explanation

_MEASURES = (
    *("precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high"),
    *("f1", "auroc", "auroc_low", "auroc_high"),
    *("control_precision", "control_recall", "control_f1", "control_auroc"),
)
_RULE = ("rule_precision", "rule_recall", "rule_f1")

SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(("hookpoint",), pl.Utf8),
    "latent": pl.Int64,
    **dict.fromkeys(("explanation", "author", "origin", "claim", "method"), pl.Utf8),
    **dict.fromkeys(("n_firings", "n_contexts"), pl.Int64),
    **dict.fromkeys(_MEASURES, pl.Float64),
    "rule": pl.Utf8,
    **dict.fromkeys(_RULE, pl.Float64),
    "published": pl.Utf8,
    "copies": pl.Int64,
    "better_latent": pl.Int64,
    "better_f1": pl.Float64,
    "verdict": pl.Utf8,
    "reason": pl.Utf8,
}
"""Columns of ``audit.parquet``; what was not measured is null."""


@dataclass
class Row:
    """A row while it is being filled."""

    explanation: Explanation
    claim: Claim
    copies: int
    method: str = "none"
    n_firings: int | None = None
    n_contexts: int | None = None
    measures: dict[str, float] = field(default_factory=dict)
    rule: str | None = None
    better_latent: int | None = None
    better_f1: float | None = None
    verdict: str = ""
    reason: str = ""

    def set_words(self, f1: float, found: Mapping[str, Estimate], others: Sequence[Fit]) -> None:
        """Note how the words fit, and how those of others do."""
        self.method = "words"
        for name, one in found.items():
            self._estimate(name, one)
        self.measures["f1"] = f1
        for name in ("precision", "recall", "f1", "auroc"):
            values = np.array([getattr(other, name) for other in others])
            known = values[np.isfinite(values)]
            self.measures[f"control_{name}"] = float(known.mean()) if len(known) else float("nan")

    def set_auroc(self, against: Against) -> None:
        """Note the AUROC of contexts, in place of that of positions."""
        self._estimate("auroc", against.own)
        self.measures["control_auroc"] = against.control

    def set_rule(self, line: str, fit: Fit) -> None:
        """Note our own label, on the same text."""
        self.rule = line
        for name in ("precision", "recall", "f1"):
            self.measures[f"rule_{name}"] = getattr(fit, name)

    def _estimate(self, name: str, one: Estimate) -> None:
        for suffix, value in (("", one.value), ("_low", one.low), ("_high", one.high)):
            self.measures[name + suffix] = value

    def values(self) -> dict[str, Any]:
        """Its cells; None where nothing was measured."""
        one = self.explanation
        measures = {
            name: value if np.isfinite(value := self.measures.get(name, float("nan"))) else None
            for name in (*_MEASURES, *_RULE)
        }
        return {
            "hookpoint": one.hookpoint,
            "latent": one.latent,
            "explanation": one.text,
            "author": one.author,
            "origin": one.origin,
            "claim": str(self.claim),
            "method": self.method,
            "n_firings": self.n_firings,
            "n_contexts": self.n_contexts,
            **measures,
            "rule": self.rule,
            "published": json.dumps(dict(one.published)),
            "copies": self.copies,
            "better_latent": self.better_latent,
            "better_f1": self.better_f1,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The table."""
    return pl.DataFrame([dict(row) for row in rows], schema=SCHEMA, orient="row")
