"""Sums per latent that F1 and correlation follow from."""

import numpy as np

from labeler.arrays import Bools, Floats, Longs
from labeler.eval.heldout import DocumentSums

_NAMES = ("n", "fires", "called", "hit", "predicted", "predicted2", "act", "act2", "product")


class Sums:
    """Running sums over any tokens of any of `n` latents."""

    def __init__(self, n: int) -> None:
        self._sums = {name: np.zeros(n) for name in _NAMES}

    def add_all(self, predicted: Floats, act: Floats, threshold: Floats) -> None:
        """Add tokens on which every latent is looked at, both float32 [n_positions, n]."""
        fires, called = act > 0, predicted >= threshold
        sums = self._sums
        sums["n"] += len(act)
        for name, flag in (("fires", fires), ("called", called), ("hit", fires & called)):
            sums[name] += np.count_nonzero(flag, axis=0)
        for name, value in (("predicted", predicted), ("act", act)):
            sums[name] += value.sum(axis=0)
        pairs = {
            "predicted2": (predicted, predicted),
            "act2": (act, act),
            "product": (predicted, act),
        }
        for name, (one, other) in pairs.items():
            sums[name] += np.einsum("ij,ij->j", one, other)

    def add(
        self,
        column: Longs,
        predicted: Floats,
        act: Floats,
        real: Bools,
        fires: Bools,
        called: Bools,
    ) -> None:
        """Add windows of one latent each.

        Parameters
        ----------
        column : int64 [n_rows]
            Its number.
        predicted, act : float32 [n_rows, length]
        real : bool [n_rows, length]
            False on padding, where nothing fires and no call counts.
        fires, called : bool [n_rows, length]
        """
        guess = np.where(real, predicted, 0).astype(np.float64)
        true = act.astype(np.float64)
        values = {
            "n": real,
            "fires": fires,
            "called": called & real,
            "hit": fires & called,
            "predicted": guess,
            "predicted2": guess**2,
            "act": true,
            "act2": true**2,
            "product": guess * true,
        }
        size = len(self._sums["n"])
        for name, value in values.items():
            weights = value.sum(axis=1)
            self._sums[name] += np.bincount(column, weights=weights, minlength=size)

    def total(self) -> DocumentSums:
        """All of them, as one document; a latent that no token was added for counts one."""
        sums = self._sums | {"n": np.maximum(self._sums["n"], 1)}
        return DocumentSums(**{name: value[None, :] for name, value in sums.items()})
