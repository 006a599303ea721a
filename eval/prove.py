"""All tests of a scene's labels, as one table of evidence."""

from typing import Any

import polars as pl

from labeler.eval.against import f1_difference
from labeler.eval.bootstrap import mean_interval
from labeler.eval.counterfactual import necessity, sufficiency
from labeler.eval.scene import Scene

N_TRIALS = 12
"""Trials of each test and label: 12 of 12 against 0 of 12 give a difference of [0.66, 1]."""


def evidence_of(scene: Scene, n: int = N_TRIALS) -> pl.DataFrame:
    """Held-out F1, sufficiency and necessity of every label under test, with their controls.

    Parameters
    ----------
    scene : Scene
    n : int
        Trials of each label and test.

    Returns
    -------
    polars.DataFrame
        A row per latent and test: latent, test, n, own, own_low, own_high, control, difference,
        low, high, failed.
    """
    made = sufficiency(scene, n), necessity(scene, n)
    return pl.concat([f1_difference(scene), *(one.tally() for one in made)])


def pooled(evidence: pl.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Each test over all labels: mean rates of own and control, and their difference.

    Intervals of 95% over resampled labels.
    """
    out: dict[str, dict[str, Any]] = {}
    for name in evidence["test"].unique(maintain_order=True):
        mine = evidence.filter(pl.col("test") == name)
        tried = mine.filter((pl.col("n") > 0) & pl.col("difference").is_not_nan())
        difference, low, high = mean_interval(tried["difference"].to_numpy(), seed)
        out[str(name)] = {
            "n_labels": len(tried),
            "n": int(tried["n"].sum()),
            "failed": int(mine["failed"].sum()),
            "own": tried["own"].mean(),
            "control": tried["control"].mean(),
            "difference": difference,
            "low": low,
            "high": high,
        }
    return out
