"""Samples of contexts: where maps are fitted, where the curves are measured."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats
from labeler.shards import Firings
from labeler.tokens import Tokens


def spread(tokens: Tokens, wanted: int, seed: int) -> npt.NDArray[np.int64]:
    """Contexts drawn by chance that together hold at least `wanted` positions, or all.

    No document gives a second context before each has given one: documents are what intervals
    resample.

    Returns
    -------
    int64 [n]
        Contexts, ascending.
    """
    order = np.random.default_rng(seed).permutation(tokens.n_ctx)
    doc = tokens.doc[order]
    # How many contexts of the same document come before each one in the drawn order.
    by_doc = np.argsort(doc, kind="stable")
    starts = np.flatnonzero(np.diff(doc[by_doc], prepend=-1))
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_doc] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    order = order[np.argsort(turn, kind="stable")]
    n = int(np.searchsorted(np.cumsum(tokens.length[order]), wanted)) + 1
    return np.sort(order[:n]).astype(np.int64)


def dense_acts(
    tokens: Tokens, contexts: npt.NDArray[np.integer], firings: Iterable[Firings], n_latents: int
) -> Floats:
    """Activations in some contexts (ascending), from firings by flat position of the cache.

    Returns
    -------
    float32 [n_contexts * ctx_len, n_latents]
        0 on padding.
    """
    place = np.full(tokens.n_ctx, -1, dtype=np.int64)
    place[contexts] = np.arange(len(contexts))
    out = np.zeros((len(contexts) * tokens.ctx_len, n_latents), dtype=np.float32)
    for found in firings:
        context, offset = np.divmod(found.position.astype(np.int64), tokens.ctx_len)
        row = place[context]
        has = row >= 0
        out[row[has] * tokens.ctx_len + offset[has], found.latent[has]] = found.act[has]
    return out


def windows(tokens: Tokens, width: int, wanted: int, seed: int) -> Tokens:
    """Pieces of contexts as contexts of their own, `width` real tokens each, drawn as by `spread`.

    Pieces of a context do not overlap; documents and topics stay those of the context.
    """
    per = tokens.length // width
    context = np.repeat(np.arange(tokens.n_ctx), per)
    piece = np.arange(len(context)) - np.repeat(np.cumsum(per) - per, per)
    at = piece[:, None] * width + np.arange(width)
    cut = Tokens(
        ids=tokens.ids[context[:, None], at],
        length=np.full(len(context), width, dtype=np.int32),
        doc=tokens.doc[context],
        fold=tokens.fold[context],
        doc_ids=tokens.doc_ids,
        topics=tokens.topics,
        topic_levels=tokens.topic_levels,
        vocab=tokens.vocab,
    )
    return cut.select(spread(cut, wanted * width, seed))
