"""How many positions two nodes share: what least squares over keys of several types needs."""

import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.keytree import KeyTree
from labeler.level import Nodes

_DENSE_CELLS = 1 << 22
"""Pairs of coarse levels are counted in a table of up to 32 MB; others are sorted."""


class Overlaps:
    """Counts of positions of the fit split at which two nodes of any two levels meet.

    Tables are made when first asked for and kept. Safe to share between threads.

    Parameters
    ----------
    tree : KeyTree
    nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
        Of the fit split.
    """

    def __init__(self, tree: KeyTree, nodes: Mapping[str, Nodes]) -> None:
        self._tree = tree
        self._nodes = {name: n.reshape(n.shape[0] * n.shape[1], -1) for name, n in nodes.items()}
        self._rank = {name: rank for rank, name in enumerate(tree.levels)}
        self._tables: dict[tuple[str, str], _Table] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._lock = threading.Lock()

    def with_level(self, tree: KeyTree, name: str, nodes: Nodes) -> "Overlaps":
        """The same, with one more level; tables made so far are shared."""
        other = Overlaps(tree, {})
        other._nodes = self._nodes | {name: nodes.reshape(nodes.shape[0] * nodes.shape[1], -1)}
        other._tables = {pair: table for pair, table in self._tables.items() if name not in pair}
        return other

    def grid(
        self, a: str, nodes_a: npt.NDArray[np.integer], b: str, nodes_b: npt.NDArray[np.integer]
    ) -> Doubles:
        """Shared positions of every pair of nodes, float64 [n_a, n_b].

        Parameters
        ----------
        a, b : str
            Levels, the same or different.
        nodes_a, nodes_b : int [n_a], [n_b]
            Nodes of each.
        """
        if self._rank[a] > self._rank[b]:
            return self.grid(b, nodes_b, a, nodes_a).T
        if a in self._tree.chain(b) and not self._tree.several_keys(a):
            # Nested: a node shares all its positions with the one it refines, if it is that one.
            up = nodes_b.astype(np.int64)
            chain = self._tree.chain(b)
            for name in reversed(chain[chain.index(a) + 1 :]):
                up = self._tree.levels[name].parent[up].astype(np.int64)
            n = self._tree.levels[b].n_total[nodes_b].astype(np.float64)
            return np.where(nodes_a[:, None] == up[None, :], n[None, :], 0.0)
        return self._table(a, b).grid(nodes_a, nodes_b)

    def _table(self, a: str, b: str) -> "_Table":
        with self._lock:
            lock = self._locks.setdefault((a, b), threading.Lock())
        with lock:
            if (a, b) not in self._tables:
                self._tables[a, b] = self._count(a, b)
            return self._tables[a, b]

    def _count(self, a: str, b: str) -> "_Table":
        width = self._tree.levels[b].n_nodes
        parts = []
        for x in self._nodes[a].T:
            for y in self._nodes[b].T:
                both = (x >= 0) & (y >= 0)
                parts.append(x[both].astype(np.int64) * width + y[both])
        codes = parts[0] if len(parts) == 1 else np.concatenate(parts)
        size = self._tree.levels[a].n_nodes * width
        if size <= _DENSE_CELLS:
            return _Table(width, None, np.bincount(codes, minlength=size).astype(np.int32))
        codes.sort()
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        counts = np.diff(np.append(first, len(codes)))
        return _Table(width, codes[first], counts.astype(np.int32))


class _Table:
    """Counts by ``node_a * width + node_b``: dense, or of the pairs that occur, sorted."""

    def __init__(
        self, width: int, codes: npt.NDArray[np.int64] | None, counts: npt.NDArray[np.int32]
    ) -> None:
        self.width, self.codes, self.counts = width, codes, counts

    def grid(self, nodes_a: npt.NDArray[np.integer], nodes_b: npt.NDArray[np.integer]) -> Doubles:
        wanted = nodes_a.astype(np.int64)[:, None] * self.width + nodes_b
        if self.codes is None:
            return self.counts[wanted].astype(np.float64)
        if not len(self.codes):
            return np.zeros(wanted.shape)
        at = np.searchsorted(self.codes, wanted)
        at[at == len(self.codes)] = 0
        return np.where(self.codes[at] == wanted, self.counts[at], 0).astype(np.float64)
