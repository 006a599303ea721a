"""A finished run on made-up text whose latents are planted, without a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from synthetic import Acts, make_tokens

from labeler import steps
from labeler.config import RunConfig
from labeler.eval.against import TEST as HELDOUT
from labeler.eval.prove import pooled
from labeler.eval.trials import Trials
from labeler.eval.verdict import count_verdicts, judge
from labeler.inputs import Run
from labeler.manifest import HookpointEntry, Manifest
from labeler.provenance import mark_done
from labeler.shards import plan_shards, write_shard
from labeler.store import write_parquet
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
    "unigram": 3.9,
    "random": 4.4,
    "oracle_support": 2.4,
    "oracle_value": 2.3,
}
BY_VARIANT = {
    name: {"value": (4.1 - ce) / 2, "low": (4.1 - ce) / 2 - 0.05, "high": (4.1 - ce) / 2 + 0.05}
    for name, ce in CE.items()
}
RECOVERED = {
    "16": {"value": 0.25, "low": 0.2, "high": 0.3},
    "100": {"value": 0.5, "low": 0.45, "high": 0.55},
    "unlimited": {"value": 0.75, "low": 0.7, "high": 0.8},
}


ENDPOINT = f"unseen:endpoint:{HOSTILE}{ESCAPE}"
"""A test named by a server that lies about its model."""

COSTS = {TOKEN: 0.0021, BREAK: 0.0047, PAIR: -0.0003, NOISE: 0.9, LOOSE: 0.0009}
"""What each label costs; that of the one without a label is nobody's."""


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
                recovered_by_variant=BY_VARIANT,
            )
    return run


def try_out(run: Run) -> None:
    """Add what `labeler verify --all` and `labeler rewrite` with curves leave: invented trials.

    Of the first layer every label is tried, one for each verdict; of the second the first two.
    """
    for name, latents in zip(
        HOOKPOINTS, ((TOKEN, BREAK, PAIR, LOOSE), (TOKEN, BREAK)), strict=True
    ):
        evidence = tiny_evidence(np.array(latents))
        claimed = np.full(N_LATENTS, 0.9)
        verdicts = judge(evidence, claimed, np.array(latents))
        folder = run.out / "verify" / name
        write_parquet(folder / "evidence.parquet", evidence)
        write_parquet(folder / "verdicts.parquet", verdicts)
        mark_done(
            folder / "tests.json",
            "made up",
            budget=100,
            n_tested=len(latents),
            n_labeled=4,
            verdicts=count_verdicts(verdicts),
            tests=pooled(evidence),
            standard={"detection": SCORE, "f1": {**SCORE, "own": 0.625}},
            actives=ACTIVES,
        )
        costs = {"latent": list(COSTS), "dce": list(COSTS.values()), "exact": [True, *4 * [False]]}
        write_parquet(
            run.out / "rewrite" / f"{name}-latents.parquet",
            pl.DataFrame(costs, schema_overrides={"latent": pl.Int32}),
        )
    for name in (*HOOKPOINTS, "all_layers"):
        mark_done(
            run.out / "rewrite" / f"{name}-curves.json",
            "made up",
            curves=[
                curve("score", "none"),
                curve("random", "none"),
                curve("score", "topk", 0.03),
                {**curve("score", "none", 0.2), "budget": "unlimited"},
            ],
            paper_2501_18838={"curves": [curve("score", "quantile+topk")]},
        )


ACTIVES = {
    "called_per_token": 1.25,
    "firing_per_token": 1.5,
    "false_per_token": 0.75,
    "specificity": 0.875,
}

SCORE = {
    "n_latents": 4,
    "own": 0.875,
    "own_low": 0.8,
    "own_high": 0.95,
    "control": 0.5,
    "difference": 0.375,
    "low": 0.25,
    "high": 0.5,
}


def curve(ranking: str, transform: str, more: float = 0.0) -> dict[str, Any]:
    """A curve as `labeler rewrite` writes it."""
    shift = 0.01 * len(ranking + transform)
    points = [
        {
            "fraction": fraction,
            "n_latents": max(1, round(7 * fraction)),
            "ce": 2.1 + fraction,
            "recovered": 1 - fraction / 2 - shift + more,
            "low": 0.9 - fraction / 2 - shift,
            "high": 1.05 - fraction / 2 - shift,
        }
        for fraction in (0.01, 0.1, 1.0)
    ]
    return {"ranking": ranking, "budget": 100, "transform": transform, "points": points}


def tiny_evidence(latents: npt.NDArray[np.integer]) -> pl.DataFrame:
    """Made-up evidence: the first is good at everything, the second at nothing, and so on."""
    f1 = {TOKEN: 0.95, BREAK: 0.3, PAIR: 0.65, LOOSE: 0.9}
    n = {TOKEN: 120, BREAK: 80, PAIR: 60, LOOSE: 3}
    hits = {TOKEN: 12, BREAK: 0, PAIR: 7, LOOSE: 6}
    own = np.array([f1[latent] for latent in latents])
    heldout = pl.DataFrame(
        {
            "latent": latents.astype(np.int32),
            "test": [HELDOUT] * len(latents),
            "n": [n[latent] for latent in latents],
            "own": own,
            "own_low": own - 0.05,
            "own_high": np.minimum(own + 0.2, 1),
            # The last has no partner.
            "control": [0.05] * (len(latents) - 1) + [float("nan")],
            "difference": [*(own[:-1] - 0.05), float("nan")],
            "low": [*(own[:-1] - 0.1), float("nan")],
            "high": [*own[:-1], float("nan")],
            "failed": [0] * len(latents),
        }
    )
    parts = [heldout]
    failed = np.zeros(N_LATENTS, dtype=np.int64)
    failed[BREAK] = 2
    for test in ("sufficiency", "necessity", "unseen:subject", ENDPOINT):
        tried = np.repeat(latents, 12).astype(np.int32)
        hit = np.concatenate([np.arange(12) < hits[latent] for latent in latents])
        control = np.tile(np.arange(12) < 1, len(latents))
        parts.append(Trials(test, tried, hit, control, failed).tally())
    return pl.concat(parts)
