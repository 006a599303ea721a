"""Sums per (row, latent) held sparse, and made dense a cache-sized chunk at a time.

The arithmetic of out-of-fold scores touches every (row, latent) cell about fifteen times. Done on
whole arrays, each pass goes to memory; a chunk that fits the processor's cache is ten times as
fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.arrays import Floats
from labeler.statistics import LatentFirings, Plan, Rows

CHUNK_CELLS = 1 << 16
"""Cells of a chunk: 256 kB per float32 array, about eight of which fit a second-level cache."""

_DENSE_CELLS = 1 << 21
"""Up to 16 MB of sums: counting into a dense array is several times as fast as sorting."""

_ALMOST_ONE = np.float32(1 - 1e-6)


@dataclass(frozen=True, eq=False)
class RowSums:
    """Firings and sums of acts per (row, latent) of one level and block.

    Attributes
    ----------
    rows : Rows
    width : int
        Number of latents.
    start : int64 [n_rows + 1]
        Where each row's cells begin.
    column : int32 [n_cells]
        Latent of each cell that has a firing.
    count, total : float32 [n_cells]
        Firings and sum of acts of the cell.
    """

    rows: Rows
    width: int
    start: npt.NDArray[np.int64]
    column: npt.NDArray[np.int32]
    count: Floats
    total: Floats

    @classmethod
    def make(cls, rows: Rows, firings: LatentFirings) -> "RowSums":
        """Add a block's firings up by row."""
        width, act, column = firings.n_latents, firings.act, firings.column
        if rows.of_position.shape[1] == 1:
            row = rows.of_position[:, 0][firings.position]
            keep = np.flatnonzero(row >= 0)
            row = row[keep]
        else:
            several = rows.of_position[firings.position]
            keep, place = np.nonzero(several >= 0)
            row = several[keep, place]
        act, column = act[keep], column[keep]
        size = rows.n_rows * width
        if size > _DENSE_CELLS:
            # Real part: sum of acts; imaginary part: firings. One sort adds up both.
            both = np.empty(len(act), dtype=np.complex64)
            both.real, both.imag = act, 1
            shape = (rows.n_rows, width)
            matrix = sparse.coo_matrix((both, (row, column)), shape=shape).tocsr()
            start, columns = matrix.indptr.astype(np.int64), matrix.indices
            return cls(
                rows, width, start, columns, matrix.data.imag.copy(), matrix.data.real.copy()
            )
        cell = row * np.int32(width) + column
        count = np.bincount(cell, minlength=size)
        total = np.bincount(cell, weights=act, minlength=size)
        cells = np.flatnonzero(count)
        start = np.searchsorted(cells, np.arange(rows.n_rows + 1) * width)
        return cls(
            rows,
            width,
            start.astype(np.int64),
            (cells % width).astype(np.int32),
            count[cells].astype(np.float32),
            total[cells].astype(np.float32),
        )

    def chunks(self) -> Iterator["Chunk"]:
        """Dense chunks of whole nodes, in order."""
        for plan in self.rows.plans(max(1, CHUNK_CELLS // max(self.width, 1))):
            yield self._chunk(plan)

    def _chunk(self, plan: Plan) -> "Chunk":
        rows, span = self.rows, plan.rows
        low, high = self.start[span.start], self.start[span.stop]
        starts = self.start[span.start : span.stop + 1]
        row_of_cell = np.repeat(np.arange(span.stop - span.start), np.diff(starts))
        column = self.column[low:high]
        cell = (row_of_cell * self.width + column).astype(np.int64)
        node_cell = plan.node_of_row[row_of_cell] * self.width + column
        size = len(plan.first) * self.width

        def by_node(values: Floats) -> Floats:
            total = np.bincount(node_cell, weights=values, minlength=size)
            return total.astype(np.float32).reshape(len(plan.first), self.width)

        def outside(inside: Floats, of_node: Floats) -> Floats:
            out = of_node[plan.node_of_row]
            out.reshape(-1)[cell] -= inside
            return out

        count, total = self.count[low:high], self.total[low:high]
        node_count, node_sum = by_node(count), by_node(total)
        return Chunk(
            plan=plan,
            n_in=rows.n_in[span, None],
            n_out=rows.n_out[span, None],
            cell=cell,
            count_in=count,
            sum_in=total,
            count_out=outside(count, node_count),
            sum_out=outside(total, node_sum),
            node_count=node_count,
            node_sum=node_sum,
        )


@dataclass(frozen=True, eq=False)
class Chunk:
    """Sums of a few whole nodes: sparse inside the fold, dense outside it.

    Attributes
    ----------
    plan : Plan
        Which of the level's alive nodes and rows.
    n_in, n_out : float32 [n, 1]
        Positions inside and outside the fold.
    cell : int64 [n_cells]
        Flat index of each cell that fires inside the fold.
    count_in, sum_in : float32 [n_cells]
        Its firings and sum of acts.
    count_out, sum_out : float32 [n, n_latents]
        The same outside the fold, for all cells.
    node_count, node_sum : float32 [n_nodes, n_latents]
        The same over all folds.
    """

    plan: Plan
    n_in: Floats
    n_out: Floats
    cell: npt.NDArray[np.int64]
    count_in: Floats
    sum_in: Floats
    count_out: Floats
    sum_out: Floats
    node_count: Floats
    node_sum: Floats

    def mean(self, parent: Floats, lam: float) -> Floats:
        """Expected activation outside the fold, float32 [n, n_latents]."""
        out = parent * np.float32(lam)
        out += self.sum_out
        out *= 1 / (self.n_out + np.float32(lam))
        return out

    def fires(self, parent: Floats, nu: float) -> Floats:
        """Firing probability outside the fold, float32 [n, n_latents], below 1."""
        out = parent * np.float32(nu)
        out += self.count_out
        out *= 1 / (self.n_out + np.float32(nu))
        np.minimum(out, _ALMOST_ONE, out=out)
        return out

    def error_gain(self, mean: Floats, parent: Floats) -> Floats:
        """Squared error saved over the parent, float32 [n, n_latents]."""
        change = mean - parent
        gain = mean + parent
        gain *= change
        gain *= -self.n_in
        gain.reshape(-1)[self.cell] += 2 * self.sum_in * change.reshape(-1)[self.cell]
        return gain

    def bit_gain(self, fires: Floats, parent: Floats) -> Floats:
        """Bits saved over the parent, float32 [n, n_latents]."""
        gain = 1 - fires
        gain /= 1 - parent
        np.log2(gain, out=gain)
        p, q = fires.reshape(-1)[self.cell], parent.reshape(-1)[self.cell]
        # The firing cells: silent positions at the ratio above, firing ones at p / q.
        ratio = gain.reshape(-1)[self.cell]
        gain *= self.n_in
        gain.reshape(-1)[self.cell] += self.count_in * (np.log2(p / q) - ratio)
        return gain

    def by_node(self, values: Floats) -> Floats:
        """Sum over the folds of each node, float32 [n_nodes, n_latents]."""
        # A node has at most one row per fold: a few passes beat a reduceat over short runs.
        out: Floats = values[self.plan.first]
        for has, at in self.plan.further:
            out[has] += values[at]
        return out
