"""Run all labels of a hookpoint at once on any text.

Labels are look-ups at the nodes of a position, in two parts:

    P_level[position] = scale_level[node] * P_parent[position] + added_level[node]
    prediction        = max(0, P_leaf[position] + sum over levels of extra_level[node])

The first is the whole table of a chain of types (unlimited budget): `scale` is lam / (n + lam) and
`added` S / (n + lam), the shrunk mean, in which a key that was seen without a firing pulls the
prediction down. The second is what further keys add: all there is of a short label, and the
corrections that other types make to a whole table. `added` and `extra` are sparse, latent by
latent; `scale` is one number per node.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

from labeler.arrays import Floats
from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.tokens import Tokens

CONTEXTS_AT_ONCE = 8
"""Contexts predicted at once. 8 x 128 positions x 2,048 latents are 8 MB: small enough for the
allocator to hand the same memory out again, which is several times as fast as fresh pages."""

CONTEXTS_NUMBERED = 512
"""Contexts whose nodes are looked up at once."""


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

    def only(self, column: npt.NDArray[np.int64]) -> "Table":
        """The same for some latents: `column` is the new number of each, -1 for those left out."""
        where = column[self.latent]
        kept = where >= 0
        start = np.concatenate([[0], np.cumsum(kept)])[self.start]
        return Table(start, where[kept], self.value[kept], self.scale)

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
        By level, parents first: the chains of whole tables.
    default : float32 [n_latents]
        Prediction where no key applies.
    runs : mapping of str to int [n]
        By level, the latents whose chain ends there. Latents in none start from `default`.
    threshold : float32 [n_latents]
        Activation from which the label says "fires"; infinity where it never does.
    extra : mapping of str to Table
        By level, what its keys add to the chains' predictions.
    """

    tree: KeyTree
    tables: Mapping[str, Table]
    default: Floats
    runs: Mapping[str, npt.NDArray[np.integer]]
    threshold: Floats
    extra: Mapping[str, Table] = field(default_factory=dict)

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return len(self.default)

    def only(self, latents: npt.NDArray[np.int64]) -> "Predictor":
        """The labels of some latents, int [n], numbered anew in that order."""
        column = np.full(self.n_latents, -1, dtype=np.int64)
        column[latents] = np.arange(len(latents))
        runs = {name: column[np.asarray(mine, dtype=np.int64)] for name, mine in self.runs.items()}
        return Predictor(
            tree=self.tree,
            tables={name: table.only(column) for name, table in self.tables.items()},
            default=self.default[latents],
            runs={name: mine[mine >= 0] for name, mine in runs.items()},
            threshold=self.threshold[latents],
            extra={name: table.only(column) for name, table in self.extra.items()},
        )

    def predict(self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None) -> Floats:
        """Predicted activations, float32 [n_ctx, ctx_len, n_latents]; padding is arbitrary."""
        out = np.empty((tokens.n_ctx * tokens.ctx_len, self.n_latents), dtype=np.float32)
        for span, prediction in self.iterate(tokens, nodes):
            out[span.start * tokens.ctx_len : span.stop * tokens.ctx_len] = prediction
        return out.reshape(tokens.n_ctx, tokens.ctx_len, self.n_latents)

    def iterate(
        self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """Predictions a few contexts at a time.

        Parameters
        ----------
        tokens : Tokens
        nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m], optional
            Of all these tokens, where they are known already.

        Yields
        ------
        slice
            The contexts.
        float32 [n * ctx_len, n_latents]
            Their predictions by flat position.
        """
        levels = [*self.tables, *self.extra]
        for start in range(0, tokens.n_ctx, CONTEXTS_NUMBERED):
            stop = min(start + CONTEXTS_NUMBERED, tokens.n_ctx)
            if nodes is None:
                found = self.tree.find(tokens.select(np.arange(start, stop)), levels)
            else:
                found = {name: nodes[name][start:stop] for name in levels}
            for begin in range(start, stop, CONTEXTS_AT_ONCE):
                span = slice(begin, min(begin + CONTEXTS_AT_ONCE, stop))
                part = slice(span.start - start, span.stop - start)
                some = {name: node[part] for name, node in found.items()}
                yield span, self.at_nodes(some, (span.stop - span.start) * tokens.ctx_len)

    def at_nodes(self, nodes: Mapping[str, Nodes], n: int | None = None) -> Floats:
        """Predictions at positions whose nodes are known, float32 [n, n_latents].

        `n` is their number; needed only where there may be no level to tell it.
        """
        if n is None:
            first = next(iter(nodes.values()))
            n = first.shape[0] * first.shape[1]
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
        if self.extra:
            for name, table in self.extra.items():
                for node in nodes[name].reshape(n, -1).T:
                    table.add_to(out, node)
            np.maximum(out, 0, out=out)
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
                # Chains may part: latents that end here may be followed on another path.
                where = where[where >= 0]
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


def additive_tables(
    tree: KeyTree,
    level: npt.NDArray[np.str_],
    latent: npt.NDArray[np.int32],
    node: npt.NDArray[np.int32],
    weight: npt.NDArray[np.floating],
    n_latents: int,
) -> dict[str, Table]:
    """Tables of short labels from their entries (any order): what each key adds."""
    tables: dict[str, Table] = {}
    for name in tree.levels:
        mine = np.flatnonzero(level == name)
        if len(mine):
            shape = (tree.levels[name].n_nodes, n_latents)
            matrix = _csr(weight[mine].astype(np.float32), node[mine], latent[mine], shape)
            tables[name] = Table.from_csr(matrix, None)
    return tables


def _csr(
    data: Floats,
    row: npt.NDArray[np.int32],
    column: npt.NDArray[np.int32],
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    matrix = sparse.coo_matrix((data, (row, column)), shape=shape).tocsr()
    matrix.sort_indices()
    return matrix
