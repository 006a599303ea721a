"""Keys of a corpus as numbered nodes, each type's keys refined by those it backs off to.

A *node* of a type is a (parent node, key) pair seen in the fit split; a type that backs off to
nothing has the root as parent. Nodes are numbered from 0 in order of (parent node, key), so the
children of a node are neighbours.

A *level* is the nodes of one type, or of a refinement written ``unigram+topic``: the keys of the
last type under the nodes of what stands before it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from labeler.errors import FunctionTypeError, LabelError, NotApplicableError
from labeler.functions import FunctionType, Keys, get_function_type, with_back_off
from labeler.functions.calls import Calls
from labeler.level import REFINES, Level, Nodes, number_nodes
from labeler.store import atomic_path, read_json, write_json
from labeler.tokens import HELDOUT, Tokens

FORMAT = 2


def levels_of(names: Sequence[str]) -> dict[str, str | None]:
    """The levels that function types and refinements need, each with its parent, parents first.

    Raises
    ------
    FunctionTypeError
        For an unknown type or a circle of back-offs.
    """
    levels: dict[str, str | None] = {}
    for name in names:
        above, refines, last = name.rpartition(REFINES)
        if refines:
            get_function_type(last)
            levels |= levels_of([above])
            if get_function_type(above.rpartition(REFINES)[2]).several_keys:
                raise FunctionTypeError(
                    f"{name}: {above} has several keys per position and cannot be refined; put it "
                    f"last, as in unigram{REFINES}{above}"
                )
            levels[name] = above
        else:
            levels |= {up: get_function_type(up).backs_off_to for up in with_back_off([name])}
    return levels


class KeyTree:
    """Nodes of several function types over one fit split.

    Attributes
    ----------
    types : dict of str to FunctionType
        Prepared types.
    levels : dict of str to Level
        Their nodes, parents before children.
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
    def build(
        cls,
        fit: Tokens,
        names: Sequence[str],
        advance: Callable[[float], None] = lambda share: None,
    ) -> tuple["KeyTree", dict[str, Nodes]]:
        """Number the keys of the fit split.

        Parameters
        ----------
        fit : Tokens
            The fit split only.
        names : sequence of str
            Function types and refinements; what they back off to is added.
        advance : callable
            Told each share of the work as it is done; the shares add up to 1.

        Returns
        -------
        KeyTree
        dict of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
            Nodes of every position, by level; -1 = no key or padding.

        Raises
        ------
        ValueError
            If `fit` holds held-out contexts.
        """
        if (fit.fold == HELDOUT).any():
            raise ValueError("KeyTree.build takes the fit split only: pass tokens.fit")
        tree = cls({}, {})
        nodes: dict[str, Nodes] = {}
        levels = levels_of(names)
        keys: dict[str, Keys] = {}
        for name, parent_name in levels.items():
            type_name = name.rpartition(REFINES)[2]
            advance(1 / len(levels))
            if parent_name in tree.abstained:
                tree.abstained[name] = f"backs off to {parent_name}, which does not apply"
                continue
            if type_name not in keys and type_name not in tree.abstained:
                kind = get_function_type(type_name)()
                try:
                    kind.prepare(fit)
                except NotApplicableError as why:
                    tree.abstained[type_name] = str(why)
                else:
                    keys[type_name] = kind.fit_keys(fit)
                    tree.types[type_name] = kind
            if type_name in tree.abstained:
                tree.abstained.setdefault(name, tree.abstained[type_name])
                continue
            parent = nodes[parent_name] if parent_name else None
            tree.levels[name], nodes[name] = number_nodes(
                name, parent_name, keys[type_name], parent, fit
            )
        return tree, nodes

    def find(self, tokens: Tokens, names: Iterable[str] | None = None) -> dict[str, Nodes]:
        """Nodes of every position of any text, by level, int32 [n_ctx, ctx_len] or [..., m].

        Only for the given levels and those they back off to; None for all.
        """
        nodes: dict[str, Nodes] = {}
        keys: dict[str, Keys] = {}
        chosen = self.levels if names is None else names
        wanted = {up for name in chosen for up in self.chain(name)}
        wanted |= {up for name in wanted for read in self._reads(name) for up in self.chain(read)}
        for name, level in self.levels.items():
            if name not in wanted:
                continue
            if level.type_name not in keys:
                kind = self.types[level.type_name]
                found = kind.keys_at(nodes) if isinstance(kind, Calls) else kind.keys(tokens)
                keys[level.type_name] = found
            parent = nodes[level.parent_name] if level.parent_name else None
            nodes[name] = level.find(keys[level.type_name], parent)
        return nodes

    def with_calls(
        self, calls: Calls, fit: Tokens, nodes: Mapping[str, Nodes]
    ) -> tuple["KeyTree", Nodes]:
        """The same tree with the calls of earlier labels as a further level, and their nodes.

        Parameters
        ----------
        calls : Calls
        fit : Tokens
            The fit split.
        nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
            Of the fit split, by level.
        """
        level, found = number_nodes(calls.name, None, calls.keys_at(nodes), None, fit)
        return self.joined(KeyTree({calls.name: calls}, {calls.name: level})), found

    def joined(self, other: "KeyTree") -> "KeyTree":
        """Both trees' types and levels; the other's come last."""
        return KeyTree(
            self.types | other.types, self.levels | other.levels, self.abstained | other.abstained
        )

    def only(self, name: str) -> "KeyTree":
        """One level that backs off to nothing, alone."""
        level = self.levels[name]
        return KeyTree({level.type_name: self.types[level.type_name]}, {name: level})

    def complete(self, nodes: Mapping[str, Nodes]) -> dict[str, Nodes]:
        """Nodes of a text with those of the calls added, which are found from the others."""
        found = dict(nodes)
        kind = self.types.get(Calls.name)
        if isinstance(kind, Calls) and Calls.name in self.levels:
            found[Calls.name] = self.levels[Calls.name].find(kind.keys_at(nodes), None)
        return found

    def _reads(self, name: str) -> tuple[str, ...]:
        kind = self.types[self.levels[name].type_name]
        return kind.reads if isinstance(kind, Calls) else ()

    def chain(self, name: str) -> list[str]:
        """The level and all it backs off to, coarsest first."""
        chain = [name]
        while (parent := self.levels[chain[-1]].parent_name) is not None:
            chain.append(parent)
        return chain[::-1]

    def select(self, names: Iterable[str]) -> "KeyTree":
        """The same tree with some of its levels only, and those they back off to."""
        wanted = {up for name in names if name in self.levels for up in self.chain(name)}
        levels = {name: level for name, level in self.levels.items() if name in wanted}
        return KeyTree(self.types, levels, self.abstained)

    def text(self, name: str, node: int) -> str:
        """What a person reads of a node; a refinement reads after what it refines."""
        level = self.levels[name]
        key, parent = divmod(int(level.pair[node]), max(len(level.keys), 1))[::-1]
        own = self.types[level.type_name].render(int(level.keys[key]))
        if REFINES in name and level.parent_name:
            return f"{self.text(level.parent_name, parent)} and {own}"
        return own

    def texts(self, level: npt.NDArray[np.str_], node: npt.NDArray[np.integer]) -> list[str]:
        """Text of each (level, node); each distinct one is rendered once."""
        out = np.empty(len(node), dtype=object)
        for name in self.levels:
            mine = np.flatnonzero(level == name)
            distinct, back = np.unique(node[mine], return_inverse=True)
            texts = np.array([self.text(name, int(one)) for one in distinct], dtype=object)
            out[mine] = texts[back] if len(mine) else out[mine]
        return [str(text) for text in out]

    def several_keys(self, name: str) -> bool:
        """Whether a position may have several nodes of a level at once."""
        return any(self.types[self.levels[up].type_name].several_keys for up in self.chain(name))

    def looks_ahead(self, name: str) -> bool:
        """Whether a level reads later positions, and so never runs in a layer."""
        return any(self.types[self.levels[up].type_name].looks_ahead for up in self.chain(name))

    @property
    def leaves(self) -> list[str]:
        """Levels that no other level of the tree backs off to."""
        parents = {level.parent_name for level in self.levels.values()}
        return [name for name in self.levels if name not in parents]

    def save(self, folder: Path) -> None:
        """Write types and levels: an ``.npz`` each, and ``tree.json``."""
        for name, level in self.levels.items():
            _save_arrays(
                folder / f"{name}.npz", {"keys": level.keys, "pair": level.pair, "n": level.n}
            )
        for name, kind in self.types.items():
            _save_arrays(folder / f"{name}.state.npz", kind.state())
        write_json(
            folder / "tree.json",
            {
                "format": FORMAT,
                "levels": [[name, level.parent_name] for name, level in self.levels.items()],
                "types": list(self.types),
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
        if index.get("format") != FORMAT:
            raise LabelError(
                f"{folder / 'tree.json'}: format is {index.get('format')!r}, this version reads "
                f"{FORMAT}; run `labeler fit` again"
            )
        tree = cls({}, {}, dict(index["abstained"]))
        for name in index["types"]:
            tree.types[name] = get_function_type(name)()
            tree.types[name].load_state(_load_arrays(folder / f"{name}.state.npz"))
        for name, parent_name in index["levels"]:
            path = folder / f"{name}.npz"
            arrays = _load_arrays(path)
            try:
                keys, pair, n = (arrays[key] for key in ("keys", "pair", "n"))
            except KeyError as error:
                raise LabelError(f"{path} lacks {error}; run `labeler fit` again") from error
            tree.levels[name] = Level(name, parent_name, keys, pair, n)
        return tree


def _save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **dict[str, Any](arrays))


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays}
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise LabelError(f"{path}: cannot be read ({error}); run `labeler fit` again") from error
