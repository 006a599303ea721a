"""Which keys a short label keeps: against every subset, and values against every position."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from labeler.entries import Entries, Pool
from labeler.keytree import KeyTree
from labeler.scores import Shrinkage
from labeler.select import Chosen, _ranked, choose
from tests.synthetic import CheapKeys, Material, make_tokens, material, plain_tokens, random_acts

CHAIN = ["unigram", "bigram", "trigram"]
WIDTH = 5
LAM = 0.7


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(41, n_docs=60, n_vocab=9)
    return material(tokens, ["trigram"], random_acts(tokens.fit, WIDTH, seed=8))


@pytest.fixture(scope="module")
def pool(made: Material) -> Pool:
    return pool_of(made)


def pool_of(made: Material, chain: list[str] = CHAIN) -> Pool:
    scorer = CheapKeys(made.tree, made.rows, made.fit, made.firings)
    scores = dict(scorer.scores({name: Shrinkage(1, 1) for name in made.tree.levels}))
    return Pool.make(
        [scores[name].entries for name in chain], [made.tree.levels[name] for name in chain]
    )


def chosen_of(
    made: Material, pool: Pool, budget: int, lam: float = LAM, worth: float = 0
) -> Chosen:
    acts = made.acts.astype(np.float64)
    totals, counts = acts.sum(axis=0), (acts > 0).sum(axis=0) * 1.0
    worth = np.full(len(totals), worth)
    return choose(pool, budget, made.fit.n_positions, totals, counts, lam, worth)


def owners(made: Material, entries: Entries, latent: int, chain: list[str]) -> np.ndarray:
    """Per flat position, index of the deepest of a latent's entries there; -1 = none."""
    owner = np.full(made.fit.ids.size, -1)
    for index in np.argsort(entries.level, kind="stable"):
        if entries.latent[index] == latent:
            node = made.nodes[chain[entries.level[index]]].ravel()
            owner[node == entries.node[index]] = index
    return owner


def above_of(made: Material, entries: Entries, index: int, chain: list[str]) -> int:
    """The nearest entry of the same latent that holds the entry's positions; -1 = none."""
    node, level = int(entries.node[index]), int(entries.level[index])
    while level > 0:
        node = int(made.tree.levels[chain[level]].parent[node])
        level -= 1
        same = (entries.latent == entries.latent[index]) & (entries.level == level)
        hit = np.flatnonzero(same & (entries.node == node))
        if len(hit):
            return int(hit[0])
    return -1


# -- the pool --------------------------------------------------------------------------------------


def test_pool_links_each_entry_to_those_above(made: Material, pool: Pool) -> None:
    e = pool.entries
    assert len(pool.above) == 2
    assert np.array_equal(np.lexsort((e.node, e.level, e.latent)), np.arange(len(e)))
    linked = 0
    for index in range(len(e)):
        node, level = int(e.node[index]), int(e.level[index])
        for above in pool.above[:, index]:
            if level == 0:
                assert above == -1
                continue
            node, level = int(made.tree.levels[CHAIN[level]].parent[node]), level - 1
            same = (e.latent == e.latent[index]) & (e.level == level) & (e.node == node)
            wanted = np.flatnonzero(same)
            assert above == (wanted[0] if len(wanted) else -1)
            linked += above >= 0
    assert linked > 20


# -- what is chosen --------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 2, 5, 16, 100])
def test_budget_is_respected_and_used(made: Material, pool: Pool, budget: int) -> None:
    kept = np.bincount(chosen_of(made, pool, budget).entries.latent, minlength=WIDTH)
    there = np.bincount(pool.entries.latent, minlength=WIDTH)
    assert (kept <= budget).all()
    if budget < there.min() / 3:
        assert (kept == budget).all()
    # Of an entry whose positions finer ones have all taken, nothing is left to keep.
    assert (kept > 0).all()


def test_an_entry_must_be_worth_a_place(made: Material, pool: Pool) -> None:
    acts = made.acts[made.fit.valid.ravel()].astype(np.float64)
    sst = ((acts - acts.mean(axis=0)) ** 2).sum(axis=0)
    many = chosen_of(made, pool, 100)
    few = chosen_of(made, pool, 100, worth=float(0.003 * sst.min()))
    assert len(few.entries) < 0.8 * len(many.entries)
    # What was left out is little.
    assert (few.saved > 0.8 * many.saved).all()
    assert len(chosen_of(made, pool, 100, worth=float(sst.max())).entries) == 0


