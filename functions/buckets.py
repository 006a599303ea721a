"""Buckets of counts and distances, and how they read."""

import numpy as np
import numpy.typing as npt

_LARGEST = 2**16

Numbers = npt.NDArray[np.int64]


def _edges() -> Numbers:
    edges = list(range(16))
    octave = 16
    while octave < _LARGEST:
        edges += [octave, octave * 5 // 4, octave * 3 // 2]
        octave *= 2
    return np.array([*edges, _LARGEST], dtype=np.int64)


EDGES = _edges()
"""Least number of each bucket of a distance: exact up to 15, then three buckets to the octave."""


def bucket_of(numbers: npt.NDArray[np.integer], edges: Numbers) -> Numbers:
    """Bucket of each number; -1 below the first edge.

    >>> EDGES[14:24].tolist()
    [14, 15, 16, 20, 24, 32, 40, 48, 64, 80]
    >>> bucket_of(np.array([-1, 15, 19, 20, 31]), EDGES).tolist()
    [-1, 15, 16, 17, 18]
    """
    return np.searchsorted(edges, numbers, side="right") - 1


def bounds(bucket: int, edges: Numbers) -> tuple[int, int | None]:
    """Least and largest number of a bucket; None in the last, which has no end."""
    low = int(edges[bucket])
    return low, int(edges[bucket + 1]) - 1 if bucket + 1 < len(edges) else None


def span_text(low: int, high: int | None) -> str:
    """Text of a bucket.

    >>> [span_text(3, 3), span_text(3, 4), span_text(5, 8), span_text(9, None)]
    ['3', '3 or 4', '5 to 8', '9 or more']
    """
    if high is None:
        return f"{low} or more"
    if low == high:
        return str(low)
    return f"{low} or {high}" if high == low + 1 else f"{low} to {high}"


def into_text(bucket: int, unit: str) -> str:
    """Text of a distance from the start of a unit, in buckets of EDGES.

    >>> [into_text(bucket, "line") for bucket in (0, 1, 19)]
    ['the first token of a line', '1 token into a line', '32 to 39 tokens into a line']
    """
    low, high = bounds(bucket, EDGES)
    if high == 0:
        return f"the first token of a {unit}"
    return f"{span_text(low, high)} token{'' if high == 1 else 's'} into a {unit}"
