"""Labels that are wrong in known ways, and the planted subject that they are tried on."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labeler.errors import OptionError
from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.wrong import KINDS, WRONG, Ground, broadened, f1_of, narrowed, permuted, sibling
from labeler.eval.wrong_keys import broader_keys, further_key, parent_of
from labeler.keytree import KeyTree
from labeler.level import Nodes
from tests.planted import Planter
from tests.planted_fit import FIRES, SPURIOUS
from tests.planted_pairs import Pairs, drawn
from tests.planted_subject import (
    HOOKPOINT,
    Planted,
    PlantedSubject,
    more_heldout,
    openstax_tokens,
    relatives,
    uniform,
)
from tests.planted_text import Text, mixed_tokens
from tests.synthetic import plain_tokens

LEVELS = ["bigram", "previous_token", "word", "topic", "brackets", "position", "unigram+topic"]
SHARED_KEY = ("unigram", "bigram", "previous_token", "word")


@pytest.fixture(scope="module")
def planted() -> Planted:
    """28 latents; those of even number, from 0, share a key with the next one up to number 15."""
    text = Text.make(more_heldout(mixed_tokens(40), 0.3), LEVELS)
    planter = Planter(text, LEVELS, 1)
    pairs = Pairs(planter)
    truths = [truth for name in SHARED_KEY for _ in range(2) for truth in relatives(planter, name)]
    truths += drawn(
        2,
        *(partial(planter.simple, name) for name in ("topic", "brackets", "position")),
        partial(pairs.refinement, "topic"),
        partial(pairs.unless, "token"),
        partial(pairs.union, "unigram", "previous_token"),
    )
    return Planted(text, PlantedSubject.make(text, truths), LEVELS)


@pytest.fixture(scope="module")
def ground(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    labels = planted.labels(tmp_path_factory.mktemp("planted"))
    return Ground.make(Claims(labels), planted.text.fit, planted.text.nodes, planted.fit)


def positions(found: TextFirings, latent: int) -> set[int]:
    return set(found.by_latent([latent])[latent].tolist())


def recalled(ground: Ground, claims: Claims) -> TextFirings:
    return claims.calls(ground.tokens, ground.nodes)


# -- the subject -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_planted_latents_fire_as_they_should(planted: Planted) -> None:
    tokens, held = planted.text.heldout, planted.text.held
    found = planted.heldout
    truly = planted.subject.holds(held, tokens.valid)
    hit = truly.at(found.position, found.latent) > 0
    assert hit.sum() / len(truly.latent) == pytest.approx(FIRES, abs=0.01)
    strays, expected = (~hit).sum(), SPURIOUS * FIRES * len(truly.latent)
    assert 0.7 * expected < strays < 1.3 * expected
    # Gamma noise of shape 4 about the strength: mean 1, standard deviation 1/2.
    size = found.act[hit] / truly.at(found.position, found.latent)[hit]
    assert size.mean() == pytest.approx(1, abs=0.02)
    assert size.std() == pytest.approx(0.5, abs=0.02)
    assert tokens.valid.ravel()[found.position].all()


@pytest.mark.slow
def test_the_same_text_gives_the_same_firings(planted: Planted) -> None:
    tokens = planted.text.heldout.select(np.arange(20))
    whole = planted.subject.firings(tokens, [HOOKPOINT])[HOOKPOINT]
    alone = planted.subject.firings(tokens.select(np.array([7])), [HOOKPOINT])[HOOKPOINT]
    begin, end = 7 * tokens.ctx_len, 8 * tokens.ctx_len
    np.testing.assert_array_equal(whole.dense(begin, end), alone.dense(0, tokens.ctx_len))
    assert alone.act.size
    # What is saved of the whole split is what is seen on any part of it.
    np.testing.assert_array_equal(planted.heldout.dense(begin, end), alone.dense(0, end - begin))


@pytest.mark.slow
def test_firings_depend_on_the_tokens_so_far_alone(planted: Planted) -> None:
    tokens = planted.text.heldout.select(np.arange(30))
    ids = tokens.ids.copy()
    ids[:, 60] = (ids[:, 60] + 1) % tokens.n_vocab
    one, other = (
        planted.subject.firings(tokens.with_ids(given, tokens.length), [HOOKPOINT])[HOOKPOINT]
        for given in (tokens.ids, ids)
    )
    shape = (*ids.shape, one.n_latents)
    before, after = (found.dense(0, ids.size).reshape(shape) for found in (one, other))
    np.testing.assert_array_equal(before[:, :60], after[:, :60])
    # After it even the noise is another.
    assert (before[:, 61:] != after[:, 61:]).any()


@pytest.mark.slow
def test_only_what_is_watched_is_returned(planted: Planted) -> None:
    tokens = planted.text.heldout.select(np.arange(600) % planted.text.heldout.n_ctx)
    where = np.zeros(tokens.ids.shape, dtype=bool)
    where[:, 5] = True
    some = planted.subject.firings(tokens, [HOOKPOINT], where)[HOOKPOINT]
    every = planted.subject.firings(tokens, [HOOKPOINT])[HOOKPOINT]
    mine = every.position % tokens.ctx_len == 5
    np.testing.assert_array_equal(some.position, every.position[mine])
    np.testing.assert_array_equal(some.act, every.act[mine])
    assert mine.any()


def test_hashes_are_uniform_and_unrelated() -> None:
    prefix = np.arange(20_000, dtype=np.uint64)
    one, other = (uniform(prefix, latent, 1, 0) for latent in (1, 2))
    for found in (one, other):
        counts = np.histogram(found, 10, (0, 1))[0]
        assert abs(counts - 2000).max() < 5 * np.sqrt(1800)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(one, uniform(prefix, 1, 2, 0))[0, 1]) < 0.03
    assert abs(np.corrcoef(one, uniform(prefix, 1, 1, 5))[0, 1]) < 0.03


@pytest.mark.slow
def test_relatives_share_one_key_of_three(planted: Planted) -> None:
    for latent in range(0, 4 * len(SHARED_KEY), 2):
        one, other = (planted.subject.truths[latent + more].parts[0][0] for more in (0, 1))
        assert one.level == other.level
        assert one.nodes & other.nodes
        assert one.nodes - other.nodes
        assert other.nodes - one.nodes


def test_more_documents_are_held_out() -> None:
    tokens = plain_tokens([[1, 2]] * 10, fold=[-1, 0, 1, 2, 3, 4, 0, 1, 2, 3])
    found = more_heldout(tokens, 0.5)
    assert (found.fold == -1).sum() == 5
    assert found.fold[0] == -1
    assert (found.fold[found.fold >= 0] == tokens.fold[found.fold >= 0]).all()


@pytest.mark.shared
@pytest.mark.slow
def test_openstax_can_be_planted_on(shared_data: Path) -> None:
    tokens = openstax_tokens(shared_data, 30_000, 5_000)
    assert tokens.topic_levels == ("subject", "book")
    text = Text.make(tokens, ["unigram", "topic"])
    planter = Planter(text, ["unigram", "topic"], 0)
    planted = Planted(text, PlantedSubject.make(text, [planter.simple("unigram")]), ["unigram"])
    f1 = f1_of(planted.subject.holds(text.held, text.heldout.valid), planted.heldout)
    assert f1[0] == pytest.approx(0.9, abs=0.1)


# -- wrong labels ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_true_labels_are_right(planted: Planted, ground: Ground) -> None:
    truly = planted.subject.holds(planted.text.nodes, planted.text.fit.valid)
    assert np.median(f1_of(ground.calls, truly)) > 0.97
    assert (f1_of(ground.calls, planted.fit) > 0.8).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [0, 1])
def test_claims_are_kept_and_others_are_untouched(ground: Ground, kind: str, half: int) -> None:
    latents = np.arange(ground.labels.n_latents)[half::2]
    before = ground.labels.latents.clone(), ground.labels.entries.clone()
    found = KINDS[kind](ground, latents, 3)
    assert ground.labels.latents.equals(before[0])
    assert ground.labels.entries.equals(before[1])
    np.testing.assert_array_equal(found.claims.claimed, ground.claims.claimed)
    calls = recalled(ground, found.claims)
    changed = np.flatnonzero(found.wrong | found.right)
    assert set(changed) | set(found.unchanged) == set(latents)
    for latent in range(ground.labels.n_latents):
        if latent not in changed or found.wrong[latent]:
            same = positions(calls, latent) == positions(ground.calls, latent)
            assert same == (latent not in changed), latent
    # The other short label is as it was.
    sixteen = pl.col("budget") == 16
    assert found.claims.labels.entries.filter(sixteen).equals(before[1].filter(sixteen))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_changed_labels_are_wrong(ground: Ground, kind: str) -> None:
    latents = np.arange(ground.labels.n_latents)[::2]
    found = KINDS[kind](ground, latents, 3)
    expected = f1_of(recalled(ground, found.claims), ground.firings)
    changed = found.wrong | found.right
    np.testing.assert_allclose(found.f1[changed], expected[changed])
    assert np.isnan(found.f1[~changed]).all()
    assert (found.f1[found.wrong] < WRONG).all()
    # A sibling's label, and now and then another latent's, is right all the same.
    assert found.wrong.sum() >= (0.7 if kind == "sibling" else 0.9) * len(latents)


@pytest.mark.slow
def test_permuted_labels_are_those_of_others(ground: Ground) -> None:
    n = ground.labels.n_latents
    calls = recalled(ground, permuted(ground, np.arange(0, n, 2), 5).claims)
    # As many others as there are latents: each lends its label once.
    lent = Counter(frozenset(positions(calls, latent)) for latent in range(0, n, 2))
    assert lent == Counter(frozenset(positions(ground.calls, latent)) for latent in range(1, n, 2))
    other = recalled(ground, permuted(ground, np.arange(0, n, 2), 6).claims)
    assert any(positions(calls, latent) != positions(other, latent) for latent in range(0, n, 2))


@pytest.mark.slow
def test_too_few_others_to_permute(ground: Ground) -> None:
    with pytest.raises(OptionError, match=r"cannot be permuted with \d others; change fewer"):
        permuted(ground, np.arange(ground.labels.n_latents - 3), 0)


@pytest.mark.slow
def test_siblings_share_a_key(ground: Ground) -> None:
    """Each of the first latents gets the label of its relative, or of one more alike."""
    latents = np.arange(0, 4 * len(SHARED_KEY), 2)
    found = sibling(ground, latents, 0)
    calls = recalled(ground, found.claims)
    text = found.claims.labels.latents["text"].to_list()
    theirs = [ground.labels.latents["text"][int(latent) + 1] for latent in latents]
    same = [text[latent] == label for latent, label in zip(latents, theirs, strict=True)]
    assert np.mean(same) >= 0.7
    for latent, shared in zip(latents, same, strict=True):
        if shared:
            assert positions(calls, latent) == positions(ground.calls, latent + 1)
            assert positions(calls, latent) & positions(ground.calls, latent)


@pytest.mark.slow
def test_who_fires_alone_has_no_sibling(ground: Ground, planted: Planted) -> None:
    mine = planted.fit.latent == 3
    lonely = TextFirings.make(
        # Only at the first position, where no other latent fires then.
        np.concatenate([[0], planted.fit.position[~mine & (planted.fit.position > 0)]]),
        np.concatenate([[3], planted.fit.latent[~mine & (planted.fit.position > 0)]]),
        np.ones(1 + (~mine & (planted.fit.position > 0)).sum(), np.float32),
        n_positions=planted.fit.n_positions,
        n_latents=planted.fit.n_latents,
    )
    alone = Ground(ground.claims, ground.tokens, ground.nodes, lonely, ground.calls)
    assert sibling(alone, np.array([3]), 0).unchanged == {3: "no other latent fires where it does"}


@pytest.mark.slow
def test_broad_labels_call_all_that_the_true_ones_do_and_more(ground: Ground) -> None:
    latents = np.arange(ground.labels.n_latents)
    found = broadened(ground, latents, 1)
    calls = recalled(ground, found.claims)
    true = ground.calls.count
    n_positions = ground.tokens.n_positions
    for latent in np.flatnonzero(found.wrong):
        kept = positions(calls, latent) & positions(ground.calls, latent)
        assert len(kept) >= 0.95 * true[latent], latent
        assert calls.count[latent] > min(2.5 * true[latent], 0.9 * n_positions), latent
    # Most are as broad as they should be, and not much broader.
    assert 3 <= np.median(calls.count / true) <= 5
    assert max(len(mine) for _, mine in _short(found.claims)) <= 100


@pytest.mark.slow
def test_narrow_labels_call_a_part_of_what_the_true_ones_do(ground: Ground) -> None:
    latents = np.arange(ground.labels.n_latents)
    found = narrowed(ground, latents, 1)
    calls = recalled(ground, found.claims)
    for latent in np.flatnonzero(found.wrong | found.right):
        mine = positions(calls, latent)
        assert mine < positions(ground.calls, latent)
        assert 0.08 <= len(mine) / ground.calls.count[latent] <= 0.27, latent
    assert found.wrong.sum() >= len(latents) - 2


def _short(claims: Claims) -> list[tuple[object, pl.DataFrame]]:
    return list(claims.labels.entries.filter(pl.col("budget") == 100).group_by("latent"))


@pytest.mark.slow
def test_what_calls_nothing_is_not_changed(ground: Ground) -> None:
    none = TextFirings.make(
        *(np.zeros(0, dtype) for dtype in (np.int64, np.int32, np.float32)),
        n_positions=ground.calls.n_positions,
        n_latents=ground.calls.n_latents,
    )
    silent = Ground(ground.claims, ground.tokens, ground.nodes, ground.firings, none)
    for make in (broadened, narrowed):
        found = make(silent, np.array([2]), 0)
        assert found.unchanged == {2: "its label calls nothing"}
        assert not found.wrong.any()
        assert not found.right.any()


def test_whole_tables_are_not_changed(ground: Ground) -> None:
    with pytest.raises(OptionError, match="'unlimited'"):
        Ground.make(Claims(ground.labels, "unlimited"), ground.tokens, ground.nodes, ground.firings)


# -- by hand ---------------------------------------------------------------------------------------


def small_tree() -> tuple[KeyTree, dict[str, Nodes]]:
    """1 comes after 0 and after 2, twenty times each; 3 and 4 ten times each."""
    rows = [[0, 1], [2, 1]] * 10 + [[3, 4]] * 10
    tokens = plain_tokens(rows)
    return KeyTree.build(tokens, ["bigram"])


def entries(rows: Sequence[tuple[str, int, float, float]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["level", "node", "weight", "value"], orient="row")


def unigram(tree: KeyTree, token: int) -> int:
    return int(np.flatnonzero(tree.levels["unigram"].key == token)[0])


def bigram(tree: KeyTree, nodes: dict[str, Nodes], row: int) -> int:
    return int(nodes["bigram"][row, 1])


def test_a_key_is_replaced_by_what_it_backs_off_to() -> None:
    tree, nodes = small_tree()
    one = unigram(tree, 1)
    after_0 = bigram(tree, nodes, 0)
    assert parent_of(tree, "bigram", after_0) == ("unigram", one)
    assert parent_of(tree, "unigram", one) == ("unigram", one)
    label = entries([("bigram", after_0, 1.0, 1.0), ("bigram", bigram(tree, nodes, 1), -1.0, 0.0)])
    rng = np.random.default_rng(0)
    assert broader_keys(tree, nodes, label, 0.5, 20, 100, rng) == [("unigram", one)]


def test_further_keys_are_added_until_a_label_is_broad_enough() -> None:
    tree, nodes = small_tree()
    one = unigram(tree, 1)
    label = entries([("unigram", one, 1.0, 1.0)])
    rng = np.random.default_rng(0)
    # 20 positions are its own; three further tokens of 10 positions each make 50.
    found = broader_keys(tree, nodes, label, 0.5, 50, 100, rng)
    assert found[0] == ("unigram", one)
    assert len(set(found)) == 4
    # Two keys can only make 30, and no more than there are.
    assert len(broader_keys(tree, nodes, label, 0.5, 50, 2, rng)) == 2
    assert len(broader_keys(tree, nodes, label, 0.5, 1000, 100, rng)) == 5


def test_positions_where_two_keys_hold_count_once() -> None:
    # Each 1 comes after a 0: the token and what it comes after hold at the same ten positions.
    tree, nodes = KeyTree.build(plain_tokens([[0, 1], [2, 3]] * 10), ["unigram", "previous_token"])
    after = int(nodes["previous_token"][0, 1])
    label = entries([("unigram", unigram(tree, 1), 1.0, 1.0), ("previous_token", after, 1.0, 1.0)])
    found = broader_keys(tree, nodes, label, 0.5, 20, 100, np.random.default_rng(0))
    assert len(found) > 2
    assert found[:2] == [("unigram", unigram(tree, 1)), ("previous_token", after)]


def test_half_of_the_keys_are_left_for_others() -> None:
    tree, nodes = small_tree()
    own = [("unigram", unigram(tree, token), 1.0, 1.0) for token in (0, 1, 3, 4)]
    found = broader_keys(tree, nodes, entries(own), 0.5, 1000, 4, np.random.default_rng(0))
    assert len(set(found)) == 4
    assert found[0] == ("unigram", unigram(tree, 1))


def test_keys_below_the_threshold_count_only_where_there_are_no_others() -> None:
    tree, nodes = small_tree()
    weak, strong = unigram(tree, 0), unigram(tree, 3)
    label = [("unigram", weak, 0.2, 0.2), ("unigram", strong, 1.0, 1.0)]
    rng = np.random.default_rng(0)
    assert broader_keys(tree, nodes, entries(label), 0.5, 1, 9, rng) == [("unigram", strong)]
    assert broader_keys(tree, nodes, entries(label[:1]), 0.5, 1, 9, rng) == [("unigram", weak)]
    against = entries([("unigram", weak, -1.0, 0.0)])
    assert broader_keys(tree, nodes, against, 0.5, 1, 9, rng) == []


def test_the_key_of_a_narrow_label_has_the_share_that_is_nearest() -> None:
    # At the second position: token 1 ten times, 2 three times, 3 four times, 4 once.
    rows = [[0, token] for token, n in ((1, 10), (2, 3), (3, 4), (4, 1)) for _ in range(n)]
    tree, nodes = KeyTree.build(plain_tokens(rows), ["unigram"])
    second = np.arange(1, 2 * len(rows), 2)
    rng = np.random.default_rng(0)
    assert further_key(tree, nodes, second, 0.2, rng) == ("unigram", unigram(tree, 3))
    assert further_key(tree, nodes, second, 0.16, rng) == ("unigram", unigram(tree, 2))
    # All of ten positions hold token 1: no key is a part of them.
    assert further_key(tree, nodes, second[:10], 0.2, rng) is None


def test_f1_of_calls() -> None:
    def made(positions: Sequence[int], latents: Sequence[int]) -> TextFirings:
        ones = np.ones(len(positions), np.float32)
        return TextFirings.make(
            np.array(positions), np.array(latents), ones, n_positions=6, n_latents=3
        )

    calls, fires = made([0, 1, 2, 3], [0, 0, 0, 1]), made([1, 2, 2, 5], [0, 0, 1, 0])
    # Latent 0: two of three calls hit, three firings. Latent 1: neither. Latent 2: nothing at all.
    assert f1_of(calls, fires).tolist() == pytest.approx([4 / 6, 0, 0])
