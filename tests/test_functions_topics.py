"""Types of topics: levels of metadata, learned topics, keys without the own fold."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from labeler.errors import NotApplicableError
from labeler.functions import Keys, check_function_type, get_function_type
from labeler.functions.letters import is_telling, n_letters
from labeler.tokens import N_FOLDS, Tokens
from tests.synthetic import make_tokens, plain_tokens
from tests.texts import exported, prepared, restored


def three_levels(tokens: Tokens) -> Tokens:
    """The same text with a third level: every document's parity within its book."""
    topics = tuple(
        (*names, f"{names[1]} part {number % 2}") for number, names in enumerate(tokens.topics)
    )
    return replace(tokens, topics=topics, topic_levels=(*tokens.topic_levels, "part"))


# -- the third level -------------------------------------------------------------------------------


def test_topic_level_3_derived_by_hand() -> None:
    # The first two levels are all the same; only the third tells 0 from 1, by ten tokens each:
    # 3.2 nats, as in tests/test_functions.py.
    rows, topics = [[0] * 10, [1] * 10], [("A", "B", "C"), ("A", "B", "D")]
    fit = replace(plain_tokens(rows), topics=tuple(topics), topic_levels=("a", "b", "c"))
    kind = prepared("topic_level_3", fit)
    assert kind.keys(plain_tokens([[2, 0, 1, 1]])).tolist() == [[-1, 0, -1, 1]]
    assert kind.render(1) == "topic D"
    assert kind.backs_off_to == "subtopic"
    with pytest.raises(NotApplicableError, match=r"1 topic\(s\) at level 'b'"):
        prepared("subtopic", fit)
    with pytest.raises(NotApplicableError, match=r"the corpus has 2 .* level 3 is needed"):
        prepared("topic_level_3", make_tokens())


# -- keys of the fit split -------------------------------------------------------------------------


def test_a_document_does_not_name_its_own_topic() -> None:
    # Topic A's first document is all 5s and the only one with 5s: nothing else says what 5 means.
    rows = [[5] * 9, [0] * 9, [0] * 9, [1] * 9, [1] * 9]
    topics = [("A",), ("A",), ("A",), ("B",), ("B",)]
    fit = plain_tokens(rows, topics=topics)
    kind = prepared("topic", fit)
    keys, fit_keys = kind.keys(fit), kind.fit_keys(fit)
    assert (keys[0] == 0).all()
    assert (fit_keys[0] == -1).all()
    # 0 and 1 are said in other folds too.
    assert fit_keys[1:, -1].tolist() == keys[1:, -1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("name", "level"), [("topic", 0), ("subtopic", 1), ("topic_level_3", 2)])
def test_fit_keys_are_those_of_counts_without_the_fold(name: str, level: int) -> None:
    tokens = three_levels(make_tokens(3, n_docs=90))
    fit = tokens.fit
    kind = prepared(name, tokens)
    fit_keys = kind.fit_keys(fit)
    for fold in range(N_FOLDS):
        own, rest = fit.select(fit.fold == fold), fit.select(fit.fold != fold)
        other = prepared(name, rest)
        assert other._names == kind._names
        assert np.array_equal(fit_keys[fit.fold == fold], other.keys(own))
    assert (fit_keys != kind.keys(fit))[fit.valid].mean() > 0.02


def test_topics_without_meaning_are_right_by_chance_only() -> None:
    # Topics drawn by lot say nothing of the text: on unseen text a guess is right one time in 3.
    tokens = make_tokens(4, n_docs=120, tilt=0.0, ctx_len=32, n_vocab=400)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, len(tokens.doc_ids))
    tokens = replace(tokens, topics=tuple((f"{one}",) for one in truth), topic_levels=("lot",))
    fit = tokens.fit
    kind = prepared("topic", tokens)
    right = truth[fit.doc][:, None]

    def share_right(keys: Keys) -> float:
        named = fit.valid & (keys >= 0)
        return float((keys == right)[named].mean())

    assert share_right(kind.keys(fit)) > 0.8
    assert share_right(kind.fit_keys(fit)) < 0.45


def test_a_topic_in_one_fold_only() -> None:
    # Without fold 0 nothing is known of topic A: it is never named there, and nothing fails.
    fit = plain_tokens([[0] * 9, [1] * 9, [2] * 9], fold=[0, 1, 2], topics=[("A",), ("B",), ("C",)])
    kind = prepared("topic", fit)
    assert kind.keys(fit)[:, -1].tolist() == [0, 1, 2]
    assert 0 not in kind.fit_keys(fit)[0]


def test_a_restored_topic_has_the_keys_of_unseen_text() -> None:
    tokens = make_tokens(5)
    again = restored(prepared("topic", tokens))
    assert np.array_equal(again.fit_keys(tokens.fit), again.keys(tokens.fit))


# -- learned topics --------------------------------------------------------------------------------

N_SUBJECTS = 4
WORDS = tuple(f" {subject}word{number}" for subject in "abcd" for number in range(10))
MARKS = tuple(".,;:!?-+*/")


