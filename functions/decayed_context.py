"""The class of the tokens so far: shared by context_class and context_class_fast."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import FunctionType, Keys, State
from labeler.functions.embedding import quantised, token_vectors, unit
from labeler.functions.fill import filled
from labeler.functions.groups import centroids, telling_tokens
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.source import export_source
from labeler.functions.text import quote
from labeler.tokens import Tokens

Shorts = npt.NDArray[np.int16]

N_CLASSES = 64

_N_SAMPLED = 40_000
"""Positions whose sums are sorted into classes."""

_N_WRITTEN = 4
"""Different tokens that `write` puts in."""


def decayed_sums(ids: npt.NDArray[np.integer], vector: Shorts, keep: int) -> npt.NDArray[np.int32]:
    """Sum of the vectors up to each position, int32 [n_ctx, ctx_len, n_dims].

    At each token, what there is so far is multiplied by ``keep / 1024`` and rounded down. With keep
    up to 1002 no number exceeds ``32768 * 1024 / (1024 - keep)``, and its product fits 32 bits.
    """
    rows = vector[ids]
    out = np.empty(rows.shape, dtype=np.int32)
    total = np.zeros((len(ids), vector.shape[1]), dtype=np.int32)
    for t in range(ids.shape[1]):
        total = ((total * keep) >> 10) + rows[:, t]
        out[:, t] = total
    return out


def class_keys(ids: npt.NDArray[np.integer], vector: Shorts, centroid: Shorts, keep: int) -> Keys:
    """Class whose direction is closest to that of the sum so far, int64 [n_ctx, ctx_len].

    -1 where none is closer than at right angles: before the first token that has a vector.

    Parameters
    ----------
    ids : int [n_ctx, ctx_len]
    vector : int16 [n_vocab, n_dims]
    centroid : int16 [n_classes, n_dims]
        Directions, all of one length.
    keep : int
        As for `decayed_sums`.
    """
    out = np.empty(ids.shape, dtype=np.int64)
    # Products of numbers below 2**31 and 2**15, 64 of them added: float64 holds these sums exactly,
    # in whatever order a machine adds them.
    directions = centroid.T.astype(np.float64)
    at_once = max(1, 4096 // ids.shape[1])  # contexts whose sums fit a core's cache
    for start in range(0, len(ids), at_once):
        some = slice(start, start + at_once)
        score = decayed_sums(ids[some], vector, keep).astype(np.float64) @ directions
        out[some] = np.where(score.max(axis=2) > 0, score.argmax(axis=2), -1)
    return out


class DecayedContext(FunctionType):
    """The class of the sum of all tokens' vectors so far, older ones worth less.

    A vector (`labeler.functions.embedding`) is weighted by the token's idf, the logarithm of how
    many contexts there are for each that has it, and loses half its weight every `half_life`
    tokens. Classes come from k-means over the directions of the sums. All of it is unsupervised,
    and one document moves it very little: the keys of the fit split leave no fold out.
    """

    half_life: ClassVar[int]
    where: ClassVar[str]
    """What is read before a class's tokens."""

    def __init__(self) -> None:
        self._vector: Shorts = np.zeros((0, 0), dtype=np.int16)
        self._centroid: Shorts = np.zeros((0, 0), dtype=np.int16)
        self._names: tuple[str, ...] = ()

    @property
    def _keep(self) -> int:
        """Numerator of the decay."""
        return round(1024 * 2 ** (-1.0 / self.half_life))

    def prepare(self, tokens: Tokens) -> None:
        """Learn vectors and classes, and what to call the classes."""
        idf = _idf(tokens)
        self._vector = quantised(token_vectors(tokens) * idf[:, None])
        directions = self._sample(tokens)
        found = centroids(directions, N_CLASSES) if len(directions) else directions
        if len(found) < 2:
            raise NotApplicableError("the contexts of the fit split do not differ in their tokens")
        self._centroid = quantised(unit(found))
        fits = self._centroid.astype(np.int64) @ self._vector.T
        keys = self.keys(tokens)[tokens.valid]
        named = telling_tokens(keys, tokens.ids[tokens.valid], idf, fits)
        self._names = tuple(", ".join(quote(tokens.vocab[token]) for token in one) for one in named)

    def _sample(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Directions of the sums at positions spread over the text, float32 [n, n_dims]."""
        # Neighbouring sums are much alike: a quarter of the positions of four times the contexts.
        n_ctx = min(tokens.n_ctx, 4 * _N_SAMPLED // tokens.ctx_len + 1)
        some = np.linspace(0, tokens.n_ctx - 1, n_ctx).astype(np.int64)
        sums = decayed_sums(tokens.ids[some], self._vector, self._keep)[tokens.valid[some]]
        step = max(1, len(sums) // _N_SAMPLED)
        directions = unit(sums[::step].astype(np.float32))
        return directions[directions.any(axis=1)]

    def state(self) -> State:
        """Vectors, classes and their names."""
        return {
            "vector": self._vector,
            "centroid": self._centroid,
            **pack_texts("names", self._names),
        }

    def load_state(self, state: State) -> None:
        """Restore vectors, classes and names."""
        self._vector = state["vector"].astype(np.int16)
        self._centroid = state["centroid"].astype(np.int16)
        self._names = unpack_texts("names", state)

    def keys(self, tokens: Tokens) -> Keys:
        """Class at each position, or -1."""
        return class_keys(tokens.ids, self._vector, self._centroid, self._keep)

    def render(self, key: int) -> str:
        """The tokens that tell the class from the others."""
        return f"{self.where} {self._names[key]}"

    def source(self) -> str | None:
        """Python for exported labels."""
        return export_source(
            self.name,
            class_keys,
            {"vector": self._vector, "centroid": self._centroid, "keep": self._keep},
            (decayed_sums,),
        )

    def write(self, ids: npt.NDArray[np.int32], pos: int, key: int) -> npt.NDArray[np.int32] | None:
        """Put tokens that lie in the class's direction up to `pos`, as few as do it."""
        score = self._vector.astype(np.int64) @ self._centroid[key]
        best = np.argsort(-score, kind="stable")[:_N_WRITTEN]
        for edited in filled(ids, pos, best):
            if class_keys(edited[None], self._vector, self._centroid, self._keep)[0, pos] == key:
                return edited
        return None


def _idf(tokens: Tokens) -> npt.NDArray[np.float64]:
    """Logarithm of the number of contexts for each that has the token, [n_vocab], at least 0.

    Of contexts and not of documents, which may be few and long.
    """
    context = np.broadcast_to(np.arange(tokens.n_ctx)[:, None], tokens.ids.shape)
    cells = np.unique(context[tokens.valid] * tokens.n_vocab + tokens.ids[tokens.valid])
    n_with = np.bincount(cells % tokens.n_vocab, minlength=tokens.n_vocab)
    idf: npt.NDArray[np.float64] = np.log(tokens.n_ctx / np.maximum(n_with, 1))
    return idf
