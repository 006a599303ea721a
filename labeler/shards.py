"""Shards of the latent cache: Parquet files of firings.

A shard holds one row per firing (activation > 0), sorted by ctx, pos, latent:

- ``ctx`` UInt32: row of `Tokens.ids`;
- ``pos`` UInt16 (UInt32 in contexts beyond 65,536 tokens): offset in the context;
- ``latent`` UInt16 (UInt32 beyond 65,536 latents);
- ``act`` Float32 or Float16.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.corpus import Split
from labeler.errors import CacheError
from labeler.manifest import Dtype, ShardEntry
from labeler.store import atomic_path
from labeler.tokens import HELDOUT, Tokens

_COLUMNS = ("ctx", "pos", "latent", "act")

# Measured on 1 M firings of a TopK-32 coder: zstd 1 takes 5.0 bytes a firing and reads in 11 ms,
# lz4 5.5 bytes and 5 ms, zstd 3 no less than zstd 1.
_COMPRESSION: Literal["zstd"] = "zstd"
_COMPRESSION_LEVEL = 1


@dataclass(frozen=True)
class Shard:
    """A range of contexts of one split.

    Attributes
    ----------
    index : int
        Number of the shard.
    start, stop : int
        Contexts `start` to ``stop - 1``.
    split : {'fit', 'heldout'}
        Split of all of them.
    """

    index: int
    start: int
    stop: int
    split: Split

    @property
    def file_name(self) -> str:
        """Name of its file in a hookpoint's folder."""
        return f"shard-{self.index:05d}.parquet"


@dataclass(frozen=True, eq=False)
class Firings:
    """The firings of one hookpoint in one shard.

    Attributes
    ----------
    position : int64 [m]
        Flat position ``ctx * ctx_len + pos``, ascending.
    latent : int32 [m]
        Ascending within a position.
    act : float32 [m]
        Activation, > 0.
    shard : Shard
        The contexts they come from; a latent without a row at a position is silent there.
    """

    position: npt.NDArray[np.int64]
    latent: npt.NDArray[np.int32]
    act: npt.NDArray[np.float32]
    shard: Shard

    def __len__(self) -> int:
        """Count the firings."""
        return len(self.position)

    def only(self, low: int, high: int) -> "Firings":
        """Keep latents `low` to ``high - 1``."""
        keep = (self.latent >= low) & (self.latent < high)
        return Firings(self.position[keep], self.latent[keep], self.act[keep], self.shard)


def plan_shards(tokens: Tokens, contexts_per_shard: int) -> tuple[Shard, ...]:
    """Cut the contexts into shards that never mix splits.

    Raises
    ------
    CacheError
        If a held-out context comes before a fit context.
    """
    heldout = tokens.fold == HELDOUT
    n_fit = int((~heldout).sum())
    if heldout[:n_fit].any():
        raise CacheError("tokens are out of order: fit contexts must come before held-out ones")
    shards: list[Shard] = []
    ranges: tuple[tuple[Split, int, int], ...] = (
        ("fit", 0, n_fit),
        ("heldout", n_fit, tokens.n_ctx),
    )
    for split, first, last in ranges:
        for start in range(first, last, contexts_per_shard):
            stop = min(start + contexts_per_shard, last)
            shards.append(Shard(len(shards), start, stop, split))
    return tuple(shards)


def write_shard(
    path: Path,
    position: npt.NDArray[np.int64],
    latent: npt.NDArray[np.int32],
    act: npt.NDArray[np.float32],
    *,
    ctx_len: int,
    num_latents: int,
    dtype: Dtype,
) -> ShardEntry:
    """Write a shard atomically.

    Parameters
    ----------
    path : Path
        Its file.
    position : int64 [m]
        Flat positions, ascending.
    latent : int32 [m]
        Latents.
    act : float32 [m]
        Activations, > 0.
    ctx_len, num_latents : int
        Sizes.
    dtype : {'float32', 'float16'}
        Precision to store activations in. float16 never turns a firing into silence: what would
        underflow becomes the smallest positive number.

    Raises
    ------
    CacheError
        If an activation is too large for float16.
    DiskError
        If the disk is full or not writable.
    """
    frame = pl.DataFrame(
        {
            "ctx": (position // ctx_len).astype(np.uint32),
            "pos": (position % ctx_len).astype(_unsigned(ctx_len)),
            "latent": latent.astype(_unsigned(num_latents)),
            "act": act if dtype == "float32" else _half(act, path),
        }
    )
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer, compression=_COMPRESSION, compression_level=_COMPRESSION_LEVEL, statistics=False
    )
    data = buffer.getvalue()
    # Written by Python, not by polars: a full disk then is an OSError with its number.
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return ShardEntry(frame.height, len(data), hashlib.sha256(data).hexdigest())


def _unsigned(n: int) -> type[np.unsignedinteger[Any]]:
    """Smallest of the two types that holds 0 to n - 1."""
    return np.uint16 if n <= 1 << 16 else np.uint32


def _half(act: npt.NDArray[np.float32], path: Path) -> pl.Series:
    limit = np.finfo(np.float16)
    if act.size and float(act.max()) > float(limit.max):
        raise CacheError(
            f"{path}: activation {float(act.max()):.6g} does not fit float16 (at most "
            f"{limit.max}); use float32"
        )
    clipped = np.maximum(act, np.float32(limit.smallest_subnormal))
    return pl.Series(clipped, dtype=pl.Float32).cast(pl.Float16)


def is_intact(path: Path, entry: ShardEntry) -> bool:
    """Whether a shard file is what the manifest says, by size and hash."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return len(data) == entry.size and hashlib.sha256(data).hexdigest() == entry.sha256


def read_shard(path: Path, entry: ShardEntry, shard: Shard, ctx_len: int) -> Firings:
    """Read a shard, checked against the manifest.

    Raises
    ------
    CacheError
        If the file is missing or damaged; names it and the cure.
    """
    cure = f"delete {path} and run `labeler cache` again, it rewrites just this shard"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CacheError(f"{path} cannot be read ({error.strerror}); {cure}") from error
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CacheError(
            f"{path} is damaged: {len(data)} bytes that do not match the manifest "
            f"({entry.size} bytes, another hash); {cure}"
        )
    frame = pl.read_parquet(io.BytesIO(data), columns=list(_COLUMNS))
    position = frame["ctx"].to_numpy().astype(np.int64)
    position *= ctx_len
    position += frame["pos"].to_numpy()
    return Firings(
        position,
        frame["latent"].to_numpy().astype(np.int32),
        frame["act"].to_numpy().astype(np.float32, copy=False),
        shard,
    )
