"""How often nodes of two levels meet, against sets of positions."""

import threading
from collections import Counter

import numpy as np
import pytest

from labeler.keytree import KeyTree
from labeler.overlap import Overlaps
from tests.synthetic import LastThree, Material, make_tokens, material, plain_tokens, registered

NAMES = [
    *("trigram", "previous_token", "subtopic", "unigram+topic", "bigram+topic"),
    *("last_three", "unigram+last_three"),
]


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(91, n_docs=25, n_vocab=9)
    with registered(LastThree):
        return material(tokens, NAMES, np.zeros((tokens.fit.ids.size, 1), dtype=np.float32))


def meetings(made: Material, a: str, b: str) -> Counter[tuple[int, int]]:
    """Positions at which a node of each level holds, counted one by one."""
    n = made.fit.ids.size
    met: Counter[tuple[int, int]] = Counter()
    for here, there in zip(
        made.nodes[a].reshape(n, -1).tolist(), made.nodes[b].reshape(n, -1).tolist(), strict=True
    ):
        met.update((x, y) for x in here for y in there if x >= 0 and y >= 0)
    return met


def test_the_material_has_every_kind_of_pair(made: Material) -> None:
    tree = made.tree
    assert tree.chain("bigram+topic") == ["unigram", "bigram", "bigram+topic"]
    assert [name for name in tree.levels if tree.several_keys(name)] == NAMES[-2:]
    # Some positions have two of the several keys, some none.
    several = (made.nodes["last_three"] >= 0).sum(axis=-1)[made.fit.valid]
    assert set(several.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("cells", [0, 1 << 22], ids=["sorted", "dense"])
def test_every_pair_of_levels(made: Material, monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr("labeler.overlap._DENSE_CELLS", cells)
    overlaps = Overlaps(made.tree, made.nodes)
    rng = np.random.default_rng(0)
    for a, one in made.tree.levels.items():
        for b, other in made.tree.levels.items():
            met = meetings(made, a, b)
            # Any nodes in any order, some of them twice.
            nodes_a = rng.integers(0, one.n_nodes, 40).astype(np.int32)
            nodes_b = rng.integers(0, other.n_nodes, 50).astype(np.int32)
            wanted = [[met[x, y] for y in nodes_b.tolist()] for x in nodes_a.tolist()]
            found = overlaps.grid(a, nodes_a, b, nodes_b)
            assert found.dtype == np.float64
            assert found.tolist() == wanted, (a, b)
            assert np.array_equal(overlaps.grid(b, nodes_b, a, nodes_a), found.T)
            everything = overlaps.grid(a, np.arange(one.n_nodes), b, np.arange(other.n_nodes))
            assert everything.sum() == sum(met.values())


def test_by_hand() -> None:
    # Unigrams 0, 1, 2; pairs (0 1), (1 0), (0 2): two contexts, the second padded.
    fit = plain_tokens([[0, 1, 0, 2], [0, 1]], n_vocab=3)
    tree, nodes = KeyTree.build(fit, ["bigram", "previous_token"])
    overlaps = Overlaps(tree, nodes)
    every = np.arange(3)
    assert overlaps.grid("unigram", every, "unigram", every).tolist() == [
        *([3, 0, 0], [0, 2, 0], [0, 0, 1])
    ]
    assert [tree.text("bigram", node) for node in range(3)] == ["`<1><0>`", "`<0><1>`", "`<0><2>`"]
    assert overlaps.grid("unigram", every, "bigram", every).tolist() == [
        *([1, 0, 0], [0, 2, 0], [0, 0, 1])
    ]
    # After 0 come 1, twice, and 2; after 1 comes 0.
    assert overlaps.grid("previous_token", np.array([0, 1]), "unigram", every).tolist() == [
        *([0, 2, 1], [1, 0, 0])
    ]


@pytest.mark.parametrize("cells", [0, 1 << 22])
def test_levels_without_nodes(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr("labeler.overlap._DENSE_CELLS", cells)
    tree, nodes = KeyTree.build(plain_tokens([[1], [2], [1]]), ["bigram", "previous_token"])
    overlaps = Overlaps(tree, nodes)
    nothing = np.zeros(0, dtype=np.int32)
    assert overlaps.grid("unigram", np.arange(2), "bigram", nothing).shape == (2, 0)
    assert overlaps.grid("previous_token", nothing, "unigram", np.arange(2)).shape == (0, 2)
    assert overlaps.grid("previous_token", nothing, "bigram", nothing).shape == (0, 0)


def test_levels_that_never_meet() -> None:
    # Only first positions have token 1, which the previous token never sees.
    tree, nodes = KeyTree.build(plain_tokens([[1, 2], [1, 2]]), ["previous_token", "trigram"])
    overlaps = Overlaps(tree, nodes)
    assert overlaps.grid("unigram", np.arange(2), "previous_token", np.array([0])).tolist() == [
        *([0], [2])
    ]


def test_a_further_level_changes_no_other_count(made: Material) -> None:
    """As the calls of earlier labels are added, hookpoint by hookpoint."""
    name = "last_three"
    fewer = made.tree.select([other for other in made.tree.levels if other != name])
    before = Overlaps(fewer, {other: made.nodes[other] for other in fewer.levels})
    nodes = {other: np.arange(level.n_nodes) for other, level in made.tree.levels.items()}
    kept = before.grid("trigram", nodes["trigram"], "topic", nodes["topic"])
    tree = KeyTree(made.tree.types, fewer.levels | {name: made.tree.levels[name]})
    after = before.with_level(tree, name, made.nodes[name])
    whole = Overlaps(made.tree, made.nodes)
    for other in ("unigram", "topic", "unigram+topic", name):
        pair = (other, nodes[other], name, nodes[name])
        assert np.array_equal(after.grid(*pair), whole.grid(*pair))
    assert np.array_equal(after.grid("trigram", nodes["trigram"], "topic", nodes["topic"]), kept)
    with pytest.raises(KeyError):
        before.grid("topic", nodes["topic"], name, nodes[name])


def test_threads_share_what_is_counted_once(
    made: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, str]] = []
    count = Overlaps._count

    def counting(self: Overlaps, a: str, b: str) -> object:
        counted.append((a, b))
        return count(self, a, b)

    monkeypatch.setattr(Overlaps, "_count", counting)
    overlaps = Overlaps(made.tree, made.nodes)
    nodes = np.arange(5)
    wanted = Overlaps(made.tree, made.nodes).grid("topic", nodes[:2], "previous_token", nodes)
    counted.clear()
    start, found = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        found.append(overlaps.grid("topic", nodes[:2], "previous_token", nodes))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1
    assert all(np.array_equal(one, wanted) for one in found)
