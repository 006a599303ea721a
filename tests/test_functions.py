"""Function types: derived by hand, against a loop per position, and what the contract refuses."""

import math
from collections import Counter
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

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
    get_function_type,
    register,
    registry,
    with_back_off,
)
from labeler.functions.ngram import NGram
from labeler.functions.topic_model import TopicModel
from labeler.tokens import Tokens
from tests.synthetic import make_tokens, plain_tokens
from tests.texts import exported, prepared, restored

ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3, "fourgram": 4}
BUILT_IN = [*ORDERS, "previous_token", "topic", "subtopic"]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[FunctionType]]:
    """The registry, put back after each test."""
    known = dict(function_types())
    monkeypatch.setattr(registry, "_registry", known)
    return known


# -- derived by hand -------------------------------------------------------------------------------

BY_HAND = [
    # the text 3 1 4 1 of a vocabulary of 10, texts <0> to <9>
    ("unigram", [3, 1, 4, 1], 4, "`<4>`"),
    ("bigram", [-1, 13, 41, 14], 41, "`<1><4>`"),
    ("trigram", [-1, -1, 413, 141], 413, "`<3><1><4>`"),
    ("fourgram", [-1, -1, -1, 1413], 1413, "`<3><1><4><1>`"),
    ("previous_token", [-1, 3, 1, 4], 4, "anything after `<4>`"),
]


@pytest.mark.parametrize(("name", "keys", "key", "text"), BY_HAND)
def test_ngrams_derived_by_hand(name: str, keys: list[int], key: int, text: str) -> None:
    tokens = plain_tokens([[3, 1, 4, 1]])
    kind = prepared(name, tokens)
    assert kind.keys(tokens).tolist() == [keys]
    assert kind.render(key) == text
    pos = keys.index(key) if key in keys else 3
    edited = kind.write(np.array([7, 7, 7, 7], dtype=np.int32), pos, key)
    assert kind.keys(plain_tokens([edited.tolist()]))[0, pos] == key
    assert (edited == 7).sum() == 4 - (ORDERS.get(name) or 1)


@pytest.mark.parametrize("name", [*ORDERS, "previous_token"])
def test_ngrams_cannot_be_written_before_the_context_begins(name: str) -> None:
    kind = prepared(name, plain_tokens([[3, 1, 4, 1]]))
    short = 1 if name == "previous_token" else ORDERS[name] - 1
    ids = np.zeros(4, dtype=np.int32)
    for pos in range(4):
        assert (kind.write(ids, pos, 0) is None) == (pos < short)


def test_topic_derived_by_hand() -> None:
    # Ten tokens of topic A, all 0, and ten of topic B, all 1. Of token 0, A holds
    # (10 + 0.42) / 11 and B 0.42 / 11 of its tokens: ln(10.42 / 0.42) = 3.2 nats for A. Token 2 is
    # in neither.
    fit = plain_tokens([[0] * 10, [1] * 10], topics=[("A",), ("B",)])
    kind = prepared("topic", fit)
    text = plain_tokens([[2, 0, 1, 1]])
    assert kind.keys(text).tolist() == [[-1, 0, -1, 1]]
    assert kind.render(1) == "topic B"
    lead = 3.2113
    assert math.isclose(math.log(10.42 / 0.42), lead, abs_tol=1e-3)
    score = kind.state()["score"]
    assert score[0, 0] - score[0, 1] == pytest.approx(lead * 256, abs=1)


def test_topic_counts_the_prior() -> None:
    # Thirty tokens of A to ten of B: ln 3 = 1.1 nats for A before anything is read.
    kind = prepared("topic", plain_tokens([[0] * 30, [1] * 10], topics=[("A",), ("B",)]))
    prior = kind.state()["prior"]
    assert (prior[0] - prior[1]) / 256 == pytest.approx(math.log(3), abs=0.01)