def subjects(seed: int = 0, n_docs: int = 80, ctx_len: int = 30) -> tuple[Tokens, np.ndarray]:
    """Documents of the words of one subject each, half of their tokens punctuation."""
    rng = np.random.default_rng(seed)
    subject = np.arange(n_docs) % N_SUBJECTS
    own = subject[:, None] * 10 + rng.integers(0, 10, (n_docs, ctx_len))
    marks = len(WORDS) + rng.integers(0, len(MARKS), (n_docs, ctx_len))
    rows = np.where(rng.random(own.shape) < 0.5, own, marks)
    tokens = plain_tokens(rows.tolist(), n_vocab=len(WORDS) + len(MARKS))
    # Without any metadata.
    return replace(tokens, vocab=(*WORDS, *MARKS)), subject


def test_subjects_are_learned_and_told_on_unseen_text() -> None:
    fit, _ = subjects()
    kind = prepared("learned_topic", fit)
    text, subject = subjects(1)
    keys = kind.keys(text)
    # No topic is of two subjects, and most texts have one by their end.
    last = keys[:, -1]
    assert (last >= 0).mean() > 0.7
    for number in range(N_SUBJECTS):
        mine = set(last[subject == number]) - {-1}
        assert mine
        assert not mine & set(last[subject != number])
        for key in mine:
            words = kind.render(int(key)).removeprefix("topic ").split(", ")
            assert len(words) == 3
            assert {word[2] for word in words} == {"abcd"[number]}


def test_learned_topics_of_the_fit_split() -> None:
    fit, subject = subjects()
    kind = prepared("learned_topic", fit)
    fit_keys = kind.fit_keys(fit)
    assert (fit_keys != kind.keys(fit)).any()
    # A topic of which the other folds have no document is not found: the keys are those of scores
    # from the other folds, topics as learned.
    topic = kind._topic_of_doc
    for fold in range(N_FOLDS):
        mine = fit.fold == fold
        assert set(np.unique(fit_keys[mine])) - {-1} <= set(topic[fit.doc[~mine]])
    named = fit_keys[:, -1] >= 0
    assert named.mean() > 0.5
    assert (subject[named] == np.array([_subject(kind, key) for key in fit_keys[named, -1]])).all()


def _subject(kind: Any, key: int) -> int:
    return "abcd".index(kind.render(int(key)).removeprefix("topic ")[2])


def test_learned_topic_abstains_on_few_documents_or_no_words() -> None:
    fit, _ = subjects(n_docs=63)
    with pytest.raises(NotApplicableError, match="63 documents, learning topics takes 64"):
        prepared("learned_topic", fit)
    fit, _ = subjects()
    numbers = replace(fit, vocab=tuple(str(number) for number in range(fit.n_vocab)))
    with pytest.raises(NotApplicableError, match="no two documents share a token with a letter"):
        prepared("learned_topic", numbers)


def test_a_document_of_several_contexts_is_one() -> None:
    # 64 contexts, but 32 documents.
    fit, _ = subjects(n_docs=64)
    doc = (np.arange(64) // 2).astype(np.int32)
    with pytest.raises(NotApplicableError, match="32 documents"):
        prepared("learned_topic", replace(fit, doc=doc))


@pytest.mark.parametrize(
    ("text", "letters", "telling"),
    [
        (" cell", 4, True),
        ("cell", 4, False),
        (" a", 1, False),
        (" don't", 4, True),
        ("123", 0, False),
        ("<0xE2><0x80>", 0, False),
        ("<id 17>", 0, False),
        ("<|endoftext|>", 0, False),
        (" \u0627\u0644\u0645", 3, True),
    ],
)
def test_letters(text: str, letters: int, telling: bool) -> None:
    assert n_letters(text) == letters
    assert is_telling(text) == telling


# -- contract --------------------------------------------------------------------------------------


def text_for(name: str) -> Tokens:
    """Text on which the type has keys, both splits."""
    if name == "learned_topic":
        tokens, _ = subjects(2, n_docs=100)
        fold = np.where(np.arange(100) % 5 == 4, -1, np.arange(100) % N_FOLDS).astype(np.int8)
        return replace(tokens, fold=fold)
    return three_levels(make_tokens(6, n_docs=60))


@pytest.mark.parametrize("name", ["topic", "subtopic", "topic_level_3", "learned_topic"])
def test_types_keep_the_contract(name: str) -> None:
    tokens = text_for(name)
    check_function_type(get_function_type(name), tokens)
    kind = prepared(name, tokens)
    keys = kind.keys(tokens)
    assert len(np.unique(keys)) > 3
    again = restored(kind)
    assert np.array_equal(again.keys(tokens), keys)
    assert np.array_equal(exported(again, tokens.ids), keys)


@pytest.mark.parametrize("name", ["topic", "subtopic", "topic_level_3", "learned_topic"])
def test_topics_can_be_written(name: str) -> None:
    tokens = text_for(name)
    kind = prepared(name, tokens)
    written = 0
    for key in range(len(kind._names)):
        before = tokens.ids[0].copy()
        edited = kind.write(before, 13, key)
        assert np.array_equal(before, tokens.ids[0])
        if edited is None:
            continue
        written += 1
        assert np.array_equal(edited[14:], before[14:])
        one = replace(tokens.select(np.array([0])), ids=edited[None])
        assert kind.keys(one)[0, 13] == key
    # The two halves of a book differ by chance only: 14 tokens may not tell them apart.
    assert written >= len(kind._names) - (2 if name == "topic_level_3" else 0)
