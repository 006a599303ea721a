"""Earlier occurrences of the same number in a context."""

import numpy as np
import numpy.typing as npt


def last_before(numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Where the number at each position last stood before it, -1 = nowhere; [n_ctx, ctx_len].

    A stable sort of each context puts equal numbers side by side, the earlier first.
    """
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    before = np.full(numbers.shape, -1, dtype=np.int64)
    before[:, 1:] = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1], -1)
    out = np.empty_like(before)
    np.put_along_axis(out, order, before, axis=1)
    return out
