"""The token before this one."""

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import Keys
from labeler.functions.ngram import NGram
from labeler.functions.registry import register
from labeler.tokens import Tokens


@register
class PreviousToken(NGram):
    """The token before this one, whatever this one is."""

    name = "previous_token"
    backs_off_to = None
    order = 1

    def keys(self, tokens: Tokens) -> Keys:
        """Id of the token at t-1; -1 at the first position."""
        here = super().keys(tokens)
        out = here.copy()
        out[:, 1:] = here[:, :-1]
        out[:, 0] = -1
        return out

    def render(self, key: int) -> str:
        """The text of the token."""
        return f"anything after {super().render(key)}"

    def source(self) -> str | None:
        """Python for exported labels."""
        here = super().source()
        if here is None:
            return None
        return here.replace(
            "    return out\n",
            "    out[:, 1:] = out[:, :-1].copy()\n    out[:, 0] = -1\n    return out\n",
        )

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Replace the token before `pos`."""
        return super().write(ids, pos - 1, key) if pos > 0 else None
