"""The claim that the words of an explanation make.

Read are quoted text, closed classes, lists after "such as" or a colon, how words begin or end, what
stands after or before what, and exceptions. The rest is prose: it makes a claim partial, or none.
No reading is guessed from the data.
"""

import re
from dataclasses import replace

from labeler.eval.audit.clause import ClauseReader
from labeler.eval.audit.cues import is_neutral, is_unfinished
from labeler.eval.audit.lexemes import Lexeme, lexemes
from labeler.eval.audit.lexicon import CLASSES, function_words
from labeler.eval.audit.names import class_names
from labeler.eval.audit.terms import Atom, Claim, Term

__all__ = ["Atom", "Claim", "Term", "read_claim"]

_PREAMBLE = re.compile(
    r"^\W*(?:\[?(?:final )?(?:explanation|description|label|answer)\]?\s*:)+\s*", re.I
)
_BOLD = re.compile(r"\*\*(\w[^*`]*)\*\*")

READ = 4000
"""Characters of an explanation that are read."""

_BARE = 8
"""Most items of an explanation that is nothing but a list."""

_CUT_OFF = re.compile(r"(?:[,(]|e\.g\.|such as|including|[\"”’'`,]\s+(?:and|or))\s*$", re.I)
_MARKS = 4
"""Most characters of an explanation that is nothing but marks, and names them."""

_DOTS = ("...", "…")
_ENDS = frozenset(".;!?\n")
_ABBREVIATIONS = frozenset(("e.g", "i.e", "etc", "eg", "ie", "viz"))
_OURS = ("stronger", "weaker", "unexplained")
"""How parts of our own lines begin that name no key a label fires on."""


def read_claim(text: str) -> Claim:
    """What a text claims about where its latent fires.

    Parameters
    ----------
    text : str
        An explanation, as stored.

    Returns
    -------
    Claim
        False where there is nothing that can be checked.

    Examples
    --------
    >>> print(read_claim('the words "he" and "she"'))
    "he", "she"
    >>> print(read_claim("months, but not May"))
    months, except "May"
    >>> bool(read_claim("sadness and loss"))
    False
    """
    longer, text = len(text) > READ, text[:READ]
    found, cut = lexemes(_BOLD.sub(r"\1", _PREAMBLE.sub("", text)))
    mark = text.strip()
    if len(mark) <= _MARKS and mark and not any(map(str.isalnum, mark)) and mark not in _DOTS:
        return Claim((Term(Atom("text", found[0].text if found[0].quoted else mark)),))
    bare = _bare(found)
    if bare is not None:
        return bare
    reader = ClauseReader()
    for clause in _clauses(found):
        if clause[0].low not in _OURS or len(clause) < 2:
            reader.read(clause)
    claim = reader.claim()
    if claim and (cut or longer or is_cut_off(text)):
        whole = claim.examples or not claim.partial
        return replace(claim, partial=True, examples=whole)
    return claim


def is_cut_off(text: str) -> bool:
    """Whether a text stops in the middle of a list."""
    return bool(_CUT_OFF.search(text))


def _clauses(found: tuple[Lexeme, ...]) -> list[tuple[Lexeme, ...]]:
    """Split at semicolons and ends of sentences."""
    clauses: list[tuple[Lexeme, ...]] = []
    start = 0
    for at, lexeme in enumerate(found):
        abbreviated = at and found[at - 1].low in _ABBREVIATIONS
        if lexeme.kind == "mark" and lexeme.text in _ENDS and not abbreviated:
            clauses.append(found[start:at])
            start = at + 1
    clauses.append(found[start:])
    return [clause for clause in clauses if clause]


def _bare(found: tuple[Lexeme, ...]) -> Claim | None:
    """Read an explanation that is a word or a short list of words, and nothing else.

    Words of grammar mean themselves; a class means its members. Another bare word may name a topic
    as well, so that the claim is partial.
    """
    if len(found) == 1:
        items = list(found)
    else:
        items = [one for one in found if one.low not in (",", "/", "and", "or", "&")]
        separators = len(found) - len(items)
        if len(items) < 2 or separators < len(items) - 1:
            return None
    if len(items) > _BARE or any(one.kind != "word" for one in items):
        return None
    if len(items) == 1 and is_unfinished(items[0].low):
        return None
    terms, plain = [], True
    for item in items:
        atom = _bare_atom(item)
        own = atom.kind != "text" or item.low in function_words() or item.text.isdigit()
        if len(items) == 1 and is_neutral(item.low) and not own:
            return None
        plain = plain and own
        terms.append(Term(atom))
    if not plain and len(items) > 1 and not any(one.low in (",", "/") for one in found):
        return None
    return Claim(tuple(dict.fromkeys(terms)), partial=not plain, contexts=not plain)


def _bare_atom(item: Lexeme) -> Atom:
    name = class_names().get((item.low,))
    if name in CLASSES and item.low not in function_words() | {"time", "year", "number", "link"}:
        return Atom("class", name)
    if item.text.startswith("-") and item.text[1:].isalpha():
        return Atom("suffix", item.text[1:])
    if item.text.endswith("-") and item.text[:-1].isalpha():
        return Atom("prefix", item.text[:-1])
    return Atom("text", item.text)
