"""Run all labels of a hookpoint at once on any text.

Labels are look-ups along the nodes of a position. One recurrence covers both kinds:

    P_level[position] = scale_level[node] * P_parent[position] + added_level[node]

For whole tables (unlimited budget) `scale` is lam / (n + lam) and `added` is S / (n + lam): the
shrunk mean, in which a key that was seen without a firing pulls the prediction down. For short
labels `scale` is 1 and `added` is an entry's value minus that of the nearest kept entry above.
`added` is sparse, latent by latent; `scale` is one number per node.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.arrays import Floats
from labeler.keytree import KeyTree, Nodes
from labeler.tokens import Tokens

CONTEXTS_AT_ONCE = 8
"""Contexts predicted at once. 8 x 128 positions x 2,048 latents are 8 MB: small enough for the
allocator to hand the same memory out again, which is several times as fast as fresh pages."""


@dataclass(frozen=True, eq=False)
class Table:
    """What one level adds, sparse by node (CSR).

    Attributes
    ----------
    start : int64 [n_nodes + 1]
        Where each node's cells begin.
    latent : integer [n_cells]
        Latent of each cell; may be memory-mapped.
    value : float [n_cells]
        What it adds; may be memory-mapped.
    scale : float32 [n_nodes] or None
        What the parent's prediction is multiplied by; None for 1.
    """

    start: npt.NDArray[np.int64]
    latent: npt.NDArray[np.integer]
    value: npt.NDArray[np.floating]
    scale: Floats | None

    def add_to(
        self,
        prediction: Floats,
        node: npt.NDArray[np.int32],
        column: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Apply the level in place.

        Parameters
        ----------
        prediction : float32 [n, n_columns]
            The parent's predictions.
        node : int32 [n]
            Node of each position, -1 = the prediction stays.
        column : int64 [n_latents] or None
            Column of each latent, -1 = not among the columns; None where they are the latents.
        """
        at = np.flatnonzero(node >= 0)
        if self.scale is not None:
            factor = np.ones(len(node), dtype=np.float32)
            factor[at] = self.scale[node[at]]
            prediction *= factor[:, None]
        first = self.start[node[at]]
        n_cells = self.start[node[at] + 1] - first
        ends = np.cumsum(n_cells)
        if not len(ends) or not ends[-1]:
            return
        cell = np.arange(ends[-1]) + np.repeat(first - (ends - n_cells), n_cells)
        where = self.latent[cell].astype(np.int64)
        value = self.value[cell].astype(np.float32)
        flat = np.repeat(at * prediction.shape[1], n_cells)
        if column is not None:
            where = column[where]
            known = where >= 0
            where, value, flat = where[known], value[known], flat[known]
        # A (position, latent) pair occurs once per level, so plain addition is enough.
        prediction.reshape(-1)[flat + where] += value

    @classmethod
    def from_csr(cls, matrix: sparse.csr_matrix, scale: Floats | None) -> "Table":
        """Wrap a matrix [n_nodes, n_latents]."""
        return cls(matrix.indptr.astype(np.int64), matrix.indices, matrix.data, scale)


