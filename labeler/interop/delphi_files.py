"""The files of a delphi latent cache: found, checked by their headers, read in blocks.

``latents/<hookpoint>/<first>_<last>.safetensors`` holds latents `first` to `last`, both included:
``locations`` [nnz, 3] = (sequence, position, latent - first), ``activations`` [nnz] and, in at
least one file, ``tokens`` [n_seq, ctx]. Rows are read from the file as they are needed; nothing is
mapped or held whole.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats
from labeler.errors import CacheError, CoderError
from labeler.hookpoints import layer_order, parse_hookpoint

BLOCK = 1 << 20
"""Firings read at a time: some 40 MB while they are sorted."""

_NAME = re.compile(r"(\d+)_(\d+)\.safetensors")
_MAX_HEADER = 1 << 20
"""Bytes; a header of three tensors takes some three hundred."""

_INTEGERS = {"I8": "<i1", "U16": "<u2", "U32": "<u4", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_FLOATS = {"F16": "<f2", "F32": "<f4", "BF16": "<u2"}
"""numpy types by the name that safetensors has for them; numpy has no bfloat16."""

_CURE = "make the cache again, or remove what is damaged"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def rows(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start` to ``stop - 1`` as they are stored; bfloat16 as float32."""
        numpy_type = np.dtype((_INTEGERS | _FLOATS)[self.dtype])
        width = math.prod(self.shape[1:])
        found = np.fromfile(
            self.path,
            numpy_type,
            (stop - start) * width,
            offset=self.offset + start * width * numpy_type.itemsize,
        )
        if found.size != (stop - start) * width:
            raise CacheError(f"{self.path}: {self.name} ends early; {_CURE}")
        if self.dtype == "BF16":
            found = (found.astype(np.uint32) << 16).view(np.float32)
        return found.reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True, eq=False)
class Block:
    """Some firings of a file.

    Attributes
    ----------
    sequence, pos : int64 [m]
        Where: the context, and the offset in it.
    latent : int64 [m]
        Of the whole hookpoint.
    act : float32 [m]
        As stored: delphi keeps what is not 0, so it may be negative.
    """

    sequence: npt.NDArray[np.int64]
    pos: npt.NDArray[np.int64]
    latent: npt.NDArray[np.int64]
    act: Floats


@dataclass(frozen=True)
class DelphiFile:
    """A file of a cache: latents `first` to `last`, both included."""

    path: Path
    first: int
    last: int
    locations: Stored
    activations: Stored
    tokens: Stored | None

    def __len__(self) -> int:
        """Firings."""
        return len(self.activations)

    def blocks(self, n_sequences: int, ctx_len: int) -> Iterator[Block]:
        """Yield its firings, checked, at most `BLOCK` at a time.

        Raises
        ------
        CacheError
            If a firing lies outside the tokens or the file's latents, or is NaN or infinite.
        """
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            found = self.locations.rows(start, stop).astype(np.int64)
            sequence, pos, latent = found[:, 0], found[:, 1], found[:, 2]
            act = self.activations.rows(start, stop).astype(np.float32)
            self._check("sequence", sequence, n_sequences, start)
            self._check("position", pos, ctx_len, start)
            self._check("latent", latent, self.last - self.first + 1, start)
            if (bad := np.flatnonzero(~np.isfinite(act))).size:
                raise CacheError(
                    f"{self.path}: activation {start + int(bad[0])} is {float(act[bad[0]])}, not a "
                    f"finite number; {_CURE}"
                )
            yield Block(sequence, pos, latent + self.first, act)

    def _check(self, what: str, values: npt.NDArray[np.int64], limit: int, start: int) -> None:
        bad = np.flatnonzero((values < 0) | (values >= limit))
        if bad.size:
            raise CacheError(
                f"{self.path}: location {start + int(bad[0])} has {what} {int(values[bad[0]])}, "
                f"expected 0 to {limit - 1}; {_CURE}"
            )


def find_files(directory: Path) -> dict[str, tuple[DelphiFile, ...]]:
    """Find the files of each hookpoint, in the order of latents.

    Parameters
    ----------
    directory : Path
        A delphi run (``results/<name>``) or its ``latents`` folder.

    Returns
    -------
    dict of str to tuple of DelphiFile
        By canonical hookpoint name, in layer order. The files of a hookpoint hold latents 0 to
        some last one without a gap.

    Raises
    ------
    CacheError
        If there are none, a name or header is not delphi's, or ranges overlap or are missing.
    """
    root = directory / "latents" if (directory / "latents").is_dir() else directory
    folders = sorted({path.parent for path in root.glob("*/*.safetensors")})
    if not folders:
        raise CacheError(
            f"no delphi latent cache in {directory}: expected latents/<hookpoint>/"
            "<first>_<last>.safetensors; give the folder of a delphi run"
        )
    found: dict[str, tuple[DelphiFile, ...]] = {}
    for folder in folders:
        try:
            name = parse_hookpoint(folder.name).name
        except CoderError as error:
            raise CacheError(f"{folder}: {error}; rename the folder") from None
        if name in found:
            raise CacheError(f"{found[name][0].path.parent} and {folder} are both {name}")
        found[name] = _in_order(folder)
    return dict(sorted(found.items(), key=lambda item: layer_order(item[0])))


