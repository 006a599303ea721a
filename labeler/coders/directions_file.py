"""Reading files of directions: numbers only, checked before room is made for them.

``.npy``, ``.npz`` or ``.safetensors`` with ``directions`` [n, d], optionally ``bias`` [n] and
``threshold`` [n], and a ``hookpoint`` (a string in the ``.npz``, metadata of the ``.safetensors``).
A ``.npy`` holds the directions alone.
"""

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from labeler.errors import CoderError
from labeler.store import safetensors_fault

_MAX_BYTES = 1 << 28
"""Of one array: 16,384 directions of width 4,096 in float32."""

_ARRAYS = ("directions", "bias", "threshold")
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)

_Header = Callable[[IO[bytes]], tuple[tuple[int, ...], bool, np.dtype[np.generic]]]

Arrays = dict[str, npt.NDArray[np.float32]]
"""directions, and where the file has them bias and threshold."""


def holds_directions(path: Path) -> bool:
    """Whether a file is a ``.npy``, or a ``.npz`` or ``.safetensors`` with an array `directions`.

    Reads names and headers only.
    """
    try:
        if not path.is_file():
            return False
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return "directions.npy" in archive.namelist()
        if path.suffix == ".safetensors":
            return _safetensors_has_directions(path)
        return path.suffix == ".npy"
    except _BROKEN:
        # Whatever it is, the formats that might claim it say what is wrong with it.
        return False


def read_directions(path: Path) -> tuple[Arrays, str | None]:
    """The arrays of a file of directions, and the hookpoint it says it is for.

    Raises
    ------
    CoderError
        If the file is damaged, too large, or holds anything but numbers.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    try:
        return readers[path.suffix](path)
    except _BROKEN as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CoderError(
            f"{path} cannot be read as directions: {first}; save it again with numpy.savez or "
            "safetensors"
        ) from error


def _read_npy(path: Path) -> tuple[Arrays, str | None]:
    with path.open("rb") as stream:
        found = _read_array(stream, str(path))
    return {"directions": _numbers(found, str(path))}, None


def _read_npz(path: Path) -> tuple[Arrays, str | None]:
    arrays: Arrays = {}
    said = None
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).stem: name for name in archive.namelist() if name.endswith(".npy")}
        for name in (*_ARRAYS, "hookpoint"):
            if name not in names:
                continue
            with archive.open(names[name]) as stream:
                found = _read_array(stream, f"{path}: {name}")
            if name == "hookpoint":
                if found.dtype.kind != "U" or found.size != 1:
                    raise CoderError(
                        f"{path}: hookpoint is {found.dtype} {found.shape}, expected one string, "
                        "such as np.array('layers.3')"
                    )
                said = str(found.reshape(-1)[0])
            else:
                arrays[name] = _numbers(found, f"{path}: {name}")
    return arrays, said


def _read_safetensors(path: Path) -> tuple[Arrays, str | None]:
    from safetensors import safe_open

    if fault := safetensors_fault(path):
        raise CoderError(f"{path} is damaged: {fault}; copy or download it again")
    arrays: Arrays = {}
    with safe_open(path, framework="pt") as opened:
        said = (opened.metadata() or {}).get("hookpoint")
        for name in set(_ARRAYS) & set(opened.keys()):
            n_values = math.prod(opened.get_slice(name).get_shape())
            if n_values * 4 > _MAX_BYTES:
                raise _too_large(f"{path}: {name}", n_values * 4)
            tensor = opened.get_tensor(name)
            if not tensor.dtype.is_floating_point:
                raise CoderError(f"{path}: {name} is {tensor.dtype}, expected floats")
            arrays[name] = tensor.float().numpy()
    return arrays, said


def _safetensors_has_directions(path: Path) -> bool:
    from safetensors import safe_open

    if safetensors_fault(path):
        return False
    with safe_open(path, framework="pt") as opened:
        return "directions" in opened.keys()  # noqa: SIM118 - it is no mapping


def _read_array(stream: IO[bytes], what: str) -> npt.NDArray[np.generic]:
    """An array from a ``.npy`` stream; nothing is unpickled, or made before it is checked.

    numpy's own reader makes room for as much as a header promises.
    """
    readers: dict[tuple[int, int], _Header] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise CoderError(f"{what} is version {version} of .npy; save plain numbers with numpy")
    shape, by_column, dtype = readers[version](stream)
    if dtype.kind not in "fiuU":
        raise CoderError(
            f"{what} holds {dtype}, expected numbers; Python objects are never unpickled here"
        )
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes > _MAX_BYTES:
        raise _too_large(what, n_bytes)
    # A negative side would read a whole archive's worth.
    data = stream.read(max(n_bytes, 0))
    if len(data) != n_bytes or stream.read(1):
        raise CoderError(
            f"{what} is damaged: its header promises {shape} of {dtype}, {n_bytes} bytes, and "
            f"{len(data)} could be read; copy or save it again"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_column else "C")


def _too_large(what: str, n_bytes: int) -> CoderError:
    return CoderError(
        f"{what} would take {n_bytes:,} bytes, more than the {_MAX_BYTES:,} that a file of "
        "directions may; keep the directions that matter"
    )


def _numbers(found: npt.NDArray[np.generic], what: str) -> npt.NDArray[np.float32]:
    if found.dtype.kind == "U":
        raise CoderError(f"{what} holds text, expected numbers")
    with np.errstate(over="ignore"):
        return found.astype(np.float32)