def test_topic_abstains_and_says_why() -> None:
    with pytest.raises(NotApplicableError, match=r"the corpus has 0 topic level"):
        prepared("topic", plain_tokens([[1, 2]]))
    one_level = plain_tokens([[1, 2], [3]], topics=[("A",), ("B",)])
    with pytest.raises(NotApplicableError, match=r"the corpus has 1 .* level 2 is need"):
        prepared("subtopic", one_level)
    with pytest.raises(NotApplicableError, match=r"the fit split has 1 topic"):
        prepared("topic", plain_tokens([[1, 2], [3]], topics=[("A",), ("A",)]))
    # An empty name is no topic.
    with pytest.raises(NotApplicableError, match=r"the fit split has 1 topic"):
        prepared("topic", plain_tokens([[1, 2], [3]], topics=[("A",), ("",)]))


def test_topic_keeps_the_largest_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labeler.functions.topic_model.MAX_TOPICS", 2)
    fit = plain_tokens([[0] * 9, [1] * 8, [2]], topics=[("c",), ("a",), ("b",)])
    kind = prepared("topic", fit)
    assert [kind.render(key) for key in (0, 1)] == ["topic a", "topic c"]
    assert set(np.unique(kind.keys(fit))) <= {-1, 0, 1}


# -- against a loop per position -------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ORDERS, "previous_token"])
def test_ngrams_against_a_loop(name: str) -> None:
    tokens = make_tokens(1)
    kind = prepared(name, tokens)
    keys = kind.keys(tokens)
    key_of: dict[tuple[int, ...], int] = {}
    for context in range(tokens.n_ctx):
        for t in range(int(tokens.length[context])):
            if name == "previous_token":
                wanted = tuple(tokens.ids[context, t - 1 : t]) if t else ()
            else:
                wanted = tuple(tokens.ids[context, t - ORDERS[name] + 1 : t + 1])
                wanted = wanted if t >= ORDERS[name] - 1 else ()
            key = int(keys[context, t])
            if not wanted:
                assert key == NO_KEY
                continue
            assert tuple(kind.ngram(key)) == wanted
            assert key_of.setdefault(wanted, key) == key
    assert len(set(key_of.values())) == len(key_of) > 20


@pytest.mark.parametrize(("name", "level"), [("topic", 0), ("subtopic", 1)])
def test_topic_against_a_loop(name: str, level: int) -> None:
    tokens = make_tokens(2, n_docs=60)
    kind = prepared(name, tokens)
    keys = kind.keys(tokens)
    fit = tokens.fit
    counts: dict[str, Counter[int]] = {}
    for context in range(fit.n_ctx):
        topic = fit.topics[fit.doc[context]][level]
        counts.setdefault(topic, Counter()).update(fit.ids[context, : fit.length[context]].tolist())
    total: Counter[int] = Counter()
    for counter in counts.values():
        total.update(counter)
    n, n_vocab = total.total(), tokens.n_vocab
    topics = sorted(counts)

    def share(token: int) -> float:
        return (total[token] + 0.5) / (n + 0.5 * n_vocab)

    clear = agree = named = 0
    for context in range(tokens.n_ctx):
        logs = {topic: math.log(counts[topic].total() / n) for topic in topics}
        for t in range(int(tokens.length[context])):
            token = int(tokens.ids[context, t])
            for topic in topics:
                seen = counts[topic][token] + n_vocab / 10 * share(token)
                logs[topic] += math.log(seen / (counts[topic].total() + n_vocab / 10))
            best, second = sorted(logs.values(), reverse=True)[:2]
            # The keys are made of logarithms rounded to 1/256.
            if abs(best - second - 2) < 0.1:
                continue
            wanted = topics.index(max(topics, key=logs.__getitem__)) if best - second > 2 else -1
            clear += 1
            named += wanted >= 0
            agree += int(keys[context, t]) == wanted
    assert agree == clear > 0.9 * tokens.n_positions
    assert named > 0.2 * clear


@pytest.mark.parametrize("name", BUILT_IN)
def test_round_trip_and_source(name: str) -> None:
    tokens = make_tokens(3)
    kind = prepared(name, tokens)
    again = restored(kind)
    keys = kind.keys(tokens)
    assert np.array_equal(again.keys(tokens), keys)
    assert np.array_equal(exported(again, tokens.ids), keys)
    key = int(keys[keys >= 0][-1])
    assert again.render(key) == kind.render(key)


