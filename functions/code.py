"""Whether the recent text looks like code."""

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.computed import Computed, Constants, Ids, is_plain_word, pick
from labeler.functions.contract import Keys, State
from labeler.functions.layout import plain_text
from labeler.functions.registry import register

_WINDOW = 16
_LEAST = 8
_LIMITS = (1, 3, 5)
"""The most code-like tokens of 16 in prose, in text with some symbols, in mostly code."""

_TEXTS = ("prose", "text with some symbols", "text that is mostly code", "code")
_CODE_LIKE = re.compile(r"[{}()\[\];=_<>\\|&*+#$@^~/]|\t|  |\n ")


def code_keys(
    ids: npt.NDArray[np.integer],
    symbol: npt.NDArray[np.bool_],
    limits: npt.NDArray[np.int64],
    window: int,
    least: int,
) -> Keys:
    """0 to 3 by the share of code-like tokens, -1 in the first ones, int64 [n_ctx, ctx_len]."""
    so_far = np.cumsum(symbol[ids], axis=1, dtype=np.int64)
    count = so_far.copy()
    count[:, window:] -= so_far[:, : max(ids.shape[1] - window, 0)]
    size = np.minimum(np.arange(ids.shape[1]) + 1, window)
    # In whole numbers: shares are compared the same on every machine.
    out = np.zeros(ids.shape, dtype=np.int64)
    for limit in limits:
        out += count * window > limit * size
    out[:, : least - 1] = -1
    return out


@register
class Code(Computed):
    r"""How much the last 16 tokens look like code, in four steps.

    A token is code-like if it holds one of ``{ } ( ) [ ] ; = _ < > \ | & * + # $ @ ^ ~ /``, a tab,
    two spaces or a newline and a space. Of the last 16 tokens (those so far at the start of a
    context, no key before the 8th) at most 1 is in prose, at most 3 in text with some symbols, at
    most 5 in mostly code, more in code.
    """

    name = "code"
    compute = staticmethod(code_keys)
    constants: ClassVar[Constants] = {
        "limits": np.array(_LIMITS),
        "window": _WINDOW,
        "least": _LEAST,
    }

    def tables(self, vocab: Sequence[str]) -> State:
        """Which tokens are code-like, bool [n_vocab]."""
        symbol = np.array([bool(_CODE_LIKE.search(plain_text(text))) for text in vocab])
        if not symbol.any():
            raise NotApplicableError("no token of the vocabulary looks like code")
        return {"symbol": symbol}

    def extras(self, vocab: Sequence[str]) -> State:
        """A word and a code-like token, -1 = none."""
        like = pick(vocab, lambda text: text.strip() == "=", lambda text: text in "(_{;")
        return {"word": np.array(pick(vocab, is_plain_word)), "like": np.array(like)}

    def render(self, key: int) -> str:
        """What the text looks like."""
        return _TEXTS[key]

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Write plain words up to `pos`, then make more and more of them code-like."""
        if self.sample("word") < 0 or self.sample("like") < 0:
            return
        first = max(pos - _WINDOW + 1, 0)
        ids[first : pos + 1] = self.sample("word")
        yield ids
        for place in range(pos, first - 1, -1):
            ids[place] = self.sample("like")
            yield ids
