"""What words can say of where a latent fires, and a simple count of where that holds.

The count shares no code with the audit nor with function types: it compares texts of tokens, and
finds words with a regular expression in the joined text. It decides which explanations are true
and which are wrong.
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from labeler.keytree import KeyTree
from labeler.tokens import Tokens

TRUE = 0.7
"""Precision and recall that a true explanation has at least, in every reading."""

WRONG = 0.5
"""F1 that a wrong explanation stays below, in every reading."""

EXACT, LOOSE = "exact", "loose"
"""Readings: the very token; or any token of the same letters, whatever its blanks and case. Loosely
a mark or line end may end the longer token before."""

_WORD = re.compile(r"\w+")
_BITS = 21

KINDS = ("token", "pair", "after", "word", "after word", "next word", "suffix", "prefix", "mark")


@dataclass(frozen=True)
class Fact:
    """One thing that can be said.

    Attributes
    ----------
    kind : str
        One of `KINDS`, or "phrase" (a run of tokens), "class" (punctuation).
    text : str
        Of a token with its blanks, of a word, or letters. For "after" the token before, for
        "after word" and "next word" the word before.
    before : str
        Token that must stand before; "" for any. A "pair" has one always.
    parts : tuple of str
        Tokens of a phrase.
    """

    kind: str
    text: str
    before: str = ""
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """Facts of which any holds, and none of some others; or the contrary of it all."""

    facts: tuple[Fact, ...]
    unless: tuple[Fact, ...] = ()
    negated: bool = False

    def without_condition(self) -> "Statement":
        """The same of tokens, whatever stands before them."""
        return replace(self, facts=tuple(dict.fromkeys(map(_relaxed, self.facts))))


def _relaxed(fact: Fact) -> Fact:
    return Fact("token", fact.text) if fact.kind == "pair" else replace(fact, before="")


def sayable(text: str) -> bool:
    """Whether a token's text can be put in quotes without doubt about what it is."""
    odd = any(not char.isprintable() and char not in "\n\t" for char in text)
    special = "<0x" in text or "\ufffd" in text or "\\" in text or "<|" in text
    return bool(text) and len(text) <= 24 and not odd and not special


def facts_of(tree: KeyTree, name: str, nodes: Iterable[int]) -> tuple[Fact, ...] | None:
    """What nodes of a level say; None where words cannot say it."""
    found = [_fact(tree, name, int(tree.levels[name].key[node])) for node in sorted(nodes)]
    known = tuple(dict.fromkeys(one for one in found if one is not None))
    return known if len(known) and None not in found else None