@pytest.mark.parametrize("name", BUILT_IN)
def test_keys_do_not_depend_on_what_follows(name: str) -> None:
    tokens = make_tokens(4)
    kind = prepared(name, tokens)
    keys = kind.keys(tokens)
    rng = np.random.default_rng(0)
    for t in range(tokens.ctx_len - 1):
        ids = tokens.ids.copy()
        ids[:, t + 1 :] = rng.integers(0, tokens.n_vocab, ids[:, t + 1 :].shape)
        changed = Tokens(**{**vars_of(tokens), "ids": ids})
        assert np.array_equal(kind.keys(changed)[:, : t + 1], keys[:, : t + 1])


def vars_of(tokens: Tokens) -> dict[str, Any]:
    return {name: getattr(tokens, name) for name in Tokens.__dataclass_fields__}


# -- a vocabulary whose 4-grams do not fit 63 bits -------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Tokens:
    """Each of 70,000 tokens once, and the even ones a second time."""
    ids = np.concatenate([np.arange(70_000), np.arange(0, 70_000, 2)])
    rows = np.random.default_rng(0).permutation(ids).reshape(-1, 100).tolist()
    return plain_tokens(rows, n_vocab=70_000)


def test_fourgram_over_a_large_vocabulary(large: Tokens) -> None:
    kind = prepared("fourgram", large)
    digits = kind.state()["tokens"]
    assert len(digits) == 55_108
    assert 55_108**4 < 2**63 <= 55_109**4
    # The frequent tokens have digits, all of them.
    assert np.isin(np.arange(0, 70_000, 2), digits).all()
    keys = kind.keys(large)
    known = np.isin(large.ids, digits)
    rank = {int(token): digit for digit, token in enumerate(digits)}
    n = 0
    for context, t in np.random.default_rng(1).integers(0, (large.n_ctx, 100), (2000, 2)):
        row = large.ids[context, t - 3 : t + 1].tolist()
        if t < 3 or not known[context, t - 3 : t + 1].all():
            assert keys[context, t] == NO_KEY
            continue
        n += 1
        # In Python's integers, which do not overflow.
        assert keys[context, t] == sum(rank[token] * 55_108**i for i, token in enumerate(row))
        assert kind.ngram(int(keys[context, t])) == row
    assert n > 200
    assert np.array_equal(exported(kind, large.ids[:20]), keys[:20])
    assert np.array_equal(restored(kind).keys(large), keys)


def test_shorter_ngrams_over_a_large_vocabulary_have_a_digit_for_every_token(
    large: Tokens,
) -> None:
    kind = prepared("trigram", large)
    keys = kind.keys(large)
    assert (keys[:, 2:] >= 0).all()
    last = (int(token) for token in large.ids[0, 2:5])
    assert keys[0, 4] == sum(token * 70_000**i for i, token in enumerate(last))


# -- the registry ----------------------------------------------------------------------------------


class Parity(FunctionType):
    """Whether the token's number is odd: a type that keeps the contract."""

    name = "parity"

    def keys(self, tokens: Tokens) -> Keys:
        return (tokens.ids % 2).astype(np.int64)

    def render(self, key: int) -> str:
        return "odd" if key else "even"


def test_built_in_types_are_registered() -> None:
    assert set(BUILT_IN) <= set(function_types())
    for name, cls in function_types().items():
        assert cls.name == name


def test_register_returns_the_class_and_twice_is_once() -> None:
    assert register(Parity) is Parity
    assert register(Parity) is Parity
    assert get_function_type("parity") is Parity


def test_a_duplicate_names_both() -> None:
    register(Parity)

    class Other(Parity):
        pass

    with pytest.raises(FunctionTypeError, match=r"Other.*'parity' is taken by .*Parity; choose"):
        register(Other)
    assert get_function_type("parity") is Parity


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(FunctionTypeError, match=r"'nigram'; there are: .*bigram, .*, unigram"):
        get_function_type("nigram")


