"""Contexts whose tokens have texts, and what every function type of texts is tried with."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from labeler.functions import FunctionType, Keys, get_function_type
from labeler.tokens import HELDOUT, Tokens


def tokens_of(rows: Sequence[Sequence[str]], vocab: Sequence[str] = ()) -> Tokens:
    """Contexts given by the texts of their tokens; the vocabulary is theirs, after `vocab`."""
    texts = tuple(dict.fromkeys([*vocab, *(text for row in rows for text in row)]))
    return _tokens([[texts.index(text) for text in row] for row in rows], texts, [0] * len(rows))


def random_tokens(
    vocab: Sequence[str], seed: int, n_ctx: int = 60, ctx_len: int = 40, share: float = 0.5
) -> Tokens:
    """Random contexts: the first two texts of the vocabulary make up `share` of the tokens.

    The last contexts are short and held out.
    """
    rng = np.random.default_rng(seed)
    chance = np.array([share / 2] * 2 + [(1 - share) / (len(vocab) - 2)] * (len(vocab) - 2))
    ids = rng.choice(len(vocab), (n_ctx, ctx_len), p=chance)
    length = np.where(np.arange(n_ctx) < n_ctx - 9, ctx_len, rng.integers(1, ctx_len, n_ctx))
    rows = [row[:n].tolist() for row, n in zip(ids, length, strict=True)]
    return _tokens(rows, vocab, [i % 5 if i < n_ctx - 5 else HELDOUT for i in range(n_ctx)])


def _tokens(rows: Sequence[Sequence[int]], vocab: Sequence[str], fold: Sequence[int]) -> Tokens:
    """Contexts of one document each, padded."""
    length = [len(row) for row in rows]
    return Tokens(
        ids=np.array([[*row, *[0] * (max(length) - len(row))] for row in rows], dtype=np.int32),
        length=np.array(length, dtype=np.int32),
        doc=np.arange(len(rows), dtype=np.int32),
        fold=np.array(fold, dtype=np.int8),
        doc_ids=tuple(f"doc{i}" for i in range(len(rows))),
        topics=((),) * len(rows),
        topic_levels=(),
        vocab=tuple(vocab),
    )


def prepared(name: str, tokens: Tokens) -> Any:
    """The function type, prepared on the fit split."""
    kind = get_function_type(name)()
    kind.prepare(tokens.fit)
    return kind


def keys_of(name: str, *texts: str) -> list[Any]:
    """Keys of one context, by the texts of its tokens."""
    tokens = tokens_of([texts])
    return prepared(name, tokens).keys(tokens)[0].tolist()


def restored(kind: FunctionType) -> Any:
    """A new instance with the same state, by way of a file."""
    stream = io.BytesIO()
    np.savez(stream, **kind.state())  # type: ignore[arg-type]
    stream.seek(0)
    other = type(kind)()
    with np.load(stream, allow_pickle=False) as saved:
        other.load_state({name: saved[name] for name in saved})
    return other


def exported(kind: FunctionType, ids: np.ndarray) -> Keys:
    """Keys from the exported source, which sees numpy and nothing else."""
    names: dict[str, Any] = {"np": np}
    exec(kind.source() or "", names)
    return names[f"keys_{kind.name}"](ids.astype(np.int64))


def contexts(tokens: Tokens) -> list[list[str]]:
    """Texts of the tokens of each context, without the padding."""
    return [
        [tokens.vocab[token] for token in row[:n]]
        for row, n in zip(tokens.ids.tolist(), tokens.length.tolist(), strict=True)
    ]