def _in_order(folder: Path) -> tuple[DelphiFile, ...]:
    files = sorted(map(_open, folder.glob("*.safetensors")), key=lambda file: file.first)
    expected = 0
    for file in files:
        if file.first != expected:
            what = "holds again" if file.first < expected else "leaves out"
            low, high = sorted((file.first, expected))
            raise CacheError(
                f"{file.path} {what} latents {low} to {high - 1}; the files of {folder} must have "
                f"ranges that follow one another from 0; {_CURE}"
            )
        expected = file.last + 1
    return tuple(files)


def _open(path: Path) -> DelphiFile:
    named = _NAME.fullmatch(path.name)
    if named is None or int(named[1]) > int(named[2]):
        raise CacheError(f"{path} is not named <first>_<last>.safetensors; remove or rename it")
    stored = read_header(path)
    if missing := [name for name in ("locations", "activations") if name not in stored]:
        raise CacheError(f"{path} has no {' and no '.join(missing)}; {_CURE}")
    locations, activations, tokens = map(stored.get, ("locations", "activations", "tokens"))
    if locations is None or activations is None:
        raise CacheError(f"{path} has not both locations and activations; {_CURE}")
    _expect(locations, 2, _INTEGERS)
    _expect(activations, 1, _FLOATS)
    if locations.shape != (len(activations), 3):
        raise CacheError(
            f"{path}: locations is {list(locations.shape)}, expected [{len(activations)}, 3] as "
            f"there are {len(activations)} activations; {_CURE}"
        )
    if tokens is not None:
        _expect(tokens, 2, _INTEGERS)
        if not all(tokens.shape):
            raise CacheError(f"{path}: tokens is {list(tokens.shape)}, so there is no text")
    return DelphiFile(path, int(named[1]), int(named[2]), locations, activations, tokens)


def _expect(stored: Stored, n_axes: int, dtypes: dict[str, str]) -> None:
    if len(stored.shape) != n_axes or stored.dtype not in dtypes:
        raise CacheError(
            f"{stored.path}: {stored.name} is {stored.dtype} {list(stored.shape)}, expected "
            f"{n_axes} axes of {', '.join(dtypes)}; {_CURE}"
        )


def read_header(path: Path) -> dict[str, Stored]:
    """Read the header of a safetensors file: its tensors by name, each inside the file.

    Raises
    ------
    CacheError
        If the header is damaged, huge, or promises what the file does not hold.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            n_header = int.from_bytes(stream.read(8), "little")
            if size < 8 or 8 + n_header > size:
                raise CacheError(f"{path} is {size} bytes long, shorter than its header; {_CURE}")
            if n_header > _MAX_HEADER:
                raise CacheError(
                    f"{path} has a header of {n_header:,} bytes, at most {_MAX_HEADER:,} are read; "
                    f"{_CURE}"
                )
            header = json.loads(stream.read(n_header))
        found, end = {}, 8 + n_header
        for name, entry in header.items():
            if name != "__metadata__":
                found[name] = _stored(path, name, entry, 8 + n_header)
                end = max(end, 8 + n_header + int(entry["data_offsets"][1]))
    except OSError as error:
        raise CacheError(f"{path} cannot be read ({error.strerror}); {_CURE}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CacheError(f"{path}: its header is not a safetensors header; {_CURE}") from error
    if end != size:
        raise CacheError(f"{path} is {size} bytes long where its header promises {end}; {_CURE}")
    return found


def _stored(path: Path, name: str, entry: dict[str, Any], base: int) -> Stored:
    begin, stop = (int(value) for value in entry["data_offsets"])
    shape = tuple(int(axis) for axis in entry["shape"])
    dtype = str(entry["dtype"])
    known = (_INTEGERS | _FLOATS).get(dtype)
    fits = known is None or math.prod(shape) * np.dtype(known).itemsize == stop - begin
    if begin < 0 or min(shape, default=0) < 0 or not fits:
        raise CacheError(
            f"{path}: {name} is {dtype} {list(shape)} in {stop - begin} bytes, which does not go "
            f"together; {_CURE}"
        )
    return Stored(path, name, dtype, shape, base + begin)