def test_the_decorator_with_parentheses_or_on_a_function_says_so() -> None:
    with pytest.raises(FunctionTypeError, match="without parentheses"):

        @register()
        class Parenthesised(Parity):
            name = "parenthesised"

    with pytest.raises(FunctionTypeError, match=r"subclass of FunctionType.*not above a function"):

        @register  # type: ignore[type-var]
        def keys(tokens: Tokens) -> None: ...

    assert "parenthesised" not in function_types()


class Abstract(FunctionType):
    name = "abstract"

    def keys(self, tokens: Tokens) -> Keys:
        return tokens.ids.astype(np.int64)


@pytest.mark.parametrize("bad", [None, 3, "", "Two Words", "CamelCase", "9lives", "a-b"])
def test_a_bad_name_is_refused(bad: object) -> None:
    cls = type("Bad", (Parity,), {"name": bad})
    with pytest.raises(FunctionTypeError, match=r"Bad: name is .* snake case"):
        register(cls)


def test_a_class_without_a_name_or_a_method_is_refused() -> None:
    with pytest.raises(FunctionTypeError, match="Abstract: define render, which it leaves abst"):
        register(Abstract)
    nameless = type("Nameless", (FunctionType,), {"keys": Parity.keys, "render": Parity.render})
    with pytest.raises(FunctionTypeError, match="name is None"):
        register(nameless)


def test_back_off_puts_parents_first_and_once() -> None:
    assert with_back_off(["trigram"]) == ["unigram", "bigram", "trigram"]
    assert with_back_off(["subtopic", "bigram", "unigram"]) == [
        "topic",
        "subtopic",
        "unigram",
        "bigram",
    ]
    with pytest.raises(FunctionTypeError, match="there are"):
        with_back_off(["unigram", "nothing"])


def test_circular_back_off_shows_the_circle() -> None:
    for name, parent in (("egg", "hen"), ("hen", "egg")):
        register(type(name.title(), (Parity,), {"name": name, "backs_off_to": parent}))
    with pytest.raises(FunctionTypeError, match="circular back-off: egg -> hen -> egg"):
        with_back_off(["egg"])
    register(type("Self", (Parity,), {"name": "self_", "backs_off_to": "self_"}))
    with pytest.raises(FunctionTypeError, match="circular back-off: self_ -> self_"):
        with_back_off(["self_"])


