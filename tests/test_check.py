"""The contract check: several keys, fit keys, parents, and what is said of common slips."""

from typing import Any

import numpy as np
import pytest

from labeler.errors import FunctionTypeError, NotApplicableError
from labeler.functions import (
    NO_KEY,
    FunctionType,
    Keys,
    State,
    check_function_type,
    function_types,
    register,
    registry,
)
from labeler.functions.check import example_tokens, try_function_type
from labeler.functions.check_keys import checked_keys, first_difference
from labeler.functions.trial import Trial
from labeler.tokens import N_FOLDS, Tokens
from tests.synthetic import make_tokens, plain_tokens


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry, put back after each test."""
    monkeypatch.setattr(registry, "_registry", dict(function_types()))


def refused(kind: type[FunctionType], fault: str, tokens: Tokens | None = None) -> None:
    with pytest.raises(FunctionTypeError, match=rf"{kind.__name__} \({kind.name}\): .*{fault}"):
        check_function_type(kind, tokens)


def with_members(base: type[FunctionType], **members: Any) -> type[FunctionType]:
    return type("Broken", (base,), members)


# -- several keys ----------------------------------------------------------------------------------


class LastTwo(FunctionType):
    """The last two tokens, in any order."""

    name = "last_two"
    several_keys = True

    def keys(self, tokens: Tokens) -> Keys:
        here = tokens.ids.astype(np.int64)
        before = np.full_like(here, NO_KEY)
        before[:, 1:] = here[:, :-1]
        return np.stack([here, np.where(before == here, NO_KEY, before)], axis=2)

    def render(self, key: int) -> str:
        return f"token {key}"

    def source(self) -> str | None:
        return (
            "def keys_last_two(ids):\n"
            "    before = np.full_like(ids, -1)\n"
            "    before[:, 1:] = ids[:, :-1]\n"
            "    return np.stack([np.where(before == ids, -1, before), ids], axis=2)\n"
        )

    def write(self, ids: np.ndarray, pos: int, key: int) -> np.ndarray | None:
        edited = ids.copy()
        edited[max(pos - 1, 0)] = key
        return edited


def change(function: Any) -> type[FunctionType]:
    """LastTwo with its keys changed."""
    return with_members(LastTwo, keys=lambda self, tokens: function(LastTwo.keys(self, tokens)))


def test_a_sound_type_with_several_keys_passes() -> None:
    # Its source has the keys in another order, which is no fault: they are a set.
    check_function_type(LastTwo)
    check_function_type(LastTwo, make_tokens(1))


def test_how_many_keys_there_is_room_for_may_depend_on_the_text() -> None:
    def narrow(self: FunctionType, tokens: Tokens) -> Keys:
        keys = LastTwo.keys(self, tokens)  # type: ignore[arg-type]
        return keys if tokens.n_ctx > 50 else np.concatenate([keys, keys * 0 - 1], axis=2)

    check_function_type(with_members(LastTwo, keys=narrow))


class NextToo(LastTwo):
    def keys(self, tokens: Tokens) -> Keys:
        here = tokens.ids.astype(np.int64)
        after = np.full_like(here, NO_KEY)
        after[:, :-1] = np.where(tokens.valid[:, 1:], here[:, 1:], NO_KEY)
        return np.stack([here, np.where(after == here, NO_KEY, after)], axis=2)


class Unlucky(LastTwo):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def keys(self, tokens: Tokens) -> Keys:
        keys = super().keys(tokens)
        keys[..., 1] = np.where(self.rng.random(tokens.ids.shape) < 0.01, -1, keys[..., 1])
        return keys


SEVERAL = [
    (change(lambda keys: keys[..., 0]), r"shape \[80, 24\]; .*\[80, 24, m\].*keys\[:, :, None\]"),
    (change(lambda keys: keys[..., None]), r"shape \[80, 24, 2, 1\]; return several"),
    (change(lambda keys: keys[:, :-1]), r"shape \[80, 23, 2\]"),
    (change(lambda keys: keys[..., :0]), r"shape \[80, 24, 0\]; .*m at least 1"),
    (change(lambda keys: np.maximum(keys, 0)), r"context \d+, position \d+ the key 0 twice"),
    (change(lambda keys: keys * 1.0), "keys returns float64"),
    (change(lambda keys: keys - 2), "keys has the value -3"),
    (NextToo, "reads the future: what follows position 0"),
    (Unlucky, r"keys differ from call to call \(context \d+, position \d+: \[.*\], not \[.*\]\)"),
    (with_members(LastTwo, source=lambda self: "def keys_last_two(ids): return ids"), "has shape"),
    (
        with_members(LastTwo, source=lambda self: "def keys_last_two(ids): return ids[:, :, None]"),
        r"source\(\) gives other keys than keys",
    ),
    (
        with_members(LastTwo, write=lambda self, ids, pos, key: ids.copy()),
        r"write\(ids, \d+, \d+\) gives a context whose key at \d+ is \d+(, \d+)?;",
    ),
    (with_members(LastTwo, several_keys=False), "or declare several_keys = True"),
]


@pytest.mark.parametrize(("kind", "fault"), SEVERAL)
def test_broken_types_with_several_keys_are_refused(kind: type[FunctionType], fault: str) -> None:
    refused(kind, fault)


def test_checked_keys_by_hand() -> None:
    tokens = plain_tokens([[1, 2, 3], [1]])
    keys = np.array([[[5, 7], [-1, 4], [-1, -1]], [[2, -1], [9, 9], [8, 8]]])
    found = checked_keys(keys, tokens, several=True, what="keys")
    # In falling order, and padding has none.
    assert found.tolist() == [[[7, 5], [4, -1], [-1, -1]], [[2, -1], [-1, -1], [-1, -1]]]
    assert first_difference(found, found[..., ::-1][..., :1]) is not None
    wider = np.concatenate([found, np.full((2, 3, 1), -1)], axis=2)
    assert first_difference(found, wider) is None
    other = wider.copy()
    other[0, 1, 0] = 3
    assert first_difference(found, other) == "context 0, position 1: [4], not [3]"


# -- keys of the fit split -------------------------------------------------------------------------


class Guess(FunctionType):
    """The token that most often follows this one; on the fit split, in the other folds."""

    name = "guess"

    @staticmethod
    def counted(fit: Tokens) -> np.ndarray:
        """Pairs of tokens, [n_vocab, n_vocab]."""
        both = fit.valid[:, 1:]
        pair = fit.ids[:, :-1][both].astype(np.int64) * fit.n_vocab + fit.ids[:, 1:][both]
        return np.bincount(pair, minlength=fit.n_vocab**2).reshape(fit.n_vocab, fit.n_vocab)

    def prepare(self, tokens: Tokens) -> None:
        self.follows = self.counted(tokens).argmax(axis=1)

    def state(self) -> State:
        return {"follows": self.follows}

    def load_state(self, state: State) -> None:
        self.follows = state["follows"].astype(np.int64)

    def keys(self, tokens: Tokens) -> Keys:
        return self.follows[tokens.ids]

    def fit_keys(self, fit: Tokens) -> Keys:
        out = np.zeros(fit.ids.shape, dtype=np.int64)
        for fold in range(N_FOLDS):
            mine = fit.fold == fold
            out[mine] = self.counted(fit.select(~mine)).argmax(axis=1)[fit.ids[mine]]
        return out

    def render(self, key: int) -> str:
        return f"before token {key}"


class GuessFromPrepare(Guess):
    """The same, with the counts of `prepare`."""

    def prepare(self, tokens: Tokens) -> None:
        super().prepare(tokens)
        self.by_fold = np.stack(
            [self.counted(tokens.select(tokens.fold != f)).argmax(axis=1) for f in range(N_FOLDS)]
        )

    def fit_keys(self, fit: Tokens) -> Keys:
        return self.by_fold[fit.fold[:, None], fit.ids]


def test_sound_fit_keys_pass() -> None:
    check_function_type(Guess)
    check_function_type(GuessFromPrepare)
    tokens = example_tokens()
    one, other = Trial(Guess, tokens), Trial(GuessFromPrepare, tokens)
    assert one.has_fit_keys
    assert np.array_equal(one.fit_keys_of(tokens.fit), other.fit_keys_of(tokens.fit))


def fit_keys(function: Any, **members: Any) -> type[FunctionType]:
    return with_members(Guess, fit_keys=function, **members)


def own_fold(self: Any, fit: Tokens) -> Keys:
    """Counts in all folds, the context's own among them."""
    keys: Keys = self.counted(fit).argmax(axis=1)[fit.ids]
    return keys


