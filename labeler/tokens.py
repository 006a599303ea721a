"""The tokens of a corpus: windows of one document each, with their fold.

Every later step indexes positions by this object. A *position* is a (context, offset) pair;
its flat index is ``context * ctx_len + offset``. Contexts never mix documents; the last
context of a document may be shorter and is padded on the right (causal models never see the
padding, and no statistic counts it).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

HELDOUT = -1
"""The fold number of held-out documents."""

N_FOLDS = 5
"""Folds of the fit split, for out-of-fold scores."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token windows of a corpus.

    Attributes
    ----------
    ids : int32 [n_ctx, ctx_len]
        Token ids; 0 where padded.
    length : int32 [n_ctx]
        Number of real tokens in each context, 1 to ctx_len.
    doc : int32 [n_ctx]
        Document index of each context, ascending; rows of `doc_ids`.
    fold : int8 [n_ctx]
        0 to N_FOLDS - 1 on the fit split, HELDOUT (-1) on the held-out split. Constant within a
        document.
    doc_ids : tuple of str
        Name of each document.
    topics : tuple of tuple of str
        Per document, its topic at each level; empty tuples where the corpus has no topics.
    topic_levels : tuple of str
        Names of the levels ("subject", "book").
    vocab : tuple of str
        Text of each token id (`vocab[id]`), for rendering; length n_vocab.
    """

    ids: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    doc: npt.NDArray[np.int32]
    fold: npt.NDArray[np.int8]
    doc_ids: tuple[str, ...]
    topics: tuple[tuple[str, ...], ...]
    topic_levels: tuple[str, ...]
    vocab: tuple[str, ...]

    @property
    def n_ctx(self) -> int:
        """Number of contexts."""
        return int(self.ids.shape[0])

    @property
    def ctx_len(self) -> int:
        """Positions per context, padding included."""
        return int(self.ids.shape[1])

    @property
    def n_vocab(self) -> int:
        """Size of the vocabulary."""
        return len(self.vocab)

    @cached_property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which positions hold a real token, bool [n_ctx, ctx_len]."""
        return np.arange(self.ctx_len)[None, :] < self.length[:, None]

    @property
    def n_positions(self) -> int:
        """Number of real tokens."""
        return int(self.length.sum())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything in it, in hex."""
        digest = hashlib.sha256()
        for array in (self.ids, self.length, self.doc, self.fold):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        names = [self.doc_ids, self.topics, self.topic_levels, self.vocab]
        digest.update(json.dumps(names).encode())
        return digest.hexdigest()

    def select(self, contexts: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Tokens":
        """Keep some contexts (a mask or indices); documents keep their numbers."""
        return Tokens(
            ids=self.ids[contexts],
            length=self.length[contexts],
            doc=self.doc[contexts],
            fold=self.fold[contexts],
            doc_ids=self.doc_ids,
            topics=self.topics,
            topic_levels=self.topic_levels,
            vocab=self.vocab,
        )

    def with_ids(self, ids: npt.NDArray[np.integer], length: npt.NDArray[np.integer]) -> "Tokens":
        """Other contexts over the same vocabulary, int [n, t] and [n]: unseen text.

        Each is a document of its own, held out and without topics.
        """
        return Tokens(
            ids=np.ascontiguousarray(ids, dtype=np.int32),
            length=np.asarray(length, dtype=np.int32),
            doc=np.arange(len(ids), dtype=np.int32),
            fold=np.full(len(ids), HELDOUT, dtype=np.int8),
            doc_ids=tuple(f"text {number}" for number in range(len(ids))),
            topics=((),) * len(ids),
            topic_levels=(),
            vocab=self.vocab,
        )

    @property
    def fit(self) -> "Tokens":
        """The fit split."""
        return self.select(self.fold != HELDOUT)

    @property
    def heldout(self) -> "Tokens":
        """The held-out split."""
        return self.select(self.fold == HELDOUT)
