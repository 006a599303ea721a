"""A sample of the fit split on which thresholds are chosen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats
from labeler.level import Nodes
from labeler.statistics import LatentFirings
from labeler.tokens import Tokens

THRESHOLD_POSITIONS = 200_000
"""Positions on which thresholds are chosen, evenly spread contexts."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Some contexts of the fit split: their nodes, and where their positions went.

    Attributes
    ----------
    position : int32 [n]
        Flat positions of the fit split.
    place : int32 [n_positions]
        Index into `position` of each flat position; -1 = not in the sample.
    nodes : dict of str to int32 [n, m]
        Nodes by level.
    """

    position: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    nodes: dict[str, Nodes]

    @classmethod
    def take(
        cls, fit: Tokens, nodes: Mapping[str, Nodes], n: int = THRESHOLD_POSITIONS
    ) -> "Sample":
        """Evenly spread contexts that hold about `n` real positions together."""
        step = max(1, fit.n_positions // n)
        mask = fit.valid & (np.arange(fit.n_ctx) % step == 0)[:, None]
        position = np.flatnonzero(mask.ravel()).astype(np.int32)
        place = np.full(fit.ids.size, -1, dtype=np.int32)
        place[position] = np.arange(len(position), dtype=np.int32)
        return cls(
            position,
            place,
            {name: node.reshape(fit.ids.size, -1)[position] for name, node in nodes.items()},
        )

    def acts(self, firings: LatentFirings) -> Floats:
        """Activations of a block in the sample, float32 [n, n_latents]."""
        out = np.zeros((len(self.position), firings.n_latents), dtype=np.float32)
        at = self.place[firings.position]
        has = at >= 0
        out[at[has], firings.column[has]] = firings.act[has]
        return out
