"""The latent cache: exact firings, survival of kills and full disks, and what it refuses."""

import dataclasses
import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from labeler.cache import Firings, LatentCache, build_cache, open_cache
from labeler.coders import Coder, load_coders
from labeler.errors import CacheError, DiskError, OptionError
from labeler.model import SubjectModel
from labeler.progress import progress_bar
from labeler.shards import Shard, plan_shards, read_shard, write_shard
from labeler.tokens import HELDOUT, Tokens
from labeler.windows import load_tokens, save_tokens
from tests.conftest import NUM_LATENTS, K, write_coder

Coders = dict[str, Coder]
MLPS = ("layers.0.mlp", "layers.1.mlp")


def build(
    tokens: Tokens, model: SubjectModel, coders: Coders, at: Path, **options: Any
) -> LatentCache:
    settings: dict[str, Any] = {"contexts_per_shard": 16, "batch_size": 6, "quiet": True} | options
    return build_cache(tokens, model, coders, at, **settings)


def all_firings(cache: LatentCache, hookpoint: str, **options: Any) -> list[np.ndarray]:
    shards = list(cache.iter_shards(hookpoint, **options))
    return [
        np.concatenate([getattr(s, key) for s in shards]) for key in ("position", "latent", "act")
    ]


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*.parquet")}


def dense_acts(tokens: Tokens, model: SubjectModel, coder: Coder) -> np.ndarray:
    """Activations [n_ctx, ctx_len, num_latents] by a literal encode, one context at a time."""
    found = np.zeros((*tokens.ids.shape, coder.num_latents), dtype=np.float32)
    for ctx in range(tokens.n_ctx):
        n = int(tokens.length[ctx])

        def read(x: Tensor, ctx: int = ctx, n: int = n) -> None:
            found[ctx, :n] = coder.encode(x[0]).numpy()

        model.run(tokens.ids[ctx : ctx + 1, :n], {coder.hookpoint.hook_in: read})
    return found


# --- what is in it


@pytest.mark.parametrize("hookpoint", MLPS)
def test_firings_equal_a_literal_encode_position_by_position(
    cache: LatentCache, tokens: Tokens, model: SubjectModel, coders: Coders, hookpoint: str
) -> None:
    dense = dense_acts(tokens, model, coders[hookpoint]).reshape(-1, NUM_LATENTS)
    position, latent, act = all_firings(cache, hookpoint)
    expected = dense.nonzero()
    assert (position == expected[0]).all()
    assert (latent == expected[1]).all()
    np.testing.assert_allclose(act, dense[expected], rtol=1e-4, atol=1e-6)
    assert (position.dtype, latent.dtype, act.dtype) == (np.int64, np.int32, np.float32)
    assert np.bincount(position).max() == K
    assert cache.n_firings(hookpoint) == len(position)


def test_padding_never_fires(cache: LatentCache, tokens: Tokens) -> None:
    assert not tokens.valid.all()
    position, _, _ = all_firings(cache, MLPS[0])
    assert tokens.valid.reshape(-1)[position].all()


def test_shards_never_mix_splits(cache: LatentCache, tokens: Tokens) -> None:
    heldout = tokens.fold == HELDOUT
    assert [(s.start, s.stop) for s in cache.shards][-1][1] == tokens.n_ctx
    for shard, after in zip(cache.shards, [*cache.shards[1:], None], strict=True):
        assert set(heldout[shard.start : shard.stop]) == {shard.split == "heldout"}
        assert after is None or shard.stop == after.start
    n_fit = int((~heldout).sum())
    fit, held = (all_firings(cache, MLPS[0], split=s)[0] for s in ("fit", "heldout"))
    assert fit.max() < n_fit * tokens.ctx_len <= held.min()
    assert len(fit) + len(held) == cache.n_firings(MLPS[0])


def test_latents_can_be_chosen(cache: LatentCache) -> None:
    position, latent, act = all_firings(cache, MLPS[1])
    keep = (latent >= 10) & (latent < 20)
    chosen = all_firings(cache, MLPS[1], latents=(10, 20))
    for found, expected in zip(chosen, (position, latent, act), strict=True):
        assert (found == expected[keep]).all()


