"""How many digits the number so far has, and whether it is a year or a decimal."""

from labeler.functions.char_machine import CharMachine
from labeler.functions.registry import register

# States. A number of 2 or 3 digits may still become a year (1000 to 2099) or not any more.
_NONE, _ONE_1, _ONE_2, _ONE_OTHER = range(4)
_TWO_YEAR, _TWO, _THREE_YEAR, _THREE, _YEAR, _FOUR, _FIVE, _SIX = range(4, 12)
_POINT, _PLACE_1, _PLACE_2, _PLACE_3 = range(12, 16)

_LONGER = {
    _TWO_YEAR: _THREE_YEAR,
    _TWO: _THREE,
    _THREE_YEAR: _YEAR,
    _THREE: _FOUR,
    _YEAR: _FIVE,
    _FOUR: _FIVE,
    _FIVE: _SIX,
    _SIX: _SIX,
    _POINT: _PLACE_1,
    _PLACE_1: _PLACE_2,
    _PLACE_2: _PLACE_3,
    _PLACE_3: _PLACE_3,
    _ONE_1: _TWO_YEAR,
    _ONE_OTHER: _TWO,
}


@register
class Digits(CharMachine):
    """Digits of the number so far, where a token ends in one; years and decimals apart.

    A number is a run of digits, with a point and further digits after it for a decimal; a comma or
    a second point ends it. It may stand inside a word.
    """

    name = "digits"
    backs_off_to = None
    names = (
        "numbers of 1 digit so far",
        "numbers of 2 digits so far",
        "numbers of 3 digits so far",
        "numbers of 4 digits so far, 1000 to 2099 (years)",
        "numbers of 4 digits so far, other than 1000 to 2099",
        "numbers of 5 digits so far",
        "numbers of 6 or more digits so far",
        "decimals with 1 place so far",
        "decimals with 2 places so far",
        "decimals with 3 or more places so far",
    )
    key_of_state = (-1, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, -1, 7, 8, 9)

    @staticmethod
    def step(state: int, char: str) -> int:
        """The number after a character."""
        if char == ".":
            return _POINT if _NONE < state < _POINT else _NONE
        if not char.isdecimal():
            return _NONE
        digit = int(char)
        if state == _NONE:
            return {1: _ONE_1, 2: _ONE_2}.get(digit, _ONE_OTHER)
        if state == _ONE_2:
            return _TWO_YEAR if digit == 0 else _TWO
        return _LONGER[state]
