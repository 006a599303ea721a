"""Writing our latent cache as delphi's, so that delphi explains and scores the same activations.

Below the folder of a delphi run:

    run_config.json                               model, coders, what was cached
    latents/<hookpoint>/<first>_<last>.safetensors    see labeler.interop.delphi_files
    latents/<hookpoint>/config.json               what delphi's loader asks for
    labeler/                                      ours: see labeler.interop.delphi_ours

delphi has neither documents nor padding. Padded positions become the token that documents begin
with; ``labeler/`` keeps documents, lengths and splits for a reader that knows them.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from labeler import __version__
from labeler.arrays import Floats
from labeler.cache import Dtype, LatentCache
from labeler.config import RunConfig
from labeler.corpus import Split
from labeler.errors import CacheError, OptionError
from labeler.interop.delphi_files import find_files
from labeler.interop.delphi_ours import OURS, save_documents
from labeler.progress import progress_bar
from labeler.store import atomic_path, hash_json, read_json, write_json
from labeler.tokens import Tokens

_MARKER = "cache.json"
_FORMAT = 1


def write_delphi_cache(
    cache: LatentCache,
    tokens: Tokens,
    directory: Path,
    *,
    config: RunConfig,
    split: Split | Literal["all"] = "all",
    n_splits: int = 5,
    dtype: Dtype = "float16",
    quiet: bool = False,
) -> None:
    """Write a latent cache in delphi's layout.

    May be killed at any moment: the next call with the same inputs keeps the files that are
    finished. Holds the firings of one file at a time.

    Parameters
    ----------
    cache : LatentCache
        All its hookpoints are written.
    tokens : Tokens
        The windows it was made from.
    directory : Path
        The folder of a delphi run, ``results/<name>``; new, empty, or an unfinished export of the
        same.
    config : RunConfig
        Names of model, coders and corpus, which delphi's configs hold.
    split : {'all', 'fit', 'heldout'}
        Which contexts.
    n_splits : int
        Files per hookpoint, each a range of latents.
    dtype : {'float16', 'float32'}
        Of the activations. float16 is what delphi writes; float32 loses nothing.
    quiet : bool
        Show no progress bar.

    Raises
    ------
    CacheError
        If the folder holds something else, or an activation does not fit float16.
    OptionError
        If `n_splits` or `split` cannot be used.
    """
    if split not in ("all", "fit", "heldout"):
        raise OptionError(f"--split is {split!r}; give all, fit or heldout")
    fewest = min(cache.num_latents(name) for name in cache.hookpoints)
    if not 1 <= n_splits <= fewest:
        raise OptionError(
            f"--n-splits is {n_splits}; give 1 to {fewest}, the latents of a hookpoint"
        )
    chosen = tokens if split == "all" else tokens.fit if split == "fit" else tokens.heldout
    first = tokens.fit.n_ctx if split == "heldout" else 0
    _claim(directory, cache, chosen, {"split": split, "n_splits": n_splits, "dtype": dtype})
    ids = np.where(chosen.valid, chosen.ids, _padding(tokens))
    total = n_splits * len(cache.hookpoints)
    with progress_bar("writing delphi cache", total, quiet=quiet) as advance:
        for name in cache.hookpoints:
            folder = directory / "latents" / name
            for low, high in _ranges(cache.num_latents(name), n_splits):
                path = folder / f"{low}_{high}.safetensors"
                # Written whole or not at all, so one that is there is finished.
                if not path.exists():
                    location, act = _firings(cache, name, split, (low, high), first)
                    _write(path, location, act, ids, dtype)
                advance(1)
            # delphi's loader reads model_name, and finds the tokens in the files.
            write_json(folder / "config.json", _config(config, chosen, split, n_splits))
    _write_run_config(directory, cache, chosen, config, split, n_splits)
    find_files(directory)  # every header is read once, so that a fault shows here


def _claim(directory: Path, cache: LatentCache, tokens: Tokens, how: dict[str, Any]) -> None:
    """Make the folder ours, or continue there.

    Raises
    ------
    CacheError
        If it holds anything but an export of the same.
    """
    marker = directory / OURS / _MARKER
    shards = {
        name: [cache.manifest.hookpoints[name].shards[shard.index].sha256 for shard in cache.shards]
        for name in cache.hookpoints
    }
    key = hash_json([_FORMAT, tokens.fingerprint, shards, how])
    if marker.exists():
        found = read_json(marker, CacheError, f"choose another --dest, or delete {directory}")
        if not isinstance(found, dict) or found.get("key") != key:
            raise CacheError(
                f"{directory} holds an export of another cache or with other options; choose "
                "another --dest, or delete it"
            )
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CacheError(f"{directory} exists and is no export of labeler; choose another --dest")
    else:
        write_json(marker, {"format": _FORMAT, "labeler": __version__, "key": key, **how})
    for leftover in directory.glob("latents/*/.*.tmp"):
        leftover.unlink(missing_ok=True)  # of a killed process
    save_documents(directory / OURS, tokens)


def _padding(tokens: Tokens) -> np.int32:
    """The token that most documents begin with: BOS, or EOS where there is no BOS."""
    _, first = np.unique(tokens.doc, return_index=True)
    found, count = np.unique(tokens.ids[first, 0], return_counts=True)
    return np.int32(found[count.argmax()])


def _ranges(num_latents: int, n_splits: int) -> list[tuple[int, int]]:
    """First and last latent of each file, where delphi puts them."""
    import torch

    # delphi truncates a float32 linspace; torch's own rounding decides where that is inexact.
    edges = torch.linspace(0, num_latents, steps=n_splits + 1).long().tolist()
    return [(low, high - 1) for low, high in pairwise(edges)]


def _firings(
    cache: LatentCache,
    name: str,
    split: Split | Literal["all"],
    latents: tuple[int, int],
    first: int,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Locations [nnz, 3] and activations [nnz] of some latents, sorted by place, then latent."""
    low, high = latents
    ctx_len = cache.manifest.ctx_len
    wanted = None if split == "all" else split
    locations, acts = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.float32)]
    for found in cache.iter_shards(name, wanted, (low, high + 1)):
        sequence, pos = np.divmod(found.position, ctx_len)
        locations.append(np.stack([sequence - first, pos, found.latent - low], axis=1))
        acts.append(found.act)
    return np.concatenate(locations), np.concatenate(acts)


