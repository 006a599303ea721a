"""A token somewhere in the last 8, before the token at t."""

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.source import export_source
from labeler.functions.text import quote
from labeler.tokens import Tokens

WINDOW = 8
"""How many tokens before t are looked at."""


def distinct_before(ids: npt.NDArray[np.int32], window: int) -> Keys:
    """Distinct tokens among t-1, ..., t-window, int64 [n_ctx, ctx_len, window].

    Place k holds the token at t-1-k, or -1 where that lies before the context or the token came
    again after it.
    """
    n_ctx, ctx_len = ids.shape
    out = np.full((n_ctx, ctx_len, window), -1, dtype=np.int64)
    for back in range(1, min(window, ctx_len - 1) + 1):
        token = ids[:, : ctx_len - back].astype(np.int64)
        for nearer in range(1, back):
            token[token == ids[:, back - nearer : ctx_len - nearer]] = -1
        out[:, back:, back - 1] = token
    return out


@register
class SkipGram(FunctionType):
    """Another token somewhere in the 8 before this one; with the token: unigram+skip_gram.

    A position has one key for each distinct token among t-8, ..., t-1. The refinement
    "unigram+skip_gram" is the skip-gram proper: A within the last 8 tokens, and now B.
    """

    name = "skip_gram"
    several_keys = True

    def __init__(self) -> None:
        self._vocab: tuple[str, ...] = ()

    def prepare(self, tokens: Tokens) -> None:
        """Keep the texts."""
        self._vocab = tokens.vocab

    def state(self) -> State:
        """The texts."""
        return pack_texts("vocab", self._vocab)

    def load_state(self, state: State) -> None:
        """Restore the texts."""
        self._vocab = unpack_texts("vocab", state)

    def keys(self, tokens: Tokens) -> Keys:
        """Distinct tokens of the window, the nearest first, int64 [n_ctx, ctx_len, 8]."""
        return distinct_before(tokens.ids, WINDOW)

    def render(self, key: int) -> str:
        """The token in the window."""
        return f"{quote(self._vocab[key])} in the last {WINDOW} tokens"

    def source(self) -> str | None:
        """Python for exported labels."""
        return export_source(self.name, distinct_before, {"window": WINDOW})

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Put the token right before `pos`; None at the first position."""
        if pos < 1:
            return None
        edited = ids.copy()
        edited[pos - 1] = key
        return edited
