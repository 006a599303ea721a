"""Where claims hold in a text of tokens.

Words span tokens and tokens span words, so that claims are looked up in the characters and brought
back to tokens. Quoted text leaves open whether case counts and whether a part of a word will do:
each claim has up to four *readings* (`READINGS`), and who checks it takes the one that fits best.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Longs
from labeler.eval.audit.lexicon import class_pattern
from labeler.eval.audit.spans import (
    EDGE,
    Spans,
    fold,
    overlaps,
    plain,
    same,
    search,
    union,
    vocab_texts,
)
from labeler.eval.audit.terms import Atom, Claim, Term
from labeler.tokens import Tokens

READINGS = ("words", "cased", "tokens", "pieces")
"""How quoted text is looked for.

words: whole words in any case (text that begins or ends in no letter or digit: anywhere);
cased: the same in the case that is written;
tokens: the token that is exactly what is written, the space before it included; where the
vocabulary has none, tokens that together spell it;
pieces: the same in any case, with or without a space before.
Words begin or end so and so: words of the text in the first two, tokens in the others.
"""

_KEPT = 4096
"""Atoms whose places are remembered."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class TextIndex:
    """A text in which claims are looked up.

    Attributes
    ----------
    tokens : Tokens
    position : int64 [n]
        Flat position of each real token.
    context : int64 [n]
        Its context.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.position: Longs = np.flatnonzero(tokens.valid.ravel())
        self.context: Longs = self.position // max(tokens.ctx_len, 1)
        self._vocab = vocab_texts(tokens.vocab)
        edge = len(tokens.vocab)
        padded = np.full((tokens.n_ctx, tokens.ctx_len + 1), -1, dtype=np.int64)
        padded[:, :-1] = np.where(tokens.valid, tokens.ids, -1)
        padded[:, -1] = edge
        flat = padded[padded >= 0]
        self._ids: Longs = flat[flat != edge]
        texts = (*self._vocab.texts, EDGE)
        self.text = "".join([texts[one] for one in flat.tolist()])
        sizes = np.array([len(text) for text in texts], dtype=np.int64)[flat]
        number = np.where(flat == edge, -1, np.cumsum(flat != edge) - 1)
        self._token_of = np.repeat(number, sizes)
        ends = np.cumsum(sizes)[flat != edge]
        self._begins: Longs = ends - sizes[flat != edge]
        self._ends: Longs = ends
        self._found: dict[tuple[Atom, str], Spans] = {}

    def __len__(self) -> int:
        return len(self.position)

    @cached_property
    def reach(self) -> Longs:
        """The token after each, or itself at the end of its context."""
        inside = np.append(self.context[1:] == self.context[:-1], False)
        reach: Longs = np.arange(len(self)) + inside[: len(self)]
        return reach

    def find(self, claim: Claim, reading: str) -> Spans:
        """Where a claim holds, ascending by first token, each stretch once."""
        found = union([self._term(term, reading) for term in claim.terms])
        if claim.unless and len(found):
            out = union([self._term(term, reading) for term in claim.unless])
            before = np.concatenate([[0], np.cumsum(self._marked(out))])
            found = found.keep(before[found.last + 1] == before[found.first])
        return found

    def readings(self, claim: Claim) -> dict[str, Spans]:
        """The readings of a claim that differ."""
        literal = any(atom.kind != "class" for term in _all_terms(claim) for atom in _atoms(term))
        found: dict[str, Spans] = {}
        for name in READINGS if literal else READINGS[:1]:
            spans = self.find(claim, name)
            if not any(same(spans, other) for other in found.values()):
                found[name] = spans
        return found

    def _marked(self, spans: Spans) -> Bools:
        edges = np.zeros(len(self) + 1, dtype=np.int64)
        np.add.at(edges, spans.first, 1)
        np.add.at(edges, spans.last + 1, -1)
        marked: Bools = np.cumsum(edges)[:-1] > 0
        return marked

    def _term(self, term: Term, reading: str) -> Spans:
        after = [self._atom(atom, reading) for atom in term.after]
        before = [self._atom(atom, reading) for atom in term.before]
        if term.atom is None:
            return self._any(after, before, term)
        found = self._atom(term.atom, reading)
        if after:
            found = found.keep(self._follows(found, after, term.gap))
        if before:
            touching = np.concatenate([self._next[one.start] for one in before])
            exact = np.concatenate([one.start for one in before])
            found = found.keep(np.isin(self._next[found.end], touching) | np.isin(found.end, exact))
        return found

    def _follows(self, found: Spans, after: Sequence[Spans], gap: int) -> Bools:
        """Which stretches come right after others, or as many tokens later as is said."""
        if gap:
            wanted = np.concatenate([one.last for one in after]) + 1 + gap
            same = self.context[found.first] == self.context[np.maximum(found.first - 1 - gap, 0)]
            follows: Bools = np.isin(found.first, wanted) & same
            return follows
        touching = np.concatenate([self._next[one.end] for one in after])
        exact = np.concatenate([one.end for one in after])
        adjoins: Bools = np.isin(self._next[found.start], touching) | np.isin(found.start, exact)
        return adjoins

    def _any(self, after: Sequence[Spans], before: Sequence[Spans], term: Term) -> Spans:
        """Any token, where it stands after or before others."""
        fits = np.ones(len(self), dtype=bool)
        for spans, step in ((after, 1 + term.gap), (before, -1)):
            if not spans:
                continue
            from_ = np.concatenate([one.last if step > 0 else one.first for one in spans])
            to = from_ + step
            kept = (to >= 0) & (to < len(self))
            kept[kept] = self.context[from_[kept]] == self.context[to[kept]]
            here = np.zeros(len(self), dtype=bool)
            here[to[kept]] = True
            fits &= here
        return self._tokens(np.flatnonzero(fits))

    def _tokens(self, which: Longs) -> Spans:
        return Spans(which, which, self._begins[which], self._ends[which])

    def _atom(self, atom: Atom, reading: str) -> Spans:
        key = (atom, "words" if atom.kind == "class" else reading)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _KEPT:
                self._found.clear()
            found = self._found[key] = self._look_up(atom, reading)
        return found

    def _look_up(self, atom: Atom, reading: str) -> Spans:
        if atom.kind == "class":
            matches = [match.span() for match in class_pattern(atom.text).finditer(self.text)]
            return self._spans([one for one in matches if one[1] > one[0]])
        if atom.kind != "text":
            return self._affix(atom, reading)
        raw = plain(atom.raw)
        text = raw if reading == "tokens" and raw in self.text and raw else plain(atom.text)
        if reading == "tokens" or (reading == "pieces" and not text.strip()):
            found = self._tokens_of(text, self._vocab.by_text)
            return self._aligned(text, self.text) if found is None else found
        if reading == "pieces":
            text = fold(text.strip())
            found = self._tokens_of(text, self._vocab.by_piece)
            return self._aligned(text, self._folded) if found is None else found
        return self._whole_words(text.strip() or text, folded=reading == "words")

    def _tokens_of(self, text: str, known: Mapping[str, list[int]]) -> Spans | None:
        """Tokens with a text; None if the vocabulary has none."""
        if text not in known:
            return None
        return self._tokens(np.flatnonzero(np.isin(self._ids, known[text])))

    def _spans(self, matches: Iterable[tuple[int, int]]) -> Spans:
        """From characters; what reaches over an edge, or holds nothing, is left out."""
        pairs = np.array(list(matches), dtype=np.int64).reshape(-1, 2)
        start, end = pairs[:, 0], pairs[:, 1]
        first, last = self._token_of[start], self._token_of[end - 1]
        spans = Spans(first, last, start, end)
        return spans.keep((first >= 0) & (last >= 0))

    def _whole_words(self, text: str, *, folded: bool) -> Spans:
        if _WORD.fullmatch(text):
            found = self._words.get(fold(text), [])
            if not folded:
                found = [one for one in found if self.text[one[0] : one[1]] == text]
            return self._spans(found)
        space, wanted = (self._folded, fold(text)) if folded else (self.text, text)
        found = search(wanted, space)
        lead, tail = text[0].isalnum(), text[-1].isalnum()
        return self._spans(
            (start, end)
            for start, end in found
            if not (lead and start and space[start - 1].isalnum())
            and not (tail and end < len(space) and space[end].isalnum())
        )

    def _aligned(self, text: str, space: str) -> Spans:
        """Whole tokens that together spell a text; where case does not count, after a space too."""
        # Places may overlap: "aa" is twice in "aaa".
        pattern = re.escape(text)
        found = [
            (match.start(), match.start() + len(text))
            for match in re.finditer(f"(?={pattern})" if overlaps(text) else pattern, space)
        ]
        spans = self._spans(found)
        before = spans.start - self._begins[spans.first]
        begins = before == 0
        if space is not self.text:
            blank = self._blank[np.maximum(spans.start - 1, 0)]
            begins |= (before == 1) & blank
        return spans.keep(begins & (spans.end == self._ends[spans.last]))

    def _affix(self, atom: Atom, reading: str) -> Spans:
        folded = reading in ("words", "pieces")
        wanted = fold(plain(atom.text)) if folded else plain(atom.text)

        def test(text: str) -> bool:
            if atom.kind == "prefix":
                return text.startswith(wanted)
            return text.endswith(wanted) if atom.kind == "suffix" else wanted in text

        if reading in ("tokens", "pieces"):
            texts = self._vocab.pieces if folded else self._vocab.texts
            fits = [test(text if folded else text.strip()) for text in texts]
            return self._tokens(np.flatnonzero(np.array(fits)[self._ids]))
        low = fold(wanted)
        words = [word for word in self._words if low in word]
        found = [one for word in words for one in self._words[word]]
        return self._spans(
            (start, end)
            for start, end in sorted(found)
            if test((self._folded if folded else self.text)[start:end])
        )

    @cached_property
    def _folded(self) -> str:
        return fold(self.text)

    @cached_property
    def _words(self) -> dict[str, list[tuple[int, int]]]:
        """Characters of every word of the text, by the word in lower case."""
        words: dict[str, list[tuple[int, int]]] = {}
        for match in _WORD.finditer(self._folded):
            words.setdefault(match.group(), []).append(match.span())
            if "'" in match.group():
                stem = match.group().split("'")[0]
                words.setdefault(stem, []).append((match.start(), match.start() + len(stem)))
        return words

    @cached_property
    def _blank(self) -> Bools:
        """Which characters are white space."""
        codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        known, place = np.unique(codes, return_inverse=True)
        return np.array([chr(code).isspace() for code in known.tolist()], dtype=bool)[place]

    @cached_property
    def _next(self) -> npt.NDArray[np.int64]:
        """From each character, the next that is no white space; the end behind the last."""
        size = len(self._blank)
        where = np.where(self._blank, size, np.arange(size))
        return np.append(np.minimum.accumulate(where[::-1])[::-1], size)


def _all_terms(claim: Claim) -> tuple[Term, ...]:
    return claim.terms + claim.unless


def _atoms(term: Term) -> list[Atom]:
    return [*([term.atom] if term.atom else []), *term.after, *term.before]
