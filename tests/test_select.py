"""Which keys a short label keeps: against least squares solved afresh at every step."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from labeler.entries import Entries
from labeler.scores import BlockScorer, Shrinkage
from labeler.select import CANDIDATES, LEVELS, RIDGE, Chosen, Pool, choose
from tests.oracles import indicators, ridge
from tests.synthetic import (
    CheapKeys,
    LastThree,
    Material,
    make_tokens,
    material,
    plain_tokens,
    random_acts,
    registered,
)

NAMES = ["bigram", "previous_token", "topic", "unigram+topic", "last_three"]
WIDTH = 5


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(41, n_docs=60, n_vocab=9)
    with registered(LastThree):
        return material(tokens, NAMES, random_acts(tokens.fit, WIDTH, seed=8))


@pytest.fixture(scope="module")
def entries(made: Material) -> Entries:
    found = entries_of(made)
    # Few enough that all of them compete.
    assert np.bincount(found.latent).max() <= CANDIDATES
    assert len(made.tree.levels) <= LEVELS
    assert set(found.level.tolist()) == set(range(len(made.tree.levels)))
    return found


@pytest.fixture(scope="module")
def some(entries: Entries) -> Entries:
    """Few enough of three latents to try every one at every step, and more than the best."""
    order = np.lexsort((-entries.gain, entries.latent))
    rank = np.arange(len(order)) - np.searchsorted(entries.latent[order], entries.latent[order])
    return entries.take(order[((rank < 24) | (rank % 5 == 0)) & (entries.latent[order] < 3)])


def entries_of(made: Material, scorer: type[BlockScorer] = CheapKeys) -> Entries:
    scores = scorer(made.tree, made.rows, made.fit, made.firings).scores(
        {name: Shrinkage(1, 1) for name in made.tree.levels}
    )
    return Entries.join([score.entries for _, score in scores])


def chosen_of(
    made: Material, entries: Entries, budget: int, worth: Mapping[str, np.ndarray] | float = 0
) -> Chosen:
    if isinstance(worth, float | int):
        worth = {name: np.full(made.acts.shape[1], worth) for name in made.tree.levels}
    totals = made.acts.sum(axis=0, dtype=np.float64)
    return choose(
        made.tree, made.made.overlaps, entries, budget, made.fit.n_positions, totals, worth
    )


def acts_of(made: Material, latent: int) -> np.ndarray:
    return made.acts[made.fit.valid.ravel(), latent].astype(np.float64)


def identity(entries: Entries) -> list[tuple[int, int, int]]:
    columns = (entries.latent, entries.level, entries.node)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def sst_of(made: Material) -> np.ndarray:
    acts = made.acts[made.fit.valid.ravel()].astype(np.float64)
    return ((acts - acts.mean(axis=0)) ** 2).sum(axis=0)


# -- the choice ------------------------------------------------------------------------------------


def savings(x: np.ndarray, y: np.ndarray, kept: list[int], open_: list[int]) -> np.ndarray:
    """Squared error, the ridge's penalty included, that each further column saves."""
    before = ridge(x[:, kept], y, RIDGE)[1]
    return np.array([before - ridge(x[:, [*kept, column]], y, RIDGE)[1] for column in open_])


def check_choice(
    made: Material, entries: Entries, chosen: Chosen, budget: int, price: np.ndarray
) -> int:
    """Hold every latent's choice against a loop that solves every regression afresh.

    Up to 1e-5: sums of activations are kept in single precision.
    `price` [n_levels, n_latents]. Returns how many steps had one best key that no other comes
    close to.
    """
    clear = 0
    for latent in range(made.acts.shape[1]):
        pool = entries.take(entries.latent == latent)
        x, y = indicators(made, pool), acts_of(made, latent)
        asked = price[pool.level, latent]
        mine = chosen.entries.take(chosen.entries.latent == latent)
        where = {key: column for column, key in enumerate(identity(pool))}
        kept: list[int] = []
        for step in range(budget):
            open_ = [column for column in range(len(pool)) if column not in kept]
            surplus = savings(x, y, kept, open_) * pool.trust[open_] - asked[open_]
            if step == len(mine):
                assert not open_ or surplus.max() < 1e-5 * max(asked.max(), 1)
                break
            column = where[identity(mine)[step]]
            assert column not in kept
            # Keys of the same positions save the same, and either may be taken.
            best = open_[int(surplus.argmax())]
            assert surplus.max() > 0
            assert surplus[open_.index(column)] == pytest.approx(surplus.max(), rel=1e-5)
            if len(surplus) == 1 or np.sort(surplus)[-2] < (1 - 1e-5) * surplus.max():
                assert column == best
                clear += 1
            kept.append(column)
        assert len(mine) <= budget
    return clear


