"""Files that torch or pickle wrote, opened without running anything in them.

Three containers, told apart by their first bytes, not by their names: the zip that torch writes
since 1.6 (its members are never compressed), torch's older run of pickles followed by raw numbers,
and a plain or gzipped pickle, in which torch hides that older form once per tensor.
"""

import gzip
import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from labeler.coders.restricted import (
    DTYPES,
    FAULTS,
    Machine,
    Name,
    RefusedError,
    Storage,
    Stored,
    strings,
)
from labeler.coders.tensors import read_exactly
from labeler.errors import CoderError

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_INFLATION = 20
"""Weights hardly compress: a gzip that grows more than this is a bomb."""

_BROKEN = (*FAULTS, OSError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)

_Read = Callable[[int, int], bytearray]
"""Position and number of bytes -> the bytes."""


def read_torch(path: Path) -> object:
    """The value in a file of torch or pickle; tensors are `Stored`, read when asked for.

    Raises
    ------
    CoderError
        If the file is missing, damaged, of an unknown kind, or asks for what is refused.
    """
    try:
        with path.open("rb") as stream:
            return _value(path, stream)
    except RefusedError as error:
        raise CoderError(f"{path} is refused: {error}") from None
    except CoderError:
        raise
    except _BROKEN as error:
        raise _damaged(path, error) from error


def has_strings(path: Path, wanted: set[str]) -> bool:
    """Whether some keys are among the string constants of a file's pickle, which is not run.

    Raises
    ------
    CoderError
        If the file is damaged or of an unknown kind.
    """
    try:
        with path.open("rb") as stream:
            kind = _kind(path, stream)
            if kind == "zip":
                with zipfile.ZipFile(stream) as archive:
                    return wanted <= strings(_member(archive, _pickle_name(archive)))
            if kind == "gzip":
                return wanted <= strings(_inflated(path, stream))
            for _ in range(3 if kind == "legacy" else 0):
                strings(stream)
            return wanted <= strings(stream)
    except CoderError:
        raise
    except _BROKEN as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CoderError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return CoderError(f"{path} is damaged: {reason}; copy or download it again")


def _kind(path: Path, stream: BinaryIO) -> str:
    """``zip``, ``legacy``, ``gzip`` or ``pickle``; the stream is put back to its start."""
    head = stream.read(512)
    stream.seek(0)
    if head[:4] == b"PK\x03\x04":
        return "zip"
    if head[:2] == b"\x1f\x8b":
        return "gzip"
    if head[257:262] == b"ustar":
        raise CoderError(
            f"{path} is in the tar format that torch wrote before version 0.1.10, which is not "
            "read; load it with torch and save it again"
        )
    if head[:1] != b"\x80":
        what = "is empty" if not head else "is no file of torch or pickle (its first bytes say so)"
        raise CoderError(f"{path} {what}; copy or download it again")
    return "legacy" if _first_number(head) == _TORCH_MAGIC else "pickle"


def _first_number(head: bytes) -> object:
    """The value of a pickle that is one number."""
    try:
        return next(arg for code, arg, _ in pickletools.genops(head) if code.name == "LONG1")
    except (*FAULTS, StopIteration):
        return None


def _value(path: Path, stream: BinaryIO) -> object:
    kind = _kind(path, stream)
    if kind == "zip":
        return _of_zip(path, stream)
    if kind == "legacy":
        return _of_legacy(stream, lambda start, n: _read_at(path, start, n))
    if kind == "pickle":
        return _of_pickle(stream)
    return _of_pickle(io.BytesIO(_inflated(path, stream)))


# --- torch's zip


def _of_zip(path: Path, stream: BinaryIO) -> object:
    with zipfile.ZipFile(stream) as archive:
        name = _pickle_name(archive)
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = _member(archive, f"{folder}byteorder")
            if order != b"little":
                raise CoderError(f"{path} has byte order {order!r}; save it on another machine")
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        data = _member(archive, name)

    def storage(saved: tuple[object, ...]) -> Storage:
        dtype, key, numel = _storage_id(saved)
        member = f"{folder}data/{key}"
        if sizes.get(member) != numel * dtype.itemsize:
            raise ValueError(
                f"storage {key} should hold {numel} values of {dtype}, and its member "
                f"{member} has {sizes.get(member)} bytes"
            )
        return Storage(dtype, numel, lambda: _read_member(path, member))

    return Machine(io.BytesIO(data), storage, _no_bytes).run()


def _pickle_name(archive: zipfile.ZipFile) -> str:
    found = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise ValueError(f"it is a zip with {len(found)} members named data.pkl, expected one")
    return found[0]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(_stored(archive, name))


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    # torch never compresses, so a member is never larger than the file.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"its member {name} is compressed, which torch never does")
    return info


