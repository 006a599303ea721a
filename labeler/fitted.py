"""What a fit finds for the latents of a hookpoint, and the numbers that define it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles
from labeler.corrections import Correction, Fitted
from labeler.scores import Shrinkage
from labeler.short import ShortLabels

BUDGETS = (16, 100)
"""Key budgets of short labels; the third budget, unlimited, keeps every key."""

FDR = 0.01
"""False-discovery rate at which a latent is labeled rather than left unexplained."""

MIN_FIT_FIRINGS = 30
"""Latents with fewer firings in the fit split are not fitted (design.md, live latent)."""

MIN_HELDOUT_FIRINGS = 5
"""Latents with fewer firings in the held-out split cannot be scored (design.md, live latent)."""


@dataclass(frozen=True, eq=False)
class HookpointFit:
    """Everything fitted for a range of latents of one hookpoint.

    Attributes
    ----------
    types : list of str
        Function types scored, in tree order; the first axis of the arrays below.
    shrinkage : dict of str to Shrinkage
    n_positions : int
        Positions of the fit split.
    count, mean, mean_act, sst : float64 [n_latents]
        Firings, mean activation over all positions, mean where it fires, total sum of squares.
    r2, bits, net_bits : float64 [n_types, n_latents]
        Out-of-fold R2, bits saved, bits saved less the cost to state the paying keys.
    n_paying : int64 [n_types, n_latents]
        Keys that save more than they cost.
    winner : int64 [n_latents]
        Index of the winning type by net bits and parsimony.
    runs : int64 [n_latents]
        Index of the type whose whole table runs at the unlimited budget.
    r2_whole, f1, threshold : float64 [n_latents]
        Of the whole table with its corrections, out of fold: R2, F1 at the best threshold, and
        that threshold.
    p, q : float64 [n_latents]
        Against the shifted null, and adjusted; 1 where not fitted.
    short : dict of int to ShortLabels
        By budget.
    corrections : list of Correction
        Levels that correct the whole tables, in order.
    extra : list of Fitted
        What each of them adds.
    """

    types: list[str]
    shrinkage: dict[str, Shrinkage]
    n_positions: int
    count: Doubles
    mean: Doubles
    mean_act: Doubles
    sst: Doubles
    r2: Doubles
    bits: Doubles
    net_bits: Doubles
    n_paying: npt.NDArray[np.int64]
    winner: npt.NDArray[np.int64]
    runs: npt.NDArray[np.int64]
    r2_whole: Doubles
    f1: Doubles
    threshold: Doubles
    p: Doubles
    q: Doubles
    short: dict[int, ShortLabels]
    corrections: list[Correction]
    extra: list[Fitted]

    @property
    def fitted(self) -> npt.NDArray[np.bool_]:
        """Latents with enough firings to fit, bool [n_latents]."""
        return self.count >= MIN_FIT_FIRINGS

    @property
    def labeled(self) -> npt.NDArray[np.bool_]:
        """Latents with a label that beats the null at the false-discovery rate."""
        best = np.take_along_axis(self.net_bits, self.winner[None], axis=0)[0]
        saves = (best > 0) & (self.bits.max(axis=0) > 0)
        labeled: Bools = self.fitted & (self.q <= FDR) & saves
        return labeled
