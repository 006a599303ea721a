"""What is read of one stretch of a clause: items, and what they stand after or before."""

from dataclasses import dataclass, field, replace

from labeler.eval.audit.terms import Atom, AtomKind, Term


@dataclass
class Chain:
    """Items that share a sign and a relation, while they are being read.

    Attributes
    ----------
    negative : bool
        They are an exception.
    heads, after, before : list of Atom
        Items, and what they stand after or before.
    any : bool
        The words say "any token".
    gap : int
        Tokens between, for `after`.
    relation : {"", "after", "before"}
        Where the next item belongs.
    by_comma : bool
        The relation ends at the next comma.
    by_noun : bool
        What it stands after or before was named with a noun: `after the token "a"`.
    apart : int
        Items before the last word that sets what follows apart: `"a" with "b" before it`.
    affix : {"", "prefix", "suffix", "inside"}
        How the next items are to be found within words.
    listing : bool
        The next items are examples of what came before, or list it.
    """

    negative: bool = False
    heads: list[Atom] = field(default_factory=list)
    after: list[Atom] = field(default_factory=list)
    before: list[Atom] = field(default_factory=list)
    any: bool = False
    gap: int = 0
    relation: str = ""
    by_comma: bool = False
    by_noun: bool = False
    apart: int = 0
    affix: str = ""
    listing: bool = False
    more: list[Term] = field(default_factory=list)
    """Terms that need no others: tokens with gaps between."""

    def add(self, atom: Atom) -> None:
        """Put an item where it belongs."""
        {"after": self.after, "before": self.before}.get(self.relation, self.heads).append(atom)

    @property
    def has_class(self) -> bool:
        """Whether a closed class heads it."""
        return any(atom.kind == "class" for atom in self.heads)

    @property
    def related(self) -> bool:
        """Whether something was read that it stands after or before."""
        return bool(self.after or self.before)

    @property
    def empty(self) -> bool:
        """Whether nothing was read."""
        return not (self.heads or self.after or self.before or self.more)

    def place(self, where: str) -> None:
        """Put the items that were read last where words behind them say."""
        first = min(self.apart, max(len(self.heads) - 1, 0))
        moved, self.heads = self.heads[first:], self.heads[:first]
        if where == "after":
            self.after += moved
        else:
            kind: AtomKind = "suffix" if where == "suffix" else "prefix"
            self.heads += [replace(one, kind=kind) for one in moved]

    def terms(self) -> list[Term]:
        """Its terms, in order of reading."""
        after, before = tuple(self.after), tuple(self.before)
        heads: list[Atom | None] = list(self.heads)
        if not heads and (after or before or (self.any and not self.more)):
            heads = [None]
        return [Term(head, after, before, self.gap if after else 0) for head in heads] + self.more
