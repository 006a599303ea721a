"""What the words of an explanation claim: a keying that can be checked, or nothing.

A claim is a list of *terms*, an exception and a flag. A term is a piece of text or a closed class,
where it stands after or before others if the words say so. `labeler.eval.audit.claim` makes
claims from words; `labeler.eval.audit.match` finds where they hold.
"""

from dataclasses import dataclass
from typing import Literal

from labeler.functions.text import one_line

AtomKind = Literal["text", "class", "prefix", "suffix", "inside"]

_SHOWN = 8
"""Terms that a claim shows; the rest is counted."""


@dataclass(frozen=True)
class Atom:
    r"""A piece of text, or a closed class.

    Attributes
    ----------
    kind : {"text", "class", "prefix", "suffix", "inside"}
        Text as it stands, a class of `labeler.eval.audit.lexicon`, or how words begin, end, or
        what they hold.
    text : str
        The text, or the name of the class.
    raw : str
        The text where a backslash is a backslash and not an escape, if that differs.
    """

    kind: AtomKind
    text: str
    raw: str = ""

    def __str__(self) -> str:
        if self.kind == "class":
            return self.text
        shown = f'"{one_line(self.text)}"'
        form = {
            "text": "{}",
            "prefix": "words that begin with {}",
            "suffix": "words that end in {}",
            "inside": "words that contain {}",
        }
        return form[self.kind].format(shown)


@dataclass(frozen=True)
class Term:
    """An atom, or any token, where it stands after or before others.

    Attributes
    ----------
    atom : Atom or None
        None: any token.
    after, before : tuple of Atom
        One of these stands right before or right after it; empty: no matter what does.
    gap : int
        Tokens between what it comes after and it.
    """

    atom: Atom | None
    after: tuple[Atom, ...] = ()
    before: tuple[Atom, ...] = ()
    gap: int = 0

    def __str__(self) -> str:
        shown = str(self.atom) if self.atom else "any token"
        if self.after:
            shown += (f" {self.gap + 1} tokens" if self.gap else "") + " after " + _any(self.after)
        if self.before:
            shown += " before " + _any(self.before)
        return shown


@dataclass(frozen=True)
class Claim:
    """Where an explanation says that its latent fires.

    Attributes
    ----------
    terms : tuple of Term
        Any of these. Empty: no claim.
    unless : tuple of Term
        None of these.
    partial : bool
        Only a part of the words was read: examples of a class that cannot be listed, or a
        condition that cannot be checked. Then what it misses or says too much accuses nobody.
    examples : bool
        Partial only in that its list goes on: what it misses counts for nothing, what it says does.
    contexts : bool
        The words speak of what a text is about, rather than of tokens.
    outputs : bool
        The words speak of what the latent makes the model say: nothing that firings can show.
    """

    terms: tuple[Term, ...] = ()
    unless: tuple[Term, ...] = ()
    partial: bool = False
    contexts: bool = False
    outputs: bool = False
    examples: bool = False

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __str__(self) -> str:
        """In one line; empty without a claim.

        >>> the = Atom("text", "the")
        >>> str(Claim((Term(Atom("class", "months")),), unless=(Term(the),)))
        'months, except "the"'
        """
        if not self.terms:
            return ""
        line = _listed(self.terms)
        if self.unless:
            line += ", except " + _listed(self.unless)
        return f"{line} (and what cannot be read)" if self.partial else line


def _any(atoms: tuple[Atom, ...]) -> str:
    return " or ".join(map(str, atoms))


def _listed(terms: tuple[Term, ...]) -> str:
    shown = ", ".join(map(str, terms[:_SHOWN]))
    more = len(terms) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
