"""Closed-form out-of-fold scores against a literal cross-validation, position by position."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from labeler.curves import N_BINS, FiringCurve, bin_of
from labeler.rowsums import RowSums
from labeler.scores import (
    SHRINKAGE_GRID,
    WEIGHT_BITS,
    BlockScorer,
    LevelScore,
    Shrinkage,
    bits_per_key,
    fit_shrinkage,
)
from labeler.tokens import N_FOLDS
from tests.synthetic import (
    CheapKeys,
    Material,
    make_tokens,
    material,
    paths_of,
    plain_tokens,
    random_acts,
)

NAMES = ["trigram", "topic", "previous_token"]
WIDTH = 4
SHRINKAGE = {
    "unigram": Shrinkage(0.5, 2.0),
    "bigram": Shrinkage(4.0, 1.0),
    "trigram": Shrinkage(8.0, 16.0),
    "topic": Shrinkage(1.0, 0.25),
    "previous_token": Shrinkage(2.0, 4.0),
}


@dataclass
class Literal:
    """Out-of-fold predictions of one type at every position; the oracle's result.

    float64 [n_ctx * ctx_len, n_latents]; NaN at padding.
    """

    mean: np.ndarray
    fires: np.ndarray


def cross_validate(made: Material, shrinkage: Mapping[str, Shrinkage]) -> dict[str, Literal]:
    """Refit tables without each fold and predict that fold, one position at a time."""
    fit, acts = made.fit, made.acts.astype(np.float64)
    width = acts.shape[1]
    fold = np.repeat(fit.fold, fit.ctx_len)
    valid = fit.valid.ravel()
    paths = {name: paths_of(made.tree, fit, name) for name in made.tree.levels}
    out = {
        name: Literal(*(np.full(acts.shape, np.nan) for _ in range(2)))
        for name in ("", *made.tree.levels)
    }
    for f in range(N_FOLDS):
        train = np.flatnonzero(valid & (fold != f))
        base_mean = acts[train].sum(axis=0) / len(train)
        base_fires = ((acts[train] > 0).sum(axis=0) + 0.5) / (len(train) + 1)
        tables: dict[str, dict[tuple[int, ...], list[np.ndarray]]] = {}
        for name in made.tree.levels:
            table = tables[name] = {}
            for position in train:
                path = paths[name][position]
                if path is not None:
                    n, k, s = table.setdefault(
                        path, [np.zeros(1), np.zeros(width), np.zeros(width)]
                    )
                    n += 1
                    k += acts[position] > 0
                    s += acts[position]
        for position in np.flatnonzero(valid & (fold == f)):
            out[""].mean[position], out[""].fires[position] = base_mean, base_fires
            for name, level in made.tree.levels.items():
                above = out[level.parent_name or ""]
                mean, fires = above.mean[position], above.fires[position]
                path = paths[name][position]
                if path is not None and path in tables[name]:
                    n, k, s = tables[name][path]
                    lam, nu = shrinkage[name].mean, shrinkage[name].fires
                    mean = (s + lam * mean) / (n + lam)
                    fires = np.minimum((k + nu * fires) / (n + nu), 1 - 1e-6)
                out[name].mean[position], out[name].fires[position] = mean, fires
    return out


def log_likelihood(acts: np.ndarray, fires: np.ndarray) -> np.ndarray:
    """Bits of the firing events at each position."""
    return np.where(acts > 0, np.log2(fires), np.log2(1 - fires))


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(31, n_docs=45, n_vocab=12, ctx_len=12)
    return material(tokens, NAMES, random_acts(tokens.fit, WIDTH, seed=3))


@pytest.fixture(scope="module")
def literal(made: Material) -> dict[str, Literal]:
    return cross_validate(made, SHRINKAGE)


@pytest.fixture(scope="module")
def scores(made: Material) -> dict[str, LevelScore]:
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    return dict(scorer.scores(SHRINKAGE))


@pytest.fixture(scope="module")
def valid(made: Material) -> np.ndarray:
    return made.fit.valid.ravel()


def test_the_material_exercises_every_case(made: Material) -> None:
    assert list(made.tree.levels) == [*("unigram", "bigram", "trigram", "topic", "previous_token")]
    for name, level in made.tree.levels.items():
        rows = made.rows[name]
        assert rows.n_rows > 0
        if name == "trigram":
            # Nodes of one fold only, which have no row, and positions without a key.
            assert len(rows.alive) < 0.9 * level.n_nodes
    assert (made.nodes["topic"][made.fit.valid] < 0).any()
    assert not made.fit.valid.all()


def test_base_rate(made: Material, literal: dict[str, Literal], valid: np.ndarray) -> None:
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    acts = made.acts[valid].astype(np.float64)
    error = (acts - literal[""].mean[valid]) ** 2
    assert np.allclose(scorer.base_score.sse, error.sum(axis=0), rtol=1e-6)
    assert np.allclose(scorer.sst, ((acts - acts.mean(axis=0)) ** 2).sum(axis=0))
    firing = np.where(acts > 0, acts, np.nan)
    assert np.allclose(scorer.mean_act, np.nanmean(firing, axis=0))
    assert (scorer.base_score.bits == 0).all()


@pytest.mark.parametrize("name", list(SHRINKAGE))
def test_squared_error(
    made: Material,
    literal: dict[str, Literal],
    scores: dict[str, LevelScore],
    valid: np.ndarray,
    name: str,
) -> None:
    error = (made.acts[valid] - literal[name].mean[valid]) ** 2
    assert np.allclose(scores[name].sse, error.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", list(SHRINKAGE))
def test_bits(
    made: Material,
    literal: dict[str, Literal],
    scores: dict[str, LevelScore],
    valid: np.ndarray,
    name: str,
) -> None:
    acts = made.acts[valid]
    mine = log_likelihood(acts, literal[name].fires[valid])
    base = log_likelihood(acts, literal[""].fires[valid])
    assert np.allclose(scores[name].bits, (mine - base).sum(axis=0), rtol=1e-4, atol=0.02)
    assert np.abs(scores[name].bits).max() > 1


def test_net_bits_pay_for_each_key(
    made: Material, literal: dict[str, Literal], scores: dict[str, LevelScore], valid: np.ndarray
) -> None:
    for name, level in made.tree.levels.items():
        above = level.parent_name or ""
        net, paying = np.zeros(WIDTH), np.zeros(WIDTH, dtype=int)
        node = made.nodes[name].ravel()
        price = math.log2(len(made.rows[name].alive)) + WEIGHT_BITS
        assert price == bits_per_key(len(made.rows[name].alive))
        gain = np.zeros((level.n_nodes, WIDTH))
        use = valid & (node >= 0)
        per_position = log_likelihood(made.acts[use], literal[name].fires[use]) - log_likelihood(
            made.acts[use], literal[above].fires[use]
        )
        np.add.at(gain, node[use], per_position)
        net = np.maximum(gain - price, 0).sum(axis=0)
        paying = (gain > price).sum(axis=0)
        if above:
            net, paying = net + scores[above].net_bits, paying + scores[above].n_paying
        assert np.allclose(scores[name].net_bits, net, rtol=1e-3, atol=0.02)
        assert scores[name].n_paying.tolist() == paying.tolist()
    assert (scores["unigram"].n_paying > 0).all()


@pytest.mark.parametrize("name", ["", *SHRINKAGE])
def test_firing_curves(
    made: Material,
    literal: dict[str, Literal],
    scores: dict[str, LevelScore],
    valid: np.ndarray,
    name: str,
) -> None:
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    curve = scores[name].firing if name else scorer.base_score.firing
    acts, predicted = made.acts[valid], literal[name].mean[valid].astype(np.float32)
    bins = bin_of(predicted, curve.scale)
    for j in range(WIDTH):
        positions = np.bincount(bins[:, j], minlength=N_BINS)
        firings = np.bincount(bins[acts[:, j] > 0, j], minlength=N_BINS)
        assert curve.positions[:, j].sum() == pytest.approx(len(acts))
        assert curve.firings[:, j].sum() == pytest.approx((acts[:, j] > 0).sum())
        # Rounding may put a few predictions on the other side of a bin's edge.
        assert np.abs(curve.positions[:, j] - positions).sum() <= 0.01 * len(acts)
        assert np.abs(curve.firings[:, j] - firings).sum() <= 0.01 * len(acts)


def test_best_threshold_of_a_curve(
    made: Material, literal: dict[str, Literal], scores: dict[str, LevelScore], valid: np.ndarray
) -> None:
    for name in SHRINKAGE:
        f1, threshold = scores[name].firing.best()
        acts, predicted = made.acts[valid] > 0, literal[name].mean[valid]
        for j in range(WIDTH):
            # Just below the threshold, as predictions on a bin's edge are called firing.
            called = predicted[:, j] >= threshold[j] * (1 - 1e-6)
            hit = (called & acts[:, j]).sum()
            reached = 2 * hit / (called.sum() + acts[:, j].sum())
            assert f1[j] == pytest.approx(reached, abs=0.01)
            scale = acts[:, j].sum()
            best = max(
                2
                * (acts[:, j] & (predicted[:, j] >= cut)).sum()
                / ((predicted[:, j] >= cut).sum() + scale)
                for cut in np.unique(predicted[:, j])
            )
            assert best - 0.03 <= f1[j] <= best + 0.01


def test_bins_by_hand() -> None:
    scale = np.array([64.0], dtype=np.float32)
    values = np.array([[0.0], [0.99], [1.0], [2.0], [4.0], [64.0], [1e9]], dtype=np.float32)
    assert bin_of(values, scale)[:, 0].tolist() == [0, 0, 1, 7, 13, 37, N_BINS - 1]


def test_best_threshold_by_hand() -> None:
    # Ten positions: five predicted 8 of which four fire, five predicted 2 of which one fires.
    curve = FiringCurve.empty(np.array([64.0]))
    for value, n, fired in ((8, 5, 4), (2, 5, 1)):
        row = int(bin_of(np.array([[value]], dtype=np.float32), curve.scale)[0, 0])
        curve.positions[row, 0], curve.firings[row, 0] = n, fired
    f1, threshold = curve.best()
    assert f1[0] == pytest.approx(8 / 10)
    assert 2 < threshold[0] <= 8
    # Two firings at the bottom, which no threshold calls, count as missed.
    curve.positions[0, 0], curve.firings[0, 0] = 90, 2
    assert curve.best()[0][0] == pytest.approx(8 / 12)


def test_entries_are_the_keys_that_save_error(
    made: Material, literal: dict[str, Literal], valid: np.ndarray
) -> None:
    acts = made.acts.astype(np.float64)
    scorer = CheapKeys(made.tree, made.rows, made.fit, made.firings)
    scores = dict(scorer.scores(SHRINKAGE))
    for name, level in made.tree.levels.items():
        above = level.parent_name or ""
        node = made.nodes[name].ravel()
        use = valid & (node >= 0)
        gain = np.zeros((level.n_nodes, WIDTH))
        saved = (acts[use] - literal[above].mean[use]) ** 2
        saved -= (acts[use] - literal[name].mean[use]) ** 2
        np.add.at(gain, node[use], saved)
        entries = scores[name].entries
        found = set(zip(entries.node.tolist(), entries.latent.tolist(), strict=True))
        worth = scorer.worth(len(made.rows[name].alive))
        clear = np.abs(gain - worth) > 1e-3
        wanted = np.argwhere(gain > worth)
        assert {(k, j) for k, j in wanted.tolist() if clear[k, j]} <= found
        assert all(gain[k, j] > worth[j] - 1e-3 for k, j in found)
        assert len(found) == len(entries) > 0
        for index in range(0, len(entries), 7):
            at = node == entries.node[index]
            mine = acts[at, entries.latent[index]]
            assert entries.n[index] == at.sum()
            assert entries.count[index] == (mine > 0).sum()
            assert entries.total[index] == pytest.approx(mine.sum(), rel=1e-5)
        assert ((entries.trust > 0) & (entries.trust <= 1)).all()


# -- shrinkage -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shrinkage_is_the_best_of_the_grid() -> None:
    # Seeds at which the bigram's choice depends on the unigram's.
    tokens = make_tokens(36, n_docs=25, n_vocab=8, ctx_len=10)
    made = material(tokens, ["bigram", "topic"], random_acts(tokens.fit, 3, seed=8))
    chosen = fit_shrinkage(made.tree, made.rows, made.fit, made.firings)
    valid = made.fit.valid.ravel()
    acts = made.acts[valid].astype(np.float64)
    variance = ((acts - acts.mean(axis=0)) ** 2).sum(axis=0)
    firings = (acts > 0).sum(axis=0)
    settled: dict[str, Shrinkage] = {}
    for name in made.tree.levels:
        error, likelihood = [], []
        for value in SHRINKAGE_GRID:
            tried = {other: Shrinkage(1, 1) for other in made.tree.levels}
            tried |= settled | {name: Shrinkage(value, value)}
            found = cross_validate(made, tried)[name]
            error.append((((acts - found.mean[valid]) ** 2).sum(axis=0) / variance).sum())
            bits = log_likelihood(acts, found.fires[valid]).sum(axis=0)
            likelihood.append((bits / firings).sum())
        settled[name] = Shrinkage(
            SHRINKAGE_GRID[int(np.argmin(error))], SHRINKAGE_GRID[int(np.argmax(likelihood))]
        )
    assert chosen == settled
    assert len({value for s in chosen.values() for value in (s.mean, s.fires)}) > 1


def test_more_noise_is_shrunk_more() -> None:
    tokens = make_tokens(34, n_docs=60)
    rng = np.random.default_rng(0)
    sharp = np.isin(tokens.fit.ids.ravel(), [1, 4, 6])[:, None] & tokens.fit.valid.ravel()[:, None]
    noise = (rng.random((sharp.size, 8)) < 0.1) & tokens.fit.valid.ravel()[:, None]
    lam = []
    for acts in (np.repeat(sharp, 8, axis=1), noise):
        made = material(tokens, ["unigram"], acts.astype(np.float32))
        lam.append(fit_shrinkage(made.tree, made.rows, made.fit, made.firings)["unigram"])
    assert lam[0].mean == lam[0].fires == SHRINKAGE_GRID[0]
    assert lam[1].mean > 8
    assert lam[1].fires > 8


# -- robustness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [1, 100, 1 << 20])
def test_chunks_do_not_change_results(
    made: Material,
    scores: dict[str, LevelScore],
    monkeypatch: pytest.MonkeyPatch,
    cells: int,
) -> None:
    monkeypatch.setattr("labeler.rowsums.CHUNK_CELLS", cells)
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    for name, score in scorer.scores(SHRINKAGE):
        wanted = scores[name]
        for field in ("sse", "bits", "net_bits"):
            assert np.allclose(getattr(score, field), getattr(wanted, field), rtol=1e-5, atol=1e-3)
        assert np.array_equal(score.n_paying, wanted.n_paying)
        assert np.allclose(score.firing.positions, wanted.firing.positions)
        assert np.allclose(score.firing.firings, wanted.firing.firings)
        for field in ("latent", "node", "n", "count"):
            assert np.array_equal(getattr(score.entries, field), getattr(wanted.entries, field))
    assert len(list(RowSums.make(made.rows["bigram"], made.firings).chunks())) >= 1


def test_latents_do_not_influence_each_other(made: Material, scores: dict[str, LevelScore]) -> None:
    for block in made.firings.blocks(1):
        scorer = BlockScorer(made.tree, made.rows, made.fit, block)
        for name, score in scorer.scores(SHRINKAGE):
            assert score.sse[0] == pytest.approx(scores[name].sse[block.first], rel=1e-5)
            assert score.bits[0] == pytest.approx(scores[name].bits[block.first], rel=1e-4)


def test_a_silent_latent_and_one_that_always_fires() -> None:
    fit = make_tokens(35).fit
    acts = np.zeros((fit.ids.size, 2), dtype=np.float32)
    acts[fit.valid.ravel(), 1] = 2.0
    made = material(fit, ["trigram", "topic"], acts)
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    for _, score in scorer.scores(SHRINKAGE):
        assert np.isfinite(score.bits).all()
        assert np.allclose(score.sse, 0, atol=1e-3)
        assert (score.net_bits == 0).all()
        f1, threshold = score.firing.best()
        assert f1.tolist() == [0, 1]
        assert threshold[1] <= 2


def test_text_of_one_fold_scores_nothing() -> None:
    fit = plain_tokens([[1, 2, 1], [1, 2, 2]], fold=[0, 0])
    made = material(fit, ["bigram"], np.ones((6, 1), dtype=np.float32))
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    for _, score in scorer.scores(SHRINKAGE):
        assert score.bits[0] == score.net_bits[0] == 0
        assert np.isfinite(score.sse).all()


def test_a_key_is_worth_its_price_in_a_gaussian_code(made: Material) -> None:
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    variance = made.acts[made.fit.valid.ravel()].astype(np.float64).var(axis=0)
    # Squared error e less is e / (2 variance) nats less.
    nats = scorer.worth(64) / (2 * variance)
    assert np.allclose(nats / math.log(2), 6 + WEIGHT_BITS, rtol=1e-4)
