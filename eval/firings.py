"""What fires where on a text: true firings, or the calls of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats


@dataclass(frozen=True, eq=False)
class TextFirings:
    """Firings of a hookpoint on some contexts, by flat position (CSR).

    Attributes
    ----------
    start : int64 [n_ctx * ctx_len + 1]
        Where each position's firings begin.
    latent : int32 [n_firings]
        Ascending within a position.
    act : float32 [n_firings]
    n_latents : int
    """

    start: npt.NDArray[np.int64]
    latent: npt.NDArray[np.int32]
    act: Floats
    n_latents: int

    @classmethod
    def make(
        cls,
        position: npt.NDArray[np.integer],
        latent: npt.NDArray[np.integer],
        act: Floats,
        *,
        n_positions: int,
        n_latents: int,
    ) -> "TextFirings":
        """From firings ordered by flat position, counted from 0, then by latent."""
        counts = np.bincount(position, minlength=n_positions)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(start, latent.astype(np.int32), act.astype(np.float32), n_latents)

    @property
    def n_positions(self) -> int:
        """Positions, padding included."""
        return len(self.start) - 1

    def dense(self, begin: int, end: int) -> Floats:
        """Activations at flat positions begin to end - 1, float32 [end - begin, n_latents]."""
        out = np.zeros((end - begin, self.n_latents), dtype=np.float32)
        low, high = self.start[begin], self.start[end]
        row = np.repeat(np.arange(end - begin), np.diff(self.start[begin : end + 1]))
        out[row, self.latent[low:high]] = self.act[low:high]
        return out

    def at(
        self, position: npt.NDArray[np.integer], latent: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        """Activation of each latent at its flat position, float32 [n]; 0 where silent."""
        wanted = position.astype(np.int64) * self.n_latents + latent
        found = np.searchsorted(self._code, wanted)
        found[found == len(self._code)] = 0
        if not len(self._code):
            return np.zeros(len(wanted), dtype=np.float32)
        return np.where(self._code[found] == wanted, self.act[found], np.float32(0))

    @property
    def position(self) -> npt.NDArray[np.int64]:
        """Flat position of each firing, int64 [n_firings], ascending."""
        return np.repeat(np.arange(self.n_positions), np.diff(self.start))

    @cached_property
    def _code(self) -> npt.NDArray[np.int64]:
        """Position and latent of each firing as one ascending number."""
        return self.position * self.n_latents + self.latent

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """Firings of each latent, int64 [n_latents]."""
        return np.bincount(self.latent, minlength=self.n_latents)

    def by_latent(self, latents: Sequence[int]) -> dict[int, npt.NDArray[np.int64]]:
        """Flat positions where each of some latents fires, ascending."""
        order = np.argsort(self.latent, kind="stable")
        bounds = np.searchsorted(self.latent[order], [list(latents), [one + 1 for one in latents]])
        position = self.position
        return {
            one: position[order[low:high]]
            for one, low, high in zip(latents, *bounds.tolist(), strict=True)
        }
