"""One verdict per label from the evidence of all tests (docs/verification.md).

A label is held to what it claims. It is

    verified     if it finds its latent's firings on unseen text (F1 of GOOD) and beats its control
                 in every test that applies
    refuted      if some test excludes what it claims: its F1, or an effect of its key
    weak         if it is neither: it falls short of GOOD, or does not beat its control somewhere
    untestable   if its latent fires too rarely in the text to tell
"""

from collections.abc import Mapping
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.arrays import Doubles
from labeler.eval.against import TEST as HELDOUT_TEST

VERDICTS = ("verified", "weak", "refuted", "untestable")

GOOD = 0.7
"""Held-out F1 from which a label may be verified: that of explained@0.7."""

MARGIN = 0.1
"""How far below its claim a label's F1 must be, with its whole interval, to refute it; and the
least advantage over the control that is worth the name."""

EFFECT = 0.3
"""Advantage over the control that a strong label's key must be able to have in a test by trials:
the whole interval below it refutes the label. Half of the claim where that is less."""

MIN_FIRINGS = 5
"""Firings in the held-out text that a verdict needs."""

MIN_TRIALS = 6
"""Trials from which a test applies."""


def judge(
    evidence: pl.DataFrame, claimed: Doubles, latents: npt.NDArray[np.integer]
) -> pl.DataFrame:
    """Verdicts on some labels.

    Parameters
    ----------
    evidence : polars.DataFrame
        Rows of `labeler.eval.prove.evidence_of`.
    claimed : float64 [n_latents]
        F1 that each label claims, on the fit split.
    latents : int [n]
        Latents under test.

    Returns
    -------
    polars.DataFrame
        A row per tested latent: latent, verdict, reason, claimed.
    """
    rows: dict[int, dict[str, dict[str, Any]]] = {int(latent): {} for latent in latents}
    for row in evidence.iter_rows(named=True):
        if row["latent"] in rows:
            rows[row["latent"]][row["test"]] = row
    found = [_judge(tests, float(claimed[latent])) for latent, tests in rows.items()]
    return pl.DataFrame(
        {
            "latent": np.array(list(rows), dtype=np.int32),
            "verdict": [verdict for verdict, _ in found],
            "reason": [reason for _, reason in found],
            "claimed": [float(claimed[latent]) for latent in rows],
        },
        schema_overrides={"verdict": pl.String, "reason": pl.String, "claimed": pl.Float64},
    )


def _judge(tests: Mapping[str, dict[str, Any]], claimed: float) -> tuple[str, str]:
    """Verdict and its reason."""
    whole = tests.get(HELDOUT_TEST)
    if whole is None or whole["n"] < MIN_FIRINGS:
        n = 0 if whole is None else whole["n"]
        return "untestable", f"fires {n} times in the held-out text, {MIN_FIRINGS} are needed"
    trials = [row for name, row in tests.items() if name != HELDOUT_TEST]
    applied = [row for row in trials if row["n"] >= MIN_TRIALS]
    against = _refutation(whole, applied, claimed)
    if against:
        return "refuted", against
    short = _shortfall(whole, applied)
    if short:
        return "weak", short
    if not applied:
        return "verified", f"F1 {whole['own']:.2f} on held-out text; no other test applies"
    beaten = ", ".join(
        f"{row['test']} {row['own']:.2f} against {row['control']:.2f}" for row in applied
    )
    return "verified", f"F1 {whole['own']:.2f} on held-out text; beats its control: {beaten}"


def _refutation(whole: dict[str, Any], applied: list[dict[str, Any]], claimed: float) -> str | None:
    """What excludes the label's claim."""
    bounds = f"{whole['own']:.2f} [{whole['own_low']:.2f}, {whole['own_high']:.2f}]"
    if whole["own"] < GOOD and whole["own_high"] < claimed - MARGIN:
        return f"F1 {bounds} on held-out text, where its fit claims {claimed:.2f}"
    if whole["high"] < MARGIN:
        return (
            f"F1 {bounds} on held-out text, no better than another latent's label "
            f"({whole['control']:.2f})"
        )
    bound = min(EFFECT, claimed / 2)
    for row in applied:
        if row["high"] < bound:
            return (
                f"{row['test']}: {row['own']:.2f} of {row['n']} trials against "
                f"{row['control']:.2f} in the control"
            )
    return None


def _shortfall(whole: dict[str, Any], applied: list[dict[str, Any]]) -> str | None:
    """What keeps the label from being verified."""
    if whole["own"] < GOOD:
        below = floor(100 * whole["own"] + 1e-9) / 100  # .698 is not to read as .70
        return f"F1 {below:.2f} on held-out text, below {GOOD}"
    for row in (whole, *applied):
        if not row["low"] > 0:
            return (
                f"{row['test']}: {row['own']:.2f} against {row['control']:.2f} in the control, "
                f"a difference of [{row['low']:.2f}, {row['high']:.2f}]"
            )
    return None


def count_verdicts(verdicts: pl.DataFrame) -> dict[str, int]:
    """Labels by verdict, all four named."""
    found = dict(verdicts["verdict"].value_counts().iter_rows())
    return {name: int(found.get(name, 0)) for name in VERDICTS}
