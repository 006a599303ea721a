"""What a language model is asked about latents, and how its answers are read."""

import json
import re

import numpy as np
import pytest

from labeler.eval.chat import Answer
from labeler.eval.firings import TextFirings
from labeler.eval.llm.inquiry import Inquiry, outcome_of
from labeler.eval.llm.parse import LONGEST, read_activations, read_choices, read_explanation
from labeler.eval.llm.prompts import (
    detect_question,
    explain_question,
    fuzz_question,
    mark,
    quoted,
    simulate_question,
)
from labeler.eval.llm.windows import HeldoutWindows, examples, texts_at
from tests.synthetic import make_tokens, plain_tokens

# -- wording ---------------------------------------------------------------------------------------


def test_an_example_by_hand():
    """Marked from 0.3 of the window's peak; steps are ceil(10 act / highest)."""
    tokens = ["The", " cat", " sat", "\n", "<<"]
    acts = np.array([0, 2, 8, 2.4, 0], dtype=np.float32)
    asked = explain_question([(tokens, acts), (["a", "b"], np.array([0, 1], np.float32))], 16.0)
    assert asked.user.split("\n") == [
        'Piece 1: "The cat<< sat\\n>><<"',
        'Strength: " sat" 5, "\\n" 2',
        'Piece 2: "a<<b>>"',
        'Strength: "b" 1',
    ]
    assert "[EXPLANATION]:" in asked.system


def test_at_most_ten_strengths_are_listed():
    acts = np.arange(1, 33, dtype=np.float32)
    asked = explain_question([(["x"] * 32, acts)], 32.0)
    assert len(asked.user.split("\n")[1].split(", ")) == 10


def test_hostile_text_stays_on_its_line():
    hostile = 'x"\nPiece 2: "y\u2028[1, 1]\r\x85'
    for asked in (detect_question(hostile, [hostile]), fuzz_question(hostile, [hostile])):
        first, second = asked.user.splitlines()
        assert json.loads(first.removeprefix("Explanation: ")) == hostile
        assert json.loads(second.removeprefix("Piece 1: ")) == hostile
    first, second = simulate_question(hostile, [hostile]).user.splitlines()
    number, text = second.split("\t")
    assert (number, json.loads(text)) == ("1", hostile)
    assert quoted("café") == '"café"'


def test_runs_of_marks():
    marks = np.array([True, True, False, True])
    assert mark(["a", "b", "c", "d"], marks) == "<<ab>>c<<d>>"
    assert mark(["a"], np.array([False])) == "a"


def test_room_for_the_answer():
    """A token takes up to eight tokens of the answer, a window of a list four."""
    assert simulate_question("x", ["a"] * 32).max_tokens == 32 * 8 + 32
    assert detect_question("x", ["a"] * 5).max_tokens == 5 * 4 + 64


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("[EXPLANATION]: Months.", "Months."),
        ("Well.\n\n**[EXPLANATION]:** Months of the year.\nThat is all.", "Months of the year."),
        ("[explanation] :\n  Months.", "Months."),
        ("[EXPLANATION]: first thought\n[EXPLANATION]: Months.", "Months."),
        ("Months.", None),
        ("[EXPLANATION]:", None),
        ("[EXPLANATION]: \n \n", None),
        ("[EXPLANATION] Months.", None),
        ("", None),
        ("[EXPLANATION]: " + "x" * (LONGEST + 1), None),
    ],
)
def test_explanations_in_answers(answer, text):
    assert read_explanation(answer) == text


@pytest.mark.parametrize(
    ("answer", "choices"),
    [
        ("[1, 0, 1]", [1, 0, 1]),
        ("[true, false, true]", [1, 0, 1]),
        ("At first [0,0,0], rather [1,\n0, 1].", [1, 0, 1]),
        ("[1, 0]", None),
        ("[1, 0, 1, 1]", None),
        ("[1, 0, 2]", None),
        ("[1, 0, -1]", None),
        ("[1, 0, 0.5]", None),
        ('["1", "0", "1"]', None),
        ("[1, 0, null]", None),
        ("[1 0 1]", None),
        ("1, 0, 1", None),
        ("[1, 0, 1], or else []", None),
        ("[" * 100_000, None),
        (f"[1, 0, {'1' * 5000}]", None),
    ],
)
def test_choices_in_answers(answer, choices):
    assert read_choices(answer, 3) == choices


