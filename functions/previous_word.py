"""The last complete word before the one at t, completed across sub-tokens."""

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


def closed_hashes(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    power: npt.NDArray[np.uint64],
    tail: npt.NDArray[np.uint64],
    lead_power: npt.NDArray[np.uint64],
    lead: npt.NDArray[np.uint64],
    inner: npt.NDArray[np.uint64],
) -> Hashes:
    """Hash of the last word that ended before the end of each token, uint64; 0 = none yet.

    `power` and `tail` as for the word so far; `lead_power` is 0 and `lead` and `inner` are 0 where
    a piece ends no word, holds none.
    """
    pieces = piece_ids(ids, partial, code, piece, after)
    out = np.zeros(pieces.shape, dtype=np.uint64)
    current = np.zeros(len(pieces), dtype=np.uint64)
    closed = np.zeros(len(pieces), dtype=np.uint64)
    for t in range(pieces.shape[1]):
        at = pieces[:, t]
        ended = current * lead_power[at] + lead[at]
        closed = np.where(ended > 0, ended, closed)
        closed = np.where(inner[at] > 0, inner[at], closed)
        current = current * power[at] + tail[at]
        out[:, t] = closed
    return out


def previous_word_keys(
    ids: npt.NDArray[np.int32], known: npt.NDArray[np.uint64], **tables: npt.NDArray[Any]
) -> Keys:
    """Place of the last complete word in `known`, int64 [n_ctx, ctx_len]; -1 = none."""
    return places(closed_hashes(ids, **tables), known)


@register
class PreviousWord(WordTable):
    """The last complete word before the one at t, whatever follows it.

    In and right after white space or punctuation it is the word before that. No key before the
    first word of a context has ended, and for words that fewer than two positions of the fit split
    have.
    """

    name = "previous_word"
    backs_off_to = None
    functions = (previous_word_keys, closed_hashes, places)

    def hash_tables(self, pieces: Pieces) -> Tables:
        """Hashes of the runs at the starts, insides and ends of the pieces."""
        splits = [split(text) for text in pieces.texts]
        leads = [word.lead for word in splits]
        tails = [word.tail for word in splits]
        whole = np.array([word.whole for word in splits])
        none = np.uint64(0)
        return {
            "power": np.where(whole, powers(tails), none),
            "tail": hashes(tails),
            "lead_power": np.where(whole, none, powers(leads)),
            "lead": hashes(leads),
            "inner": hashes([word.inner for word in splits]),
        }

    def hashes_of(self, ids: npt.NDArray[np.int32], tables: Tables) -> Hashes:
        """Hash of the last complete word at each position."""
        return closed_hashes(ids, **tables)

    def spelled(self, texts: Sequence[str], t: int) -> tuple[str, int]:
        """The word that the piece at t holds or ends, and where its first token is."""
        here = split(texts[t])
        if here.inner:
            return here.inner, t
        word, start = open_start(texts, t - 1)
        return word + here.lead, start if word else t

    def render(self, key: int) -> str:
        """The word."""
        return f"anything after the word {quote(self.word(key))}"
