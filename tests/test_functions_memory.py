"""Types that remember the context: by hand, against a loop per position, the contract."""

from collections.abc import Callable

import numpy as np
import pytest

from labeler.errors import NotApplicableError
from labeler.functions import check_function_type, get_function_type
from labeler.functions.occurrences import last_before
from labeler.tokens import Tokens
from tests.texts import (
    contexts,
    exported,
    keys_of,
    prepared,
    random_tokens,
    restored,
    tokens_of,
)

# The first two are frequent in the random contexts.
VOCAB = (
    *(" the", " word", "The", ".", "!?", ",", ":", "(", '."', "[1]", "\n", "\n\n", "<0xC3>"),
    *("\u00e9", "<|endoftext|>", "a", " a", " b", "b", " c", " A", " B", " I", " II", " III", " i"),
    *(" ii", "H", " J", "1", " 2", "2", "3", " 4", " 10", " 11", "012", " one", " Two", " three"),
    *("x", " y", " z", "\u00c9a", " May", " June", " Jun", " Apr", "April", " December", " Sat"),
    *("January", " January", " Sun", "Sunday", " Mon", " 999", " Sept", " Oct", "\u201cHi", " 998"),
    *(" Monday", " Sunday", " twenty", " nineteen"),
)
NAMES = ("seen_before", "induction", "counting", "sequence")


@pytest.fixture(scope="module")
def text() -> Tokens:
    return random_tokens(VOCAB, seed=0, share=0.2)


# -- derived by hand -------------------------------------------------------------------------------


def test_last_before_by_hand() -> None:
    numbers = np.array([[7, 5, 7, 7, 5], [5, 5, 1, 2, 5]])
    assert last_before(numbers).tolist() == [[-1, -1, 0, 2, 1], [-1, 0, -1, -1, 1]]


def test_seen_before_by_hand() -> None:
    # key = 1 + 8 * (bucket of the count) + (bucket of the distance); "a" comes at 0, 1, 4 and 6.
    # At 1: once before (0), 1 ago (0): 1. At 4: twice (1), 3 ago (2): 1 + 8 + 2.
    # At 6: 3 times (2), 2 ago (1): 1 + 16 + 1. "b" at 5: once, 3 ago: 1 + 0 + 2.
    assert keys_of("seen_before", "a", "a", "b", "c", "a", "b", "a") == [0, 1, 0, 0, 11, 3, 18]
    # The edges of the distances: 64 ago is in 33 to 64 (6), 65 ago in the last bucket (7).
    assert keys_of("seen_before", "a", *["b"] * 63, "a")[-1] == 1 + 6
    assert keys_of("seen_before", "a", *["b"] * 64, "a")[-1] == 1 + 7
    # The fifth time on, 4 before is in "3 or 4", 5 before in "5 or more".
    assert keys_of("seen_before", *["a"] * 7) == [0, 1, 9, 17, 17, 25, 25]
    kind = get_function_type("seen_before")()
    assert kind.render(0) == "a token not seen before"
    assert kind.render(1) == "a token seen once before, last 1 token ago"
    assert kind.render(1 + 8 + 3) == "a token seen twice before, last 5 to 8 tokens ago"
    assert kind.render(32) == "a token seen 5 or more times before, last 65 or more tokens ago"


def test_induction_by_hand() -> None:
    # a = 0, b = 1, c = 2, d = 3. At 4, "b" comes after another token than at 1, where c followed:
    # 2 * 2 + 1. At 5, "b c" came at 2, and d followed: 2 * 3. At 6, b comes after c; at 4, c
    # followed b: 5. At 7, b comes after b; at 6, b itself followed: 2 * 1 + 1.
    row = ["a", "b", "c", "d", "b", "c", "b", "b"]
    assert keys_of("induction", *row) == [-1, -1, -1, -1, 5, 6, 5, 3]
    # The last occurrence counts, not the first: x (1) was followed by a (2), then by b (4).
    assert keys_of("induction", "c", "x", "a", "d", "x", "b", "e", "x")[-1] == 2 * 4 + 1
    # A pair goes before a later single token: at the end "a b" was followed by c, though b was
    # followed by d since.
    assert keys_of("induction", "a", "b", "c", "d", "b", "d", "a", "b")[-1] == 2 * 2
    kind = prepared("induction", tokens_of([["a", " x", "\n"]]))
    assert kind.render(2) == "where ` x` followed the last time (same two tokens)"
    assert kind.render(5) == "where `\u21b5` followed the last time (same token)"


