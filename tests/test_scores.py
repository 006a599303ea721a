"""Closed-form out-of-fold scores against a literal cross-validation, position by position."""

import math

import numpy as np
import pytest

from labeler.curves import BINS_PER_OCTAVE, N_BINS, FiringCurve, bin_of
from labeler.entries import Entries
from labeler.functions import Keys
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
from labeler.statistics import LEAST_OF_SEVERAL
from labeler.tokens import Tokens
from tests.oracles import Literal, cross_validate, log_likelihood
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

NAMES = ["trigram", "topic", "previous_token"]
WIDTH = 4
SHRINKAGE = {
    "unigram": Shrinkage(0.5, 2.0),
    "bigram": Shrinkage(4.0, 1.0),
    "trigram": Shrinkage(8.0, 16.0),
    "topic": Shrinkage(1.0, 0.25),
    "previous_token": Shrinkage(2.0, 4.0),
}


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


@pytest.mark.parametrize("name", list(SHRINKAGE))
def test_means_are_the_out_of_fold_predictions(
    made: Material, literal: dict[str, Literal], scores: dict[str, LevelScore], name: str
) -> None:
    row = made.rows[name].of_position[:, 0]
    at = row >= 0
    assert scores[name].mean.dtype == np.float32
    assert np.allclose(scores[name].mean[row[at]], literal[name].mean[at], rtol=1e-4, atol=1e-6)
    # What has no row is predicted as the parent predicts it.
    above = literal[made.tree.levels[name].parent_name or ""].mean
    rest = ~at & made.fit.valid.ravel()
    assert np.array_equal(literal[name].mean[rest], above[rest])


def test_bits_alone_need_no_means_and_no_entries(
    made: Material, scores: dict[str, LevelScore]
) -> None:
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    for name, score in scorer.scores(SHRINKAGE, bits_only=True):
        assert np.array_equal(score.bits, scores[name].bits)
        assert np.array_equal(score.net_bits, scores[name].net_bits)
        assert len(score.entries) == 0
        if made.tree.leaves.count(name):
            assert score.mean.size == 0
        bare = scores[name].without_tables()
        assert len(bare.entries) == bare.mean.size == 0
        assert np.array_equal(bare.sse, scores[name].sse)


# -- firing curves and thresholds ------------------------------------------------------------------


def bin_edge(number: int, scale: float) -> float:
    """Lowest prediction of a bin: scale / 64, then BINS_PER_OCTAVE steps per doubling."""
    return scale / 64 * 2 ** ((number - 1) / BINS_PER_OCTAVE)


@pytest.mark.parametrize("name", list(SHRINKAGE))
def test_firing_curves(
    made: Material, literal: dict[str, Literal], valid: np.ndarray, name: str
) -> None:
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    predicted, fires = literal[name].mean[valid].astype(np.float32), made.acts[valid] > 0
    curve = FiringCurve.of(predicted, fires, scorer.mean_act)
    for j in range(WIDTH):
        scale = made.acts[valid, j][fires[:, j]].astype(np.float64).mean()
        edges = [bin_edge(number, scale) for number in range(1, N_BINS)]
        bins = np.searchsorted(edges, predicted[:, j], side="right")
        assert curve.positions[:, j].sum() == len(predicted)
        assert curve.firings[:, j].sum() == fires[:, j].sum()
        # Rounding may put a few predictions on the other side of a bin's edge.
        positions = np.bincount(bins, minlength=N_BINS)
        firings = np.bincount(bins[fires[:, j]], minlength=N_BINS)
        assert np.abs(curve.positions[:, j] - positions).sum() <= 0.005 * len(predicted)
        assert np.abs(curve.firings[:, j] - firings).sum() <= 0.005 * len(predicted)


@pytest.mark.parametrize("name", list(SHRINKAGE))
def test_best_threshold_of_a_curve(
    made: Material, literal: dict[str, Literal], valid: np.ndarray, name: str
) -> None:
    acts, predicted = made.acts[valid] > 0, literal[name].mean[valid]
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    f1, threshold = FiringCurve.of(predicted.astype(np.float32), acts, scorer.mean_act).best()

    def reached(j: int, cut: float) -> float:
        called = predicted[:, j] >= cut
        return 2 * (called & acts[:, j]).sum() / (called.sum() + acts[:, j].sum())

    for j in range(WIDTH):
        # Just below the threshold, as predictions on a bin's edge are called firing.
        assert f1[j] == pytest.approx(reached(j, threshold[j] * (1 - 1e-6)), abs=0.003)
        edges = [bin_edge(number, scorer.mean_act[j]) for number in range(1, N_BINS)]
        assert threshold[j] == pytest.approx(min(edges, key=lambda e: abs(e - threshold[j])))
        assert f1[j] == pytest.approx(max(reached(j, edge) for edge in edges), abs=0.003)
        # Any threshold whatever does little better.
        best = max(reached(j, cut) for cut in np.unique(predicted[:, j]))
        assert best - 0.03 <= f1[j] <= best + 0.003


