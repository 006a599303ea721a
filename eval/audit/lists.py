"""Phrases and lists without quotes, in a clause of an explanation."""

from collections.abc import Mapping, Sequence

from labeler.eval.audit.cues import cue_words, is_neutral, is_unfinished
from labeler.eval.audit.lexemes import Lexeme
from labeler.eval.audit.lexicon import function_words
from labeler.eval.audit.names import class_names
from labeler.eval.audit.terms import Atom

_LONGEST = 8
"""Words of the longest phrase that is known."""

_ITEM = 3
"""Most words of an item of a list."""

_NUMERIC = frozenset(("numbers", "digits", "years"))
_BETWEEN = frozenset((",", "/", "and", "or", "&"))
_STOPS = frozenset(("after", "before", "not", "not of any", "outputs", "context"))


def phrase_at(
    clause: Sequence[Lexeme], at: int, phrases: Mapping[tuple[str, ...], str]
) -> tuple[str, int]:
    """The longest known phrase that begins at a place, and its words; "" and 0 if none does."""
    words: list[str] = []
    for lexeme in clause[at : at + _LONGEST]:
        if lexeme.kind != "word":
            break
        words.append(lexeme.low)
    for size in range(len(words), 0, -1):
        found = phrases.get(tuple(words[:size]))
        if found is not None:
            return found, size
    return "", 0


def class_at(clause: Sequence[Lexeme], at: int) -> tuple[str, int]:
    """The closed class that is named at a place, and the words of its name."""
    return phrase_at(clause, at, class_names())


def says_something(clause: Sequence[Lexeme], at: int) -> bool:
    """Whether an unquoted word stands at a place that is no cue and not neutral."""
    if not 0 <= at < len(clause) or clause[at].kind != "word":
        return False
    low = clause[at].low
    known = phrase_at(clause, at, cue_words())[0] or class_at(clause, at)[0]
    return not (known or is_neutral(low) or low in function_words() or low.isdigit())


def is_compound(clause: Sequence[Lexeme], at: int, end: int) -> bool:
    """Whether a class's name is part of a longer one: "financial articles", "number theory"."""
    plural = clause[end - 1].low.endswith("s")
    return says_something(clause, at - 1) or (not plural and says_something(clause, end))


def names_member(clause: Sequence[Lexeme], name: str, at: int) -> bool:
    """Whether the word at a place is the one that is meant: "the digit 3", "the pronoun I"."""
    word = clause[at].text
    if name in _NUMERIC:
        return word.isdigit()
    last = at + 1 == len(clause)
    named = clause[at - 1].low if at else ""
    return last and named == name[:-1] and word.lower() in function_words()


def expected_end(clause: Sequence[Lexeme], at: int) -> int:
    """Behind "where ... is expected next" of our labels, which cannot be looked up; 0 if not so."""
    for place in range(at, len(clause) - 1):
        if (clause[place].low, clause[place + 1].low) in (("expected", "next"), ("last", "time")):
            return place + 2
    return 0


def bare_list(
    clause: Sequence[Lexeme], at: int, *, singles: bool = False
) -> tuple[list[Atom], int]:
    """Items of a list of words at a place, and where it ends; none if it is no such list.

    Parameters
    ----------
    clause : sequence of Lexeme
    at : int
    singles : bool
        Items are single words.
    """
    atoms: list[Atom] = []
    item: list[Lexeme] = []
    place = at
    while place < len(clause):
        lexeme = clause[place]
        if lexeme.kind == "mark" and lexeme.text != "," and lexeme.text not in _BETWEEN:
            break
        if lexeme.quoted:
            return [], at
        if lexeme.low in _BETWEEN and (item or (atoms and not _alone(clause, place))):
            _put(atoms, item, singles=singles)
            item = []
        elif (
            (item and phrase_at(clause, place, cue_words())[0] in _STOPS)
            or is_unfinished(lexeme.low)
            or (singles and item)
        ):
            break
        else:
            item.append(lexeme)
        place += 1
        if len(item) > _ITEM:
            return [], at
    _put(atoms, item, singles=singles)
    return atoms, place


def _alone(clause: Sequence[Lexeme], at: int) -> bool:
    """Whether the "and" here is an item itself: commas stand on both sides."""
    return clause[at - 1].low == "," and (at + 1 == len(clause) or clause[at + 1].low == ",")


def _put(atoms: list[Atom], item: Sequence[Lexeme], *, singles: bool) -> None:
    """Add what an item says."""
    words = [one.text for one in item]
    if len(words) > 1 and words[0].lower() in ("the", "a", "an"):
        words = words[1:]
    if not words:
        return
    name = class_names().get(tuple(word.lower() for word in words))
    if name and not (len(words) == 1 and (words[0].lower() in function_words() or singles)):
        atoms.append(Atom("class", name))
    elif len(words) == 1 and words[0].startswith("-") and words[0][1:].isalpha():
        atoms.append(Atom("suffix", words[0][1:]))
    else:
        atoms.append(Atom("text", " ".join(words)))
