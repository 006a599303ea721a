"""What further types add to a whole table: residuals of one keying fitted by another.

The whole table of a chain of types predicts; a *correction* is a level of another type whose keys
are given what is left over at them, shrunk towards nothing. Corrections follow one another, each
fitted to what the last one leaves (a union, in the plan's language of composition). The residuals
are out of fold, so a correction is fitted to what the table would leave over on unseen text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.arrays import Doubles, Floats
from labeler.statistics import Rows
from labeler.threads import map_threads

MOST = 3
"""Corrections of a hookpoint's tables."""

LEAST_GAIN = 0.003
"""Share of the error left that a correction must save, on average over latents, to be used."""

_SHRINKAGE = (8.0, 32.0, 128.0)
_CUT = 1.5
"""Standard errors by which a key's residual must differ from nothing to be kept: whole tables of
residuals would be dense, and what is below is noise more often than not."""


@dataclass(frozen=True, eq=False)
class Membership:
    """Which positions each row of a level holds.

    Attributes
    ----------
    rows : Rows
    sum : float32 csr [n_rows, n_positions]
        Adds up positions by row.
    """

    rows: Rows
    sum: sparse.csr_matrix

    @classmethod
    def make(cls, rows: Rows) -> "Membership":
        """From the rows of a level of one key per position."""
        row = rows.of_position[:, 0]
        at = np.flatnonzero(row >= 0)
        ones = np.ones(len(at), dtype=np.float32)
        return cls(rows, sparse.csr_matrix((ones, (row[at], at)), shape=(rows.n_rows, len(row))))


@dataclass(frozen=True)
class Correction:
    """One correction of a hookpoint's tables.

    Attributes
    ----------
    level : str
    shrinkage : float
        Positions with nothing left over that a key's own count for.
    """

    level: str
    shrinkage: float


@dataclass(frozen=True, eq=False)
class Fitted:
    """A correction fitted to the residuals of a block.

    Attributes
    ----------
    node, latent : int32 [n]
        Cells kept.
    value : float32 [n]
        What each adds.
    gain : float64 [n_latents]
        Squared error saved out of fold; 0 where the latent does without.
    """

    node: npt.NDArray[np.int32]
    latent: npt.NDArray[np.int32]
    value: Floats
    gain: Doubles


class Residuals:
    """What is left over of a block of latents, out of fold.

    Parameters
    ----------
    left : float32 [n_positions, n_latents]
        Changed in place.
    n_positions : float
        Real positions; padding is left at 0.
    """

    def __init__(self, left: Floats, n_positions: float) -> None:
        self.left = left
        error: Doubles = np.einsum("ij,ij->j", left, left, dtype=np.float64)
        self.error, self.n_positions = error, n_positions

    def gains(self, member: Membership, grid: Sequence[float] = _SHRINKAGE) -> Doubles:
        """Error saved out of fold by a level at each shrinkage, float64 [n_grid, n_latents]."""
        sums = _Sums.make(member, self)
        return np.stack([sums.gain(sums.effect(value)) for value in grid])

    def fit(self, member: Membership, shrinkage: float) -> Fitted:
        """Fit a level and take it off the residuals of the latents that it serves."""
        sums = _Sums.make(member, self)
        effect = sums.effect(shrinkage)
        gain = sums.gain(effect)
        serves = gain > 0
        effect[:, ~serves] = 0
        row = member.rows.of_position[:, 0]
        has = np.flatnonzero(row >= 0)
        # A slice at a time: what is gathered stays in the processor's cache.
        for part in np.array_split(has, max(1, len(has) >> 12)):
            self.left[part] -= effect[row[part]]
        self.error -= np.where(serves, gain, 0)
        whole = sums.whole(shrinkage)
        whole[:, ~serves] = 0
        at, latent = np.nonzero(whole)
        return Fitted(
            member.rows.alive[at],
            latent.astype(np.int32),
            whole[at, latent],
            np.where(serves, gain, 0.0),
        )


