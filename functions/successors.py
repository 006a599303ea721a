"""What follows the last one, two, three tokens: counts, and a model made of them.

The model is an interpolated n-gram model with absolute discounting (Ney, Essen and Kneser 1994;
Chen and Goodman 1999). For a token w after a context h that was seen n times, before T distinct
tokens, c times before w:

    p(w | h) = max(c - D, 0) / n + D T / n * p(w | h without its first token)

with D = 0.75 for every length, down to the share of w in the text.

A *node* is a context of one, two or three tokens. It is numbered by its pair (node of the shorter
context, token before that), as in a suffix tree; so no number grows with the order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.tokens import N_FOLDS, Tokens

DISCOUNT = 0.75
"""What is taken off each count; a customary value."""

MAX_LENGTH = 3
"""Tokens of the longest context."""

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Order:
    """The contexts of one length, and what was seen after each.

    Attributes
    ----------
    pair : int64 [n_nodes]
        ``parent node * n_vocab + first token``, ascending; the one context of length 0 has 0.
    parent : int32 [n_nodes]
        Node of the context without its first token, one order below.
    node, token : int32 [n_grams]
        Context and next token of each pair seen; ascending.
    up : int32 [n_grams]
        The same next token after the parent, a gram one order below.
    count : int32 [n_grams, N_FOLDS]
        How often, by fold.
    """

    pair: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int32]
    node: npt.NDArray[np.int32]
    token: npt.NDArray[np.int32]
    up: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]

    @property
    def n_nodes(self) -> int:
        """Number of contexts."""
        return len(self.pair)

    def total(self, without: int | None = None) -> Doubles:
        """Count of each gram, leaving one fold out, float64 [n_grams]."""
        total: Doubles = self.count.sum(axis=1).astype(np.float64)
        if without is not None:
            total -= self.count[:, without]
        return total


def count_successors(tokens: Tokens) -> list[Order]:
    """Count what follows the contexts of length 0 to `MAX_LENGTH`.

    Raises
    ------
    NotApplicableError
        If no context has two tokens.
    """
    followed = np.zeros(tokens.ids.shape, dtype=bool)
    followed[:, :-1] = tokens.valid[:, 1:]
    if not followed.any():
        raise NotApplicableError("no context of the fit split has two tokens")
    row, place = np.nonzero(followed)
    node = np.zeros(len(row), dtype=np.int64)
    orders = [_order(tokens, row, place, node, np.zeros(1, dtype=np.int64), None)]
    for length in range(1, MAX_LENGTH + 1):
        long = place >= length - 1
        row, place, node = row[long], place[long], node[long]
        pairs = node * tokens.n_vocab + tokens.ids[row, place - length + 1]
        pair, node = np.unique(pairs, return_inverse=True)
        orders.append(_order(tokens, row, place, node, pair, orders[-1]))
    return orders


def _order(
    tokens: Tokens, row: Longs, place: Longs, node: Longs, pair: Longs, shorter: Order | None
) -> Order:
    """Count what follows the nodes that end at some positions."""
    n_vocab = tokens.n_vocab
    following, fold = tokens.ids[row, place + 1], tokens.fold[row]
    code, which = np.unique(node * n_vocab + following, return_inverse=True)
    count = np.bincount(which * N_FOLDS + fold, minlength=len(code) * N_FOLDS)
    of, token = np.divmod(code, n_vocab)
    parent = pair // n_vocab
    up = np.zeros(len(code), dtype=np.int64)
    if shorter is not None:
        codes = shorter.node.astype(np.int64) * n_vocab + shorter.token
        up = np.searchsorted(codes, parent[of] * n_vocab + token)
    return Order(
        pair=pair,
        parent=parent.astype(np.int32),
        node=of.astype(np.int32),
        token=token.astype(np.int32),
        up=up.astype(np.int32),
        count=count.reshape(-1, N_FOLDS).astype(np.int32),
    )


def tokens_with_successors(
    orders: list[Order], n_vocab: int, without: int | None = None
) -> npt.NDArray[np.bool_]:
    """Which tokens were followed by another (in the other folds), bool [n_vocab]."""
    last = orders[1].pair[orders[1].node[orders[1].total(without) > 0]]
    return np.bincount(last, minlength=n_vocab) > 0


def _seen(order: Order, count: Doubles) -> tuple[Doubles, Doubles]:
    """How often each context was seen, and the weight of the shorter one; float64 [n_nodes].

    A context that was not seen (in the other folds) has weight 1.
    """
    n = np.bincount(order.node, weights=count, minlength=order.n_nodes).astype(np.float64)
    kinds = np.bincount(order.node, weights=count > 0, minlength=order.n_nodes)
    weight: Doubles = np.where(n > 0, DISCOUNT * kinds / np.maximum(n, 1), 1.0)
    return n, weight


def most_likely(orders: list[Order], without: int | None = None) -> list[npt.NDArray[np.int32]]:
    """Most likely next token of each context of length 1, 2, ..., int32 [n_nodes] each.

    Parameters
    ----------
    orders : list of Order
    without : int, optional
        The fold whose counts are left out.

    Notes
    -----
    A token not seen after a context has ``weight * p(token | shorter context)``; the most likely of
    those is what the shorter context expects, so the maximum is exact. Of equally likely tokens a
    seen one goes first, then the lowest id. All numbers come from integers by the same few
    operations: they are the same on every machine.
    """
    total = orders[0].total(without)
    chance = total / max(total.sum(), 1)
    best = np.array([chance.argmax()])
    best_chance, best = chance[best], orders[0].token[best]
    out = []
    for order in orders[1:]:
        count = order.total(without)
        n, weight = _seen(order, count)
        chance = _discounted(order, count, n) + weight[order.node] * chance[order.up]
        starts = np.searchsorted(order.node, np.arange(order.n_nodes))
        # What only the fold left out has seen is no candidate of its own.
        seen = np.where(count > 0, chance, -1.0)
        top = np.maximum.reduceat(seen, starts)
        at_top = np.where(seen == top[order.node], np.arange(len(seen)), len(seen))
        first = np.minimum.reduceat(at_top, starts)
        backed_off = weight * best_chance[order.parent]
        best = np.where(top >= backed_off, order.token[first], best[order.parent])
        best_chance = np.maximum(top, backed_off)
        out.append(best.astype(np.int32))
    return out


def expected_vectors(
    orders: list[Order], vectors: npt.NDArray[np.float32], without: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Mean of the next token's vector after each context of length 1, 2, ..., [n_nodes, n_dims].

    The mean under the model, ``sum over w of p(w | context) vectors[w]``: where little was seen, it
    leans on the shorter context. `without` is the fold whose counts are left out.
    """
    total = orders[0].total(without)
    expected = _sum_of_vectors(orders[0], total / max(total.sum(), 1), vectors)
    for order in orders[1:]:
        count = order.total(without)
        n, weight = _seen(order, count)
        shorter = expected[order.parent]
        shorter *= weight[:, None].astype(np.float32)
        expected = _sum_of_vectors(order, _discounted(order, count, n), vectors)
        expected += shorter
        yield expected


def _discounted(order: Order, count: Doubles, n: Doubles) -> Doubles:
    """The part of each next token's probability that its own count gives, float64 [n_grams]."""
    share: Doubles = np.maximum(count - DISCOUNT, 0) / np.maximum(n, 1)[order.node]
    return share


def _sum_of_vectors(
    order: Order, share: Doubles, vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Sum of the vectors that follow each context, times their share, [n_nodes, n_dims].

    Term by term, so that what is left out as zero, or is not there at all, gives the same number.
    """
    from scipy import sparse

    starts = np.searchsorted(order.node, np.arange(order.n_nodes + 1))
    shape = (order.n_nodes, len(vectors))
    rows = sparse.csr_matrix((share.astype(np.float32), order.token, starts), shape=shape)
    total: npt.NDArray[np.float32] = rows @ vectors
    return total
