"""Writing: whole or not at all, on a disk that is really full."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labeler.errors import DiskError, LabelError
from labeler.store import (
    atomic_path,
    hash_file,
    read_json,
    write_array,
    write_json,
    write_parquet,
)

ARRAY = np.random.default_rng(0).random(100_000)

WRITERS: dict[str, Callable[[Path], None]] = {
    "json": lambda path: write_json(path, {"a": [1] * 10_000}),
    "npy": lambda path: write_array(path, ARRAY),
    "parquet": lambda path: write_parquet(path, pl.DataFrame({"a": ARRAY})),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_the_old_file_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{kind}"
    path.write_bytes(b"old")
    # The temporary file that is about to be written is a device that is always full.
    (tmp_path / f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=f"no space left while writing .*file.{kind}.*run the same"):
        WRITERS[kind](path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[kind](path)
    assert path.read_bytes() != b"old"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        write(tmp_path / f"deep/file.{kind}")
    assert np.array_equal(np.load(tmp_path / "deep/file.npy"), ARRAY)
    assert np.array_equal(pl.read_parquet(tmp_path / "deep/file.parquet")["a"].to_numpy(), ARRAY)
    assert len(read_json(tmp_path / "deep/file.json", LabelError, "")["a"]) == 10_000


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert hash_file(tmp_path / "file").startswith("ba7816bf8f01cfea")


def test_json_that_is_none_names_file_and_cure(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("{")
    with pytest.raises(LabelError, match=r"file\.json: cannot be read .*; do that"):
        read_json(tmp_path / "file.json", LabelError, "do that")
    with pytest.raises(LabelError, match=r"gone\.json does not exist; do that"):
        read_json(tmp_path / "gone.json", LabelError, "do that")
