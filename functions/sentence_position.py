"""How far into its sentence a token is."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.automaton import run_automaton
from labeler.functions.buckets import EDGES, bounds, bucket_of, into_text
from labeler.functions.computed import Computed, Constants, Ids
from labeler.functions.contract import Keys, State
from labeler.functions.layout import (
    START,
    STARTS,
    ends_sentence,
    layout_tables,
    sample_tokens,
    since,
)
from labeler.functions.registry import register


def sentence_position_keys(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    table: npt.NDArray[np.uint8],
    edges: npt.NDArray[np.int64],
    start: int,
    starts: int,
) -> Keys:
    """Bucket of the tokens since the sentence began, int64 [n_ctx, ctx_len]."""
    begins = (run_automaton(ids, row, table, start) & starts) > 0
    begins[:, :1] = True
    return bucket_of(since(begins), edges)


@register
class SentencePosition(Computed):
    """Tokens since the sentence began: exact up to 15, then three buckets to the octave.

    Sentences are those of labeler.functions.layout; one begins at the start of the context, whether
    or not the text before it ended one.
    """

    name = "sentence_position"
    compute = staticmethod(sentence_position_keys)
    helpers = (run_automaton, since, bucket_of)
    constants: ClassVar[Constants] = {"edges": EDGES, "start": START, "starts": STARTS}

    def tables(self, vocab: Sequence[str]) -> State:
        """The layout automaton."""
        if not any(map(ends_sentence, vocab)):
            raise NotApplicableError("no token of the vocabulary ends in . ! or ?")
        return layout_tables(vocab)

    def extras(self, vocab: Sequence[str]) -> State:
        """Tokens to write with."""
        return sample_tokens(vocab)

    def render(self, key: int) -> str:
        """The distance."""
        return into_text(key, "sentence")

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """End a sentence at the right distance, with a sentence of plain words after it."""
        end, word = self.sample("end"), self.sample("word")
        begin = pos - bounds(key, EDGES)[0]
        if begin < 0:
            return
        if begin:
            ids[begin - 1] = end
        yield ids
        if word >= 0:
            ids[begin : pos + 1] = word
            yield ids
