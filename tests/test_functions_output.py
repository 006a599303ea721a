"""Types about what comes next and what the context is about: by hand, against loops, planted."""

import math
from collections import Counter

import numpy as np
import pytest

from labeler.errors import NotApplicableError
from labeler.functions import check_function_type, get_function_type
from labeler.functions.decayed_context import decayed_sums
from labeler.functions.embedding import token_vectors
from labeler.functions.groups import centroids, nearest, telling_tokens
from labeler.functions.successors import count_successors
from labeler.tokens import N_FOLDS, Tokens
from tests.synthetic import make_tokens, plain_tokens
from tests.texts import exported, prepared, restored

EXPECTED = ["expected_token", "expected_class"]
CLASSES = ["context_class", "context_class_fast"]
CAUSAL = [*EXPECTED, *CLASSES]


# -- the next token --------------------------------------------------------------------------------


def test_next_token_derived_by_hand() -> None:
    # The second text has two tokens: after its second there is nothing, whatever the padding says.
    tokens = plain_tokens([[3, 1, 4, 1], [5, 9]])
    kind = prepared("next_token", tokens)
    assert kind.keys(tokens)[tokens.valid].tolist() == [1, 4, 1, -1, 9, -1]
    assert kind.render(4) == "just before `<4>`"
    assert kind.looks_ahead
    assert kind.source() is None
    assert kind.write(tokens.ids[0], 1, 5) is None
    check_function_type(type(kind))
    check_function_type(type(kind), make_tokens(1))


# -- the token expected next, by hand --------------------------------------------------------------


def test_expected_token_derived_by_hand() -> None:
    fit = plain_tokens([[1, 2, 3], [1, 2, 3], [1, 2, 4], [5, 2, 4], [5, 2, 4]])
    # Of ten next tokens, five are 2, two 3, three 4: p(3) = .2, p(4) = .3.
    # After 2:   p(3) = 1.25/5 + .75*2/5 * .2 = .31,  p(4) = 2.25/5 + .3 * .3 = .54: 4 is expected.
    # After 1 2: p(3) = 1.25/3 + .75*2/3 * .31 = .57, p(4) = .25/3 + .5 * .54 = .35: 3 is.
    # After 5 2: 4 has been all there was.
    kind = prepared("expected_token", fit)
    text = plain_tokens([[1, 2], [5, 2], [7, 2], [2, 2]])
    assert kind.keys(text).tolist() == [[2, 3], [2, 4], [-1, 4], [4, 4]]
    assert kind.render(3) == "where `<3>` is expected next"


def test_one_odd_case_does_not_outweigh_the_rule() -> None:
    # After 2 comes 3 nine times of ten. After 4 2 came 5, once:
    # p(5 | 4 2) = .25 + .75 p(5 | 2) < .31, p(3 | 4 2) = .75 p(3 | 2) > .75 * .82 > .6.
    fit = plain_tokens([[1, 2, 3]] * 9 + [[4, 2, 5]])
    kind = prepared("expected_token", fit)
    assert kind.keys(plain_tokens([[4, 2]])).tolist() == [[2, 3]]
    # Twice is another matter: p(5 | 4 2) > 1.25/2.
    twice = prepared("expected_token", plain_tokens([[1, 2, 3]] * 9 + [[4, 2, 5]] * 2))
    assert twice.keys(plain_tokens([[4, 2]])).tolist() == [[2, 5]]


def test_a_document_does_not_predict_itself() -> None:
    # 1 8 9 is in the first document only, 8 6 also in others; 7 is followed by nothing elsewhere.
    rows = [[1, 8, 9, 7, 5], [1, 8, 9, 7, 5], [2, 8, 6], [3, 8, 6], [4, 8, 6]]
    fit = plain_tokens(rows, fold=[0, 0, 1, 2, 3])
    kind = prepared("expected_token", fit)
    keys, fit_keys = kind.keys(fit), kind.fit_keys(fit)
    assert keys[0].tolist()[1:4] == [9, 7, 5]
    assert fit_keys[0].tolist() == fit_keys[1].tolist()
    # 1 itself is followed by nothing in the other folds, nor are 9, 7 and 5.
    assert fit_keys[0].tolist() == [-1, 6, -1, -1, -1]
    # Without the third document, 8 was followed by 6 and by 9 twice each, and the two are alike in
    # all: the lower id goes first. 2 was followed by nothing.
    assert fit_keys[2, :2].tolist() == [-1, 6]


# -- against a model in plain Python ---------------------------------------------------------------


