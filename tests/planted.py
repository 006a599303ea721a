"""Latents made from known keys of every function type.

A latent holds one to four keys of a type, each with a strength of its own. A key can be asked for
only where no simpler type says the same (`Planter.rival`): else the truth would be ambiguous.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeler.level import REFINES, Nodes
from tests.planted_text import Text

AMBIGUOUS = 0.9
"""F1 with which a simpler type's keys may at most say where a latent's keys hold."""

SAME = 0.99
"""F1 from which two types' keys say the same, and either may name the latent."""

LEAST, MOST = 60, 6000
"""Positions of the fit split at a key. A type of few keys may have larger ones."""

_FEW = 4
"""Keys within those bounds below which a type may use larger ones."""

_SHARE = 0.4
"""Largest share of the positions that a latent's keys may have."""

_TRIES = 300

Table = tuple[str, np.ndarray]
"""A level, and what each of its nodes stands for, float64 [n_nodes + 1]; the last is no node."""


@dataclass(frozen=True)
class Part:
    """Nodes that a label should name.

    Attributes
    ----------
    level : str
    nodes : frozenset of int
        Any of them will do.
    sign : int
        Of the weight.
    """

    level: str
    nodes: frozenset[int]
    sign: int = 1


@dataclass(frozen=True, eq=False)
class Truth:
    """What a latent was made of.

    Attributes
    ----------
    kind : str
    wanted : frozenset of str
        Types that name it rightly.
    parts : tuple of tuple of Part
        What its label should hold; of each group any part will do.
    strength : callable
        From nodes by level to the mean activation where it fires, float64 [n_positions]; 0 where
        none of its keys holds.
    """

    kind: str
    wanted: frozenset[str]
    parts: tuple[tuple[Part, ...], ...]
    strength: Callable[[Mapping[str, Nodes]], np.ndarray]


def lookup(nodes: Mapping[str, Nodes], table: Table) -> np.ndarray:
    """The largest value of the nodes that a position has, float64 [n_positions]."""
    name, values = table
    node = nodes[name]
    return values[node.reshape(node.shape[0] * node.shape[1], -1)].max(axis=1)


