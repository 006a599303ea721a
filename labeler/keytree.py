"""Keys of a corpus as numbered nodes, each type's keys refined by those it backs off to.

A *node* of a type is a (parent node, key) pair seen in the fit split; a type that backs off to
nothing has the root as parent. Nodes are numbered from 0 in order of (parent node, key), so the
children of a node are neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from labeler.errors import LabelError, NotApplicableError
from labeler.functions import FunctionType, get_function_type, with_back_off
from labeler.store import atomic_path, read_json, write_json
from labeler.tokens import HELDOUT, N_FOLDS, Tokens

Nodes = npt.NDArray[np.int32]

UNSEEN = -1
"""Node of a position without a key, or with a key the fit split never showed."""


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one function type.

    Attributes
    ----------
    name : str
        The function type.
    parent_name : str or None
        The type it backs off to.
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
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.pair)

    @property
    def parent(self) -> npt.NDArray[np.int32]:
        """Parent node of each node, int32 [n_nodes]; zeros under the root."""
        return (self.pair // max(len(self.keys), 1)).astype(np.int32)

    @property
    def key(self) -> npt.NDArray[np.int64]:
        """Key of each node, int64 [n_nodes]."""
        return self.keys[self.pair % max(len(self.keys), 1)]

    @property
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
            Parent node of each position, None under the root.
        """
        if not self.n_nodes:
            return np.full(keys.shape, UNSEEN, dtype=np.int32)
        rank = _find_sorted(self.keys, keys)
        if parent is None:
            return _find_sorted(self.pair, rank).astype(np.int32)
        pair = parent.astype(np.int64) * len(self.keys) + rank
        pair[(parent < 0) | (rank < 0)] = -1
        return _find_sorted(self.pair, pair).astype(np.int32)


def _find_sorted(
    values: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Index of each wanted number in ascending `values`, -1 where absent."""
    index = np.searchsorted(values, wanted)
    index[index == len(values)] = 0
    return np.where(values[index] == wanted, index, -1)


class KeyTree:
    """Nodes of several function types over one fit split.

    Attributes
    ----------
    types : dict of str to FunctionType
        Prepared types, parents before children.
    levels : dict of str to Level
        Their nodes.
    abstained : dict of str to str
        Types that do not apply to the corpus, and why.
    """

    def __init__(
        self,
        types: dict[str, FunctionType],
        levels: dict[str, Level],
        abstained: dict[str, str] | None = None,
    ) -> None:
        self.types = types
        self.levels = levels
        self.abstained = abstained or {}

    @classmethod
    def build(cls, fit: Tokens, names: Sequence[str]) -> tuple["KeyTree", dict[str, Nodes]]:
        """Number the keys of the fit split.

        Parameters
        ----------
        fit : Tokens
            The fit split only.
        names : sequence of str
            Function types; what they back off to is added.

        Returns
        -------
        KeyTree
        dict of str to int32 [n_ctx, ctx_len]
            Node of every position, by type; -1 = no key or padding.

        Raises
        ------
        ValueError
            If `fit` holds held-out contexts.
        """
        if (fit.fold == HELDOUT).any():
            raise ValueError("KeyTree.build takes the fit split only: pass tokens.fit")
        tree = cls({}, {})
        nodes: dict[str, Nodes] = {}
        fold = np.broadcast_to(fit.fold[:, None], fit.ids.shape)
        for name in with_back_off(names):
            kind = get_function_type(name)()
            parent_name = kind.backs_off_to
            if parent_name in tree.abstained:
                tree.abstained[name] = f"backs off to {parent_name}, which does not apply"
                continue
            try:
                kind.prepare(fit)
            except NotApplicableError as why:
                tree.abstained[name] = str(why)
                continue
            keys = kind.fit_keys(fit)
            usable = fit.valid & (keys >= 0)
            parent = nodes[parent_name] if parent_name else np.zeros(keys.shape, dtype=np.int32)
            usable &= parent >= 0
            distinct, rank = np.unique(keys[usable], return_inverse=True)
            pair = parent[usable].astype(np.int64) * len(distinct) + rank
            pairs, node = np.unique(pair, return_inverse=True)
            counts = np.bincount(
                node * N_FOLDS + fold[usable], minlength=len(pairs) * N_FOLDS
            ).reshape(len(pairs), N_FOLDS)
            tree.types[name] = kind
            tree.levels[name] = Level(name, parent_name, distinct, pairs, counts.astype(np.int32))
            out = np.full(keys.shape, UNSEEN, dtype=np.int32)
            out[usable] = node
            nodes[name] = out
        return tree, nodes

    def find(self, tokens: Tokens, names: Sequence[str] | None = None) -> dict[str, Nodes]:
        """Node of every position of any text, by type, int32 [n_ctx, ctx_len].

        Only for the given types and those they back off to; None for all.
        """
        nodes: dict[str, Nodes] = {}
        wanted = {up for name in (names or self.levels) for up in self.chain(name)}
        for name, level in self.levels.items():
            if name not in wanted:
                continue
            keys = self.types[name].keys(tokens)
            parent = nodes[level.parent_name] if level.parent_name else None
            nodes[name] = level.find(keys, parent)
        return nodes

    def chain(self, name: str) -> list[str]:
        """The type and all it backs off to, coarsest first."""
        chain = [name]
        while (parent := self.levels[chain[-1]].parent_name) is not None:
            chain.append(parent)
        return chain[::-1]

    @property
    def leaves(self) -> list[str]:
        """Types that no other type of the tree backs off to."""
        parents = {level.parent_name for level in self.levels.values()}
        return [name for name in self.levels if name not in parents]

    def save(self, folder: Path) -> None:
        """Write types and levels: one ``<type>.npz`` each and ``tree.json``."""
        for name, level in self.levels.items():
            arrays: dict[str, Any] = {"keys": level.keys, "pair": level.pair, "n": level.n}
            arrays |= {f"state_{key}": value for key, value in self.types[name].state().items()}
            with atomic_path(folder / f"{name}.npz") as temporary, temporary.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
        write_json(
            folder / "tree.json",
            {
                "format": 1,
                "types": [[name, level.parent_name] for name, level in self.levels.items()],
                "abstained": self.abstained,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "KeyTree":
        """Read what `save` wrote.

        Raises
        ------
        LabelError
            If a file is missing, truncated, or of another format.
        """
        index = read_json(folder / "tree.json", LabelError, "run `labeler fit` again")
        if index.get("format") != 1:
            raise LabelError(
                f"{folder / 'tree.json'}: format is {index.get('format')!r}, this version reads 1; "
                "run `labeler fit` again"
            )
        tree = cls({}, {}, dict(index["abstained"]))
        for name, parent_name in index["types"]:
            path = folder / f"{name}.npz"
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    state = {key[6:]: arrays[key] for key in arrays if key.startswith("state_")}
                    level = Level(name, parent_name, arrays["keys"], arrays["pair"], arrays["n"])
            except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
                raise LabelError(
                    f"{path}: cannot be read ({error}); run `labeler fit` again"
                ) from error
            tree.types[name] = get_function_type(name)()
            tree.types[name].load_state(state)
            tree.levels[name] = level
        return tree
