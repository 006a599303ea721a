"""The text on which explanations are checked, and what fires there.

Two kinds, one shape. A run watches every latent on the same held-out documents, at the natural base
rate. Files that carry their own contexts show each latent on its own contexts only: those of other
latents serve as text where it is assumed silent, and that is declared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Longs
from labeler.eval.firings import TextFirings
from labeler.explanations import Context, Place
from labeler.tokens import HELDOUT, Tokens


@dataclass(frozen=True, eq=False)
class Ground:
    """Text, and the firings of some latents on it.

    Attributes
    ----------
    hookpoint : str
        Whose latents these are.
    tokens : Tokens
        The text; `vocab` holds the text of each token id. A document is what is resampled for
        intervals.
    latents : int64 [n]
        Latents that are known here, ascending; the *column* of a latent is its place in it.
    firings : TextFirings
        By flat position and column (`n_latents` is n).
    owner : int64 [n_ctx] or None
        Column of the latent whose context each is; None where every latent was watched
        everywhere. A latent's activations in contexts of others are not known: taken as silent.
    """

    hookpoint: str
    tokens: Tokens
    latents: npt.NDArray[np.int64]
    firings: TextFirings
    owner: Longs | None = None

    @cached_property
    def column(self) -> dict[int, int]:
        """Column of each latent."""
        return {int(latent): column for column, latent in enumerate(self.latents)}

    @cached_property
    def fires_in(self) -> dict[int, Longs]:
        """Flat positions where each column fires, ascending."""
        return self.firings.by_latent(range(len(self.latents)))

    def own_contexts(self, column: int) -> Bools:
        """Which contexts show this latent's true activations, bool [n_ctx]."""
        if self.owner is None:
            return np.ones(self.tokens.n_ctx, dtype=bool)
        mine: Bools = self.owner == column
        return mine


def ground_of_contexts(hookpoint: str, contexts: Mapping[Place, Sequence[Context]]) -> Ground:
    """Text and firings from contexts that came with explanations.

    Each distinct token text becomes a token id. Every context is a document of its own, padded on
    the right. Contexts of other hookpoints are left out.
    """
    mine = sorted(latent for place, latent in contexts if place == hookpoint)
    latents = np.array(mine, dtype=np.int64)
    stored = [
        (column, context)
        for column, latent in enumerate(mine)
        for context in contexts[hookpoint, latent]
        if context.tokens
    ]
    number: dict[str, int] = {}
    longest = max((len(context.tokens) for _, context in stored), default=1)
    ids = np.zeros((len(stored), longest), dtype=np.int32)
    length = np.ones(len(stored), dtype=np.int32)
    acts = np.zeros((len(stored), longest), dtype=np.float32)
    for row, (_, context) in enumerate(stored):
        size = len(context.tokens)
        ids[row, :size] = [number.setdefault(text, len(number)) for text in context.tokens]
        acts[row, :size] = np.maximum(context.acts, 0)
        length[row] = size
    tokens = Tokens(
        ids=ids,
        length=length,
        doc=np.arange(len(stored), dtype=np.int32),
        fold=np.full(len(stored), HELDOUT, dtype=np.int8),
        doc_ids=tuple(f"context {row}" for row in range(len(stored))),
        topics=((),) * len(stored),
        topic_levels=(),
        vocab=tuple(number) or ("",),
    )
    owner = np.array([column for column, _ in stored], dtype=np.int64)
    rows, offset = np.nonzero(acts > 0)
    firings = TextFirings.make(
        rows * longest + offset,
        owner[rows],
        acts[rows, offset],
        n_positions=ids.size,
        n_latents=len(latents),
    )
    return Ground(hookpoint, tokens, latents, firings, owner)
