"""Planted latents of two parts, confounds, and noise."""

from collections.abc import Callable, Mapping

import numpy as np

from labeler.level import Nodes
from tests.planted import AMBIGUOUS, Part, Planter, Table, Truth, lookup

REFINED = ("topic", "learned_topic", "inside_quotes", "brackets", "indentation", "line_position")
"""Types that unigrams are refined by."""

EXCEPTIONS = {"inside_quotes": "unigram+inside_quotes", "topic": "unigram+topic", "token": "bigram"}
"""Exceptions to a token, and the level that has them as keys: after a token it is a bigram."""

STRONGER_IN = ("topic", "learned_topic")
STRONGER = 3.0

UNIONS = (
    ("unigram", "previous_token"),
    ("word", "topic"),
    ("unigram", "sequence"),
    ("previous_word", "suffix"),
    ("token_2_back", "punctuation"),
    ("expected_token", "seen_before"),
    ("induction", "indentation"),
    ("context_class", "digits"),
    ("bigram", "token_3_back"),
    ("subtopic", "position"),
)
"""Pairs of types of which a key of either will do."""

JOINT = {
    ("unigram", "previous_token"): "bigram",
    ("token_2_back", "punctuation"): "gap_bigram",
    ("bigram", "token_3_back"): "gap_trigram",
}
"""Types whose keys hold both parts of a union, and so may name it."""

CONFOUNDS = (
    ("unigram", "topic", 0.8),
    ("unigram", "bigram", 0.7),
    ("indentation", "line_position", 0.0),
    ("previous_token", "bigram", 0.6),
    ("word", "unigram", 0.9),
    ("suffix", "word", 0.5),
    ("subtopic", "topic", 0.8),
    ("expected_token", "unigram", 0.5),
    ("induction", "expected_token", 0.5),
    ("position", "seen_before", 0.5),
)
"""What a latent is made of, what it looks like, and the least share of its positions that one key
of what it looks like holds."""

_TRIES = 300


