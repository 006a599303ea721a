"""How often, and how long ago, the token occurred before in the context."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.buckets import bounds, bucket_of, span_text
from labeler.functions.computed import Computed, Constants, Ids
from labeler.functions.contract import Keys
from labeler.functions.occurrences import last_before
from labeler.functions.registry import register

_COUNTS = np.array([1, 2, 3, 5])
_DISTANCES = np.array([1, 2, 3, 5, 9, 17, 33, 65])
_TIMES = ("once", "twice", "3 or 4 times", "5 or more times")


def seen_before_keys(
    ids: npt.NDArray[np.integer],
    counts: npt.NDArray[np.int64],
    distances: npt.NDArray[np.int64],
) -> Keys:
    """0 = never, else 1 + bucket of the count * 8 + bucket of the distance; [n_ctx, ctx_len]."""
    last = last_before(ids)
    count = np.zeros(ids.shape, dtype=np.int64)
    context = np.arange(len(ids))
    for t in range(1, ids.shape[1]):
        count[:, t] = np.where(last[:, t] >= 0, count[context, last[:, t]] + 1, 0)
    distance = np.arange(ids.shape[1]) - last
    key = 1 + bucket_of(count, counts) * len(distances) + bucket_of(distance, distances)
    return np.where(last >= 0, key, 0)


@register
class SeenBefore(Computed):
    """How many times the token occurred before in the context, and how long ago it last did."""

    name = "seen_before"
    compute = staticmethod(seen_before_keys)
    helpers = (last_before, bucket_of)
    constants: ClassVar[Constants] = {"counts": _COUNTS, "distances": _DISTANCES}

    def render(self, key: int) -> str:
        """The count and the distance."""
        if not key:
            return "a token not seen before"
        times, ago = divmod(key - 1, len(_DISTANCES))
        low, high = bounds(ago, _DISTANCES)
        tokens = f"{span_text(low, high)} token{'' if high == 1 else 's'} ago"
        return f"a token seen {_TIMES[times]} before, last {tokens}"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Take the token out of what is before it, then put it where it shall be."""
        token, before = int(ids[pos]), ids[:pos]
        others = before[before != token]
        if not len(others):
            return
        before[before == token] = others[0]
        if key:
            times, ago = divmod(key - 1, len(_DISTANCES))
            last = pos - int(_DISTANCES[ago])
            first = last - int(_COUNTS[times]) + 1
            if first < 0:
                return
            before[first : last + 1] = token
        yield ids