class PlainModel:
    """The same model, one probability at a time, from the formula."""

    def __init__(self, tokens: Tokens) -> None:
        self.after: dict[tuple[int, ...], Counter[int]] = {}
        for context in range(tokens.n_ctx):
            row = tokens.ids[context, : tokens.length[context]].tolist()
            for t in range(1, len(row)):
                for length in range(min(3, t) + 1):
                    self.after.setdefault(tuple(row[t - length : t]), Counter())[row[t]] += 1

    def chance(self, token: int, context: tuple[int, ...]) -> float:
        seen = self.after.get(context, Counter())
        if not context:
            return seen[token] / seen.total()
        shorter = self.chance(token, context[1:])
        if not seen:
            return shorter
        n = seen.total()
        return max(seen[token] - 0.75, 0) / n + 0.75 * len(seen) / n * shorter


def folds_of(tokens: Tokens) -> list[tuple[Tokens, Tokens]]:
    """Each fold of the fit split, and what is left without it."""
    fit = tokens.fit
    return [(fit.select(fit.fold == fold), fit.select(fit.fold != fold)) for fold in range(N_FOLDS)]


def test_expected_token_against_plain_python() -> None:
    tokens = make_tokens(3, n_docs=30, n_vocab=10, ctx_len=9)
    kind = prepared("expected_token", tokens)
    fit_keys = kind.fit_keys(tokens.fit)
    trials = [(tokens.fit, tokens.heldout, kind.keys(tokens.heldout))]
    for fold, (own, rest) in enumerate(folds_of(tokens)):
        trials.append((rest, own, fit_keys[tokens.fit.fold == fold]))
    n, beyond_the_last = 0, 0
    for counted, text, keys in trials:
        model = PlainModel(counted)
        for context in range(text.n_ctx):
            for t in range(int(text.length[context])):
                before = tuple(text.ids[context, max(t - 2, 0) : t + 1].tolist())
                key = int(keys[context, t])
                if before[-1:] not in model.after:
                    assert key == -1
                    continue
                chances = [model.chance(token, before) for token in range(tokens.n_vocab)]
                assert math.isclose(sum(chances), 1)
                assert math.isclose(chances[key], max(chances))
                n += 1
                shorter = [model.chance(token, before[-1:]) for token in range(tokens.n_vocab)]
                beyond_the_last += shorter[key] < max(shorter)
    assert n > 600
    assert beyond_the_last > n / 10


def test_expected_class_against_plain_python() -> None:
    tokens = make_tokens(4, n_docs=12, n_vocab=10, ctx_len=7)
    kind = prepared("expected_class", tokens)
    vectors, means = kind._vectors.astype(float), kind._centroids / 2**14
    model = PlainModel(tokens.fit)
    keys = kind.keys(tokens)
    for context in range(tokens.n_ctx):
        for t in range(int(tokens.length[context])):
            before = tuple(tokens.ids[context, max(t - 2, 0) : t + 1].tolist())
            if before[-1:] not in model.after:
                assert keys[context, t] == -1
                continue
            chances = np.array([model.chance(token, before) for token in range(tokens.n_vocab)])
            distance = ((chances @ vectors - means) ** 2).sum(axis=1)
            assert distance[keys[context, t]] < distance.min() + 1e-3
    assert len(np.unique(keys)) > 20


@pytest.mark.parametrize("name", EXPECTED)
def test_fit_keys_are_those_of_a_model_without_the_fold(name: str) -> None:
    tokens = make_tokens(5)
    kind = prepared(name, tokens)
    fit_keys = kind.fit_keys(tokens.fit)
    differ = 0
    for fold, (own, rest) in enumerate(folds_of(tokens)):
        other = get_function_type(name)()
        for kept in ("_vectors", "_centroids"):
            if hasattr(kind, kept):
                setattr(other, kept, getattr(kind, kept))
        other.tabulate(count_successors(rest), tokens.n_vocab)
        mine = fit_keys[tokens.fit.fold == fold][own.valid]
        assert np.array_equal(mine, other.keys(own)[own.valid])
        differ += (mine != kind.keys(own)[own.valid]).sum()
    assert differ > 0.1 * tokens.fit.n_positions


def test_the_table_leaves_out_what_the_shorter_context_says() -> None:
    # Whatever comes before 2, 3 follows: one context of one token is enough.
    kind = prepared("expected_token", plain_tokens([[1, 2, 3], [4, 2, 3], [5, 2, 3]]))
    assert kind.state()["value"].tolist() == [2, 3, 2, 2]


def test_expected_types_abstain_without_a_second_token() -> None:
    for name in EXPECTED:
        with pytest.raises(NotApplicableError, match="no context of the fit split has two tokens"):
            prepared(name, plain_tokens([[1], [2]]))
    with pytest.raises(NotApplicableError, match="the same everywhere"):
        prepared("expected_class", plain_tokens([[1, 1], [1, 1]]))