def _read_member(path: Path, name: str) -> bytearray:
    with zipfile.ZipFile(path) as archive:
        info = _stored(archive, name)
        with archive.open(info) as member:
            return read_exactly(member, info.file_size)


def _no_bytes(data: bytes) -> Storage:
    raise RefusedError("it holds a file of torch within a file of torch")


# --- torch's older form


def _of_legacy(stream: BinaryIO, read: _Read) -> object:
    """Magic number, protocol, machine, value, keys of storages: pickles; then the numbers."""
    magic, protocol, machine = (_plain(stream) for _ in range(3))
    little = isinstance(machine, dict) and machine.get("little_endian") is True
    if magic != _TORCH_MAGIC or protocol != 1001 or not little:
        raise ValueError(f"it is of version {protocol} of torch's older form, or not little-endian")
    starts: dict[str, int] = {}
    wanted: dict[str, int] = {}

    def storage(saved: tuple[object, ...]) -> Storage:
        dtype, key, numel = _storage_id(saved)
        wanted[key] = numel * dtype.itemsize

        def numbers() -> bytearray:
            return read(starts[key], numel * dtype.itemsize)

        return Storage(dtype, numel, numbers)

    value = Machine(stream, storage, _no_bytes).run()
    keys = _plain(stream)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(wanted):
        raise ValueError("its list of storages does not match the tensors")
    at = stream.tell()
    for key in map(str, keys):
        # Every storage repeats its number of values before them.
        starts[key] = at + 8
        at += 8 + wanted[key]
    if stream.seek(0, io.SEEK_END) < at:
        raise ValueError(f"it ends before its tensors, which need {at} bytes")
    return value


def _plain(stream: BinaryIO) -> object:
    def none(saved: object) -> Storage:
        raise RefusedError("it holds a tensor where a plain value belongs")

    return Machine(stream, none, none).run()


def _storage_id(saved: tuple[object, ...]) -> tuple[torch.dtype, str, int]:
    """Type, key and number of values of ('storage', type, key, location, numel[, view])."""
    tag, kind, key, _, numel = saved[:5]
    dtype = DTYPES.get(kind.text.removeprefix("torch.")) if isinstance(kind, Name) else None
    if tag != "storage" or dtype is None or not isinstance(key, str):
        raise ValueError("a persistent id names no storage of a known type")
    if type(numel) is not int or numel < 0 or any(at is not None for at in saved[5:]):
        raise ValueError(f"storage {key} has no size, or is a view of another")
    return dtype, key, numel


def _read_at(path: Path, start: int, n_bytes: int) -> bytearray:
    with path.open("rb") as stream:
        stream.seek(start)
        return read_exactly(stream, n_bytes)


# --- a plain pickle


def _inflated(path: Path, stream: BinaryIO) -> bytes:
    """What a gzip holds, which must be in proportion to its size."""
    most = _INFLATION * path.stat().st_size + (1 << 20)
    data = bytearray()
    with gzip.GzipFile(fileobj=stream) as opened:
        while block := opened.read(1 << 20):
            data += block
            if len(data) > most:
                raise ValueError(
                    f"it inflates to more than {most:,} bytes, which weights never do; it is a "
                    "decompression bomb"
                )
    return bytes(data)


def _of_pickle(stream: BinaryIO) -> object:
    def none(saved: object) -> Storage:
        raise RefusedError("it has persistent ids, which a plain pickle cannot have")

    return Machine(stream, none, _from_bytes).run()


def _from_bytes(data: bytes) -> Storage:
    """A storage as torch puts it into a plain pickle: torch's older form, in bytes."""

    def read(start: int, n_bytes: int) -> bytearray:
        return bytearray(data[start : start + n_bytes])

    found = _of_legacy(io.BytesIO(data), read)
    if not isinstance(found, Storage):
        raise ValueError("a storage in it is none")
    return found


def entries(path: Path, value: object, what: str) -> Mapping[str, object]:
    """A mapping with strings as keys.

    Raises
    ------
    CoderError
        If `value`, which is `what` in the file, is none.
    """
    if not isinstance(value, dict):
        raise CoderError(f"{path}: {what} is of type {type(value).__name__}, expected a dict")
    return {str(key): at for key, at in value.items()}


def stored(state: Mapping[str, object], name: str) -> tuple[int, ...] | None:
    """The shape of a tensor that is not read yet; None where there is no tensor of that name."""
    found = state.get(name)
    return found.size if isinstance(found, Stored) else None


def tensors(path: Path, state: Mapping[str, object], names: Iterable[str]) -> dict[str, Tensor]:
    """Read those of some tensors that a state dict has.

    Raises
    ------
    CoderError
        If the file is damaged.
    """
    found = {name: state.get(name) for name in names}
    try:
        return {name: at.tensor() for name, at in found.items() if isinstance(at, Stored)}
    except _BROKEN as error:
        raise _damaged(path, error) from error
