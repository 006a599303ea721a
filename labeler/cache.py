"""The latent cache: every firing of every coder over a corpus, on disk.

``<dir>/manifest.json`` says what it was made from, ``<dir>/<hookpoint>/shard-00000.parquet`` holds
the firings (see `labeler.shards`). A shard covers a range of contexts of one split, the same range
for every hookpoint. Nothing is held in memory but one shard.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labeler.coders import Coder
from labeler.errors import CacheError, OptionError
from labeler.hookpoints import execution_order, layer_order
from labeler.latent_cache import LatentCache, LatentSummary, open_cache
from labeler.manifest import Dtype, HookpointEntry, Manifest
from labeler.model import Hook, SubjectModel
from labeler.progress import progress_bar
from labeler.shards import Firings, Shard, is_intact, plan_shards, write_shard
from labeler.tokens import Tokens

__all__ = [
    "Dtype",
    "Firings",
    "LatentCache",
    "LatentSummary",
    "Shard",
    "build_cache",
    "firings_at",
    "open_cache",
]

_SHARD_POSITIONS = 1 << 15
"""Positions per shard by default: a million firings of a TopK-32 coder, 5 MB."""

_Part = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]
"""Position, latent, activation."""


def build_cache(
    tokens: Tokens,
    model: SubjectModel,
    coders: Mapping[str, Coder],
    directory: Path,
    *,
    contexts_per_shard: int | None = None,
    batch_size: int = 32,
    dtype: Dtype = "float32",
    quiet: bool = False,
) -> LatentCache:
    """Run model and coders over the windows once and write every firing.

    May be killed at any moment: the next call with the same inputs skips the shards that are
    finished and intact, and makes the others. Memory does not depend on the length of the corpus.

    Parameters
    ----------
    tokens : Tokens
        The windows, fit before held-out.
    model : SubjectModel
        The model.
    coders : mapping of str to Coder
        By canonical hookpoint name.
    directory : Path
        Where to write; may hold an unfinished cache of the same inputs, or other hookpoints of it.
    contexts_per_shard : int, optional
        Contexts per file; 32,768 positions' worth where None.
    batch_size : int
        Contexts per forward pass.
    dtype : {'float32', 'float16'}
        Precision of the activations on disk.
    quiet : bool
        Show no progress bar.

    Raises
    ------
    CacheError
        If `directory` holds a cache of other inputs (says which), or activations are not finite.
    DiskError
        If the disk is full; finished shards stay.
    """
    if not coders:
        raise OptionError("no coder given, so there is nothing to cache; name a --hookpoint")
    if contexts_per_shard is None:
        contexts_per_shard = max(1, _SHARD_POSITIONS // tokens.ctx_len)
    if contexts_per_shard < 1 or batch_size < 1:
        raise OptionError(
            f"contexts_per_shard ({contexts_per_shard}) and batch_size ({batch_size}) must be at "
            "least 1"
        )
    shards = plan_shards(tokens, contexts_per_shard)
    manifest = Manifest(
        tokens.fingerprint, model.fingerprint, tokens.ctx_len, contexts_per_shard, dtype
    )
    manifest = _resume(directory, manifest, coders, shards)
    with progress_bar("caching activations", tokens.n_positions, quiet=quiet) as advance:
        for shard in shards:
            missing = {
                name: coder
                for name, coder in coders.items()
                if shard.index not in manifest.hookpoints[name].shards
            }
            if missing:
                found = [
                    _batch_firings(tokens, model, missing, start, stop, advance)
                    for start, stop in _batches(shard, batch_size)
                ]
                _write(directory, manifest, shard, missing, found)
            else:
                advance(int(tokens.length[shard.start : shard.stop].sum()))
    return LatentCache(directory, manifest, shards, tuple(sorted(coders, key=layer_order)))


def _resume(
    directory: Path, fresh: Manifest, coders: Mapping[str, Coder], shards: tuple[Shard, ...]
) -> Manifest:
    """Continue the manifest on disk, less what is damaged, or start `fresh`."""
    found = Manifest.load(directory)
    if found is None or not any(entry.shards for entry in found.hookpoints.values()):
        found = fresh
    for name in ("tokens", "model", "dtype", "contexts_per_shard"):
        if getattr(found, name) != getattr(fresh, name):
            raise _mismatch(directory, name)
    for name, coder in coders.items():
        entry = found.hookpoints.setdefault(
            name, HookpointEntry(coder.fingerprint, coder.num_latents)
        )
        if entry.coder != coder.fingerprint:
            raise _mismatch(directory, f"coder at {name}")
        files = {shard.index: directory / name / shard.file_name for shard in shards}
        entry.shards = {
            index: its for index, its in entry.shards.items() if is_intact(files[index], its)
        }
    for pattern in (".*.tmp", "*/.*.tmp"):
        for leftover in directory.glob(pattern):
            # A killed process could not remove its unfinished files.
            leftover.unlink(missing_ok=True)
    found.hookpoints = dict(sorted(found.hookpoints.items(), key=lambda item: layer_order(item[0])))
    found.save(directory)
    return found


def _mismatch(directory: Path, what: str) -> CacheError:
    return CacheError(
        f"{directory} already holds a cache made with another {what}; choose another --out, or "
        f"delete {directory} to start over"
    )


def _batches(shard: Shard, batch_size: int) -> list[tuple[int, int]]:
    """Ranges of contexts; never across shards, so that a resumed shard has the same numbers."""
    starts = range(shard.start, shard.stop, batch_size)
    return [(start, min(start + batch_size, shard.stop)) for start in starts]


def _write(
    directory: Path,
    manifest: Manifest,
    shard: Shard,
    coders: Mapping[str, Coder],
    found: list[dict[str, _Part]],
) -> None:
    """Write one shard of some hookpoints, then the manifest that lists it."""
    for name, coder in coders.items():
        parts = zip(*(batch[name] for batch in found), strict=True)
        position, latent, act = (np.concatenate(columns) for columns in parts)
        manifest.hookpoints[name].shards[shard.index] = write_shard(
            directory / name / shard.file_name,
            position,
            latent,
            act,
            ctx_len=manifest.ctx_len,
            num_latents=coder.num_latents,
            dtype=manifest.dtype,
        )
    manifest.save(directory)


def _batch_firings(
    tokens: Tokens,
    model: SubjectModel,
    coders: Mapping[str, Coder],
    start: int,
    stop: int,
    advance: Callable[[int], None],
) -> dict[str, _Part]:
    """Position, latent and activation of every firing in some contexts, by hookpoint."""
    at = torch.from_numpy(np.flatnonzero(tokens.valid[start:stop])).to(model.device)
    found = firings_at(model, coders, tokens.ids[start:stop], at)
    advance(len(at))
    return {
        name: (
            (position + start * tokens.ctx_len).cpu().numpy(),
            latent.to(torch.int32).cpu().numpy(),
            act.cpu().numpy(),
        )
        for name, (position, latent, act) in found.items()
    }


def firings_at(
    model: SubjectModel, coders: Mapping[str, Coder], ids: npt.NDArray[np.integer[Any]], at: Tensor
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Every firing at some positions of one batch, by the key of `coders`.

    One pass of the model, up to the last hook that is read.

    Parameters
    ----------
    model, coders
        Several coders may read one hook.
    ids : int [b, t]
        Token ids.
    at : int64 [n]
        The positions, as indices into the flat `ids`.

    Returns
    -------
    dict of str to (int64 [m], int64 [m], float32 [m])
        Position (an index into the flat `ids`), latent and activation (> 0).

    Raises
    ------
    CacheError
        If the model gives values that are not finite.
    """
    found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def read(hook: str, value: Tensor) -> None:
        x = value.reshape(-1, value.shape[-1])[at].float()
        if not bool(x.isfinite().all()):
            raise CacheError(
                f"{model.name} gives values that are not finite at {hook}; check the model's "
                "weights"
            )
        for name, coder in coders.items():
            if coder.hookpoint.hook_in == hook:
                row, latent, act = coder.firings(x)
                found[name] = at[row], latent, act.float()

    names = {coder.hookpoint.hook_in for coder in coders.values()}
    hooks: dict[str, Hook] = {name: partial(read, name) for name in names}
    model.run(ids, hooks, stop_after=max(hooks, key=execution_order))
    return found
