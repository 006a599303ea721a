"""Documents in the tokens of a delphi cache, which stores none: chunks of packed text.

delphi packs texts with a separator before each and cuts the stream into contexts. So a document
begins at a separator, and a context that begins without one goes on with the document before it.
Where every context begins with one (tokenizers that put BOS there), or none has any inside (delphi
takes BOS out unless told not to), contexts do not say what they go on with, and each is taken for a
document of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools
from labeler.corpus import HELDOUT_PERCENT, hashed_split, stable_hash
from labeler.errors import CacheError
from labeler.tokens import HELDOUT, N_FOLDS, Tokens

_CUT = (
    "a document that was cut into several contexts can lie in both splits, so held-out scores may "
    "be too good"
)

_Ids = npt.NDArray[np.int32]
_Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each stretch of the cache's text lies in our tokens.

    Attributes
    ----------
    begin : int64 [n_rows]
        First flat position of each stretch, ``sequence * ctx + position``; ascending.
    row : int64 [n_rows]
        Its row in the tokens.
    length : int64 [n_rows]
        Its length.
    ctx_len : int
        Positions per row of the tokens.
    """

    begin: _Index
    row: _Index
    length: _Index
    ctx_len: int

    def place(self, flat: _Index) -> _Index:
        """Flat positions in the tokens; -1 where the cache has padding."""
        stretch = np.searchsorted(self.begin, flat, side="right") - 1
        offset = flat - self.begin[stretch]
        inside = offset < self.length[stretch]
        found: _Index = np.where(inside, self.row[stretch] * self.ctx_len + offset, -1)
        return found


def same_rows(tokens: Tokens) -> Layout:
    """The layout of tokens that lie in the cache row by row."""
    row = np.arange(tokens.n_ctx, dtype=np.int64)
    return Layout(row * tokens.ctx_len, row, tokens.length.astype(np.int64), tokens.ctx_len)


def split_documents(
    ids: _Ids, separators: Collection[int], vocab: Sequence[str]
) -> tuple[Tokens, Layout, list[str]]:
    """Cut contexts into documents, and these into the two splits by a hash of their number.

    Parameters
    ----------
    ids : int32 [n_seq, ctx]
        Tokens as the cache has them.
    separators : collection of int
        BOS and EOS of the tokenizer.
    vocab : sequence of str
        Text of each token id.

    Returns
    -------
    Tokens
        Fit documents first, each split in the order of the cache. Row by row a stretch of one
        document, padded to the longest.
    Layout
        Where they lie in the cache.
    list of str
        What a reader must be told.

    Raises
    ------
    CacheError
        If a split gets no document.
    """
    begins, document, notes = _stretches(ids, separators)
    names = [f"document {number}" for number in range(int(document[-1]) + 1)]
    fold = _folds(names)
    if not _both(fold):
        # A few separators in long packed text: better many contexts than no held-out text.
        document = begins // ids.shape[1]
        names = [f"context {number}" for number in range(len(ids))]
        fold = _folds(names)
        notes = [f"too few documents for a held-out split, so each context counts as one; {_CUT}"]
    if not _both(fold):
        raise CacheError(
            f"the cache has {len(ids)} contexts, too few to hold out {HELDOUT_PERCENT}% of them; "
            "cache more tokens"
        )
    # Fit documents before held-out ones, otherwise in the order of the cache.
    order = np.argsort(fold == HELDOUT, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    length = np.diff(np.append(begins, ids.size))
    sorted_rows = np.argsort(rank[document], kind="stable")
    row = np.empty_like(sorted_rows)
    row[sorted_rows] = np.arange(len(sorted_rows))
    ctx_len = int(length.max())
    out = np.zeros((len(begins), ctx_len), dtype=np.int32)
    flat = ids.reshape(-1)
    for begin, size, at in zip(begins.tolist(), length.tolist(), row.tolist(), strict=True):
        out[at, :size] = flat[begin : begin + size]
    tokens = Tokens(
        ids=out,
        length=length[sorted_rows].astype(np.int32),
        doc=rank[document][sorted_rows].astype(np.int32),
        fold=fold[document][sorted_rows],
        doc_ids=tuple(names[number] for number in order),
        topics=((),) * len(order),
        topic_levels=(),
        vocab=tuple(vocab),
    )
    return tokens, Layout(begins, row, length, ctx_len), notes


def _stretches(ids: _Ids, separators: Collection[int]) -> tuple[_Index, _Index, list[str]]:
    """First flat position of each stretch, its document, and notes."""
    n_seq, ctx = ids.shape
    is_separator: Bools = np.isin(ids, list(separators))
    starts = is_separator.copy()
    # Several in a row (EOS, then BOS) begin one document.
    starts[:, 1:] &= ~is_separator[:, :-1]
    inside = bool(starts[:, 1:].any())
    at_start = starts[:, 0].copy()
    starts[:, 0] = True
    begins = np.flatnonzero(starts.ravel()).astype(np.int64)
    continues = ~at_start if 0 < at_start.sum() < n_seq or (inside and not at_start.any()) else None
    if continues is None:
        how = "begin with BOS or EOS, so" if at_start.all() else "hold no BOS or EOS, so"
        notes = [f"all contexts {how} each is taken to begin a document; {_CUT}"]
        return begins, np.arange(len(begins), dtype=np.int64), notes
    new = np.ones(len(begins), dtype=np.int64)
    first = begins % ctx == 0
    new[first] = ~continues[begins[first] // ctx]
    new[0] = 1
    document = np.cumsum(new) - 1
    notes = ["documents begin at BOS or EOS and go on in the next context that begins with neither"]
    if inside:
        notes.append(
            "contexts with several documents were cut there; the model saw the earlier ones when "
            "the cache was made, and will not when it is run again"
        )
    return begins, document, notes


def _folds(names: Sequence[str]) -> npt.NDArray[np.int8]:
    """Fold of each document, by a hash of its name."""
    folds = [
        HELDOUT if hashed_split(name) == "heldout" else stable_hash(f"fold:{name}") % N_FOLDS
        for name in names
    ]
    return np.array(folds, dtype=np.int8)


def _both(fold: npt.NDArray[np.int8]) -> bool:
    """Whether both splits have a document."""
    return bool((fold == HELDOUT).any() and (fold != HELDOUT).any())
