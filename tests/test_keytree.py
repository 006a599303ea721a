"""Nodes of the key tree: by hand, and against dictionaries of key paths."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import FunctionTypeError, LabelError
from labeler.functions import FunctionType, Keys, registry
from labeler.keytree import KeyTree, levels_of
from labeler.level import UNSEEN
from labeler.tokens import N_FOLDS, Tokens
from tests.synthetic import (
    LastThree,
    make_tokens,
    named_keys,
    paths_of,
    plain_tokens,
    registered,
)

NAMES = ["trigram", "previous_token", "subtopic"]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return make_tokens(11, n_docs=60)


def test_nodes_by_hand() -> None:
    # Padding is token 0, which also occurs for real, once.
    fit = plain_tokens([[2, 1, 2, 1], [2, 1, 0]], fold=[0, 1], n_vocab=3)
    tree, nodes = KeyTree.build(fit, ["bigram"])
    unigram, bigram = tree.levels["unigram"], tree.levels["bigram"]
    assert unigram.key.tolist() == [0, 1, 2]
    assert unigram.n[:, :2].tolist() == [[0, 1], [2, 1], [2, 1]]
    assert nodes["unigram"].tolist() == [[2, 1, 2, 1], [2, 1, 0, -1]]
    # Children are neighbours in order of (parent, key): (1, 0), (2, 1), (1, 2) by (t-1, t).
    assert bigram.parent.tolist() == [0, 1, 2]
    assert [tree.types["bigram"].render(int(key)) for key in bigram.key] == [
        "`<1><0>`",
        "`<2><1>`",
        "`<1><2>`",
    ]
    assert bigram.n[:, :2].tolist() == [[0, 1], [2, 1], [1, 0]]
    assert nodes["bigram"].tolist() == [[-1, 1, 2, 1], [-1, 1, 0, -1]]
    assert tree.chain("bigram") == ["unigram", "bigram"]
    assert tree.leaves == ["bigram"]


def test_a_key_is_refined_by_its_parents_key() -> None:
    # Subtopic "x" exists under two topics: two nodes, one key.
    fit = plain_tokens(
        [[0] * 8, [1] * 8, [2] * 8] * 2,
        topics=[("A", "x"), ("B", "x"), ("B", "y")] * 2,
        fold=[0, 0, 0, 1, 1, 1],
    )
    tree, _ = KeyTree.build(fit, ["subtopic"])
    level = tree.levels["subtopic"]
    pairs = set(zip(level.parent.tolist(), level.key.tolist(), strict=True))
    topic = tree.levels["topic"]
    names = {
        (
            tree.types["topic"].render(int(topic.key[parent])),
            tree.types["subtopic"].render(key),
        )
        for parent, key in pairs
    }
    assert names == {
        ("topic A", "topic x"),
        ("topic B", "topic x"),
        ("topic B", "topic y"),
    }


def test_nodes_against_dictionaries(tokens: Tokens) -> None:
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, NAMES)
    assert list(tree.levels) == [
        *("unigram", "bigram", "trigram", "previous_token", "topic", "subtopic")
    ]
    fold = np.repeat(fit.fold, fit.ctx_len)
    for name, level in tree.levels.items():
        paths = paths_of(tree, fit, name, fit=True)
        node = nodes[name].ravel()
        counts = Counter(
            (path, int(fold[position])) for position, path in enumerate(paths) if path is not None
        )
        number: dict[tuple[int, ...], int] = {}
        for position, path in enumerate(paths):
            if path is None:
                assert node[position] == UNSEEN
            else:
                assert number.setdefault(path, int(node[position])) == node[position]
        assert sorted(number.values()) == list(range(level.n_nodes))
        # Numbered in order of (parent node, key).
        order = sorted(number, key=number.__getitem__)
        upper = number_of(tree, nodes, fit, name)
        rank = [(upper.get(path[:-1], 0), path[-1]) for path in order]
        assert rank == sorted(rank)
        assert level.parent.tolist() == [parent for parent, _ in rank]
        assert level.key.tolist() == [key for _, key in rank]
        wanted = [[counts[path, f] for f in range(N_FOLDS)] for path in order]
        assert level.n.tolist() == wanted
        assert level.n_total.tolist() == [sum(row) for row in wanted]


def number_of(
    tree: KeyTree, nodes: dict[str, np.ndarray], fit: Tokens, name: str
) -> dict[tuple[int, ...], int]:
    """Node of each path of the type that `name` backs off to."""
    parent = tree.levels[name].parent_name
    if parent is None:
        return {}
    pairs = zip(paths_of(tree, fit, parent, fit=True), nodes[parent].ravel().tolist(), strict=True)
    return {path: node for path, node in pairs if path is not None}


def test_other_text_finds_the_same_nodes_and_no_others(tokens: Tokens) -> None:
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, NAMES)
    other = make_tokens(99, n_docs=20)
    found = tree.find(other)
    for name in tree.levels:
        paths = paths_of(tree, fit, name, fit=True)
        pairs = zip(paths, nodes[name].ravel().tolist(), strict=True)
        number = {path: node for path, node in pairs if path is not None}
        unseen = 0
        node = found[name].ravel()
        for position, path in enumerate(paths_of(tree, other, name)):
            if not other.valid.ravel()[position]:
                continue
            assert node[position] == number.get(path, UNSEEN)  # type: ignore[arg-type]
            unseen += path is not None and path not in number
        assert unseen > 0 or name in {"unigram", "previous_token", "topic"}


class Parity(FunctionType):
    """Whether the token is odd; under it, `Same` has the token as key."""

    name = "parity"

    def keys(self, tokens: Tokens) -> Keys:
        return (tokens.ids % 2).astype(np.int64)

    def render(self, key: int) -> str:
        return str(key)


class Same(Parity):
    name = "same"
    backs_off_to = "parity"

    def keys(self, tokens: Tokens) -> Keys:
        return tokens.ids.astype(np.int64)


def test_an_unseen_key_is_not_taken_for_a_key_of_another_parent() -> None:
    with registered(Parity, Same):
        tree, nodes = KeyTree.build(plain_tokens([[1, 8], [8, 1]]), ["same"])
    assert nodes["same"].tolist() == [[1, 0], [0, 1]]
    # 3 is odd, as 1 is, and larger than it; 8 is the last key of the node before.
    found = tree.find(plain_tokens([[3, 8, 1, 0, 9]]))
    assert found["parity"].tolist() == [[1, 0, 1, 0, 1]]
    assert found["same"].tolist() == [[UNSEEN, 0, 1, UNSEEN, UNSEEN]]


def test_find_on_the_fit_split_gives_its_own_nodes(tokens: Tokens) -> None:
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, NAMES)
    found = tree.find(fit)
    for name in ("trigram", "bigram", "unigram", "previous_token"):
        assert np.array_equal(found[name][fit.valid], nodes[name][fit.valid])
    # The topic's own are made without each context's fold, and are mostly but not always the same.
    same = (found["topic"] == nodes["topic"])[fit.valid]
    assert 0.7 < same.mean() < 1


def test_find_makes_only_what_is_asked_for(tokens: Tokens) -> None:
    tree, _ = KeyTree.build(tokens.fit, NAMES)
    assert list(tree.find(tokens, ["bigram"])) == ["unigram", "bigram"]
    assert list(tree.find(tokens, ["subtopic", "previous_token"])) == [
        *("previous_token", "topic", "subtopic")
    ]


def test_padding_is_never_counted(tokens: Tokens) -> None:
    fit = tokens.fit
    assert not fit.valid.all()
    tree, nodes = KeyTree.build(fit, NAMES)
    assert tree.levels["unigram"].n.sum() == fit.n_positions
    for name, level in tree.levels.items():
        assert (nodes[name][~fit.valid] == UNSEEN).all()
        assert level.n.sum() == (nodes[name] >= 0).sum()
    # Other tokens in the padding change nothing.
    ids = np.where(fit.valid, fit.ids, 7).astype(np.int32)
    other, _ = KeyTree.build(
        Tokens(**{**{f: getattr(fit, f) for f in Tokens.__dataclass_fields__}, "ids": ids}), NAMES
    )
    for name, level in tree.levels.items():
        assert np.array_equal(other.levels[name].pair, level.pair)
        assert np.array_equal(other.levels[name].n, level.n)


def test_heldout_text_is_refused(tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="fit split only"):
        KeyTree.build(tokens, NAMES)


def test_types_that_do_not_apply_abstain_with_all_that_back_off_to_them() -> None:
    tree, nodes = KeyTree.build(make_tokens(1, topics=False).fit, ["subtopic", "unigram"])
    assert list(tree.levels) == list(nodes) == ["unigram"]
    assert "0 topic level" in tree.abstained["topic"]
    assert tree.abstained["subtopic"] == "backs off to topic, which does not apply"


def test_a_type_without_any_key() -> None:
    # Contexts of one token have no bigram.
    tree, nodes = KeyTree.build(plain_tokens([[1], [2], [1]]), ["trigram"])
    assert tree.levels["bigram"].n_nodes == 0
    assert (nodes["trigram"] == UNSEEN).all()
    found = tree.find(plain_tokens([[1, 2, 3]]))
    assert found["unigram"].tolist() == [[0, 1, -1]]
    assert (found["trigram"] == UNSEEN).all()


# -- levels: refinements ---------------------------------------------------------------------------


def test_levels_of_names_by_hand() -> None:
    assert levels_of(["bigram", "unigram"]) == {"unigram": None, "bigram": "unigram"}
    assert list(levels_of(["subtopic", "bigram"])) == ["topic", "subtopic", "unigram", "bigram"]
    # A refinement needs what it refines, and no level of the type that it refines it by.
    assert levels_of(["unigram+topic"]) == {"unigram": None, "unigram+topic": "unigram"}
    assert levels_of(["bigram+subtopic", "topic"]) == {
        "unigram": None,
        "bigram": "unigram",
        "bigram+subtopic": "bigram",
        "topic": None,
    }
    assert levels_of(["unigram+topic+previous_token"]) == {
        "unigram": None,
        "unigram+topic": "unigram",
        "unigram+topic+previous_token": "unigram+topic",
    }


def test_levels_of_names_that_make_no_level() -> None:
    for name in ("unigrm", "unigram+", "+topic", "unigram+tpic", "unigrm+topic"):
        with pytest.raises(FunctionTypeError, match="unknown function type"):
            levels_of([name])
    with registered(LastThree):
        assert levels_of(["unigram+last_three"])["unigram+last_three"] == "unigram"
        with pytest.raises(FunctionTypeError, match=r"several keys.*put it last"):
            levels_of(["last_three+topic"])
        with pytest.raises(FunctionTypeError, match="several keys"):
            levels_of(["unigram+last_three+topic"])


def test_a_refinement_has_the_last_types_keys_under_the_nodes_before(tokens: Tokens) -> None:
    fit = tokens.fit
    names = ["unigram+topic", "bigram+topic", "unigram+topic+previous_token", "topic"]
    tree, nodes = KeyTree.build(fit, names)
    assert tree.chain(names[2]) == ["unigram", "unigram+topic", "unigram+topic+previous_token"]
    assert set(tree.types) == {"unigram", "bigram", "topic", "previous_token"}
    assert tree.levels["unigram+topic"].type_name == "topic"
    found = tree.find(tokens, names)
    assert set(found) == set(tree.levels)
    for name in names:
        paths = paths_of(tree, fit, name, fit=True)
        number: dict[tuple[int, ...], int] = {}
        for path, node in zip(paths, nodes[name].ravel().tolist(), strict=True):
            assert (path is None) == (node == UNSEEN)
            if path is not None:
                assert number.setdefault(path, node) == node
        assert sorted(number.values()) == list(range(tree.levels[name].n_nodes))
        assert len(number) > 30 or name == "topic"
        # Other text: the same nodes, and no others.
        unseen = 0
        for path, node in zip(
            paths_of(tree, tokens, name), found[name].ravel().tolist(), strict=True
        ):
            if path is not None:
                assert node == number.get(path, UNSEEN)
                unseen += path not in number
        assert unseen > 0 or name == "topic"


def test_a_type_is_prepared_once_for_all_its_levels(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = registry.get_function_type("topic")
    calls = []
    for name in ("prepare", "keys", "fit_keys"):
        original = getattr(kind, name)

        def counting(self: FunctionType, text: Tokens, name: str = name, of: Any = original) -> Any:
            calls.append(name)
            return of(self, text)

        monkeypatch.setattr(kind, name, counting)
    tree, _ = KeyTree.build(tokens.fit, ["topic", "unigram+topic", "bigram+topic"])
    assert calls == ["prepare", "fit_keys"]
    tree.find(tokens)
    assert calls == ["prepare", "fit_keys", "keys"]


def test_texts_of_nodes() -> None:
    # Contexts of topics A and B; token 0 is as frequent in both, 1 is A's and 2 is B's.
    rows = [[1, 1, 1, 1, 1, 1, 0], [2, 2, 2, 2, 2, 2, 0]] * 5
    fit = plain_tokens(rows, topics=[("A", "x"), ("B", "y")] * 5)
    tree, nodes = KeyTree.build(fit, ["unigram+topic", "bigram+topic", "subtopic"])

    def text(name: str, context: int, position: int) -> str:
        return tree.text(name, int(nodes[name][context, position]))

    assert text("unigram+topic", 0, 6) == "`<0>` and topic A"
    assert text("unigram+topic", 1, 6) == "`<0>` and topic B"
    assert text("bigram+topic", 1, 6) == "`<2><0>` and topic B"
    # A type that backs off to another reads alone.
    assert text("bigram", 0, 6) == "`<1><0>`"
    assert text("subtopic", 0, 6) == "topic x"


def test_texts_of_refined_refinements() -> None:
    rows = [[1, 1, 1, 1, 1, 1, 3, 0], [2, 2, 2, 2, 2, 2, 3, 0]] * 5
    fit = plain_tokens(rows, topics=[("A",), ("B",)] * 5)
    name = "unigram+topic+previous_token"
    tree, nodes = KeyTree.build(fit, [name])
    assert tree.text(name, int(nodes[name][1, 7])) == "`<0>` and topic B and anything after `<3>`"


def test_what_refines_by_a_type_that_abstains_abstains() -> None:
    fit = make_tokens(1, topics=False).fit
    tree, nodes = KeyTree.build(fit, ["unigram+topic", "unigram+topic+bigram", "topic+unigram"])
    assert list(tree.levels) == list(nodes) == ["unigram"]
    assert "0 topic level" in tree.abstained["topic"]
    assert tree.abstained["unigram+topic"] == tree.abstained["topic"]
    for name, parent in (("unigram+topic+bigram", "unigram+topic"), ("topic+unigram", "topic")):
        assert tree.abstained[name] == f"backs off to {parent}, which does not apply"


def test_select_keeps_levels_and_what_they_back_off_to(tokens: Tokens) -> None:
    tree, _ = KeyTree.build(tokens.fit, ["trigram", "unigram+topic", "previous_token"])
    few = tree.select(["bigram", "previous_token", "nothing of that name"])
    assert list(few.levels) == ["unigram", "bigram", "previous_token"]
    assert all(few.levels[name] is tree.levels[name] for name in few.levels)
    assert few.leaves == ["bigram", "previous_token"]
    assert tree.leaves == ["trigram", "unigram+topic", "previous_token"]
    assert list(tree.select(["unigram+topic"]).levels) == ["unigram", "unigram+topic"]


# -- levels: several keys, keys that look ahead, keys made out of fold -----------------------------


def test_several_keys_by_hand() -> None:
    fit = plain_tokens([[2, 1, 5, 5, 5], [2, 2, 1]], fold=[0, 1])
    with registered(LastThree):
        tree, nodes = KeyTree.build(fit, ["last_three", "unigram+last_three"])
    # Tokens below 4 among the last three: 2; 2 1; 2 1; 1; none. And 2; 2; 2 1.
    assert tree.levels["last_three"].keys.tolist() == [1, 2]
    assert nodes["last_three"].tolist() == [
        [[1, -1, -1], [0, 1, -1], [-1, 0, 1], [-1, -1, 0], [-1, -1, -1]],
        [[1, -1, -1], [1, -1, -1], [0, 1, -1], [-1, -1, -1], [-1, -1, -1]],
    ]
    assert tree.levels["last_three"].n[:, :2].tolist() == [[3, 1], [3, 3]]
    # Under the token here: 1 with 1 and 2; 2 with 2; 5 with 1 and 2.
    refined = tree.levels["unigram+last_three"]
    assert refined.parent.tolist() == [0, 0, 1, 2, 2]
    assert refined.key.tolist() == [1, 2, 2, 1, 2]
    assert refined.n_total.tolist() == [2, 2, 3, 2, 1]
    assert tree.text("unigram+last_three", 3) == "`<5>` and `<1>` among the last 3"


def test_several_keys_against_dictionaries(tokens: Tokens) -> None:
    fit = tokens.fit
    names = ["last_three", "unigram+last_three"]
    with registered(LastThree):
        tree, nodes = KeyTree.build(fit, names)
    other = make_tokens(98, n_docs=10)
    found = tree.find(other)
    for name in names:
        assert nodes[name].shape == (*fit.ids.shape, 3)
        number: dict[tuple[int, ...], int] = {}
        counts: Counter[tuple[int, int]] = Counter()
        fold = np.repeat(fit.fold, fit.ctx_len).tolist()
        for position, paths in enumerate(named_keys(tree, fit, name)):
            here = nodes[name].reshape(-1, 3)[position]
            assert len(set(paths)) == len(paths) == (here >= 0).sum()
            for path, node in zip(paths, here[here >= 0].tolist(), strict=True):
                assert number.setdefault(path, node) == node
                counts[node, fold[position]] += 1
        level = tree.levels[name]
        assert sorted(number.values()) == list(range(level.n_nodes))
        assert level.n.tolist() == [
            [counts[node, f] for f in range(N_FOLDS)] for node in range(level.n_nodes)
        ]
        for position, paths in enumerate(named_keys(tree, other, name)):
            if other.valid.ravel()[position]:
                here = found[name].reshape(-1, 3)[position]
                wanted = {number[path] for path in paths if path in number}
                assert set(here[here >= 0].tolist()) == wanted


def test_what_has_several_keys_and_what_looks_ahead(tokens: Tokens) -> None:
    with registered(LastThree):
        names = ["last_three", "unigram+last_three", "next_token", "unigram+next_token", "bigram"]
        tree, _ = KeyTree.build(tokens.fit, names)
    several = [name for name in tree.levels if tree.several_keys(name)]
    ahead = [name for name in tree.levels if tree.looks_ahead(name)]
    assert several == ["last_three", "unigram+last_three"]
    assert ahead == ["next_token", "unigram+next_token"]


class Remembered(Parity):
    """Whether the token was seen before in its document's text, as `prepare` counted it."""

    name = "remembered"

    def prepare(self, tokens: Tokens) -> None:
        self.fold = tokens.fold

    def fit_keys(self, fit: Tokens) -> Keys:
        assert np.array_equal(fit.fold, self.fold)
        return np.broadcast_to(10 + fit.fold[:, None].astype(np.int64), fit.ids.shape)


