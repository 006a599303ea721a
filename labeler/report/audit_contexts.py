"""Text around a latent's firings, from the ground of an audit."""

from typing import TypedDict

import numpy as np

from labeler.eval.audit.ground import Ground
from labeler.report.contexts import AFTER, BEFORE, TRUE_STEPS
from labeler.report.glyphs import visible

MAX_TOKEN = 80
"""Characters shown of a token; files of others may call anything a token."""


class Token(TypedDict):
    """A token of a stretch of text."""

    lead: str
    """Spaces that it starts with: shown outside its highlight."""
    text: str
    act: float
    step: int
    """0 silent, to 8 for the latent's maximum."""


class Shown(TypedDict):
    """A stretch of text around a firing."""

    which: str
    """``strongest`` or ``typical``."""
    act: float
    cut_before: bool
    cut_after: bool
    tokens: list[Token]


def firing_contexts(ground: Ground, latent: int) -> list[Shown]:
    """The strongest firing of a latent, and one of median strength from another context.

    Empty where the latent is not known here, or never fires.
    """
    column = ground.column.get(latent)
    if column is None:
        return []
    position = ground.fires_in[column]
    if not len(position):
        return []
    act = ground.firings.at(position, np.full(len(position), column))
    order = np.argsort(-act, kind="stable")
    most = float(act[order[0]])
    found = [_around(ground, column, int(position[order[0]]), most, "strongest")]
    first = position[order[0]] // ground.tokens.ctx_len
    other = order[position[order] // ground.tokens.ctx_len != first]
    if len(other):
        middle = int(position[other[len(other) // 2]])
        found.append(_around(ground, column, middle, most, "typical"))
    return found


def _around(ground: Ground, column: int, position: int, most: float, which: str) -> Shown:
    tokens = ground.tokens
    context, offset = divmod(position, tokens.ctx_len)
    length = int(tokens.length[context])
    begin, end = max(offset - BEFORE, 0), min(offset + AFTER + 1, length)
    span = np.arange(context * tokens.ctx_len + begin, context * tokens.ctx_len + end)
    act = ground.firings.at(span, np.full(len(span), column))
    texts = [tokens.vocab[token] for token in tokens.ids[context, begin:end]]
    return Shown(
        which=which,
        act=float(act[offset - begin]),
        cut_before=begin > 0,
        cut_after=end < length,
        tokens=[_token(text, float(value), most) for text, value in zip(texts, act, strict=True)],
    )


def _token(text: str, act: float, most: float) -> Token:
    text = visible(text if len(text) <= MAX_TOKEN else text[:MAX_TOKEN] + "…")
    # A token of spaces only keeps them, or nothing would be left to highlight.
    bare = text.lstrip(" ") or text
    step = int(np.clip(np.ceil(act / most * TRUE_STEPS), 1, TRUE_STEPS)) if act > 0 else 0
    return Token(lead=text[: len(text) - len(bare)], text=bare, act=act, step=step)
