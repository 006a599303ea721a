"""Run all labels of a hookpoint at once on any text.

Labels are look-ups along the nodes of a position. One recurrence covers both kinds:

    P_level[position] = scale_level[node] * P_parent[position] + added_level[node]

For whole tables (unlimited budget) `scale` is lam / (n + lam) and `added` is S / (n + lam): the
shrunk mean, in which a key that was seen without a firing pulls the prediction down. For short
labels `scale` is 1 and `added` is an entry's value minus that of the nearest kept entry above.
`added` is sparse, latent by latent; `scale` is one number per node.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.keytree import KeyTree, Nodes
from labeler.tokens import Tokens

Floats = npt.NDArray[np.float32]

CONTEXTS_AT_ONCE = 32
"""Contexts predicted at once: 32 x 128 positions x 2,048 latents are 34 MB."""


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

    def add_to(self, prediction: Floats, node: npt.NDArray[np.int32]) -> None:
        """Apply the level in place to `prediction` [n, n_latents] at `node` [n], -1 = leave."""
        at = np.flatnonzero(node >= 0)
        node = node[at]
        if self.scale is not None:
            prediction[at] *= self.scale[node][:, None]
        first = self.start[node]
        n_cells = self.start[node + 1] - first
        ends = np.cumsum(n_cells)
        if not len(ends) or not ends[-1]:
            return
        cell = np.arange(ends[-1]) + np.repeat(first - (ends - n_cells), n_cells)
        flat = np.repeat(at * prediction.shape[1], n_cells) + self.latent[cell]
        prediction.reshape(-1)[flat] += self.value[cell].astype(np.float32)

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
        out = np.tile(self.default, (n, 1))
        level: dict[str | None, Floats] = {}
        last_use = self._last_use()
        for index, (name, table) in enumerate(self.tables.items()):
            parent = self.tree.levels[name].parent_name
            above = level.get(parent)
            if above is None:
                here = np.tile(self.default, (n, 1))
            elif last_use[parent] == index:
                here = level.pop(parent)
            else:
                here = above.copy()
            table.add_to(here, nodes[name].ravel())
            mine = self.runs.get(name)
            if mine is not None and len(mine):
                if len(mine) * 2 > self.n_latents:
                    # Most latents end here: swap instead of copying nearly all columns.
                    rest = np.setdiff1d(np.arange(self.n_latents), mine, assume_unique=True)
                    merged = here.copy() if last_use.get(name, -1) >= 0 else here
                    merged[:, rest] = out[:, rest]
                    out = merged
                else:
                    out[:, mine] = here[:, mine]
            if last_use.get(name, -1) >= 0:
                level[name] = here
        return out

    def _last_use(self) -> dict[str | None, int]:
        """Index of the last table that starts from each level's prediction."""
        return {self.tree.levels[name].parent_name: index for index, name in enumerate(self.tables)}


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
