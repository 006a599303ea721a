"""Nodes of the key tree: by hand, and against dictionaries of key paths."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from labeler.errors import LabelError
from labeler.functions import FunctionType, Keys, registry
from labeler.keytree import UNSEEN, KeyTree
from labeler.tokens import N_FOLDS, Tokens
from tests.synthetic import make_tokens, paths_of, plain_tokens

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
        [[0] * 8, [1] * 8, [2] * 8],
        topics=[("A", "x"), ("B", "x"), ("B", "y")],
        fold=[0, 1, 2],
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
        paths = paths_of(tree, fit, name)
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
    pairs = zip(paths_of(tree, fit, parent), nodes[parent].ravel().tolist(), strict=True)
    return {path: node for path, node in pairs if path is not None}


def test_other_text_finds_the_same_nodes_and_no_others(tokens: Tokens) -> None:
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, NAMES)
    other = make_tokens(99, n_docs=20)
    found = tree.find(other)
    for name in tree.levels:
        pairs = zip(paths_of(tree, fit, name), nodes[name].ravel().tolist(), strict=True)
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


def test_an_unseen_key_is_not_taken_for_a_key_of_another_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {**registry.function_types(), "parity": Parity, "same": Same}
    monkeypatch.setattr(registry, "_registry", known)
    tree, nodes = KeyTree.build(plain_tokens([[1, 8], [8, 1]]), ["same"])
    assert nodes["same"].tolist() == [[1, 0], [0, 1]]
    # 3 is odd, as 1 is, and larger than it; 8 is the last key of the node before.
    found = tree.find(plain_tokens([[3, 8, 1, 0, 9]]))
    assert found["parity"].tolist() == [[1, 0, 1, 0, 1]]
    assert found["same"].tolist() == [[UNSEEN, 0, 1, UNSEEN, UNSEEN]]


def test_find_on_the_fit_split_gives_its_own_nodes(tokens: Tokens) -> None:
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, NAMES)
    for name, node in tree.find(fit).items():
        assert np.array_equal(node[fit.valid], nodes[name][fit.valid])


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
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 2}))
    with pytest.raises(LabelError, match="format is 2, this version reads 1"):
        KeyTree.load(tmp_path)


def test_a_plug_in_that_is_gone_is_named(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KeyTree.build(tokens.fit, ["unigram"])[0].save(tmp_path)
    known = {name: cls for name, cls in registry.function_types().items() if name != "unigram"}
    monkeypatch.setattr(registry, "_registry", known)
    with pytest.raises(Exception, match="unknown function type 'unigram'"):
        KeyTree.load(tmp_path)
