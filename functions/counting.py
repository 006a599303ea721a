"""How many tokens of some classes came so far."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.buckets import bounds, span_text
from labeler.functions.computed import Computed, Constants, Ids, is_plain_word, pick
from labeler.functions.contract import Keys, State
from labeler.functions.layout import plain_text
from labeler.functions.registry import register


def _holds(characters: str) -> Callable[[str], bool]:
    return lambda text: any(character in text for character in characters)


_CLASSES: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("newline", _holds("\n")),
    ("comma", _holds(",")),
    ("full stop", _holds(".")),
    ("question or exclamation mark", _holds("?!")),
    ("colon", _holds(":")),
    ("opening bracket", _holds("([{")),
    ("number", _holds("0123456789")),
    ("double quote", _holds('"\u201c\u201d')),
    ("capitalised word", lambda text: text.lstrip()[:1].isupper()),
)

_EDGES = np.array([0, 1, 2, 3, 4, 5, 7, 10])


def counting_keys(
    ids: npt.NDArray[np.integer],
    classes: npt.NDArray[np.bool_],
    edges: npt.NDArray[np.int64],
) -> Keys:
    """``class * n_buckets + bucket of its count``, int64 [n_ctx, ctx_len, n_classes]."""
    # Looked up in a table: the last bucket begins low, and a search per count is slow.
    top = int(edges[-1])
    bucket = np.searchsorted(edges, np.arange(top + 1), side="right") - 1
    out = np.empty((*ids.shape, len(classes)), dtype=np.int64)
    for number in range(len(classes)):
        count = np.cumsum(classes[number][ids], axis=1)
        out[:, :, number] = number * len(edges) + bucket[np.minimum(count, top)]
    return out


@register
class Counting(Computed):
    """How many newlines, commas, full stops, numbers and the like came so far in the context.

    For each class the number of tokens that hold at least one, the token at t included: newlines,
    commas, full stops, question or exclamation marks, colons, opening brackets, numbers (digits),
    double quotes, capitalised words (tokens that begin with a capital letter, spaces aside). Every
    position has one key for each class.
    """

    name = "counting"
    several_keys = True
    compute = staticmethod(counting_keys)
    constants: ClassVar[Constants] = {"edges": _EDGES}

    def tables(self, vocab: Sequence[str]) -> State:
        """Which tokens are in each class, bool [n_classes, n_vocab]."""
        texts = [plain_text(text, "") for text in vocab]
        classes = np.array([[belongs(text) for text in texts] for _, belongs in _CLASSES])
        if not classes.any():
            raise NotApplicableError("no token of the vocabulary is in a class that is counted")
        return {"classes": classes}

    def extras(self, vocab: Sequence[str]) -> State:
        """A word of no class, and a token of each class alone, int64 [n_classes]; -1 = none."""
        classes = np.asarray(self._tables["classes"], dtype=np.bool_)
        alone = classes & (classes.sum(axis=0) == 1)
        samples = np.where(alone.any(axis=1), alone.argmax(axis=1), -1)
        return {"word": np.array(pick(vocab, is_plain_word)), "samples": samples}

    def render(self, key: int) -> str:
        """The count."""
        number, bucket = divmod(key, len(_EDGES))
        low, high = bounds(bucket, _EDGES)
        count = span_text(low, high) if low else "no"
        return f"{count} {_CLASSES[number][0]}{'' if low == high == 1 else 's'} so far"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Take out all tokens of the class, then put enough of them right up to `pos`."""
        number, bucket = divmod(key, len(_EDGES))
        count, sample = int(_EDGES[bucket]), self.sample("samples", number)
        if self.sample("word") < 0 or sample < 0 or count > pos + 1:
            return
        before = ids[: pos + 1]
        before[self._tables["classes"][number][before]] = self.sample("word")
        before[pos + 1 - count :] = sample
        yield ids
