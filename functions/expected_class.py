"""The class of what a back-off n-gram model expects next."""

import numpy as np
import numpy.typing as npt

from labeler.errors import NotApplicableError
from labeler.functions.contract import Keys, State
from labeler.functions.embedding import token_vectors
from labeler.functions.expected_next import ExpectedNext
from labeler.functions.groups import centroids, nearest, telling_tokens
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.successors import Order, count_successors, expected_vectors
from labeler.functions.text import quote
from labeler.tokens import Tokens

N_CLASSES = 128

_N_DIMS = 32
_N_SAMPLED = 40_000
_SAMPLED_LENGTH = 2  # longer contexts were mostly seen once, and stand for their one successor
_SCALE = 1 << 14
_SEED = 0


@register
class ExpectedClass(ExpectedNext):
    """The class of the vector expected of the next token, by a 4-gram model of the corpus.

    The vectors are those of `labeler.functions.embedding`, the classes 128 groups of expected
    vectors by k-means. It tells "a noun comes" from "a verb comes" where no single token is likely.
    No key after a token that nothing followed in the fit split.
    """

    name = "expected_class"

    def __init__(self) -> None:
        super().__init__()
        self._vectors: npt.NDArray[np.float32] = np.zeros((0, _N_DIMS), dtype=np.float32)
        self._centroids: npt.NDArray[np.float64] = np.zeros((0, _N_DIMS))
        self._names: tuple[str, ...] = ()

    def values(self, orders: list[Order], without: int | None) -> list[npt.NDArray[np.int32]]:
        """Class of each context.

        Whole numbers up to 2**14 are multiplied and added, which float64 does exactly: the class of
        a context does not depend on which others there are.
        """
        return [
            nearest(np.round(expected * _SCALE), self._centroids).astype(np.int32)
            for expected in expected_vectors(orders, self._vectors, without)
        ]

    def prepare(self, tokens: Tokens) -> None:
        """Count what follows what, and find the classes."""
        self._vectors = token_vectors(tokens)[:, :_N_DIMS].astype(np.float32)
        orders = count_successors(tokens)
        sample = _sample(orders, self._vectors)
        found = centroids(sample, N_CLASSES)
        if len(found) < 2:
            raise NotApplicableError("what is expected next is the same everywhere")
        self._centroids = np.round(found.astype(np.float64) * _SCALE)
        self.tabulate(orders, tokens.n_vocab)
        follows = tokens.valid[:, 1:]
        keys = self.keys(tokens)[:, :-1][follows]
        named = telling_tokens(
            keys, tokens.ids[:, 1:][follows], np.ones(tokens.n_vocab), found @ self._vectors.T
        )
        self._names = tuple(", ".join(quote(tokens.vocab[token]) for token in one) for one in named)

    def state(self) -> State:
        """The table and the names."""
        return {**super().state(), **pack_texts("names", self._names)}

    def load_state(self, state: State) -> None:
        """Restore the table and the names."""
        super().load_state(state)
        self._names = unpack_texts("names", state)

    def fit_keys(self, fit: Tokens) -> Keys:
        """Classes from counts of the other folds only, by the vectors and classes of all.

        Those are not in the state: an instance restored from it gives the same as `keys`.
        """
        return super().fit_keys(fit) if len(self._vectors) else self.keys(fit)

    def render(self, key: int) -> str:
        """The tokens that tell what follows the class from what follows others."""
        return f"where a token like {self._names[key]} is expected next"


def _sample(orders: list[Order], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Expected vectors of contexts of one and two tokens, as common as they are, [n, n_dims]."""
    expected = expected_vectors(orders[: _SAMPLED_LENGTH + 1], vectors)
    count = [np.bincount(order.node, order.total()) for order in orders[1 : _SAMPLED_LENGTH + 1]]
    weight = np.concatenate(count)
    drawn = np.random.default_rng(_SEED).choice(
        len(weight), min(_N_SAMPLED, int(weight.sum())), p=weight / weight.sum()
    )
    rows: npt.NDArray[np.float32] = np.concatenate(list(expected))[drawn]
    return rows