class Planter:
    """Draws truths on the fit split of a text.

    Parameters
    ----------
    text : Text
    names : sequence of str
        Levels that compete, and so may be rivals.
    seed : int

    Attributes
    ----------
    refused : dict of (str, int) to str
        Keys (level and number) that a simpler type says as well, and which.
    """

    def __init__(self, text: Text, names: Sequence[str], seed: int) -> None:
        self.text, self.names = text, list(names)
        self.rng = np.random.default_rng(seed)
        self.valid = text.fit.valid.ravel()
        self.refused: dict[tuple[str, int], str] = {}
        self._fine: set[tuple[str, int]] = set()
        self._keys: dict[str, np.ndarray] = {}

    # -- keys -----------------------------------------------------------------------------------

    def keys(self, name: str) -> np.ndarray:
        """Key of each node as a number from 0; its own number where the level is a refinement."""
        if name not in self._keys:
            level = self.text.tree.levels[name]
            plain = REFINES not in name
            found = np.unique(level.key, return_inverse=True)[1] if plain else None
            self._keys[name] = np.arange(level.n_nodes) if found is None else found
        return self._keys[name]

    def usable(self, name: str) -> np.ndarray:
        """Keys of a level of the right size, of which a tenth is outside the fold with the most."""
        level, keys = self.text.tree.levels[name], self.keys(name)
        counts = np.zeros((int(keys.max()) + 1, level.n.shape[1]))
        np.add.at(counts, keys, level.n)
        total = counts.sum(axis=1)
        spread = total - counts.max(axis=1) >= 0.1 * total
        fine = np.flatnonzero(spread & (total >= LEAST) & (total <= MOST))
        if len(fine) >= _FEW:
            return fine
        most = _SHARE * self.text.fit.n_positions
        return np.flatnonzero(spread & (total >= LEAST) & (total <= most))

    def table(self, name: str, keys: np.ndarray, strength: np.ndarray) -> Table:
        """Strength of each node of some keys, 0 of all others."""
        values = np.zeros(self.text.tree.levels[name].n_nodes + 1)
        for key, value in zip(keys, strength, strict=True):
            values[:-1][self.keys(name) == key] = value
        return name, values

    def holds(self, table: Table) -> np.ndarray:
        """Where the keys of a table hold in the fit split, bool [n_positions]."""
        found: np.ndarray = (lookup(self.text.nodes, table) > 0) & self.valid
        return found

    # -- what else says the same ----------------------------------------------------------------

    def met(self, mask: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Nodes of a level met where a mask holds, how often there, and how often in all."""
        node = self.text.nodes[name].reshape(len(mask), -1)[mask]
        nodes, hits = np.unique(node[node >= 0], return_counts=True)
        return nodes, hits, self.text.tree.levels[name].n_total[nodes]

    def score(self, mask: np.ndarray, name: str, n_keys: int) -> float:
        """F1 with which at most `n_keys` nodes of a level say where a mask holds."""
        _, hits, total = self.met(mask, name)
        if not len(hits):
            return 0.0
        size = mask.sum()
        single = float((2 * hits / (total + size)).max())
        if self.text.tree.several_keys(name):
            # Keys that overlap cannot be added up.
            return single
        order = np.argsort(-hits / total)[:n_keys]
        hit, called = np.cumsum(hits[order]), np.cumsum(total[order])
        return max(single, float((2 * hit / (called + size)).max()))

    def depth(self, name: str) -> int:
        """Length of the chain that a level backs off through."""
        return len(self.text.tree.chain(name))

    def rival(self, mask: np.ndarray, name: str, n_keys: int) -> str | None:
        """A level no deeper than `name` that says the same with no more keys; None if none does.

        Unigrams are the simplest type of all: others can at most say as much.
        """
        if name == "unigram":
            return None
        for other in self.names:
            simpler = other != name and self.depth(other) <= self.depth(name)
            if simpler and self.score(mask, other, n_keys) > AMBIGUOUS:
                return other
        return None

    def twins(self, table: Table) -> tuple[Part, ...]:
        """The table's nodes, and those of levels of its depth whose keys hold just there."""
        name, values = table
        mask = self.holds(table)
        n = len(np.unique(self.keys(name)[values[:-1] > 0]))
        parts = [self.part(table)]
        for other in self.names:
            alike = other != name and self.depth(other) == self.depth(name)
            if alike and self.score(mask, other, n) > SAME:
                nodes, hits, total = self.met(mask, other)
                parts.append(Part(other, frozenset(nodes[hits > SAME * total].tolist())))
        return tuple(parts)

    # -- drawing --------------------------------------------------------------------------------

    def draw(self, name: str, n_keys: int | None = None, good: np.ndarray | None = None) -> Table:
        """One to four keys of a level, with strengths, that no simpler type can stand for.

        Raises
        ------
        ValueError
            If there is none.
        """
        good = self.usable(name) if good is None else good
        good = good[[self._is_fine(name, int(key)) for key in good]] if len(good) < 40 else good
        for _ in range(_TRIES if len(good) else 0):
            n = min(n_keys or int(self.rng.integers(1, 5)), len(good))
            keys = self.rng.choice(good, n, replace=False)
            if not all(self._is_fine(name, int(key)) for key in keys):
                continue
            table = self.table(name, keys, self.rng.uniform(0.5, 2, n))
            mask = self.holds(table)
            if mask.mean() <= _SHARE and self.rival(mask, name, n) is None:
                return table
        raise ValueError(f"{name}: no key that simpler types do not say as well")

    def _is_fine(self, name: str, key: int) -> bool:
        at = (name, key)
        if at not in self._fine and at not in self.refused:
            mask = self.holds(self.table(name, np.array([key]), np.ones(1)))
            rival = self.rival(mask, name, 1)
            if rival is None:
                self._fine.add(at)
            else:
                self.refused[at] = rival
        return at in self._fine

    def part(self, table: Table, sign: int = 1) -> Part:
        """The nodes of a table that are not 0."""
        return Part(table[0], frozenset(np.flatnonzero(table[1][:-1]).tolist()), sign)

    def part_table(self, name: str, node: int) -> Table:
        """A table of one node."""
        values = np.zeros(self.text.tree.levels[name].n_nodes + 1)
        values[node] = 1
        return name, values

    def simple(self, name: str) -> Truth:
        """A latent of one type.

        Where the type has few keys, "not elsewhere" says the same as "here".
        """
        table = self.draw(name)
        twins = self.twins(table)
        elsewhere = Part(name, frozenset(np.flatnonzero(table[1][:-1] == 0).tolist()), -1)
        return Truth(
            name,
            frozenset(part.level for part in twins),
            ((*twins, elsewhere),),
            lambda nodes: lookup(nodes, table),
        )
