"""One level of a key tree: the (parent node, key) pairs of the fit split, numbered."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from labeler.functions import Keys
from labeler.tokens import N_FOLDS, Tokens

Nodes = npt.NDArray[np.int32]

REFINES = "+"
"""Joins the parts of a refinement: "unigram+topic" is the topic's key under the unigram's node."""

UNSEEN = -1
"""Node of a position without a key, or with a key the fit split never showed."""


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one function type.

    Attributes
    ----------
    name : str
        The function type, or a refinement such as "unigram+topic".
    parent_name : str or None
        The level it backs off to.
    keys : int64 [n_keys]
        Distinct keys, ascending.
    pair : int64 [n_nodes]
        ``parent * n_keys + rank of the key``, ascending (parent = 0 under the root).
    n : int32 [n_nodes, N_FOLDS]
        Positions of the fit split at each node, by fold.
    """

    name: str
    parent_name: str | None
    keys: npt.NDArray[np.int64]
    pair: npt.NDArray[np.int64]
    n: npt.NDArray[np.int32]

    @property
    def type_name(self) -> str:
        """The function type whose keys these are: the last one of a refinement."""
        return self.name.rpartition(REFINES)[2]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.pair)

    @cached_property
    def parent(self) -> npt.NDArray[np.int32]:
        """Parent node of each node, int32 [n_nodes]; zeros under the root."""
        return (self.pair // max(len(self.keys), 1)).astype(np.int32)

    @property
    def key(self) -> npt.NDArray[np.int64]:
        """Key of each node, int64 [n_nodes]."""
        return self.keys[self.pair % max(len(self.keys), 1)]

    @cached_property
    def n_total(self) -> npt.NDArray[np.int64]:
        """Positions of the fit split at each node, int64 [n_nodes]."""
        total: npt.NDArray[np.int64] = self.n.sum(axis=1, dtype=np.int64)
        return total

    def find(self, keys: npt.NDArray[np.int64], parent: Nodes | None) -> Nodes:
        """Node of each key under its parent node; UNSEEN where there is none.

        Parameters
        ----------
        keys : int64 [...]
            Keys of positions, -1 = no key.
        parent : int32 [...] or None
            Parent node of each position, None under the root. May lack the last axis of `keys`
            where a position has several keys.
        """
        if not self.n_nodes:
            return np.full(keys.shape, UNSEEN, dtype=np.int32)
        rank = _find_sorted(self.keys, keys)
        if parent is None:
            return _find_sorted(self.pair, rank).astype(np.int32)
        if parent.ndim < rank.ndim:
            parent = parent[..., None]
        pair = parent.astype(np.int64) * len(self.keys) + rank
        pair[np.broadcast_to(parent < 0, rank.shape) | (rank < 0)] = -1
        return _find_sorted(self.pair, pair).astype(np.int32)


def _find_sorted(
    values: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Index of each wanted number in ascending `values`, -1 where absent."""
    index = np.searchsorted(values, wanted)
    index[index == len(values)] = 0
    return np.where(values[index] == wanted, index, -1)


def number_nodes(
    name: str, parent_name: str | None, keys: Keys, parent: Nodes | None, fit: Tokens
) -> tuple[Level, Nodes]:
    """Number the (parent node, key) pairs of the fit split."""
    above = np.zeros(fit.ids.shape, dtype=np.int32) if parent is None else parent
    valid, fold = fit.valid, fit.fold[:, None]
    if keys.ndim == 3:
        above = above if above.ndim == 3 else above[..., None]
        valid, fold = valid[..., None], fold[..., None]
    above, fold = np.broadcast_to(above, keys.shape), np.broadcast_to(fold, keys.shape)
    usable = valid & (keys >= 0) & (above >= 0)
    distinct, rank = np.unique(keys[usable], return_inverse=True)
    pair = above[usable].astype(np.int64) * len(distinct) + rank
    pairs, node = np.unique(pair, return_inverse=True)
    cells = np.bincount(node * N_FOLDS + fold[usable], minlength=len(pairs) * N_FOLDS)
    counts: npt.NDArray[np.int32] = cells.reshape(len(pairs), N_FOLDS).astype(np.int32)
    out = np.full(keys.shape, UNSEEN, dtype=np.int32)
    out[usable] = node
    return Level(name, parent_name, distinct, pairs, counts), out
