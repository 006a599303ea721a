"""Scores of explanations from what a language model answered, each beside its control.

An answer that failed counts as "no" (detection, fuzzing) or as activation 0 (simulation), and is
counted besides: dropped, it would flatter whoever fails on what is hard.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from labeler.arrays import Bools, Doubles, Floats, Longs
from labeler.eval.bootstrap import document_weights, interval, mean_interval
from labeler.eval.trials import combined, wilson

SCHEMA = {
    "n": pl.Int64,
    "n_active": pl.Int64,
    **dict.fromkeys(
        ("own", "own_low", "own_high", "control", "difference", "low", "high"), pl.Float64
    ),
    "failed": pl.Int64,
    "control_failed": pl.Int64,
}
"""Columns of a table of scores of one test."""


@dataclass(frozen=True, eq=False)
class Said:
    """Yes or no to each window.

    Attributes
    ----------
    yes, failed : bool [n_windows]
        A failed answer is no.
    """

    yes: Bools
    failed: Bools


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predicted and true activations in windows of several latents.

    Attributes
    ----------
    column : int64 [n_windows]
        Whose window each is, 0 to n - 1.
    act : float32 [n_windows, t]
    own, control : float32 [n_windows, t]
        Predicted from the latent's explanation, and from its partner's, on any scale; NaN where
        the answer failed.
    """

    column: Longs
    act: Floats
    own: Floats
    control: Floats

    def with_more(self, more: "Predicted") -> "Predicted":
        """These windows and more of the same latents."""
        return Predicted(
            np.concatenate([self.column, more.column]),
            np.concatenate([self.act, more.act]),
            np.concatenate([self.own, more.own]),
            np.concatenate([self.control, more.control]),
        )


