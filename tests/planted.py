"""Latents made from known keys of every function type, and what a fit makes of them.

A latent fires with probability 0.9 where one of its keys holds, with gamma noise times the key's
strength, and a tenth as often anywhere else. A key can only be asked for if no simpler type says
the same: see `Planter.rival`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeler.level import REFINES, Nodes
from labeler.statistics import LatentFirings
from labeler.tokens import Tokens
from tests.planted_text import Text

FIRES, SPURIOUS = 0.9, 0.1
SHAPE = 4.0
"""Of the gamma noise: its standard deviation is half its mean."""

AMBIGUOUS = 0.9
"""F1 with which a simpler type's keys may at most say where a latent's keys hold."""

SAME = 0.99
"""F1 from which two types' keys say the same, and either may name the latent."""

LEAST, MOST = 60, 6000
"""Positions of the fit split at a key. A type of few keys may have larger ones."""

_FEW = 4
"""Keys within those bounds below which a type may use larger ones."""

_SHARE = 0.4
"""Largest share of the positions that even those may have."""

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
    """

    def __init__(self, text: Text, names: Sequence[str], seed: int) -> None:
        self.text, self.names = text, list(names)
        self.rng = np.random.default_rng(seed)
        self.valid = text.fit.valid.ravel()
        self.refused: dict[str, dict[str, int]] = {}
        self._good: dict[str, np.ndarray] = {}

    def usable(self, name: str) -> np.ndarray:
        """Keys of a level to draw from, as nodes; of a plain type all nodes of a key count as one.

        A key must occur in two folds, a tenth of it outside the largest.
        """
        if name not in self._good:
            level = self.text.tree.levels[name]
            counts = np.zeros((int(self.groups(name).max()) + 1, level.n.shape[1]))
            np.add.at(counts, self.groups(name), level.n)
            total = counts.sum(axis=1)
            spread = total - counts.max(axis=1) >= 0.1 * total
            fine = np.flatnonzero(spread & (total >= LEAST) & (total <= MOST))
            if len(fine) < _FEW:
                most = _SHARE * self.text.fit.n_positions
                fine = np.flatnonzero(spread & (total >= LEAST) & (total <= most))
            self._good[name] = fine
        return self._good[name]

    def groups(self, name: str) -> np.ndarray:
        """Key of each node as a number from 0; its own number where the level is a refinement."""
        level = self.text.tree.levels[name]
        if REFINES in name:
            return np.arange(level.n_nodes)
        return np.unique(level.key, return_inverse=True)[1]

    def nodes_of(self, name: str, keys: np.ndarray) -> np.ndarray:
        """Nodes of some keys."""
        return np.flatnonzero(np.isin(self.groups(name), keys))

    def table(self, name: str, keys: np.ndarray, strength: np.ndarray) -> Table:
        """Strength of each node, 0 of those that have none of the keys."""
        values = np.zeros(self.text.tree.levels[name].n_nodes + 1)
        groups = self.groups(name)
        for key, value in zip(keys, strength, strict=True):
            values[:-1][groups == key] = value
        return name, values

    def holds(self, table: Table) -> np.ndarray:
        """Where the keys of a table hold in the fit split, bool [n_positions]."""
        found: np.ndarray = (lookup(self.text.nodes, table) > 0) & self.valid
        return found

    def score(self, mask: np.ndarray, name: str, n_keys: int) -> float:
        """F1 with which at most `n_keys` nodes of a level say where a mask holds."""
        node = self.text.nodes[name].reshape(len(mask), -1)
        total = self.text.tree.levels[name].n_total
        found = node[mask]
        met, hits = np.unique(found[found >= 0], return_counts=True)
        if not len(met):
            return 0.0
        if node.shape[1] > 1:
            # Its keys overlap; the best one must do.
            n_keys = 1
        best = 2 * hits / (total[met] + mask.sum())
        order = np.argsort(-hits / total[met])
        hit, called = np.cumsum(hits[order])[:n_keys], np.cumsum(total[met][order])[:n_keys]
        return float(max(best.max(), (2 * hit / (called + mask.sum())).max()))

    def rival(self, mask: np.ndarray, name: str, n_keys: int) -> str | None:
        """A level no deeper than `name` that says the same with no more keys; None if none does.

        Unigrams are the simplest type of all: other types of one token at most tie with them.
        """
        if name == "unigram":
            return None
        depth = len(self.text.tree.chain(name))
        for other in self.names:
            simpler = other != name and len(self.text.tree.chain(other)) <= depth
            if simpler and self.score(mask, other, n_keys) > AMBIGUOUS:
                return other
        return None

    def twins(self, table: Table) -> frozenset[str]:
        """The table's level, and those of its depth with as many keys that hold just there."""
        tree, (name, values) = self.text.tree, table
        mask, n = self.holds(table), len(np.unique(self.groups(name)[values[:-1] > 0]))
        depth = len(tree.chain(name))
        same = [other for other in self.names if len(tree.chain(other)) == depth]
        return frozenset({name, *(one for one in same if self.score(mask, one, n) > SAME)})

    def draw(self, name: str, n_keys: int | None = None, good: np.ndarray | None = None) -> Table:
        """One to four keys of a level, with strengths, that no simpler type can stand for.

        Raises
        ------
        ValueError
            If none is found: what other types say the same is in `refused`.
        """
        good = self.usable(name) if good is None else good
        for _ in range(_TRIES if len(good) else 0):
            n = min(n_keys or int(self.rng.integers(1, 5)), len(good))
            keys = self.rng.choice(good, n, replace=False)
            table = self.table(name, keys, self.rng.uniform(0.5, 2, n))
            mask = self.holds(table)
            if mask.mean() > _SHARE:
                continue
            rival = self.rival(mask, name, n)
            if rival is None:
                return table
            refused = self.refused.setdefault(name, {})
            refused[rival] = refused.get(rival, 0) + 1
        raise ValueError(f"{name}: {len(good)} keys, each as well said by {self.refused.get(name)}")

    def part(self, table: Table, sign: int = 1) -> Part:
        """The nodes of a table that are not 0."""
        return Part(table[0], frozenset(np.flatnonzero(table[1][:-1]).tolist()), sign)

    def rest(self, table: Table, sign: int) -> Part:
        """The nodes of a table that are 0."""
        return Part(table[0], frozenset(np.flatnonzero(table[1][:-1] == 0).tolist()), sign)

    def simple(self, name: str) -> Truth:
        """A latent of one type.

        Where the type has few keys, "not elsewhere" says the same as "here".
        """
        table = self.draw(name)
        return Truth(
            name,
            self.twins(table),
            ((self.part(table), self.rest(table, -1)),),
            lambda nodes: lookup(nodes, table),
        )


