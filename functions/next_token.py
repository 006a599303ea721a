"""The token that comes next."""

import numpy as np

from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.tokens import Tokens


@register
class NextToken(FunctionType):
    """The token after this one; no key at the end of a context.

    It shows what a latent is for, not what it sees. There is no `write`: what follows cannot
    change a causal model's activation here. Nor is there a `source`, which would have to know
    where the padding begins.
    """

    name = "next_token"
    looks_ahead = True

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
        """Id of the token at t+1; -1 where there is none."""
        out = np.full(tokens.ids.shape, NO_KEY, dtype=np.int64)
        out[:, :-1] = np.where(tokens.valid[:, 1:], tokens.ids[:, 1:], NO_KEY)
        return out

    def render(self, key: int) -> str:
        """The token."""
        return f"just before {quote(self._vocab[key])}"
