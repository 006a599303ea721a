"""Keys of the last n tokens, shared by unigram, bigram, trigram and 4-gram."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.functions.contract import NO_KEY, FunctionType, Keys, State
from labeler.functions.text import quote
from labeler.tokens import Tokens

_MAX_KEY = 2**63 - 1


class NGram(FunctionType):
    """The tokens at t, t-1, ..., t-n+1.

    The key is the number with these tokens as digits, the token at t the most significant, to the
    base of the vocabulary's size. Where that does not fit 63 bits (4-grams over more than 55,108
    tokens), only the most frequent tokens of the fit split get a digit, and a rarer token means no
    key: the shorter n-gram stands in.
    """

    order: ClassVar[int]

    def __init__(self) -> None:
        self._tokens: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # digit -> token id
        self._vocab: tuple[str, ...] = ()
        self._n_vocab = 0

    def prepare(self, tokens: Tokens) -> None:
        """Give each token a digit, by its id, or by frequency if not all of them fit."""
        self._n_vocab = tokens.n_vocab
        self._vocab = tokens.vocab
        room = int(_MAX_KEY ** (1 / self.order))
        if tokens.n_vocab <= room:
            self._tokens = np.arange(tokens.n_vocab, dtype=np.int64)
        else:
            counts = np.bincount(tokens.ids[tokens.valid], minlength=tokens.n_vocab)
            seen = np.flatnonzero(counts)
            frequent = seen[np.argsort(-counts[seen], kind="stable")][:room]
            self._tokens = np.sort(frequent).astype(np.int64)

    def state(self) -> State:
        """Digits and the vocabulary's size; the texts come with the tokens."""
        return {
            "tokens": self._tokens,
            "n_vocab": np.array(self._n_vocab),
            "vocab": np.array(self._vocab, dtype=np.str_),
        }

    def load_state(self, state: State) -> None:
        """Restore the digits."""
        self._tokens = state["tokens"].astype(np.int64)
        self._n_vocab = int(state["n_vocab"])
        self._vocab = tuple(str(text) for text in state["vocab"])

    def keys(self, tokens: Tokens) -> Keys:
        """Key of the n-gram ending at each position; -1 in the first n-1 positions."""
        digits = self._digits(tokens.ids)
        base = len(self._tokens)
        out = np.zeros(digits.shape, dtype=np.int64)
        bad = np.zeros(digits.shape, dtype=bool)
        for back in range(self.order):
            shifted = np.full_like(digits, NO_KEY)
            shifted[:, back:] = digits[:, : max(digits.shape[1] - back, 0)]
            bad |= shifted < 0
            out = out * base + shifted
        out[bad] = NO_KEY
        return out

    def _digits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        if len(self._tokens) == self._n_vocab:
            return ids.astype(np.int64)
        table = np.full(self._n_vocab, NO_KEY, dtype=np.int64)
        table[self._tokens] = np.arange(len(self._tokens))
        return table[ids]

    def ngram(self, key: int) -> list[int]:
        """Token ids of a key in reading order, the token at t last."""
        base = len(self._tokens)
        ids = []
        for _ in range(self.order):
            key, digit = divmod(key, base)
            ids.append(int(self._tokens[digit]))
        return ids

    def render(self, key: int) -> str:
        """The text of the n-gram in backquotes."""
        return quote("".join(self._vocab[token] for token in self.ngram(key)))

    def source(self) -> str | None:
        """Python for exported labels; digits are written out only where they are not the ids."""
        base = len(self._tokens)
        if base == self._n_vocab:
            digits = "    digits = ids.astype(np.int64)\n"
        else:
            digits = (
                f"    tokens = np.array({self._tokens.tolist()})\n"
                f"    table = np.full({self._n_vocab}, -1, dtype=np.int64)\n"
                "    table[tokens] = np.arange(len(tokens))\n"
                "    digits = table[ids]\n"
            )
        return (
            f"def keys_{self.name}(ids):\n"
            f'    """Number of the last {self.order} token(s), the newest first; -1 = none."""\n'
            f"{digits}"
            "    out = np.zeros(digits.shape, dtype=np.int64)\n"
            "    bad = np.zeros(digits.shape, dtype=bool)\n"
            f"    for back in range({self.order}):\n"
            "        shifted = np.full_like(digits, -1)\n"
            "        shifted[:, back:] = digits[:, : max(digits.shape[1] - back, 0)]\n"
            "        bad |= shifted < 0\n"
            f"        out = out * {base} + shifted\n"
            "    out[bad] = -1\n"
            "    return out\n"
        )

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Replace the n tokens up to `pos`; None where the context is too short."""
        if pos < self.order - 1:
            return None
        edited = ids.copy()
        edited[pos - self.order + 1 : pos + 1] = self.ngram(key)
        return edited
