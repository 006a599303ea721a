"""The maker of true and corrupted explanations, and a small audit of them."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from labeler.tokens import Tokens
from tests.planted_audit import ACCUSED, Case, audited, explained, planted_case
from tests.planted_explanations import CORRUPTIONS, Corruptor, Told
from tests.planted_facts import (
    EXACT,
    LOOSE,
    Fact,
    Fired,
    Statement,
    TextCount,
    f1,
    is_true,
    is_wrong,
    said_once,
)
from tests.planted_phrases import Style, written
from tests.planted_text import mixed_tokens
from tests.planted_wordings import FIRST, SECOND, WORDINGS, Wording

TEXT = ("The", " cat", " sat", " on", " the", " m", "at", ",", " the", " dog", "(", "the", ")", ".")
"""Positions 0 to 13; "mat" is of two tokens."""


@pytest.fixture(scope="module")
def count() -> TextCount:
    vocab = tuple(dict.fromkeys(TEXT))
    ids = np.array([[vocab.index(one) for one in TEXT] + [0, 0]], dtype=np.int32)
    return TextCount(
        Tokens(
            ids=ids,
            length=np.array([len(TEXT)], dtype=np.int32),
            doc=np.zeros(1, dtype=np.int32),
            fold=np.zeros(1, dtype=np.int8),
            doc_ids=("a",),
            topics=((),),
            topic_levels=(),
            vocab=vocab,
        )
    )


def spans(count: TextCount, *facts: Fact, reading: str = EXACT) -> list[list[int]]:
    found: list[list[int]] = count.spans(Statement(facts), reading).tolist()
    return found


def one(count: TextCount, fact: Fact, reading: str = EXACT) -> list[int]:
    """Last positions."""
    return [last for _, last in spans(count, fact, reading=reading)]


def test_tokens_are_counted_closely_and_loosely(count: TextCount):
    assert one(count, Fact("token", " the")) == [4, 8]
    assert one(count, Fact("token", " the"), LOOSE) == [0, 4, 8, 11]
    assert one(count, Fact("after", "the")) == [12]
    assert one(count, Fact("after", "the"), LOOSE) == [1, 5, 9, 12]
    assert one(count, Fact("pair", " the", ",")) == [8]
    assert one(count, Fact("phrase", " dog", parts=(" the", " dog"))) == [9]
    assert one(count, Fact("mark", ")")) == [12]
    assert one(count, Fact("class", "punctuation")) == [7, 10, 12, 13]


def test_words_are_counted_with_all_their_tokens(count: TextCount):
    assert spans(count, Fact("word", "mat")) == [[5, 6]]
    assert spans(count, Fact("suffix", "at")) == [[1, 1], [2, 2], [5, 6]]
    assert spans(count, Fact("prefix", "th")) == [[0, 0], [4, 4], [8, 8], [11, 11]]
    assert one(count, Fact("word", "the")) == [4, 8, 11]
    assert one(count, Fact("word", "the"), LOOSE) == [0, 4, 8, 11]
    # After "mat" stands a comma; the next word ends at " the".
    assert spans(count, Fact("after word", "mat")) == [[7, 7]]
    assert spans(count, Fact("next word", "mat")) == [[7, 8]]
    assert spans(count, Fact("word", "the", before="(")) == [[11, 11]]


def test_exceptions_and_denials(count: TextCount):
    the, after_comma = Fact("token", " the"), Fact("pair", " the", ",")
    assert count.spans(Statement((the,), (after_comma,)), EXACT)[:, 0].tolist() == [4]
    denied = count.spans(Statement((the,), negated=True), EXACT)[:, 0].tolist()
    assert denied == [at for at in range(len(TEXT)) if at not in (4, 8)]


def test_a_statement_is_scored_by_hand(count: TextCount):
    # It fires at one of two " the", and 3 of 4 of its activation is there.
    fired = Fired(np.array([4, 9]), np.array([3.0, 1.0], dtype=np.float32))
    score = fired.score(count.spans(Statement((Fact("token", " the"),)), EXACT))
    assert score == (0.5, 0.75)
    assert f1(score) == pytest.approx(0.6)
    the = Statement((Fact("token", " the"),))
    assert not is_true(count, fired, the, (EXACT,))
    assert not is_wrong(count, fired, the)
    assert is_wrong(count, fired, Statement((Fact("token", "."),)))


def test_a_token_is_not_said_again_after_another():
    the, after = Fact("token", "the"), Fact("pair", "the", "of")
    assert said_once((the, after, Fact("pair", "a", "of"))) == (the, Fact("pair", "a", "of"))


@pytest.mark.parametrize("wording", [FIRST, SECOND])
def test_every_template_says_its_facts(wording: Wording):
    kinds = ("token", "word", "after", "after word", "next word", "suffix", "prefix", "mark")
    for kind, seed, n in product(kinds, range(40), (1, 2, 3)):
        facts = tuple(Fact(kind, text) for text in ("#x", "#y", "#z")[:n])
        text = written(Statement(facts), Style(wording=wording), np.random.default_rng(seed))
        assert all(fact.text in text for fact in facts), text
        assert "{" not in text
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pairs = Statement((Fact("pair", "#b", "#a"),), (Fact("pair", "#b", "#c"),))
        text = written(pairs, Style(wording=wording), rng)
        assert all(part in text for part in ("#a", "#b", "#c")), text


def test_quotes_hold_what_they_quote():
    assert Style(shown=False).quote(" the") == '"the"'
    assert Style().quote(' "') == "' \"'"
    assert Style().quote("\n    ") == r'"\n    "'
    assert Style(bare=True).quote("because", word=True) == "because"


def test_wordings_share_few_templates():
    for name in ("one", "many", "listing"):
        first, second = (
            {t for templates in getattr(w, name).values() for t in templates} - {"{}"}
            for w in (FIRST, SECOND)
        )
        assert len(first & second) <= 1
    assert not set(FIRST.errors) & set(SECOND.errors)


DETECTED = 0.9
"""Of corrupted explanations, in this small sample; benchmarks/bench_audit.py has the figures."""


# -- a small audit ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> Case:
    return planted_case(mixed_tokens(40), 3)


@pytest.fixture(scope="module", params=list(WORDINGS))
def told(request: pytest.FixtureRequest, case: Case) -> dict[int, Told]:
    return explained(case, WORDINGS[request.param])[0]


@pytest.mark.slow
def test_true_ones_hold_and_corrupted_ones_do_not(case: Case, told: dict[int, Told]):
    corruptor = Corruptor(case.count, case.fired, told, 1)
    assert len(told) >= 20
    for latent, true in told.items():
        assert is_true(case.count, case.fired[latent], true.said, (EXACT,))
    for kind in CORRUPTIONS:
        texts = [corruptor.corrupt(kind, latent) for latent in told]
        made = [text for text in texts if text is not None]
        assert len(made) >= 0.7 * len(told), kind
        assert not set(made) & {one.text for one in told.values()} or kind == "swapped"
        assert texts == [corruptor.corrupt(kind, latent) for latent in told]
        assert corruptor.dropped.total() >= texts.count(None)


@pytest.mark.slow
def test_the_audit_tells_true_ones_from_corrupted_ones(case: Case, told: dict[int, Told]):
    true = {latent: one.text for latent, one in told.items()}
    verdicts = Counter(audited(case.ground, true)["verdict"])
    accused = sum(verdicts[one] for one in ACCUSED)
    assert accused <= 0.1 * len(true), verdicts
    assert verdicts["supported"] >= 0.8 * len(true), verdicts
    corruptor = Corruptor(case.count, case.fired, told, 1)
    detected = tried = 0
    for kind in CORRUPTIONS:
        made = {latent: corruptor.corrupt(kind, latent) for latent in list(true)[::2]}
        wrong = {latent: text for latent, text in made.items() if text is not None}
        found = audited(case.ground, true | wrong)
        mine = found.filter(found["latent"].is_in(list(wrong)))["verdict"]
        detected += int(mine.is_in(ACCUSED).sum())
        tried += len(wrong)
    assert detected >= DETECTED * tried, (detected, tried)