def test_along_a_chain_the_best_enters_first_and_the_weakest_leaves() -> None:
    # Two latents of one chain of three entries each, and a single entry.
    index = np.arange(7, dtype=np.int32)
    level = np.array([0, 1, 2, 0, 1, 2, 0], dtype=np.int32)
    latent = np.array([0, 0, 0, 1, 1, 1, 2], dtype=np.int32)
    one = np.ones(7, dtype=np.float32)
    above = np.array([[-1, 0, 1, -1, 3, 4, -1], [-1, -1, 0, -1, -1, 3, -1]], dtype=np.int32)
    pool = Pool(Entries(latent, level, index, one, one, one, one), above)
    score = np.array([2.0, 5.0, 4.0, 3.0, 3.0, 1.0, 2.0])
    nothing = np.zeros(7, dtype=bool)
    wait, stay = -np.inf, np.inf
    # Of equals the coarser enters.
    assert _ranked(pool, nothing, score).tolist() == [wait, 5, wait, 3, wait, wait, 2]
    everything = ~nothing
    assert _ranked(pool, everything, score).tolist() == [2, stay, stay, stay, stay, 1, 2]
    # Kept entries do not keep others out, nor those that are out kept ones in.
    kept = np.array([False, True, False, True, True, False, True])
    assert _ranked(pool, kept, score).tolist() == [wait, 5, 4, stay, 3, 1, 2]


@pytest.mark.parametrize("budget", [3, 16, 100])
@pytest.mark.parametrize("lam", [1e-9, LAM])
def test_values_are_exclusive_means(made: Material, pool: Pool, budget: int, lam: float) -> None:
    chosen = chosen_of(made, pool, budget, lam)
    valid = made.fit.valid.ravel()
    acts = made.acts.astype(np.float64)
    nested = 0
    for latent in range(WIDTH):
        owner = owners(made, chosen.entries, latent, CHAIN)
        rest = acts[valid & (owner < 0), latent]
        assert chosen.n_default[latent] == len(rest)
        assert chosen.count_default[latent] == (rest > 0).sum()
        assert chosen.default[latent] == pytest.approx(rest.mean(), rel=1e-4)
        for index in np.flatnonzero(chosen.entries.latent == latent):
            mine = acts[valid & (owner == index), latent]
            assert chosen.n_left[index] == pytest.approx(len(mine), abs=1e-3)
            assert chosen.count_left[index] == pytest.approx((mine > 0).sum(), abs=1e-3)
            above = above_of(made, chosen.entries, int(index), CHAIN)
            nested += above >= 0
            up = chosen.value[above] if above >= 0 else rest.mean()
            wanted = (mine.sum() + lam * up) / (len(mine) + lam)
            assert chosen.value[index] == pytest.approx(wanted, rel=1e-3, abs=1e-4)
        # Nothing is lost or counted twice.
        mine = chosen.entries.latent == latent
        total = chosen.n_left[mine].sum() + chosen.n_default[latent]
        assert total == pytest.approx(made.fit.n_positions)
        fired = chosen.count_left[mine].sum() + chosen.count_default[latent]
        assert fired == pytest.approx((acts[:, latent] > 0).sum())
    assert nested > 0 or budget == 3


def squared_error(made: Material, entries: Entries, latent: int, chain: list[str]) -> float:
    """Of the label that keeps these entries, each at its exclusive mean."""
    valid = made.fit.valid.ravel()
    owner = owners(made, entries, latent, chain)[valid]
    acts = made.acts[valid, latent].astype(np.float64)
    return sum(
        float(((acts[owner == index] - acts[owner == index].mean()) ** 2).sum())
        for index in np.unique(owner)
    )


