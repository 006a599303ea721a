"""What delphi's layout has no place for, kept beside it: documents, lengths and splits.

``labeler/`` in the folder of a delphi run: ``cache.json`` (what was exported),
``contexts.safetensors`` (length, document and fold of each context) and ``documents.json``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.errors import CacheError
from labeler.interop.delphi_files import read_header
from labeler.store import atomic_path, write_json
from labeler.tokens import N_FOLDS, Tokens

OURS = "labeler"
"""The folder, beside ``latents``."""

_CONTEXTS = "contexts.safetensors"
_DOCUMENTS = "documents.json"
_MAX_DOCUMENTS = 1 << 28
"""Bytes of ``documents.json``."""


def save_documents(folder: Path, tokens: Tokens) -> None:
    """Write the documents of some contexts, unless they are there."""
    from safetensors.numpy import save

    if (folder / _CONTEXTS).exists() and (folder / _DOCUMENTS).exists():
        return
    write_json(
        folder / _DOCUMENTS,
        {"doc_ids": tokens.doc_ids, "topics": tokens.topics, "topic_levels": tokens.topic_levels},
    )
    data = save({"length": tokens.length, "doc": tokens.doc, "fold": tokens.fold})
    with atomic_path(folder / _CONTEXTS) as temporary:
        temporary.write_bytes(data)


def has_documents(folder: Path) -> bool:
    """Whether documents were kept."""
    return (folder / _CONTEXTS).exists()


def load_documents(folder: Path, ids: npt.NDArray[np.int32], vocab: tuple[str, ...]) -> Tokens:
    """The windows that were exported, from the cache's tokens [n_seq, ctx].

    Raises
    ------
    CacheError
        If the files are damaged, or do not belong to these tokens.
    """
    path, names = folder / _CONTEXTS, folder / _DOCUMENTS
    stored = read_header(path)
    columns: dict[str, Any] = {}
    for name, dtype in (("length", np.int32), ("doc", np.int32), ("fold", np.int8)):
        tensor = stored.get(name)
        if tensor is None or tensor.dtype not in ("I8", "I32") or tensor.shape != (len(ids),):
            raise _unsound(folder, f"{path.name} has no {name} for each of {len(ids)} contexts")
        columns[name] = tensor.rows(0, len(ids)).astype(dtype)
    documents = _documents(names)
    length, doc, fold = columns["length"], columns["doc"], columns["fold"]
    doc_ids, topics, levels = (documents[key] for key in ("doc_ids", "topics", "topic_levels"))
    if length.min() < 1 or length.max() > ids.shape[1]:
        raise _unsound(folder, f"a context has {int(length.max())} tokens of {ids.shape[1]}")
    if (np.diff(doc) < 0).any() or doc[0] < 0 or doc[-1] >= len(doc_ids):
        raise _unsound(folder, f"contexts are not in the order of {len(doc_ids)} documents")
    if fold.min() < -1 or fold.max() >= N_FOLDS or (np.diff(fold)[np.diff(doc) == 0] != 0).any():
        raise _unsound(folder, "a document lies in two folds")
    if len(topics) != len(doc_ids) or any(len(one) != len(levels) for one in topics):
        raise _unsound(folder, "documents and topics differ in number")
    inside = np.arange(ids.shape[1]) < length[:, None]
    return Tokens(
        ids=np.where(inside, ids, np.int32(0)),
        length=length,
        doc=doc,
        fold=fold,
        doc_ids=tuple(doc_ids),
        topics=tuple(tuple(one) for one in topics),
        topic_levels=tuple(levels),
        vocab=vocab,
    )


def _documents(path: Path) -> dict[str, list[Any]]:
    """``documents.json``, of the form it was written in."""
    try:
        if path.stat().st_size > _MAX_DOCUMENTS:
            raise _unsound(path.parent, f"{path.name} has more than {_MAX_DOCUMENTS:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unsound(path.parent, f"{path.name} cannot be read ({error})") from error
    lists = found if isinstance(found, dict) else {}
    topics = lists.get("topics")
    if not isinstance(topics, list):
        raise _unsound(path.parent, f"{path.name} has no topics")
    for names in (lists.get("doc_ids"), lists.get("topic_levels"), *topics):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _unsound(path.parent, f"{path.name} does not hold lists of names")
    return lists


def _unsound(folder: Path, why: str) -> CacheError:
    return CacheError(
        f"{folder} does not belong to the cache beside it: {why}; delete that folder to import the "
        "cache without its documents"
    )