class Pairs:
    """Draws truths of two parts.

    Parameters
    ----------
    planter : Planter
    """

    def __init__(self, planter: Planter) -> None:
        self.planter, self.text, self.rng = planter, planter.text, planter.rng

    def refinement(self, by: str) -> Truth:
        """A token where a key of another type holds.

        "The token, less so elsewhere" says the same.
        """
        level = f"unigram+{by}"
        table = self.planter.draw(level, 1)
        there, node = self.planter.part(table), int(table[1].argmax())
        parent = int(self.text.tree.levels[level].parent[node])
        token = Part("unigram", frozenset({parent}))
        elsewhere = Part(level, self._siblings(level, node), -1)
        return Truth(
            f"token & {by}",
            frozenset({level}),
            ((there, token), (there, elsewhere)),
            lambda nodes: lookup(nodes, table),
        )

    def union(self, one: str, other: str) -> Truth:
        """A key of one type or a key of another, neither three times as frequent."""
        for _ in range(_TRIES):
            tables = [self.planter.draw(name, 1) for name in (one, other)]
            masks = [self.planter.holds(table) for table in tables]
            sizes = [mask.sum() for mask in masks]
            met = (masks[0] & masks[1]).sum()
            if max(sizes) < 3 * min(sizes) and met < 0.2 * min(sizes):
                break
        else:
            raise ValueError(f"{one} and {other} have no keys of a size")
        parts = tuple(self.planter.twins(table) for table in tables)
        names = {part.level for group in parts for part in group}
        return Truth(
            "one or the other",
            frozenset({*names, JOINT.get((one, other), one)}),
            parts,
            lambda nodes: np.maximum(*(lookup(nodes, table) for table in tables)),
        )

    def unless(self, exception: str) -> Truth:
        """A token, but not where a key of another type holds.

        "The token where another key holds" says the same.
        """
        here, there, siblings = self._token_and(EXCEPTIONS[exception], 0.15, 0.5, without=True)
        elsewhere = Part(there[0], siblings)

        def strength(nodes: Mapping[str, Nodes]) -> np.ndarray:
            return np.where(lookup(nodes, there) > 0, 0, lookup(nodes, here))

        return Truth(
            f"token unless {exception}",
            frozenset({"unigram", there[0]}),
            ((*self.planter.twins(here), elsewhere), (self.planter.part(there, -1), elsewhere)),
            strength,
        )

    def stronger(self, inside: str) -> Truth:
        """A token, three times as strong where a key of another type holds."""
        here, there, siblings = self._token_and(f"unigram+{inside}", 0.2, 0.6, without=False)

        def strength(nodes: Mapping[str, Nodes]) -> np.ndarray:
            return lookup(nodes, here) * np.where(lookup(nodes, there) > 0, STRONGER, 1)

        return Truth(
            f"token, stronger in {inside}",
            frozenset({"unigram", there[0]}),
            (
                (*self.planter.twins(here), Part(there[0], siblings)),
                (self.planter.part(there), Part(there[0], siblings, -1)),
            ),
            strength,
        )

    def _siblings(self, level: str, node: int) -> frozenset[int]:
        """The other nodes of a level that refine the same node."""
        parent = self.text.tree.levels[level].parent
        return frozenset(np.flatnonzero(parent == parent[node]).tolist()) - {node}

    def _token_and(
        self, refined: str, low: float, high: float, *, without: bool
    ) -> tuple[Table, Table, frozenset[int]]:
        """A token, a refinement that holds between `low` and `high` of it, and its siblings.

        No other level may have a key that says where the refinement holds, nor one that says where
        the token holds (`without`: and the refinement does not).
        """
        tree, planter = self.text.tree, self.planter
        level, total = tree.levels[refined], tree.levels["unigram"].n_total
        size = total[level.parent]
        share = level.n_total / size
        fine = (share > low) & (share < high) & (level.n_total >= 40) & (size > 150)
        fine &= (level.n > 0).sum(axis=1) > 2
        rivals = set(planter.names) - {"unigram", "word", refined}
        for _ in range(_TRIES):
            node = int(self.rng.choice(np.flatnonzero(fine)))
            token = planter.keys("unigram")[level.parent[node]]
            here = planter.table("unigram", np.array([token]), np.ones(1))
            there = planter.part_table(refined, node)
            part = planter.holds(there)
            mask = planter.holds(here) & ~(part & without)
            if all(planter.score(m, n, 1) <= AMBIGUOUS for n in rivals for m in (mask, part)):
                return here, there, self._siblings(refined, node)
        raise ValueError(f"no token has such a part in {refined}")

    def confound(self, name: str, like: str, at_least: float) -> Truth:
        """A latent of one type that fires mostly where one key of another type holds."""
        planter = self.planter
        usable = planter.usable(name)
        table = planter.draw(
            name, 1, usable[[self._alike(name, int(key), like) >= at_least for key in usable]]
        )
        twins = planter.twins(table)
        return Truth(
            f"{like}, really {name}",
            frozenset(part.level for part in twins),
            (twins,),
            lambda nodes: lookup(nodes, table),
        )

    def _alike(self, name: str, key: int, like: str) -> float:
        """Share of a key's positions that one node of another level holds."""
        mask = self.planter.holds(self.planter.table(name, np.array([key]), np.ones(1)))
        _, hits, _ = self.planter.met(mask, like)
        return float(hits.max(initial=0) / mask.sum())


def drawn(each: int, *draws: Callable[[], Truth]) -> list[Truth]:
    """So many truths of each kind."""
    return [draw() for draw in draws for _ in range(each)]


def noise(valid: np.ndarray, doc: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    """Positions of latents without a truth: independent, bursty by document, and in runs.

    Parameters
    ----------
    valid : bool [n_positions]
    doc : int [n_positions]
    """
    rng = np.random.default_rng(seed)
    size, found = len(valid), []
    for number in range(n):
        rate = np.exp(rng.uniform(np.log(200 / size), np.log(0.03)))
        bursts, runs = number % 3 > 0, number % 3 == 2
        chance = rng.gamma(0.5, 2 * rate, size=doc.max() + 1)[doc] if bursts else rate
        fires = rng.random(size) < np.minimum(chance / (5 if runs else 1), 1)
        if runs:
            starts = fires.copy()
            for later in range(1, 8):
                fires[later:] |= starts[:-later] & (rng.random(size - later) < 0.7)
        found.append(np.flatnonzero(fires & valid))
    return found
