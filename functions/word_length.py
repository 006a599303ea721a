"""How long the word so far is."""

from labeler.functions.char_machine import CharMachine
from labeler.functions.registry import register
from labeler.functions.words import is_word

MAX_LENGTH = 12
"""This length stands for all from here on."""


@register
class WordLength(CharMachine):
    """Characters of the word so far: 1 to 11, or 12 and more."""

    name = "word_length"
    backs_off_to = None
    names = (
        "words of 1 character so far",
        *(f"words of {length} characters so far" for length in range(2, MAX_LENGTH)),
        f"words of {MAX_LENGTH} or more characters so far",
    )
    key_of_state = tuple(range(-1, MAX_LENGTH))

    @staticmethod
    def step(state: int, char: str) -> int:
        """The length after a character."""
        return min(state + 1, MAX_LENGTH) if is_word(char) else 0