def next_token(self: Any, fit: Tokens) -> Keys:
    out = fit.ids.astype(np.int64)
    out[:, :-1] = out[:, 1:]
    return out


def in_place(self: Any, fit: Tokens) -> Keys:
    fit.ids[:] = 0
    return fit.ids.astype(np.int64)


FIT_KEYS = [
    (fit_keys(lambda self, fit: Guess.keys(self, fit).tolist()), "fit_keys returns list; return"),
    (fit_keys(lambda self, fit: Guess.keys(self, fit) * 1.0), "fit_keys returns float64; return"),
    (fit_keys(lambda self, fit: Guess.keys(self, fit)[:, 0]), r"fit_keys has shape \[72\]; .*per"),
    (fit_keys(lambda self, fit: Guess.keys(self, fit)[..., None]), r"fit_keys has shape \[72, 24,"),
    (fit_keys(lambda self, fit: Guess.keys(self, fit) - 2), "fit_keys has the value -2"),
    (fit_keys(lambda self, fit: 1 // 0), "fit_keys raised ZeroDivisionError"),
    (fit_keys(in_place), "fit_keys changes the tokens"),
    (
        fit_keys(lambda self, fit: np.random.default_rng().integers(0, 9, fit.ids.shape)),
        "fit_keys differ from call to call",
    ),
    (fit_keys(own_fold), "fit_keys reads the future: .* only where their fold is another"),
    (fit_keys(next_token), "fit_keys reads the future: what follows position 0 "),
    (
        fit_keys(
            lambda self, fit: Guess.fit_keys(self, fit) + 100,
            render=lambda self, key: "a"[key > 99 :],
        ),
        r"render\(1\d\d\) is ''; return one line",
    ),
]


@pytest.mark.parametrize(("kind", "fault"), FIT_KEYS)
def test_broken_fit_keys_are_refused(kind: type[FunctionType], fault: str) -> None:
    refused(kind, fault)


def test_a_type_that_looks_ahead_may_do_so_in_its_fit_keys() -> None:
    check_function_type(fit_keys(next_token, looks_ahead=True))


# -- slips -----------------------------------------------------------------------------------------


class Length(FunctionType):
    """The length of the token's text."""

    name = "length_of_token"

    def prepare(self, tokens: Tokens) -> None:
        self.table = np.array([len(text) for text in tokens.vocab])

    def state(self) -> State:
        return {"table": self.table}

    def load_state(self, state: State) -> None:
        self.table = state["table"]

    def keys(self, tokens: Tokens) -> Keys:
        return self.table[tokens.ids].astype(np.int64)

    def render(self, key: int) -> str:
        return f"{key} characters"


def length(**members: Any) -> type[FunctionType]:
    return with_members(Length, **members)


def keys_like(function: Any) -> type[FunctionType]:
    return length(keys=lambda self, tokens: function(Length.keys(self, tokens)))


def zeroing(self: Any, tokens: Tokens) -> None:
    tokens.ids[:] = 0
    Length.prepare(self, tokens)


SLIPS = [
    (keys_like(lambda keys: keys.tolist()), r"returns list; .*: np.array\(keys, dtype=np.int64\)"),
    (keys_like(lambda keys: None), r"returns NoneType; .* \(is there a `return`\?\)"),
    (keys_like(lambda keys: keys / 2), r"returns float64; .*-1 instead of NaN .*astype"),
    (keys_like(lambda keys: keys > 3), r"returns bool; .*int64: keys.astype\(np.int64\)"),
    (keys_like(lambda keys: keys.astype(str)), r"returns <U\d+; .* number what the keys stand for"),
    (keys_like(lambda keys: keys[:, 0]), r"shape \[80\]; .*\[80, 24\]; this is one per context"),
    (keys_like(lambda keys: keys[0]), r"shape \[24\]; .*; this is one context only"),
    (keys_like(lambda keys: keys.ravel()), r"shape \[1920\]; .*: keys.reshape"),
    (
        length(state=lambda self: {}),
        r"load_state raised KeyError: 'table'; state\(\) is empty: return .* makes \(table\), res",
    ),
    (
        length(state=lambda self: {}, load_state=lambda self, state: None),
        r"after load_state\(state\(\)\), keys raised AttributeError: .*state\(\) is empty: return",
    ),
    (
        length(load_state=lambda self, state: None),
        r"after load_state\(state\(\)\), keys raised AttributeError: .*put all .*\(table\) into",
    ),
    (
        length(load_state=lambda self, state: setattr(self, "table", state["table"] + 1)),
        r"keys after load_state\(state\(\)\) differ; put all that prepare makes \(table\) into",
    ),
    (length(state=lambda self: [self.table]), "state returns no dict of names to arrays, but list"),
    (length(state=lambda self: {"table": 3}), "'table' is int; make it a numpy array"),
    (length(source=lambda self: b"keys"), "source returns bytes; return Python as a text"),
    (length(prepare=zeroing), "prepare changes the tokens it is given; work on a copy"),
    (length(backs_off_to="wrod"), "length_of_token backs off to 'wrod', which is no function type"),
    (length(backs_off_to="length_of_token"), "circular back-off: length_of_token -> length_of_tok"),
]


@pytest.mark.parametrize(("kind", "fault"), SLIPS)
def test_common_slips_are_named_with_their_cure(kind: type[FunctionType], fault: str) -> None:
    check_function_type(Length)
    refused(kind, fault)


def test_forgetting_the_state_is_told_once() -> None:
    broken = length(state=lambda self: {}, source=lambda self: f"keys = {len(self.table)}")
    found = try_function_type(broken).faults
    assert [str(fault).split(":")[0] for fault in found] == [
        "load_state raised KeyError",
        "source defines no keys_length_of_token(ids)",
    ]


def test_a_parent_with_several_keys_or_in_a_circle_is_refused() -> None:
    register(LastTwo)
    refused(length(backs_off_to="last_two"), "backs off to 'last_two', which has several keys at a")
    register(type("Up", (Length,), {"name": "up", "backs_off_to": "length_of_token"}))
    refused(length(backs_off_to="up"), "circular back-off: length_of_token -> up -> length_of_tok")
    check_function_type(with_members(LastTwo, backs_off_to="unigram"))


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"backs_off_to": Length}, "backs_off_to is .*Length'>; give the name of a function type"),
        ({"looks_ahead": "no"}, "looks_ahead is 'no'; give True or False"),
        ({"several_keys": 1}, "several_keys is 1; give True or False"),
    ],
)
def test_a_wrong_attribute_is_refused_at_once(members: dict[str, Any], fault: str) -> None:
    kind = length(**members)
    for refuse in (register, check_function_type):
        with pytest.raises(FunctionTypeError, match=f"Broken: {fault}"):
            refuse(kind)


def test_a_rare_look_ahead_is_found_in_a_large_vocabulary() -> None:
    """One token of 20,000 decides: random ones do not show it, those of the text do."""
    # It stands after none of the positions that the future is changed after.
    tokens = plain_tokens([[1, 1, 2, *[1] * 21]] * 60, n_vocab=20_000)

    class BeforeTwo(Length):
        def keys(self, tokens: Tokens) -> Keys:
            out = np.zeros(tokens.ids.shape, dtype=np.int64)
            out[:, :-1] = tokens.ids[:, 1:] == 2
            return out

    refused(BeforeTwo, "reads the future", tokens)


def test_what_was_tried_is_told() -> None:
    class Abstains(Length):
        def prepare(self, tokens: Tokens) -> None:
            raise NotApplicableError("not here")

    assert try_function_type(Abstains) == ((), "not here", 0)
    silent = keys_like(lambda keys: keys * 0 - 1)
    assert try_function_type(silent) == ((), None, 0)
    tokens = example_tokens()
    lengths = {len(tokens.vocab[token]) for token in tokens.ids.ravel()}
    assert try_function_type(Length).n_keys == len(lengths)
