"""Stretches of text, and the characters in which they are looked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from labeler.arrays import Bools, Longs

EDGE = "\ue000"
"""Stands between contexts."""


@dataclass(frozen=True, eq=False)
class Spans:
    """Stretches of text, by tokens and by characters, each int64 [n].

    Attributes
    ----------
    first, last : int64 [n]
        Tokens, counted over the real tokens of all contexts.
    start, end : int64 [n]
        Characters; `end` is behind the last.
    """

    first: Longs
    last: Longs
    start: Longs
    end: Longs

    def __len__(self) -> int:
        return len(self.first)

    def keep(self, which: Bools) -> "Spans":
        """Some of them."""
        return Spans(self.first[which], self.last[which], self.start[which], self.end[which])


def plain(text: str) -> str:
    """Text with straight apostrophes, and nothing that looks like the edge of a context."""
    return text.replace("’", "'").replace(EDGE, " ")


def fold(text: str) -> str:
    """Lower case, character by character, so that places stay what they are."""
    low = text.lower()
    if len(low) == len(text):
        return low
    return "".join(one if len(one.lower()) != 1 else one.lower() for one in text)


def search(text: str, space: str) -> list[tuple[int, int]]:
    """Where a text stands, any white space within it for any other."""
    pattern = r"\s+".join(map(re.escape, text.split())) if text.split() else re.escape(text)
    return [match.span() for match in re.finditer(pattern, space)]


def overlaps(text: str) -> bool:
    """Whether a text can begin within itself."""
    return any(text.startswith(text[at:]) for at in range(1, len(text)))


def union(parts: Sequence[Spans]) -> Spans:
    """All of them, ascending by first token, each stretch once."""
    first, last, start, end = (
        np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)])
        for name in ("first", "last", "start", "end")
    )
    order = np.lexsort((start, last, first))
    once = np.ones(len(order), dtype=bool)
    once[1:] = (np.diff(first[order]) != 0) | (np.diff(last[order]) != 0)
    kept = order[once]
    return Spans(first[kept], last[kept], start[kept], end[kept])


def same(one: Spans, other: Spans) -> bool:
    """Whether they are the same tokens."""
    return np.array_equal(one.first, other.first) and np.array_equal(one.last, other.last)


@lru_cache(maxsize=4)
def vocab_texts(vocab: tuple[str, ...]) -> "VocabTexts":
    """The texts of a vocabulary as they are looked for; latents with their own text share one."""
    texts = tuple(map(plain, vocab))
    pieces = tuple(fold(text.strip()) for text in texts)
    return VocabTexts(texts, pieces, _numbers(texts), _numbers(pieces))


@dataclass(frozen=True, eq=False)
class VocabTexts:
    """Texts of a vocabulary.

    Attributes
    ----------
    texts : tuple of str
    pieces : tuple of str
        In lower case, without space around.
    by_text, by_piece : dict of str to list of int
        Token ids of each.
    """

    texts: tuple[str, ...]
    pieces: tuple[str, ...]
    by_text: dict[str, list[int]]
    by_piece: dict[str, list[int]]


def _numbers(texts: Sequence[str]) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        numbers.setdefault(text, []).append(number)
    return numbers
