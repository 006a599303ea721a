"""Words as keys, told apart by a hash of their characters: shared by word and previous_word.

A hash that is a polynomial in the characters can be carried over sub-tokens: appending a text of n
characters multiplies by ``_BASE ** n`` and adds the hash of the text. So a word has the same hash
however it is split into tokens. With 65,536 words known and 64 bits, the chance that another word
is taken for one of them is 4e-15.
"""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import Keys, State
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.piece_type import PieceType, Tables
from labeler.functions.pieces import Pieces
from labeler.functions.words import split
from labeler.tokens import Tokens

Hashes = npt.NDArray[np.uint64]

MAX_WORDS = 65_536
"""The words at the most positions of the fit split are kept."""

MIN_POSITIONS = 2
"""A word must be the key of so many positions of the fit split to be kept."""

MAX_LENGTH = 40
"""Longer words have no key; they are no words but hashes, addresses and the like."""

_BASE = 0x9E3779B97F4A7C15
_BITS = 2**64 - 1


def word_hash(text: str) -> int:
    """Hash of a word, 0 to 2^64 - 1; 0 for the empty text."""
    value = 0
    for char in text:
        value = (value * _BASE + ord(char) + 1) & _BITS
    return value


def hashes(texts: Sequence[str]) -> Hashes:
    """Hash of each word, uint64 [n_texts]."""
    return np.array([word_hash(text) for text in texts], dtype=np.uint64)


def powers(texts: Sequence[str]) -> Hashes:
    """What appending each text multiplies a hash by, uint64 [n_texts]."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    distinct, rank = np.unique(lengths, return_inverse=True)
    return np.array([pow(_BASE, int(n), 2**64) for n in distinct], dtype=np.uint64)[rank]


def places(values: Hashes, known: Hashes) -> Keys:
    """Place of each hash in ascending `known`, -1 where it is not there; int64, as `values`."""
    index = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[index] == values, index, -1)


class WordTable(PieceType):
    """Words that have a key at two positions of the fit split or more; the key is their place."""

    def __init__(self) -> None:
        super().__init__()
        self._words: tuple[str, ...] = ()
        self._spelling: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._spelling_end: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    @abstractmethod
    def hash_tables(self, pieces: Pieces) -> Tables:
        """Arguments of the function of the keys besides ``known``, the hashes of the words."""

    @abstractmethod
    def hashes_of(self, ids: npt.NDArray[np.int32], tables: Tables) -> Hashes:
        """Hash of the word at each position, uint64 [n_ctx, ctx_len]; 0 = no word."""

    @abstractmethod
    def spelled(self, texts: Sequence[str], t: int) -> tuple[str, int]:
        """The word at position t, where it is met first, and where its first token is.

        `texts` are those of the context's pieces, up to t at least.
        """

    def tables(self, pieces: Pieces, fit: Tokens) -> Tables:
        """Choose the words by how many positions have them."""
        tables = {**pieces.tables, **self.hash_tables(pieces)}
        found = np.where(fit.valid, self.hashes_of(fit.ids, tables), np.uint64(0)).ravel()
        distinct, first, count = np.unique(found, return_index=True, return_counts=True)
        often = np.flatnonzero((distinct > 0) & (count >= MIN_POSITIONS))
        often = np.sort(often[np.argsort(-count[often], kind="stable")][:MAX_WORDS])
        words, spellings, known = [], [], []
        for index in often:
            context, t = divmod(int(first[index]), fit.ctx_len)
            texts = [pieces.texts[piece] for piece in pieces.ids[context, : t + 1]]
            word, start = self.spelled(texts, t)
            if len(word) <= MAX_LENGTH:
                words.append(word)
                spellings.append(fit.ids[context, start : t + 1])
                known.append(distinct[index])
        if not words:
            raise NotApplicableError(
                f"no word is the key of {MIN_POSITIONS} positions of the fit split"
            )
        self._words = tuple(words)
        self._spelling = np.concatenate(spellings)
        self._spelling_end = np.cumsum([len(ids) for ids in spellings], dtype=np.int64)
        return {**self.hash_tables(pieces), "known": np.array(known, dtype=np.uint64)}

    def state(self) -> State:
        """Tables, the words' texts, and how each was spelled in tokens where it was met first."""
        return {
            **super().state(),
            **pack_texts("word", self._words),
            "spelling": self._spelling,
            "spelling_end": self._spelling_end,
        }

    def load_state(self, state: State) -> None:
        """Restore tables, texts and spellings."""
        super().load_state(state)
        self._words = unpack_texts("word", state)
        self._spelling = state["spelling"].astype(np.int32)
        self._spelling_end = state["spelling_end"].astype(np.int64)

    def word(self, key: int) -> str:
        """The word of a key."""
        return self._words[key]

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Spell the word up to `pos`; None if it does not fit or joins the word before it."""
        start = int(self._spelling_end[key - 1]) if key else 0
        spelling = self._spelling[start : self._spelling_end[key]]
        if len(spelling) > pos + 1:
            return None
        edited = ids.copy()
        edited[pos + 1 - len(spelling) : pos + 1] = spelling
        return self.checked(edited, pos, key)


def open_start(texts: Sequence[str], t: int) -> tuple[str, int]:
    """The word that reaches the end of the piece at t, and where its first token is.

    Parameters
    ----------
    texts : sequence of str
        Texts of a context's pieces.
    t : int
        Position; -1 gives the empty word, which has its first token at 0.
    """
    word, start = "", t + 1
    while start > 0:
        start -= 1
        whole, _, _, tail = split(texts[start])
        word = tail + word
        if not whole:
            break
    return word, start
