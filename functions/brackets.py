"""The innermost open bracket, and how deep it is."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.computed import Computed, Constants, Ids, is_plain_word, pick, spelled
from labeler.functions.contract import Keys, State
from labeler.functions.registry import register

_OPENING, _CLOSING = "([{", ")]}"
_KINDS = ("round", "square", "curly")
_LEVELS = 8
_DEPTHS = 3


def brackets_keys(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    brackets: npt.NDArray[np.int8],
    levels: int,
    depths: int,
) -> Keys:
    """``kind * depths + depth - 1`` of the innermost open bracket, -1 = none; [n_ctx, ctx_len].

    A stack is a number to the base 4, its lowest digit the innermost bracket (1, 2, 3; 0 = none).
    """
    rows = row[ids]
    stack = np.zeros(len(ids), dtype=np.int64)
    full = 4**levels - 1
    out = np.full(ids.shape, -1, dtype=np.int64)
    for t in range(ids.shape[1]):
        who = np.flatnonzero(rows[:, t])
        for place in range(brackets.shape[1]):
            bracket = brackets[rows[who, t], place].astype(np.int64)
            who, bracket = who[bracket != 0], bracket[bracket != 0]
            if not len(who):
                break
            old = stack[who]
            # A closing bracket closes the innermost of its kind and those inside it, if any.
            closed = old.copy()
            for level in range(levels - 1, -1, -1):
                match = (old >> 2 * level & 3) == -bracket
                closed[match] = old[match] >> 2 * (level + 1)
            stack[who] = np.where(bracket > 0, (old << 2 | bracket) & full, closed)
        depth = np.zeros(len(ids), dtype=np.int64)
        for level in range(depths):
            depth += stack >> 2 * level > 0
        out[:, t] = np.where(depth > 0, ((stack & 3) - 1) * depths + depth - 1, -1)
    return out


@register
class Brackets(Computed):
    """Inside round, square or curly brackets, one, two, or three and more deep.

    The state after the token: an opening bracket is inside, a closing one is outside. A closing
    bracket without its opening one is ignored, as are brackets opened before the context and, of
    more than 8 open ones, the outermost.
    """

    name = "brackets"
    compute = staticmethod(brackets_keys)
    constants: ClassVar[Constants] = {"levels": _LEVELS, "depths": _DEPTHS}

    def tables(self, vocab: Sequence[str]) -> State:
        """The brackets of each token.

        ``row``, uint16 or uint32 [n_vocab], is the line of ``brackets``, int8 [n_rows, most in a
        token], which holds 1, 2, 3 for opening ones, negative for closing ones, then zeros.
        """
        number = {bracket: kind for kind, bracket in enumerate(_OPENING, 1)}
        number |= {bracket: -kind for kind, bracket in enumerate(_CLOSING, 1)}
        index: dict[tuple[int, ...], int] = {(): 0}
        row = np.array(
            [
                index.setdefault(tuple(number[c] for c in text if c in number), len(index))
                for text in vocab
            ]
        )
        brackets = np.zeros((len(index), max(map(len, index))), dtype=np.int8)
        for found, line in index.items():
            brackets[line, : len(found)] = found
        if not (brackets > 0).any():
            raise NotApplicableError("no token of the vocabulary holds an opening bracket")
        return {
            "row": row.astype(np.uint16 if len(index) <= 2**16 else np.uint32),
            "brackets": brackets,
        }

    def extras(self, vocab: Sequence[str]) -> State:
        """A word, and a token for each opening bracket, int64 [3]; -1 = none."""
        opening = [spelled(vocab, f" {bracket}", bracket) for bracket in _OPENING]
        return {"opening": np.array(opening), "word": np.array(pick(vocab, is_plain_word))}

    def render(self, key: int) -> str:
        """The kind of bracket and the depth."""
        kind, depth = divmod(key, _DEPTHS)
        deep = ("", ", two brackets deep", ", three or more brackets deep")[depth]
        return f"text inside {_KINDS[kind]} brackets{deep}"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Open the brackets right before `pos`, with plain words before them if need be."""
        kind, depth = divmod(key, _DEPTHS)
        if self.sample("opening", kind) < 0 or self.sample("word") < 0 or depth > pos:
            return
        first = max(pos - depth - 1, 0)
        for start in (first, 0):
            ids[start : pos + 1] = self.sample("word")
            ids[first : first + depth + 1] = self.sample("opening", kind)
            yield ids