class _Entry(EntryPoint):
    """An entry point whose object is at hand."""

    loaded: ClassVar[Any] = None

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> type[_Entry]:
    entry = _Entry("parity", "somewhere:Parity", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    monkeypatch.setattr(registry, "_entry_points_read", False)
    return _Entry


def test_plug_ins_are_found_by_entry_point(
    plug_in: type[_Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plug_in, "loaded", Parity)
    assert get_function_type("parity") is Parity


@pytest.mark.parametrize("loaded", [ImportError("no module named x"), Abstract])
def test_a_broken_plug_in_is_named(
    plug_in: type[_Entry], monkeypatch: pytest.MonkeyPatch, loaded: Any
) -> None:
    monkeypatch.setattr(plug_in, "loaded", loaded)
    for _ in range(2):
        with pytest.raises(FunctionTypeError, match=r"plug-in 'parity' \(somewhere|define render"):
            function_types()


# -- the contract check ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_types_keep_the_contract(name: str) -> None:
    check_function_type(get_function_type(name))
    check_function_type(get_function_type(name), make_tokens(5))


def test_built_in_types_have_keys_on_the_example() -> None:
    from labeler.functions.check import example_tokens

    tokens = example_tokens()
    for name in BUILT_IN:
        keys = prepared(name, tokens).keys(tokens)[tokens.valid]
        assert (keys >= 0).mean() > 0.3
        assert len(np.unique(keys)) > 2


def test_a_sound_type_passes_as_class_and_as_instance() -> None:
    check_function_type(Parity)
    check_function_type(Parity())

    class WithOption(Parity):
        def __init__(self, base: int) -> None:
            self.base = base

        def keys(self, tokens: Tokens) -> Keys:
            return tokens.ids.astype(np.int64) % self.base

    check_function_type(WithOption(3))
    with pytest.raises(FunctionTypeError, match=r"WithOption \(parity\): making an instance"):
        check_function_type(WithOption)


def test_a_type_that_abstains_passes() -> None:
    class Abstains(Parity):
        def prepare(self, tokens: Tokens) -> None:
            raise NotApplicableError("not here")

        def render(self, key: int) -> str:
            return "two\nlines"

    check_function_type(Abstains)


class NextToken(Parity):
    def keys(self, tokens: Tokens) -> Keys:
        out = np.full(tokens.ids.shape, NO_KEY, dtype=np.int64)
        out[:, :-1] = np.where(tokens.valid[:, 1:], tokens.ids[:, 1:], NO_KEY)
        return out


def test_a_type_that_says_it_looks_ahead_may() -> None:
    check_function_type(type("Declared", (NextToken,), {"looks_ahead": True}))


class FromTheEnd(Parity):
    """Reads no later token, but how many there are."""

    def keys(self, tokens: Tokens) -> Keys:
        position = np.arange(tokens.ctx_len)
        return np.maximum(tokens.length[:, None] - position, NO_KEY).astype(np.int64)


class FarFuture(Parity):
    """Reads the last token of the context only."""

    def keys(self, tokens: Tokens) -> Keys:
        return np.repeat(tokens.ids[:, -1:], tokens.ctx_len, axis=1).astype(np.int64)


class Random(Parity):
    def keys(self, tokens: Tokens) -> Keys:
        return np.random.default_rng().integers(0, 9, tokens.ids.shape)


class RandomState(Parity):
    def prepare(self, tokens: Tokens) -> None:
        self.shuffled = np.random.default_rng().permutation(tokens.n_vocab)

    def state(self) -> State:
        return {"shuffled": self.shuffled}

    def load_state(self, state: State) -> None:
        self.shuffled = state["shuffled"].astype(np.int64)

    def keys(self, tokens: Tokens) -> Keys:
        return self.shuffled[tokens.ids].astype(np.int64)


class Forgets(Parity):
    """Keys by rank of frequency, which it does not save."""

    def __init__(self) -> None:
        self.rank = np.zeros(1000, dtype=np.int64)

    def prepare(self, tokens: Tokens) -> None:
        self.rank = np.argsort(np.bincount(tokens.ids[tokens.valid], minlength=1000))

    def keys(self, tokens: Tokens) -> Keys:
        return self.rank[tokens.ids]


class ForgetsTexts(Parity):
    def __init__(self) -> None:
        self.texts = ("?", "?")

    def prepare(self, tokens: Tokens) -> None:
        self.texts = ("even", "odd")

    def render(self, key: int) -> str:
        return self.texts[key]


class AcrossContexts(Parity):
    """Numbers the tokens of whatever text it is given."""

    def keys(self, tokens: Tokens) -> Keys:
        return np.unique(tokens.ids, return_inverse=True)[1].reshape(tokens.ids.shape)


class Metadata(Parity):
    def keys(self, tokens: Tokens) -> Keys:
        return np.repeat(tokens.doc[:, None], tokens.ctx_len, axis=1).astype(np.int64)


class InPlace(Parity):
    def keys(self, tokens: Tokens) -> Keys:
        tokens.ids[:] //= 2
        return tokens.ids.astype(np.int64)


class WrongWrite(Parity):
    def write(self, ids: np.ndarray, pos: int, key: int) -> np.ndarray | None:
        edited = ids.copy()
        edited[pos - 1] = key
        return edited


class WritesInPlace(Parity):
    def write(self, ids: np.ndarray, pos: int, key: int) -> np.ndarray | None:
        ids[pos] = key
        return ids


def having(**members: Any) -> type[FunctionType]:
    return type("Broken", (Parity,), members)


def keys_like(change: Any) -> type[FunctionType]:
    return having(keys=lambda self, tokens: change(Parity.keys(self, tokens)))


SOURCE = "def keys_parity(ids):\n    return "

BROKEN = [
    (keys_like(lambda keys: keys[:, :-1]), r"keys has shape \[80, 23\].*\[80, 24\]"),
    (keys_like(lambda keys: keys[:, :, None]), "keys has shape"),
    (keys_like(lambda keys: keys.astype(np.int32)), "keys returns int32; return an array of int64"),
    (keys_like(lambda keys: keys.tolist()), "keys returns list"),
    (keys_like(lambda keys: keys - 2), "keys has the value -2"),
    (having(keys=lambda self, tokens: 1 // 0), "keys raised ZeroDivisionError"),
    (having(prepare=lambda self, tokens: 1 // 0), "prepare raised ZeroDivisionError"),
    (NextToken, "reads the future: what follows position 0 "),
    (FarFuture, "reads the future"),
    (FromTheEnd, "reads the future"),
    (Random, "keys differ from call to call"),
    (RandomState, "differ between two instances"),
    (InPlace, "keys changes the tokens"),
    (AcrossContexts, "depend on the other contexts"),
    (Metadata, "keys reads documents, folds or topics"),
    (having(render=lambda self, key: "two\nlines"), r"render\(0\) is 'two\\nlines'; return one"),
    (having(render=lambda self, key: "a\u2028b"), "return one line"),
    (having(render=lambda self, key: ""), "return one line"),
    (having(render=lambda self, key: key), r"render\(0\) is 0"),
    (having(render=lambda self, key: ["even"][key]), r"render\(1\) raised IndexError"),
    (Forgets, r"keys after load_state\(state\(\)\) differ"),
    (ForgetsTexts, r"render\(0\) after load_state\(state\(\)\) is '\?', not 'even'"),
    (having(state=lambda self: {"x": [1]}), "state returns no dict"),
    (having(state=lambda self: {"x": np.array([{}])}), "without objects"),
    (having(source=lambda self: SOURCE + "ids // 2"), "source.. gives other keys"),
    (having(source=lambda self: SOURCE + "(ids % 2)[0]"), "source.. returns no array"),
    (having(source=lambda self: SOURCE + "ids.__imod__(2)"), "source.. changes the ids"),
    (having(source=lambda self: SOURCE + "keys"), "source.. raised NameError"),
    (having(source=lambda self: "def keys(ids)"), "running source.. raised SyntaxError"),
    (having(source=lambda self: "def keys(ids): ..."), r"source defines no keys_parity\(ids\)"),
    (having(source=lambda self: "import scipy"), "numpy and the standard library only, not scipy"),
    (WrongWrite, r"write\(ids, \d+, [01]\) gives a context whose key"),
    (WritesInPlace, "write changes the context"),
    (having(write=lambda self, ids, pos, key: ids[:3].copy()), "write returns no context of 24"),
    (having(write=lambda self, ids, pos, key: ids + 999), "write returns no context of 24"),
]


@pytest.mark.parametrize(("kind", "fault"), BROKEN)
def test_broken_types_are_refused(kind: type[FunctionType], fault: str) -> None:
    with pytest.raises(FunctionTypeError, match=rf"{kind.__name__} \(parity\): .*{fault}"):
        check_function_type(kind)


def test_every_fault_is_told_at_once() -> None:
    kind = type("Both", (NextToken,), {"render": lambda self, key: "a\nb"})
    with pytest.raises(FunctionTypeError, match=r"reads the future.*; render\(0\) is"):
        check_function_type(kind)


def test_the_check_refuses_what_the_registry_refuses() -> None:
    with pytest.raises(FunctionTypeError, match="define render"):
        check_function_type(Abstract)
    with pytest.raises(FunctionTypeError, match="subclass of FunctionType"):
        check_function_type(int)  # type: ignore[type-var]


def test_shared_bases_are_not_registered() -> None:
    assert not any(cls in (NGram, TopicModel) for cls in function_types().values())
