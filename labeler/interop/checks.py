"""Checks of single values in the records of strangers; what fails one is a `DamagedError`."""

import re

import numpy as np

from labeler.errors import ExplanationError
from labeler.explanations import Context
from labeler.interop.bounded import Json

MAX_LATENT = 2**31 - 1
MAX_TOKENS = 4096
"""Tokens of one context; longer ones are passed over."""


class DamagedError(ExplanationError):
    """A record that cannot be used: it is counted, where another `ExplanationError` ends all."""

    def __init__(self, reason: str, detail: object = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = str(detail)[:80]


def latent_of(value: Json) -> int:
    """Read the number of a latent: a whole number, or text or a float that is one.

    Raises
    ------
    DamagedError
        For anything else, and below 0 or above `MAX_LATENT`.

    Examples
    --------
    >>> latent_of("17"), latent_of(17.0)
    (17, 17)
    """
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,10}(\.0)?\s*", value, re.ASCII):
        value = int(value.strip().removesuffix(".0"))
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LATENT:
        raise DamagedError("latent that is no whole number from 0 on", repr(value)[:40])
    return value


def text_of(value: Json, field: str) -> str:
    """Text as stored; lone surrogates, which no file can hold, become U+FFFD; null becomes "".

    Raises
    ------
    DamagedError
        If it is a number, list or object.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DamagedError(f"{field} that is no text", repr(value)[:40])
    if not _can_be_written(value):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _can_be_written(text: str) -> bool:
    """Whether there is no lone surrogate in a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number_of(value: Json) -> float | None:
    """A finite number, or text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def fields_of(value: Json) -> dict[str, Json]:
    """A JSON object; raises `DamagedError` for anything else."""
    if not isinstance(value, dict):
        raise DamagedError("record that is no JSON object", repr(value)[:40])
    return value


def context_of(tokens: Json, acts: Json, chosen: str) -> Context:
    """Check a context: tokens are text, activations finite numbers, one for each token.

    Raises
    ------
    DamagedError
        If not, or if there are none, or more than `MAX_TOKENS`.
    """
    if not isinstance(tokens, list) or not isinstance(acts, list):
        raise DamagedError("context without a list of tokens and one of activations")
    if len(tokens) != len(acts):
        raise DamagedError(
            "context with another number of activations than of tokens",
            f"{len(acts)} and {len(tokens)}",
        )
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise DamagedError(f"context of no tokens or over {MAX_TOKENS:,}", len(tokens))
    if set(map(type, tokens)) != {str}:
        raise DamagedError("token that is no text")
    texts = tuple(token for token in tokens if isinstance(token, str))
    if not _can_be_written("".join(texts)):
        texts = tuple(text_of(token, "token") for token in texts)
    if not set(map(type, acts)) <= {int, float}:
        raise DamagedError("activation that is no number")
    with np.errstate(over="ignore"):
        try:
            values = np.array(acts, dtype=np.float64).astype(np.float32)
        except OverflowError:
            raise DamagedError("activation that is not finite") from None
    if not np.isfinite(values).all():
        raise DamagedError("activation that is not finite")
    return Context(texts, values, chosen)
