"""Candidate entries of short labels: (latent, node) pairs with their sums."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats
from labeler.keytree import Level
from labeler.rowsums import Chunk


@dataclass(frozen=True, eq=False)
class Entries:
    """(latent, node) pairs of one level, or of several with `level` telling which.

    Attributes
    ----------
    latent : int32 [n]
        Latent, counted from the first of its block.
    level : int32 [n]
        Index of the level in its chain, 0 = coarsest.
    node : int32 [n]
        Node of that level.
    n, count, total : float32 [n]
        Positions of the fit split at the node, firings there, sum of acts there.
    trust : float32 [n]
        Error saved out of fold over error saved in sample, against the parent: 0 to 1.
    """

    latent: npt.NDArray[np.int32]
    level: npt.NDArray[np.int32]
    node: npt.NDArray[np.int32]
    n: Floats
    count: Floats
    total: Floats
    trust: Floats

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.latent)

    @classmethod
    def none(cls) -> "Entries":
        """No entries."""
        i, f = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        return cls(i, i, i, f, f, f, f)

    @classmethod
    def join(cls, parts: Sequence["Entries"]) -> "Entries":
        """Entries one after another."""
        if not parts:
            return cls.none()
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def take(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> "Entries":
        """Some of the entries, by index or mask."""
        return Entries(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def worth(
        cls,
        chunk: Chunk,
        nodes: npt.NDArray[np.int32],
        n_total: npt.NDArray[np.int64],
        error_gain: Floats,
        parent_mean: Floats,
        worth: Floats,
    ) -> "Entries":
        """Entries of a chunk that save more than `worth` [n_latents] out of fold."""
        row, latent = np.nonzero(error_gain > worth)
        node = nodes[row]
        n = n_total[node].astype(np.float32)
        total = chunk.node_sum[row, latent]
        in_sample = n * (total / n - parent_mean[chunk.first[row], latent]) ** 2
        return cls(
            latent=latent.astype(np.int32),
            level=np.zeros(len(node), dtype=np.int32),
            node=node,
            n=n,
            count=chunk.node_count[row, latent],
            total=total,
            trust=np.clip(error_gain[row, latent] / np.maximum(in_sample, 1e-12), 0, 1),
        )


@dataclass(frozen=True, eq=False)
class Pool:
    """The entries that compete for a place, with the way up to coarser entries.

    Attributes
    ----------
    entries : Entries
        Sorted by latent; `level` counts along one chain of types.
    above : int32 [n_levels - 1, n]
        Index of the entry one, two, ... levels up at the same positions; -1 where it is no
        candidate.
    """

    entries: Entries
    above: npt.NDArray[np.int32]

    @classmethod
    def make(cls, per_level: list[Entries], levels: list[Level]) -> "Pool":
        """Link the candidates of a chain's levels, coarsest first."""
        entries = Entries.join(
            [
                replace(e, level=np.full(len(e), depth, dtype=np.int32))
                for depth, e in enumerate(per_level)
            ]
        )
        entries = entries.take(np.lexsort((entries.node, entries.level, entries.latent)))
        width = max((level.n_nodes for level in levels), default=1)
        stride = len(levels) * width

        def code(
            latent: npt.NDArray[np.integer],
            level: npt.NDArray[np.integer],
            node: npt.NDArray[np.integer],
        ) -> npt.NDArray[np.int64]:
            return latent.astype(np.int64) * stride + level.astype(np.int64) * width + node

        own = code(entries.latent, entries.level, entries.node)
        above = np.full((max(len(levels) - 1, 0), len(entries)), -1, dtype=np.int32)
        node, level = entries.node.copy(), entries.level.copy()
        for step in range(len(levels) - 1):
            up = np.flatnonzero(level > 0)
            for depth in range(1, len(levels)):
                at = up[level[up] == depth]
                node[at] = levels[depth].parent[node[at]]
            level[up] -= 1
            wanted = code(entries.latent[up], level[up], node[up])
            found = np.searchsorted(own, wanted)
            found[found == len(own)] = 0
            above[step, up] = np.where(own[found] == wanted, found, -1)
            level[np.setdiff1d(np.arange(len(level)), up, assume_unique=True)] = 0
        return cls(entries, above)