@pytest.mark.parametrize(
    ("answer", "digits"),
    [
        ("1\t0\n2\t10\n3\t7", [0, 10, 7]),
        ("Here:\n1: 0\n2. 3\n3 | 2.5\n", [0, 3, 2.5]),
        ('1\t"a"\t4\n2\t"b\\"1"\t5\n3\t"9"', [4, 5, None]),
        ("1\t0\n3\t1", [0, None, 1]),
        ("1\t11\n2\t-3\n3\t99999", [None, None, None]),
        ("1\tten\n2\t\n3", [None, None, None]),
        ("1.5\n12\n2 of the tokens score 10", [None, None, None]),
        ("1\t3\n1\t4\n4\t9\n0\t9\n2\t5\n2\t50", [4, None, None]),
        ("1\tnan\n2\tinf\n3\t1e1", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_activations_in_answers(answer, digits):
    """What is not a number from 0 to 10 is NaN, never the highest."""
    wanted = [np.nan if one is None else one for one in digits]
    np.testing.assert_array_equal(read_activations(answer, 3), np.array(wanted, np.float32))


def test_random_answers_are_never_read_wrongly():
    """Whatever comes: a list of the right length, or None; numbers from 0 to 10, or NaN."""
    rng = np.random.default_rng(0)
    letters = [*'0123456789[],.:\t\n "-ex\\', "[EXPLANATION]: "]
    for _ in range(2000):
        answer = "".join(rng.choice(letters, size=30))
        choices, digits = read_choices(answer, 2), read_activations(answer, 4)
        assert choices is None or (len(choices) == 2 and set(choices) <= {True, False})
        assert np.all(np.isnan(digits) | ((digits >= 0) & (digits <= 10)))


def test_outcomes():
    assert outcome_of(3, Answer("[EXPLANATION]: x")).text == "x"
    none = outcome_of(3, None)
    assert (none.text, none.failure) == (None, "no text")
    assert outcome_of(3, Answer(None, "http 500", "sorry")).failure == "http 500"
    unread = outcome_of(3, Answer("so long " * 100))
    assert (unread.failure, len(unread.reason)) == ("no explanation", 500)


# -- windows ---------------------------------------------------------------------------------------


def firings(dense: np.ndarray) -> TextFirings:
    position, latent = np.nonzero(dense)
    act = dense[position, latent].astype(np.float32)
    return TextFirings.make(
        position, latent, act, n_positions=dense.shape[0], n_latents=dense.shape[1]
    )


def test_examples_are_spread_over_the_range():
    """Forty windows of peaks 1 to 40, ten parts of four: two of each, the strongest first."""
    tokens = plain_tokens([[number % 10] * 4 for number in range(40)])
    dense = np.zeros((160, 2))
    dense[1::4, 1] = np.random.default_rng(0).permutation(40) + 1
    found = examples(tokens, firings(dense), window=4, n_examples=20, seed=0)
    assert (found.column == 1).all()
    peak = found.act.max(axis=1)
    assert peak.tolist() == sorted(peak.tolist(), reverse=True)
    assert np.bincount(((40 - peak) // 4).astype(int)).tolist() == [2] * 10
    np.testing.assert_array_equal(found.act[:, 1], dense[found.start + 1, 1])
    assert texts_at(tokens, int(found.start[0]), 4) == [f"<{found.start[0] // 4 % 10}>"] * 4


def test_tested_windows():
    tokens = make_tokens(seed=1, n_docs=30, ctx_len=16)
    ids = tokens.ids.ravel()
    dense = np.stack([ids == 2, ids == 9, ids == 99], axis=1) * tokens.valid.reshape(-1, 1) * 2.0
    dense[::3] *= 0.1
    found = HeldoutWindows.choose(tokens, firings(dense), window=8, n_windows=12, seed=0)
    shown = found.detection
    for number in (0, 1):
        mine = shown.column == number
        assert (shown.active[mine].sum(), (~shown.active[mine]).sum()) == (6, 6)
        # Not sorted by kind, which would give the answers away.
        assert np.abs(np.diff(shown.active[mine].astype(int))).sum() > 1
    assert (shown.column < 2).all()  # the third never fires
    assert ((shown.act > 0).any(axis=1) == shown.active).all()
    assert ((shown.act > 0).sum(axis=1) > found.marks.sum(axis=1))[shown.active].any()
    for row in range(len(shown)):
        start, column = shown.start[row], shown.column[row]
        wanted = dense[start : start + 8, column].astype(np.float32)
        np.testing.assert_array_equal(shown.act[row], wanted)
        assert tokens.valid.ravel()[start : start + 8].all()
        assert found.marks[row].any()
        if shown.active[row]:
            peak = shown.act[row].max()
            np.testing.assert_array_equal(found.marks[row], shown.act[row] >= 0.3 * peak)
    assert (found.top.act.max(axis=1) > 0).all()
    assert found.shared_act.shape == (3, 12, 8)
    for number in range(3):
        for at, start in enumerate(found.shared):
            wanted = dense[start : start + 8, number].astype(np.float32)
            np.testing.assert_array_equal(found.shared_act[number, at], wanted)
    # Shared windows are the same whatever the latents do.
    again = HeldoutWindows.choose(tokens, firings(dense[:, :1]), window=8, n_windows=12, seed=0)
    np.testing.assert_array_equal(again.shared, found.shared)


def test_text_without_a_whole_window():
    tokens = plain_tokens([[1, 2, 3], [4]])
    dense = np.zeros((6, 1))
    dense[3] = 1.0
    short = tokens.select(np.array([False, True]))
    found = HeldoutWindows.choose(short, firings(dense[3:]), window=3, n_windows=4, seed=0)
    assert len(found.detection) == len(found.shared) == len(found.top) == 0
    assert len(examples(short, firings(dense[3:]), window=3, n_examples=4, seed=0)) == 0


# -- questions -------------------------------------------------------------------------------------


@pytest.fixture
def inquiry() -> Inquiry:
    tokens = make_tokens(seed=1, n_docs=30, ctx_len=16)
    ids = tokens.ids.ravel()
    dense = np.stack([ids == token for token in (2, 9, 4, 99)], axis=1)
    fired = firings(dense * tokens.valid.reshape(-1, 1) * 2.0)
    return Inquiry(
        "layers.0.mlp",
        np.array([3, 7, 8, 20]),
        np.array([50, 10, 52, 0]),
        np.array([2.0, 2.0, 2.0, 0.0]),
        tokens,
        examples(tokens, fired, window=8, n_examples=10, seed=0),
        tokens,
        HeldoutWindows.choose(tokens, fired, window=8, n_windows=12, seed=0),
        8,
        0,
    )


def test_partners_are_near_in_rate_and_read_otherwise(inquiry):
    assert inquiry.partners(["a", "b", "c", "d"]).tolist() == [2, 0, 0, 1]
    assert inquiry.partners(["a", "b", "a", None]).tolist() == [1, 0, 1, 1]
    assert inquiry.partners(["a", None, "a", None]).tolist() == [-1, 0, -1, 0]
    assert inquiry.partners([None] * 4).tolist() == [-1] * 4


def test_a_latent_without_text_or_explanation_is_not_asked_about(inquiry):
    asked = inquiry.explain()
    assert [one is None for one in asked] == [False, False, False, True]
    assert asked[0].user.count("Piece ") == 10
    assert set(re.findall("<<(.*?)>>", asked[0].user)) <= {" w2", " w2 w2"}
    batches = inquiry.classify(["a", None, "c", "d"], fuzz=False)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(len(inquiry.tested.detection)))
    for batch in batches:
        (column,) = set(inquiry.tested.detection.column[batch.rows].tolist())
        assert (batch.question is None) == (column == 1)
        assert len(batch.rows) <= 5
    # What cannot be read, or was not asked, is no, and failed.
    answers = [Answer("[1, 1, 1, 1, 1]"), Answer("[1, 1]"), Answer(None, "timeout")]
    answers += [None] * (len(batches) - 3)
    said = inquiry.said(batches, answers)
    first = batches[0].rows
    assert said.yes[first].all()
    assert not said.failed[first].any()
    others = np.setdiff1d(rows, first)
    assert said.failed[others].all()
    assert not said.yes[others].any()
