"""A value for every short context, as a table: shared by expected_token and expected_class."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.source import export_source
from labeler.functions.successors import Order, count_successors, tokens_with_successors
from labeler.tokens import N_FOLDS, Tokens

Longs = npt.NDArray[np.int64]
Values = npt.NDArray[np.int32]

_TRIED = 8
"""Contexts of each length that `write` tries."""


def deepest_node(ids: npt.NDArray[np.integer], pair: Longs, start: Longs) -> Longs:
    """The longest known context that ends at each position, int64 [n_ctx, ctx_len]; -1 = none.

    Parameters
    ----------
    ids : int [n_ctx, ctx_len]
    pair : int64 [n_nodes]
        Of each context ``number of the shorter context * n_vocab + first token``, those of one
        token first; ascending, and numbered from 0, within each length.
    start : int64 [max length + 2]
        Where each length begins in `pair`, then the end; n_vocab comes last.
    """
    n_vocab = int(start[-1])
    out = np.full(ids.size, -1, dtype=np.int64)
    row, place = (index.ravel() for index in np.indices(ids.shape))
    parent = np.zeros(ids.size, dtype=np.int64)
    at = np.arange(ids.size)
    for length in range(len(start) - 2):
        known = pair[start[length] : start[length + 1]]
        wanted = parent * n_vocab + ids[row, place - length]
        node = np.searchsorted(known, wanted)
        node[node == len(known)] = 0
        found = known[node] == wanted if len(known) else np.zeros(len(wanted), dtype=bool)
        at, row, place, parent = at[found], row[found], place[found], node[found]
        out[at] = start[length] + parent
        longer = place > length
        at, row, place, parent = at[longer], row[longer], place[longer], parent[longer]
    return out.reshape(ids.shape)


def expected_keys(ids: npt.NDArray[np.integer], step: Longs, start: Longs, value: Values) -> Keys:
    """Value of the longest known context that ends at each position, int64 [n_ctx, ctx_len].

    -1 = none. `step` is the table of `deepest_node` as differences, which take less space in text.
    """
    node = deepest_node(ids, np.cumsum(step), start)
    return np.where(node >= 0, value[node], -1).astype(np.int64)


class ExpectedNext(FunctionType):
    """A value of the longest context, of one to three tokens, that the fit split has shown.

    A context whose value is that of the shorter one is left out of the table.
    """

    def __init__(self) -> None:
        self._step: Longs = np.zeros(0, dtype=np.int64)
        self._start: Longs = np.zeros(2, dtype=np.int64)
        self._value: Values = np.zeros(0, dtype=np.int32)

    @abstractmethod
    def values(self, orders: list[Order], without: int | None) -> list[Values]:
        """Value of each context of length 1, 2, ..., int32 [n_nodes] each.

        From the counts of all folds, or without those of one; a context that was not seen there
        has the value of the shorter one.
        """

    def tabulate(self, orders: list[Order], n_vocab: int) -> None:
        """Make the table."""
        pair, value = _without_repeats(orders, self.values(orders, None), n_vocab)
        joined = np.concatenate(pair)
        self._step = joined - np.concatenate([[0], joined[:-1]])
        self._start = _starts(pair, n_vocab)
        self._value = np.concatenate(value)

    def state(self) -> State:
        """The table."""
        return {"step": self._step, "start": self._start, "value": self._value}

    def load_state(self, state: State) -> None:
        """Restore the table."""
        self._step = state["step"].astype(np.int64)
        self._start = state["start"].astype(np.int64)
        self._value = state["value"].astype(np.int32)

    def keys(self, tokens: Tokens) -> Keys:
        """Value of the longest known context; -1 where the token at t is not known."""
        return expected_keys(tokens.ids, self._step, self._start, self._value)

    def fit_keys(self, fit: Tokens) -> Keys:
        """Values from counts of the other folds only."""
        out = np.full(fit.ids.shape, NO_KEY, dtype=np.int64)
        if (fit.length < 2).all():
            return out
        orders = count_successors(fit)
        pair = [order.pair for order in orders[1:]]
        node = deepest_node(fit.ids, np.concatenate(pair), _starts(pair, fit.n_vocab))
        for fold in range(N_FOLDS):
            mine = fit.fold == fold
            if mine.any():
                value = np.concatenate(self.values(orders, fold))
                known = tokens_with_successors(orders, fit.n_vocab, fold)
                usable = (node[mine] >= 0) & known[fit.ids[mine]]
                out[mine] = np.where(usable, value[node[mine]], NO_KEY)
        return out

    def source(self) -> str | None:
        """Python for exported labels."""
        return export_source(self.name, expected_keys, ExpectedNext.state(self), (deepest_node,))

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Put a context with the key up to `pos`, the shortest that does it."""
        pair, start = np.cumsum(self._step), self._start
        for length in range(1, min(len(start) - 2, pos + 1) + 1):
            first, end = start[length - 1 : length + 1]
            for node in np.flatnonzero(self._value[first:end] == key)[:_TRIED]:
                edited = ids.copy()
                number = int(node)
                for back in range(length):
                    code = int(pair[start[length - 1 - back] + number])
                    number, token = divmod(code, int(start[-1]))
                    edited[pos - length + 1 + back] = token
                found = expected_keys(edited[None], self._step, start, self._value)
                if found[0, pos] == key:
                    return edited
        return None


def _starts(pair: Sequence[Longs], n_vocab: int) -> Longs:
    """Where each length begins in the table, its end, and n_vocab."""
    return np.array([*np.cumsum([0, *map(len, pair)]), n_vocab], dtype=np.int64)


def _without_repeats(
    orders: list[Order], value: list[Values], n_vocab: int
) -> tuple[list[Longs], list[Values]]:
    """Pairs and values without the contexts whose value is the shorter one's, from the longest."""
    keep = [np.ones(len(one), dtype=bool) for one in value]
    for length in range(len(value) - 1, 0, -1):
        parent = orders[length + 1].parent
        needed = np.zeros(len(value[length]), dtype=bool)
        if length + 1 < len(value):
            longer = orders[length + 2].parent[keep[length + 1]]
            needed[longer] = True
        keep[length] = needed | (value[length] != value[length - 1][parent])
    pairs: list[Longs] = []
    number = np.zeros(1, dtype=np.int64)
    for order, kept in zip(orders[1:], keep, strict=True):
        token = order.pair[kept] % n_vocab
        pairs.append(number[order.parent[kept]] * n_vocab + token)
        number = np.cumsum(kept) - 1
    return pairs, [one[kept] for one, kept in zip(value, keep, strict=True)]