def _write(
    path: Path,
    location: npt.NDArray[np.int64],
    act: Floats,
    ids: npt.NDArray[np.int32],
    dtype: Dtype,
) -> None:
    from safetensors.numpy import save

    small = location.size == 0 or int(location.max()) < 1 << 16
    stored = {
        "locations": location.astype(np.uint16 if small else np.uint32),
        "activations": act if dtype == "float32" else _half(act, path),
        "tokens": ids,
    }
    # Written by Python, not by safetensors: a full disk then is an OSError with its number.
    data = save(stored)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _half(act: Floats, path: Path) -> npt.NDArray[np.float16]:
    limit = np.finfo(np.float16)
    if act.size and float(act.max()) > float(limit.max):
        raise CacheError(
            f"{path}: activation {float(act.max()):.6g} does not fit float16 (at most {limit.max})"
            "; use --dtype float32"
        )
    # What would underflow stays a firing.
    return np.maximum(act, np.float32(limit.smallest_subnormal)).astype(np.float16)


def _config(
    config: RunConfig, tokens: Tokens, split: Split | Literal["all"], n_splits: int
) -> dict[str, Any]:
    """A hookpoint's ``config.json``: delphi's cache settings, and the model's name."""
    return {
        "dataset_repo": config.corpus,
        "dataset_split": split,
        "dataset_name": "",
        "dataset_column": config.text_column,
        "batch_size": 32,
        "cache_ctx_len": tokens.ctx_len,
        "n_tokens": tokens.n_ctx * tokens.ctx_len,
        "n_splits": n_splits,
        "model_name": config.model,
    }


def _write_run_config(
    directory: Path,
    cache: LatentCache,
    tokens: Tokens,
    config: RunConfig,
    split: Split | Literal["all"],
    n_splits: int,
) -> None:
    made = _config(config, tokens, split, n_splits)
    settings = {
        "cache_cfg": {key: value for key, value in made.items() if key != "model_name"},
        "model": config.model,
        "sparse_model": config.coder,
        "hookpoints": list(cache.hookpoints),
        "seed": config.seed,
        "filter_bos": False,
    }
    write_json(directory / "run_config.json", settings)
