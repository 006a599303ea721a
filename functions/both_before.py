"""Two tokens that both occurred before t or at t."""

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.source import export_source
from labeler.functions.text import quote
from labeler.tokens import Tokens

N_MARKED = 256
"""Tokens that may be part of a pair."""

N_RECENT = 5
"""Distinct marked tokens remembered at a position: 10 pairs."""


def pairs_before(ids: npt.NDArray[np.int32], marked: npt.NDArray[np.int64], recent: int) -> Keys:
    """Pairs of the `recent` distinct marked tokens last met, int64 [n_ctx, ctx_len, n_pairs].

    `marked` is ascending. The key of a pair is ``low * len(marked) + high``, both as places in
    `marked`; -1 in the places left while fewer have been met.
    """
    n_ctx, ctx_len = ids.shape
    place = np.minimum(np.searchsorted(marked, ids), len(marked) - 1)
    place = np.where(marked[place] == ids, place, -1)
    first, second = np.triu_indices(recent, 1)
    out = np.full((n_ctx, ctx_len, len(first)), -1, dtype=np.int64)
    kept = np.full((n_ctx, recent), -1, dtype=np.int64)
    for t in range(ctx_len):
        rows = np.flatnonzero(place[:, t] >= 0)
        new, old = place[rows, t], kept[rows]
        # Move to front: what stood before the token's old place moves back by one.
        same = old == new[:, None]
        until = np.where(same.any(axis=1), same.argmax(axis=1), recent - 1)
        moved = np.concatenate([new[:, None], old[:, :-1]], axis=1)
        kept[rows] = np.where(np.arange(recent) <= until[:, None], moved, old)
        one, other = kept[:, first], kept[:, second]
        low, high = np.minimum(one, other), np.maximum(one, other)
        out[:, t] = np.where(low >= 0, low * len(marked) + high, -1)
    return out


@register
class BothBefore(FunctionType):
    """Two marked tokens that both occurred at t or before, in either order.

    The number of keys is bounded in two ways. Only 256 tokens are marked: of those found in at
    most half of the contexts of the fit split, the ones whose presence in a context varies most
    (p (1 - p), with p the share of contexts). And a position has the pairs of the 5 distinct
    marked tokens last met only, at most 10: a pair is forgotten once five other marked tokens
    came after one of its two.
    """

    name = "both_before"
    backs_off_to = None
    several_keys = True

    def __init__(self) -> None:
        self._marked: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._texts: tuple[str, ...] = ()

    def prepare(self, tokens: Tokens) -> None:
        """Choose the marked tokens."""
        context = np.broadcast_to(np.arange(tokens.n_ctx)[:, None], tokens.ids.shape)
        met = np.unique(context[tokens.valid] * tokens.n_vocab + tokens.ids[tokens.valid])
        count = np.bincount(met % tokens.n_vocab, minlength=tokens.n_vocab)
        share = count / max(tokens.n_ctx, 1)
        usable = np.flatnonzero((share > 0) & (share <= 0.5))
        if len(usable) < 2:
            raise NotApplicableError(
                f"{len(usable)} token(s) occur in some contexts and in at most half of them; "
                "a pair needs two"
            )
        spread = share[usable] * (1 - share[usable])
        chosen = usable[np.argsort(-spread, kind="stable")][:N_MARKED]
        self._marked = np.sort(chosen).astype(np.int64)
        self._texts = tuple(tokens.vocab[token] for token in self._marked)

    def state(self) -> State:
        """The marked tokens and their texts."""
        return {"marked": self._marked, **pack_texts("marked", self._texts)}

    def load_state(self, state: State) -> None:
        """Restore the marked tokens."""
        self._marked = state["marked"].astype(np.int64)
        self._texts = unpack_texts("marked", state)

    def keys(self, tokens: Tokens) -> Keys:
        """Pairs of the marked tokens last met, int64 [n_ctx, ctx_len, 10]."""
        return pairs_before(tokens.ids, self._marked, N_RECENT)

    def render(self, key: int) -> str:
        """Both tokens."""
        one, other = (quote(self._texts[place]) for place in divmod(key, len(self._marked)))
        return f"both {one} and {other} so far"

    def source(self) -> str | None:
        """Python for exported labels."""
        state: dict[str, npt.NDArray[np.int64] | int] = {"marked": self._marked, "recent": N_RECENT}
        return export_source(self.name, pairs_before, state)

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Put one token at `pos`, the other right before it; None at the first position."""
        if pos < 1:
            return None
        edited = ids.copy()
        edited[pos - 1 : pos + 1] = self._marked[list(divmod(key, len(self._marked)))]
        return edited
