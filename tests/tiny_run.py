"""A finished run on made-up text whose latents are planted, without a model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from synthetic import Acts, make_tokens

from labeler import steps
from labeler.config import RunConfig
from labeler.inputs import Run
from labeler.manifest import HookpointEntry, Manifest
from labeler.provenance import mark_done
from labeler.shards import plan_shards, write_shard
from labeler.tokens import Tokens
from labeler.windows import save_tokens

HOOKPOINTS = ("layers.0.mlp", "layers.1.mlp")

FUNCTIONS = ("unigram", "bigram", "topic")
CORRECTIONS = ("unigram+topic", "unigram+sentence_position")
"""The second abstains: no token ends a sentence."""

HOSTILE = "<script>alert(1)</script>"
ESCAPE = "\x1b[31m\u202e"
VOCAB = {0: HOSTILE, 1: "\n", 2: ESCAPE, 3: '" onmouseover="x', 4: " [bold]&amp;`"}

TOKEN, BREAK, PAIR, NOISE, LOOSE, RARE, DEAD = range(7)
"""Latents: on the hostile token, on line ends and escapes, on a pair, by chance, on a token but
only half of the time, too rare to fit, never."""

N_LATENTS = 7

CE = {
    "base": 2.0,
    "coder": 2.1,
    "zero": 5.0,
    "mean": 4.1,
    "skip": 4.5,
    "labels_16": 3.6,
    "labels_100": 3.1,
    "labels_unlimited": 2.6,
    "shuffled": 4.6,
}
RECOVERED = {
    "16": {"value": 0.25, "low": 0.2, "high": 0.3},
    "100": {"value": 0.5, "low": 0.45, "high": 0.55},
    "unlimited": {"value": 0.75, "low": 0.7, "high": 0.8},
}


def tiny_tokens() -> Tokens:
    """120 short documents over 30 tokens, some of them hostile."""
    tokens = make_tokens(seed=3, n_docs=120, ctx_len=24, n_vocab=30, tilt=0.4)
    vocab = tuple(VOCAB.get(index, text) for index, text in enumerate(tokens.vocab))
    return replace(tokens, vocab=vocab)


def planted(tokens: Tokens, seed: int) -> Acts:
    """Activations [n_positions, N_LATENTS]."""
    rng = np.random.default_rng(seed)
    ids = tokens.ids.ravel()
    before = np.zeros_like(tokens.ids)
    before[:, 1:] = tokens.ids[:, :-1]
    fires = np.zeros((len(ids), N_LATENTS), dtype=bool)
    fires[:, TOKEN] = ids == 0
    fires[:, BREAK] = (ids == 1) | (ids == 2)
    fires[:, PAIR] = (ids == 5) & (before.ravel() <= 2)
    fires[:, NOISE] = rng.random(len(ids)) < 0.02
    fires[:, LOOSE] = (ids == 6) & (rng.random(len(ids)) < 0.5)
    fires[:, RARE] = rng.random(len(ids)) < 6 / len(ids)
    fires &= tokens.valid.ravel()[:, None]
    return np.where(fires, 1 + 3 * rng.random(fires.shape), 0).astype(np.float32)


def write_cache(out: Path, tokens: Tokens, acts: dict[str, Acts]) -> None:
    """Write a latent cache as `labeler cache` does."""
    manifest = Manifest(tokens.fingerprint, "m" * 64, tokens.ctx_len, 50, "float32")
    for name, dense in acts.items():
        entry = HookpointEntry("c" * 64, dense.shape[1])
        for shard in plan_shards(tokens, 50):
            rows = slice(shard.start * tokens.ctx_len, shard.stop * tokens.ctx_len)
            position, latent = np.nonzero(dense[rows])
            entry.shards[shard.index] = write_shard(
                out / "cache" / name / shard.file_name,
                position + rows.start,
                latent.astype(np.int32),
                dense[rows][position, latent],
                ctx_len=tokens.ctx_len,
                num_latents=dense.shape[1],
                dtype="float32",
            )
        manifest.hookpoints[name] = entry
    manifest.save(out / "cache")


def tiny_run(out: Path, *, verified: bool = True) -> Run:
    """Make the run: real labels and scores, invented cross-entropies."""
    tokens = tiny_tokens()
    config = RunConfig(model="./a model", coder="owner/coders", corpus="stdlib", ctx_len=24)
    config.save(out)
    save_tokens(tokens, out / "tokens")
    mark_done(out / "tokens" / "done.json", "made up", corpus="d" * 64)
    write_cache(out, tokens, {name: planted(tokens, seed) for seed, name in enumerate(HOOKPOINTS)})
    run = Run(out, quiet=True)
    steps.fit(run, list(FUNCTIONS), corrections=list(CORRECTIONS))
    if verified:
        steps.verify(run)
        for name in (*HOOKPOINTS, "all_layers"):
            mark_done(
                out / "rewrite" / f"{name}.json",
                "made up",
                hookpoints=list(HOOKPOINTS if name == "all_layers" else [name]),
                n_tokens=500,
                n_documents=5,
                ce=CE,
                recovered=RECOVERED,
                shuffled=-0.25,
            )
    return run
