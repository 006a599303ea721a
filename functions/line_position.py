"""How far into its line a token is."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.buckets import EDGES, bounds, bucket_of, into_text
from labeler.functions.computed import Computed, Constants, Ids
from labeler.functions.contract import Keys, State
from labeler.functions.layout import NEWLINE, sample_tokens, since, token_flags
from labeler.functions.registry import register


def line_position_keys(
    ids: npt.NDArray[np.integer],
    flags: npt.NDArray[np.uint8],
    edges: npt.NDArray[np.int64],
    newline: int,
) -> Keys:
    """Bucket of the tokens since the last newline, -1 before the first, int64 [n_ctx, ctx_len]."""
    begins = np.zeros(ids.shape, dtype=bool)
    begins[:, 1:] = (flags[ids[:, :-1]] & newline) > 0
    return bucket_of(since(begins), edges)


@register
class LinePosition(Computed):
    r"""Tokens since the last newline: exact up to 15, then three buckets to the octave.

    A newline belongs to the line that it ends. No key before the first newline, since a context may
    begin anywhere in a line; a token that marks the start of a document (``<|endoftext|>``) counts
    as a newline.
    """

    name = "line_position"
    compute = staticmethod(line_position_keys)
    helpers = (since, bucket_of)
    constants: ClassVar[Constants] = {"edges": EDGES, "newline": NEWLINE}

    def tables(self, vocab: Sequence[str]) -> State:
        """Which tokens hold a newline."""
        flags = token_flags(vocab)
        if not (flags & NEWLINE).any():
            raise NotApplicableError("no token of the vocabulary holds a newline")
        return {"flags": flags}

    def extras(self, vocab: Sequence[str]) -> State:
        """Tokens to write with."""
        return sample_tokens(vocab)

    def render(self, key: int) -> str:
        """The distance."""
        return into_text(key, "line")

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Put a newline at the right distance, with plain words after it."""
        begin = pos - bounds(key, EDGES)[0]
        if begin < 1 or self.sample("newline") < 0:
            return
        ids[begin - 1] = self.sample("newline")
        yield ids
        if self.sample("word") >= 0:
            ids[begin : pos + 1] = self.sample("word")
            yield ids
