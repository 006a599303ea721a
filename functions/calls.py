"""Which labels of earlier layers fire here: how a late label calls early ones, as code does."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labeler.errors import FunctionTypeError, NotApplicableError
from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.registry import register
from labeler.tokens import Tokens

if TYPE_CHECKING:
    from scipy import sparse

PER_POSITION = 6
"""Calls kept at a position: those that exceed their threshold most."""

_POSITIONS_AT_ONCE = 1 << 13


@register
class Calls(FunctionType):
    """A label of an earlier layer fires here (run as a label, never read off the model).

    `labeler fit` makes it, layer by layer, from the labels fitted so far; the keys are computed
    from the nodes at which those labels look their values up (`keys_at`).
    """

    name = "calls"
    several_keys = True

    def __init__(self) -> None:
        self._levels: tuple[str, ...] = ()
        self._state: State = {}
        self._tables: dict[str, sparse.csr_matrix] = {}

    @property
    def reads(self) -> tuple[str, ...]:
        """Levels of the key tree that the called labels look up."""
        return self._levels

    def prepare(self, tokens: Tokens) -> None:
        """Abstain: there is nothing to call in text alone.

        Raises
        ------
        NotApplicableError
            Always.
        """
        raise NotApplicableError(
            "it calls the labels of earlier layers; `labeler fit` adds it from the second layer on"
        )

    def state(self) -> State:
        """The called labels: entries, defaults, thresholds, texts."""
        return self._state

    def load_state(self, state: State) -> None:
        """Take the called labels.

        Parameters
        ----------
        state : dict
            levels : str [n_levels], level_size : int64 [n_levels] - levels read, and their nodes;
            level, node, call : int32 [n], weight : float32 [n] - entries of the called labels;
            default, threshold : float32 [n_calls]; text : str [n_calls].
        """
        from scipy import sparse

        self._state = state
        self._levels = tuple(str(name) for name in state["levels"])
        n_calls = len(state["default"])
        for index, name in enumerate(self._levels):
            mine = state["level"] == index
            table = sparse.coo_matrix(
                (state["weight"][mine], (state["node"][mine], state["call"][mine])),
                shape=(int(state["level_size"][index]), n_calls),
            )
            self._tables[name] = table.tocsr()

    def keys(self, tokens: Tokens) -> Keys:
        """Refuse: the keys come from the nodes of other levels.

        Raises
        ------
        FunctionTypeError
            Always.
        """
        raise FunctionTypeError("calls has keys only within a key tree; see keys_at")

    def keys_at(self, nodes: Mapping[str, npt.NDArray[np.int32]]) -> Keys:
        """Called labels that fire, int64 [n_ctx, ctx_len, PER_POSITION], strongest first.

        Parameters
        ----------
        nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
            Of the levels in `reads`.
        """
        shape = next(iter(nodes.values())).shape[:2]
        n = shape[0] * shape[1]
        flat = {name: nodes[name].reshape(n, -1) for name in self._levels}
        default = self._state["default"].astype(np.float32)
        threshold = self._state["threshold"].astype(np.float32)
        out = np.full((n, PER_POSITION), NO_KEY, dtype=np.int64)
        for begin in range(0, n, _POSITIONS_AT_ONCE):
            part = slice(begin, begin + _POSITIONS_AT_ONCE)
            found = self._values({name: node[part] for name, node in flat.items()}, default)
            position, call = np.nonzero(found >= threshold)
            excess = found[position, call] / threshold[call]
            order = np.lexsort((-excess, position))
            position, call = position[order], call[order]
            rank = np.arange(len(position)) - np.searchsorted(position, position)
            keep = rank < PER_POSITION
            out[begin + position[keep], rank[keep]] = call[keep]
        return out.reshape(*shape, PER_POSITION)

    def _values(
        self, nodes: Mapping[str, npt.NDArray[np.int32]], default: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """What the called labels predict, float32 [n, n_calls]."""
        from scipy import sparse

        n = len(next(iter(nodes.values())))
        total = sparse.csr_matrix((n, len(default)), dtype=np.float32)
        for name, table in self._tables.items():
            for node in nodes[name].T:
                has = np.flatnonzero(node >= 0)
                pick = sparse.csr_matrix(
                    (np.ones(len(has), dtype=np.float32), (has, node[has])),
                    shape=(n, table.shape[0]),
                )
                total = total + pick @ table
        dense: npt.NDArray[np.float32] = total.toarray() + default
        return dense

    def render(self, key: int) -> str:
        """The called label and what it fires on."""
        return str(self._state["text"][key])
