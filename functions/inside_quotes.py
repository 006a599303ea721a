"""Whether a position is inside a quotation."""

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.automaton import make_automaton, run_automaton
from labeler.functions.computed import Computed, Constants, Ids, is_plain_word, pick, spelled
from labeler.functions.contract import Keys, State
from labeler.functions.layout import plain_text
from labeler.functions.registry import register

_KINDS = (
    ("straight double quotes", '"', '"'),
    ("curly double quotes", "\u201c", "\u201d"),
    ("backquotes", "`", "`"),
    ("straight single quotes", "'", "'"),
    ("curly single quotes", "\u2018", "\u2019"),
    ("angle quotes", "\u00ab", "\u00bb"),
)
_OPENS = {opening: kind for kind, (_, opening, _) in enumerate(_KINDS, 1)}
_CLOSES = ("", *(closing for _, _, closing in _KINDS))
_APOSTROPHES = {"'": "i", "\u2019": "j"}  # how a signature writes those before a letter

_OTHER, _SPACE, _EMPTY = range(3)
"""What the last character was: white space, or white space of a line that is blank so far."""

_START = _SPACE
_LETTERS = re.compile(r"(['\u2019])?(?:[^\W_])+")
_PLAIN = re.compile(r"[^\s\"'`\u201c\u201d\u2018\u2019\u00ab\u00bbaij]+")
_BLANK = re.compile(r"[^\S\n]+")


def inside_quotes_keys(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    table: npt.NDArray[np.uint8],
    start: int,
) -> Keys:
    """Kind of the open quotation after each token, 0 = none, int64 [n_ctx, ctx_len]."""
    return run_automaton(ids, row, table, start).astype(np.int64) // 3


def _signature(text: str) -> str:
    """Quotes, newlines, spaces and apostrophes, with an ``a`` for whatever stands between them."""
    text = _LETTERS.sub(lambda found: _APOSTROPHES.get(found[1] or "", "") + "a", text)
    return re.sub("a+", "a", _BLANK.sub(" ", _PLAIN.sub("a", text)))


def _step(signature: str, state: int) -> int:
    kind, last = divmod(state, 3)
    for character in signature:
        if character == "\n":
            kind, last = (0 if last == _EMPTY else kind), _EMPTY
            continue
        if character == " ":
            last = max(last, _SPACE)
            continue
        if kind:
            kind = 0 if character == _CLOSES[kind] else kind
        elif character in "'i":
            kind = 0 if last == _OTHER else _OPENS["'"]
        else:
            kind = _OPENS.get(character, 0)
        last = _OTHER
    return kind * 3 + last


@register
class InsideQuotes(Computed):
    r"""Inside double quotes, backquotes, single quotes, or in none.

    The state after the token: an opening quote is inside, a closing one outside. Counted from the
    start of the context, which may lie within a quotation; a blank line (or a token that marks the
    start of a document) ends all. A quotation ends with its own closing quote, whatever other
    quotes are in it. A straight single quote opens after white space or at the start only, and one
    with a letter right after it in the same token ("'s") is an apostrophe that closes nothing.
    """

    name = "inside_quotes"
    compute = staticmethod(inside_quotes_keys)
    helpers = (run_automaton,)
    constants: ClassVar[Constants] = {"start": _START}

    def tables(self, vocab: Sequence[str]) -> State:
        """The automaton."""
        texts = [plain_text(text) for text in vocab]
        if not any(quote in text for text in texts for quote in _OPENS):
            raise NotApplicableError("no token of the vocabulary holds an opening quote")
        return make_automaton(texts, _signature, _step, 3 * (len(_KINDS) + 1))

    def extras(self, vocab: Sequence[str]) -> State:
        """A word, and a token that opens each kind, int64 [n_kinds]; -1 = none."""
        opening = [spelled(vocab, f" {quote}", quote) for quote in _OPENS]
        return {"opening": np.array(opening), "word": np.array(pick(vocab, is_plain_word))}

    def render(self, key: int) -> str:
        """The kind of quotation."""
        return f"text inside {_KINDS[key - 1][0]}" if key else "text outside quotes"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Open a quotation right before `pos`, with plain words before it if need be."""
        if self.sample("word") < 0:
            return
        opening = self.sample("opening", key - 1) if key else -1
        for start in (max(pos - 1, 0), 0):
            ids[start : pos + 1] = self.sample("word")
            if opening >= 0:
                ids[max(pos - 1, 0)] = opening
            yield ids
