"""What followed the last time that the same tokens came."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from labeler.functions.computed import Computed, Ids
from labeler.functions.contract import Keys, State
from labeler.functions.occurrences import last_before
from labeler.functions.packed_texts import pack_texts, unpack_texts
from labeler.functions.registry import register
from labeler.functions.text import quote


def induction_keys(ids: npt.NDArray[np.integer], n_vocab: npt.NDArray[np.int64]) -> Keys:
    """``2 * token + 0`` after the same two tokens, ``+ 1`` after the same one, -1 = new token."""
    tokens = ids.astype(np.int64)
    pair = np.full(ids.shape, -1, dtype=np.int64)
    pair[:, 1:] = tokens[:, :-1] * int(n_vocab) + tokens[:, 1:]
    after_pair, after_token = last_before(pair) + 1, last_before(ids) + 1
    after = np.where(after_pair > 0, after_pair, after_token)
    followed = np.take_along_axis(tokens, after, axis=1)
    return np.where(after > 0, 2 * followed + (after_pair == 0), -1)


@register
class Induction(Computed):
    """The token that followed the last occurrence of the last two tokens in this context.

    Where the two did not occur before, the one that followed the last occurrence of the token at t
    (the key says which); no key at a token new to the context.
    """

    name = "induction"
    compute = staticmethod(induction_keys)
    helpers = (last_before,)

    def __init__(self) -> None:
        super().__init__()
        self._vocab: tuple[str, ...] = ()

    def tables(self, vocab: Sequence[str]) -> State:
        """The vocabulary's size, int64 []."""
        return {"n_vocab": np.array(len(vocab))}

    def extras(self, vocab: Sequence[str]) -> State:
        """The texts, for rendering."""
        self._vocab = tuple(vocab)
        return pack_texts("vocab", vocab)

    def load_state(self, state: State) -> None:
        """Restore the vocabulary."""
        super().load_state(state)
        self._vocab = unpack_texts("vocab", self._extras)

    def render(self, key: int) -> str:
        """The token that followed."""
        token, single = divmod(key, 2)
        same = "same token" if single else "same two tokens"
        return f"where {quote(self._vocab[token])} followed the last time ({same})"

    def drafts(self, ids: Ids, pos: int, key: int) -> Iterator[Ids]:
        """Put the last token or two, and what shall have followed them, right before them."""
        token, single = divmod(key, 2)
        if single and pos >= 2:
            for here in (int(ids[pos]), *np.setdiff1d(np.arange(len(self._vocab)), ids[:pos])[:1]):
                ids[[pos - 2, pos - 1, pos]] = here, token, here
                yield ids
        if not single and pos >= 4:
            ids[pos - 4 : pos - 2] = ids[pos - 1 : pos + 1]
            ids[pos - 2] = token
            yield ids
