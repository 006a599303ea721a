r"""What a word is: a maximal run of letters, digits, combining marks and underscores.

That is Python's ``\w`` with combining marks, which belong to the letters of many scripts. It keeps
an identifier of code in one word; an apostrophe ends a word ("don't" is "don" and "t").
"""

import unicodedata
from functools import cache
from typing import NamedTuple

from labeler.functions.pieces import BROKEN


@cache
def is_word(char: str) -> bool:
    """Whether a character belongs to a word."""
    return char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M"


@cache
def is_letter(char: str) -> bool:
    """Whether a character is a letter, or a mark on one."""
    return char.isalpha() or unicodedata.category(char)[0] == "M"


@cache
def is_punctuation(char: str) -> bool:
    """Whether a character is punctuation or a symbol."""
    return unicodedata.category(char)[0] in "PS" and char != BROKEN


class Split(NamedTuple):
    """The words of a piece of text.

    Attributes
    ----------
    whole : bool
        The text has no character outside a word, so it continues the word before it.
    lead : str
        The run at the start of a text that is not whole: it ends the word before it.
    inner : str
        The last word that lies inside the text, and neither starts nor ends it.
    tail : str
        The run at the end: the whole text, or a new word that begins in it.
    """

    whole: bool
    lead: str
    inner: str
    tail: str


def split(text: str) -> Split:
    """Split a text at the ends of its words.

    >>> split("one two, three four")
    Split(whole=False, lead='one', inner='three', tail='four')
    >>> split(" one")
    Split(whole=False, lead='', inner='', tail='one')
    >>> split("one")
    Split(whole=True, lead='', inner='', tail='one')
    """
    if all(map(is_word, text)):
        return Split(True, "", "", text)
    start, end = 0, len(text)
    while is_word(text[start]):
        start += 1
    while is_word(text[end - 1]):
        end -= 1
    last = end
    while last > start and not is_word(text[last - 1]):
        last -= 1
    first = last
    while first > start and is_word(text[first - 1]):
        first -= 1
    return Split(False, text[:start], text[first:last], text[end:])