def test_the_fit_split_is_numbered_by_its_own_keys() -> None:
    fit = plain_tokens([[1, 2], [3, 4], [5, 6]], fold=[0, 1, 4])
    with registered(Remembered):
        tree, nodes = KeyTree.build(fit, ["remembered", "unigram+remembered"])
    assert tree.levels["remembered"].keys.tolist() == [10, 11, 14]
    assert nodes["remembered"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert nodes["unigram+remembered"].tolist() == [[0, 1], [2, 3], [4, 5]]
    # Other text has keys 0 and 1, which the fit split never showed.
    assert (tree.find(fit)["remembered"] == UNSEEN).all()


# -- the way to disk -------------------------------------------------------------------------------


def test_round_trip_of_refinements_and_several_keys(tokens: Tokens, tmp_path: Path) -> None:
    names = ["unigram+topic", "bigram+subtopic", "unigram+last_three", "last_three"]
    with registered(LastThree):
        tree, _ = KeyTree.build(tokens.fit, names)
        tree.save(tmp_path)
        again = KeyTree.load(tmp_path)
        assert list(again.levels) == list(tree.levels)
        assert set(again.types) == set(tree.types) == {
            *("unigram", "bigram", "topic", "subtopic", "last_three")
        }  # fmt: skip
        wanted, found = tree.find(tokens), again.find(tokens)
        for name, level in tree.levels.items():
            assert again.chain(name) == tree.chain(name)
            assert np.array_equal(found[name], wanted[name])
            for node in range(0, level.n_nodes, 5):
                assert again.text(name, node) == tree.text(name, node)
            assert again.several_keys(name) == tree.several_keys(name)
    # A type that only refines has a state and no level of its own.
    assert (tmp_path / "topic.state.npz").exists()
    assert not (tmp_path / "topic.npz").exists()


def test_round_trip(tokens: Tokens, tmp_path: Path) -> None:
    tree, _ = KeyTree.build(tokens.fit, [*NAMES])
    tree.abstained["position"] = "a reason"
    tree.save(tmp_path)
    again = KeyTree.load(tmp_path)
    assert list(again.levels) == list(tree.levels)
    assert again.abstained == tree.abstained
    for name, level in tree.levels.items():
        assert again.levels[name].parent_name == level.parent_name
        for field in ("keys", "pair", "n"):
            one, two = getattr(level, field), getattr(again.levels[name], field)
            assert np.array_equal(one, two)
            assert one.dtype == two.dtype
        key = int(level.key[-1])
        assert again.types[name].render(key) == tree.types[name].render(key)
    wanted = tree.find(tokens)
    for name, node in again.find(tokens).items():
        assert np.array_equal(node, wanted[name])


def test_broken_files_are_named(tokens: Tokens, tmp_path: Path) -> None:
    tree, _ = KeyTree.build(tokens.fit, ["bigram"])
    with pytest.raises(LabelError, match=r"tree\.json does not exist; run `labeler fit`"):
        KeyTree.load(tmp_path)
    tree.save(tmp_path)
    path = tmp_path / "bigram.npz"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not an archive"):
        path.write_bytes(broken)
        with pytest.raises(LabelError, match=r"bigram\.npz: cannot be read"):
            KeyTree.load(tmp_path)
    path.unlink()
    with pytest.raises(LabelError, match=r"bigram\.npz: cannot be read"):
        KeyTree.load(tmp_path)
    index = tmp_path / "tree.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 1}))
    with pytest.raises(LabelError, match="format is 1, this version reads 2"):
        KeyTree.load(tmp_path)


def test_a_plug_in_that_is_gone_is_named(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyTree.build(tokens.fit, ["unigram"])[0].save(tmp_path)
    known = {name: cls for name, cls in registry.function_types().items() if name != "unigram"}
    monkeypatch.setattr(registry, "_registry", known)
    with pytest.raises(Exception, match="unknown function type 'unigram'"):
        KeyTree.load(tmp_path)