@dataclass(frozen=True, eq=False)
class _Sums:
    """Residuals by row and by node of a level."""

    rows: Rows
    inside: Floats
    """[n_rows, n_latents]"""
    node: Floats
    """[n_alive, n_latents]"""
    variance: Doubles
    """[n_latents]"""

    @classmethod
    def make(cls, member: Membership, residuals: Residuals) -> "_Sums":
        inside = member.sum @ residuals.left
        rows = member.rows
        starts = np.append(rows.first_row, rows.n_rows).astype(np.int32)
        ones = np.ones(rows.n_rows, dtype=np.float32)
        by_node = sparse.csr_matrix(
            (ones, np.arange(rows.n_rows, dtype=np.int32), starts),
            shape=(len(rows.alive), rows.n_rows),
        )
        variance = residuals.error / residuals.n_positions
        return cls(rows, inside, by_node @ inside, np.maximum(variance, 1e-12))

    def effect(self, shrinkage: float) -> Floats:
        """What each row's node adds as the other folds tell it, float32 [n_rows, n_latents]."""
        out = self.node[self.rows.index] - self.inside
        _shrink(out, self.rows.n_out, shrinkage, self.variance)
        return out

    def whole(self, shrinkage: float) -> Floats:
        """What each node adds as all folds tell it, float32 [n_alive, n_latents]."""
        out = self.node.copy()
        n = np.add.reduceat(self.rows.n_in, self.rows.first_row) if len(out) else self.rows.n_in
        _shrink(out, n, shrinkage, self.variance)
        return out

    def gain(self, effect: Floats) -> Doubles:
        """Squared error saved, float64 [n_latents]."""
        gain: Doubles = 2 * np.einsum("ij,ij->j", effect, self.inside, dtype=np.float64)
        gain -= np.einsum("ij,ij,i->j", effect, effect, self.rows.n_in, dtype=np.float64)
        return gain


def _shrink(total: Floats, n: Floats, shrinkage: float, variance: Doubles) -> None:
    """Sums of `n` residuals to what their key adds, in place."""
    least = np.sqrt(n[:, None] * np.float32(_CUT**2)) * np.sqrt(variance).astype(np.float32)
    total[np.abs(total) < least] = 0
    total /= (n + np.float32(shrinkage))[:, None]


def pick_corrections(
    members: Mapping[str, Membership],
    residuals: Residuals,
) -> list[Correction]:
    """Which levels correct a hookpoint's tables, in order, from the residuals of a sample.

    Each time the level that saves the largest share of the error left, on average over latents.
    Levels that saved next to nothing at first are not tried again.
    """
    picked: list[Correction] = []
    names = list(members)
    for step in range(MOST):
        found = map_threads(lambda name: residuals.gains(members[name]), names)
        shares = np.stack([gains / np.maximum(residuals.error, 1e-12) for gains in found])
        by_level: Doubles = np.maximum(shares, 0).mean(axis=2)
        best, shrinkage = np.unravel_index(by_level.argmax(), by_level.shape)
        if by_level[best, shrinkage] < LEAST_GAIN:
            break
        picked.append(Correction(names[best], _SHRINKAGE[shrinkage]))
        residuals.fit(members[names[best]], _SHRINKAGE[shrinkage])
        order = np.argsort(-by_level.max(axis=1))
        names = [names[i] for i in order if i != best][: max(6 - step, 1)]
        if not names:
            break
    return picked


def join_fitted(parts: Sequence[Fitted], firsts: Sequence[int]) -> Fitted:
    """One correction of all blocks, its latents numbered in the hookpoint."""
    latent = [part.latent + first for part, first in zip(parts, firsts, strict=True)]
    return Fitted(
        np.concatenate([part.node for part in parts]),
        np.concatenate(latent).astype(np.int32),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.gain for part in parts]),
    )