# -- a planted grammar -----------------------------------------------------------------------------


def grammar(seed: int = 0, n_docs: int = 60) -> Tokens:
    """Pairs of tokens: any of 0-7, then of 8-15; any of 16-23, then of 24-31."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 2, (n_docs, 10)) * 16
    first, second = (start + step + rng.integers(0, 8, start.shape) for step in (0, 8))
    rows = np.stack([first, second], axis=2).reshape(n_docs, 20)
    return plain_tokens(rows.tolist(), n_vocab=32)


def test_expected_class_tells_what_kind_of_token_comes() -> None:
    fit = grammar()
    kind = prepared("expected_class", fit)
    text = grammar(1)
    keys = kind.keys(text)[:, 0:20:2]
    late = text.ids[:, 0:20:2] >= 16
    assert not set(keys[late]) & set(keys[~late])
    names = {kind.render(int(key)) for key in keys[late]}
    coming = {f"`<{token}>`" for token in range(24, 32)}
    for name in names:
        shown = name.removeprefix("where a token like ").removesuffix(" is expected next")
        assert set(shown.split(", ")) <= coming


# -- classes of the context ------------------------------------------------------------------------


def about(seed: int = 0, n_docs: int = 48, n_subjects: int = 4, ctx_len: int = 24) -> Tokens:
    """Texts of the words of one subject each, 8 words a subject, and of 8 common words."""
    rng = np.random.default_rng(seed)
    subject = np.arange(n_docs) % n_subjects
    own = subject[:, None] * 8 + rng.integers(0, 8, (n_docs, ctx_len))
    common = 8 * n_subjects + rng.integers(0, 8, (n_docs, ctx_len))
    rows = np.where(rng.random(own.shape) < 0.6, own, common)
    return plain_tokens(
        rows.tolist(),
        n_vocab=8 * n_subjects + 8,
        topics=[(f"subject {one}", "") for one in subject],
    )


@pytest.mark.parametrize("name", CLASSES)
def test_contexts_about_other_things_have_other_classes(name: str) -> None:
    kind = prepared(name, about())
    text = about(1)
    keys = kind.keys(text)[:, 8:]
    seen = [set(keys[np.arange(len(keys)) % 4 == subject].ravel()) for subject in range(4)]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert min(seen[0]) >= 0
    for subject in range(4):
        for key in seen[subject]:
            shown = kind.render(int(key)).removeprefix(kind.where + " ").split(", ")
            words = [f"`<{8 * subject + word}>`" for word in range(8)]
            assert shown[0] in words
            assert set(shown) <= {*words, *(f"`<{common}>`" for common in range(32, 40))}


@pytest.mark.parametrize("name", CLASSES)
def test_context_class_against_whole_numbers(name: str) -> None:
    tokens = make_tokens(6, n_docs=20)
    kind = prepared(name, tokens)
    state = kind.state()
    vector, centroid = state["vector"].tolist(), state["centroid"].tolist()
    keep = {"context_class": 1002, "context_class_fast": 861}[name]
    keys = kind.keys(tokens)
    assert len(np.unique(keys)) > 20
    for context in range(tokens.n_ctx):
        total = [0] * len(vector[0])
        for t in range(int(tokens.length[context])):
            new = vector[tokens.ids[context, t]]
            # // rounds down, as the shift does.
            total = [old * keep // 1024 + add for old, add in zip(total, new, strict=True)]
            score = [sum(a * b for a, b in zip(total, one, strict=True)) for one in centroid]
            wanted = score.index(max(score)) if max(score) > 0 else -1
            assert keys[context, t] == wanted


@pytest.mark.parametrize(("name", "half_life"), [("context_class", 32), ("context_class_fast", 4)])
def test_half_life(name: str, half_life: int) -> None:
    # A vector of 20000 once, then zeros: half of it is left after the half-life; rounding down
    # takes at most 1 at each of its steps.
    vector = np.array([[20000], [0]], dtype=np.int16)
    keep = get_function_type(name)()._keep
    sums = decayed_sums(np.array([[0] + [1] * half_life]), vector, keep)
    assert sums[0, -1, 0] == pytest.approx(10000, abs=60)


def test_sums_do_not_overflow() -> None:
    vector = np.array([[32767, -32768]], dtype=np.int16)
    sums = decayed_sums(np.zeros((1, 3000), dtype=np.int64), vector, 1002)[0]
    high = low = 0
    for t in range(3000):
        high, low = high * 1002 // 1024 + 32767, low * 1002 // 1024 - 32768
        assert sums[t].tolist() == [high, low]
    assert high * 1002 < 2**31


def test_context_class_abstains_where_all_contexts_are_alike() -> None:
    for name in CLASSES:
        with pytest.raises(NotApplicableError, match="do not differ"):
            prepared(name, plain_tokens([[1, 2, 3]] * 5))


# -- what they share -------------------------------------------------------------------------------


def test_vectors_of_tokens_with_the_same_neighbours_are_alike() -> None:
    fit = grammar(n_docs=200)
    vectors = token_vectors(fit)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    group = np.arange(32) // 8
    same = group[:, None] == group
    assert alike[same].min() > alike[~same].max()
    assert token_vectors(fit) is vectors


def test_tokens_without_neighbours_have_no_vector() -> None:
    assert not token_vectors(plain_tokens([[1], [2]])).any()
    # Token 9 is in no text.
    vectors = token_vectors(grammar())
    assert vectors.any(axis=1).all()
    assert not token_vectors(plain_tokens([[1, 2, 3], [2, 3, 1]]))[9].any()


def test_groups_derived_by_hand() -> None:
    points = np.array([[0, 0], [0, 2], [10, 0], [10, 2], [11, 1]], dtype=np.float32)
    means = centroids(points, 2)
    found = sorted(means.tolist())
    assert found[0] == pytest.approx([0, 1])
    assert found[1] == pytest.approx([31 / 3, 1])
    assert len(set(nearest(points, means)[:2])) == 1
    # No more groups than there are different points.
    assert len(centroids(np.ones((9, 2), dtype=np.float32), 4)) == 1


def test_telling_tokens_derived_by_hand() -> None:
    # Token 0 is half of both groups: it tells nothing. In group 0, token 1 is three of eight and
    # token 2 one of eight, all there is of both: the commoner one is first.
    group = np.array([0] * 8 + [1] * 8)
    token = np.array([0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 3, 3, 3, 3])
    fits = np.zeros((2, 5))
    assert telling_tokens(group, token, np.ones(5), fits) == [[1, 2], [3]]
    # What is worth nothing is left out.
    assert telling_tokens(group, token, np.array([1, 0, 1, 1, 1]), fits) == [[2], [3]]
    # A group without positions has the tokens that fit it best.
    fits[1] = [0, 1, 4, 3, 2]
    none = np.where(group == 1, -1, group)
    assert telling_tokens(none, token, np.ones(5), fits) == [[1, 2], [2, 3, 4]]


# -- contract --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_round_trip_and_source(name: str) -> None:
    tokens = make_tokens(7)
    kind = prepared(name, tokens)
    again = restored(kind)
    keys = kind.keys(tokens)
    assert np.array_equal(again.keys(tokens), keys)
    assert np.array_equal(exported(again, tokens.ids), keys)
    assert [again.render(int(key)) for key in np.unique(keys[keys >= 0])] == [
        kind.render(int(key)) for key in np.unique(keys[keys >= 0])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_types_keep_the_contract(name: str) -> None:
    check_function_type(get_function_type(name))
    check_function_type(get_function_type(name), make_tokens(8))


@pytest.mark.parametrize("name", CAUSAL)
def test_most_keys_can_be_written(name: str) -> None:
    tokens = make_tokens(9)
    kind = prepared(name, tokens)
    keys = np.unique(kind.keys(tokens)[tokens.valid])
    written = 0
    for key in keys[keys >= 0].tolist():
        before = tokens.ids[0].copy()
        edited = kind.write(before, 11, key)
        assert np.array_equal(before, tokens.ids[0])
        if edited is None:
            continue
        written += 1
        assert kind.keys(plain_tokens([edited.tolist()], n_vocab=30))[0, 11] == key
        assert np.array_equal(edited[12:], before[12:])
    assert written > 0.5 * (keys >= 0).sum()


def test_only_what_is_needed_is_written() -> None:
    kind = prepared("expected_token", plain_tokens([[1, 2, 3], [4, 2, 5], [4, 2, 5], [6, 7, 8]]))
    ids = np.full(6, 9, dtype=np.int32)
    assert kind.write(ids, 4, 8).tolist() == [9, 9, 9, 9, 7, 9]
    # 5 follows 2 more often than 3, which follows only 1 2.
    assert kind.write(ids, 4, 5).tolist() == [9, 9, 9, 9, 2, 9]
    assert kind.write(ids, 4, 3) is None or kind.write(ids, 4, 3).tolist()[3:5] == [1, 2]
    assert kind.write(ids, 0, 3) is None
