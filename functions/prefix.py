"""The first three letters of the word so far."""

import numpy as np
import numpy.typing as npt

from labeler.functions.affix import BITS, N_LETTERS, Affix, pack_letters
from labeler.functions.contract import Keys
from labeler.functions.pieces import piece_ids
from labeler.functions.registry import register


def prefix_keys(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    unfinished: npt.NDArray[np.bool_],
    whole: npt.NDArray[np.bool_],
    length: npt.NDArray[np.int64],
    letters: npt.NDArray[np.int64],
) -> Keys:
    """The first three letters of the word so far as a number, int64 [n_ctx, ctx_len]; -1 = none.

    Per piece: whether it continues the word, characters of the run at its end, and the first three
    of these as a number, to the left.
    """
    pieces = piece_ids(ids, partial, code, piece, after)
    out = np.full(pieces.shape, -1, dtype=np.int64)
    n = np.zeros(len(pieces), dtype=np.int64)
    first = np.zeros(len(pieces), dtype=np.int64)
    for t in range(pieces.shape[1]):
        at = pieces[:, t]
        before = np.where(whole[at], n, 0)
        # Shifted to the places still free; by 63 there is nothing left.
        first = np.where(whole[at], first, 0) | letters[at] >> 21 * np.minimum(before, 3)
        n = before + length[at]
        ok = (n >= 3) & ~unfinished[at]
        for shift in (42, 21, 0):
            ok &= (first >> shift & 2**21 - 1) > 0
        out[:, t] = np.where(ok, first, -1)
    return out


@register
class Prefix(Affix):
    """The first three letters of the word so far, in lower case.

    No key where one of the three is a digit or an underscore.
    """

    name = "prefix"
    backs_off_to = None
    functions = (prefix_keys,)
    wording = "that begin with"

    def letters_of(self, tail: str) -> int:
        """Number of the first three letters, to the left where there are fewer."""
        first = tail[:N_LETTERS]
        return pack_letters(first) << BITS * (N_LETTERS - len(first))
