"""Where one thing that a clause names ends and the next begins.

"a" after "b", "c" after "d" is two pairs, and "a" or the token after "b" is two things; "a" after
"b" or "c" is one. What decides stands between the items, never what they are.
"""

from collections.abc import Sequence

from labeler.eval.audit.cues import cue_words, is_neutral
from labeler.eval.audit.lexemes import Lexeme
from labeler.eval.audit.lists import phrase_at

_NOUNS = frozenset(
    [
        "token",
        "tokens",
        "word",
        "words",
        "position",
        "positions",
        "text",
        "whatever",
        "what",
        "anything",
    ]
)
_JOINS = frozenset(
    ("and", "or", "also", "&", "/", ",", "well", "plus", "along", "additionally", "addition")
)
_CONDITIONS = frozenset(("when", "if", "where", "only", "but", "provided"))
_RELATIONS = ("after", "before")


SETS_APART = frozenset(("with", "where", "when", "if", "provided", "that", "whenever"))
"""Words before what is said of an item rather than another item."""

_ENDINGS = {
    "at the end": "suffix",
    "as their ending": "suffix",
    "as its ending": "suffix",
    "at the start": "prefix",
    "at the beginning": "prefix",
    "as their beginning": "prefix",
    "as its beginning": "prefix",
    "as its predecessor": "after",
    "as their predecessor": "after",
    "as the preceding word": "after",
    "as the preceding token": "after",
    "as the previous word": "after",
    "as the previous token": "after",
}
_PLACED = {tuple(phrase.split()): place for phrase, place in _ENDINGS.items()}


def placed_behind(clause: Sequence[Lexeme], at: int) -> tuple[str, int]:
    """What words behind an item say of its place, and how many they are; "" and 0 for nothing.

    `"a" with "b" right before it`, `words with "ing" at the end`.
    """
    found = phrase_at(clause, at, _PLACED)
    if found[0] or phrase_at(clause, at, cue_words())[0] != "before":
        return found
    end = at + phrase_at(clause, at, cue_words())[1]
    while _low(clause, end) in ("it", "them", "this", "that"):
        end += 1
    ends = end >= len(clause) or (clause[end].kind == "mark" and clause[end].text != "(")
    return ("after", end - at) if ends or _low(clause, end) in _JOINS else ("", 0)


def begins_pair(clause: Sequence[Lexeme], at: int) -> bool:
    """Whether the item at a place stands after or before something of its own.

    So it does if nothing but words that say nothing lies between it and the relation: `"b" when it
    follows "c"`, `"b", when the token before it is "c"`.
    """
    place = at + 1
    if _low(clause, place) == "," and _low(clause, place + 1) in _CONDITIONS:
        place += 1
    while place < len(clause) and clause[place].kind == "word":
        if phrase_at(clause, place, cue_words())[0] in _RELATIONS:
            return True
        low = clause[place].low
        if low in _JOINS or not (is_neutral(low) or low in _NOUNS):
            return False
        place += 1
    return False


def begins_thing(clause: Sequence[Lexeme], at: int) -> bool:
    """Whether the cue at a place has a subject of its own: `and the token right after "b"`.

    Before it stand a noun for any token and, before that, what joins it to something else.
    """
    place = at - 1
    noun = False
    while place >= 0 and not clause[place].quoted:
        low = clause[place].low
        if low in _JOINS:
            return noun
        noun = noun or low in _NOUNS
        if not (is_neutral(low) or low in _NOUNS):
            return False
        place -= 1
    return False


def named_again(clause: Sequence[Lexeme], at: int) -> bool:
    """Whether a noun stands between the item at a place and what joins it to the one before.

    `"a" after "b" or the token "c"`, `as well as the "c" token`.
    """
    place = at - 1
    noun = has_noun(clause, at)
    while place >= 0 and not clause[place].quoted:
        low = clause[place].low
        if low in _JOINS:
            return noun
        if clause[place].kind != "word" and low != ":":
            return False
        cue = phrase_at(clause, place, cue_words())[0]
        noun = noun or low in _NOUNS or cue == "word" or low in ("instances", "occurrences", "one")
        if cue in _RELATIONS or not (is_neutral(low) or noun or low == ":"):
            return False
        place -= 1
    return False


def closing(clause: Sequence[Lexeme], at: int) -> int:
    """Behind the bracket that closes the one at a place."""
    depth = 0
    for place in range(at, len(clause)):
        low = clause[place].low
        depth += (low == "(") - (low == ")")
        if depth <= 0:
            return place + 1
    return len(clause)


def has_noun(clause: Sequence[Lexeme], at: int) -> bool:
    """Whether a noun for text stands right before or right after the item at a place."""
    around = (phrase_at(clause, place, cue_words())[0] for place in (at - 1, at + 1) if place >= 0)
    return "word" in around


def _low(clause: Sequence[Lexeme], at: int) -> str:
    return clause[at].low if at < len(clause) else ""
