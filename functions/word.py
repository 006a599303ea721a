"""The word so far, completed across sub-tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import Keys
from labeler.functions.piece_type import Tables
from labeler.functions.pieces import Pieces, piece_ids
from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.functions.word_table import Hashes, WordTable, hashes, open_start, places, powers
from labeler.functions.words import split


def open_hashes(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    unfinished: npt.NDArray[np.bool_],
    power: npt.NDArray[np.uint64],
    tail: npt.NDArray[np.uint64],
) -> Hashes:
    """Hash of the word that reaches the end of each token, uint64 [n_ctx, ctx_len]; 0 = none.

    `power` [n_pieces] is 0 where a piece does not continue the word before it, `tail` [n_pieces]
    the hash of the run at its end.
    """
    pieces = piece_ids(ids, partial, code, piece, after)
    out = np.zeros(pieces.shape, dtype=np.uint64)
    value = np.zeros(len(pieces), dtype=np.uint64)
    for t in range(pieces.shape[1]):
        value = value * power[pieces[:, t]] + tail[pieces[:, t]]
        out[:, t] = value
    out[unfinished[pieces]] = 0
    return out


def word_keys(
    ids: npt.NDArray[np.int32], known: npt.NDArray[np.uint64], **tables: npt.NDArray[Any]
) -> Keys:
    """Place of the word so far in `known`, int64 [n_ctx, ctx_len]; -1 = none."""
    return places(open_hashes(ids, **tables), known)


@register
class Word(WordTable):
    """The word so far, from its first sub-token up to and including this one.

    A word is a run of letters, digits, marks and underscores. No key where a token ends outside a
    word, inside a character, or in a word that fewer than two positions of the fit split have.
    """

    name = "word"
    backs_off_to = None
    functions = (word_keys, open_hashes, places)

    def hash_tables(self, pieces: Pieces) -> Tables:
        """Hashes of the runs at the ends of the pieces."""
        splits = [split(text) for text in pieces.texts]
        tails = [word.tail for word in splits]
        whole = np.array([word.whole for word in splits])
        return {
            "unfinished": pieces.unfinished,
            "power": np.where(whole, powers(tails), np.uint64(0)),
            "tail": hashes(tails),
        }

    def hashes_of(self, ids: npt.NDArray[np.int32], tables: Tables) -> Hashes:
        """Hash of the word so far at each position."""
        return open_hashes(ids, **tables)

    def spelled(self, texts: Sequence[str], t: int) -> tuple[str, int]:
        """The word so far, and where its first token is."""
        return open_start(texts, t)

    def render(self, key: int) -> str:
        """The word."""
        return f"the word {quote(self.word(key))} so far"
