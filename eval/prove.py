"""All tests of a scene's labels, as one table of evidence."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from labeler.eval.against import f1_difference
from labeler.eval.bootstrap import RESAMPLES, interval
from labeler.eval.counterfactual import necessity, sufficiency
from labeler.eval.scene import Scene
from labeler.eval.trials import Trials

N_TRIALS = 12
"""Trials of each test and label: 12 of 12 against 0 of 12 give a difference of [0.66, 1]."""


def evidence_of(
    scene: Scene,
    *,
    n: int = N_TRIALS,
    further: Sequence[Trials] = (),
    advance: Callable[[float], None] = lambda done: None,
) -> pl.DataFrame:
    """Held-out F1, sufficiency and necessity of every label under test, with their controls.

    Parameters
    ----------
    scene : Scene
    n : int
        Trials of each label and test.
    further : sequence of Trials
        Other tests made of the same labels, such as on generated texts.
    advance : callable
        Told the labels done, for each of the two tests by trials.

    Returns
    -------
    polars.DataFrame
        A row per latent and test: latent, test, n, own, own_low, own_high, control, difference,
        low, high, failed.
    """
    made = [sufficiency(scene, n, advance), necessity(scene, n, advance), *further]
    return pl.concat([f1_difference(scene), *(one.tally() for one in made)], how="vertical")


def pooled(evidence: pl.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Each test over all labels: mean rates of own and control, and their difference.

    Labels count equally. Intervals of 95% over resampled labels, which share text and so are not
    quite independent.
    """
    out: dict[str, dict[str, Any]] = {}
    for name in evidence["test"].unique(maintain_order=True):
        mine = evidence.filter(pl.col("test") == name)
        tried = mine.filter((pl.col("n") > 0) & pl.col("difference").is_not_nan())
        difference = tried["difference"].to_numpy()
        out[str(name)] = {
            "n_labels": len(tried),
            "n": int(tried["n"].sum()),
            "failed": int(mine["failed"].sum()),
            **_mean_and_limits(difference, seed),
            "own": _mean(tried["own"]),
            "control": _mean(tried["control"]),
        }
    return out


def _mean(values: pl.Series) -> float | None:
    return float(values.to_numpy().mean()) if len(values) else None


def _mean_and_limits(values: "np.ndarray[Any, Any]", seed: int) -> Mapping[str, float | None]:
    if not len(values):
        return {"difference": None, "low": None, "high": None}
    rng = np.random.default_rng(seed)
    drawn = rng.choice(values, (RESAMPLES, len(values)))
    low, high = interval(drawn.mean(axis=1))
    return {"difference": float(values.mean()), "low": float(low), "high": float(high)}
