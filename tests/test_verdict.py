"""Verdicts from evidence, and the intervals they rest on, against values worked out by hand."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from labeler.eval.trials import Trials, combined, difference_interval, wilson
from labeler.eval.verdict import VERDICTS, count_verdicts, judge


def row(test: str, n: int, own: float, control: float, **limits: float) -> dict[str, Any]:
    """Evidence of latent 0; trials get the limits that a tally gives them."""
    if test != "heldout":
        low, high = difference_interval(
            np.array([own * n]), np.array([control * n]), np.array([float(n)])
        )
        limits = {"low": float(low[0]), "high": float(high[0]), "own_low": 0.0, "own_high": 1.0}
    return {
        "latent": 0,
        "test": test,
        "n": n,
        "own": own,
        "control": control,
        "difference": own - control,
        "failed": 0,
        **limits,
    }


def heldout(own: float, control: float = 0.0, n: int = 100, half: float = 0.05) -> dict[str, Any]:
    limits = {"own_low": own - half, "own_high": own + half}
    difference = own - control
    return row("heldout", n, own, control, **limits, low=difference - half, high=difference + half)


def verdict(*rows: dict[str, Any], claimed: float = 0.9) -> tuple[str, str]:
    found = judge(pl.DataFrame(list(rows)), np.array([claimed]), np.array([0])).row(0, named=True)
    assert found["claimed"] == claimed
    return found["verdict"], found["reason"]


GOOD_EDITS = (row("sufficiency", 12, 1.0, 0.0), row("necessity", 12, 11 / 12, 1 / 12))


def test_a_label_that_beats_every_control_is_verified() -> None:
    kind, reason = verdict(heldout(0.9), *GOOD_EDITS, row("unseen:subject", 8, 1.0, 0.0))
    assert kind == "verified"
    assert "F1 0.90" in reason
    assert "unseen:subject 1.00 against 0.00" in reason


@pytest.mark.parametrize(
    ("rows", "claimed", "wanted", "said"),
    [
        # It claims .9: below .7 and with its whole interval below .9 - .1 it is refuted.
        ([heldout(0.5), *GOOD_EDITS], 0.9, "refuted", r"F1 0\.50 \[0\.45, 0\.55\].*claims 0\.90"),
        ([heldout(0.68), *GOOD_EDITS], 0.9, "refuted", "claims 0.90"),
        ([heldout(0.68, half=0.15), *GOOD_EDITS], 0.9, "weak", "F1 0.68 on held-out text, below"),
        ([heldout(0.698, half=0.15), *GOOD_EDITS], 0.9, "weak", "F1 0.69 on held-out text, below"),
        ([heldout(0.58, half=0.25), *GOOD_EDITS], 0.9, "weak", "F1 0.58 on held-out text, below"),
        # What is good is not refuted, whatever it claims.
        ([heldout(0.72), *GOOD_EDITS], 0.9, "verified", "F1 0.72 on held-out text"),
        # The same figures hold for a label that claims no more than .5.
        ([heldout(0.5), *GOOD_EDITS], 0.5, "weak", "below 0.7"),
        ([heldout(0.38), *GOOD_EDITS], 0.5, "weak", "below 0.7"),
        ([heldout(0.34), *GOOD_EDITS], 0.5, "refuted", "claims 0.50"),
        # No better than its control, however little it claims.
        ([heldout(0.05, 0.03), *GOOD_EDITS], 0.1, "refuted", "no better than another"),
        # A key that does nothing: 0 of 12 in both; three of twelve are not excluded.
        ([heldout(0.9), row("sufficiency", 12, 0, 0)], 0.9, "refuted", "sufficiency: 0.00 of 12"),
        ([heldout(0.9), row("sufficiency", 12, 0.25, 0)], 0.9, "weak", "sufficiency: 0.25"),
        ([heldout(0.9), row("sufficiency", 12, 0, 0)], 0.4, "weak", "sufficiency: 0.00"),
        ([heldout(0.9), row("necessity", 12, 1, 1)], 0.9, "refuted", "necessity: 1.00 of 12"),
        # Too few trials: the test does not apply, and what applies is beaten.
        ([heldout(0.9), row("sufficiency", 5, 0, 0)], 0.9, "verified", "no other test applies"),
        # F1 as good as its control's.
        ([heldout(0.8, 0.78), *GOOD_EDITS], 0.9, "refuted", "no better than another"),
        ([heldout(0.8, 0.72, half=0.1), *GOOD_EDITS], 0.9, "weak", "against 0.72 in the control"),
        ([heldout(0.9, n=4), *GOOD_EDITS], 0.9, "untestable", "fires 4 times"),
        ([*GOOD_EDITS], 0.9, "untestable", "fires 0 times"),
    ],
)
def test_verdicts(rows: list[dict[str, Any]], claimed: float, wanted: str, said: str) -> None:
    kind, reason = verdict(*rows, claimed=claimed)
    assert kind == wanted, reason
    assert pl.Series([reason]).str.contains(said).all(), reason


def test_every_tested_label_has_one_verdict() -> None:
    evidence = pl.DataFrame([{**heldout(0.9), "latent": 3}])
    found = judge(evidence, np.full(6, 0.9), np.array([3, 5]))
    assert found["latent"].to_list() == [3, 5]
    assert found["verdict"].to_list() == ["verified", "untestable"]
    assert count_verdicts(found) == {"verified": 1, "weak": 0, "refuted": 0, "untestable": 1}
    assert tuple(count_verdicts(found)) == VERDICTS


# -- intervals -------------------------------------------------------------------------------------


def test_wilson_is_scipys() -> None:
    hits, n = np.array([0.0, 3.0, 12.0]), np.array([12.0, 12.0, 12.0])
    low, high = wilson(hits, n)
    for index, hit in enumerate([0, 3, 12]):
        wanted = binomtest(hit, 12).proportion_ci(method="wilson")
        assert low[index] == pytest.approx(wanted.low, abs=1e-12)
        assert high[index] == pytest.approx(wanted.high, abs=1e-12)
    assert np.isnan(wilson(np.zeros(1), np.zeros(1))).all()


def test_difference_of_newcombes_paper() -> None:
    # Newcombe 1998, table II, method 10: 56/70 - 48/80 gives 0.0524 to 0.3339. Sizes differ there,
    # so that the limits are combined here by hand.
    one, other = np.array([56 / 70]), np.array([48 / 80])
    low, high = combined(
        one,
        wilson(np.array([56.0]), np.array([70.0])),
        other,
        wilson(np.array([48.0]), np.array([80.0])),
    )
    assert low[0] == pytest.approx(0.0524, abs=5e-5)
    assert high[0] == pytest.approx(0.3339, abs=5e-5)
    # All against none: not the single point that a bootstrap would give.
    low, high = difference_interval(np.array([12.0]), np.array([0.0]), np.array([12.0]))
    assert low[0] == pytest.approx(1 - math.hypot(0.2425, 0.2425), abs=1e-3)
    assert high[0] == pytest.approx(1)


def test_tally_counts_by_latent() -> None:
    trials = Trials(
        "sufficiency",
        latent=np.array([1, 1, 3, 1], dtype=np.int32),
        own=np.array([True, True, False, False]),
        control=np.array([False, True, False, False]),
        failed=np.array([0, 2, 0, 0, 7]),
    )
    found = trials.tally()
    assert found["latent"].to_list() == [1, 3, 4]
    assert found["test"].unique().to_list() == ["sufficiency"]
    assert found["n"].to_list() == [3, 1, 0]
    assert found["failed"].to_list() == [2, 0, 7]
    assert found["own"][0] == pytest.approx(2 / 3)
    assert found["control"][0] == pytest.approx(1 / 3)
    assert found["difference"][0] == pytest.approx(1 / 3)
    assert found["low"][0] < 0 < found["high"][0]
    assert math.isnan(found["own"][2])