def test_predictions_at_or_below_nothing_are_never_called() -> None:
    predicted = np.array([[-3.0], [0.0], [1e-9], [5.0]], dtype=np.float32)
    fires = np.array([[True], [False], [True], [True]])
    curve = FiringCurve.of(predicted, fires, np.array([4.0]))
    assert curve.positions[0, 0] == 3
    assert curve.firings[0, 0] == 2
    f1, threshold = curve.best()
    assert f1[0] == pytest.approx(2 * 1 / (1 + 3))
    assert 0 < threshold[0] <= 5


def test_bins_by_hand() -> None:
    scale = np.array([64.0], dtype=np.float32)
    values = np.array([[0.0], [0.99], [1.0], [2.0], [4.0], [64.0], [1e9]], dtype=np.float32)
    assert bin_of(values, scale)[:, 0].tolist() == [0, 0, 1, 7, 13, 37, N_BINS - 1]


def test_best_threshold_by_hand() -> None:
    # Ten positions: five predicted 8 of which four fire, five predicted 2 of which one fires.
    predicted = np.repeat([8.0, 2.0], 5)[:, None].astype(np.float32)
    fires = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0], dtype=bool)[:, None]
    curve = FiringCurve.of(predicted, fires, np.array([64.0]))
    f1, threshold = curve.best()
    assert f1[0] == pytest.approx(8 / 10)
    assert 2 < threshold[0] <= 8
    # Two firings at the bottom, which no threshold calls, count as missed.
    curve.positions[0, 0], curve.firings[0, 0] = 90, 2
    assert curve.best()[0][0] == pytest.approx(8 / 12)


def check_entries(
    made: Material, entries: Entries, gain: np.ndarray, nodes: np.ndarray, worth: np.ndarray
) -> None:
    """Hold a level's entries against the savings of its nodes [n_nodes, n_latents]."""
    acts = made.acts.astype(np.float64)
    found = set(zip(entries.node.tolist(), entries.latent.tolist(), strict=True))
    clear = np.abs(gain - worth) > 1e-3
    wanted = np.argwhere(gain > worth)
    assert {(k, j) for k, j in wanted.tolist() if clear[k, j]} <= found
    assert all(gain[k, j] > worth[j] - 1e-3 for k, j in found)
    assert len(found) == len(entries) > 0
    assert np.allclose(entries.gain, gain[entries.node, entries.latent], rtol=1e-3, atol=1e-3)
    for index in range(0, len(entries), 7):
        at = (nodes == entries.node[index]).any(axis=1)
        mine = acts[at, entries.latent[index]]
        assert entries.n[index] == at.sum()
        assert entries.count[index] == (mine > 0).sum()
        assert entries.total[index] == pytest.approx(mine.sum(), rel=1e-5)
    assert ((entries.trust > 0) & (entries.trust <= 1)).all()


def test_entries_are_the_keys_that_save_error(
    made: Material, literal: dict[str, Literal], valid: np.ndarray
) -> None:
    acts = made.acts.astype(np.float64)
    scorer = CheapKeys(made.tree, made.rows, made.fit, made.firings)
    scores = dict(scorer.scores(SHRINKAGE))
    for number, (name, level) in enumerate(made.tree.levels.items()):
        above = level.parent_name or ""
        node = made.nodes[name].ravel()
        use = valid & (node >= 0)
        gain = np.zeros((level.n_nodes, WIDTH))
        saved = (acts[use] - literal[above].mean[use]) ** 2
        saved -= (acts[use] - literal[name].mean[use]) ** 2
        np.add.at(gain, node[use], saved)
        entries = scores[name].entries
        assert (entries.level == number).all()
        check_entries(made, entries, gain, node[:, None], scorer.worth(len(made.rows[name].alive)))


# -- several keys ----------------------------------------------------------------------------------


class OneOfThree(LastThree):
    """Whether one token, the third of the vocabulary, is among the last three: one key."""

    name = "one_of_three"
    several_keys = False

    def keys(self, tokens: Tokens) -> Keys:
        keys = super().keys(tokens)
        return np.where((keys == 2).any(axis=2), 2, -1)


