"""Case and kind of the characters of the word so far."""

from labeler.functions.char_machine import CharMachine
from labeler.functions.registry import register
from labeler.functions.words import is_letter, is_punctuation, is_word

# States: a word so far, or what stands where there is none.
_START, _PUNCTUATION, _SPACE, _OTHER = range(4)
_LOWER, _CAPITAL, _TITLE, _UPPER, _MIXED, _DIGITS, _BOTH, _UNDERSCORE, _CASELESS = range(4, 13)

_AFTER_LOWER = {_CAPITAL: _TITLE, _UPPER: _MIXED, _CASELESS: _LOWER}
_AFTER_UPPER = {_LOWER: _MIXED, _CAPITAL: _UPPER, _TITLE: _MIXED, _CASELESS: _CAPITAL}


@register
class Shape(CharMachine):
    """Case of the word so far and whether it has digits, or what kind of character ends the token.

    A single capital counts as capitalised; letters without case leave the shape as it is.
    """

    name = "shape"
    backs_off_to = None
    names = (
        "lower-case words",
        "Capitalised words",
        "UPPER-CASE words",
        "miXed-case words",
        "digits",
        "letters with digits",
        "words with an underscore",
        "words in letters without case",
        "punctuation and symbols",
        "white space",
        "other characters",
    )
    key_of_state = (-1, 8, 9, 10, 0, 1, 1, 2, 3, 4, 5, 6, 7)

    @staticmethod
    def step(state: int, char: str) -> int:
        """The shape after a character."""
        if not is_word(char):
            if char.isspace():
                return _SPACE
            return _PUNCTUATION if is_punctuation(char) else _OTHER
        if char == "_" or state == _UNDERSCORE:
            return _UNDERSCORE
        begins = state < _LOWER
        if not is_letter(char):
            return _DIGITS if begins or state == _DIGITS else _BOTH
        if state in (_DIGITS, _BOTH):
            return _BOTH
        if char.islower():
            return _LOWER if begins else _AFTER_LOWER.get(state, state)
        if char.isupper() or char.istitle():
            return _CAPITAL if begins else _AFTER_UPPER.get(state, state)
        return _CASELESS if begins else state
