"""Scores of explanations from answers, by hand and against numpy."""

import numpy as np
import polars as pl
import pytest

from labeler.eval.llm.results import scaled
from labeler.eval.llm.scores import SCHEMA, Predicted, Said, classified, correlated, pooled


def said(*answers: int | None) -> Said:
    """Answers 1 and 0; None failed."""
    return Said(np.array([one == 1 for one in answers]), np.array([one is None for one in answers]))


def test_detection_by_hand():
    """Two of three affirmed, one of two denied: (2/3 + 1/2) / 2; all failed: (0 + 1) / 2."""
    found = classified(
        np.array([0, 0, 0, 0, 0, 1, 1]),
        np.array([1, 1, 1, 0, 0, 1, 0], dtype=bool),
        said(1, 1, 0, 1, 0, None, None),
        said(0, 0, 0, 0, None, 1, 0),
        np.array([1, 0, -1]),
    )
    assert dict(zip(found.columns, found.dtypes, strict=True)) == SCHEMA
    assert found["n"].to_list() == [5, 2, 0]
    assert found["n_active"].to_list() == [3, 1, 0]
    assert found["own"][:2].to_list() == pytest.approx([7 / 12, 1 / 2])
    assert found["control"][:2].to_list() == pytest.approx([1 / 2, 1.0])
    assert found["difference"][:2].to_list() == pytest.approx([1 / 12, -1 / 2])
    assert found["failed"].to_list() == [0, 2, 0]
    assert found["control_failed"].to_list() == [1, 0, 0]
    assert found["own"].is_nan().to_list() == [False, False, True]
    assert found["control"].is_nan().to_list() == [False, False, True]


def test_intervals_of_detection():
    """Wider with fewer windows, never of width 0, and they hold the score."""
    widths = []
    for n in (4, 40):
        column, active = np.zeros(n, dtype=np.int64), np.arange(n) % 2 == 0
        right = Said(active, np.zeros(n, bool))
        nothing = Said(np.zeros(n, bool), np.zeros(n, bool))
        row = classified(column, active, right, nothing, np.array([0])).row(0, named=True)
        assert (row["own"], row["control"], row["difference"]) == (1.0, 0.5, 0.5)
        assert row["own_low"] < row["own"] <= row["own_high"]
        assert row["low"] < 0.5 < row["high"]
        widths.append(row["own_high"] - row["own_low"])
    assert 0 < widths[1] < widths[0]


def windows(seed: int, n: int = 6, t: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, t)) < 0.3, rng.random((n, t)) * 5, 0).astype(np.float32)


def test_simulation_against_numpy():
    """Over all tokens of all windows at once; failed tokens count as 0."""
    act, own, control = windows(0), windows(1) + windows(0), windows(2)
    own[1, 3:] = np.nan
    column = np.array([0, 0, 0, 1, 1, 1])
    found = correlated(Predicted(column, act, own, control), np.array([1, 0]), 0)
    for number in (0, 1):
        mine = column == number
        true = act[mine].ravel()
        for name, guess in (("own", own), ("control", control)):
            wanted = np.corrcoef(true, np.nan_to_num(guess[mine]).ravel())[0, 1]
            assert found[name][number] == pytest.approx(wanted)
    assert found["failed"].to_list() == [5, 0]
    assert found["n"].to_list() == [24, 24]
    assert found["n_active"].to_list() == [(act[:3] > 0).sum(), (act[3:] > 0).sum()]
    assert (found["own_low"] <= found["own"]).all()
    assert (found["own"] <= found["own_high"]).all()
    assert dict(zip(found.columns, found.dtypes, strict=True)) == SCHEMA


def test_simulation_that_fails_or_says_always_the_same():
    """0, whatever the reason; a latent that does not fire, or has no windows, has no score."""
    act = np.zeros((4, 3), dtype=np.float32)
    act[:3, 0] = 1.0
    own = np.stack([np.full(3, np.nan), np.full(3, 10.0), act[2], act[2]]).astype(np.float32)
    predicted = Predicted(np.arange(4), act, own, act)
    found = correlated(predicted, np.array([1, 0, -1, 0, 0]), 0)
    assert found["own"][:3].to_list() == pytest.approx([0.0, 0.0, 1.0])
    assert found["own"][3:].is_nan().all()
    assert found["failed"].to_list() == [3, 0, 0, 0, 0]
    assert found["control"].is_nan().to_list() == [False, False, True, True, True]
    assert found["n"].to_list() == [3, 3, 3, 3, 0]


def test_more_windows():
    one = Predicted(np.array([0, 1]), windows(0, 2), windows(1, 2), windows(2, 2))
    two = Predicted(np.array([1]), windows(3, 1), windows(4, 1), windows(5, 1))
    both = one.with_more(two)
    assert both.column.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(both.control[2], windows(5, 1)[0])


def test_scaled():
    """Digit / 10 * highest activation; a failure is 0."""
    digits = np.array([[0, 5, 10, np.nan]], dtype=np.float32)
    assert scaled(digits, np.array([[3.0]], np.float32)).tolist() == [[0, 1.5, 3, 0]]


def test_means_are_over_latents_with_windows():
    frames = [
        classified(
            np.array([0, 0, 1, 1]),
            np.array([1, 0, 1, 0], dtype=bool),
            said(1, 0, None, None),
            said(0, 0, 0, 0),
            np.array([1, -1, 0]),
        ).insert_column(0, pl.Series("test", ["detect"] * 3))
    ]
    means = pooled(pl.concat(frames), 0)["detect"]
    assert means["n_latents"] == 2
    assert means["own"] == pytest.approx(0.75)
    assert means["control"] == pytest.approx(0.5)  # of the one that has a partner
    assert means["difference"] == pytest.approx(0.5)
    assert (means["n"], means["failed"]) == (4, 2)
    nothing = pooled(frames[0].filter(pl.col("n") == 0), 0)["detect"]
    assert nothing["own"] is None
    assert nothing["control"] is None