def savings_of_keys(
    made: Material, parent: str, name: str, above: Literal, shrinkage: Shrinkage
) -> tuple[np.ndarray, np.ndarray]:
    """Squared error and bits that each node of a level of several keys saves out of fold."""
    fold = np.repeat(made.fit.fold, made.fit.ctx_len)
    acts = made.acts.astype(np.float64)
    nodes = made.nodes[name].reshape(len(acts), -1)
    error, bits = np.zeros((2, made.tree.levels[name].n_nodes, WIDTH))
    for k in range(len(error)):
        mine = np.flatnonzero((nodes == k).any(axis=1))
        if len(mine) < LEAST_OF_SEVERAL or len(set(fold[mine].tolist())) < 2:
            continue
        for f in set(fold[mine].tolist()):
            inside, outside = mine[fold[mine] == f], mine[fold[mine] != f]
            # Every position of a node has the same parent, and so the same prediction above.
            mu, p = above.mean[inside[0]], above.fires[inside[0]]
            total, count = acts[outside].sum(axis=0), (acts[outside] > 0).sum(axis=0)
            mean = (total + shrinkage.mean * mu) / (len(outside) + shrinkage.mean)
            fires = (count + shrinkage.fires * p) / (len(outside) + shrinkage.fires)
            fires = np.minimum(fires, 1 - 1e-6)
            error[k] += ((acts[inside] - mu) ** 2 - (acts[inside] - mean) ** 2).sum(axis=0)
            better = log_likelihood(acts[inside], fires) - log_likelihood(acts[inside], p)
            bits[k] += better.sum(axis=0)
    return error, bits


@pytest.mark.parametrize("parent", ["", "unigram"])
def test_a_level_of_several_keys_scores_by_its_best_key(parent: str) -> None:
    tokens = make_tokens(37, n_docs=80, n_vocab=6)
    name = "unigram+last_three" if parent else "last_three"
    acts = random_acts(tokens.fit, WIDTH, seed=3)
    # One latent is noise.
    noise = np.random.default_rng(0).random(len(acts)) < 0.05
    acts[:, 0] = noise & tokens.fit.valid.ravel()
    with registered(LastThree):
        made = material(tokens, ["unigram", name], acts)
    shrinkage = {"unigram": Shrinkage(0.5, 2.0), name: Shrinkage(4.0, 1.0)}
    literal = cross_validate(made, {"unigram": shrinkage["unigram"]})
    scorer = CheapKeys(made.tree, made.rows, made.fit, made.firings)
    scores = dict(scorer.scores(shrinkage))
    error, bits = savings_of_keys(made, parent, name, literal[parent], shrinkage[name])
    above = scores[parent] if parent else scorer.base_score
    price = bits_per_key(len(made.rows[name].alive))
    best = np.maximum(bits.max(axis=0), 0)
    found = scores[name]
    assert np.allclose(found.sse, above.sse - np.maximum(error.max(axis=0), 0), rtol=1e-5)
    assert np.allclose(found.bits, above.bits + best, rtol=1e-3, atol=0.05)
    assert np.allclose(
        found.net_bits, above.net_bits + np.maximum(best - price, 0), rtol=1e-3, atol=0.05
    )
    assert found.n_paying.tolist() == (above.n_paying + (best > price)).tolist()
    assert (best > price).any()
    assert not (best > price).all()
    nodes = made.nodes[name].reshape(made.fit.ids.size, -1)
    check_entries(made, found.entries, error, nodes, scorer.worth(0))


def test_one_key_of_several_scores_as_a_type_of_that_key_alone() -> None:
    tokens = make_tokens(38, n_docs=60, n_vocab=6)
    acts = random_acts(tokens.fit, 1, seed=3)
    # Fires where token 2 is near, and only there.
    near = np.zeros_like(tokens.fit.valid)
    for back in range(3):
        near[:, back:] |= tokens.fit.ids[:, : tokens.ctx_len - back] == 2
    acts = (acts + 1) * near.reshape(-1, 1) * tokens.fit.valid.reshape(-1, 1)
    with registered(LastThree, OneOfThree):
        made = material(tokens, ["last_three", "one_of_three"], acts.astype(np.float32))
    scorer = BlockScorer(made.tree, made.rows, made.fit, made.firings)
    several, alone = (
        score for _, score in scorer.scores({name: Shrinkage(2, 2) for name in made.tree.levels})
    )
    assert np.allclose(several.sse, alone.sse)
    assert np.allclose(several.bits, alone.bits)
    assert alone.bits[0] > 100
    # Only the price of telling the key apart from the others is its own.
    difference = bits_per_key(4) - bits_per_key(1)
    assert alone.net_bits[0] - several.net_bits[0] == pytest.approx(difference, abs=0.01)


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
        assert np.allclose(score.mean, wanted.mean, rtol=1e-5, atol=1e-6)
        for field in ("latent", "level", "node", "n", "count"):
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
    valid = fit.valid.ravel()
    f1, threshold = FiringCurve.of(acts[valid], acts[valid] > 0, scorer.mean_act).best()
    assert f1.tolist() == [0, 1]
    assert threshold[1] <= 2
    assert np.isfinite(threshold).all()


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
