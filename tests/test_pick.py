"""Which type's whole table runs, by hand."""

import numpy as np
import pytest

from labeler.errors import OptionError
from labeler.keytree import KeyTree
from labeler.pick import SLACK, pick_runs
from tests.synthetic import LastThree, make_tokens, registered


@pytest.fixture(scope="module")
def tree() -> KeyTree:
    names = ["trigram", "previous_token", "next_token", "last_three", "unigram+topic"]
    with registered(LastThree):
        return KeyTree.build(make_tokens(151, n_docs=20).fit, names)[0]


def runs(tree: KeyTree, **error: float) -> str:
    """What runs, from the error of each type; 200 for those that are not given."""
    types = list(tree.levels)
    assert set(error) <= set(types)
    sse = np.array([[error.get(name, 200.0)] for name in types])
    return types[pick_runs(tree, types, sse)[0]]


def test_the_least_error_runs(tree: KeyTree) -> None:
    assert runs(tree, previous_token=100) == "previous_token"
    assert runs(tree, bigram=100, trigram=150) == "bigram"
    assert runs(tree, **{"unigram+topic": 90, "trigram": 100}) == "unigram+topic"


def test_the_finest_of_the_family_runs_where_it_costs_little(tree: KeyTree) -> None:
    nearly, above = 100 * (1 + SLACK) - 0.1, 100 * (1 + SLACK) + 0.1
    assert runs(tree, unigram=100, bigram=150, trigram=nearly) == "trigram"
    assert runs(tree, unigram=100, bigram=100, trigram=above) == "unigram"
    # Another family's finest is none of its own.
    assert runs(tree, previous_token=nearly, bigram=100, trigram=150) == "bigram"
    # A type with two finer ones that parted takes the first that is fine enough.
    assert runs(tree, **{"unigram": 100, "unigram+topic": nearly}) == "unigram+topic"


def test_types_that_cannot_run_do_not(tree: KeyTree) -> None:
    assert runs(tree, next_token=1, last_three=2, bigram=100, trigram=150) == "bigram"


def test_only_types_that_cannot_run() -> None:
    with registered(LastThree):
        tree, _ = KeyTree.build(make_tokens(152, n_docs=10).fit, ["next_token", "last_three"])
    with pytest.raises(OptionError, match="add unigram"):
        pick_runs(tree, list(tree.levels), np.ones((2, 3)))
