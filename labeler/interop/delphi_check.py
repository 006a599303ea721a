"""Whether a model and a coder give the activations that a delphi cache holds."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeler.arrays import Floats
from labeler.cache import build_cache
from labeler.coders import Coder
from labeler.interop.delphi_files import DelphiFile
from labeler.interop.delphi_text import Text
from labeler.model import SubjectModel

_POSITIONS = 1024
"""Positions that are run again, from the first context on."""

_TOLERANCE = 0.05
"""Difference of an activation to its cached value, as a share of the larger: caches are float16,
and made with models in bfloat16 as a rule."""

_ENOUGH = 0.9
"""Agreement below which the coder is probably another."""

_Firings = tuple[npt.NDArray[np.int64], Floats]
"""Place and latent as one number, ascending, and activation."""


def check_coders(
    files: Mapping[str, tuple[DelphiFile, ...]],
    text: Text,
    subject: SubjectModel,
    coders: Mapping[str, Coder],
    scratch: Path,
) -> dict[str, float]:
    """Run the first contexts again and compare.

    Returns
    -------
    dict of str to float
        By hookpoint, 2 both / (cached + found): `both` fire at the same place with activations
        within 5% of each other. 1 where neither fires.
    """
    n_seq = max(1, _POSITIONS // text.ids.shape[1])
    tokens = text.tokens.with_ids(text.ids[:n_seq], text.length[:n_seq])
    cache = build_cache(tokens, subject, coders, scratch, quiet=True)
    agreement = {}
    for name, coder in coders.items():
        shards = list(cache.iter_shards(name))
        place = np.concatenate([found.position for found in shards]) * coder.num_latents
        ours = place + np.concatenate([found.latent for found in shards])
        act = np.concatenate([found.act for found in shards])
        cached = _cached(files[name], text, tokens.n_ctx, coder.num_latents)
        agreement[name] = _agreement((ours, act), cached)
    shutil.rmtree(scratch)
    return agreement


def agreement_notes(agreement: Mapping[str, float]) -> Iterator[str]:
    """Say where model and coder seem to be others than those of the cache."""
    for name, share in agreement.items():
        if share < _ENOUGH:
            yield (
                f"{name}: model and coder give only {share:.0%} of the cached activations on the "
                "first contexts; labels are fitted to the cache, but `rewrite` and `verify --all` "
                "run model and coder: check that they are those of the cache"
            )


def _cached(files: tuple[DelphiFile, ...], text: Text, n_seq: int, num_latents: int) -> _Firings:
    """Firings of the first contexts, padding left out."""
    n_all, ctx = text.ids.shape
    places, acts = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for file in files:
        for block in file.blocks(n_all, ctx):
            early = block.sequence < n_seq
            keep = early & (block.act > 0) & (block.pos < text.length[block.sequence])
            flat = (block.sequence * ctx + block.pos) * num_latents + block.latent
            places.append(flat[keep])
            acts.append(block.act[keep])
            if not early[-1] and (np.diff(block.sequence) >= 0).all():
                break  # sorted, as delphi writes it: nothing more to come
    place, act = np.concatenate(places), np.concatenate(acts)
    order = np.argsort(place)
    return place[order], act[order]


def _agreement(ours: _Firings, cached: _Firings) -> float:
    total = len(ours[0]) + len(cached[0])
    if not total:
        return 1.0
    _, mine, theirs = np.intersect1d(ours[0], cached[0], assume_unique=True, return_indices=True)
    a, b = ours[1][mine], cached[1][theirs]
    both = int((np.abs(a - b) <= _TOLERANCE * np.maximum(a, b)).sum())
    return 2 * both / total
