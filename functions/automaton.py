"""Finite automata that read the characters of tokens, one transition table per vocabulary."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import State


def make_automaton(
    vocab: Sequence[str],
    signature: Callable[[str], str],
    step: Callable[[str, int], int],
    n_states: int,
) -> State:
    """Where each token leads from each state.

    Parameters
    ----------
    vocab : sequence of str
        Texts of the tokens.
    signature : callable
        What of a token's text matters, short: tokens of one signature are read once.
    step : callable
        ``step(signature, state)``, the state after a token.
    n_states : int
        Number of states, at most 256.

    Returns
    -------
    dict of str to array
        ``row``, uint16 or uint32 [n_vocab], the line of each token in ``table``, uint8 [n_rows,
        n_states], the state after it.
    """
    index: dict[str, int] = {}
    line = np.array([index.setdefault(signature(text), len(index)) for text in vocab])
    reached = np.array(
        [[step(read, state) for state in range(n_states)] for read in index], dtype=np.uint8
    )
    table, row = np.unique(reached, axis=0, return_inverse=True)
    small = np.uint16 if len(table) <= 2**16 else np.uint32
    return {"row": row.reshape(-1)[line].astype(small), "table": table}


def run_automaton(
    ids: npt.NDArray[np.integer],
    row: npt.NDArray[np.integer],
    table: npt.NDArray[np.uint8],
    start: int,
) -> npt.NDArray[np.uint8]:
    """State after each position, uint8 [n_ctx, ctx_len]."""
    rows = row[ids]
    out = np.empty(ids.shape, dtype=np.uint8)
    state = np.full(len(ids), start, dtype=np.uint8)
    for t in range(ids.shape[1]):
        state = table[rows[:, t], state]
        out[:, t] = state
    return out
