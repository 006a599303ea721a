"""Whether a token is the first of a context, a paragraph or a line."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.automaton import run_automaton
from labeler.functions.computed import Computed, Constants, Ids
from labeler.functions.contract import Keys, State
from labeler.functions.layout import (
    BROKE,
    NEWLINE,
    START,
    WHITE,
    layout_tables,
    sample_tokens,
    token_flags,
)
from labeler.functions.registry import register

_UNITS = ("context", "paragraph", "line")


def first_token_keys(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    table: npt.NDArray[np.uint8],
    flags: npt.NDArray[np.uint8],
    start: int,
    broke: int,
    newline: int,
    empty_line: int,
) -> Keys:
    """0 first of the context, 1 of a paragraph, 2 of a line, -1 elsewhere; [n_ctx, ctx_len]."""
    broken = (run_automaton(ids, row, table, start) & broke) > 0
    flag = flags[ids]
    out = np.full(ids.shape, -1, dtype=np.int64)
    out[:, 1:][(flag[:, :-1] & newline) > 0] = 2
    out[:, 1:][broken[:, :-1]] = 1
    out[flag == empty_line] = -1
    out[:, :1] = 0
    return out


@register
class FirstToken(Computed):
    """The first token of the context, after a blank line, or after a newline.

    White space that ends a line is the first token of nothing: its line is empty.
    """

    name = "first_token"
    compute = staticmethod(first_token_keys)
    helpers = (run_automaton,)
    constants: ClassVar[Constants] = {
        "start": START,
        "broke": BROKE,
        "newline": NEWLINE,
        "empty_line": NEWLINE | WHITE,
    }

    def tables(self, vocab: Sequence[str]) -> State:
        """The layout automaton, and which tokens are white space or hold a newline."""
        return {**layout_tables(vocab), "flags": token_flags(vocab)}

    def extras(self, vocab: Sequence[str]) -> State:
        """Tokens to write with."""
        return sample_tokens(vocab)

    def render(self, key: int) -> str:
        """What begins."""
        return f"the first token of a {_UNITS[key]}"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Put a newline or a blank line before `pos`, and a word at it."""
        newline, word = self.sample("newline"), self.sample("word")
        if pos < 1 or key < 1 or newline < 0 or word < 0:
            return
        if key == 1 and self.sample("blank_line") >= 0:
            ids[pos - 1] = self.sample("blank_line")
            yield ids
        ids[pos - 1] = newline
        if pos > 1:
            ids[pos - 2] = newline if key == 1 else word
        yield ids
        ids[pos] = word
        yield ids
