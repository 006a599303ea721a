"""The first sentence of a context."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.automaton import run_automaton
from labeler.functions.computed import Computed, Constants, Ids
from labeler.functions.contract import Keys, State
from labeler.functions.layout import (
    ENDED,
    START,
    WHITE,
    ends_sentence,
    layout_tables,
    sample_tokens,
    token_flags,
)
from labeler.functions.registry import register

_BEGINNING = 3
"""Tokens that are the beginning of a sentence."""


def first_sentence_keys(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    table: npt.NDArray[np.uint8],
    flags: npt.NDArray[np.uint8],
    start: int,
    ended: int,
    white: int,
    beginning: int,
) -> Keys:
    """0 beginning, 1 within, 2 end of the first sentence, -1 elsewhere; int64 [n_ctx, ctx_len]."""
    begun = np.logical_or.accumulate((flags[ids] & white) == 0, axis=1)
    ends = begun & ((run_automaton(ids, row, table, start) & ended) > 0)
    after = np.zeros(ids.shape, dtype=bool)
    after[:, 1:] = np.logical_or.accumulate(ends, axis=1)[:, :-1]
    number = np.cumsum(begun, axis=1)
    out = np.where(ends, 2, np.where(number > beginning, 1, 0)).astype(np.int64)
    out[~begun | after] = -1
    return out


@register
class FirstSentence(Computed):
    """Beginning (3 tokens), inside and end of the context's first sentence; no key after it.

    Sentences are those of labeler.functions.layout; white space before the first one is left out.
    """

    name = "first_sentence"
    compute = staticmethod(first_sentence_keys)
    helpers = (run_automaton,)
    constants: ClassVar[Constants] = {
        "start": START,
        "ended": ENDED,
        "white": WHITE,
        "beginning": _BEGINNING,
    }

    def tables(self, vocab: Sequence[str]) -> State:
        """The layout automaton, and which tokens are white space."""
        if not any(map(ends_sentence, vocab)):
            raise NotApplicableError("no token of the vocabulary ends in . ! or ?")
        return {**layout_tables(vocab), "flags": token_flags(vocab)}

    def extras(self, vocab: Sequence[str]) -> State:
        """Tokens to write with."""
        return sample_tokens(vocab)

    def render(self, key: int) -> str:
        """The part of the sentence."""
        part = (f"the first {_BEGINNING} tokens", "the inside", "the end")[key]
        return f"{part} of a context's first sentence"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Write plain words up to `pos`, an end at it if the key is the end."""
        if self.sample("word") < 0:
            return
        ids[:pos] = self.sample("word")
        if key == 2:
            ids[pos] = self.sample("end")
        yield ids
        ids[pos] = self.sample("word")
        yield ids
