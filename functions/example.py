"""A small made-up corpus to try function types on."""

import numpy as np

from labeler.tokens import HELDOUT, N_FOLDS, Tokens

_AWKWARD = (" the", " def", "\n", "\r\n", "`", "``", "\t", "\u00e9", "\u2028", '"', "\\", "#")


def example_tokens() -> Tokens:
    """40 documents of made-up text, 4 subjects of 2 books, awkward token texts."""
    rng = np.random.default_rng(0)
    vocab = (*_AWKWARD, *(f" word{number}" for number in range(36)))
    n_docs, n_books, ctx_len = 40, 8, 24
    taste = rng.gamma(0.5, size=(n_books, len(vocab)))
    book = np.arange(n_docs) % n_books
    doc = np.repeat(np.arange(n_docs), 2).astype(np.int32)
    length = np.where(np.arange(len(doc)) % 2, rng.integers(1, ctx_len + 1, len(doc)), ctx_len)
    ids = np.stack(
        [rng.choice(len(vocab), ctx_len, p=row / row.sum()) for row in taste[book[doc]]]
    ).astype(np.int32)
    ids[np.arange(ctx_len)[None, :] >= length[:, None]] = 0
    fold = np.where(np.arange(n_docs) % 10 == 9, HELDOUT, np.arange(n_docs) % N_FOLDS)
    return Tokens(
        ids=ids,
        length=length.astype(np.int32),
        doc=doc,
        fold=fold[doc].astype(np.int8),
        doc_ids=tuple(f"doc{number}" for number in range(n_docs)),
        topics=tuple((f"subject {number // 2}", f"book\n{number}") for number in book),
        topic_levels=("subject", "book"),
        vocab=vocab,
    )
