"""The absolute position in the context."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.buckets import EDGES, bounds, bucket_of, span_text
from labeler.functions.computed import Computed, Constants
from labeler.functions.contract import Keys
from labeler.functions.registry import register


def position_keys(ids: npt.NDArray[np.integer], edges: npt.NDArray[np.int64]) -> Keys:
    """Bucket of the position, int64 [n_ctx, ctx_len]."""
    return np.broadcast_to(bucket_of(np.arange(ids.shape[1]), edges), ids.shape).copy()


@register
class Position(Computed):
    """The position in the context: exact from 0 to 15, then three buckets to the octave."""

    name = "position"
    compute = staticmethod(position_keys)
    helpers = (bucket_of,)
    constants: ClassVar[Constants] = {"edges": EDGES}

    def render(self, key: int) -> str:
        """The positions, counted from 0."""
        low, high = bounds(key, EDGES)
        return f"position{'' if low == high else 's'} {span_text(low, high)}"