@pytest.mark.parametrize("again", [False, True])
def test_summary_totals(cache: LatentCache, again: bool) -> None:
    n_fit = int(sum(s.stop - s.start for s in cache.shards if s.split == "fit"))
    position, latent, act = all_firings(cache, MLPS[0])
    fit = position < n_fit * cache.manifest.ctx_len
    summary = cache.summary(MLPS[0])
    for j in range(NUM_LATENTS):
        mine = act[fit & (latent == j)].astype(np.float64)
        assert summary.n_fit[j] == len(mine)
        assert summary.n_heldout[j] == (~fit & (latent == j)).sum()
        assert summary.sum_fit[j] == pytest.approx(mine.sum())
        assert summary.sum_sq_fit[j] == pytest.approx((mine**2).sum())
        assert summary.max_fit[j] == (mine.max() if len(mine) else 0)


def test_summary_of_other_shards_is_not_used(
    cache: LatentCache, tmp_path: Path, tokens: Tokens
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache.directory, copy)
    cache.summary(MLPS[0])
    cache.summary(MLPS[1])
    shutil.copy(cache.directory / MLPS[1] / "summary.npz", copy / MLPS[0] / "summary.npz")
    found = open_cache(copy, tokens).summary(MLPS[0])
    assert (found.n_fit == cache.summary(MLPS[0]).n_fit).all()
    (copy / MLPS[0] / "summary.npz").write_bytes(b"broken")
    assert (open_cache(copy, tokens).summary(MLPS[0]).n_fit == found.n_fit).all()


def test_opened_cache_is_the_built_one(cache: LatentCache, tokens: Tokens) -> None:
    opened = open_cache(cache.directory, tokens)
    assert opened.hookpoints == cache.hookpoints == MLPS
    assert opened.shards == cache.shards
    assert open_cache(cache.directory, tokens, MLPS[::-1]).hookpoints == MLPS
    assert opened.num_latents(MLPS[0]) == NUM_LATENTS
    for found, expected in zip(
        all_firings(opened, MLPS[1]), all_firings(cache, MLPS[1]), strict=True
    ):
        assert (found == expected).all()
    with pytest.raises(CacheError, match=r"no hookpoint 'layers\.9\.mlp'; it has layers\.0\.mlp, "):
        list(opened.iter_shards("layers.9.mlp"))


