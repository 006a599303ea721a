"""Items of a claim from the words that name them."""

from labeler.eval.audit.lexemes import Lexeme, decoded, written
from labeler.eval.audit.terms import Atom, AtomKind, Term


def affix_kind(affix: str) -> AtomKind:
    """The kind of item that words about an affix announce."""
    kinds: dict[str, AtomKind] = {"prefix": "prefix", "suffix": "suffix", "inside": "inside"}
    return kinds[affix]


def raw_text(lexeme: Lexeme) -> str:
    """What is in backquotes, if that differs where a backslash is a backslash."""
    raw = written(lexeme)
    return raw if lexeme.kind == "code" and raw != decoded(lexeme) else ""


def affix_word(text: str) -> Atom | None:
    """The affix that a word with a hyphen at its end is."""
    stem = text.strip("-")
    if len(stem) != len(text) - 1 or not stem.isalpha():
        return None
    return Atom("suffix" if text.startswith("-") else "prefix", stem)


def gapped(one: Lexeme, other: Lexeme, gap: int) -> Term:
    """Two quoted tokens with others between, as our labels write them."""
    first = Atom("text", decoded(one), raw_text(one))
    return Term(Atom("text", decoded(other), raw_text(other)), after=(first,), gap=gap)
