"""Planted latents of two parts, confounds, and noise."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from labeler.level import Nodes
from tests.planted import AMBIGUOUS, SHAPE, Part, Planter, Table, Truth, lookup

REFINED = ("topic", "learned_topic", "inside_quotes", "brackets", "indentation", "line_position")
"""Types that unigrams are refined by."""

EXCEPTIONS = {"inside_quotes": "unigram+inside_quotes", "topic": "unigram+topic", "token": "bigram"}
"""Exceptions to a unigram, and the level that has them as keys: after a token it is a bigram."""

STRONGER = 3.0

# What a latent is made of, what it looks like, and the share of its positions that are alike.
CONFOUNDS = (
    ("unigram", "topic", 0.8),
    ("unigram", "bigram", 0.7),
    ("indentation", "line_position", 0.0),
    ("previous_token", "bigram", 0.6),
    ("word", "unigram", 0.9),
    ("prefix", "word", 0.6),
    ("subtopic", "topic", 0.8),
    ("expected_token", "unigram", 0.5),
    ("induction", "expected_token", 0.5),
    ("position", "seen_before", 0.5),
)

JOINT = {
    frozenset({"unigram", "previous_token"}): "bigram",
    frozenset({"punctuation", "token_2_back"}): "gap_bigram",
    frozenset({"bigram", "token_3_back"}): "gap_trigram",
}
"""Types whose keys hold both parts of a union, and so may name it."""

_TRIES = 300
_NEAREST = 30


class Pairs:
    """Draws truths of two parts.

    Parameters
    ----------
    planter : Planter
    """

    def __init__(self, planter: Planter) -> None:
        self.planter, self.text, self.rng = planter, planter.text, planter.rng

    def refinement(self, by: str) -> Truth:
        """A token where a key of another type holds."""
        level = f"unigram+{by}"
        table = self.planter.draw(level, 1)
        here, node = self.planter.part(table), int(table[1].argmax())
        parent = self.text.tree.levels[level].parent
        token = frozenset({int(parent[node])})
        others = frozenset(np.flatnonzero(parent == parent[node]).tolist()) - here.nodes
        return Truth(
            f"token & {by}",
            frozenset({level}),
            ((here, Part("unigram", token)), (here, Part(level, others, -1))),
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
        return Truth(
            "union",
            self.planter.twins(tables[0])
            | self.planter.twins(tables[1])
            | frozenset({JOINT.get(frozenset({one, other}), one)}),
            tuple((self.planter.part(table),) for table in tables),
            lambda nodes: np.maximum(*(lookup(nodes, table) for table in tables)),
        )

    def unless(self, exception: str) -> Truth:
        """A token, but not where a key of another type holds."""
        here, there, others = self._token_and(EXCEPTIONS[exception], 0.15, 0.5, without=True)

        def strength(nodes: Mapping[str, Nodes]) -> np.ndarray:
            return np.where(lookup(nodes, there) > 0, 0, lookup(nodes, here))

        return Truth(
            f"token unless {exception}",
            frozenset({"unigram", there[0]}),
            (
                (self.planter.part(here), Part(there[0], others)),
                (self.planter.part(there, -1), Part(there[0], others)),
            ),
            strength,
        )

    def stronger(self, inside: str) -> Truth:
        """A token, three times as strong where a key of another type holds."""
        here, there, others = self._token_and(f"unigram+{inside}", 0.2, 0.6, without=False)

        def strength(nodes: Mapping[str, Nodes]) -> np.ndarray:
            return lookup(nodes, here) * np.where(lookup(nodes, there) > 0, STRONGER, 1)

        return Truth(
            f"token, stronger in {inside}",
            frozenset({"unigram", there[0]}),
            (
                (self.planter.part(here), Part(there[0], others)),
                (self.planter.part(there), Part(there[0], others, -1)),
            ),
            strength,
        )

    def _token_and(
        self, refined: str, low: float, high: float, *, without: bool
    ) -> tuple[Table, Table, frozenset[int]]:
        """A token, one of its refinements with between `low` and `high` of it, and the others.

        No other level may have a key that says where the refinement holds, nor one that says where
        the token holds (`without`: and the refinement does not).
        """
        tree, rng = self.text.tree, self.rng
        level, unigrams = tree.levels[refined], tree.levels["unigram"].n_total
        share = level.n_total / unigrams[level.parent]
        fine = (
            (share > low) & (share < high) & (level.n_total >= 40) & (unigrams[level.parent] > 150)
        )
        fine &= (level.n > 0).sum(axis=1) > 2
        for _ in range(_TRIES):
            node = rng.choice(np.flatnonzero(fine))
            token = np.array([level.parent[node]])
            here = self.planter.table("unigram", self.planter.groups("unigram")[token], np.ones(1))
            values = np.zeros(level.n_nodes + 1)
            values[node] = 1
            mask, part = self.planter.holds(here), self.planter.holds((refined, values))
            if without:
                mask &= ~part
            rivals = set(self.planter.names) - {"unigram", "word", refined}
            if all(self.planter.score(m, n, 1) <= AMBIGUOUS for n in rivals for m in (mask, part)):
                siblings = np.flatnonzero(level.parent == token)
                others = frozenset(siblings[siblings != node].tolist())
                return here, (refined, values), others
        raise ValueError(f"no token has such a part in {refined}")

    def confound(self, name: str, like: str, at_least: float) -> Truth:
        """A latent of one type that fires mostly where one key of another type holds."""
        alike = np.array([self.alike(name, key, like) for key in self.planter.usable(name)])
        order = np.argsort(-alike)
        near = order[alike[order] >= at_least][:_NEAREST]
        table = self.planter.draw(name, 1, self.planter.usable(name)[near])
        return Truth(
            f"{like}, really {name}",
            self.planter.twins(table),
            ((self.planter.part(table),),),
            lambda nodes: lookup(nodes, table),
        )

    def alike(self, name: str, key: int, like: str) -> float:
        """Share of a key's positions that one node of another level holds."""
        mask = self.planter.holds(self.planter.table(name, np.array([key]), np.ones(1)))
        found = self.text.nodes[like].reshape(len(mask), -1)[mask]
        _, n = np.unique(found[found >= 0], return_counts=True)
        return float(n.max(initial=0) / mask.sum())


def noise(text_valid: np.ndarray, doc: np.ndarray, n: int, seed: int) -> list[tuple]:
    """Firings of latents without a truth: independent, bursty by document, and in runs."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        size = len(text_valid)
        rate = np.exp(rng.uniform(np.log(200 / size), np.log(0.03)))
        chance = rng.gamma(0.5, 2 * rate, size=doc.max() + 1)[doc] if number % 3 else rate
        fires = rng.random(size) < np.minimum(chance / (5 if number % 3 == 2 else 1), 1)
        if number % 3 == 2:
            starts = fires.copy()
            for later in range(1, 8):
                fires[later:] |= starts[:-later] & (rng.random(size - later) < 0.7)
        at = np.flatnonzero(fires & text_valid)
        found.append((at, rng.gamma(SHAPE, 1 / SHAPE, len(at))))
    return found


def many(draw: Callable[[], Truth], n: int) -> list[Truth]:
    """That many draws."""
    return [draw() for _ in range(n)]


UNIONS: Sequence[tuple[str, str]] = (
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
"""Pairs of types of which either key will do."""
