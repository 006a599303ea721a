"""Function types of tokens at a distance: by hand, against a loop, saved, exported, written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from labeler.errors import NotApplicableError
from labeler.functions import check_function_type, get_function_type
from labeler.functions.packed_texts import pack_texts, unpack_texts
from tests.synthetic import make_tokens, plain_tokens
from tests.texts import exported, prepared, restored

BACK = [f"token_{k}_back" for k in range(2, 9)]
SINGLE = [*BACK, "fivegram", "gap_bigram", "gap_trigram", "absent"]
SEVERAL = ["skip_gram", "both_before"]


# -- derived by hand -------------------------------------------------------------------------------

BY_HAND = [
    # the text 3 1 4 1 5 9 of a vocabulary of 10, texts <0> to <9>
    ("token_2_back", [-1, -1, 3, 1, 4, 1], 4, "anything 2 tokens after `<4>`"),
    ("token_3_back", [-1, -1, -1, 3, 1, 4], 3, "anything 3 tokens after `<3>`"),
    ("token_5_back", [-1, -1, -1, -1, -1, 3], 3, "anything 5 tokens after `<3>`"),
    ("token_8_back", [-1] * 6, 7, "anything 8 tokens after `<7>`"),
    # the token at t comes first: 4 and 3, 1 and 1, 5 and 4, 9 and 1
    ("gap_bigram", [-1, -1, 43, 11, 54, 91], 54, "`<4>` _ `<5>`"),
    ("gap_trigram", [-1, -1, -1, 13, 51, 94], 94, "`<4>` _ _ `<9>`"),
    ("fivegram", [-1, -1, -1, -1, 51413, 95141], 95141, "`<1><4><1><5><9>`"),
]


@pytest.mark.parametrize(("name", "keys", "key", "text"), BY_HAND)
def test_derived_by_hand(name: str, keys: list[int], key: int, text: str) -> None:
    tokens = plain_tokens([[3, 1, 4, 1, 5, 9]])
    kind = prepared(name, tokens)
    assert kind.keys(tokens).tolist() == [keys]
    assert kind.render(key) == text


def test_skip_gram_derived_by_hand() -> None:
    # The nearest first; at t = 3 the 1 at t = 0 came again at t = 2.
    tokens = plain_tokens([[1, 2, 1, 3]])
    kind = prepared("skip_gram", tokens)
    keys = kind.keys(tokens)
    assert keys.shape == (1, 4, 8)
    assert [row[row >= 0].tolist() for row in keys[0]] == [[], [1], [2, 1], [1, 2]]
    assert kind.render(2) == "`<2>` in the last 8 tokens"
    # The window ends 8 back: the 7 at t = 0 is in it at t = 8, and no more at t = 9.
    keys = kind.keys(plain_tokens([[7, *range(6), 0, 1, 2, 3]]))
    assert [7 in keys[0, t] for t in range(1, 11)] == [True] * 8 + [False] * 2


def test_absent_derived_by_hand() -> None:
    # Windows of 0 1 0 0: {}, {0}, {0 1}, {0 1}. So p = 3/4 for 0 and 2/4 for 1, whose p (1 - p) is
    # higher: bit 0 is "no 1", bit 1 is "no 0".
    tokens = plain_tokens([[0, 1, 0, 0]])
    kind = prepared("absent", tokens)
    assert kind.state()["listed"].tolist() == [1, 0]
    assert kind.keys(tokens).tolist() == [[3, 1, 0, 0]]
    assert kind.render(3) == "no `<1>`, `<0>` in the last 8 tokens"
    assert kind.render(1) == "no `<1>` but `<0>` in the last 8 tokens"
    assert kind.render(0) == "each of `<1>`, `<0>` in the last 8 tokens"
    # 8 back is in the window, 9 back is not.
    keys = kind.keys(plain_tokens([[1, *[5] * 10]]))[0]
    assert keys.tolist() == [3, *[2] * 8, 3, 3]


def test_both_before_derived_by_hand() -> None:
    # 1 to 7 are in a quarter of the contexts each, and 0 in three quarters: it is not marked.
    fit = plain_tokens([[1, 2, 0], [3, 4, 0], [5, 5, 0], [6, 7]])
    kind = prepared("both_before", fit)
    assert kind.state()["marked"].tolist() == [1, 2, 3, 4, 5, 6, 7]

    def pairs(row: list[int]) -> list[set[tuple[int, ...]]]:
        keys = kind.keys(plain_tokens([row]))[0]
        assert keys.shape == (len(row), 10)
        found = [[divmod(key, 7) for key in place[place >= 0].tolist()] for place in keys]
        assert all(len(set(place)) == len(place) for place in found)
        return [{(low + 1, high + 1) for low, high in place} for place in found]

    assert pairs([1, 0, 2, 1, 3]) == [set(), set(), {(1, 2)}, {(1, 2)}, {(1, 2), (1, 3), (2, 3)}]
    # After five others the 1 is forgotten; met again in between, it is the 2 that goes.
    assert {token for pair in pairs([1, 2, 3, 4, 5, 6])[-1] for token in pair} == {2, 3, 4, 5, 6}
    last = pairs([1, 2, 3, 4, 5, 1, 6])[-1]
    assert len(last) == 10
    assert {token for pair in last for token in pair} == {1, 3, 4, 5, 6}
    assert kind.render(0 * 7 + 2) == "both `<1>` and `<3>` so far"


# -- against a loop per position -------------------------------------------------------------------


def _fivegram(row: list[int], t: int) -> Any:
    return tuple(row[t - 4 : t + 1]) if t >= 4 else None


def _gap(row: list[int], t: int, gap: int) -> Any:
    return (row[t], row[t - gap]) if t >= gap else None


ORACLES: dict[str, Callable[[list[int], int], Any]] = {
    "fivegram": _fivegram,
    "gap_bigram": lambda row, t: _gap(row, t, 2),
    "gap_trigram": lambda row, t: _gap(row, t, 3),
    **{name: lambda row, t, k=k: row[t - k] if t >= k else None for k, name in enumerate(BACK, 2)},
}


@pytest.mark.parametrize("name", ORACLES)
def test_against_a_loop(name: str) -> None:
    tokens = make_tokens(1, n_vocab=12)
    keys = prepared(name, tokens).keys(tokens)
    key_of: dict[Any, int] = {}
    for context, t in np.argwhere(tokens.valid):
        wanted = ORACLES[name](tokens.ids[context].tolist(), int(t))
        key = int(keys[context, t])
        assert (wanted is None) == (key == -1)
        if wanted is not None:
            assert key_of.setdefault(wanted, key) == key
    assert len(set(key_of.values())) == len(key_of) >= 12


def test_skip_gram_and_absent_against_a_loop() -> None:
    tokens = make_tokens(2, ctx_len=30)
    skip, absent = prepared("skip_gram", tokens), prepared("absent", tokens)
    keys, masks = skip.keys(tokens), absent.keys(tokens)
    n_with: dict[int, int] = dict.fromkeys(range(tokens.n_vocab), 0)
    for context, t in np.argwhere(tokens.fit.valid):
        for token in set(tokens.fit.ids[context, max(t - 8, 0) : t].tolist()):
            n_with[token] += 1
    n = tokens.fit.n_positions
    ranked = sorted(n_with, key=lambda token: (-n_with[token] * (n - n_with[token]), token))
    listed = absent.state()["listed"].tolist()
    assert listed == ranked[:8]
    for context, t in np.argwhere(tokens.valid):
        window = set(tokens.ids[context, max(t - 8, 0) : t].tolist())
        found = [key for key in keys[context, t].tolist() if key >= 0]
        assert len(found) == len(set(found))
        assert set(found) == window
        mask = sum(1 << bit for bit, token in enumerate(listed) if token not in window)
        assert masks[context, t] == mask


def test_both_before_against_a_loop() -> None:
    tokens = make_tokens(3, ctx_len=30, n_docs=80)
    kind = prepared("both_before", tokens)
    marked = kind.state()["marked"].tolist()
    contexts = [
        set(row[:n]) for row, n in zip(tokens.fit.ids.tolist(), tokens.fit.length, strict=True)
    ]
    share = [sum(token in c for c in contexts) / len(contexts) for token in range(tokens.n_vocab)]
    assert marked == [token for token, p in enumerate(share) if 0 < p <= 0.5]
    assert 5 < len(marked) < tokens.n_vocab
    keys = kind.keys(tokens)
    full = 0
    for context, t in np.argwhere(tokens.valid):
        recent: list[int] = []
        for token in reversed(tokens.ids[context, : t + 1].tolist()):
            if token in marked and token not in recent and len(recent) < 5:
                recent.append(token)
        wanted = {(a, b) for a in recent for b in recent if a < b}
        found = [divmod(key, len(marked)) for key in keys[context, t].tolist() if key >= 0]
        assert len(found) == len(wanted)
        assert {(marked[low], marked[high]) for low, high in found} == wanted
        full += len(wanted) == 10
    assert full > 100


def test_both_before_marks_what_varies_most() -> None:
    # 300 tokens in 2 of 40 contexts, 250 in 20 of them, 10 in all: the 250 and six of the rare.
    rare = [[10 + (2 * i + j) // 2 % 300 for j in range(16)] for i in range(40)]
    rows = [
        [*range(10), *(rare[i][:2]), *(range(310, 560) if i < 20 else range(0))] for i in range(40)
    ]
    kind = prepared("both_before", plain_tokens(rows, n_vocab=600))
    marked = kind.state()["marked"]
    assert len(marked) == 256
    assert set(range(310, 560)) < set(marked.tolist())
    assert not set(range(10)) & set(marked.tolist())


def test_both_before_abstains_without_two_tokens() -> None:
    with pytest.raises(NotApplicableError, match=r"1 token\(s\) occur in some contexts"):
        prepared("both_before", plain_tokens([[0, 1], [0], [0]]))


# -- sizes -----------------------------------------------------------------------------------------


def test_fivegram_over_a_large_vocabulary_keeps_the_frequent_tokens() -> None:
    # 6,208 ** 5 < 2 ** 63 <= 6,209 ** 5: the tokens from 800 on, met twice, all have a digit.
    assert 6208**5 < 2**63 <= 6209**5
    ids = np.concatenate([np.arange(7000), np.arange(800, 7000)])
    rows = np.random.default_rng(0).permutation(ids).reshape(-1, 30).tolist()
    tokens = plain_tokens(rows, n_vocab=7000)
    kind = prepared("fivegram", tokens)
    digits = kind.state()["tokens"]
    assert len(digits) == 6208
    assert np.isin(np.arange(800, 7000), digits).all()
    keys, known = kind.keys(tokens), np.isin(tokens.ids, digits)
    for context, t in np.random.default_rng(1).integers(0, (tokens.n_ctx, 30), (300, 2)):
        whole = t >= 4 and known[context, t - 4 : t + 1].all()
        assert (keys[context, t] >= 0) == whole
        if whole:
            row = tokens.ids[context, t - 4 : t + 1].tolist()
            assert kind.ngram(int(keys[context, t])) == row


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("name", [*SINGLE, *SEVERAL])
def test_contexts_of_any_length(name: str, length: int) -> None:
    kind = prepared(name, make_tokens(4))
    short = replace(make_tokens(4), ids=make_tokens(4).ids[:, :length])
    wanted = kind.keys(make_tokens(4))[:, :length]
    assert np.array_equal(kind.keys(short), wanted)
    assert np.array_equal(exported(kind, short.ids), wanted)


def test_packed_texts_come_back() -> None:
    texts = ["", " the", "\n", "é\ud83d", "日本", "\0", "a\0", ""]
    packed = pack_texts("x", texts)
    assert unpack_texts("x", packed) == tuple(texts)
    assert unpack_texts("x", pack_texts("x", [])) == ()


# -- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SINGLE, *SEVERAL])
def test_the_contract_is_kept(name: str) -> None:
    check_function_type(get_function_type(name))
    check_function_type(get_function_type(name), make_tokens(5))
    keys = prepared(name, make_tokens(5)).keys(make_tokens(5))
    assert (keys >= 0).mean() > 0.3


@pytest.mark.parametrize("name", [*SINGLE, *SEVERAL])
def test_saved_and_exported(name: str) -> None:
    tokens = make_tokens(6)
    kind = prepared(name, tokens)
    again = restored(kind)
    keys = kind.keys(tokens)
    assert keys.dtype == np.int64
    assert np.array_equal(again.keys(tokens), keys)
    assert np.array_equal(exported(again, tokens.ids), keys)
    for key in np.unique(keys[keys >= 0])[:50]:
        assert again.render(int(key)) == kind.render(int(key))
        assert kind.render(int(key)).splitlines() == [kind.render(int(key))]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_keys_do_not_depend_on_what_follows(name: str) -> None:
    tokens = make_tokens(7)
    kind = prepared(name, tokens)
    assert kind.several_keys
    keys = kind.keys(tokens)
    rng = np.random.default_rng(0)
    for t in range(tokens.ctx_len - 1):
        ids = tokens.ids.copy()
        ids[:, t + 1 :] = rng.integers(0, tokens.n_vocab, ids[:, t + 1 :].shape)
        assert np.array_equal(kind.keys(replace(tokens, ids=ids))[:, : t + 1], keys[:, : t + 1])
        assert not np.array_equal(ids, tokens.ids)


@pytest.mark.parametrize("name", [*SINGLE, *SEVERAL])
def test_written_contexts_have_the_key(name: str) -> None:
    tokens = make_tokens(8, ctx_len=20)
    kind = restored(prepared(name, tokens))
    keys = kind.keys(tokens)
    rng = np.random.default_rng(0)
    distinct = np.unique(keys[tokens.valid][keys[tokens.valid] >= 0])
    n_written = 0
    for key in rng.choice(distinct, 100):
        context, pos = int(rng.integers(tokens.n_ctx)), int(rng.integers(20))
        before = tokens.ids[context].copy()
        edited = kind.write(before, pos, int(key))
        assert np.array_equal(before, tokens.ids[context])
        if edited is not None:
            n_written += 1
            assert np.array_equal(edited[pos + 1 :], before[pos + 1 :])
            found = kind.keys(replace(tokens.select(np.array([0])), ids=edited[None]))[0, pos]
            assert key in np.atleast_1d(found)
    assert n_written >= 40
    assert name == "absent" or kind.write(tokens.ids[0], 0, int(distinct[0])) is None
