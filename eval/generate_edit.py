"""Texts without a language model: held-out contexts with something else put into them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from labeler.arrays import Longs
from labeler.eval.generate import Reply, Request
from labeler.eval.generate_codec import Codec
from labeler.store import hash_json
from labeler.tokens import Tokens

_VERSION = 1
"""Of the way texts are edited: replies of another version are not used."""


class EditGenerator:
    """Writes a key, or a span of another document, into the middle of held-out contexts.

    What stands before it counts as given: it is text of the corpus.

    Parameters
    ----------
    heldout : Tokens
        Contexts that are edited.
    codec : Codec
    """

    def __init__(self, heldout: Tokens, codec: Codec) -> None:
        self.heldout, self.codec = heldout, codec

    @property
    def name(self) -> str:
        """``edit``."""
        return "edit"

    @property
    def fingerprint(self) -> str:
        """Hash of the held-out text and of the way it is edited."""
        return hash_json([self.name, _VERSION, self.heldout.fingerprint])

    def generate(
        self,
        requests: Sequence[Request],
        advance: Callable[[float], None] = lambda n: None,
    ) -> Iterator[tuple[Request, Reply]]:
        """Yield an edited text for every request."""
        for request in requests:
            reply = self._edit(request)
            advance(1)
            yield request, reply

    def _edit(self, request: Request) -> Reply:
        rng = np.random.default_rng(int(request.digest, 16))
        n_key = len(self.codec.encode(request.key)) if request.kind == "contain" else 0
        # Half of what is wanted stands before, as much as fits after.
        n_before = request.max_tokens // 2
        n_after = max(request.max_tokens - n_before - n_key, 0)
        context = int(rng.choice(self._contexts(n_before + 1)))
        around = self._span(context, n_before + n_after, rng)
        before, after = (self.codec.decode(part) for part in np.split(around, [n_before]))
        if request.kind == "contain":
            return Reply(before + request.key + after, n_before=len(before))
        others = self._contexts(2)
        foreign = others[self.heldout.doc[others] != self.heldout.doc[context]]
        if not len(foreign):
            return Reply(None, "no other document")
        span = self._span(int(rng.choice(foreign)), max(n_after, 1), rng)
        return Reply(before + self.codec.decode(span), n_before=len(before))

    def _contexts(self, least: int) -> Longs:
        """Contexts of at least so many tokens, or else the longest."""
        length = self.heldout.length
        return np.flatnonzero(length >= min(least, int(length.max())))

    def _span(self, context: int, n: int, rng: np.random.Generator) -> Longs:
        """Up to n tokens of a context, not the first, which may be a mark."""
        length = int(self.heldout.length[context])
        first = int(rng.integers(1, max(length - n, 1) + 1))
        return self.heldout.ids[context, first : min(first + n, length)].astype(np.int64)
