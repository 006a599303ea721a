"""Reading one clause of an explanation after the other."""

from collections.abc import Sequence

from labeler.eval.audit.atoms import affix_kind, affix_word, gapped, raw_text
from labeler.eval.audit.chain import Chain
from labeler.eval.audit.cues import cue_words, is_neutral, is_unfinished
from labeler.eval.audit.lexemes import LONGEST, Lexeme, decoded
from labeler.eval.audit.lexicon import function_words
from labeler.eval.audit.lists import (
    bare_list,
    class_at,
    expected_end,
    is_compound,
    names_member,
    phrase_at,
)
from labeler.eval.audit.pairs import (
    SETS_APART,
    begins_pair,
    begins_thing,
    closing,
    has_noun,
    named_again,
    placed_behind,
)
from labeler.eval.audit.terms import Atom, AtomKind, Claim, Term

_BEYOND_TOKENS = frozenset(
    ("text", "texts", "sentence", "sentences", "passage", "passages", "document", "documents")
)
_COUNTED = frozenset(("tokens", "words", "positions", "token"))
_NEGATIVE = frozenset(
    [
        "no",
        "none",
        "nothing",
        "neither",
        "off",
        "lacks",
        "lack",
        "absent",
        "absence",
        "hardly",
        "rarely",
    ]
)
"""Words that turn a claim round in ways that are not read."""
_PLACES = frozenset(("ends of sentences", "first words of a line", "first words of a sentence"))


