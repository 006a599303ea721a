"""The last three letters of the word so far."""

import numpy as np
import numpy.typing as npt

from labeler.functions.affix import N_LETTERS, Affix, pack_letters
from labeler.functions.contract import Keys
from labeler.functions.pieces import piece_ids
from labeler.functions.registry import register


def suffix_keys(
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
    """The last three letters of the word so far as a number, int64 [n_ctx, ctx_len]; -1 = none.

    Per piece: whether it continues the word, characters of the run at its end, and the last three
    of these as a number.
    """
    pieces = piece_ids(ids, partial, code, piece, after)
    out = np.full(pieces.shape, -1, dtype=np.int64)
    n = np.zeros(len(pieces), dtype=np.int64)
    last = np.zeros(len(pieces), dtype=np.int64)
    for t in range(pieces.shape[1]):
        at = pieces[:, t]
        n = np.where(whole[at], n, 0) + length[at]
        kept = np.where(whole[at], last, 0) << 21 * np.minimum(length[at], 3)
        last = (kept & 2**63 - 1) | letters[at]
        ok = (n >= 4) & ~unfinished[at]
        for shift in (42, 21, 0):
            ok &= (last >> shift & 2**21 - 1) > 0
        out[:, t] = np.where(ok, last, -1)
    return out


@register
class Suffix(Affix):
    """The last three letters of the word so far, in lower case, if it has four characters or more.

    No key where one of the three is a digit or an underscore.
    """

    name = "suffix"
    backs_off_to = None
    functions = (suffix_keys,)
    wording = "that so far end in"

    def letters_of(self, tail: str) -> int:
        """Number of the last three letters."""
        return pack_letters(tail[-N_LETTERS:])
