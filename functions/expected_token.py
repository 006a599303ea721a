"""The token that a back-off n-gram model expects next."""

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import State
from labeler.functions.expected_next import ExpectedNext
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.successors import Order, count_successors, most_likely
from labeler.functions.text import quote
from labeler.tokens import Tokens


@register
class ExpectedToken(ExpectedNext):
    """The most likely next token, by a 4-gram model of the corpus.

    The key is that token. It is about the token to come but reads only the last three, so it also
    runs on text whose continuation is not known yet. No key after a token that nothing followed in
    the fit split.
    """

    name = "expected_token"

    def __init__(self) -> None:
        super().__init__()
        self._vocab: tuple[str, ...] = ()

    def values(self, orders: list[Order], without: int | None) -> list[npt.NDArray[np.int32]]:
        """Most likely next token of each context."""
        return most_likely(orders, without)

    def prepare(self, tokens: Tokens) -> None:
        """Count what follows what."""
        self._vocab = tokens.vocab
        self.tabulate(count_successors(tokens), tokens.n_vocab)

    def state(self) -> State:
        """The table and the texts."""
        return {**super().state(), **pack_texts("vocab", self._vocab)}

    def load_state(self, state: State) -> None:
        """Restore the table and the texts."""
        super().load_state(state)
        self._vocab = unpack_texts("vocab", state)

    def render(self, key: int) -> str:
        """The token expected."""
        return f"where {quote(self._vocab[key])} is expected next"
