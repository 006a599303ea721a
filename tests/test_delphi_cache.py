"""delphi latent caches: written as delphi does, read back number by number, and what is refused."""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from labeler.cache import LatentCache, build_cache
from labeler.coders import Coder
from labeler.config import RunConfig
from labeler.corpus import hashed_split
from labeler.errors import CacheError, CorpusError, OptionError
from labeler.inputs import Run
from labeler.interop.delphi_cache import write_delphi_cache
from labeler.interop.delphi_cache_read import read_delphi_cache
from labeler.interop.delphi_documents import split_documents
from labeler.interop.delphi_files import find_files
from labeler.interop.delphi_ours import load_documents, save_documents
from labeler.model import SubjectModel
from labeler.tokens import HELDOUT, Tokens
from tests.conftest import NUM_LATENTS, write_coder

NAME = "layers.0.mlp"
RANGES = [(0, 8), (9, 18), (19, 27), (28, 37), (38, 47)]
"""48 latents in 5 files: a fifth is 9.6, and delphi truncates its multiples."""


def rows(cache: LatentCache, name: str = NAME, split: Any = None) -> np.ndarray:
    """Context, position, latent, activation of every firing, [m, 4]."""
    found = list(cache.iter_shards(name, split))
    ctx, pos = np.divmod(np.concatenate([f.position for f in found]), cache.manifest.ctx_len)
    columns = [
        ctx,
        pos,
        *(np.concatenate([getattr(f, k) for f in found]) for k in ("latent", "act")),
    ]
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def by_latent(directory: Path, name: str = NAME) -> dict[int, np.ndarray]:
    """Sequence, position, activation by latent: an independent reading of the documented layout."""
    found: dict[int, list[np.ndarray]] = {}
    for path in sorted((directory / "latents" / name).glob("*.safetensors")):
        stored = load_file(path)
        first = int(path.stem.split("_")[0])
        for (sequence, pos, latent), act in zip(
            stored["locations"].tolist(), stored["activations"].tolist(), strict=True
        ):
            found.setdefault(latent + first, []).append(np.array([sequence, pos, act]))
    return {latent: np.stack(some) for latent, some in found.items()}


@pytest.fixture
def config(model_folder: Path, coder_folder: Path) -> RunConfig:
    return RunConfig(model=str(model_folder), coder=str(coder_folder), corpus="some text")


@pytest.fixture
def written(cache: LatentCache, tokens: Tokens, config: RunConfig, tmp_path: Path) -> Path:
    """The tiny cache in delphi's layout, lossless."""
    write_delphi_cache(cache, tokens, tmp_path / "d", config=config, dtype="float32", quiet=True)
    return tmp_path / "d"