def test_float16_keeps_every_firing(
    cache: LatentCache, tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    half = build(tokens, model, coders, tmp_path, dtype="float16")
    exact, rounded = all_firings(cache, MLPS[0]), all_firings(half, MLPS[0])
    assert (exact[0] == rounded[0]).all()
    assert (exact[1] == rounded[1]).all()
    assert (rounded[2] == np.maximum(exact[2].astype(np.float16), np.float16(6e-8))).all()
    assert (rounded[2] > 0).all()


@pytest.mark.parametrize("size", ["ctx_len", "num_latents"])
def test_large_contexts_and_coders_do_not_overflow(tmp_path: Path, size: str) -> None:
    sizes = {"ctx_len": 100, "num_latents": 100} | {size: 100_000}
    position = np.array([0, 7, sizes["ctx_len"] - 1, sizes["ctx_len"]])
    latent = np.array([0, 1, 2, sizes["num_latents"] - 1], dtype=np.int32)
    act = np.array([1e-9, 1, 2, 3], dtype=np.float32)
    path = tmp_path / "shard.parquet"
    entry = write_shard(path, position, latent, act, dtype="float32", **sizes)
    found = read_shard(path, entry, Shard(0, 0, 2, "fit"), sizes["ctx_len"])
    assert found.position.tolist() == position.tolist()
    assert found.latent.tolist() == latent.tolist()
    assert found.act.tolist() == act.tolist()


def test_float16_edges(tmp_path: Path) -> None:
    path, shard = tmp_path / "shard.parquet", Shard(0, 0, 1, "fit")
    row = {"position": np.array([0]), "latent": np.array([0], dtype=np.int32)}
    sizes: dict[str, Any] = {"ctx_len": 8, "num_latents": 8, "dtype": "float16"}
    entry = write_shard(path, **row, act=np.array([1e-30], dtype=np.float32), **sizes)
    assert 0 < read_shard(path, entry, shard, 8).act[0] < 1e-7
    with pytest.raises(CacheError, match=r"does not fit float16.*use float32"):
        write_shard(path, **row, act=np.array([1e6], dtype=np.float32), **sizes)


def test_files_are_plain_parquet(cache: LatentCache) -> None:
    frame = pl.read_parquet(cache.directory / MLPS[0] / "shard-00000.parquet")
    assert frame.schema == {
        "ctx": pl.UInt32,
        "pos": pl.UInt16,
        "latent": pl.UInt16,
        "act": pl.Float32,
    }


@pytest.mark.slow
def test_autoencoder_on_the_residual_stream(
    tokens: Tokens, model: SubjectModel, tmp_path: Path
) -> None:
    for name in ("layers.0", "layers.1.self_attn", "layers.1"):
        write_coder(tmp_path / name, seed=3, transcode=False, skip_connection=False)
    coders = load_coders(tmp_path, model=model)
    cache = build(tokens, model, coders, tmp_path / "cache")
    assert cache.hookpoints == ("layers.0", "layers.1", "layers.1.self_attn")
    for name, coder in coders.items():
        dense = dense_acts(tokens, model, coder).reshape(-1, NUM_LATENTS)
        assert (all_firings(cache, name)[0] == dense.nonzero()[0]).all()


# --- resuming


class Interrupting:
    """A coder that raises KeyboardInterrupt (or kills the process) at its n-th batch."""

    def __init__(self, coder: Coder, at: int) -> None:
        self.coder, self.left = coder, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coder, name)

    def firings(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.coder.firings(x)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_interrupted_and_resumed_gives_the_same_bytes(
    cache: LatentCache,
    tokens: Tokens,
    model: SubjectModel,
    coders: Coders,
    tmp_path: Path,
    batch: int,
) -> None:
    broken: Any = coders | {MLPS[1]: Interrupting(coders[MLPS[1]], batch)}
    with pytest.raises(KeyboardInterrupt):
        build(tokens, model, broken, tmp_path)
    done = content(tmp_path)
    assert len(done) == 2 * ((batch - 1) // 3)
    if done:
        with pytest.raises(CacheError, match=r"of \d+ shards.*run `labeler cache` again"):
            open_cache(tmp_path, tokens)
    counting = Interrupting(coders[MLPS[1]], -1)
    resumed = build(tokens, model, coders | {MLPS[1]: counting}, tmp_path)  # type: ignore[dict-item]
    n_batches = sum(-(-(s.stop - s.start) // 6) for s in resumed.shards)
    assert -1 - counting.left == n_batches - 3 * ((batch - 1) // 3)
    assert content(tmp_path) == content(cache.directory)


def test_finished_cache_runs_nothing(
    cache: LatentCache, tokens: Tokens, model: SubjectModel, coders: Coders
) -> None:
    lazy: Any = {name: Interrupting(coder, 1) for name, coder in coders.items()}
    again = build(tokens, model, lazy, cache.directory)
    assert again.n_firings(MLPS[0]) == cache.n_firings(MLPS[0])


@pytest.mark.slow
def test_killed_process_leaves_a_cache_to_continue(
    cache: LatentCache,
    tokens: Tokens,
    model: SubjectModel,
    coders: Coders,
    tmp_path: Path,
    model_folder: Path,
    coder_folder: Path,
) -> None:
    save_tokens(tokens, tmp_path / "tokens")
    program = f"""
import os, signal
from pathlib import Path
from labeler.cache import build_cache
from labeler.coders import load_coders
from labeler.model import load_model
from labeler.windows import load_tokens
import labeler.shards as shards
model = load_model({str(model_folder)!r})
coders = load_coders({str(coder_folder)!r}, model=model)
real, calls = shards.hashlib.sha256, []
def atomic(path):
    calls.append(path)
    if len(calls) == 6:
        # in the middle of a file: its temporary sibling is half written
        path.with_name("." + path.name + ".1.tmp").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return old(path)
old, shards.atomic_path = shards.atomic_path, atomic
build_cache(load_tokens(Path({str(tmp_path / "tokens")!r})), model, coders,
            Path({str(tmp_path / "cache")!r}), contexts_per_shard=16, batch_size=6, quiet=True)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1])
    assert result.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").rglob("*.tmp"))) == 1
    assert len(content(tmp_path / "cache")) == 5
    build(load_tokens(tmp_path / "tokens"), model, coders, tmp_path / "cache")
    assert content(tmp_path / "cache") == content(cache.directory)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_other_hookpoints_can_be_added_later(
    cache: LatentCache, tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    build(tokens, model, {MLPS[1]: coders[MLPS[1]]}, tmp_path)
    first: Any = Interrupting(coders[MLPS[1]], 1)
    both = build(tokens, model, {MLPS[0]: coders[MLPS[0]], MLPS[1]: first}, tmp_path)
    assert both.hookpoints == MLPS
    assert content(tmp_path) == content(cache.directory)
    assert open_cache(tmp_path, tokens).hookpoints == MLPS
    assert open_cache(tmp_path, tokens, [MLPS[1]]).hookpoints == MLPS[1:]


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "swap"])
def test_damaged_shard_is_named_and_only_it_is_made_again(
    cache: LatentCache,
    tokens: Tokens,
    model: SubjectModel,
    coders: Coders,
    tmp_path: Path,
    harm: str,
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache.directory, copy)
    path = copy / MLPS[0] / "shard-00003.parquet"
    data = path.read_bytes()
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "flip":
        path.write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    else:
        shutil.copy(copy / MLPS[0] / "shard-00002.parquet", path)
    opened = open_cache(copy, tokens)
    shards = opened.iter_shards(MLPS[0])
    assert [next(shards).shard.index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(CacheError, match=r"shard-00003\.parquet.*rewrites just this shard"):
        next(shards)
    assert len(list(opened.iter_shards(MLPS[1]))) == len(opened.shards)
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*.parquet")}
    build(tokens, model, coders, copy)
    changed = [p for p, mtime in before.items() if p.stat().st_mtime_ns != mtime]
    assert changed == ([] if harm == "delete" else [path])
    assert content(copy) == content(cache.directory)


def test_full_disk_keeps_what_is_finished(
    cache: LatentCache,
    tokens: Tokens,
    model: SubjectModel,
    coders: Coders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = Path.write_bytes, [0]

    def write_bytes(self: Path, data: bytes) -> int:
        calls[0] += 1
        if calls[0] > 4:
            real(self, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(DiskError, match=r"no space left.*continues where it stopped"):
        build(tokens, model, coders, tmp_path)
    monkeypatch.undo()
    done = content(tmp_path)
    assert len(done) == 4
    assert done.items() <= content(cache.directory).items()
    assert not list(tmp_path.rglob("*.tmp"))
    build(tokens, model, coders, tmp_path)
    assert content(tmp_path) == content(cache.directory)


# --- what it refuses


@pytest.fixture
def copy(cache: LatentCache, tmp_path: Path) -> Path:
    """A finished cache to run into with other inputs."""
    return Path(shutil.copytree(cache.directory, tmp_path / "copy"))


def test_other_inputs_are_refused_by_name(
    copy: Path, tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    before = content(copy)
    write_coder(tmp_path / MLPS[0], seed=99)
    other_coder = load_coders(tmp_path / MLPS[0], model=model)
    other_tokens = dataclasses.replace(tokens, ids=np.roll(tokens.ids, 1, axis=0))
    other_model: Any = Interrupting(model, 0)  # type: ignore[arg-type]
    other_model.fingerprint = "other"
    for what, arguments, options in (
        ("tokens", (other_tokens, model, coders), {}),
        ("model", (tokens, other_model, coders), {}),
        (r"coder at layers\.0\.mlp", (tokens, model, coders | other_coder), {}),
        ("dtype", (tokens, model, coders), {"dtype": "float16"}),
        ("contexts_per_shard", (tokens, model, coders), {"contexts_per_shard": 8}),
    ):
        with pytest.raises(CacheError, match=f"with another {what}; choose another --out, or del"):
            build(*arguments, copy, **options)
    assert content(copy) == before
    with pytest.raises(CacheError, match="made from other tokens"):
        open_cache(copy, other_tokens)


def test_other_inputs_are_fine_where_nothing_was_finished(
    tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    broken: Any = {name: Interrupting(coder, 1) for name, coder in coders.items()}
    with pytest.raises(KeyboardInterrupt):
        build(tokens, model, broken, tmp_path)
    build(tokens, model, coders, tmp_path, dtype="float16")


@pytest.mark.parametrize("harm", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_damaged_manifest_is_named(copy: Path, tokens: Tokens, harm: str) -> None:
    (copy / "manifest.json").write_text(harm)
    with pytest.raises(CacheError, match=r"manifest\.json (is damaged|has format 99).*delete"):
        open_cache(copy, tokens)


def test_missing_cache_says_what_to_run(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no latent cache in .*; run `labeler cache` first"):
        open_cache(tmp_path, tokens)


def test_values_that_are_not_finite_are_refused(
    tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    weight = model.bridge.original_model.model.norm.weight
    block = next(
        p for n, p in model.bridge.named_parameters() if "blocks.1" in n or "layers.1" in n
    )
    old = block.detach().clone()
    assert weight is not None
    try:
        with torch.no_grad():
            block.fill_(float("nan"))
        with pytest.raises(CacheError, match=r"not finite at blocks\.1\.mlp\.hook_in"):
            build(tokens, model, coders, tmp_path)
    finally:
        with torch.no_grad():
            block.copy_(old)


def test_options_out_of_range_are_refused(
    tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        build(tokens, model, coders, tmp_path, batch_size=0)
    with pytest.raises(OptionError, match="no coder"):
        build(tokens, model, {}, tmp_path)


def test_shards_need_fit_before_heldout(tokens: Tokens) -> None:
    with pytest.raises(CacheError, match="fit contexts must come before"):
        plan_shards(tokens.select(np.arange(tokens.n_ctx)[::-1].astype(np.int64)), 4)


# --- size


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(
    tokens: Tokens, model: SubjectModel, coders: Coders, tmp_path: Path
) -> None:
    fit = tokens.fit.select(np.arange(32))

    def peak(repeats: int) -> int:
        rows = np.tile(np.arange(32), repeats)
        many = fit.select(rows)
        many = dataclasses.replace(many, doc=np.sort(many.doc))
        gc.collect()
        tracemalloc.start()
        cache = build(many, model, coders, tmp_path / str(repeats))
        for found in cache.iter_shards(MLPS[0]):
            assert isinstance(found, Firings)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)
    few, many = peak(2), peak(20)
    n_firings = 18 * 32 * tokens.ctx_len * K * len(MLPS)
    # Holding a firing takes at least 12 bytes (position, latent, activation).
    # What the manifest holds per shard does grow, and by more under some library versions.
    assert many - few < 0.25 * 12 * n_firings


def test_a_firing_takes_few_bytes(cache: LatentCache) -> None:
    entry = json.loads((cache.directory / "manifest.json").read_text())["hookpoints"][MLPS[0]]
    rows = sum(shard["rows"] for shard in entry["shards"].values())
    assert sum(shard["size"] for shard in entry["shards"].values()) < 9 * rows


@pytest.mark.shared
@pytest.mark.slow
def test_openstax_subject_goes_through(shared_data: Path, tmp_path: Path) -> None:
    from labeler.corpus import load_corpus
    from labeler.model import load_model
    from labeler.windows import tokenize_corpus

    root = shared_data / "openstax-subject"
    model = load_model(root / "model")
    corpus = load_corpus(shared_data / "openstax" / "openstax.parquet", split_column="split")
    tokens = tokenize_corpus(
        corpus, model.tokenizer, ctx_len=128, fit_tokens=2000, heldout_tokens=500
    )
    coders = load_coders(root / "transcoders", model=model)
    cache = build_cache(tokens, model, coders, tmp_path, quiet=True)
    for hookpoint in cache.hookpoints:
        assert cache.n_firings(hookpoint) == pytest.approx(32 * tokens.n_positions, rel=0.05)


@pytest.mark.shared
@pytest.mark.slow
def test_tinystories_subject_goes_through(shared_data: Path, tmp_path: Path) -> None:
    from labeler.corpus import load_corpus
    from labeler.model import load_model
    from labeler.windows import tokenize_corpus

    model = load_model(shared_data / "tinystories-656k")
    corpus = load_corpus(shared_data / "tinystories-text" / "validation.txt")
    tokens = tokenize_corpus(
        corpus,
        model.tokenizer,
        ctx_len=128,
        fit_tokens=2000,
        heldout_tokens=500,
        n_vocab=model.n_vocab,
    )
    assert tokens.vocab[int(tokens.ids[0, 0])] == "<|start_story|>"
    for layer in range(2):
        write_coder(tmp_path / f"layers.{layer}.mlp", seed=layer, d_in=128)
    coders = load_coders(tmp_path, model=model)
    cache = build_cache(tokens, model, coders, tmp_path / "cache", quiet=True)
    for hookpoint, coder in coders.items():
        dense = dense_acts(tokens, model, coder).reshape(-1, NUM_LATENTS)
        position, latent, _ = all_firings(cache, hookpoint)
        assert (position == dense.nonzero()[0]).all()
        assert (latent == dense.nonzero()[1]).all()


# --- progress


def test_progress_is_silent_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("counting", 3) as advance:
        advance(3)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_progress_fits_80_columns_on_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    with progress_bar("counting things " * 9, 3) as advance:
        advance(3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "counting things" in captured.err
    assert all(len(line) <= 80 for line in captured.err.splitlines())
    with progress_bar("counting", 3, quiet=True) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
