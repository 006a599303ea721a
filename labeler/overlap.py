"""How many positions two nodes share: what least squares over keys of several types needs."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.keytree import KeyTree
from labeler.level import Nodes

KEPT_BYTES = 1 << 30
"""Tables kept; the one longest unused goes first, and is counted again when it is asked for."""

_DENSE_CELLS = 1 << 22
"""Pairs of coarse levels are counted in a table of up to 32 MB; others are sorted."""

_Key = tuple[str, str, int]

_numbers = itertools.count(1)


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
        self._store = _Store()
        # Levels that only this object has, and what tells its tables of them from another's.
        self._own: frozenset[str] = frozenset()
        self._number = next(_numbers)

    def with_level(self, tree: KeyTree, name: str, nodes: Nodes) -> "Overlaps":
        """The same, with one more level; tables made so far are shared."""
        other = Overlaps(tree, {name: nodes})
        other._nodes |= {level: n for level, n in self._nodes.items() if level != name}
        other._store, other._own = self._store, frozenset([name])
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
        owner = self._number if self._own & {a, b} else 0
        return self._store.get((a, b, owner), lambda: self._count(a, b))

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


class _Store:
    """Tables by pair of levels, at most KEPT_BYTES of them. Safe to share between threads."""

    def __init__(self) -> None:
        self._tables: OrderedDict[_Key, _Table] = OrderedDict()
        self._making: dict[_Key, threading.Lock] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    def get(self, key: "_Key", make: "Callable[[], _Table]") -> "_Table":
        """The table of a key; made by one thread while others that want it wait."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._tables:
                    self._tables.move_to_end(key)
                    return self._tables[key]
            table = make()
            with self._lock:
                self._tables[key] = table
                self._bytes += table.n_bytes
                while self._bytes > KEPT_BYTES and len(self._tables) > 1:
                    self._bytes -= self._tables.popitem(last=False)[1].n_bytes
            return table


class _Table:
    """Counts by ``node_a * width + node_b``: dense, or of the pairs that occur, sorted."""

    def __init__(
        self, width: int, codes: npt.NDArray[np.int64] | None, counts: npt.NDArray[np.int32]
    ) -> None:
        self.width, self.codes, self.counts = width, codes, counts

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        return self.counts.nbytes + (0 if self.codes is None else self.codes.nbytes)

    def grid(self, nodes_a: npt.NDArray[np.integer], nodes_b: npt.NDArray[np.integer]) -> Doubles:
        wanted = nodes_a.astype(np.int64)[:, None] * self.width + nodes_b
        if self.codes is None:
            return self.counts[wanted].astype(np.float64)
        if not len(self.codes):
            return np.zeros(wanted.shape)
        at = np.searchsorted(self.codes, wanted)
        at[at == len(self.codes)] = 0
        return np.where(self.codes[at] == wanted, self.counts[at], 0).astype(np.float64)