class ClauseReader:
    """Reads clauses, and puts together what they claim."""

    def __init__(self) -> None:
        self._positive: list[Term] = []
        self._negative: list[Term] = []
        self._rest = False
        """A word that was not read says where it fires."""
        self._unsaid = False
        """A negation was read, and not what it negates."""
        self._examples = False
        self._contexts = False
        self._outputs = False
        self._clause: Sequence[Lexeme] = ()
        self._chain = Chain()

    def claim(self) -> Claim:
        """What all clauses claim together."""
        terms, unless = tuple(dict.fromkeys(self._positive)), tuple(dict.fromkeys(self._negative))
        if not terms and unless and not self._rest:
            terms = (Term(None),)
        if not terms or self._unsaid:
            return Claim(contexts=self._contexts, outputs=self._outputs)
        unread = self._rest or self._contexts or self._outputs
        return Claim(
            terms,
            unless,
            unread or self._examples,
            self._contexts,
            self._outputs,
            examples=self._examples and not unread,
        )

    def read(self, clause: Sequence[Lexeme]) -> None:
        """Read one clause."""
        self._clause, self._chain = clause, Chain()
        at = 0
        while at < len(clause):
            at = self._next(at)
        self._unsaid |= self._chain.negative and self._chain.empty
        self._close()

    def _next(self, at: int) -> int:
        """Read what is at a place and return where to go on."""
        lexeme = self._clause[at]
        if lexeme.quoted:
            return self._literal(at)
        if lexeme.kind == "mark":
            return self._mark(at)
        affix = affix_word(lexeme.text)
        if affix is not None:
            self._chain.add(affix)
            return at + 1
        where, n_words = placed_behind(self._clause, at)
        if where and self._chain.heads and not self._chain.related:
            self._chain.place(where)
            return at + n_words
        name, size = class_at(self._clause, at)
        cue, length = phrase_at(self._clause, at, cue_words())
        if name and size >= length:
            return self._class(at, name, size)
        if cue:
            return self._cue(at, cue, length)
        return self._word(at)

    def _close(self, negative: bool = False) -> None:
        """End the chain and begin another."""
        into = self._negative if self._chain.negative else self._positive
        into += self._chain.terms()
        self._chain = Chain(negative=negative)

    def _mark(self, at: int) -> int:
        text = self._clause[at].text
        chain = self._chain
        if text == "," and chain.by_comma:
            self._close(chain.negative)
        elif text == ":":
            chain.listing = True
            return self._list(at + 1, examples=False)
        elif text == "(" and chain.heads and chain.heads[-1].kind == "text":
            end = closing(self._clause, at)
            if not any(one.quoted for one in self._clause[at:end]):
                return end  # a gloss on what was quoted
        elif text == "…":
            self._examples = True
        return at + 1

    def _literal(self, at: int) -> int:
        lexeme = self._clause[at]
        text = decoded(lexeme)
        if not text or len(text) > LONGEST:
            self._rest = True
            return at + 1
        self._part(at)
        behind = [one.low for one in self._clause[at + 1 : at + 3]]
        gap = 0
        while self._low(at + 1 + gap) == "_":
            gap += 1
        chain = self._chain
        kind: AtomKind = "text"
        if gap and at + 1 + gap < len(self._clause) and self._clause[at + 1 + gap].quoted:
            chain.more.append(gapped(lexeme, self._clause[at + 1 + gap], gap))
            return at + 2 + gap
        if behind[:1] in (["suffix"], ["prefix"]):
            kind = "suffix" if behind[0] == "suffix" else "prefix"
            at += 1
        elif behind == ["so", "far"]:
            kind, at = "prefix", at + 2
        elif chain.affix:
            kind = affix_kind(chain.affix)
        stem = text.strip("-")
        if kind == "text" and len(stem) > 1 and stem.isalpha() and len(stem) == len(text) - 1:
            kind = "suffix" if text.startswith("-") else "prefix"
        if kind != "text":
            text = stem.strip() or text
        chain.add(Atom(kind, text, raw_text(lexeme)))
        return at + 1

    def _part(self, at: int) -> None:
        """Close the chain if the item at a place is none of those that it stands after."""
        chain = self._chain
        if chain.related:
            again = named_again(self._clause, at) and not chain.by_noun
            if again or begins_pair(self._clause, at):
                self._close(chain.negative)
        elif chain.relation:
            chain.by_noun = has_noun(self._clause, at)

    def _subject(self, at: int) -> None:
        """Close the chain if the cue at a place has a subject of its own."""
        chain = self._chain
        if not chain.empty and begins_thing(self._clause, at):
            self._close(chain.negative)

    def _low(self, at: int) -> str:
        return self._clause[at].low if 0 <= at < len(self._clause) else ""

    def _class(self, at: int, name: str, size: int) -> int:
        """Read a closed class, unless what follows names the member that is meant."""
        end = at + size
        chain = self._chain
        after = self._clause[end] if end < len(self._clause) else None
        if is_compound(self._clause, at, end):
            self._rest = True
            return end
        if after is not None and after.quoted:
            return end
        if after is not None and names_member(self._clause, name, end):
            chain.add(Atom("text", after.text))
            return end + 1
        if after is not None and after.low in ("(", ":"):
            inside = self._clause[end : closing(self._clause, end) if after.low == "(" else None]
            if any(one.quoted for one in inside):
                self._examples = True
                return end + 1
        if name in _PLACES and chain.heads:
            self._rest = True
            return end
        if chain.affix == "prefix":
            name = {"capital letters": "capitalised words", "digits": "numbers"}.get(name, "")
            if not name:
                self._rest = True
                return end
        if not (chain.listing and chain.has_class):
            chain.add(Atom("class", name))
        return end

    def _cue(self, at: int, cue: str, size: int) -> int:
        if cue in ("after", "before", "examples", "list", "prefix", "suffix"):
            self._subject(at)
        chain, end = self._chain, at + size
        if cue in ("after", "before"):
            anything = self._low(at) == "anything"
            if anything and not chain.empty:
                self._close(chain.negative)
            chain = self._chain
            chain.relation, chain.affix = cue, ""
            chain.by_comma = anything or (chain.any and not chain.heads)
        elif cue in ("not", "not of any"):
            self._negate(cue)
            return self._list_of_words(end)
        elif cue == "any":
            if not chain.empty:
                self._close(chain.negative)
            self._chain.any = True
        elif cue in ("examples", "list"):
            chain.listing = True
            return self._list(end + (self._low(end) == "."), examples=cue == "examples")
        elif cue in ("prefix", "suffix", "inside"):
            return self._affix(at, cue, end)
        elif cue == "outputs":
            self._outputs = True
            return len(self._clause)
        elif cue == "context":
            self._contexts = True
        elif cue == "word":
            return self._named(at, end)
        return end

    def _negate(self, cue: str) -> None:
        chain = self._chain
        if chain.negative and chain.empty:
            # "never ... except": two negations.
            self._chain = Chain()
            return
        if cue == "not of any":
            chain.any = True
        self._close(negative=True)

    def _list_of_words(self, at: int) -> int:
        """Read the exceptions that are named without quotes, up to the end of the clause."""
        atoms, end = bare_list(self._clause, at, singles=True)
        if class_at(self._clause, at)[0] and self._low(at) not in function_words():
            return at
        if end < len(self._clause) or any(
            is_neutral(atom.text.lower()) and atom.text.lower() not in function_words()
            for atom in atoms
        ):
            return at
        for atom in atoms:
            self._chain.add(atom)
        return end if atoms else at

    def _list(self, at: int, *, examples: bool) -> int:
        """Read a list without quotes, if there is one."""
        chain = self._chain
        if examples and not chain.has_class:
            self._examples = True
        atoms, end = bare_list(self._clause, at)
        for atom in atoms:
            if not (chain.has_class and atom.kind == "class"):
                chain.add(atom)
        return end if atoms else at

    def _affix(self, at: int, cue: str, end: int) -> int:
        chain = self._chain
        if cue == "inside" and self._low(at - 1) in _BEYOND_TOKENS:
            self._contexts = True
            return end
        chain.affix = cue
        last = len(self._clause) - 1
        while end < last and self._low(end) in ("a", "the", "letter", "letters", "string"):
            end += 1
        if end < len(self._clause) and self._clause[end].kind == "word":
            name, _ = class_at(self._clause, end)
            word = self._clause[end].text.strip("-")
            if not name and word and (end == last or not is_neutral(word.lower())):
                chain.add(Atom(affix_kind(cue), word))
                return end + 1
        return end

    def _named(self, at: int, end: int) -> int:
        """Read what follows "the word", if it is a word and not about words."""
        atoms, stop = bare_list(self._clause, end, singles=True)
        singular = self._low(at - 1) == "the" and not self._low(at).endswith("s")
        if not atoms or not (singular or self._low(at).endswith("s")):
            return end
        whole = stop >= len(self._clause)
        relation, _ = phrase_at(self._clause, stop, cue_words())
        closed = whole or relation in ("after", "before", "not") or self._low(stop) in ("(", ")")
        plain = all(not is_neutral(atom.text.lower()) for atom in atoms)
        grammar = all(atom.text.lower() in function_words() for atom in atoms)
        if (plain and (closed or singular)) or (grammar and whole):
            for atom in atoms:
                self._chain.add(atom)
            return stop
        return end

    def _word(self, at: int) -> int:
        """Pass over a word that is no cue; note it if it says something."""
        low = self._low(at)
        if low in SETS_APART:
            self._chain.apart = len(self._chain.heads)
        self._unsaid |= low in _NEGATIVE
        if low == "but" and self._chain.negative:
            self._close()
        elif low == "where" and (behind := expected_end(self._clause, at)):
            self._rest = True
            return behind
        elif low.isdigit() and self._low(at + 1) in _COUNTED and self._low(at + 2) == "after":
            self._chain.gap = max(int(low) - 1, 0)
            return at + 2
        elif low.isdigit() and self._low(at + 1) == "more":
            self._examples = True
            return at + 2
        elif self._low(at + 1).isdigit() and self._low(at + 2) == "fires":
            # A call of another label, as our labels write them.
            self._rest = True
            return closing(self._clause, at + 3)
        elif is_unfinished(low):
            self._examples = True
        elif not is_neutral(low):
            self._rest = True
        return at + 1