@dataclass(frozen=True, eq=False)
class Predictor:
    """All labels of a hookpoint under one key budget.

    Attributes
    ----------
    tree : KeyTree
    tables : mapping of str to Table
        By function type, parents first.
    default : float32 [n_latents]
        Prediction where no key applies.
    runs : mapping of str to int [n]
        By function type, the latents whose chain ends there. Latents in none keep `default`.
    threshold : float32 [n_latents]
        Activation from which the label says "fires"; infinity where it never does.
    """

    tree: KeyTree
    tables: Mapping[str, Table]
    default: Floats
    runs: Mapping[str, npt.NDArray[np.integer]]
    threshold: Floats

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return len(self.default)

    def predict(self, tokens: Tokens) -> Floats:
        """Predicted activations, float32 [n_ctx, ctx_len, n_latents]; padding is arbitrary."""
        parts = [prediction for _, prediction in self.iterate(tokens)]
        shape = (tokens.n_ctx, tokens.ctx_len, self.n_latents)
        return np.concatenate(parts).reshape(shape) if parts else np.zeros(shape, np.float32)

    def iterate(self, tokens: Tokens) -> Iterator[tuple[slice, Floats]]:
        """Predictions a few contexts at a time.

        Yields
        ------
        slice
            The contexts.
        float32 [n * ctx_len, n_latents]
            Their predictions by flat position.
        """
        for begin in range(0, tokens.n_ctx, CONTEXTS_AT_ONCE):
            span = slice(begin, min(begin + CONTEXTS_AT_ONCE, tokens.n_ctx))
            part = tokens.select(np.arange(span.start, span.stop))
            yield span, self.at_nodes(self.tree.find(part, list(self.tables)))

    def at_nodes(self, nodes: Mapping[str, Nodes]) -> Floats:
        """Predictions at positions whose nodes are known, float32 [n_positions, n_latents]."""
        n = next(iter(nodes.values())).size if nodes else 0
        out = np.empty((n, self.n_latents), dtype=np.float32)
        out[:] = self.default
        for path, latents in self._paths:
            if len(latents) * 2 > self.n_latents:
                # In place: other paths' columns come out wrong here and are overwritten below.
                self._follow(path, out, nodes, None)
        for path, latents in self._paths:
            column = np.full(self.n_latents, -1, dtype=np.int64)
            column[latents] = np.arange(len(latents))
            if len(latents) * 2 <= self.n_latents:
                part = np.empty((n, len(latents)), dtype=np.float32)
                part[:] = self.default[latents]
                self._follow(path, part, nodes, column)
                out[:, latents] = part
        rest = self._silent
        out[:, rest] = self.default[rest]
        return out

    def _follow(
        self,
        path: Sequence[str],
        prediction: Floats,
        nodes: Mapping[str, Nodes],
        column: npt.NDArray[np.int64] | None,
    ) -> None:
        """Apply a chain's levels in place; latents whose chain ends early keep what they had."""
        ended: list[tuple[npt.NDArray[np.int64], Floats]] = []
        for name in path:
            self.tables[name].add_to(prediction, nodes[name].ravel(), column)
            mine = np.asarray(self.runs.get(name, ()), dtype=np.int64)
            if name != path[-1] and len(mine):
                where = mine if column is None else column[mine]
                ended.append((where, prediction[:, where]))
        for where, kept in ended:
            prediction[:, where] = kept

    @cached_property
    def _paths(self) -> list[tuple[list[str], npt.NDArray[np.int64]]]:
        """Chains to follow and the latents of each; every latent with a table is in one."""
        paths: list[tuple[list[str], npt.NDArray[np.int64]]] = []
        placed: set[str] = set()
        for end in sorted(self.runs, key=lambda name: -len(self.tree.chain(name))):
            if end in placed:
                continue
            chain = self.tree.chain(end)
            ends = [name for name in chain if name in self.runs and name not in placed]
            placed.update(ends)
            latents = np.concatenate([np.asarray(self.runs[name]) for name in ends])
            paths.append((chain, np.sort(latents).astype(np.int64)))
        return paths

    @cached_property
    def _silent(self) -> npt.NDArray[np.int64]:
        """Latents that no table serves."""
        served = np.zeros(self.n_latents, dtype=bool)
        for _, latents in self._paths:
            served[latents] = True
        return np.flatnonzero(~served)


def short_tables(
    tree: KeyTree,
    level: npt.NDArray[np.str_],
    latent: npt.NDArray[np.int32],
    node: npt.NDArray[np.int32],
    value: Floats,
    default: Floats,
) -> dict[str, Table]:
    """Tables of short labels from their entries (all of them, any order)."""
    tables: dict[str, Table] = {}
    absolute: dict[str, sparse.csr_matrix] = {}
    for name in tree.levels:
        chain = tree.chain(name)
        mine = np.flatnonzero(level == name)
        if not len(mine) and not any((level == other).any() for other in _below(tree, name)):
            continue
        above = default[latent[mine]].astype(np.float64)
        found = np.zeros(len(mine), dtype=bool)
        at = node[mine]
        for child, parent in zip(chain[:0:-1], chain[-2::-1], strict=True):
            at = tree.levels[child].parent[at]
            if parent not in absolute:
                continue
            kept, stored = _look_up(absolute[parent], at, latent[mine])
            above = np.where(~found & kept, stored, above)
            found |= kept
        shape = (tree.levels[name].n_nodes, len(default))
        values = value[mine].astype(np.float64)
        absolute[name] = _csr(values, at_node := node[mine], latent[mine], shape)
        tables[name] = Table.from_csr(_csr(values - above, at_node, latent[mine], shape), None)
    return tables


def _below(tree: KeyTree, name: str) -> list[str]:
    return [other for other in tree.levels if other != name and name in tree.chain(other)]


def _csr(
    data: npt.NDArray[np.float64],
    row: npt.NDArray[np.int32],
    column: npt.NDArray[np.int32],
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    matrix = sparse.coo_matrix((data, (row, column)), shape=shape).tocsr()
    matrix.sort_indices()
    return matrix


def _look_up(
    matrix: sparse.csr_matrix, row: npt.NDArray[np.int32], column: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Whether each cell is stored, and its value (0 where it is not)."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)).astype(np.int64)
    stored = rows * matrix.shape[1] + matrix.indices
    wanted = row.astype(np.int64) * matrix.shape[1] + column
    if not len(stored):
        return np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted))
    index = np.searchsorted(stored, wanted)
    index[index == len(stored)] = 0
    hit = stored[index] == wanted
    return hit, np.where(hit, matrix.data[index], 0.0)
