"""Reading files of strangers without being drowned: every size is bounded before memory is taken.

A gzip file of some megabytes can hold gigabytes, one line can be as long as a disk, JSON can nest
a million deep, and a link can lead back to where it stands. Nothing here is ever unpickled.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias, cast

from labeler.errors import ExplanationError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

MAX_LINE = 32 << 20
"""Bytes of one line of JSON. A neuron of OpenAI's release, the longest known, has about one MiB."""

MAX_WHOLE = 128 << 20
"""Bytes of a file that is parsed whole (JSON, delphi's scores, CSV), inflated."""

FREE_INFLATION = 256 << 20
"""Bytes that any gzip file may inflate to."""

MAX_RATIO = 200
"""Inflated size over stored size beyond that. Text reaches 30, activations that are mostly zero
100; gzip's own limit is 1,032."""

MAX_FILES = 200_000
MAX_DEPTH = 6
"""Files looked at in a folder, and folders below folders."""

_HEAD = 64 << 10
_FIELD = re.compile(rb'(?<!\\)"([A-Za-z_]\w{0,60})"\s*:')
"""A field's name; a quote within text has a backslash before it."""

_GZIP = b"\x1f\x8b"
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclass(frozen=True)
class Damage:
    """What stands in the place of a record that cannot be parsed."""

    reason: str
    detail: str


def files_below(path: Path) -> tuple[Path, ...]:
    """All files of a folder and below, sorted; the path itself where it is a file.

    Hidden files are left out. Links to folders are not followed, so that none leads in a circle.

    Raises
    ------
    ExplanationError
        If nothing is there, or more than `MAX_FILES` files.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise ExplanationError(
            f"{path} does not exist, or is no file and no folder; check the path"
        )
    found: list[Path] = []
    for folder, below, names in os.walk(path, followlinks=False):
        here = Path(folder)
        deep = len(here.relative_to(path).parts) >= MAX_DEPTH
        below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
        found += [here / name for name in names if not name.startswith(".")]
        if len(found) > MAX_FILES:
            raise ExplanationError(
                f"{path} has more than {MAX_FILES:,} files; point at the folder that holds the "
                "explanations"
            )
    # A link that leads to itself, a socket or a pipe is no file.
    return tuple(sorted(file for file in found if _is_file(file)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def stored_size(path: Path) -> int:
    """Bytes on disk; 0 where the file is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def starts_with(path: Path, n: int = 4) -> bytes:
    """First bytes of a file; raises `ExplanationError` where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(n)
    except OSError as error:
        raise ExplanationError(f"{path} cannot be read: {error.strerror}") from error


def _open(path: Path) -> IO[bytes]:
    if starts_with(path, 2) == _GZIP:
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _allowed(path: Path) -> int | None:
    """Bytes that may come out of a gzip file; None for files that are what they are."""
    if starts_with(path, 2) != _GZIP:
        return None
    return max(FREE_INFLATION, MAX_RATIO * stored_size(path))


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1, blank ones left out; gzip is inflated on the way.

    Raises
    ------
    ExplanationError
        If a line or the whole is beyond the limits above, or the gzip data is damaged or cut.
    """
    allowed = _allowed(path)
    total = number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                total += len(line)
                if len(line) > MAX_LINE:
                    raise ExplanationError(
                        f"{path}, line {number} is longer than {MAX_LINE:,} bytes; no known export "
                        "has such lines: write one record per line"
                    )
                if allowed is not None and total > allowed:
                    raise ExplanationError(_bomb(path, allowed))
                if line.strip():
                    yield number, line
    except _DAMAGE as error:
        raise ExplanationError(
            f"{path}, after line {number}: the gzip data is cut or damaged ({error}); copy the "
            "file again"
        ) from error
    except OSError as error:
        raise ExplanationError(f"{path} cannot be read: {error}") from error


def _bomb(path: Path, allowed: int) -> str:
    return (
        f"{path} inflates to more than {allowed:,} bytes, {MAX_RATIO} times its size; if that is "
        "what you expect, inflate it yourself and read the result"
    )


def read_whole(path: Path, limit: int | None = None) -> bytes:
    """All bytes of a file of at most `limit` (`MAX_WHOLE`) bytes, inflated where it is gzip.

    Raises
    ------
    ExplanationError
        If it is larger, cut, damaged or unreadable.
    """
    limit = MAX_WHOLE if limit is None else limit
    try:
        with _open(path) as stream:
            data = stream.read(limit + 1)
    except _DAMAGE as error:
        raise ExplanationError(
            f"{path}: the gzip data is cut or damaged ({error}); copy the file again"
        ) from error
    except OSError as error:
        raise ExplanationError(f"{path} cannot be read: {error}") from error
    if len(data) > limit:
        raise ExplanationError(
            f"{path} holds more than {limit:,} bytes; write it with one JSON record per line "
            "(.jsonl) or as Parquet, which are read bit by bit"
        )
    return data


def parse_json(data: bytes) -> "Json | Damage":
    """Parse UTF-8 JSON; a `Damage` instead of an exception for what is none."""
    try:
        value: Json = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Damage("not UTF-8 text", f"byte {error.start}: {data[error.start]:#04x}")
    except RecursionError:
        return Damage("JSON nested too deep", "lists or objects in each other")
    except ValueError as error:
        return Damage("not JSON", str(error)[:120])
    return value


def is_lines(path: Path) -> bool:
    """Whether a file's name says one JSON record per line."""
    name = path.name.removesuffix(".gz").lower()
    return name.endswith((".jsonl", ".ndjson"))


def records(path: Path) -> Iterator[tuple[str, "Json | Damage"]]:
    """Records of a JSON or JSONL file, each with where it is; damaged ones as `Damage`.

    A JSON list gives its elements, any other JSON value itself. A ``.json`` file that is no JSON
    as a whole is read line by line.
    """
    if not is_lines(path):
        whole = parse_json(read_whole(path))
        if isinstance(whole, list):
            yield from ((f"{path}, record {number}", one) for number, one in enumerate(whole, 1))
            return
        if not isinstance(whole, Damage):
            yield str(path), whole
            return
    for number, line in read_lines(path):
        yield f"{path}, line {number}", parse_json(line)


def keys_of(path: Path) -> frozenset[str]:
    """Names of fields, at any depth, in the first 64 KiB of a JSON file, whole or damaged."""
    try:
        with _open(path) as stream:
            head = stream.read(_HEAD)
    except (*_DAMAGE, OSError):
        return frozenset()
    return frozenset(name.decode() for name in _FIELD.findall(head))