def test_counting_by_hand() -> None:
    # 8 buckets a class: newlines from 0, commas from 8, full stops from 16, marks from 24, colons
    # from 32, opening brackets from 40, numbers from 48, double quotes from 56, capitals from 64.
    keys = np.array(keys_of("counting", "A", ",", "),(", "7.5", '"', "\n\n", " Be", "b"))
    assert keys.shape == (8, 9)
    assert keys[0].tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 65]
    assert keys[-1].tolist() == [1, 10, 17, 24, 32, 41, 49, 57, 66]
    # 4 is exact, 5 and 6 are bucket 5, 7 to 9 bucket 6, 10 and more bucket 7.
    commas = np.array(keys_of("counting", *[","] * 12))[:, 1] - 8
    assert commas.tolist() == [1, 2, 3, 4, 5, 5, 6, 6, 6, 7, 7, 7]
    kind = get_function_type("counting")()
    assert kind.render(8 + 3) == "3 commas so far"
    assert kind.render(1) == "1 newline so far"
    assert kind.render(64) == "no capitalised words so far"
    assert kind.render(16 + 5) == "5 or 6 full stops so far"
    assert kind.render(48 + 7) == "10 or more numbers so far"


def said(*row: str) -> list[str | None]:
    """What the keys of a context read, by the texts of its tokens."""
    tokens = tokens_of([row])
    kind = prepared("sequence", tokens)
    return [kind.render(key) if key >= 0 else None for key in kind.keys(tokens)[0].tolist()]


def test_sequence_by_hand() -> None:
    assert said("February", ",", " March", ",", "x") == [
        *(None, None),
        "`March` just continued months",
        *["in a list of months, `April` is due"] * 2,
    ]
    # In a circle: January follows December; nothing follows the last numeral.
    assert said("December", " January", ".")[-1] == "in a list of months, `February` is due"
    assert said("998", " 999", ".") == [None] * 3
    # A member that continues nothing ends nothing: the 7 is no list.
    assert said("1", " 2", " 7", " x")[-2:] == ["in a list of numerals, `3` is due"] * 2
    # The member before must have come, not the one after it.
    assert said("2", " 1") == [None, None]
    # Of months and abbreviated months, "May" continues the one under way; of several sequences
    # the last one continued counts.
    assert said("Apr", " May") == [None, "`May` just continued abbreviated months"]
    assert said("a", " 1", " b", " 2", " x")[2:] == [
        "`b` just continued small letters",
        "`2` just continued numerals",
        "in a list of numerals, `3` is due",
    ]
    assert said("I", " II", " x")[1:] == [
        "`II` just continued Roman numerals",
        "in a list of Roman numerals, `III` is due",
    ]
    assert said("One", " two")[1] == "`two` just continued number words"
    assert said("Sept", " Oct")[1] == "`Oct` just continued abbreviated months"
    # Pieces of words and of longer numbers are no members: that of "b" shows a token later.
    assert said(" a", " b", "ook", ".")[1:] == ["`b` just continued small letters", None, None]
    assert said("1", ".", "x", " 2", ".", "1", "2", " x") == [None] * 3 + [
        "`2` just continued numerals",
        *["in a list of numerals, `3` is due"] * 4,
    ]
    # 16 tokens on it still holds, 17 on no more.
    keys = said("a", " b", *[" x"] * 17)
    assert keys[1 + 16] == "in a list of small letters, `c` is due"
    assert keys[1 + 17] is None


# -- against a loop per position -------------------------------------------------------------------


