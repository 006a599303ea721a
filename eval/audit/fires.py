"""What a latent fires on, in the few words of a reason."""

import numpy as np

from labeler.eval.audit.match import TextIndex
from labeler.eval.audit.measure import Watched
from labeler.functions.text import quote

_MOST = 3
"""Tokens that are named."""

_SMALL = 0.05
"""Share of activation below which a further token goes unnamed."""

_LARGE = 0.2
"""Share of activation from which the token before the top one is worth a look."""

_OFTEN = 0.5
"""Share of the top token's activation from which the token before it is named, too."""


def fires_on(index: TextIndex, watched: Watched) -> str:
    """The tokens that hold most of its activation, with their shares.

    One sentence without an end: "94% of its activation is at ` the`, 61% of that after `↵`".
    """
    tokens = index.tokens
    ids = tokens.ids.ravel()[index.position]
    here = ids[watched.token]
    total = watched.act.sum()
    if not len(here) or total <= 0:
        return "it does not fire here"
    by_token = np.bincount(here, weights=watched.act, minlength=tokens.n_vocab) / total
    order = np.argsort(-by_token, kind="stable")[:_MOST]
    named = [one for one in order.tolist() if by_token[one] >= _SMALL] or [int(order[0])]
    top = named[0]
    line = f"{by_token[top]:.0%} of its activation is at {quote(tokens.vocab[top])}"
    at_top = here == top
    before, act = watched.token[at_top] - 1, watched.act[at_top]
    inside = (before >= 0) & (index.context[before] == index.context[before + 1])
    if inside.any() and by_token[top] >= _LARGE:
        previous = np.bincount(ids[before[inside]], weights=act[inside], minlength=tokens.n_vocab)
        common = int(previous.argmax())
        share = previous[common] / act.sum()
        if share >= _OFTEN:
            line += f", {share:.0%} of that after {quote(tokens.vocab[common])}"
    more = [f"{by_token[one]:.0%} at {quote(tokens.vocab[one])}" for one in named[1:]]
    return "; ".join([line, ", ".join(more)]) if more else line
