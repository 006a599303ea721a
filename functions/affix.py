"""The first or last letters of the word so far: shared by prefix and suffix.

Three letters are one number of three 21-bit code points, the first the most significant, in lower
case; 0 stands for a character that is no letter. So the key needs no table.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from labeler.functions.piece_type import PieceType, Tables
from labeler.functions.pieces import Pieces
from labeler.functions.text import quote
from labeler.functions.words import is_letter, split
from labeler.tokens import Tokens

N_LETTERS = 3
"""Letters of an affix."""

BITS = 21
"""Bits of a code point."""


def pack_letters(text: str) -> int:
    """Number of up to three characters, the first the most significant of those there are.

    >>> pack_letters("Ab") == ord("a") * 2**21 + ord("b")
    True
    """
    value = 0
    for char in text:
        # Where lower case has two characters (only in "İ"), the character stays.
        lower = char.lower() if len(char.lower()) == 1 else char
        value = value << BITS | (ord(lower) if is_letter(char) else 0)
    return value


class Affix(PieceType):
    """Three letters at one end of the word so far."""

    wording: ClassVar[str]

    @abstractmethod
    def letters_of(self, tail: str) -> int:
        """Number of the letters that a run of word characters contributes."""

    def tables(self, pieces: Pieces, fit: Tokens) -> Tables:
        """Per piece whether it continues a word, its length there, and its letters."""
        splits = [split(text) for text in pieces.texts]
        return {
            "unfinished": pieces.unfinished,
            "whole": np.array([word.whole for word in splits]),
            "length": np.array([len(word.tail) for word in splits], dtype=np.int64),
            "letters": np.array([self.letters_of(word.tail) for word in splits], dtype=np.int64),
        }

    def render(self, key: int) -> str:
        """The letters."""
        mask = 2**BITS - 1
        letters = (chr(key >> shift & mask) for shift in (2 * BITS, BITS, 0))
        return f"words {self.wording} {quote(''.join(letters))}"
