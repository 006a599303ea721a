r"""Lines, paragraphs and sentences, as far as the texts of tokens show them.

A *blank line* is two newlines with nothing but white space between them, in one token or more.

A *sentence* ends with a token that ends in ``. ! ?`` (closing quotes, brackets and white space may
follow), or with a blank line. White space after it, and on the same line closing quotes, brackets
and further marks in tokens of their own, still belong to the sentence that ended. So "Mr." and the
"." of "3.14" end a sentence too.

A token like ``<|endoftext|>`` or ``<s>``, which marks the start of a document, is read as a blank
line.
"""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeler.functions.automaton import make_automaton
from labeler.functions.computed import is_plain_word, pick, spelled
from labeler.functions.contract import State

BLANK, ENDED, BROKE, STARTS = 1, 2, 4, 8
"""Bits of a state after a token: the line is blank so far; the sentence has ended; the token
completed a blank line; the token is the first of a sentence after another."""

START = 0
"""State before a context, which need not begin where a line begins."""

NEWLINE, WHITE = 1, 2
"""Flags of a token: holds a newline; is nothing but white space."""

_MARKS = r".!?\u3002\uff01\uff1f"
_CLOSING = r"\"'\u201d\u2019\u00bb)\]}"
_ENDS = re.compile(rf"[{_MARKS}][{_CLOSING}]*\s*$")
_CLOSES = re.compile(rf"[{_MARKS}{_CLOSING}]+\s*$")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BOUNDARY = re.compile(r"<\|[a-z_ ]+\|>|</?s>|<[be]os>")


def plain_text(text: str, boundary: str = "\n\n") -> str:
    r"""Text of a token, without the spelling of lone bytes and of document boundaries.

    >>> plain_text("<0xC3>") == "\ufffd", plain_text("<|endoftext|>")
    (True, '\n\n')
    """
    if "<" not in text:
        return text
    return boundary if _BOUNDARY.fullmatch(text) else _BYTE.sub("\ufffd", text)


def ends_sentence(text: str) -> bool:
    """Whether a token's text ends a sentence, closing quotes and the like after it aside."""
    return bool(_ENDS.search(text))


def layout_tables(vocab: Sequence[str]) -> State:
    """The automaton: ``row`` and ``table`` of labeler.functions.automaton."""
    return make_automaton([plain_text(text) for text in vocab], _signature, _step, 16)


def token_flags(vocab: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Flags of each token, uint8 [n_vocab]."""
    texts = [plain_text(text) for text in vocab]
    flags = [NEWLINE * ("\n" in text) | WHITE * (not text.strip()) for text in texts]
    return np.array(flags, dtype=np.uint8)


def _signature(text: str) -> str:
    """Whether it ends or closes a sentence, and which of its lines are more than white space."""
    lines = "\n".join("x" if part.strip() else "" for part in text.split("\n"))
    return f"{int(ends_sentence(text))}{int(bool(_CLOSES.match(text)))}{lines}"


def _step(signature: str, state: int) -> int:
    ends, closes, lines = signature[0] == "1", signature[1] == "1", signature[2:].split("\n")
    was_blank, was_ended = bool(state & BLANK), bool(state & ENDED)
    blank, broke = was_blank and not lines[0], False
    for line in lines[1:]:
        broke = broke or blank
        blank = not line
    stays = not any(lines) or (closes and not was_blank)
    ended = ends or broke or (was_ended and stays)
    starts = was_ended and not stays
    return BLANK * blank | ENDED * ended | BROKE * broke | STARTS * starts


def sample_tokens(vocab: Sequence[str]) -> State:
    """Ids to write with, int64 [] each, -1 = none: a word, a newline, a blank line, a full stop."""
    texts = [plain_text(text, "<>") for text in vocab]
    found = {
        "word": pick(texts, is_plain_word, str.isalpha),
        "newline": pick(texts, lambda text: text == "\n", lambda text: "\n" in text),
        "blank_line": spelled(texts, "\n\n"),
        "end": pick(texts, lambda text: text == ".", ends_sentence),
    }
    return {name: np.array(token) for name, token in found.items()}


def since(starts: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Positions since the last start, 0 at a start; -1 before the first, int64 [n_ctx, ctx_len]."""
    place = np.arange(starts.shape[1])
    last = np.maximum.accumulate(np.where(starts, place, -1), axis=1)
    return np.where(last >= 0, place - last, -1)