def sample(
    truth: Truth, tokens: Tokens, nodes: Mapping[str, Nodes], rate: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and activations of a latent in a split; `rate` is that of firing anywhere."""
    strength = truth.strength(nodes)
    valid = tokens.valid.ravel()
    hits = (strength > 0) & valid & (rng.random(len(valid)) < FIRES)
    stray = valid & ~hits & (rng.random(len(valid)) < rate)
    at = np.flatnonzero(hits | stray)
    mean = np.where(hits[at], strength[at], 1.0)
    return at, mean * rng.gamma(SHAPE, 1 / SHAPE, len(at))


def firings(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> LatentFirings:
    """Firings of latents given by their positions, ascending, and activations."""
    sizes = [len(at) for at, _ in found]
    return LatentFirings(
        0,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([at for at, _ in found]).astype(np.int32),
        np.concatenate([act for _, act in found]).astype(np.float32),
    )


def plant(
    text: Text, truths: Sequence[Truth], seed: int
) -> tuple[LatentFirings, list[tuple[np.ndarray, np.ndarray]]]:
    """Firings of all latents on the fit split, and by latent on the held-out split."""
    rng = np.random.default_rng(seed)
    fit, held = [], []
    for truth in truths:
        share = float((truth.strength(text.nodes) > 0)[text.fit.valid.ravel()].mean())
        rate = SPURIOUS * FIRES * share / (1 - share)
        fit.append(sample(truth, text.fit, text.nodes, rate, rng))
        held.append(sample(truth, text.heldout, text.held, rate, rng))
    return firings(fit), held
