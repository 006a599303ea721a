"""What `keys` and `fit_keys` may return, and what is said about what they may not."""

import numpy as np
import numpy.typing as npt

from labeler.errors import FunctionTypeError
from labeler.functions.contract import NO_KEY, Keys
from labeler.tokens import Tokens


def checked_keys(keys: object, tokens: Tokens, *, several: bool, what: str) -> Keys:
    """Keys in a form that can be compared: -1 at padding, several of a position in falling order.

    Parameters
    ----------
    keys : object
        What was returned for `tokens`.
    several : bool
        Whether the type declares `several_keys`.
    what : str
        What gave them ("keys", "fit_keys"), for the message.

    Raises
    ------
    FunctionTypeError
        If they are no int64 [n_ctx, ctx_len] (or [n_ctx, ctx_len, m]) of keys >= -1, distinct
        within a position.
    """
    if not isinstance(keys, np.ndarray) or keys.dtype != np.int64:
        found = keys.dtype if isinstance(keys, np.ndarray) else type(keys).__name__
        raise FunctionTypeError(
            f"{what} returns {found}; return an array of int64{_dtype_hint(keys)}"
        )
    fits = keys.shape[:2] == tokens.ids.shape and keys.ndim == (3 if several else 2)
    if not fits or keys.size < tokens.ids.size:
        n_ctx, ctx_len = tokens.ids.shape
        wanted = (
            f"several keys per position, [{n_ctx}, {ctx_len}, m] with m at least 1"
            if several
            else f"one key per position, [{n_ctx}, {ctx_len}]"
        )
        raise FunctionTypeError(
            f"{what} has shape {list(keys.shape)}; return {wanted}"
            f"{_shape_hint(keys, tokens, several)}"
        )
    valid = tokens.valid[..., None] if several else tokens.valid
    keys = np.where(valid, keys, NO_KEY)
    if (keys < NO_KEY).any():
        raise FunctionTypeError(f"{what} has the value {keys.min()}; keys are >= 0, -1 = no key")
    if several:
        keys = -np.sort(-keys, axis=-1)
        twice = (keys[..., 1:] == keys[..., :-1]) & (keys[..., 1:] != NO_KEY)
        if twice.any():
            context, position, place = np.argwhere(twice)[0]
            raise FunctionTypeError(
                f"{what} gives context {context}, position {position} the key "
                f"{keys[context, position, place]} twice; the keys of a position are distinct, "
                "-1 in the places left"
            )
    return keys


def _dtype_hint(keys: object) -> str:
    """How to get there from what was returned."""
    if keys is None:
        return " (is there a `return`?)"
    if not isinstance(keys, np.ndarray):
        return ": np.array(keys, dtype=np.int64)"
    match keys.dtype.kind:
        case "f":
            return ", -1 instead of NaN where there is no key: keys.astype(np.int64)"
        case "b" | "i" | "u":
            return ": keys.astype(np.int64)"
        case _:
            return ": number what the keys stand for, and give its text in render"


def _shape_hint(keys: Keys, tokens: Tokens, several: bool) -> str:
    """What the shape looks like."""
    n_ctx, ctx_len = tokens.ids.shape
    if keys.shape == (n_ctx,):
        return "; this is one per context: keys of a context may differ from position to position"
    if keys.shape == (n_ctx * ctx_len,):
        return ": keys.reshape(tokens.ids.shape)"
    if keys.shape == (ctx_len,):
        return "; this is one context only: keys get all contexts at once"
    if several and keys.shape == (n_ctx, ctx_len):
        return ": keys[:, :, None], or leave out several_keys"
    if not several and keys.shape[:2] == (n_ctx, ctx_len):
        return ", or declare several_keys = True"
    return ""


def first_difference(keys: Keys, wanted: Keys) -> str | None:
    """Where checked keys differ first, for a message; None where they are the same."""
    width = max(array.shape[2] for array in (keys, wanted)) if keys.ndim == 3 else 0
    keys, wanted = _widened(keys, width), _widened(wanted, width)
    if np.array_equal(keys, wanted):
        return None
    context, position = np.argwhere(keys != wanted)[0][:2]
    found, should = (_shown(array[context, position]) for array in (keys, wanted))
    return f"context {context}, position {position}: {found}, not {should}"


def _widened(keys: Keys, width: int) -> Keys:
    """The same keys with places left up to `width`: m may depend on the text."""
    if keys.ndim < 3 or keys.shape[2] == width:
        return keys
    more = np.full((*keys.shape[:2], width - keys.shape[2]), NO_KEY, dtype=np.int64)
    return np.concatenate([keys, more], axis=2)


def _shown(keys: npt.NDArray[np.int64]) -> str:
    """A position's key, or its several keys without the places left."""
    return str(int(keys)) if keys.ndim == 0 else str(keys[keys >= 0].tolist())