@pytest.fixture
def foreign(model: SubjectModel, coders: dict[str, Coder], tmp_path: Path) -> Path:
    """A cache of 40 packed contexts of 24 as delphi makes it, nothing of ours beside it."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, model.n_vocab, (40, 24)).astype(np.int32)
    ids.ravel()[[0, 30, 48, *range(100, 960, 37)]] = 0  # separators, some inside contexts
    whole = Tokens(
        ids, np.full(40, 24, np.int32), np.arange(40, dtype=np.int32), np.zeros(40, np.int8),
        tuple(map(str, range(40))), ((),) * 40, (), tuple(map(str, range(model.n_vocab))),
    )  # fmt: skip
    made = build_cache(whole, model, coders, tmp_path / "made", quiet=True)
    config = RunConfig(model="m", coder="c", corpus="x")
    write_delphi_cache(made, whole, tmp_path / "f", config=config, quiet=True)
    for path in (tmp_path / "f" / "labeler").iterdir():
        path.unlink()
    (tmp_path / "f" / "labeler").rmdir()
    return tmp_path / "f"


def run_of(directory: Path, out: Path, config: RunConfig, **options: Any) -> Run:
    return read_delphi_cache(
        directory, out, model=config.model, coder=config.coder, quiet=True, **options
    )


def test_written_as_delphi_does(
    written: Path, cache: LatentCache, tokens: Tokens, config: RunConfig
) -> None:
    assert sorted(p.name for p in (written / "latents").iterdir()) == list(cache.hookpoints)
    files = sorted((written / "latents" / NAME).glob("*.safetensors"))
    assert {p.stem for p in files} == {f"{low}_{high}" for low, high in RANGES}
    stored = load_file(files[0])
    assert {key: value.dtype.name for key, value in stored.items()} == {
        "locations": "uint16", "activations": "float32", "tokens": "int32",
    }  # fmt: skip
    assert np.array_equal(stored["tokens"][tokens.valid], tokens.ids[tokens.valid])
    keys = stored["locations"].astype(int) @ [10**8, 10**4, 1]
    assert (np.diff(keys) > 0).all()  # in the order of torch.nonzero
    assert json.loads((files[0].parent / "config.json").read_text())["model_name"] == config.model
    assert json.loads((written / "run_config.json").read_text())["hookpoints"] == list(
        cache.hookpoints
    )


def test_every_firing_is_in_its_file(written: Path, cache: LatentCache) -> None:
    expected = rows(cache)
    found = by_latent(written)
    assert sum(map(len, found.values())) == len(expected)
    for latent, mine in found.items():
        theirs = expected[expected[:, 2] == latent]
        assert np.array_equal(mine, theirs[:, [0, 1, 3]])


def test_round_trip_number_by_number(
    written: Path, cache: LatentCache, tokens: Tokens, config: RunConfig, tmp_path: Path
) -> None:
    run = run_of(written, tmp_path / "run", config)
    assert run.tokens.fingerprint == tokens.fingerprint
    assert run.config.corpus == f"delphi:{written}"
    again = Run(tmp_path / "run", quiet=True)
    assert again.hookpoints == cache.hookpoints
    for name in cache.hookpoints:
        assert np.array_equal(rows(again.cache, name), rows(cache, name))
        assert np.array_equal(again.cache.summary(name).n_fit, cache.summary(name).n_fit)
    kept = json.loads((tmp_path / "run" / "import.json").read_text())
    assert kept["notes"] == []
    assert kept["agreement"] == dict.fromkeys(cache.hookpoints, 1.0)


def test_float16_keeps_every_firing(
    cache: LatentCache, tokens: Tokens, config: RunConfig, tmp_path: Path
) -> None:
    write_delphi_cache(cache, tokens, tmp_path / "d", config=config, quiet=True)
    run = run_of(tmp_path / "d", tmp_path / "run", config)
    assert run.cache.manifest.dtype == "float16"
    found, expected = rows(run.cache), rows(cache)
    assert np.array_equal(found[:, :3], expected[:, :3])
    np.testing.assert_allclose(found[:, 3], expected[:, 3], rtol=1e-3)


@pytest.mark.parametrize("split", ["fit", "heldout"])
def test_one_split(
    split: Any, cache: LatentCache, tokens: Tokens, config: RunConfig, tmp_path: Path
) -> None:
    write_delphi_cache(
        cache, tokens, tmp_path / "d", config=config, split=split, dtype="float32", quiet=True
    )
    expected = rows(cache, split=split)
    expected[:, 0] -= tokens.fit.n_ctx if split == "heldout" else 0
    found = by_latent(tmp_path / "d")
    assert sum(map(len, found.values())) == len(expected)
    assert np.array_equal(found[7], expected[expected[:, 2] == 7][:, [0, 1, 3]])
    with pytest.raises(CacheError, match="one split only"):
        run_of(tmp_path / "d", tmp_path / "run", config)


def test_foreign_cache_lands_where_the_text_is(
    foreign: Path, config: RunConfig, tmp_path: Path
) -> None:
    said: list[str] = []
    run = run_of(foreign, tmp_path / "run", config, say=said.append)
    tokens = run.tokens
    assert any("documents begin at BOS or EOS" in line for line in said)
    ids = load_file(next((foreign / "latents" / NAME).glob("*.safetensors")))["tokens"]
    # A firing is known by its activation and what stands before it, wherever it was moved to.
    assert np.array_equal(np.sort(tokens.ids[tokens.valid]), np.sort(ids.ravel()))
    found = rows(run.cache)
    text = {(int(ctx), int(pos)): tokens.ids[int(ctx), int(pos)] for ctx, pos, *_ in found}
    theirs = by_latent(foreign)
    assert len(found) == sum(map(len, theirs.values()))
    for latent, some in theirs.items():
        mine = found[found[:, 2] == latent]
        ours = sorted((float(act), int(text[int(ctx), int(pos)])) for ctx, pos, _, act in mine)
        assert ours == sorted((act, int(ids[int(s), int(p)])) for s, p, act in some.tolist())
    for number, name in enumerate(tokens.doc_ids):
        fold = tokens.fold[tokens.doc == number]
        assert (fold == HELDOUT).all() == (hashed_split(name) == "heldout")
    # Rows of one document only: a separator is where a row begins, never inside.
    assert not (tokens.ids[:, 1:] == 0)[tokens.valid[:, 1:]].any()


def test_documents_by_hand() -> None:
    ids = np.array([[9, 1, 2, 9], [3, 4, 9, 9], [9, 5, 6, 7]] + [[9, 1, 1, 1], [2, 2, 2, 2]] * 30)
    tokens, layout, notes = split_documents(ids.astype(np.int32), {9}, [str(i) for i in range(10)])
    # 9 1 2 | 9 3 4 | 9 9 9?: the run 9 9 at the end of a context begins a document, and the next
    # context begins with 9, so with a document of its own.
    assert layout.begin[:5].tolist() == [0, 3, 4, 6, 8]
    assert layout.length[:5].tolist() == [3, 1, 2, 2, 4]
    document = {
        b: tokens.doc_ids[tokens.doc[r]] for b, r in zip(layout.begin, layout.row, strict=True)
    }
    assert [document[b] for b in (0, 3, 4, 6, 8)] == [
        "document 0", "document 1", "document 1", "document 2", "document 3",
    ]  # fmt: skip
    assert document[12] == document[16] != document[20]
    assert layout.place(np.array([5])).tolist() == [layout.row[2] * 4 + 1]
    assert (np.diff(tokens.doc) >= 0).all()
    assert len(notes) == 2


@pytest.mark.parametrize(("first", "says"), [(0, "begin with BOS or EOS"), (1, "hold no BOS")])
def test_contexts_without_borders_are_documents(first: int, says: str) -> None:
    ids = np.ones((60, 8), dtype=np.int32)
    ids[:, 0] = first
    tokens, _, notes = split_documents(ids, {0}, ["a", "b"])
    assert len(tokens.doc_ids) == tokens.n_ctx == 60
    assert says in notes[0]
    assert "both splits" in notes[0]


def test_few_documents_fall_back_to_contexts() -> None:
    ids = np.ones((60, 8), dtype=np.int32)
    ids[0, 0] = 0
    tokens, _, notes = split_documents(ids, {0}, ["a", "b"])
    assert tokens.n_ctx == 60
    assert len(tokens.doc_ids) == 60
    assert "each context counts as one" in notes[0]
    with pytest.raises(CacheError, match="too few to hold out"):
        split_documents(ids[:2], {0}, ["a", "b"])


def test_unsorted_files_and_wide_types(foreign: Path, config: RunConfig, tmp_path: Path) -> None:
    before = rows(run_of(foreign, tmp_path / "a", config).cache)
    rng = np.random.default_rng(1)
    for path in (foreign / "latents" / NAME).glob("*.safetensors"):
        stored = load_file(path)
        order = rng.permutation(len(stored["activations"]))
        save_file(
            {
                "locations": stored["locations"][order].astype(np.uint32),
                "activations": stored["activations"][order].astype(np.float32),
                "tokens": stored["tokens"].astype(np.int64),
            },
            path,
        )
    assert np.array_equal(rows(run_of(foreign, tmp_path / "b", config).cache), before)


def test_bfloat16(foreign: Path, config: RunConfig, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    for path in (foreign / "latents" / NAME).glob("*.safetensors"):
        stored = load_torch(path)
        stored["activations"] = stored["activations"].to(torch.bfloat16)
        save_torch(stored, path)
    run = run_of(foreign, tmp_path / "run", config)
    act = rows(run.cache)[:, 3].astype(np.float32)
    assert np.array_equal(act, torch.from_numpy(act).bfloat16().float().numpy())
    assert run.cache.manifest.dtype == "float32"


def test_silence_is_left_out_and_counted(foreign: Path, config: RunConfig, tmp_path: Path) -> None:
    path, stored = one_file(foreign)
    stored["activations"][:3] = [0, -1, -2]
    save_file(stored, path)
    said: list[str] = []
    run = run_of(foreign, tmp_path / "run", config, say=said.append)
    assert run.cache.n_firings(NAME) == sum(map(len, by_latent(foreign).values())) - 3
    assert any("3 activations of 0 or less" in line for line in said)


def test_another_coder_is_noticed(
    foreign: Path, config: RunConfig, tmp_path: Path, coder_folder: Path
) -> None:
    for layer in (0, 1):
        write_coder(tmp_path / "other" / f"layers.{layer}.mlp", seed=7 + layer)
    said: list[str] = []
    other = replace(config, coder=str(tmp_path / "other"))
    run_of(foreign, tmp_path / "run", other, say=said.append)
    assert sum("check that they are those of the cache" in line for line in said) == 2


def one_file(directory: Path) -> tuple[Path, dict[str, np.ndarray]]:
    path = directory / "latents" / NAME / "9_18.safetensors"
    return path, load_file(path)


def _set(key: str, index: Any, value: Any) -> Any:
    def change(path: Path, stored: dict[str, np.ndarray]) -> None:
        stored[key][index] = value
        save_file(stored, path)

    return change


def _drop(key: str) -> Any:
    def change(path: Path, stored: dict[str, np.ndarray]) -> None:
        save_file({name: array for name, array in stored.items() if name != key}, path)

    return change


def _become(key: str, make: Any) -> Any:
    def change(path: Path, stored: dict[str, np.ndarray]) -> None:
        save_file(stored | {key: make(stored[key])}, path)

    return change


def _twice(path: Path, stored: dict[str, np.ndarray]) -> None:
    stored["locations"][1] = stored["locations"][0]
    save_file(stored, path)


def _huge_header(path: Path, stored: dict[str, np.ndarray]) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{")


def _long_header(path: Path, stored: dict[str, np.ndarray]) -> None:
    header = b'{"a":' + b" " * (2 << 20)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def _lying_header(path: Path, stored: dict[str, np.ndarray]) -> None:
    header = json.dumps(
        {"locations": {"dtype": "U16", "shape": [10**12, 3], "data_offsets": [0, 6]},
         "activations": {"dtype": "F16", "shape": [1], "data_offsets": [6, 8]}}
    ).encode()  # fmt: skip
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def _deep_header(path: Path, stored: dict[str, np.ndarray]) -> None:
    header = b"[" * 100_000
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def _negative(path: Path, stored: dict[str, np.ndarray]) -> None:
    stored["activations"] *= -1
    save_file(stored, path)


BROKEN = {
    "before the activation": (_negative, "from before the activation function"),
    "longer": (lambda path, _: path.write_bytes(path.read_bytes() + b"x"), "its header promises"),
    "position": (_set("locations", (3, 1), 24), r"location 3 has position 24, expected 0 to 23"),
    "sequence": (_set("locations", (0, 0), 40), "has sequence 40"),
    "latent": (_set("locations", (5, 2), 10), "location 5 has latent 10, expected 0 to 9"),
    "nan": (_set("activations", 2, np.nan), "activation 2 is nan"),
    "infinite": (_set("activations", 2, np.inf), "activation 2 is inf"),
    "other tokens": (_set("tokens", (9, 3), 2), "different tokens"),
    "no locations": (_drop("locations"), "no locations"),
    "no activations": (_drop("activations"), "no activations"),
    "fewer": (_become("activations", lambda a: a[:-1]), r"locations is \[\d+, 3\], expected"),
    "flat": (_become("locations", np.ravel), "expected 2 axes"),
    "float": (_become("locations", lambda a: a.astype(np.float32)), "locations is F32"),
    "shorter": (_become("tokens", lambda a: a[:-1].copy()), "different tokens"),
    "twice": (_twice, "twice at one place"),
    "cut": (lambda path, _: os.truncate(path, path.stat().st_size - 7), "its header promises"),
    "empty": (lambda path, _: path.write_bytes(b""), "shorter than its header"),
    "huge header": (_huge_header, "shorter than its header"),
    "long header": (_long_header, "at most 1,048,576 are read"),
    "lying header": (_lying_header, "does not go together"),
    "deep header": (_deep_header, "not a safetensors header"),
    "gap": (lambda path, _: path.unlink(), "leaves out latents 9 to 18"),
    "overlap": (lambda path, _: path.rename(path.with_name("8_18.safetensors")), "holds again"),
    "name": (lambda path, _: path.rename(path.with_name("x.safetensors")), "is not named"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused(
    kind: str, foreign: Path, config: RunConfig, tmp_path: Path
) -> None:
    change, says = BROKEN[kind]
    path, stored = one_file(foreign)
    change(path, stored)
    with pytest.raises(CacheError, match=says):
        run_of(foreign, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob(".run*"))


def test_what_does_not_go_together(
    foreign: Path, config: RunConfig, tmp_path: Path, model: SubjectModel
) -> None:
    write_coder(tmp_path / "big" / NAME, seed=0, num_latents=64)
    big = replace(config, coder=str(tmp_path / "big"))
    with pytest.raises(CacheError, match=r"latents 0 to 47, the coder at layers\.0\.mlp has 64"):
        run_of(foreign, tmp_path / "run", big, hookpoints=[NAME])
    with pytest.raises(CacheError, match=r"no latents of layers\.7\.mlp"):
        run_of(foreign, tmp_path / "run", config, hookpoints=["layers.7.mlp"])
    with pytest.raises(CacheError, match="no delphi latent cache"):
        run_of(tmp_path / "nowhere", tmp_path / "run", config)
    for path in foreign.rglob("*.safetensors"):
        stored = load_file(path)
        stored["tokens"][0, 0] = model.n_vocab
        save_file(stored, path)
    with pytest.raises(CacheError, match=f"holds token {model.n_vocab}"):
        run_of(foreign, tmp_path / "run", config)
    for path in foreign.rglob("*.safetensors"):
        _drop("tokens")(path, load_file(path))
    with pytest.raises(CacheError, match="holds tokens"):
        run_of(foreign, tmp_path / "run", config)


def test_a_run_folder_is_never_touched(foreign: Path, config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept")
    with pytest.raises(CacheError, match="already holds something"):
        run_of(foreign, tmp_path / "run", config)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def _json(name: str, value: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "documents.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def _array(name: str, index: Any, value: int) -> Any:
    def change(folder: Path) -> None:
        stored = load_file(folder / "contexts.safetensors")
        stored[name][index] = value
        save_file(stored, folder / "contexts.safetensors")

    return change


OTHER_DOCUMENTS = {
    "longer": (_array("length", 3, 33), "a context has 33 tokens of 32"),
    "empty": (_array("length", 3, 0), "does not belong"),
    "order": (_array("doc", 0, 5), "not in the order"),
    "too few": (_json("doc_ids", ["a"]), "order of 1 documents"),
    "fold": (_array("fold", 0, 5), "in two folds"),
    "no topics": (_json("topics", []), "differ in number"),
    "not names": (_json("doc_ids", [1, 2]), "lists of names"),
    "no list": (_json("topics", 3), "has no topics"),
    "no JSON": (lambda at: (at / "documents.json").write_text("{"), "cannot be read"),
    "cut": (lambda at: os.truncate(at / "contexts.safetensors", 90), "shorter than its header"),
}


@pytest.mark.parametrize("kind", OTHER_DOCUMENTS)
def test_other_documents_are_refused(
    kind: str, written: Path, config: RunConfig, tmp_path: Path
) -> None:
    change, says = OTHER_DOCUMENTS[kind]
    change(written / "labeler")
    with pytest.raises(CacheError, match=says):
        run_of(written, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_documents_leave_padding_aside(tokens: Tokens, tmp_path: Path) -> None:
    save_documents(tmp_path, tokens)
    ids = np.where(tokens.valid, tokens.ids, np.int32(9))
    assert load_documents(tmp_path, ids, tokens.vocab).fingerprint == tokens.fingerprint


def test_firings_at_padding_are_left_out(
    written: Path, tokens: Tokens, config: RunConfig, tmp_path: Path
) -> None:
    path, stored = one_file(written)
    context = int(np.flatnonzero(tokens.length < 32)[0])
    stored["locations"][-1] = [context, 31, 0]
    save_file(stored, path)
    said: list[str] = []
    run = run_of(written, tmp_path / "run", config, say=said.append)
    assert any("1 firings at padded positions" in line for line in said)
    assert run.cache.n_firings(NAME) == sum(map(len, by_latent(written).values())) - 1


def test_padding_is_what_documents_begin_with(tokens: Tokens) -> None:
    from labeler.interop.delphi_cache import _padding

    ids = tokens.ids + 5
    ids[0, 0] = 77
    assert _padding(replace(tokens, ids=ids)) == tokens.ids[0, 0] + 5


def test_in_small_pieces(
    foreign: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many blocks of a file and many small shards hold the same firings."""
    whole = run_of(foreign, tmp_path / "a", config)
    monkeypatch.setattr("labeler.interop.delphi_files.BLOCK", 37)
    monkeypatch.setattr("labeler.interop.delphi_cache_read._SHARD_FIRINGS", 500)
    parts = run_of(foreign, tmp_path / "b", config)
    assert np.array_equal(rows(parts.cache), rows(whole.cache))
    assert len(parts.cache.shards) > 5 * len(whole.cache.shards)
    most = max(len(found) for found in parts.cache.iter_shards(NAME))
    assert most <= 2 * 500


