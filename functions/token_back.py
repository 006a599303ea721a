"""Tokens at fixed distances before t, whatever lies between: tokens further back, gapped pairs."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.source import export_source
from labeler.tokens import Tokens


def tokens_at(ids: npt.NDArray[np.int32], distances: npt.NDArray[np.int64], n_vocab: int) -> Keys:
    """Number with the tokens at t - distance as digits to the base n_vocab, int64 [n_ctx, ctx_len].

    The first of `distances` is the most significant; -1 where one reaches before the context.
    """
    out = np.zeros(ids.shape, dtype=np.int64)
    for distance in distances.tolist():
        out *= n_vocab
        out[:, distance:] += ids[:, : max(ids.shape[1] - distance, 0)]
    out[:, : distances.max()] = -1
    return out


class TokensAt(FunctionType):
    """The tokens at some fixed distances before t, whatever lies between."""

    distances: ClassVar[tuple[int, ...]]
    """How far back each token is, the nearest first; 0 is the token at t."""

    def __init__(self) -> None:
        self._vocab: tuple[str, ...] = ()

    def prepare(self, tokens: Tokens) -> None:
        """Keep the vocabulary, for texts and as the base of the keys."""
        self._vocab = tokens.vocab

    def state(self) -> State:
        """The vocabulary."""
        return pack_texts("vocab", self._vocab)

    def load_state(self, state: State) -> None:
        """Restore the vocabulary."""
        self._vocab = unpack_texts("vocab", state)

    def keys(self, tokens: Tokens) -> Keys:
        """Key of the tokens at the distances; -1 where one reaches before the context."""
        return tokens_at(tokens.ids, np.array(self.distances), len(self._vocab))

    def ids_of(self, key: int) -> list[int]:
        """Token ids of a key, in the order of `distances`."""
        ids = []
        for _ in self.distances:
            key, token = divmod(key, len(self._vocab))
            ids.append(token)
        return ids[::-1]

    def texts_of(self, key: int) -> list[str]:
        """Token texts of a key, in the order of `distances`."""
        return [self._vocab[token] for token in self.ids_of(key)]

    @abstractmethod
    def render(self, key: int) -> str:
        """Text of the key."""

    def source(self) -> str | None:
        """Python for exported labels."""
        state: dict[str, npt.NDArray[np.int64] | int] = {
            "distances": np.array(self.distances),
            "n_vocab": len(self._vocab),
        }
        return export_source(self.name, tokens_at, state)

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Replace the tokens at the distances; None where the context is too short."""
        if pos < max(self.distances):
            return None
        edited = ids.copy()
        edited[[pos - distance for distance in self.distances]] = self.ids_of(key)
        return edited