def classified(
    column: Longs, active: Bools, own: Said, control: Said, partner: Longs
) -> pl.DataFrame:
    """Balanced accuracy, (TPR + TNR) / 2, of detection or fuzzing.

    (delphi, log/result_analysis.py, `compute_classification_metrics`.)

    Parameters
    ----------
    column : int64 [n_windows]
        Whose window each is, 0 to n - 1.
    active : bool [n_windows]
        Whether yes is right.
    own, control : Said
        By the latent's explanation, and by its partner's.
    partner : int64 [n]
        -1 where there is none.

    Returns
    -------
    polars.DataFrame
        A row per latent: n, n_active, own, own_low, own_high, control, difference, low, high,
        failed, control_failed. Intervals of 95%: Wilson's for both rates, combined as Newcombe
        does. NaN where there are no windows, or no partner.
    """
    n = len(partner)
    n_active, n_silent = (_count(column, kind, n) for kind in (active, ~active))

    def rates(said: Said) -> tuple[Doubles, tuple[Doubles, Doubles]]:
        hits = _count(column, active & said.yes, n)
        denied = _count(column, ~active & ~said.yes, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            true, silent = hits / n_active, denied / n_silent
        low, high = wilson(denied, n_silent)
        # A sum is the difference from the other with its sign turned.
        limits = combined(true, wilson(hits, n_active), -silent, (-high, -low))
        return (true + silent) / 2, (limits[0] / 2, limits[1] / 2)

    mine, limits = rates(own)
    other, other_limits = rates(control)
    other[partner < 0] = np.nan
    low, high = combined(mine, limits, other, other_limits)
    control_failed = _count(column, control.failed, n)
    return pl.DataFrame(
        {
            "n": (n_active + n_silent).astype(np.int64),
            "n_active": n_active.astype(np.int64),
            "own": mine,
            "own_low": limits[0],
            "own_high": limits[1],
            "control": other,
            "difference": mine - other,
            "low": low,
            "high": high,
            "failed": _count(column, own.failed, n).astype(np.int64),
            "control_failed": np.where(partner < 0, 0, control_failed).astype(np.int64),
        },
        schema=SCHEMA,
    )


def correlated(predicted: Predicted, partner: Longs, seed: int) -> pl.DataFrame:
    """Correlation of predicted and true activations over all tokens of a latent's windows.

    (Bills et al. 2023; automated-interpretability, scoring.py: `ev_correlation_score`, over all
    sequences at once.) 0 for a constant prediction, which has none.

    Parameters
    ----------
    predicted : Predicted
    partner : int64 [n]
        -1 where there is none.
    seed : int
        Of the resamples of windows.

    Returns
    -------
    polars.DataFrame
        The columns of `classified`, `n` and `n_active` being tokens, all and those with a firing.
        NaN where the latent does not fire in its windows.
    """
    rows = []
    for number in range(len(partner)):
        mine = predicted.column == number
        true = predicted.act[mine].astype(np.float64)
        said = [guess[mine].astype(np.float64) for guess in (predicted.own, predicted.control)]
        # The first resample is the windows as they are.
        resampled = document_weights(max(len(true), 1), seed)[:, : len(true)]
        weights = np.concatenate([np.ones((1, len(true))), resampled])
        drawn = [_pearson(true, np.nan_to_num(guess), weights) for guess in said]
        failed = [int(np.isnan(guess).sum()) for guess in said]
        if partner[number] < 0:
            drawn[1][:], failed[1] = np.nan, 0
        gap = drawn[0] - drawn[1]
        (own_low, own_high), (low, high) = _interval(drawn[0][1:]), _interval(gap[1:])
        rows.append(
            {
                "n": true.size,
                "n_active": int((true > 0).sum()),
                "own": drawn[0][0],
                "own_low": own_low,
                "own_high": own_high,
                "control": drawn[1][0],
                "difference": gap[0],
                "low": low,
                "high": high,
                "failed": failed[0],
                "control_failed": failed[1],
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def pooled(scores: pl.DataFrame, seed: int) -> dict[str, dict[str, float | int | None]]:
    """Mean of each test over the latents that have windows for it, unexplained ones included.

    Returns
    -------
    dict
        By test: n_latents, own, own_low, own_high, control, difference, low, high, n (answers
        wanted), failed. Intervals of 95% over latents; the control and the difference over those
        with a partner. None where there is nothing to take a mean of.
    """
    return {
        str(name): _pool(part, seed)
        for (name,), part in scores.group_by(["test"], maintain_order=True)
    }


def _pool(part: pl.DataFrame, seed: int) -> dict[str, float | int | None]:
    own, gap = (part[name].to_numpy() for name in ("own", "difference"))
    known, paired = np.isfinite(own), np.isfinite(gap)
    mean, own_low, own_high = mean_interval(own[known], seed)
    difference, low, high = mean_interval(gap[paired], seed)
    control = part["control"].to_numpy()[paired]
    return {
        "n_latents": int(known.sum()),
        "own": mean,
        "own_low": own_low,
        "own_high": own_high,
        "control": float(control.mean()) if len(control) else None,
        "difference": difference,
        "low": low,
        "high": high,
        "n": int(part["n"].sum()),
        "failed": int(part["failed"].sum()),
    }


def _count(column: Longs, mine: Bools, n: int) -> Doubles:
    return np.bincount(column[mine], minlength=n).astype(np.float64)


def _pearson(true: Doubles, guess: Doubles, weights: Doubles) -> Doubles:
    """Correlation for weights [n, n_windows] of windows [n_windows, t]; 0 for a constant guess."""
    parts = (np.ones_like(true), true, guess, true * true, guess * guess, true * guess)
    n, x, y, x2, y2, xy = (weights @ part.sum(axis=1) for part in parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        varies = y2 - y * y / n > 1e-9 * y2
        r = (xy - x * y / n) / np.sqrt((x2 - x * x / n) * (y2 - y * y / n))
    found: Doubles = np.where(x > 0, np.where(varies, r, 0.0), np.nan)
    return found


def _interval(drawn: Doubles) -> tuple[float, float]:
    if not np.isfinite(drawn).any():
        return float("nan"), float("nan")
    low, high = interval(drawn)
    return float(low), float(high)
