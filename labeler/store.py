"""Writing files so that an interrupted run never leaves a broken one, and hashing them."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from labeler.errors import DiskError, LabelerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block succeeds.

    Raises
    ------
    DiskError
        If the disk is full or the folder cannot be written; `path` keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"no space left while writing {path}; free some space and run the same command "
                "again, it continues where it stopped"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DiskError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, NaN refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_parquet(path: Path, frame: "pl.DataFrame") -> None:
    """Write a table atomically.

    Python writes the file: polars reports a full disk as a computation that failed.
    """
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def write_array(path: Path, array: "npt.NDArray[np.generic]") -> None:
    """Write a ``.npy`` file atomically.

    Through `write` alone: given a real file, numpy reports a full disk without its error number.
    """
    import numpy as np

    class Writer:
        def __init__(self, stream: BinaryIO) -> None:
            self.write = stream.write

    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(Writer(stream), array, allow_pickle=False)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def looks_local(source: str) -> bool:
    """Whether a model or coder source is meant as a folder, not as a hub name (``owner/name``)."""
    return (
        Path(source).expanduser().exists()
        or source.startswith((".", "/", "~"))
        or source.endswith("/")
        or source.count("/") > 1
        or "\\" in source
    )


def safetensors_fault(path: Path) -> str | None:
    """Say what is wrong with a safetensors file, reading its header only.

    Returns
    -------
    str or None
        None where the header is sound and the file as long as the header says.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        n_header = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or 8 + n_header > size:
            return f"it is {size} bytes long, shorter than its own header"
        try:
            header = json.loads(stream.read(n_header))
            ends = [value["data_offsets"][1] for key, value in header.items() if key[:2] != "__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "its header is not a safetensors header"
    wanted = 8 + n_header + max(ends, default=0)
    if size != wanted:
        return f"it is {size} bytes long where its header promises {wanted}"
    return None


def read_json(path: Path, error: type[LabelerError], cure: str) -> Any:
    """Read a JSON file.

    Raises
    ------
    error
        If it is missing or no JSON; the message ends in `cure`.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist; {cure}") from None
    except (OSError, ValueError) as why:
        raise error(f"{path}: cannot be read ({why}); {cure}") from why
