"""Which of eight common tokens are absent from the last 8."""

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.skip_gram import WINDOW, distinct_before
from labeler.functions.source import export_source
from labeler.functions.text import quote
from labeler.tokens import Tokens

N_LISTED = 8
"""How many tokens are looked for."""

_CONTEXTS_AT_ONCE = 1024


def absent_keys(ids: npt.NDArray[np.int32], listed: npt.NDArray[np.int64], window: int) -> Keys:
    """Bit mask of the listed tokens absent from t-window, ..., t-1, int64 [n_ctx, ctx_len].

    Bit k stands for ``listed[k]``. Near the start of a context the window is what there is of it.
    """
    out = np.zeros(ids.shape, dtype=np.int64)
    place = np.arange(ids.shape[1])
    for bit, token in enumerate(listed.tolist()):
        last = np.full(ids.shape, -1 - window)
        seen = np.where(ids == token, place, -1 - window)
        last[:, 1:] = np.maximum.accumulate(seen, axis=1)[:, :-1]
        out |= (last < place - window).astype(np.int64) << bit
    return out


@register
class Absent(FunctionType):
    """Which of 8 common tokens are not among the 8 before this one; see unigram+absent.

    The 8 are those whose presence in the window is the least predictable: with p the share of
    positions that have the token among t-8, ..., t-1, those with the highest p (1 - p) in the fit
    split. The key is the whole pattern, so the tokens that are not absent are present.
    """

    name = "absent"

    def __init__(self) -> None:
        self._listed: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._texts: tuple[str, ...] = ()
        self._other = -1

    def prepare(self, tokens: Tokens) -> None:
        """Choose the tokens to look for."""
        count = np.zeros(tokens.n_vocab, dtype=np.int64)
        for start in range(0, tokens.n_ctx, _CONTEXTS_AT_ONCE):
            some = slice(start, start + _CONTEXTS_AT_ONCE)
            before = distinct_before(tokens.ids[some], WINDOW)[tokens.valid[some]]
            count += np.bincount(before[before >= 0], minlength=tokens.n_vocab)
        share = count / tokens.n_positions
        order = np.argsort(-share * (1 - share), kind="stable")
        self._listed = order[share[order] > 0][:N_LISTED].astype(np.int64)
        self._texts = tuple(tokens.vocab[token] for token in self._listed)
        # What `write` puts in the place of a token that shall be absent.
        others = np.argsort(-count, kind="stable")
        others = others[~np.isin(others, self._listed)]
        self._other = int(others[0]) if len(others) else -1

    def state(self) -> State:
        """The tokens looked for, and a token that is none of them."""
        return {
            "listed": self._listed,
            "other": np.array(self._other),
            **pack_texts("listed", self._texts),
        }

    def load_state(self, state: State) -> None:
        """Restore the tokens looked for."""
        self._listed = state["listed"].astype(np.int64)
        self._other = int(state["other"])
        self._texts = unpack_texts("listed", state)

    def keys(self, tokens: Tokens) -> Keys:
        """Bit mask of the absent tokens at each position."""
        return absent_keys(tokens.ids, self._listed, WINDOW)

    def render(self, key: int) -> str:
        """The absent tokens, then the others."""
        absent = [quote(text) for bit, text in enumerate(self._texts) if key >> bit & 1]
        present = [quote(text) for bit, text in enumerate(self._texts) if not key >> bit & 1]
        where = f"in the last {WINDOW} tokens"
        if not absent:
            return f"each of {', '.join(present)} {where}"
        if not present:
            return f"no {', '.join(absent)} {where}"
        return f"no {', '.join(absent)} but {', '.join(present)} {where}"

    def source(self) -> str | None:
        """Python for exported labels."""
        state: dict[str, npt.NDArray[np.int64] | int] = {"listed": self._listed, "window": WINDOW}
        return export_source(self.name, absent_keys, state)

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Take out the tokens that shall be absent, put in those that lack."""
        listed = self._listed.tolist()
        wanted = {token for bit, token in enumerate(listed) if not key >> bit & 1}
        edited = ids.copy()
        start = max(pos - WINDOW, 0)
        free, met = [], set()
        for place in range(pos - 1, start - 1, -1):
            token = int(ids[place])
            if token in wanted and token not in met:
                met.add(token)
                continue
            free.append(place)
            if token in listed and token not in wanted:
                edited[place] = self._other
        lacking = sorted(wanted - met)
        if len(lacking) > len(free):
            return None
        edited[free[: len(lacking)]] = lacking
        return edited if (edited[start:pos] >= 0).all() else None