@pytest.mark.slow
def test_keys_enter_as_a_naive_loop_takes_them(made: Material, some: Entries) -> None:
    budget = 8
    chosen = chosen_of(made, some, budget)
    assert np.bincount(chosen.entries.latent).tolist() == [budget] * 3
    clear = check_choice(made, some, chosen, budget, np.zeros((len(made.tree.levels), WIDTH)))
    assert clear > 0.8 * budget * 3
    # Keys of several types in one label, and exceptions.
    level = [set(chosen.entries.level[chosen.entries.latent == j].tolist()) for j in range(3)]
    assert max(map(len, level)) >= 3
    assert (chosen.weights(budget) < 0).any()


@pytest.mark.slow
def test_prices_stop_it(made: Material, some: Entries) -> None:
    # Levels at different prices, one too dear for any key.
    names, share = list(made.tree.levels), np.linspace(5e-3, 2e-2, len(made.tree.levels))
    share[names.index("previous_token")] = 1
    price = share[:, None] * sst_of(made)
    chosen = chosen_of(made, some, 30, dict(zip(names, price, strict=True)))
    check_choice(made, some, chosen, 30, price)
    kept = np.bincount(chosen.entries.latent)
    assert (kept > 0).all()
    assert (kept < 12).all()
    assert names.index("previous_token") not in chosen.entries.level
    assert names.index("previous_token") in some.level
    dear = chosen_of(made, some, 30, float(sst_of(made).max()))
    assert len(dear.entries) == 0


@pytest.mark.slow
def test_keys_whose_savings_are_not_trusted_come_later(made: Material, some: Entries) -> None:
    trust = np.random.default_rng(0).random(len(some)).astype(np.float32)
    trust[::5] = 0
    doubted = replace(some, trust=trust)
    chosen = chosen_of(made, doubted, 5)
    check_choice(made, doubted, chosen, 5, np.zeros((len(made.tree.levels), WIDTH)))
    assert (chosen.entries.trust > 0).all()
    assert identity(chosen.entries) != identity(chosen_of(made, some, 5).entries)


@pytest.mark.parametrize("budget", [1, 3, 16])
def test_a_budget_is_the_first_of_a_larger_one(
    made: Material, entries: Entries, budget: int
) -> None:
    many, few = chosen_of(made, entries, 100), chosen_of(made, entries, budget)
    first = many.rank < budget
    assert identity(many.entries.take(first)) == identity(few.entries)
    assert np.array_equal(many.rank[first], few.rank)
    assert np.allclose(many.weights(budget)[:, :budget], few.weights(budget))
    assert (many.weights(budget)[:, budget:] == 0).all()
    kept = np.bincount(many.entries.latent, minlength=WIDTH)
    assert (kept > 16).all()
    # By latent, in order of their rank.
    for latent in range(WIDTH):
        assert many.rank[many.entries.latent == latent].tolist() == list(range(kept[latent]))
    assert (np.diff(many.entries.latent) >= 0).all()


@pytest.mark.parametrize("budget", [1, 5, 16, 100])
def test_weights_are_those_of_a_dense_ridge(made: Material, entries: Entries, budget: int) -> None:
    chosen = chosen_of(made, entries, 100, 1e-4 * float(sst_of(made).min()))
    weights = chosen.weights(budget)
    for latent in range(WIDTH):
        mine = chosen.entries.take((chosen.entries.latent == latent) & (chosen.rank < budget))
        wanted, _ = ridge(indicators(made, mine), acts_of(made, latent), RIDGE)
        assert np.allclose(weights[latent, : len(mine)], wanted, rtol=1e-5, atol=1e-6)
        assert (weights[latent, len(mine) :] == 0).all()
        assert len(set(identity(mine))) == len(mine) > 0


