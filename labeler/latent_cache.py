"""Reading a latent cache, shard by shard."""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeler.corpus import Split
from labeler.errors import CacheError
from labeler.hookpoints import layer_order
from labeler.manifest import HookpointEntry, Manifest
from labeler.shards import Firings, Shard, plan_shards, read_shard
from labeler.store import atomic_path
from labeler.tokens import Tokens


@dataclass(frozen=True, eq=False)
class LatentSummary:
    """Totals of each latent of a hookpoint, all [num_latents].

    Attributes
    ----------
    n_fit, n_heldout : int64
        Positions where it fires, by split.
    sum_fit, sum_sq_fit : float64
        Sum of its activations and of their squares on the fit split.
    max_fit : float64
        Largest activation on the fit split, 0 where it never fires.
    """

    n_fit: npt.NDArray[np.int64]
    n_heldout: npt.NDArray[np.int64]
    sum_fit: npt.NDArray[np.float64]
    sum_sq_fit: npt.NDArray[np.float64]
    max_fit: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LatentCache:
    """A complete cache on disk, read shard by shard. Made by `build_cache` or `open_cache`.

    Attributes
    ----------
    directory : Path
        Where it is.
    manifest : Manifest
        What it was made from.
    shards : tuple of Shard
        The same for all hookpoints, in the order of contexts.
    hookpoints : tuple of str
        Canonical names in layer order.
    """

    directory: Path
    manifest: Manifest
    shards: tuple[Shard, ...]
    hookpoints: tuple[str, ...]

    def num_latents(self, hookpoint: str) -> int:
        """Count the latents of a hookpoint."""
        return self._entry(hookpoint).num_latents

    def n_firings(self, hookpoint: str) -> int:
        """Count the firings of a hookpoint, both splits."""
        return sum(entry.rows for entry in self._entry(hookpoint).shards.values())

    def iter_shards(
        self,
        hookpoint: str,
        split: Split | None = None,
        latents: tuple[int, int] | None = None,
    ) -> Iterator[Firings]:
        """Yield the firings of a hookpoint, one shard at a time, in the order of contexts.

        Parameters
        ----------
        hookpoint : str
            Canonical name.
        split : {'fit', 'heldout'}, optional
            Only this split.
        latents : (int, int), optional
            Only latents ``lo`` to ``hi - 1``.

        Raises
        ------
        CacheError
            If a shard is missing or damaged; names the file and the cure.
        """
        entry = self._entry(hookpoint)
        for shard in self.shards:
            if split in (None, shard.split):
                path = self.directory / hookpoint / shard.file_name
                found = read_shard(path, entry.shards[shard.index], shard, self.manifest.ctx_len)
                yield found if latents is None else found.only(*latents)

    def summary(self, hookpoint: str) -> LatentSummary:
        """Totals of each latent: one scan the first time, kept in ``summary.npz`` after that."""
        entry = self._entry(hookpoint)
        content = "".join(entry.shards[shard.index].sha256 for shard in self.shards)
        key = hashlib.sha256(content.encode()).hexdigest()
        path = self.directory / hookpoint / "summary.npz"
        summary = _load_summary(path, key)
        if summary is None:
            summary = self._scan(hookpoint)
            columns = {column.name: getattr(summary, column.name) for column in fields(summary)}
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, key=np.array(key), **columns)
        return summary

    def _scan(self, hookpoint: str) -> LatentSummary:
        n = self.num_latents(hookpoint)
        counts = {split: np.zeros(n, dtype=np.int64) for split in ("fit", "heldout")}
        sums, squares, maxima = np.zeros(n), np.zeros(n), np.zeros(n)
        for found in self.iter_shards(hookpoint):
            counts[found.shard.split] += np.bincount(found.latent, minlength=n)
            if found.shard.split == "fit":
                act = found.act.astype(np.float64)
                sums += np.bincount(found.latent, weights=act, minlength=n)
                squares += np.bincount(found.latent, weights=act * act, minlength=n)
                np.maximum.at(maxima, found.latent, act)
        return LatentSummary(counts["fit"], counts["heldout"], sums, squares, maxima)

    def _entry(self, hookpoint: str) -> HookpointEntry:
        if hookpoint not in self.hookpoints:
            raise CacheError(
                f"{self.directory} holds no hookpoint {hookpoint!r}; it has "
                f"{', '.join(self.hookpoints)}"
            )
        return self.manifest.hookpoints[hookpoint]


def _load_summary(path: Path, key: str) -> LatentSummary | None:
    """Read a stored summary; None where there is none that belongs to these shards."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return LatentSummary(
                **{column.name: stored[column.name] for column in fields(LatentSummary)}
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def open_cache(
    directory: Path, tokens: Tokens, hookpoints: Sequence[str] | None = None
) -> LatentCache:
    """Open a complete cache.

    Parameters
    ----------
    directory : Path
        What `build_cache` was given.
    tokens : Tokens
        The windows it was made from.
    hookpoints : sequence of str, optional
        Only these; all where None.

    Raises
    ------
    CacheError
        If there is no cache, it was made from other tokens, or a shard is not finished.
    """
    manifest = Manifest.load(directory)
    if manifest is None:
        raise CacheError(f"no latent cache in {directory}; run `labeler cache` first")
    if manifest.tokens != tokens.fingerprint:
        raise CacheError(
            f"the cache in {directory} was made from other tokens; choose another --out, or delete "
            f"{directory} and run `labeler cache` again"
        )
    shards = plan_shards(tokens, manifest.contexts_per_shard)
    names = manifest.hookpoints if hookpoints is None else hookpoints
    for name in names:
        entry = manifest.hookpoints.get(name)
        finished = 0 if entry is None else len(entry.shards)
        if finished < len(shards):
            raise CacheError(
                f"the cache in {directory} has {finished} of {len(shards)} shards of {name}; run "
                "`labeler cache` again, it continues where it stopped"
            )
    return LatentCache(directory, manifest, shards, tuple(sorted(names, key=layer_order)))
