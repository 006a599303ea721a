"""Token windows of the corpus, for training and for evaluation."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from labeler.builtin.corpus import StdlibDocument
from labeler.errors import CorpusError

END_OF_TEXT = "<|endoftext|>"
"""Starts every document."""

END_OF_TEXT_ID = 0

Ids = npt.NDArray[np.int64]


def encode_documents(
    tokenizer: Tokenizer, documents: Sequence[StdlibDocument]
) -> list[npt.NDArray[np.int32]]:
    """Token ids of every document, each starting with end-of-text.

    Returns
    -------
    list of int32 [n_tokens]
        In the order of `documents`.
    """
    encodings = tokenizer.encode_batch_fast(
        [document.text for document in documents], add_special_tokens=False
    )
    return [np.array([END_OF_TEXT_ID, *encoding.ids], dtype=np.int32) for encoding in encodings]


def train_batches(
    documents: Sequence[npt.NDArray[np.int32]],
    ctx_len: int,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
) -> Iterator[Ids]:
    """Endless batches of windows: every epoch shuffles the documents and cuts them anew.

    Windows run over document borders, as in most language model training. A batch depends on
    `seed` and its number alone, so a resumed run sees what an uninterrupted one would have seen.

    Yields
    ------
    int64 [batch_size, ctx_len]
    """
    n_tokens = sum(len(document) for document in documents)
    # one window is given up to the random offset, so that every epoch has as many batches
    n_batches = (n_tokens // ctx_len - 1) // batch_size
    if n_batches < 1:
        raise CorpusError(
            f"{n_tokens} training tokens are too few for one batch of {batch_size} windows "
            f"of {ctx_len}; use a smaller batch"
        )
    step = start_step
    while True:
        epoch, done = divmod(step, n_batches)
        windows = _epoch_windows(documents, ctx_len, np.random.default_rng([seed, epoch]))
        for i in range(done, n_batches):
            yield windows[i * batch_size : (i + 1) * batch_size].astype(np.int64)
            step += 1


def _epoch_windows(
    documents: Sequence[npt.NDArray[np.int32]], ctx_len: int, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Shuffled windows of one epoch, int32 [n_windows, ctx_len]."""
    order = rng.permutation(len(documents))
    stream = np.concatenate([documents[i] for i in order])[rng.integers(ctx_len) :]
    n_windows = len(stream) // ctx_len
    windows = stream[: n_windows * ctx_len].reshape(n_windows, ctx_len)
    return windows[rng.permutation(n_windows)]


def document_windows(documents: Sequence[npt.NDArray[np.int32]], ctx_len: int) -> Ids:
    """Windows that never mix documents, each starting where the previous one stopped.

    The rest of a document that does not fill a window is left out.

    Returns
    -------
    int64 [n_windows, ctx_len]
    """
    parts = [
        document[: len(document) // ctx_len * ctx_len].reshape(-1, ctx_len)
        for document in documents
    ]
    return np.concatenate(parts).astype(np.int64)