def test_keys_of_the_same_positions_share_a_weight() -> None:
    # After 1 always comes 2, and 2 comes only there: four keys of the same positions.
    rng = np.random.default_rng(0)
    rows = [[t for pair in rng.choice([1, 3], 9) for t in ([1, 2] if pair == 1 else [3, 3])]] * 5
    fit = plain_tokens(rows, n_vocab=4)
    acts = np.where(fit.ids == 2, 4.0, 0.0).reshape(-1, 1).astype(np.float32)
    made = material(fit, ["bigram", "previous_token"], acts)
    n = int((fit.ids == 2).sum())
    one = np.ones(3, dtype=np.float32)
    node = np.array([made.nodes[name][fit.ids == 2][0] for name in made.tree.levels])
    entries = Entries(
        np.zeros(3, dtype=np.int32), np.arange(3, dtype=np.int32), node, n * one, n * one,
        4 * n * one, one, one,
    )  # fmt: skip
    chosen = chosen_of(made, entries, 3)
    weights = chosen.weights(3)[0]
    # Each third of what one alone would have with a third of the penalty; v = n (1 - n / N).
    v = n * (1 - n / fit.n_positions)
    assert weights.tolist() == pytest.approx([4 * v / (3 * v + RIDGE)] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_choice_is_close_to_the_best_subset(budget: int) -> None:
    shares = []
    for seed in range(6):
        tokens = make_tokens(50 + seed, n_docs=25, n_vocab=5, ctx_len=8)
        made = material(tokens, ["trigram"], random_acts(tokens.fit, 2, seed=seed))
        entries = entries_of(made)
        # As many candidates as can be tried in all subsets, the most worthwhile first.
        keep = np.zeros(len(entries), dtype=bool)
        for latent in range(2):
            mine = np.flatnonzero(entries.latent == latent)
            gain = entries.total[mine] ** 2 / entries.n[mine]
            keep[mine[np.argsort(-gain)[:10]]] = True
        few = replace(entries.take(keep), trust=np.ones(int(keep.sum()), dtype=np.float32))
        chosen = chosen_of(made, few, budget)
        for latent in range(2):
            pool = few.take(few.latent == latent)
            assert len(pool) >= 6
            x, y = indicators(made, pool), acts_of(made, latent)
            nothing = ridge(x[:, []], y, RIDGE)[1]
            best = nothing - min(
                ridge(x[:, list(subset)], y, RIDGE)[1]
                for subset in combinations(range(len(pool)), budget)
            )
            mine = indicators(made, chosen.entries.take(chosen.entries.latent == latent))
            shares.append((nothing - ridge(mine, y, RIDGE)[1]) / best)
    assert max(shares) <= 1 + 1e-9
    assert min(shares) >= 0.95, shares
    assert np.mean(shares) >= 0.99


def test_an_exception_is_kept_with_its_rule() -> None:
    # Token 1 fires, but not after 2: one unigram and one bigram say it all.
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (60, 20)).tolist()
    fit = plain_tokens(rows, n_vocab=4)
    after = np.zeros_like(fit.ids)
    after[:, 1:] = fit.ids[:, :-1]
    acts = np.where((fit.ids == 1) & (after != 2), 3.0, 0.0).reshape(-1, 1)
    made = material(fit, ["bigram"], acts.astype(np.float32))
    chosen = chosen_of(made, entries_of(made), 2)
    tree, names = made.tree, list(made.tree.levels)
    texts = [
        tree.text(names[level], node)
        for level, node in zip(chosen.entries.level, chosen.entries.node, strict=True)
    ]
    assert texts == ["`<1>`", "`<2><1>`"]
    # What the ridge takes off 60 to 300 positions is little.
    assert chosen.weights(2)[0].tolist() == pytest.approx([3, -3], rel=0.05)
    alone = chosen.weights(1)[0]
    share = (acts.ravel() > 0).sum() / (fit.ids == 1).sum()
    assert alone.tolist() == pytest.approx([3 * share, 0], rel=0.05)


