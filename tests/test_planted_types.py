"""Planted truth for every type fitted by default: a small version of benchmarks/bench_planted.py.

Trigrams and 4-grams are left out where a type must be found by name: a chain of back-off pays for
every level it goes through, so at a hundred firings a simpler type that says nearly the same wins.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from labeler.config import DEFAULT_FUNCTIONS
from labeler.tokens import HELDOUT
from tests.planted import Part, Planter
from tests.planted_fit import Outcome, Verdict, misses, names_parts, outcome
from tests.planted_pairs import CONFOUNDS, UNIONS, Pairs, drawn
from tests.planted_text import Text, mixed_tokens
from tests.synthetic import plain_tokens

DEFAULT = [name for name in DEFAULT_FUNCTIONS if name != "calls"]
REFINEMENTS = ["unigram+brackets", "unigram+topic"]
N_CODE, EACH, N_NOISE = 90, 3, 30


@pytest.fixture(scope="module")
def planted() -> Outcome:
    names = [*DEFAULT, *REFINEMENTS]
    text = Text.make(mixed_tokens(N_CODE), names)
    planter = Planter(text, names, 1)
    pairs = Pairs(planter)
    truths = drawn(
        EACH,
        *(partial(planter.simple, name) for name in DEFAULT),
        *(partial(pairs.confound, *names) for names in CONFOUNDS[:4]),
        *(partial(pairs.union, *names) for names in UNIONS[:4]),
        partial(pairs.refinement, "brackets"),
        partial(pairs.unless, "token"),
        partial(pairs.stronger, "topic"),
    )
    return outcome(text, names, truths, 2, N_NOISE)


def wrong(verdicts: Sequence[Verdict]) -> str:
    """What was not found, for the message of a failure."""
    keys = [f"{v.kind}: {v.entries}" for v in verdicts if not v.right_parts]
    return "\n".join([str(misses(verdicts)), *keys])


@pytest.mark.slow
def test_planted_types_are_found(planted: Outcome) -> None:
    assert np.mean([one.right_type for one in planted.verdicts]) >= 0.95, wrong(planted.verdicts)


@pytest.mark.slow
def test_planted_keys_are_found(planted: Outcome) -> None:
    right = [one.right_parts for one in planted.verdicts]
    assert np.mean(right) >= 0.9, wrong(planted.verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEFAULT)
def test_each_type_is_found(planted: Outcome, kind: str) -> None:
    mine = [one for one in planted.verdicts if one.kind == kind]
    assert len(mine) == EACH
    assert sum(one.right_type for one in mine) >= 2, wrong(mine)
    assert sum(one.right_parts for one in mine) >= 2, wrong(mine)


@pytest.mark.slow
def test_labels_say_on_new_text_what_was_planted(planted: Outcome) -> None:
    known = [one for one in planted.verdicts if one.kind != "next_token"]
    lost = np.array([one.best_f1 - one.f1 for one in known])
    assert np.median(lost) < 0.01
    assert lost.mean() < 0.04, [(one.kind, one.f1, one.best_f1) for one in known]


@pytest.mark.slow
def test_noise_has_no_label(planted: Outcome) -> None:
    assert len(planted.noise) == N_NOISE
    assert planted.noise.count("none") >= N_NOISE - 1


@pytest.mark.slow
def test_another_latents_truth_is_not_found(planted: Outcome) -> None:
    """What is judged can fail: shares are low where types are mixed up."""
    others = [*planted.verdicts[EACH:], *planted.verdicts[:EACH]]
    mixed = [
        one.found in other.wanted.split("/")
        for one, other in zip(planted.verdicts, others, strict=True)
    ]
    assert np.mean(mixed) < 0.2


# -- by hand ---------------------------------------------------------------------------------------


def small_planter() -> Planter:
    """Token 1 follows every 0, and every 2 and every 3 follows a 1."""
    rows = [[0, 1, 2, 0, 1, 3]] * 6
    tokens = plain_tokens(rows, fold=[0, 1, 2, 3, 4, HELDOUT])
    return Planter(
        Text.make(tokens, ["bigram", "previous_token"]), ["unigram", "previous_token"], 0
    )


def test_score_of_keys_that_say_the_same() -> None:
    planter = small_planter()
    after_1 = planter.holds(planter.table("previous_token", np.array([1]), np.ones(1)))
    # Per context: 2 and 3 at one place each, so one key finds one of two places, two keys both.
    assert after_1.sum() == 10
    assert planter.score(after_1, "unigram", 1) == pytest.approx(2 * 5 / (5 + 10))
    assert planter.score(after_1, "unigram", 2) == 1
    assert planter.rival(after_1, "previous_token", 1) is None
    assert planter.rival(after_1, "previous_token", 2) == "unigram"


def test_unigrams_have_twins_and_no_rivals() -> None:
    planter = small_planter()
    table = planter.table("unigram", np.array([1]), np.ones(1))
    assert planter.rival(planter.holds(table), "unigram", 1) is None
    assert [(part.level, part.nodes) for part in planter.twins(table)] == [
        ("unigram", {1}),
        ("previous_token", {0}),
    ]


def test_deeper_levels_are_no_rivals() -> None:
    planter = small_planter()
    planter.names.append("bigram")
    mask = planter.holds(planter.table("previous_token", np.array([2]), np.ones(1)))
    # After 2 comes 0 only, and the bigram (2, 0) holds just there; the token 0 comes twice.
    assert planter.score(mask, "bigram", 1) == 1
    assert planter.rival(mask, "previous_token", 1) is None


def test_the_heaviest_entries_must_be_the_parts() -> None:
    token, exception = Part("unigram", frozenset({3, 4})), Part("bigram", frozenset({7}), -1)
    one, two = ((token,),), ((token,), (exception,))
    assert names_parts([("unigram", 4, 9.0), ("word", 1, 8.0)], one)
    assert not names_parts([("word", 1, 9.0), ("unigram", 4, 8.0)], one)
    assert not names_parts([("unigram", 4, -9.0)], one)
    assert not names_parts([], one)
    assert names_parts([("unigram", 3, 9.0), ("bigram", 7, -5.0)], two)
    assert names_parts([("bigram", 7, -9.0), ("unigram", 3, 2.0)], two)
    assert not names_parts([("unigram", 3, 9.0), ("bigram", 7, 5.0)], two)
    assert not names_parts([("unigram", 3, 9.0), ("unigram", 4, 5.0), ("bigram", 7, -4.0)], two)
    # One entry that is both parts: what comes next may be anything, if light.
    both = ((token,), (token, exception))
    assert names_parts([("unigram", 3, 9.0), ("word", 1, 2.0)], both)
    assert not names_parts([("unigram", 3, 9.0), ("word", 1, 3.0)], both)