def test_export_continues_and_refuses(
    cache: LatentCache, tokens: Tokens, config: RunConfig, tmp_path: Path
) -> None:
    at = tmp_path / "d"
    write_delphi_cache(cache, tokens, at, config=config, quiet=True)
    kept, again = (at / "latents" / NAME / f"{low}_{high}.safetensors" for low, high in RANGES[:2])
    content, stamp = again.read_bytes(), kept.stat().st_mtime_ns
    again.unlink()
    write_delphi_cache(cache, tokens, at, config=config, quiet=True)
    assert again.read_bytes() == content
    assert kept.stat().st_mtime_ns == stamp
    with pytest.raises(CacheError, match="other options"):
        write_delphi_cache(cache, tokens, at, config=config, n_splits=3, quiet=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    with pytest.raises(CacheError, match="no export of labeler"):
        write_delphi_cache(cache, tokens, tmp_path / "mine", config=config, quiet=True)
    with pytest.raises(OptionError, match="--n-splits is 49"):
        write_delphi_cache(cache, tokens, tmp_path / "e", config=config, n_splits=49, quiet=True)


def test_more_than_65536_contexts_take_wider_locations(tmp_path: Path) -> None:
    from labeler.interop.delphi_cache import _write

    ids = np.zeros((70_000, 2), np.int32)
    for last, dtype in ((65_535, np.uint16), (65_536, np.uint32)):
        location = np.array([[0, 1, 2], [last, 0, 1]])
        _write(tmp_path / "0_4.safetensors", location, np.ones(2, np.float32), ids, "float32")
        stored = load_file(tmp_path / "0_4.safetensors")["locations"]
        assert stored.dtype == dtype
        assert np.array_equal(stored, location)


def test_too_large_for_float16(tmp_path: Path) -> None:
    from labeler.interop.delphi_cache import _half

    with pytest.raises(CacheError, match="--dtype float32"):
        _half(np.array([70_000], np.float32), tmp_path)
    assert (_half(np.array([1e-12], np.float32), tmp_path) > 0).all()


def test_stopped_import_leaves_nothing_and_is_repeated(
    foreign: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("labeler.interop.delphi_cache_read._sort", stop)
        with pytest.raises(KeyboardInterrupt):
            run_of(foreign, tmp_path / "run", config)
    assert not list(tmp_path.glob("*run*"))
    # What a killed process, which cannot tidy up, leaves behind.
    left = tmp_path / ".run.importing" / "cache" / NAME / ".0.bucket"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a firing")
    run = run_of(foreign, tmp_path / "run", config)
    assert run.cache.n_firings(NAME) == sum(map(len, by_latent(foreign).values()))
    assert [path.name for path in tmp_path.glob("*run*")] == ["run"]
    assert not list((tmp_path / "run").rglob(".*"))


@pytest.mark.slow
def test_fit_on_an_imported_cache(written: Path, config: RunConfig, tmp_path: Path) -> None:
    """Every later step works, and gives what it gives on the cache that was exported."""
    from labeler import steps
    from labeler.labels import LabelSet, label_folder

    run = run_of(written, tmp_path / "run", config)
    for step in (lambda r: steps.fit(r, ["unigram", "bigram"], corrections=[]), steps.verify):
        step(run)
    labels = LabelSet.load(label_folder(run.out, NAME))
    assert labels.labeled.any()
    steps.rewrite(run, 500)
    steps.report(run)
    page = (run.out / "report.html").read_text(encoding="utf-8")
    assert f"labeler import-cache {written}" in page
    assert "labeler run" not in page


def test_an_imported_run_has_no_corpus_to_cache(
    written: Path, config: RunConfig, tmp_path: Path
) -> None:
    from labeler import steps

    run = run_of(written, tmp_path / "run", config)
    with pytest.raises(CorpusError, match="imported from a delphi cache"):
        steps.cache(run)


def test_documents_are_found_from_the_latents_folder(
    written: Path, tokens: Tokens, config: RunConfig, tmp_path: Path
) -> None:
    run = run_of(written / "latents", tmp_path / "run", config)
    assert run.tokens.fingerprint == tokens.fingerprint


def test_files_are_found_by_either_folder(foreign: Path) -> None:
    expected = [(0, 8), (9, 18), (19, 27), (28, 37), (38, 47)]
    for at in (foreign, foreign / "latents"):
        found = find_files(at)
        assert list(found) == ["layers.0.mlp", "layers.1.mlp"]
        assert [(one.first, one.last) for one in found[NAME]] == expected
    assert found[NAME][-1].last + 1 == NUM_LATENTS