def test_keys_that_only_say_that_nothing_happens_are_not_kept() -> None:
    # Against the mean every silent token looks worth a key; once token 1 is kept, none is.
    rng = np.random.default_rng(0)
    fit = plain_tokens(rng.integers(0, 8, (60, 20)).tolist(), n_vocab=8)
    made = material(fit, ["unigram"], (fit.ids == 1).reshape(-1, 1).astype(np.float32))
    entries = entries_of(made)
    assert len(entries) == 8
    chosen = chosen_of(made, entries, 100, 1e-4 * float(sst_of(made)[0]))
    assert chosen.entries.node.tolist() == [1]


def test_no_candidates() -> None:
    made = material(plain_tokens([[1, 2]] * 5), ["bigram"], np.zeros((10, 2), dtype=np.float32))
    entries = entries_of(made)
    assert len(entries) == 0
    chosen = chosen_of(made, entries, 16)
    assert len(chosen.entries) == len(chosen.rank) == 0
    assert (chosen.weights(16) == 0).all()


def test_a_latent_without_candidates_among_others(made: Material, entries: Entries) -> None:
    fewer = entries.take((entries.latent != 1) & (entries.latent != WIDTH - 1))
    chosen, whole = chosen_of(made, fewer, 16), chosen_of(made, entries, 16)
    assert set(chosen.entries.latent.tolist()) == {0, 2, 3}
    for latent in (0, 2, 3):
        mine, same = (
            found.entries.take(found.entries.latent == latent) for found in (chosen, whole)
        )
        assert identity(mine) == identity(same)
        assert np.allclose(chosen.weights(16)[latent], whole.weights(16)[latent])
    assert (chosen.weights(16)[[1, WIDTH - 1]] == 0).all()


# -- the pool --------------------------------------------------------------------------------------


def some_entries(rng: np.random.Generator, n: int, n_latents: int, n_levels: int) -> Entries:
    one = np.ones(n, dtype=np.float32)
    latent, level = rng.integers(0, n_latents, n), rng.integers(0, n_levels, n)
    gain = rng.permutation(n).astype(np.float32)
    node = np.arange(n, dtype=np.int32)
    return Entries(latent.astype(np.int32), level.astype(np.int32), node, one, one, one, gain, one)


@pytest.mark.parametrize(("candidates", "levels"), [(6, 2), (8, 1), (40, 3), (6, 100), (500, 100)])
def test_pool_is_the_best_keys_of_the_best_levels(
    monkeypatch: pytest.MonkeyPatch, candidates: int, levels: int
) -> None:
    monkeypatch.setattr("labeler.select.CANDIDATES", candidates)
    monkeypatch.setattr("labeler.select.LEVELS", levels)
    entries = some_entries(np.random.default_rng(0), 200, 4, 5)
    pool = Pool.make(entries, 5, 5)
    rows = list(zip(entries.latent.tolist(), entries.level.tolist(), entries.gain, strict=True))
    widest = 0
    for latent in range(5):
        # A level's strength: the gains of its keys that could fill half of the places.
        gains = [
            sorted((gain for j, level, gain in rows if (j, level) == (latent, number)))
            for number in range(5)
        ]
        strength = [sum(gain[::-1][: candidates // 2]) for gain in gains]
        best = sorted(range(5), key=lambda number: -strength[number])[:levels]
        mine = [i for i, (j, level, _) in enumerate(rows) if j == latent and level in best]
        wanted = sorted(mine, key=lambda i: -rows[i][2])[:candidates]
        found = pool.index[latent]
        assert found[: len(wanted)].tolist() == wanted
        assert (found[len(wanted) :] == -1).all()
        widest = max(widest, len(wanted))
    assert pool.index.shape == (5, widest)
    # Latent 4 has no entry at all.
    assert (pool.index[4] == -1).all()


def test_columns_are_padded_with_nothing() -> None:
    entries = some_entries(np.random.default_rng(0), 12, 3, 1)
    pool = Pool.make(entries, 3, 1)
    padded = pool.padded(entries.gain)
    for latent in range(3):
        gains = sorted(entries.gain[entries.latent == latent].tolist(), reverse=True)
        assert padded[latent].tolist() == gains + [0] * (padded.shape[1] - len(gains))
