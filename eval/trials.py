"""Outcomes of tests with a control each, and the interval of their difference."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import norm

from labeler.arrays import Bools, Doubles

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Trials:
    """What came of one test, trial by trial.

    Attributes
    ----------
    test : str
        "sufficiency", "necessity", "unseen", ...
    latent : int32 [n]
        Whose label was tried.
    own : bool [n]
        Whether the latent did what its label says.
    control : bool [n]
        Whether it did so in the matched control.
    failed : int64 [n_latents]
        Trials wanted but not made, by latent: a text that could not be written, a refused answer.
    """

    test: str
    latent: npt.NDArray[np.int32]
    own: Bools
    control: Bools
    failed: npt.NDArray[np.int64]

    def tally(self) -> pl.DataFrame:
        """A row per latent that was tried or failed.

        Columns: latent, test, n, own, own_low, own_high, control, difference, low, high, failed;
        intervals of 95%, NaN without a trial.
        """
        size = len(self.failed)
        n, own, control = (
            np.bincount(self.latent, weights=weights, minlength=size).astype(np.float64)
            for weights in (None, self.own, self.control)
        )
        low, high = difference_interval(own, control, n)
        own_low, own_high = wilson(own, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = own / n, control / n
        frame = pl.DataFrame(
            {
                "latent": np.arange(size, dtype=np.int32),
                "n": n.astype(np.int64),
                "own": rates[0],
                "own_low": own_low,
                "own_high": own_high,
                "control": rates[1],
                "difference": rates[0] - rates[1],
                "low": low,
                "high": high,
                "failed": self.failed.astype(np.int64),
            }
        )
        wanted = frame.filter((pl.col("n") > 0) | (pl.col("failed") > 0))
        return wanted.insert_column(1, pl.lit(self.test).alias("test"))


def wilson(
    hits: Doubles | float, n: Doubles | float, level: float = LEVEL
) -> tuple[Doubles, Doubles]:
    """Interval of a share, hits of n (Wilson 1927, JASA 22:209); NaN where n is 0."""
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z = float(norm.ppf((1 + level) / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = hits / n
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - half, middle + half


def difference_interval(
    own: Doubles, control: Doubles, n: Doubles, level: float = LEVEL
) -> tuple[Doubles, Doubles]:
    """Interval of own / n - control / n (Newcombe 1998, Stat. Med. 17:873, method 10).

    Made for two independent samples; own and control share their text here, which narrows the
    true interval. Never degenerate: 12 of 12 against 0 of 12 give [0.66, 1].
    """
    trials = np.where(n > 0, n, np.nan)
    return combined(
        own / trials, wilson(own, n, level), control / trials, wilson(control, n, level)
    )


def combined(
    own: Doubles,
    own_limits: tuple[Doubles, Doubles],
    control: Doubles,
    limits: tuple[Doubles, Doubles],
) -> tuple[Doubles, Doubles]:
    """Interval of own - control from the interval of each (Newcombe's way to combine limits)."""
    difference = own - control
    low = difference - np.sqrt((own - own_limits[0]) ** 2 + (limits[1] - control) ** 2)
    high = difference + np.sqrt((own_limits[1] - own) ** 2 + (control - limits[0]) ** 2)
    return low, high
