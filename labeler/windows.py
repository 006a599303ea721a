"""From a corpus to token windows, and those to disk and back."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.corpus import Corpus, Document, Split, stable_hash
from labeler.errors import CacheError, CorpusError, OptionError
from labeler.store import atomic_path, write_json
from labeler.tokens import HELDOUT, N_FOLDS, Tokens
from labeler.vocab import vocab_texts

_FORMAT = 1
_BATCH = 32
"""Documents per tokenizer call."""

_ARRAYS = ("ids", "length", "doc", "fold")


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: Any,
    *,
    ctx_len: int,
    fit_tokens: int,
    heldout_tokens: int,
    seed: int = 0,
    bos: bool = True,
    contexts_per_document: int = 0,
    n_vocab: int | None = None,
) -> Tokens:
    """Cut documents into windows until both budgets are met.

    A document is a BOS token (EOS where the tokenizer has no BOS) and its tokens, cut into windows
    of `ctx_len`; the last one is padded on the right. Documents come in the corpus's seeded
    order, fit before held-out; the last one of each split ends with the window that meets the
    budget. A corpus smaller than a budget is used whole.

    Parameters
    ----------
    corpus : Corpus
        The documents.
    tokenizer : transformers.PreTrainedTokenizerBase
        Of the model.
    ctx_len : int
        Positions per window, at least 2.
    fit_tokens, heldout_tokens : int
        Positions wanted in each split, BOS included.
    seed : int
        Of the order of documents.
    bos : bool
        Whether documents start with BOS.
    contexts_per_document : int
        Most windows of one document, spread evenly over it; 0 for all. A budget then reaches more
        documents, which are what keys must carry over to.
    n_vocab : int, optional
        Size of the model's vocabulary; the tokenizer's own where None.

    Returns
    -------
    Tokens
        Folds 0 to 4 by a hash of the document id.

    Raises
    ------
    CorpusError
        If a split gets no document, or a token is outside the model's vocabulary.
    OptionError
        If `ctx_len` or a budget is too small.
    """
    for name, value, least in (
        ("--contexts-per-document", contexts_per_document, 0),
        ("--ctx-len", ctx_len, 2),
        ("--tokens", fit_tokens, 1),
        ("held-out tokens", heldout_tokens, 1),
    ):
        if value < least:
            raise OptionError(f"{name} is {value}, expected at least {least}")
    prefix = _prefix(tokenizer) if bos else []
    pieces: list[_Piece] = []
    budgets: dict[Split, int] = {"fit": fit_tokens, "heldout": heldout_tokens}
    for split, budget in budgets.items():
        documents = corpus.documents(seed, split)
        whole = _whole(budget, ctx_len)
        found = list(_pieces(documents, tokenizer, prefix, whole, ctx_len, contexts_per_document))
        if not found:
            raise CorpusError(_empty_split(corpus, split))
        pieces += found
    size = len(tokenizer) if n_vocab is None else n_vocab
    highest = max(int(piece.ids.max()) for piece in pieces)
    if highest >= size:
        raise CorpusError(
            f"token id {highest} is outside the model's vocabulary of {size}; the tokenizer does "
            "not belong to this model"
        )
    return _cut(pieces, ctx_len, corpus.topic_levels, vocab_texts(tokenizer, size))


@dataclass(frozen=True, eq=False)
class _Piece:
    """The used part of a document: its token ids, without its text."""

    doc_id: str
    topics: tuple[str, ...]
    fold: int
    ids: npt.NDArray[np.int32]


def _pieces(
    documents: Iterator[Document],
    tokenizer: Any,
    prefix: list[int],
    budget: int,
    ctx_len: int,
    contexts_per_document: int,
) -> Iterator[_Piece]:
    """Yield documents as token ids until `budget` positions are reached; the last is cut there."""
    while batch := list(islice(documents, _BATCH)):
        encoded = tokenizer(
            [document.text for document in batch],
            add_special_tokens=False,
            return_attention_mask=False,
            # Long documents are cut into windows; the tokenizer's warning would mislead.
            verbose=False,
        )["input_ids"]
        for document, token_ids in zip(batch, encoded, strict=True):
            if not token_ids:
                continue
            ids = np.array(prefix + token_ids, dtype=np.int32)
            ids = _spread(ids, ctx_len, contexts_per_document)[:budget]
            yield _Piece(document.id, document.topics, _fold(document), ids)
            budget -= len(ids)
            if budget <= 0:
                return


def _spread(ids: npt.NDArray[np.int32], ctx_len: int, n: int) -> npt.NDArray[np.int32]:
    """At most `n` whole windows of a document, evenly spread from first to last; all for n = 0."""
    n_windows = -(-len(ids) // ctx_len)
    if not 0 < n < n_windows:
        return ids
    chosen = np.linspace(0, n_windows - 1, n).round().astype(np.int64)
    # Only the last window can be short, and it stays last.
    return np.concatenate([ids[i * ctx_len : (i + 1) * ctx_len] for i in chosen])


def _cut(
    pieces: list[_Piece], ctx_len: int, topic_levels: tuple[str, ...], vocab: tuple[str, ...]
) -> Tokens:
    """Cut documents into windows, the last of each padded on the right."""
    n_windows = [-(-len(piece.ids) // ctx_len) for piece in pieces]
    ids = np.zeros((sum(n_windows), ctx_len), dtype=np.int32)
    length = np.full(len(ids), ctx_len, dtype=np.int32)
    flat, row = ids.reshape(-1), 0
    for piece, n in zip(pieces, n_windows, strict=True):
        flat[row * ctx_len : row * ctx_len + len(piece.ids)] = piece.ids
        row += n
        length[row - 1] = len(piece.ids) - (n - 1) * ctx_len
    return Tokens(
        ids=ids,
        length=length,
        doc=np.repeat(np.arange(len(pieces), dtype=np.int32), n_windows),
        fold=np.repeat(np.array([piece.fold for piece in pieces], dtype=np.int8), n_windows),
        doc_ids=tuple(piece.doc_id for piece in pieces),
        topics=tuple(piece.topics for piece in pieces),
        topic_levels=topic_levels,
        vocab=vocab,
    )


def _fold(document: Document) -> int:
    return HELDOUT if document.split == "heldout" else stable_hash(f"fold:{document.id}") % N_FOLDS


def _whole(budget: int, ctx_len: int) -> int:
    """Round a budget up to whole windows."""
    return -(-budget // ctx_len) * ctx_len


def _prefix(tokenizer: Any) -> list[int]:
    """BOS, or EOS where the tokenizer has no BOS."""
    found = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return [int(token_id) for token_id in found if token_id is not None][:1]


def _empty_split(corpus: Corpus, split: Split) -> str:
    kind = "held-out" if split == "heldout" else "fit"
    return (
        f"corpus {corpus.name} has no {kind} documents with text ({len(corpus)} documents in all); "
        "give more documents (in one text file: a line <|endoftext|> between documents), or name "
        "a column that holds train and heldout with --split-column"
    )


def save_tokens(tokens: Tokens, directory: Path) -> None:
    """Write ``tokens.npz`` and ``tokens.json`` (names, vocabulary, content hash) atomically."""
    with atomic_path(directory / "tokens.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **{name: getattr(tokens, name) for name in _ARRAYS})
    write_json(
        directory / "tokens.json",
        {
            "format": _FORMAT,
            "fingerprint": tokens.fingerprint,
            "topic_levels": tokens.topic_levels,
            "doc_ids": tokens.doc_ids,
            "topics": tokens.topics,
            "vocab": tokens.vocab,
        },
    )


def load_tokens(directory: Path) -> Tokens:
    """Read what `save_tokens` wrote.

    Raises
    ------
    CacheError
        If a file is missing, damaged, of another format, or the two do not belong together.
    """
    cure = "delete it and run `labeler cache` again"
    names, arrays = directory / "tokens.json", directory / "tokens.npz"
    try:
        meta = json.loads(names.read_text(encoding="utf-8"))
        with np.load(arrays, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in _ARRAYS}
    except FileNotFoundError as error:
        raise CacheError(f"{error.filename} is missing; run `labeler cache` first") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CacheError(f"{arrays} or {names.name} is damaged ({error}); {cure}") from error
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise CacheError(f"{names} is not of format {_FORMAT}; {cure}")
    try:
        tokens = Tokens(
            **columns,
            doc_ids=tuple(meta["doc_ids"]),
            topics=tuple(tuple(topic) for topic in meta["topics"]),
            topic_levels=tuple(meta["topic_levels"]),
            vocab=tuple(meta["vocab"]),
        )
    except (KeyError, TypeError) as error:
        raise CacheError(f"{names} is damaged ({error}); {cure}") from error
    if tokens.fingerprint != meta.get("fingerprint"):
        raise CacheError(f"{arrays} and {names.name} do not belong together; {cure}")
    return tokens
