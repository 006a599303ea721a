"""Contexts filled with tokens up to a position: for keys that sum up the whole context."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def filled(
    ids: npt.NDArray[np.int32], pos: int, tokens: npt.NDArray[np.integer]
) -> Iterator[npt.NDArray[np.int32]]:
    """Copies of the context whose last 1, 2, 4, ... tokens up to `pos`, at last all, are `tokens`.

    The tokens are repeated as needed.

    >>> for edited in filled(np.zeros(4, dtype=np.int32), 2, np.array([7, 8])):
    ...     print(edited)
    [0 0 7 0]
    [0 7 8 0]
    [7 8 7 0]
    """
    n = 1
    while n < 2 * (pos + 1):
        edited = ids.copy()
        first = max(pos + 1 - n, 0)
        edited[first : pos + 1] = np.resize(tokens, pos + 1 - first)
        yield edited
        n *= 2
