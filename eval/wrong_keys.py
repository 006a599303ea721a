"""Keys that make a label too broad or too narrow."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.eval.wrong_labels import Key
from labeler.keytree import KeyTree
from labeler.level import Nodes

_LEAST, _MOST = 0.1, 0.25
"""Share of a label's calls that the key of a too narrow label may hold in."""

_CALLS = 4000
"""Calls of a label that are looked at."""


def broader_keys(
    tree: KeyTree,
    nodes: Mapping[str, Nodes],
    entries: pl.DataFrame,
    threshold: float,
    wanted: float,
    most: int,
    rng: np.random.Generator,
) -> list[Key]:
    """What the firing keys of a label back off to, and random others until they are broad enough.

    Parameters
    ----------
    tree : KeyTree
    nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
        Of a text.
    entries : polars.DataFrame
        Of one label: level, node, weight, value.
    threshold : float
        Activation from which it calls.
    wanted : float
        Positions of the text at which some key should hold.
    most : int
        Keys. Half of them at most are the label's own, those that hold most often.
    rng : numpy.random.Generator

    Returns
    -------
    list of (str, int)
        Empty where no key of the label speaks for firing.
    """
    up = entries.filter(pl.col("weight") > 0)
    fires = up.filter(pl.col("value") >= threshold)
    chosen = (fires if len(fires) else up).select("level", "node").iter_rows()
    own = list(dict.fromkeys(parent_of(tree, level, node) for level, node in chosen))
    names = list(dict.fromkeys(level for level, _ in own))
    flat = {name: nodes[name].reshape(-1, nodes[name][0, 0].size) for name in names}
    size = {name: _counts(flat[name], tree.levels[name].n_nodes) for name in names}
    keys = sorted(own, key=lambda key: -size[key[0]][key[1]])[: max(1, most // 2)]
    free = {name: size[name] > 0 for name in names}
    covered = np.zeros(nodes[names[0]].shape[0] * nodes[names[0]].shape[1] if names else 0, bool)
    for name, node in keys:
        free[name][node] = False
        covered |= (flat[name] == node).any(axis=1)
    while len(keys) < most and (left := wanted - covered.sum()) > 0 and names:
        name = names[int(rng.integers(len(names)))]
        found = _fitting(size[name], free[name], left, left / (most - len(keys)), rng)
        if found is None:
            names.remove(name)
            continue
        keys.append((name, found))
        free[name][found] = False
        covered |= (flat[name] == found).any(axis=1)
    return keys


def _counts(flat: Nodes, n_nodes: int) -> npt.NDArray[np.int64]:
    """How often each node is met."""
    counts: npt.NDArray[np.int64] = np.bincount(flat[flat >= 0], minlength=n_nodes)
    return counts


def _fitting(
    size: npt.NDArray[np.int64],
    free: npt.NDArray[np.bool_],
    most: float,
    least: float,
    rng: np.random.Generator,
) -> int | None:
    """A random free node of a size within bounds; else the nearest in size; None if none is free.

    Small enough not to go beyond what is wanted, large enough to get there with the keys left.
    """
    fine = np.flatnonzero(free & (size <= most) & (size >= least))
    if not len(fine) and free.any():
        fine = np.array([np.where(free, np.abs(size - most), np.inf).argmin()])
    return int(rng.choice(fine)) if len(fine) else None


def parent_of(tree: KeyTree, level: str, node: int) -> Key:
    """The key that a key backs off to; itself where that is the root."""
    above = tree.levels[level].parent_name
    return (level, node) if above is None else (above, int(tree.levels[level].parent[node]))


def further_key(
    tree: KeyTree,
    nodes: Mapping[str, Nodes],
    called: npt.NDArray[np.int64],
    share: float,
    rng: np.random.Generator,
) -> Key | None:
    """The key, of a level that backs off to nothing, whose share of some positions is nearest.

    Parameters
    ----------
    tree : KeyTree
    nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
    called : int64 [n]
        Flat positions.
    share : float
    rng : numpy.random.Generator
        Draws the positions looked at, where there are many.

    Returns
    -------
    (str, int) or None
        None where no key has a tenth to a quarter of the positions.
    """
    if len(called) > _CALLS:
        called = rng.choice(called, _CALLS, replace=False)
    best: tuple[float, Key] | None = None
    for name, level in tree.levels.items():
        if level.parent_name is not None or tree.looks_ahead(name):
            continue
        here = nodes[name].reshape(nodes[name].shape[0] * nodes[name].shape[1], -1)[called]
        found, count = np.unique(here[here >= 0], return_counts=True)
        part = count / len(called)
        fine = np.flatnonzero((part >= _LEAST) & (part <= _MOST))
        if not len(fine):
            continue
        at = fine[np.abs(part[fine] - share).argmin()]
        distance = float(abs(part[at] - share))
        if best is None or distance < best[0]:
            best = distance, (name, int(found[at]))
    return None if best is None else best[1]
