"""Letters of a token's text, and which tokens name things well."""

import re

from labeler.functions.words import is_letter

_NO_TEXT = re.compile(r"<0x[0-9A-F]{2}>|<id \d+>|<\|[^|]*\|>")
"""What stands for bytes, for a token without text, or for the end of a text."""


def n_letters(text: str) -> int:
    """How many letters a token has.

    >>> n_letters(" don't"), n_letters("<0xE2><0x80>"), n_letters("<|endoftext|>")
    (4, 0, 0)
    """
    return sum(map(is_letter, _NO_TEXT.sub("", text)))


def is_telling(text: str) -> bool:
    """Whether a token says something to a reader on its own: the start of a word, three letters.

    >>> is_telling(" cell"), is_telling("ation"), is_telling(" c")
    (True, False, False)
    """
    return not is_letter(text[0]) and n_letters(text) > 2
