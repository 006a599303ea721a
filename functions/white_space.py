"""The white space that a token ends in or begins with."""

import numpy as np
import numpy.typing as npt

from labeler.functions.char_machine import CharMachine, machine_states
from labeler.functions.contract import Keys
from labeler.functions.piece_type import Tables
from labeler.functions.pieces import Pieces, piece_ids
from labeler.functions.registry import register
from labeler.tokens import Tokens

# States: the white space up to here; indentation of k spaces is _INDENT + k - 1, up to 9.
_NONE, _SPACE, _SPACES, _TAB, _RETURN, _LINE, _BLANK, _TABS, _INDENT = range(9)
_MAX_INDENT = 9

_LINE_ENDS = "\n\v\f\x85\u2028\u2029"


def white_space_keys(
    ids: npt.NDArray[np.int32],
    partial: npt.NDArray[np.bool_],
    code: npt.NDArray[np.int64],
    piece: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    unfinished: npt.NDArray[np.bool_],
    step: npt.NDArray[np.uint8],
    key_of_state: npt.NDArray[np.int64],
    leading: npt.NDArray[np.int64],
) -> Keys:
    """Key of the white space at the end of each token, else `leading` of its piece.

    int64 [n_ctx, ctx_len]; -1 = none.
    """
    pieces = piece_ids(ids, partial, code, piece, after)
    at_end = key_of_state[machine_states(pieces, step)]
    keys = np.where(at_end >= 0, at_end, leading[pieces])
    return np.where(unfinished[pieces], -1, keys)


@register
class WhiteSpace(CharMachine):
    """The white space that ends at t, over tokens: line ends, indentation, tabs; or a leading one.

    Spaces are indentation if a line end comes before them in the context, whatever token it is in.
    Other white space than line ends and tabs counts as a space.
    """

    name = "white_space"
    backs_off_to = None
    names = (
        "a new line",
        "a blank line",
        "an indentation of 1 to 4 spaces",
        "an indentation of 5 to 8 spaces",
        "an indentation of more than 8 spaces",
        "an indentation with tabs",
        "a tab inside a line",
        "a single space as the end of a token",
        "several spaces inside a line",
        "a token with leading white space",
        "a token without white space at either end",
    )
    key_of_state = (-1, 7, 8, 6, 0, 0, 1, 5, 2, 2, 2, 2, 3, 3, 3, 3, 4)
    functions = (white_space_keys, machine_states)

    @staticmethod
    def step(state: int, char: str) -> int:
        """The white space after a character."""
        in_line = state <= _TAB
        if char in _LINE_ENDS:
            return _LINE if in_line or state == _RETURN else _BLANK
        if char == "\r":  # ends a line itself, but "\r\n" is one line end
            return _RETURN if in_line else state
        if not char.isspace():
            return _NONE
        if char == "\t":
            return _TAB if in_line else _TABS
        if in_line:
            return {_NONE: _SPACE, _TAB: _TAB}.get(state, _SPACES)
        if state >= _INDENT:
            return min(state + 1, _INDENT + _MAX_INDENT - 1)
        return _TABS if state == _TABS else _INDENT

    def tables(self, pieces: Pieces, fit: Tokens) -> Tables:
        """The automaton, and the key of each piece if it ends in no white space."""
        leading, none = len(self.names) - 2, len(self.names) - 1
        starts = [leading if text[:1].isspace() else none for text in pieces.texts]
        return {**super().tables(pieces, fit), "leading": np.array(starts, dtype=np.int64)}
