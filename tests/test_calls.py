"""Calls of earlier labels: keys by hand, a level of the tree, a round trip through a file."""

from pathlib import Path

import numpy as np
import pytest

from labeler.errors import FunctionTypeError, NotApplicableError
from labeler.functions.calls import PER_POSITION, Calls
from labeler.functions.contract import State
from labeler.keytree import KeyTree
from tests.synthetic import plain_tokens

STATE: State = {
    # Label 0 adds 2 at node 1. Label 1 adds 1 at node 1 and 5 at node 2.
    "levels": np.array(["unigram"]),
    "level_size": np.array([3]),
    "level": np.array([0, 0, 0], dtype=np.int32),
    "node": np.array([1, 1, 2], dtype=np.int32),
    "call": np.array([0, 1, 1], dtype=np.int32),
    "weight": np.array([2, 1, 5], dtype=np.float32),
    "default": np.array([0, 0], dtype=np.float32),
    "threshold": np.array([1, 0.25], dtype=np.float32),
    "text": np.array(["layers.0.mlp 3 fires (` a`)", "layers.0.mlp 9 fires (` b`)"]),
}


def made() -> Calls:
    calls = Calls()
    calls.load_state(STATE)
    return calls


def test_labels_that_reach_their_threshold_are_called_the_strongest_first() -> None:
    # At node 1 label 0 is at 2 / 1 = twice its threshold, label 1 at 1 / 0.25 = four times.
    keys = made().keys_at({"unigram": np.array([[0, 1, 2, -1]], dtype=np.int32)})
    assert keys.shape == (1, 4, PER_POSITION)
    assert keys[0, :, :2].tolist() == [[-1, -1], [1, 0], [1, -1], [-1, -1]]
    assert (keys[0, :, 2:] == -1).all()
    assert made().render(1) == "layers.0.mlp 9 fires (` b`)"


def test_text_alone_has_nothing_to_call() -> None:
    tokens = plain_tokens([[0, 1]])
    with pytest.raises(NotApplicableError, match="second layer"):
        Calls().prepare(tokens)
    with pytest.raises(FunctionTypeError, match="keys_at"):
        made().keys(tokens)


def test_a_level_of_calls_is_found_on_new_text_and_after_a_file(tmp_path: Path) -> None:
    fit = plain_tokens([[0, 1, 2, 1]] * 5, n_vocab=3)
    tree, nodes = KeyTree.build(fit, ["unigram"])
    whole, found = tree.with_calls(made(), fit, nodes)
    level = whole.levels["calls"]
    # Label 1 fires three times in each context, label 0 twice: 15 and 10 positions.
    assert dict(zip(level.key.tolist(), level.n_total.tolist(), strict=True)) == {0: 10, 1: 15}
    assert (found >= 0).sum() == 25
    text = plain_tokens([[2, 0, 1]], n_vocab=3)
    wanted = whole.find(text)["calls"]
    assert [sorted(n for n in row if n >= 0) for row in wanted[0].tolist()] == [[1], [], [0, 1]]
    whole.only("calls").save(tmp_path)
    again = tree.joined(KeyTree.load(tmp_path))
    assert np.array_equal(again.complete(tree.find(text))["calls"], wanted)
