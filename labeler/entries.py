"""Candidate entries of short labels: (latent, node) pairs with their sums."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats
from labeler.rowsums import Chunk


@dataclass(frozen=True, eq=False)
class Entries:
    """(latent, node) pairs of one level, or of several with `level` telling which.

    Attributes
    ----------
    latent : int32 [n]
        Latent, counted from the first of its block.
    level : int32 [n]
        Index of the level in the tree.
    node : int32 [n]
        Node of that level.
    n, count, total : float32 [n]
        Positions of the fit split at the node, firings there, sum of acts there.
    gain : float32 [n]
        Squared error saved out of fold, against what the level backs off to.
    trust : float32 [n]
        The same over the error saved in sample: 0 to 1.
    """

    latent: npt.NDArray[np.int32]
    level: npt.NDArray[np.int32]
    node: npt.NDArray[np.int32]
    n: Floats
    count: Floats
    total: Floats
    gain: Floats
    trust: Floats

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.latent)

    @classmethod
    def none(cls) -> "Entries":
        """No entries."""
        i, f = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        return cls(i, i, i, f, f, f, f, f)

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
        level: int,
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
        in_sample = n * (total / n - parent_mean[chunk.plan.first[row], latent]) ** 2
        gain = error_gain[row, latent]
        return cls(
            latent=latent.astype(np.int32),
            level=np.full(len(node), level, dtype=np.int32),
            node=node,
            n=n,
            count=chunk.node_count[row, latent],
            total=total,
            gain=gain,
            trust=np.clip(gain / np.maximum(in_sample, 1e-12), 0, 1),
        )
