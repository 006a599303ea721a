"""Classes of text told by a finite automaton over characters: shape, digits, white space, length.

The automaton reads the text of a context character by character and the key is that of its state
at the end of each token. Its effect on every state is tabulated per piece of the vocabulary, so
keys take one look-up per position.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import Keys
from labeler.functions.piece_type import PieceType, Tables
from labeler.functions.pieces import Pieces, piece_ids
from labeler.tokens import Tokens


def machine_states(
    pieces: npt.NDArray[np.int64], step: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """State after each piece, uint8 [n_ctx, ctx_len]; `step` is [n_pieces, n_states], 0 first."""
    out = np.zeros(pieces.shape, dtype=np.uint8)
    state = np.zeros(len(pieces), dtype=np.uint8)
    for t in range(pieces.shape[1]):
        state = step[pieces[:, t], state]
        out[:, t] = state
    return out


def machine_keys(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    unfinished: npt.NDArray[np.bool_],
    step: npt.NDArray[np.uint8],
    key_of_state: npt.NDArray[np.int64],
) -> Keys:
    """Key of the state at the end of each token, int64 [n_ctx, ctx_len]; -1 = none."""
    pieces = piece_ids(ids, partial, code, piece, after)
    return np.where(unfinished[pieces], -1, key_of_state[machine_states(pieces, step)])


class CharMachine(PieceType):
    """A class of the text up to t, out of a fixed list."""

    names: ClassVar[tuple[str, ...]]
    """What each key reads."""

    key_of_state: ClassVar[tuple[int, ...]]
    """The key of each state, -1 = none; a context starts in state 0."""

    functions: ClassVar[tuple[Callable[..., npt.NDArray[Any]], ...]] = (
        machine_keys,
        machine_states,
    )

    @staticmethod
    @abstractmethod
    def step(state: int, char: str) -> int:
        """The state after a character."""

    def tables(self, pieces: Pieces, fit: Tokens) -> Tables:
        """The automaton's effect per piece."""
        return {
            "unfinished": pieces.unfinished,
            "step": self.step_table(pieces.texts),
            "key_of_state": np.array(self.key_of_state, dtype=np.int64),
        }

    def step_table(self, texts: Sequence[str]) -> npt.NDArray[np.uint8]:
        """State after each text from each state, uint8 [n_texts, n_states]."""
        n_states = len(self.key_of_state)
        # A map of states as bytes: `translate` composes two of them at the speed of C.
        map_of: dict[str, bytes] = {}
        rows = []
        for text in texts:
            row = bytes(range(n_states))
            for char in text:
                if char not in map_of:
                    steps = bytes(self.step(state, char) for state in range(n_states))
                    map_of[char] = steps + bytes(256 - n_states)
                row = row.translate(map_of[char])
            rows.append(row)
        return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(texts), n_states)

    def render(self, key: int) -> str:
        """The class."""
        return self.names[key]
