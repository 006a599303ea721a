"""How far the current line is indented."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.buckets import bounds, bucket_of, span_text
from labeler.functions.computed import Computed, Constants, Ids, is_plain_word, pick, spelled
from labeler.functions.contract import Keys, State
from labeler.functions.layout import plain_text
from labeler.functions.registry import register

_TAB = 4
_MOST = 255
_EDGES = np.array([0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 24])

_NEWLINE, _EMPTY_HEAD, _EMPTY_TAIL, _AT_END = 1, 2, 4, 8


def indentation_keys(
    ids: npt.NDArray[np.integer],
    flags: npt.NDArray[np.uint8],
    head: npt.NDArray[np.uint8],
    tail: npt.NDArray[np.uint8],
    edges: npt.NDArray[np.int64],
    newline: int,
    empty_head: int,
    empty_tail: int,
    at_end: int,
) -> Keys:
    """Bucket of the current line's indentation, -1 before a newline, int64 [n_ctx, ctx_len]."""
    n_ctx = len(ids)
    width = np.zeros(n_ctx, dtype=np.int64)
    indenting = np.zeros(n_ctx, dtype=bool)
    known = np.zeros(n_ctx, dtype=bool)
    out = np.full(ids.shape, -1, dtype=np.int64)
    for t in range(ids.shape[1]):
        flag = flags[ids[:, t]]
        new = (flag & newline) > 0
        begins = new & ((flag & at_end) == 0)
        here = width + np.where(indenting, head[ids[:, t]], 0)
        after = tail[ids[:, t]].astype(np.int64)
        # A token that ends in a newline still belongs to the line that it ends.
        out[:, t] = np.where(begins, after, np.where(known, here, -1))
        width = np.where(new, after, here)
        indenting = np.where(new, (flag & empty_tail) > 0, indenting & ((flag & empty_head) > 0))
        known |= new
    return bucket_of(out, edges)


@register
class Indentation(Computed):
    r"""White space at the start of the current line, in columns; a tab counts as 4.

    As far as it is read: it grows while the line has nothing else. A token that ends in a newline
    belongs to the line that its first newline ends, one with something after its newline to the new
    line. No key before the first newline, since a context may begin anywhere in a line.
    """

    name = "indentation"
    compute = staticmethod(indentation_keys)
    helpers = (bucket_of,)
    constants: ClassVar[Constants] = {
        "edges": _EDGES,
        "newline": _NEWLINE,
        "empty_head": _EMPTY_HEAD,
        "empty_tail": _EMPTY_TAIL,
        "at_end": _AT_END,
    }

    def tables(self, vocab: Sequence[str]) -> State:
        """What each token does to the indentation.

        ``flags``, uint8 [n_vocab]: 1 holds a newline, 2 is white space before it (or throughout),
        4 is white space after it, 8 has nothing after it. ``head`` and ``tail``, uint8 [n_vocab]:
        columns of white space at its start and after its last newline.
        """
        flags = np.zeros(len(vocab), dtype=np.uint8)
        head, tail = flags.copy(), flags.copy()
        for token, text in enumerate(vocab):
            first, *rest = plain_text(text).split("\n")
            last = rest[-1] if rest else ""
            head[token], tail[token] = _columns(first), _columns(last)
            flags[token] = (
                _NEWLINE * bool(rest)
                | _EMPTY_HEAD * (not first.strip())
                | _EMPTY_TAIL * (not last.strip())
                | _AT_END * (not last)
            )
        if not (flags & _NEWLINE).any():
            raise NotApplicableError("no token of the vocabulary holds a newline")
        return {"flags": flags, "head": head, "tail": tail}

    def extras(self, vocab: Sequence[str]) -> State:
        """A newline, a word without and with a space before it, tokens of n spaces, int64 [24]."""
        spaces = [spelled(vocab, " " * n) for n in range(1, 25)]
        return {
            "newline": np.array(spelled(vocab, "\n")),
            "word": np.array(pick(vocab, str.isalpha)),
            "spaced": np.array(pick(vocab, is_plain_word)),
            "spaces": np.array(spaces),
        }

    def render(self, key: int) -> str:
        """The indentation of the line."""
        low, high = bounds(key, _EDGES)
        if high == 0:
            return "a line without indentation"
        return f"a line indented by {span_text(low, high)} space{'' if high == 1 else 's'}"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Begin a line before `pos`, with the spaces in one token or one by one."""
        for own, word in enumerate((self.sample("word"), self.sample("spaced"))):
            width = bounds(key, _EDGES)[0] - own
            if min(self.sample("newline"), word, width) < 0:
                continue
            ids[pos] = word
            for n in range(min(width, 24), 0, -1) if width else (1,):
                space, times = self.sample("spaces", n - 1), width // n
                if pos > times and width % n == 0 and (space >= 0 or not times):
                    ids[pos - times : pos] = space
                    ids[pos - times - 1] = self.sample("newline")
                    yield ids


def _columns(text: str) -> int:
    """Columns of the white space that a text begins with; carriage returns have no width."""
    space = text[: len(text) - len(text.lstrip())].replace("\r", "")
    return min(len(space) + (_TAB - 1) * space.count("\t"), _MOST)
