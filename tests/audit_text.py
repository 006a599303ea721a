"""Text with planted latents on which explanations are audited."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from labeler.eval.audit.ground import Ground, ground_of_contexts
from labeler.eval.firings import TextFirings
from labeler.explanations import Context
from labeler.tokens import HELDOUT, Tokens

HERE = "layers.0.mlp"


def text_of(contexts: Iterable[Iterable[str]]) -> Tokens:
    """Contexts given by the texts of their tokens."""
    rows = [list(context) for context in contexts]
    vocab = sorted({text for row in rows for text in row})
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), dtype=np.int32)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = [vocab.index(text) for text in row]
    return Tokens(
        ids=ids,
        length=np.array([len(row) for row in rows], dtype=np.int32),
        doc=np.arange(len(rows), dtype=np.int32),
        fold=np.full(len(rows), HELDOUT, dtype=np.int8),
        doc_ids=tuple(map(str, range(len(rows)))),
        topics=((),) * len(rows),
        topic_levels=(),
        vocab=tuple(vocab),
    )


COMMON = [" the", " a", ",", ".", " men", " of", " in", " said", " new", " time"]
MONTHS = [" March", " June", " April"]
WORDS = [" cat", " dog", " fox", " hen", " owl", " yak"]
MONTH, THE, COMMA, AFTER, NOISE, DEAD, RARE, CAT, DOG = range(9)


def planted(seed: int = 0) -> Ground:
    """80 contexts in 40 documents; every latent is watched everywhere."""
    rng = np.random.default_rng(seed)
    vocab = COMMON + MONTHS + WORDS
    weight = np.array([4.0] * 3 + [2.0] * 7 + [0.7] * 3 + [0.5] * 6)
    texts = rng.choice(vocab, size=(80, 32), p=weight / weight.sum())
    tokens = replace(text_of(texts.tolist()), doc=np.repeat(np.arange(40), 2).astype(np.int32))
    is_ = {text: texts == text for text in vocab}
    fires = np.zeros((*texts.shape, 9), dtype=bool)
    fires[..., MONTH] = np.isin(texts, MONTHS)
    fires[..., THE] = is_[" the"]
    fires[..., COMMA] = is_[","]
    fires[:, 1:, AFTER] = is_[" the"][:, :-1]
    fires[..., NOISE] = rng.random(texts.shape) < 0.05
    fires[:3, 0, RARE] = True
    fires[..., CAT] = is_[" cat"]
    fires[..., DOG] = is_[" dog"] | is_[" fox"] | is_[" hen"]
    flat = fires.reshape(-1, 9)
    position, latent = np.nonzero(flat)
    act = (1 + rng.random(len(position))).astype(np.float32)
    firings = TextFirings.make(position, latent, act, n_positions=len(flat), n_latents=9)
    return Ground(HERE, tokens, np.arange(9), firings)


GROUND = planted()


def owned() -> Ground:
    """Latents with contexts of their own, all of which fire: 1 on "she", 2 on "of", 3 on "cat"."""
    rng = np.random.default_rng(3)
    contexts = {}
    for latent, word in ((1, " she"), (2, " of"), (3, " cat"), (4, " she")):
        mine = []
        for _ in range(12):
            tokens = rng.choice([*COMMON, " dog"], size=rng.integers(14, 21)).tolist()
            tokens[rng.integers(14)] = word
            acts = np.array([float(one == word) for one in tokens], dtype=np.float32)
            mine.append(Context(tuple(tokens), acts))
        contexts[HERE, latent] = mine
    contexts[HERE, 5] = []
    return ground_of_contexts(HERE, contexts)
