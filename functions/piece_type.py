"""What the function types have in common that read characters and words rather than tokens."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.pieces import Pieces, piece_ids
from labeler.functions.source import export_source
from labeler.functions.words import is_word
from labeler.tokens import Tokens

Tables = dict[str, npt.NDArray[Any]]
"""Arguments, by name, of the function that computes keys."""

_EXAMPLE_POSITIONS = 2**20
"""Positions of the fit split in which examples for `write` are looked for."""


class PieceType(FunctionType):
    """Keys made of the texts of the tokens up to t.

    Keys stand for characters, words or classes of them, so that a label means the same with
    another tokenizer. Everything read from the vocabulary is in tables.
    """

    functions: ClassVar[tuple[Callable[..., npt.NDArray[Any]], ...]]
    """Module-level ``keys(ids, **tables)``, then the functions it calls but `piece_ids`."""

    def __init__(self) -> None:
        self._tables: Tables = {}
        self._example_key: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._example_token: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)

    @abstractmethod
    def tables(self, pieces: Pieces, fit: Tokens) -> Tables:
        """Arguments of the function of the keys, besides those of `piece_ids`."""

    def prepare(self, tokens: Tokens) -> None:
        """Make the tables from the vocabulary, and find an example token of each key.

        Raises
        ------
        NotApplicableError
            If no position has a key.
        """
        pieces = Pieces(tokens)
        self._tables = {**pieces.tables, **self.tables(pieces, tokens)}
        keys = np.where(tokens.valid, self.keys(tokens), -1)
        if not (keys >= 0).any():
            raise NotApplicableError(f"no position of the fit split has a key of {self.name}")
        flat = keys.ravel()[:_EXAMPLE_POSITIONS]
        token = tokens.ids.ravel()[:_EXAMPLE_POSITIONS][flat >= 0]
        self._example_key, rank = np.unique(flat[flat >= 0], return_inverse=True)
        code, count = np.unique(rank * tokens.n_vocab + token, return_counts=True)
        rank, token = np.divmod(code, tokens.n_vocab)
        # First the tokens that have the key whatever comes before them, then the frequent ones.
        begins = np.array([not is_word(text[:1] or "_") for text in tokens.vocab])[token]
        alone = self.keys_of(token[:, None].astype(np.int32))[:, 0] == self._example_key[rank]
        order = np.lexsort((-count, ~(begins & alone), rank))
        first = np.unique(rank[order], return_index=True)[1]
        self._example_token = token[order][first].astype(np.int32)

    def state(self) -> State:
        """Tables and examples."""
        return {
            **{f"table_{name}": table for name, table in self._tables.items()},
            "example_key": self._example_key,
            "example_token": self._example_token,
        }

    def load_state(self, state: State) -> None:
        """Restore tables and examples."""
        self._tables = {
            name.removeprefix("table_"): table
            for name, table in state.items()
            if name.startswith("table_")
        }
        self._example_key = state["example_key"].astype(np.int64)
        self._example_token = state["example_token"].astype(np.int32)

    def keys(self, tokens: Tokens) -> Keys:
        """Key at every position, -1 = none."""
        return self.keys_of(tokens.ids)

    def keys_of(self, ids: npt.NDArray[np.int32]) -> Keys:
        """Keys of token ids [n_ctx, ctx_len]."""
        return self.functions[0](ids, **self._tables)

    def source(self) -> str | None:
        """Python for exported labels, the tables packed in it."""
        main, *helpers = self.functions
        return export_source(self.name, main, self._tables, (piece_ids, *helpers))

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Put the example token of the key at `pos`; None if that does not give the key there."""
        index = int(np.searchsorted(self._example_key, key))
        if index == len(self._example_key) or self._example_key[index] != key:
            return None
        edited = ids.copy()
        edited[pos] = self._example_token[index]
        return self.checked(edited, pos, key)

    def checked(
        self, edited: npt.NDArray[np.int32], pos: int, key: int
    ) -> npt.NDArray[np.int32] | None:
        """The context, or None if `pos` has another key: the tokens before may change it."""
        return edited if self.keys_of(edited[None])[0, pos] == key else None
