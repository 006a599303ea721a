"""Sufficient statistics: per (latent, key) and fold, how often it fires and the sum of its acts.

They are sums, so they add up over token shards, machines and days. Out-of-fold scores take them by
(node, fold) row (labeler.rowsums), whole tables by node (labeler.tables).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.arrays import Doubles, Floats
from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.tokens import HELDOUT, N_FOLDS, Tokens

if TYPE_CHECKING:
    from labeler.cache import LatentCache


LEAST_OF_SEVERAL = 24
"""Positions that a key needs where positions have several: such keys are many times as many, and
one seen less often does not save what it costs to state."""


@dataclass(frozen=True, eq=False)
class LatentFirings:
    """The firings of a range of latents on the fit split, latent by latent (CSC).

    Attributes
    ----------
    first : int
        Number of the first latent.
    start : int64 [n_latents + 1]
        Where each latent's firings begin.
    position : int32 [n_firings]
        Flat position (context * ctx_len + offset), ascending within a latent.
    act : float32 [n_firings]
        Activation, > 0.
    """

    first: int
    start: npt.NDArray[np.int64]
    position: npt.NDArray[np.int32]
    act: Floats

    @property
    def n_latents(self) -> int:
        """Number of latents in the range."""
        return len(self.start) - 1

    @classmethod
    def from_firings(
        cls,
        position: npt.NDArray[np.integer],
        latent: npt.NDArray[np.integer],
        act: Floats,
        *,
        first: int,
        n_latents: int,
        n_positions: int,
    ) -> "LatentFirings":
        """Sort firings given by position (ascending) into latents.

        Parameters
        ----------
        position, latent, act : [n_firings]
            Flat position, latent number (first <= latent < first + n_latents), activation.
        """
        counts = np.bincount(position, minlength=n_positions)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        by_position = sparse.csr_matrix(
            (act, (latent - first).astype(np.int32), indptr), shape=(n_positions, n_latents)
        )
        by_latent = by_position.tocsc()
        return cls(
            first,
            by_latent.indptr.astype(np.int64),
            by_latent.indices.astype(np.int32, copy=False),
            by_latent.data,
        )

    def blocks(self, size: int) -> Iterator["LatentFirings"]:
        """The same firings, at most `size` latents at a time."""
        for begin in range(0, self.n_latents, size):
            end = min(begin + size, self.n_latents)
            low, high = self.start[begin], self.start[end]
            yield LatentFirings(
                self.first + begin,
                self.start[begin : end + 1] - low,
                self.position[low:high],
                self.act[low:high],
            )

    def take(self, latents: npt.NDArray[np.integer]) -> "LatentFirings":
        """Firings of some latents (counted from `first`), renumbered from 0."""
        pieces = [slice(self.start[j], self.start[j + 1]) for j in latents]
        lengths = [piece.stop - piece.start for piece in pieces]
        return LatentFirings(
            0,
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([self.position[piece] for piece in pieces] or [self.position[:0]]),
            np.concatenate([self.act[piece] for piece in pieces] or [self.act[:0]]),
        )

    @cached_property
    def column(self) -> npt.NDArray[np.int32]:
        """Latent of each firing, counted from `first`, int32 [n_firings]."""
        return np.repeat(np.arange(self.n_latents, dtype=np.int32), np.diff(self.start))


@dataclass(frozen=True, eq=False)
class Plan:
    """A few whole nodes of a level, worked on together; the same for every block of latents.

    Attributes
    ----------
    nodes, rows : slice
        Of the level's alive nodes and rows.
    first : int64 [n]
        First row of each node, within the chunk.
    node_of_row : int64 [n_rows]
        Node of each row, within the chunk.
    further : list of (int64 [k], int64 [k])
        Nodes that have a second, third, ... row, and that row.
    """

    nodes: slice
    rows: slice
    first: npt.NDArray[np.int64]
    node_of_row: npt.NDArray[np.int64]
    further: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


@dataclass(frozen=True, eq=False)
class Rows:
    """The (node, fold) pairs of one level that out-of-fold scores can differ on.

    A node seen in one fold only predicts there what its parent predicts: it never changes an
    out-of-fold score and has no row.

    Attributes
    ----------
    node, fold : int32 [n_rows]
        The pair, ascending by node.
    n_in, n_out : float32 [n_rows]
        Positions at the node inside and outside the fold.
    parent_row : int32 [n_rows]
        Row of (parent node, fold) in the parent's rows; the fold under the root.
    first_row : int64 [n_alive]
        First row of each node that has rows.
    alive : int32 [n_alive]
        Those nodes.
    of_position : int32 [n_positions, m]
        Rows of each position of the fit split, -1 = none; m = 1 but for types of several keys.
    """

    node: npt.NDArray[np.int32]
    fold: npt.NDArray[np.int32]
    n_in: Floats
    n_out: Floats
    parent_row: npt.NDArray[np.int32]
    first_row: npt.NDArray[np.int64]
    alive: npt.NDArray[np.int32]
    of_position: npt.NDArray[np.int32]
    _plans: dict[int, list[Plan]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.node)

    def plans(self, size: int) -> list[Plan]:
        """Chunks of about `size` rows, whole nodes each; made once."""
        if size not in self._plans:
            self._plans[size] = list(_plan(self.first_row, self.n_rows, size))
        return self._plans[size]

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """Which alive node each row belongs to, int64 [n_rows]."""
        return np.repeat(
            np.arange(len(self.alive)), np.diff(np.append(self.first_row, self.n_rows))
        )


def _plan(first_row: npt.NDArray[np.int64], n_rows: int, size: int) -> Iterator[Plan]:
    """Cut a level into chunks of about `size` rows, whole nodes each."""
    ends = np.append(first_row, n_rows)
    node = 0
    while node < len(first_row):
        stop = int(np.searchsorted(ends, ends[node] + size, side="right")) - 1
        stop = min(max(stop, node + 1), len(first_row))
        nodes, rows = slice(node, stop), slice(int(ends[node]), int(ends[stop]))
        first = ends[node:stop] - rows.start
        count = np.diff(ends[node : stop + 1])
        further = []
        for more in range(1, int(count.max())):
            has = np.flatnonzero(count > more)
            further.append((has, first[has] + more))
        yield Plan(nodes, rows, first, np.repeat(np.arange(stop - node), count), further)
        node = stop


def make_rows(tree: KeyTree, nodes: Mapping[str, Nodes], fit: Tokens) -> dict[str, Rows]:
    """The rows of every level of a tree over its fit split."""
    rows: dict[str, Rows] = {}
    number: dict[str, npt.NDArray[np.int32]] = {}
    fold = np.broadcast_to(fit.fold[:, None], fit.ids.shape).ravel().astype(np.int64)
    for name, level in tree.levels.items():
        total = level.n.sum(axis=1, keepdims=True)
        mask = (level.n > 0) & (total > level.n)
        if tree.several_keys(name):
            mask &= total >= LEAST_OF_SEVERAL
        node, in_fold = (part.astype(np.int32) for part in np.nonzero(mask))
        table = np.full(level.n_nodes * N_FOLDS, -1, dtype=np.int32)
        table[node.astype(np.int64) * N_FOLDS + in_fold] = np.arange(len(node), dtype=np.int32)
        number[name] = table
        n_in = level.n[node, in_fold].astype(np.float32)
        parent_row = in_fold
        if level.parent_name is not None:
            parent = level.parent[node].astype(np.int64)
            parent_row = number[level.parent_name][parent * N_FOLDS + in_fold]
        alive, first_row = np.unique(node, return_index=True)
        # One column per key that a position may have.
        at = nodes[name].reshape(len(fold), -1).astype(np.int64)
        of_position = np.full(at.shape, -1, dtype=np.int32)
        has, place = np.nonzero(at >= 0)
        of_position[has, place] = table[at[has, place] * N_FOLDS + fold[has]]
        rows[name] = Rows(
            node=node,
            fold=in_fold,
            n_in=n_in,
            n_out=total[node, 0].astype(np.float32) - n_in,
            parent_row=parent_row,
            first_row=first_row.astype(np.int64),
            alive=alive,
            of_position=of_position,
        )
    return rows


def sums_by_fold(fit: Tokens, firings: LatentFirings) -> tuple[Doubles, Doubles, Doubles]:
    """Firings, sum of acts and of squared acts per (fold, latent), each [N_FOLDS, n_latents]."""
    width = firings.n_latents
    fold = fit.fold[firings.position // fit.ctx_len].astype(np.int64)
    cell = fold * width + firings.column
    act = firings.act.astype(np.float64)
    shape = (N_FOLDS, width)

    def add(weights: Doubles | None) -> Doubles:
        total = np.bincount(cell, weights=weights, minlength=N_FOLDS * width)
        return total.reshape(shape).astype(np.float64)

    return add(None), add(act), add(act * act)


def load_fit_firings(cache: "LatentCache", hookpoint: str, tokens: Tokens) -> LatentFirings:
    """All fit-split firings of a hookpoint, read shard by shard."""
    n = cache.summary(hookpoint).n_fit.sum()
    position = np.empty(n, dtype=np.int32)
    latent = np.empty(n, dtype=np.int32)
    act = np.empty(n, dtype=np.float32)
    at = 0
    for found in cache.iter_shards(hookpoint, "fit"):
        span = slice(at, at + len(found))
        position[span], latent[span], act[span] = found.position, found.latent, found.act
        at = span.stop
    return LatentFirings.from_firings(
        position[:at],
        latent[:at],
        act[:at],
        first=0,
        n_latents=cache.num_latents(hookpoint),
        n_positions=int((tokens.fold != HELDOUT).sum()) * tokens.ctx_len,
    )