def below(number: int, edges: list[int]) -> int:
    """Number of edges up to a number, less one."""
    return sum(number >= edge for edge in edges) - 1


def naive_seen_before(row: list[int], texts: list[str]) -> list[int]:
    found = []
    for t, token in enumerate(row):
        before = [s for s in range(t) if row[s] == token]
        if before:
            times = {1: 0, 2: 1, 3: 2, 4: 2}.get(len(before), 3)
            ago = below(t - before[-1], [1, 2, 3, 5, 9, 17, 33, 65])
            found.append(1 + times * 8 + ago)
        else:
            found.append(0)
    return found


def naive_induction(row: list[int], texts: list[str]) -> list[int]:
    found = []
    for t in range(len(row)):
        pairs = [s for s in range(1, t) if row[s - 1 : s + 1] == row[t - 1 : t + 1]]
        singles = [s for s in range(t) if row[s] == row[t]]
        if pairs:
            found.append(2 * row[pairs[-1] + 1])
        else:
            found.append(2 * row[singles[-1] + 1] + 1 if singles else -1)
    return found


def naive_counting(row: list[int], texts: list[str]) -> list[list[int]]:
    texts = ["" if text == "<|endoftext|>" else text.replace("<0xC3>", "\ufffd") for text in texts]
    found = []
    for t in range(len(row)):
        counts = [
            sum(any(c in text for c in characters) for text in texts[: t + 1])
            for characters in ("\n", ",", ".", "?!", ":", "([{", "0123456789", '"\u201c\u201d')
        ]
        counts.append(sum(text.strip()[:1].isupper() for text in texts[: t + 1]))
        edges = [0, 1, 2, 3, 4, 5, 7, 10]
        found.append([8 * number + below(count, edges) for number, count in enumerate(counts)])
    return found


