"""Broken and hostile files of explanations: typed errors, bounded memory, nothing executed."""

import gzip
import json
import os
import pickle
import random
import resource
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labeler.errors import ExplanationError, LabelerError
from labeler.interop import bounded, checks, collect, tables
from labeler.interop.checks import context_of, text_of
from labeler.interop.read import FORMATS, read_explanations

GOOD = b'{"hookpoint": "layers.0", "latent": 1, "text": "dogs"}\n'


def peak_kib() -> int:
    """Largest memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.parquet", "t.txt", "t.jsonl.gz"])
@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"\xff\xfe\x00d\x00o\x00g", random.Random(0).randbytes(2000)],
    ids=["empty", "blank", "utf-16", "noise"],
)
def test_files_of_nothing_or_of_noise(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    for where in (path, tmp_path):
        with pytest.raises(ExplanationError) as caught:
            read_explanations(where)
        assert str(where) in str(caught.value)


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format_refuses_what_it_is_not(tmp_path: Path, format: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"a": 1}\n[1, 2]\n"text"\nnull\n')
    with pytest.raises(ExplanationError):
        read_explanations(path, format=format)


def test_a_line_that_is_not_utf8_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(GOOD + b'{"hookpoint": "layers.0", "latent": 2, "text": "caf\xe9"}\n')
    found = read_explanations(path)
    assert len(found.explanations) == 1
    assert "line that is not UTF-8 text" in found.notes[0]
    assert "line 2: byte 51: 0xe9" in found.notes[0]


def test_a_csv_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"hookpoint,latent,text\nlayers.0,1,a\nlayers.0,2,caf\xe9\n")
    with pytest.raises(ExplanationError, match=r"t\.csv, line 3 is not UTF-8"):
        read_explanations(path)


def test_a_csv_with_too_many_fields_in_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("hookpoint,latent,text\nlayers.0,1,a,b,c\n", encoding="utf-8")
    with pytest.raises(ExplanationError, match="quote fields"):
        read_explanations(path)
    path.write_text("hookpoint,latent,text" + ",x" * 20_000 + "\n", encoding="utf-8")
    with pytest.raises(ExplanationError, match="more than 10,000 columns"):
        read_explanations(path)


def test_gzip_that_is_cut_names_the_line(tmp_path: Path) -> None:
    lines = b"".join(GOOD.replace(b"dogs", os.urandom(40).hex().encode()) for _ in range(500))
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-2000])
    with pytest.raises(ExplanationError, match=r"after line \d+: the gzip data is cut or damaged"):
        read_explanations(path)


def test_one_endless_line_in_gzip(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(GOOD)
        for _ in range(100):
            stream.write(b" " * (1 << 20))
    assert path.stat().st_size < 600_000
    before = peak_kib()
    with pytest.raises(ExplanationError, match=r"line 2 is longer than 33,554,432 bytes"):
        read_explanations(path)
    assert peak_kib() - before < 120_000


def test_gzip_that_inflates_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(GOOD)
        for _ in range(2000):
            stream.write(b" " * 1000 + b"\n")
    assert read_explanations(path).explanations  # two megabytes are harmless
    monkeypatch.setattr(bounded, "FREE_INFLATION", 1 << 20)
    with pytest.raises(ExplanationError, match="inflates to more than 1,048,576 bytes, 200 times"):
        read_explanations(path)


@pytest.mark.parametrize("name", ["t.json", "t.csv", "t.json.gz", "t.csv.gz"])
def test_files_that_are_read_whole_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(bounded, "MAX_WHOLE", 10_000)
    path = tmp_path / name
    data = b"hookpoint,latent,text\n" + b" " * 20_000
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ExplanationError, match="more than 10,000 bytes; write it with one JSON"):
        read_explanations(path)


def test_compression_that_polars_would_inflate_unbounded(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(ExplanationError, match="zstd; inflate it first"):
        read_explanations(path)
    path.write_bytes(gzip.compress(b"hookpoint,latent,text\nlayers.0,1,a\n"))
    assert read_explanations(path).explanations[0].text == "a"


@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
def test_json_nested_a_million_deep(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"[" * 1_000_000 + b"]" * 1_000_000)
    with pytest.raises(ExplanationError, match="nested too deep"):
        read_explanations(path, format="table")
    path = tmp_path / "published.jsonl"
    record = {"hookpoint": "layers.0", "latent": 1, "text": "a", "published": "[" * 100_000}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert read_explanations(path).explanations[0].published == {}


def test_numbers_too_long_to_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(GOOD + b'{"hookpoint": "layers.0", "latent": ' + b"9" * 10_000 + b"}\n")
    assert "line that is not JSON" in read_explanations(path).notes[0]


def test_text_is_kept_as_it_is_and_can_be_written(tmp_path: Path) -> None:
    text = "<script>alert(1)</script>\u202e\x00 =cmd|'/C calc'!A0"
    path = tmp_path / "t.jsonl"
    record = {"hookpoint": "layers.0", "latent": 1, "text": text}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert read_explanations(path).explanations[0].text == text
    # Half of a pair of surrogates is no character, and no file can hold it.
    path.write_text(json.dumps(record | {"text": "a\ud800b"}), encoding="utf-8")
    assert read_explanations(path).explanations[0].text == "a\ufffdb"
    assert text_of("\ud83d\ude00", "text") == "\U0001f600"


def test_contexts_are_checked() -> None:
    good = context_of(["a", "b"], [0, 1.5], "top")
    assert good.acts.dtype == np.float32
    assert context_of(["a", "\ud800"], [0, 1], "").tokens == ("a", "\ufffd")
    nan, huge = float("nan"), 10**400
    for tokens, acts in (
        (["a"], [nan]),
        (["a"], [-nan]),
        (["a"], [float("inf")]),
        (["a"], [1e300]),
        (["a"], [huge]),
        (["a"], ["1"]),
        (["a"], [None]),
        (["a"], [[1]]),
        (["a"], [True]),
        ([1], [1.0]),
        (["a", None], [1.0, 1.0]),
        (["a"], {"0": 1}),
        ("a", [1.0]),
        (["a"], [1.0, 2.0]),
        ([], []),
        (["a"] * (checks.MAX_TOKENS + 1), [1.0] * (checks.MAX_TOKENS + 1)),
    ):
        with pytest.raises(ExplanationError):
            context_of(tokens, acts, "")  # type: ignore[arg-type]


def test_tokens_of_all_contexts_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "MAX_ALL_TOKENS", 5)
    record = {"modelId": "m", "layer": "1-res-x", "values": [1, 1]}
    lines = [json.dumps(record | {"index": index, "tokens": ["a", "b"]}) for index in range(4)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = read_explanations(path)
    assert len(found.contexts) == 2
    assert "2 contexts beyond 5 tokens in all" in found.notes


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize(
    "name", ["layers.0_latent0.txt", "t.jsonl", "t.json", "t.csv", "t.parquet", "t.pkl", "t.pt"]
)
def test_pickles_are_never_loaded(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    folder = tmp_path / "run" / "explanations"
    folder.mkdir(parents=True)
    path = folder / name
    path.write_bytes(pickle.dumps(Bomb(mark)))
    for where in (path, folder, tmp_path / "run"):
        with pytest.raises(ExplanationError):
            read_explanations(where)
    assert not mark.exists()
    pickle.loads(path.read_bytes()).close()
    assert mark.exists()


def test_links_that_lead_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "back").symlink_to(root)
    (root / "itself.jsonl").symlink_to(root / "itself.jsonl")
    (root / "gone.jsonl").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.jsonl")
    (root / "a" / "t.jsonl").write_bytes(GOOD)
    (root / "a" / ".hidden.jsonl").write_bytes(GOOD.replace(b"1", b"2"))
    found = read_explanations(root)
    assert [e.latent for e in found.explanations] == [1]
    for path in (root / "itself.jsonl", root / "gone.jsonl", root / "pipe.jsonl"):
        with pytest.raises(ExplanationError, match="no file and no folder"):
            read_explanations(path)


def test_folders_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "t.jsonl").write_bytes(GOOD)
    with pytest.raises(ExplanationError, match="no explanations that are known"):
        read_explanations(tmp_path)
    assert read_explanations(tmp_path / "a" / "b").explanations
    monkeypatch.setattr(bounded, "MAX_FILES", 3)
    for index in range(5):
        (tmp_path / f"{index}.txt").touch()
    with pytest.raises(ExplanationError, match="more than 3 files"):
        read_explanations(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(ExplanationError, match="cannot be read"):
        read_explanations(path)


def parquet_of(path: Path, text: list[str]) -> Path:
    n = len(text)
    frame = pl.DataFrame({"hookpoint": ["layers.0"] * n, "latent": range(n), "text": text})
    frame.write_parquet(path)
    return path


def test_parquet_with_one_huge_text_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A dictionary stores it once; as Python text it would be there a thousand times.
    path = parquet_of(tmp_path / "t.parquet", ["x" * 100_000] * 1000)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(tables, "MAX_WHOLE", 10_000_000)
    with pytest.raises(ExplanationError, match=r"from row 1: 100,000,000 bytes of explanations"):
        read_explanations(path)


def test_parquet_columns_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"hookpoint": ["layers.0"], "latent": [1], "text": [["a"]]}).write_parquet(path)
    with pytest.raises(ExplanationError, match=r"column text holds List\(String\), expected text"):
        read_explanations(path)
    frame = pl.DataFrame({"layer": [None, "layers.0"], "latent": [1.0, float("nan")]})
    frame.with_columns(text=pl.lit("a")).write_parquet(path)
    with pytest.raises(ExplanationError, match="none of 2 records"):
        read_explanations(path)


@pytest.mark.slow
def test_parquet_with_flipped_bytes(tmp_path: Path) -> None:
    data = parquet_of(tmp_path / "good.parquet", [f"text {n}" for n in range(50)]).read_bytes()
    path = tmp_path / "t.parquet"
    started = time.monotonic()
    outcomes = set()
    for seed in range(400):
        rng, broken = random.Random(seed), bytearray(data)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            outcomes.add(read_explanations(path).format)
        except LabelerError:
            outcomes.add("error")
    assert outcomes == {"table", "error"}
    assert time.monotonic() - started < 120
