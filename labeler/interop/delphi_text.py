"""The text of a delphi cache: its tokens, cut into documents, checked against the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeler.errors import CacheError
from labeler.interop.delphi_documents import Layout, same_rows, split_documents
from labeler.interop.delphi_files import DelphiFile
from labeler.interop.delphi_ours import OURS, has_documents, load_documents
from labeler.model import SubjectModel
from labeler.tokens import Tokens
from labeler.vocab import vocab_texts


@dataclass(frozen=True, eq=False)
class Text:
    """The text of a cache, as it has it and as ours.

    Attributes
    ----------
    ids : int32 [n_seq, ctx]
        As stored.
    length : int32 [n_seq]
        Real tokens of each context, the rest is padding.
    tokens : Tokens
        The same text by documents.
    layout : Layout
        Where it lies in `tokens`.
    notes : list of str
        What was assumed.
    """

    ids: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    tokens: Tokens
    layout: Layout
    notes: list[str]


def flat(files: Mapping[str, tuple[DelphiFile, ...]]) -> list[DelphiFile]:
    """The files of all hookpoints."""
    return [one for found in files.values() for one in found]


def read_text(
    directory: Path, files: Mapping[str, tuple[DelphiFile, ...]], subject: SubjectModel
) -> Text:
    """Read the tokens that all files share, and cut them into documents.

    Raises
    ------
    CacheError
        If no file has any, two differ, they do not fit the model, or a split gets no document.
    """
    ids = _same_tokens(files)
    if int(ids.max()) >= subject.n_vocab:
        raise CacheError(
            f"{directory} holds token {int(ids.max())}, {subject.name} has {subject.n_vocab}; name "
            "the model the cache was made with"
        )
    if ids.shape[1] > subject.max_ctx:
        raise CacheError(
            f"{directory} has contexts of {ids.shape[1]} tokens, {subject.name} takes "
            f"{subject.max_ctx}; name the model the cache was made with"
        )
    vocab = vocab_texts(subject.tokenizer, subject.n_vocab)
    root = directory.parent if directory.name == "latents" else directory
    if has_documents(ours := root / OURS):
        tokens = load_documents(ours, ids, vocab)
        if not tokens.fit.n_ctx or not tokens.heldout.n_ctx:
            raise CacheError(
                f"{directory} was exported with one split only, so there is nothing to score "
                f"labels on; export it with --split all, or delete {ours} for a new split"
            )
        return Text(ids, tokens.length, tokens, same_rows(tokens), [])
    special = [subject.tokenizer.bos_token_id, subject.tokenizer.eos_token_id]
    separators = {int(one) for one in special if one is not None}
    tokens, layout, notes = split_documents(ids, separators, vocab)
    length = np.full(len(ids), ids.shape[1], dtype=np.int32)
    return Text(ids, length, tokens, layout, notes)


def _same_tokens(files: Mapping[str, tuple[DelphiFile, ...]]) -> npt.NDArray[np.int32]:
    """The tokens [n_seq, ctx] that all files share."""
    holders = [(one.path, one.tokens) for one in flat(files) if one.tokens is not None]
    if not holders:
        raise CacheError(
            f"no file in {flat(files)[0].path.parent} holds tokens, so the text is not known; "
            "cache again with delphi's save_tokens"
        )
    (first, stored), *others = holders
    found = stored.rows(0, len(stored))
    if found.min() < 0 or found.max() > np.iinfo(np.int32).max:
        raise CacheError(f"{first}: a token is outside 0 to 2**31 - 1; cache again")
    ids: npt.NDArray[np.int32] = found.astype(np.int32)
    step = max(1, (1 << 20) // ids.shape[1])
    for path, stored in others:
        same = stored.shape == ids.shape and all(
            np.array_equal(stored.rows(at, min(at + step, len(ids))), ids[at : at + step])
            for at in range(0, len(ids), step)
        )
        if not same:
            raise CacheError(
                f"{path} and {first} hold different tokens, so they come from different runs; "
                "remove one of them"
            )
    return ids
