"""Latents whose rules are known, labels of them written by hand, and text that shows both."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from synthetic import make_tokens

from labeler.arrays import Bools, Floats
from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.scene import Scene
from labeler.keytree import KeyTree
from labeler.labels import LabelSet
from labeler.tokens import Tokens

HOOKPOINT = "h.0"
N_VOCAB, CTX_LEN, SEVEN = 20, 48, 7

TOKEN, PAIR, BEFORE, BROAD, WRONG, PLACE, ALWAYS, LATE, NOBODY, GRADED = range(10)
"""What the latents fire on: a token; a pair; a token within the last 8; another pair, where the
label says only its second token; a token, where the label says another one; a position; everywhere;
a token far into the context; never; a token, twice as much after a certain other one."""

N_LATENTS = 10

Entries = list[tuple[str, tuple[int, ...]]]
"""Levels and keys of a label, each key under those it backs off to, the coarsest first."""

LABELS: dict[int, Entries] = {
    TOKEN: [("unigram", (5,))],
    PAIR: [("bigram", (4, 4 * N_VOCAB + 3))],
    BEFORE: [("skip_gram", (SEVEN,))],
    BROAD: [("unigram", (9,))],
    WRONG: [("unigram", (11,))],
    PLACE: [("position", (9,))],
    ALWAYS: [("unigram", (token,)) for token in range(N_VOCAB)],
    LATE: [("unigram", (13,))],
    NOBODY: [("unigram", (14,))],
    GRADED: [("unigram", (15,)), ("bigram", (15, 15 * N_VOCAB + 16))],
}

LEVELS = ("unigram", "bigram", "skip_gram", "position", "unigram+previous_token")


def acts(ids: np.ndarray) -> Floats:
    """Activations, float32 [n_ctx, ctx_len, N_LATENTS]."""
    before = np.full_like(ids, -1)
    before[:, 1:] = ids[:, :-1]
    offset = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    near = np.zeros(ids.shape, dtype=bool)
    for back in range(1, min(8, ids.shape[1] - 1) + 1):
        near[:, back:] |= ids[:, :-back] == SEVEN
    out = np.zeros((*ids.shape, N_LATENTS), dtype=np.float32)
    out[..., TOKEN] = ids == 5
    out[..., PAIR] = (before == 3) & (ids == 4)
    out[..., BEFORE] = near
    out[..., BROAD] = (before == 8) & (ids == 9)
    out[..., WRONG] = ids == 10
    out[..., PLACE] = offset == 9
    out[..., ALWAYS] = True
    out[..., LATE] = (ids == 13) & (offset >= 36)
    out[..., GRADED] = (ids == 15) * (1 + (before == 16))
    return out


class Rules:
    """Latents that follow `acts`; remembers the texts it was shown."""

    max_ctx = CTX_LEN

    def __init__(self) -> None:
        self.seen: list[Tokens] = []

    def firings(
        self,
        tokens: Tokens,
        hookpoints: Sequence[str],
        where: Bools | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> dict[str, TextFirings]:
        self.seen.append(tokens)
        watched = tokens.valid if where is None else tokens.valid & where
        act = (acts(tokens.ids) * watched[..., None]).reshape(-1, N_LATENTS)
        position, latent = np.nonzero(act)
        advance(tokens.n_ctx)
        found = TextFirings.make(
            position,
            latent,
            act[position, latent],
            n_positions=tokens.ids.size,
            n_latents=N_LATENTS,
        )
        return dict.fromkeys(hookpoints, found)

    @property
    def contexts(self) -> list[list[int]]:
        """All contexts shown, without padding."""
        return [
            row[:length].tolist()
            for text in self.seen
            for row, length in zip(text.ids, text.length, strict=True)
        ]


def node_of(tree: KeyTree, name: str, keys: Sequence[int]) -> int:
    """Number of the node of a key under the keys it backs off to."""
    chain, node = tree.chain(name), 0
    for level, key in zip([tree.levels[up] for up in chain], keys, strict=True):
        rank = int(np.searchsorted(level.keys, key))
        assert level.keys[rank] == key
        node = int(np.searchsorted(level.pair, node * len(level.keys) + rank))
    return node


def label_set(tree: KeyTree, labels: dict[int, Entries] = LABELS) -> LabelSet:
    """Labels of 100 keys written by hand: each key says 1, called from 1."""
    n = N_LATENTS
    rows = [(latent, *entry) for latent, mine in labels.items() for entry in mine]
    entries = pl.DataFrame(
        {
            "budget": pl.Series([100] * len(rows), dtype=pl.Int32),
            "latent": pl.Series([latent for latent, _, _ in rows], dtype=pl.Int32),
            "level": [name for _, name, _ in rows],
            "node": pl.Series([node_of(tree, name, key) for _, name, key in rows], dtype=pl.Int32),
            "weight": pl.Series([1.0] * len(rows), dtype=pl.Float32),
        }
    )
    latents = pl.DataFrame(
        {
            "status": ["labeled"] * n,
            "mean": [0.0] * n,
            "default_100": [0.0] * n,
            "threshold_100": [1.0] * n,
        }
    )
    return LabelSet(HOOKPOINT, Path("nowhere"), tree, latents, entries, {})


def text() -> Tokens:
    """Tokens at random, of which one is rare."""
    made = make_tokens(seed=5, n_docs=400, ctx_len=CTX_LEN, n_vocab=N_VOCAB, zipf=0, tilt=0)
    rng = np.random.default_rng(6)
    ids = made.ids.copy()
    common = (ids == SEVEN) & (rng.random(ids.shape) < 0.9)
    ids[common] = rng.integers(14, N_VOCAB, int(common.sum()))
    return replace(made, ids=np.where(made.valid, ids, 0))


def scene_of(
    fit: Tokens,
    heldout: Tokens,
    labels: LabelSet,
    latents: Sequence[int],
    *,
    partner: dict[int, int] | None = None,
    seed: int = 0,
) -> Scene:
    """A scene of `Rules`; partners as `Scene.make` finds them unless given."""
    subject = Rules()
    firings = subject.firings(heldout, [HOOKPOINT])[HOOKPOINT]
    made = Scene.make(subject, Claims(labels), fit, heldout, firings, np.array(latents), seed=seed)
    subject.seen.clear()
    return made if partner is None else replace(made, partner=partners(partner))


def partners(pairs: dict[int, int]) -> np.ndarray:
    """Partner of every latent, -1 where none is given."""
    return np.array([pairs.get(one, -1) for one in range(N_LATENTS)])
