"""The punctuation character or symbol that a token ends in."""

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import Keys
from labeler.functions.piece_type import PieceType, Tables
from labeler.functions.pieces import Pieces, piece_ids
from labeler.functions.registry import register
from labeler.functions.text import quote
from labeler.functions.words import is_punctuation
from labeler.tokens import Tokens


def punctuation_keys(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
) -> Keys:
    """Code point of the last character of each piece, -1 = no punctuation; as `ids`."""
    return last[piece_ids(ids, partial, code, piece, after)]


@register
class Punctuation(PieceType):
    """The punctuation character or symbol that ends at t, if one does; the underscore too."""

    name = "punctuation"
    backs_off_to = None
    functions = (punctuation_keys,)

    def tables(self, pieces: Pieces, fit: Tokens) -> Tables:
        """The code point per piece."""
        ends = [
            ord(text[-1]) if text and is_punctuation(text[-1]) and not unfinished else -1
            for text, unfinished in zip(pieces.texts, pieces.unfinished, strict=True)
        ]
        return {"last": np.array(ends, dtype=np.int64)}

    def render(self, key: int) -> str:
        """The character."""
        return f"tokens that end in {quote(chr(key))}"