def test_saved_is_the_squared_error_saved(made: Material, pool: Pool) -> None:
    trusted = replace(pool, entries=replace(pool.entries, trust=np.ones(len(pool.entries))))
    chosen = chosen_of(made, trusted, 1, 1e-9)
    for latent in range(WIDTH):
        acts = made.acts[made.fit.valid.ravel(), latent].astype(np.float64)
        sst = ((acts - acts.mean()) ** 2).sum()
        saved = sst - squared_error(made, chosen.entries, latent, CHAIN)
        # One entry: nothing is shared, so that the estimate is exact.
        assert chosen.saved[latent] == pytest.approx(saved, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_choice_is_close_to_the_best_subset(budget: int) -> None:
    shares = []
    for seed in range(6):
        tokens = make_tokens(50 + seed, n_docs=25, n_vocab=5, ctx_len=8)
        made = material(tokens, ["trigram"], random_acts(tokens.fit, 2, seed=seed))
        pool = pool_of(made)
        # As many candidates as can be tried in all subsets, the most worthwhile first.
        keep = np.zeros(len(pool.entries), dtype=bool)
        for latent in range(2):
            mine = np.flatnonzero(pool.entries.latent == latent)
            gain = pool.entries.total[mine] ** 2 / pool.entries.n[mine]
            keep[mine[np.argsort(-gain)[:10]]] = True
        entries = pool.entries.take(keep)
        few = Pool.make(
            [entries.take(entries.level == level) for level in range(3)],
            [made.tree.levels[name] for name in CHAIN],
        )
        few = replace(few, entries=replace(few.entries, trust=np.ones(len(few.entries))))
        chosen = chosen_of(made, few, budget, 1e-9)
        for latent in range(2):
            acts = made.acts[made.fit.valid.ravel(), latent].astype(np.float64)
            sst = ((acts - acts.mean()) ** 2).sum()
            mine = np.flatnonzero(few.entries.latent == latent)
            assert len(mine) >= 6
            best = sst - min(
                squared_error(made, few.entries.take(np.array(subset)), latent, CHAIN)
                for subset in combinations(mine, budget)
            )
            reached = sst - squared_error(made, chosen.entries, latent, CHAIN)
            shares.append(reached / best)
    assert max(shares) <= 1 + 1e-6
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
    chosen = chosen_of(made, pool_of(made, CHAIN[:2]), 2, 0.1)
    assert chosen.entries.level.tolist() == [0, 1]
    tree: KeyTree = made.tree
    key = int(tree.levels["bigram"].key[chosen.entries.node[1]])
    assert tree.types["bigram"].render(key) == "`<2><1>`"
    assert chosen.value.tolist() == pytest.approx([3, 0], abs=0.05)
    assert chosen.default[0] == pytest.approx(0, abs=1e-9)
    threshold, f1 = chosen.thresholds()
    assert f1[0] == 1
    assert 0.1 < threshold[0] < 2.9


def test_keys_that_only_say_that_nothing_happens_are_not_kept() -> None:
    # Against the mean every silent token looks worth a key; once token 1 is kept, none is.
    rng = np.random.default_rng(0)
    fit = plain_tokens(rng.integers(0, 8, (60, 20)).tolist(), n_vocab=8)
    made = material(fit, ["unigram"], (fit.ids == 1).reshape(-1, 1).astype(np.float32))
    pool = pool_of(made, CHAIN[:1])
    assert len(pool.entries) == 8
    sst = float(((made.acts - made.acts.mean()) ** 2).sum())
    chosen = chosen_of(made, pool, 100, worth=1e-4 * sst)
    assert chosen.entries.node.tolist() == [1]


def test_no_candidates() -> None:
    made = material(plain_tokens([[1, 2]] * 5), ["bigram"], np.zeros((10, 2), dtype=np.float32))
    pool = pool_of(made, CHAIN[:2])
    assert len(pool.entries) == 0
    chosen = chosen_of(made, pool, 16)
    assert len(chosen.entries) == 0
    assert chosen.n_default.tolist() == [10, 10]
    assert chosen.default.tolist() == [0, 0]


# -- thresholds ------------------------------------------------------------------------------------


def brute_force_f1(predicted: np.ndarray, fires: np.ndarray) -> float:
    cuts = np.unique(predicted)
    return max(2 * (fires & (predicted >= cut)).sum() for cut in cuts) and max(
        2 * (fires & (predicted >= cut)).sum() / ((predicted >= cut).sum() + fires.sum())
        for cut in cuts
    )


@pytest.mark.parametrize("budget", [1, 4, 16, 100])
def test_thresholds_give_the_best_f1(made: Material, pool: Pool, budget: int) -> None:
    chosen = chosen_of(made, pool, budget)
    valid = made.fit.valid.ravel()
    threshold, f1 = chosen.thresholds()
    for latent in range(WIDTH):
        owner = owners(made, chosen.entries, latent, CHAIN)[valid]
        values = np.append(chosen.value, chosen.default[latent])
        predicted = values[owner]
        fires = made.acts[valid, latent] > 0
        called = predicted >= threshold[latent]
        reached = 2 * (called & fires).sum() / (called.sum() + fires.sum())
        assert f1[latent] == pytest.approx(reached)
        assert f1[latent] == pytest.approx(brute_force_f1(predicted, fires))
        # No prediction is so close that rounding could move it across.
        assert np.abs(predicted - threshold[latent]).min() > 0


def by_hand(values: list[float], n: list[float], count: list[float]) -> Chosen:
    """One latent; the last of each is the default's."""
    k = len(values) - 1
    whole = np.ones(k, dtype=np.float32)
    index = np.zeros(k, dtype=np.int32)
    return Chosen(
        Entries(index, index, np.arange(k, dtype=np.int32), whole, whole, whole, whole),
        np.array(values[:k]),
        np.array(n[:k]),
        np.array(count[:k]),
        np.array(values[k:]),
        np.array(n[k:]),
        np.array(count[k:]),
        np.zeros(1),
    )


def test_thresholds_by_hand() -> None:
    # 6 firings; at 4: 2 * 3 / (3 + 6); at 2: 2 * 5 / (7 + 6); everywhere: 2 * 6 / (107 + 6).
    threshold, f1 = by_hand([4, 2, 0.01], [3, 4, 100], [3, 2, 1]).thresholds()
    assert f1[0] == pytest.approx(10 / 13)
    assert threshold[0] == pytest.approx((2 + 0.01) / 2)


def test_entries_of_the_same_value_are_called_together() -> None:
    # Two entries at 2, one all firings, one all silent: no threshold parts them.
    threshold, f1 = by_hand([2, 2, 0.01], [5, 5, 90], [5, 0, 1]).thresholds()
    assert f1[0] == pytest.approx(10 / 16)
    assert 0.01 < threshold[0] < 2


def test_an_entry_of_the_defaults_value_is_called_with_it() -> None:
    threshold, f1 = by_hand([3, 0.5, 0.5], [4, 6, 10], [4, 6, 0]).thresholds()
    # At 3: 8 / 14; everywhere: 20 / 30.
    assert f1[0] == pytest.approx(20 / 30)
    assert threshold[0] <= 0.5
