"""Arrays from ``.npz`` files of strangers: headers first, then no more than they promise.

`numpy.load` makes room for whatever a header claims, and inflates whatever a zip holds.
"""

import io
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.coders.tensors import read_exactly
from labeler.errors import CoderError

_HEADER_BYTES = 1 << 14
"""Looked at for a header; numpy's own are a tenth of it."""

_INFLATION = 20
"""Weights hardly compress: a zip that promises more than this times its size is a bomb."""

_BROKEN = (
    *(OSError, ValueError, TypeError, EOFError, RuntimeError, MemoryError, KeyError),
    *(zipfile.BadZipFile, zlib.error),
    # numpy reads headers with Python's own parser, and old ones with its tokenizer.
    *(SyntaxError, tokenize.TokenError),
)

_Read = Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[np.generic]]]


@dataclass(frozen=True)
class Header:
    """What an array's header promises."""

    member: str
    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype[np.generic]
    start: int
    """Bytes before the numbers."""

    @property
    def n_bytes(self) -> int:
        """Of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def npz_headers(path: Path) -> dict[str, Header]:
    """The headers of all arrays in a ``.npz``, by name.

    Raises
    ------
    CoderError
        If the file is no zip or damaged, or an array holds Python objects or anything but numbers,
        has another size than its header says, or would inflate out of proportion.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            total = sum(info.file_size for info in members)
            most = _INFLATION * path.stat().st_size + (1 << 20)
            if total > most:
                raise ValueError(
                    f"it would inflate to {total:,} bytes, more than the {most:,} that weights in "
                    "a file of its size may; it is a decompression bomb"
                )
            return {info.filename.removesuffix(".npy"): _header(archive, info) for info in members}
    except _BROKEN as error:
        raise _damaged(path, error) from error


def read_npz(path: Path, headers: Mapping[str, Header]) -> dict[str, Tensor]:
    """The arrays that some of a file's headers promise.

    Raises
    ------
    CoderError
        If the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _array(archive, header) for name, header in headers.items()}
    except _BROKEN as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CoderError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return CoderError(f"{path} is damaged or hostile: {reason}; copy or download it again")


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as stream:
        head = io.BytesIO(stream.read(_HEADER_BYTES))
    readers: dict[tuple[int, int], _Read] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(head)
    if version not in readers:
        raise ValueError(f"{info.filename} is of version {version}, which plain numbers never are")
    shape, by_column, dtype = readers[version](head)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ValueError(
            f"{info.filename} holds {dtype}, expected numbers; objects are never unpickled here"
        )
    header = Header(info.filename, shape, by_column, dtype, head.tell())
    if min(shape, default=1) < 0 or header.start + header.n_bytes != info.file_size:
        raise ValueError(
            f"{info.filename} promises {shape} of {dtype} and has {info.file_size:,} bytes"
        )
    return header


def _array(archive: zipfile.ZipFile, header: Header) -> Tensor:
    with archive.open(header.member) as stream:
        read_exactly(stream, header.start)
        data = read_exactly(stream, header.n_bytes)
    array: npt.NDArray[np.generic] = np.frombuffer(data, header.dtype)
    array = array.reshape(header.shape, order="F" if header.by_column else "C")
    # torch knows the machine's byte order only.
    return torch.from_numpy(array.astype(header.dtype.newbyteorder("="), copy=False))
