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
from labeler.statistics import LatentFirings, Rows

CHUNK_CELLS = 1 << 16
"""Cells of a chunk: 256 kB per float32 array, about eight of which fit a second-level cache."""

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
        row = rows.of_position[firings.position]
        keep = row >= 0
        # Real part: sum of acts; imaginary part: firings. One sparse conversion adds up both.
        both = np.empty(int(keep.sum()), dtype=np.complex64)
        both.real, both.imag = firings.act[keep], 1
        matrix = sparse.coo_matrix(
            (both, (row[keep], firings.column[keep].astype(np.int32))),
            shape=(rows.n_rows, firings.n_latents),
        ).tocsr()
        return cls(
            rows,
            firings.n_latents,
            matrix.indptr.astype(np.int64),
            matrix.indices,
            matrix.data.imag.copy(),
            matrix.data.real.copy(),
        )

    def chunks(self) -> Iterator["Chunk"]:
        """Dense chunks of whole nodes, in order."""
        rows = self.rows
        ends = np.append(rows.first_row, rows.n_rows)
        step = max(1, CHUNK_CELLS // max(self.width, 1))
        node = 0
        while node < len(rows.alive):
            stop = int(np.searchsorted(ends, ends[node] + step, side="right")) - 1
            stop = min(max(stop, node + 1), len(rows.alive))
            yield self._chunk(slice(node, stop), slice(int(ends[node]), int(ends[stop])))
            node = stop

    def _chunk(self, nodes: slice, span: slice) -> "Chunk":
        rows = self.rows
        low, high = self.start[span.start], self.start[span.stop]
        n_rows = span.stop - span.start
        row_of_cell = np.repeat(np.arange(n_rows), np.diff(self.start[span.start : span.stop + 1]))
        first = rows.first_row[nodes] - span.start
        node_of_row = np.repeat(np.arange(len(first)), np.diff(np.append(first, n_rows)))
        column = self.column[low:high]
        cell = (row_of_cell * self.width + column).astype(np.int64)
        node_cell = node_of_row[row_of_cell] * self.width + column
        size = len(first) * self.width

        def by_node(values: Floats) -> Floats:
            total = np.bincount(node_cell, weights=values, minlength=size)
            return total.astype(np.float32).reshape(len(first), self.width)

        def outside(inside: Floats, of_node: Floats) -> Floats:
            out = of_node[node_of_row]
            out.reshape(-1)[cell] -= inside
            return out

        count, total = self.count[low:high], self.total[low:high]
        node_count, node_sum = by_node(count), by_node(total)
        return Chunk(
            nodes=nodes,
            rows=span,
            n_in=rows.n_in[span, None],
            n_out=rows.n_out[span, None],
            first=first,
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
    nodes, rows : slice
        Of the level's alive nodes and rows.
    n_in, n_out : float32 [n, 1]
        Positions inside and outside the fold.
    first : int64 [n_nodes]
        First row of each node, within the chunk.
    cell : int64 [n_cells]
        Flat index of each cell that fires inside the fold.
    count_in, sum_in : float32 [n_cells]
        Its firings and sum of acts.
    count_out, sum_out : float32 [n, n_latents]
        The same outside the fold, for all cells.
    node_count, node_sum : float32 [n_nodes, n_latents]
        The same over all folds.
    """

    nodes: slice
    rows: slice
    n_in: Floats
    n_out: Floats
    first: npt.NDArray[np.int64]
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
        return np.add.reduceat(values, self.first, axis=0)
