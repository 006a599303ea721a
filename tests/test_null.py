"""The shifted null, the p-values it gives, and the false-discovery rate."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from labeler.fit import fit_hookpoint
from labeler.keytree import KeyTree
from labeler.material import Material
from labeler.null import (
    TAIL,
    benjamini_hochberg,
    dispersion,
    p_values,
    shift_firings,
    shifted_positions,
)
from labeler.tokens import Tokens
from tests.synthetic import firings_of, make_tokens, plain_tokens


@pytest.fixture(scope="module")
def fit() -> Tokens:
    return make_tokens(71, n_docs=60, contexts_per_doc=(1, 8)).fit


# -- the shift -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_shifted_positions_are_a_permutation_of_the_real_ones(fit: Tokens, seed: int) -> None:
    target = shifted_positions(fit, seed)
    valid = fit.valid.ravel()
    assert (target[~valid] == -1).all()
    assert np.array_equal(np.sort(target[valid]), np.flatnonzero(valid))
    assert np.array_equal(target, shifted_positions(fit, seed))
    assert not np.array_equal(target, shifted_positions(fit, seed + 1))


@pytest.mark.parametrize("seed", range(5))
def test_shift_keeps_runs_and_leaves_no_document_in_place(fit: Tokens, seed: int) -> None:
    target = shifted_positions(fit, seed)
    flat = np.flatnonzero(fit.valid.ravel())
    # Numbers of the real positions, so that padding does not break runs.
    rank = np.full(fit.ids.size, -1)
    rank[flat] = np.arange(len(flat))
    steps = np.diff(rank[target[flat]])
    # Runs are cut where a document ends, here or there.
    assert (steps == 1).mean() > 1 - 2.5 * len(np.unique(fit.doc)) / len(flat)
    doc = np.repeat(fit.doc, fit.ctx_len)
    assert (doc[target[flat]] == doc[flat]).mean() < 0.1


def test_shift_by_hand() -> None:
    # Three documents of one token: the only offset allowed is one place along a random order.
    fit = plain_tokens([[1], [2], [3]])
    seen = {tuple(shifted_positions(fit, seed).tolist()) for seed in range(50)}
    assert seen == {(1, 2, 0), (2, 0, 1)}


def test_shifted_firings_are_the_same_firings_elsewhere(fit: Tokens) -> None:
    rng = np.random.default_rng(0)
    acts = np.where(rng.random((fit.ids.size, 3)) < 0.1, rng.random((fit.ids.size, 3)), 0)
    acts = (acts * fit.valid.ravel()[:, None]).astype(np.float32)
    firings = firings_of(acts)
    target = shifted_positions(fit, 3)
    moved = shift_firings(firings, target)
    assert np.array_equal(moved.start, firings.start)
    assert np.array_equal(moved.act, firings.act)
    assert (moved.position >= 0).all()
    dense = np.zeros_like(acts)
    dense[moved.position, moved.column] = moved.act
    assert np.array_equal(dense[target[fit.valid.ravel()]], acts[fit.valid.ravel()])


# -- dispersion ------------------------------------------------------------------------------------


def test_dispersion_by_hand() -> None:
    # Two documents of ten tokens, padded to twelve: four firings in the one, none in the other.
    # chi2 = (4 - 2)^2 / 2 + (0 - 2)^2 / 2 = 4 on one degree of freedom.
    padded = plain_tokens([[1] * 10, [2] * 10, [3] * 12])
    fit = padded.select(np.array([0, 1]))
    acts = np.zeros((24, 3), dtype=np.float32)
    acts[[0, 3, 5, 9], 0] = 1
    acts[[0, 3, 12, 15], 1] = 1
    assert dispersion(fit, firings_of(acts)).tolist() == [4, 1, 1]


def test_dispersion_of_independent_firings_is_one_and_of_bursts_more(fit: Tokens) -> None:
    rng = np.random.default_rng(1)
    doc = np.repeat(fit.doc, fit.ctx_len)
    rate = np.full((fit.ids.size, 100), 0.05)
    rate[:, 50:] *= rng.gamma(0.5, 2, size=(len(fit.doc_ids), 50))[doc]
    acts = (rng.random(rate.shape) < rate) & fit.valid.ravel()[:, None]
    found = dispersion(fit, firings_of(acts.astype(np.float32)))
    assert (found >= 1).all()
    assert found[:50].mean() < 1.2
    assert found[50:].mean() > 2
    one = replace(fit, doc=np.zeros_like(fit.doc))
    assert (dispersion(one, firings_of(acts.astype(np.float32))) == 1).all()


# -- p-values --------------------------------------------------------------------------------------


def test_p_values_by_hand() -> None:
    null = np.arange(100.0)
    p = p_values(np.array([-5.0, 0.0, 49.5, 90.0]), null)
    assert p.tolist() == pytest.approx([1, 1, 51 / 101, 11 / 101])
    # Beyond 90, exponential with the mean excess of 90, ..., 99, which is 4.5.
    beyond = p_values(np.array([99.0, 108.0, 1e6]), null)
    tail = 11 / 101 * np.exp(-np.array([9, 18]) / 4.5)
    assert beyond[:2].tolist() == pytest.approx(np.maximum(tail, [1 / 101, 0]).tolist())
    assert 0 < beyond[2] < 1e-300
    # The tail never promises more than the draws themselves show.
    null = np.append(np.zeros(990), [1.0] * 9 + [100.0])
    assert p_values(np.array([99.0]), null)[0] == 1 / 1001


def test_p_values_fall_with_the_score_and_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    null, observed = rng.normal(size=500), np.sort(rng.normal(size=1000) * 3)
    p = p_values(observed, null)
    assert (np.diff(p) <= 0).all()
    assert ((p > 0) & (p <= 1)).all()
    assert np.array_equal(p, p_values(observed, null[::-1]))
    assert np.array_equal(p[::-1], p_values(observed[::-1], null))


def test_few_draws_and_equal_draws_are_no_fault() -> None:
    assert p_values(np.array([0.0, 1.0]), np.array([0.5])).tolist()[0] == 1
    p = p_values(np.array([-1.0, 0.0, 1.0]), np.zeros(50))
    assert p[:2].tolist() == [1, 1]
    assert 0 < p[2] < 0.01


@pytest.mark.parametrize("draw", ["exponential", "normal"])
def test_p_values_are_uniform_far_into_the_tail(draw: str) -> None:
    rng = np.random.default_rng(2)
    small = []
    for _ in range(30):
        null, observed = (getattr(rng, draw)(size=n) for n in (1000, 20_000))
        p = p_values(observed, null)
        assert 0.05 < (p < TAIL).mean() < 0.15
        small.append((p < 1e-4).mean())
    # A thousand draws alone could not tell; a light tail makes it cautious.
    assert np.mean(small) < 3e-4
    if draw == "exponential":
        assert np.mean(small) > 3e-5


# -- false discovery -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 50, 1000])
def test_benjamini_hochberg_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    p = rng.random(n) ** rng.integers(1, 6, n)
    p[: n // 10] = 0.5
    assert np.allclose(benjamini_hochberg(p), stats.false_discovery_control(p, method="bh"))


def test_benjamini_hochberg_of_nothing() -> None:
    assert benjamini_hochberg(np.zeros(0)).tolist() == []


# -- the whole search under the null ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("bursty", [False, True])
def test_the_search_on_noise_has_uniform_p_values(bursty: bool) -> None:
    fit = make_tokens(72, n_docs=80, n_vocab=40, ctx_len=32, contexts_per_doc=(3, 12)).fit
    tree, nodes = KeyTree.build(fit, ["bigram", "previous_token", "topic"])
    rng = np.random.default_rng(3)
    n = 400
    doc = np.repeat(fit.doc, fit.ctx_len)
    rate = np.exp(rng.uniform(np.log(0.004), np.log(0.1), n))
    if bursty:
        rate = rate * rng.gamma(0.5, 2, size=(len(fit.doc_ids), n))[doc]
    acts = (rng.random((fit.ids.size, n)) < rate) & fit.valid.ravel()[:, None]
    made = Material.make(tree, nodes, fit)
    result = fit_hookpoint(made, firings_of(acts.astype(np.float32)))
    p = result.p[result.fitted]
    assert len(p) > 200
    assert not result.labeled.any()
    for level in (0.02, 0.1, 0.5):
        # Draws share shifts, so that they are not quite independent.
        assert (p <= level).mean() < level + 4 * np.sqrt(level / len(p)) + 0.02
    assert (p <= 0.5).mean() > 0.3
    # The same noise on the tokens that it fires on: the search finds it again.
    sharp = acts & (np.repeat(fit.ids.ravel()[:, None] % 5 == 0, n, axis=1))
    found = fit_hookpoint(made, firings_of(sharp.astype(np.float32)))
    many = found.count > 100
    assert many.any()
    assert found.labeled[many].mean() > 0.5