def said_once(facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Facts without those that others say already: a token after another, beside that token."""
    plain = {fact.text for fact in facts if fact.kind == "token"}
    return tuple(fact for fact in facts if fact.kind != "pair" or fact.text not in plain)


def _fact(tree: KeyTree, name: str, key: int) -> Fact | None:
    kind = tree.types.get(name)
    if name in ("unigram", "previous_token", "bigram"):
        texts = [kind._vocab[token] for token in kind.ngram(key)]
        if not all(map(sayable, texts)):
            return None
        if name == "bigram":
            return Fact("pair", texts[1], texts[0])
        return Fact("token" if name == "unigram" else "after", texts[0])
    if name in ("word", "previous_word"):
        word = kind.word(key)
        if not sayable(word) or not any(map(str.isalnum, word)):
            return None
        return Fact("word" if name == "word" else "next word", word)
    if name in ("suffix", "prefix"):
        letters = "".join(chr(key >> shift & 2**_BITS - 1) for shift in (2 * _BITS, _BITS, 0))
        return Fact(name, letters)
    return Fact("mark", chr(key)) if name == "punctuation" else None


class TextCount:
    """Counts where facts hold on a text.

    Parameters
    ----------
    tokens : Tokens
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.vocab = tokens, tokens.vocab
        valid = tokens.valid
        ids = np.where(valid, tokens.ids, -1)
        before = np.full_like(ids, -1)
        before[:, 1:] = ids[:, :-1]
        self.ids, self.before = ids.ravel(), before.ravel()
        self.n_positions = int(valid.sum())
        number: dict[str, int] = {}
        letters = [text.strip(" ").lower() for text in self.vocab]
        self._letters = np.array([number.setdefault(one, len(number)) for one in letters] + [-1])
        self._number = number
        self._token = {text: token for token, text in reversed(list(enumerate(self.vocab)))}

    @cached_property
    def counts(self) -> np.ndarray:
        """Positions of each token, int64 [n_vocab]."""
        return np.bincount(self.ids[self.ids >= 0], minlength=len(self.vocab))

    @cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """First and last position of each word, its number, and the texts by number."""
        first, last, numbers = [], [], []
        known: dict[str, int] = {}
        size = np.array([len(text) for text in self.vocab])
        for row, length in enumerate(self.tokens.length.tolist()):
            ids = self.tokens.ids[row, :length]
            end = np.cumsum(size[ids])
            text = "".join(self.vocab[one] for one in ids)
            spans = [(m.start(), m.end() - 1, m.group()) for m in _WORD.finditer(text)]
            if spans:
                begin, stop, found = zip(*spans, strict=True)
                at = row * self.tokens.ctx_len
                first.append(at + np.searchsorted(end, begin, side="right"))
                last.append(at + np.searchsorted(end, stop, side="right"))
                numbers += [known.setdefault(one, len(known)) for one in found]
        none = np.zeros(0, dtype=np.int64)
        return (
            np.concatenate([none, *first]),
            np.concatenate([none, *last]),
            np.array(numbers, dtype=np.int64),
            list(known),
        )

    @cached_property
    def word_counts(self) -> np.ndarray:
        """Occurrences of each word, by its number."""
        return np.bincount(self.words[2], minlength=len(self.words[3]))

    # -- where facts hold ------------------------------------------------------------------------

    def spans(self, statement: Statement, reading: str) -> np.ndarray:
        """Occurrences, int64 [n, 2]: first and last position; each once."""
        found = self._any(statement.facts, reading)
        if statement.unless:
            out = self._any(statement.unless, reading)[:, 1]
            found = found[~np.isin(found[:, 1], out)]
        if not statement.negated:
            return found
        silent = self.ids >= 0
        silent[covered(found)] = False
        at = np.flatnonzero(silent)
        return np.stack([at, at], axis=1)

    def _any(self, facts: Iterable[Fact], reading: str) -> np.ndarray:
        parts = [self._fact(fact, reading == LOOSE) for fact in facts]
        return np.unique(np.concatenate(parts), axis=0)

    def _fact(self, fact: Fact, loose: bool) -> np.ndarray:
        if fact.kind == "phrase":
            parts = fact.parts
            while loose and not parts[0].strip():
                parts = parts[1:]
            size = len(parts)
            at = np.flatnonzero(self._is(self.ids, parts[-1], loose))
            for back, text in enumerate(parts[-2::-1], start=1):
                at = at[at % self.tokens.ctx_len >= back]
                at = at[self._is(self.ids[at - back], text, loose)]
            return np.stack([at - size + 1, at], axis=1)
        if fact.kind in ("word", "suffix", "prefix", "after word", "next word"):
            first, last = self._words(fact, loose)
        else:
            first = last = np.flatnonzero(self._tokens(fact, loose))
        if fact.before:
            fine = self._ends(self.before[first], fact.before, loose)
            first, last = first[fine], last[fine]
        return np.stack([first, last], axis=1)

    def _tokens(self, fact: Fact, loose: bool) -> np.ndarray:
        if fact.kind == "after":
            return self._ends(self.before, fact.text, loose) & (self.ids >= 0)
        if fact.kind == "mark":
            # Closely: it ends in the character; loosely: it has it.
            has = [fact.text in text if loose else text.endswith(fact.text) for text in self.vocab]
            return np.array([*has, False])[self.ids]
        if fact.kind == "class":
            marks = [text.strip() for text in self.vocab]
            has = [bool(one) and all(char in string.punctuation for char in one) for one in marks]
            return np.array([*has, False])[self.ids]
        return self._is(self.ids, fact.text, loose)

    def _words(self, fact: Fact, loose: bool) -> tuple[np.ndarray, np.ndarray]:
        first, last, number, texts = self.words
        wanted = fact.text.lower()
        if fact.kind == "suffix":
            fine = [text.lower().endswith(wanted) for text in texts]
        elif fact.kind == "prefix":
            fine = [text.lower().startswith(wanted) for text in texts]
        elif loose:
            fine = [text.lower() == wanted for text in texts]
        else:
            fine = [text == fact.text for text in texts]
        at = np.flatnonzero(np.array([*fine, False])[number])
        if fact.kind not in ("after word", "next word"):
            return first[at], last[at]
        start = last[at] + 1
        inside = (start < len(self.ids)) & (start % self.tokens.ctx_len > 0)
        at, start = at[inside], start[inside]
        at, start = at[self.ids[start] >= 0], start[self.ids[start] >= 0]
        if fact.kind == "after word":
            return start, start
        after = np.minimum(at + 1, len(last) - 1)
        same = last[after] // self.tokens.ctx_len == start // self.tokens.ctx_len
        return start, np.where(same & (last[after] >= start), last[after], start)

    def _ends(self, ids: np.ndarray, text: str, loose: bool) -> np.ndarray:
        """Where tokens before are a text; loosely, marks and line ends may end a longer token."""
        wanted = text.strip(" ")
        if not loose or any(map(str.isalnum, wanted)) or not wanted:
            return self._is(ids, text, loose)
        ends = [one.strip(" ").endswith(wanted) for one in self.vocab]
        return np.array([*ends, False])[ids]

    def _is(self, ids: np.ndarray, text: str, loose: bool) -> np.ndarray:
        if loose:
            wanted = self._number.get(text.strip(" ").lower(), -2)
            return self._letters[ids] == wanted
        return ids == self._token.get(text, -2)


def covered(spans: np.ndarray) -> np.ndarray:
    """Positions of spans, each once."""
    size = spans[:, 1] - spans[:, 0] + 1
    start = np.cumsum(size) - size
    inside = np.arange(int(size.sum())) - np.repeat(start, size)
    found = np.sort(np.repeat(spans[:, 0], size) + inside)
    # np.unique hashes, which takes seconds for "anything but".
    return found[np.diff(found, prepend=-1) > 0]


@dataclass(frozen=True, eq=False)
class Fired:
    """Where one latent fires, ascending, and how strongly."""

    position: np.ndarray
    act: np.ndarray

    def score(self, spans: np.ndarray) -> tuple[float, float]:
        """Share of occurrences it fires in, and share of its activation that they hold."""
        if not len(spans) or not len(self.position):
            return 0.0, 0.0
        low, high = np.searchsorted(self.position, spans + np.arange(2)).T
        inside = np.isin(self.position, covered(spans))
        return float((high > low).mean()), float(self.act[inside].sum() / self.act.sum())


def f1(score: tuple[float, float]) -> float:
    """Of precision and recall."""
    return 2 * score[0] * score[1] / max(sum(score), 1e-12)


def is_true(count: TextCount, fired: Fired, said: Statement, readings: Iterable[str]) -> bool:
    """Whether a statement holds in all of some readings."""
    return all(min(fired.score(count.spans(said, one))) >= TRUE for one in readings)


def is_wrong(count: TextCount, fired: Fired, said: Statement) -> bool:
    """Whether a statement is wrong in every reading."""
    return all(f1(fired.score(count.spans(said, one))) < WRONG for one in (EXACT, LOOSE))


FiredBy = Mapping[int, Fired]