MONTHS = "January February March April May June July August September October November December"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
WORDS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
ROMAN = "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX"
LISTS = [
    ("months", MONTHS.split()),
    ("abbreviated months", [month[:3] for month in MONTHS.split()]),
    ("weekdays", DAYS.split()),
    ("abbreviated weekdays", [day[:3] for day in DAYS.split()]),
    ("number words", WORDS.split()),
    ("numerals", [str(number) for number in range(1000)]),
    ("Roman numerals", ROMAN.split()),
    ("small Roman numerals", ROMAN.lower().split()),
    ("capital letters", list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
    ("small letters", list("abcdefghijklmnopqrstuvwxyz")),
]
LIKE = {"Sept": "Sep", "Tues": "Tue", "Thur": "Thu", "Thurs": "Thu"}
LIKE |= {word.capitalize(): word for word in WORDS.split()}


def naive_sequence(row: list[int], texts: list[str]) -> list[int]:
    texts = [text.replace("<|endoftext|>", "\n").replace("<0xC3>", "\u00c3") for text in texts]
    return [_naive_sequence(texts[: t + 1]) for t in range(len(texts))]


def _naive_sequence(texts: list[str]) -> int:
    """The key at the end of a text."""
    end = len(texts) - 1
    words = [LIKE.get(text.strip(), text.strip()) for text in texts]
    for s, text in enumerate(texts):
        # Part of a longer word, as far as the text goes.
        left, right = "".join(texts[:s])[-1:], "".join(texts[s + 1 :])[:1]
        if ((left + text[:1]).isalnum() and left) or ((text[-1:] + right).isalnum() and right):
            words[s] = ""
    first, continued = 0, []  # (position, minus the kind, member due)
    for kind, (_, members) in enumerate(LISTS):
        for s, word in enumerate(words):
            if word not in members:
                continue
            place = members.index(word)
            before = members[place - 1] if place or kind < 4 else None
            if before in words[:s]:
                at_end = place == len(members) - 1
                due = (first if kind < 4 else -1) if at_end else first + place + 1
                continued.append((s, -kind, due))
        first += len(members)
    at, _, due = max(continued, default=(-99, 0, -1))
    return 2 * due + (at == end) if end - at <= 16 and due >= 0 else -1


NAIVE: dict[str, Callable[[list[int], list[str]], list[int] | list[list[int]]]] = {
    "seen_before": naive_seen_before,
    "induction": naive_induction,
    "counting": naive_counting,
    "sequence": naive_sequence,
}


def against_a_loop(name: str, tokens: Tokens) -> int:
    """Compare; the number of distinct keys."""
    keys = prepared(name, tokens).keys(tokens)
    for found, row, texts in zip(keys, tokens.ids.tolist(), contexts(tokens), strict=True):
        n = len(texts)
        assert found[:n].tolist() == NAIVE[name](row[:n], texts)
    return len(np.unique(keys[tokens.valid]))


@pytest.mark.parametrize(
    ("name", "n_keys"), [("seen_before", 20), ("induction", 60), ("counting", 40), ("sequence", 25)]
)
def test_against_a_loop(name: str, n_keys: int, text: Tokens) -> None:
    some = text.select(np.arange(0, text.n_ctx, 2))
    assert against_a_loop(name, some) >= n_keys


@pytest.mark.parametrize("name", ["seen_before", "induction"])
def test_against_a_loop_on_long_contexts(name: str) -> None:
    tokens = random_tokens([f" w{number}" for number in range(40)], 1, n_ctx=20, ctx_len=100)
    assert against_a_loop(name, tokens) >= (30 if name == "seen_before" else 70)


def test_sequence_of_many_contexts_is_that_of_each(text: Tokens) -> None:
    # More contexts than are worked on at once.
    many = text.select(np.arange(4100) % text.n_ctx)
    kind = prepared("sequence", text)
    few = kind.keys(text)
    assert np.array_equal(kind.keys(many), few[np.arange(4100) % text.n_ctx])


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_and_source(name: str, text: Tokens) -> None:
    kind = prepared(name, text)
    keys, again = kind.keys(text), restored(kind)
    assert np.array_equal(again.keys(text), keys)
    assert np.array_equal(exported(again, text.ids), keys)
    key = int(keys[keys >= 0][-1])
    assert again.render(key) == kind.render(key)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_kept(name: str, text: Tokens) -> None:
    check_function_type(get_function_type(name), text)
    check_function_type(get_function_type(name))


@pytest.mark.parametrize("name", NAMES)
def test_most_keys_can_be_written(name: str, text: Tokens) -> None:
    kind = restored(prepared(name, text))
    keys = np.unique(kind.keys(text)[text.valid])
    keys = keys[keys >= 0]
    ids = text.ids[0]
    written = 0
    for key in keys.tolist():
        edits = [(pos, kind.write(ids, pos, key)) for pos in (0, 2, 39)]
        for pos, edited in edits:
            if edited is not None:
                row = [text.vocab[token] for token in edited]
                found = kind.keys(tokens_of([row], text.vocab))[0, pos]
                assert (found == key).any()
                assert np.array_equal(edited[pos + 1 :], ids[pos + 1 :])
        written += any(edited is not None for _, edited in edits)
    assert written > 0.9 * len(keys)


@pytest.mark.parametrize("name", ["counting", "sequence"])
def test_types_abstain_where_the_vocabulary_has_nothing_for_them(name: str) -> None:
    with pytest.raises(NotApplicableError, match="the vocabulary"):
        prepared(name, tokens_of([[" word", "May", "a"] if name == "sequence" else [" word"]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_context_of_one_token(name: str, text: Tokens) -> None:
    one = tokens_of([["\n"], [" May"]], text.vocab)
    kind = prepared(name, text)
    assert kind.keys(one).shape[:2] == (2, 1)
    assert np.array_equal(exported(kind, one.ids), kind.keys(one))


def test_induction_keeps_texts_that_numpy_would_cut(text: Tokens) -> None:
    kind = restored(prepared("induction", tokens_of([["a\0", "\ud800"]])))
    assert kind.render(0).startswith("where `a\\x00`")
    assert kind.render(2).startswith("where `\\ud800`")
