"""Corrections of whole tables: against a loop over folds and positions, and the way to disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeler.corrections import (
    _CUT,
    _SHRINKAGE,
    LEAST_GAIN,
    MOST,
    Correction,
    Membership,
    Residuals,
    join_fitted,
    pick_corrections,
)
from labeler.curves import BINS_PER_OCTAVE, N_BINS
from labeler.fitted import HookpointFit
from labeler.labels import ALL_BUDGETS, LabelSet
from labeler.tables import write_extra
from labeler.tokens import Tokens
from tests.oracles import correct, cross_validate
from tests.synthetic import Acts, Material, make_tokens, material, random_acts, save_fit

LEVELS = ["unigram+topic", "bigram+topic", "unigram+previous_token"]
WIDTH = 4


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(161, n_docs=70, n_vocab=8)
    names = ["bigram", *LEVELS]
    acts = random_acts(tokens.fit, WIDTH, seed=8)
    return material(tokens, names, acts, scored=["unigram"])


def centred(made: Material) -> np.ndarray:
    """Residuals of the mean, float32 [n_positions, n_latents]; 0 at padding."""
    valid = made.fit.valid.ravel()
    left = made.acts - made.acts[valid].mean(axis=0)
    left[~valid] = 0
    return left.astype(np.float32)


def residuals_of(made: Material, left: np.ndarray) -> Residuals:
    return Residuals(left.copy(), made.fit.n_positions)


# -- one correction --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("shrinkage", [1.0, 32.0])
def test_a_fit_is_that_of_a_naive_loop_out_of_fold(
    made: Material, name: str, shrinkage: float
) -> None:
    left = centred(made)
    wanted = correct(made, name, left, shrinkage, _CUT)
    residuals = residuals_of(made, left)
    assert np.allclose(residuals.error, (left.astype(np.float64) ** 2).sum(axis=0), rtol=1e-5)
    member = Membership.make(made.rows[name])
    gains = residuals.gains(member, [shrinkage, 7.0])
    assert np.allclose(gains[0], wanted.gain, rtol=1e-3, atol=1e-2)
    assert not np.allclose(gains[0], gains[1], rtol=1e-3)
    # Asking what it would save changes nothing.
    assert np.array_equal(residuals.left, left)
    fitted = residuals.fit(member, shrinkage)
    serves = wanted.gain > 0
    assert serves.any()
    assert np.allclose(fitted.gain, np.where(serves, wanted.gain, 0), rtol=1e-3, atol=1e-2)
    after = left - np.where(serves, wanted.effect, 0)
    assert np.allclose(residuals.left, after, rtol=1e-4, atol=1e-5)
    assert np.allclose(residuals.error, (after**2).sum(axis=0), rtol=1e-4)
    found = dict(
        zip(
            zip(fitted.node.tolist(), fitted.latent.tolist(), strict=True),
            fitted.value,
            strict=True,
        )
    )
    cells = {
        (node, latent): value
        for node, values in wanted.whole.items()
        for latent, value in enumerate(values.tolist())
        if value and serves[latent]
    }
    assert set(found) == set(cells)
    assert len(found) == len(fitted.node) > 5
    assert all(found[cell] == pytest.approx(value, rel=1e-4) for cell, value in cells.items())
    # Cells too small to tell from nothing are left out, and some are.
    assert len(cells) < len(wanted.whole) * serves.sum()


def test_corrections_follow_one_another(made: Material) -> None:
    """Each is fitted to what the last one leaves."""
    left = centred(made)
    residuals = residuals_of(made, left)
    for name in LEVELS:
        wanted = correct(made, name, left, 8.0, _CUT)
        left = left - np.where(wanted.gain > 0, wanted.effect, 0)
        residuals.fit(Membership.make(made.rows[name]), 8.0)
        assert np.allclose(residuals.left, left, rtol=1e-3, atol=1e-4)


def test_a_latent_that_it_would_harm_does_without(made: Material) -> None:
    """Each fold's own residuals at a key are the opposite of the others'."""
    left = centred(made)
    name = LEVELS[0]
    node = made.nodes[name].ravel()
    fold = np.repeat(made.fit.fold, made.fit.ctx_len)
    # Fold 0 against all others, at every key.
    left[:, 1] = np.where(node < 0, 0, np.where(fold == 0, -5.0, 1.0))
    wanted = correct(made, name, left, 1.0, _CUT)
    assert wanted.gain[1] < 0 < wanted.gain[0]
    residuals = residuals_of(made, left)
    fitted = residuals.fit(Membership.make(made.rows[name]), 1.0)
    assert np.array_equal(residuals.left[:, 1], left[:, 1])
    assert residuals.error[1] == pytest.approx(float((left[:, 1] ** 2).sum()))
    assert fitted.gain[1] == 0
    assert 1 not in fitted.latent
    assert 0 in fitted.latent


def test_keys_of_one_fold_correct_nothing(made: Material) -> None:
    name = "bigram+topic"
    member = Membership.make(made.rows[name])
    once = made.tree.levels[name].n.astype(bool).sum(axis=1) == 1
    assert once.sum() > 5
    fitted = residuals_of(made, centred(made)).fit(member, 0.1)
    assert not once[fitted.node].any()


def test_blocks_are_joined_by_latent(made: Material) -> None:
    left, member = centred(made), Membership.make(made.rows[LEVELS[0]])
    whole = residuals_of(made, left).fit(member, 8.0)
    parts = [
        residuals_of(made, left[:, span]).fit(member, 8.0) for span in np.split(np.arange(4), 2)
    ]
    joined = join_fitted(parts, [0, 2])

    def cells(fitted: object) -> list[tuple[int, int, float]]:
        columns = (getattr(fitted, name).tolist() for name in ("latent", "node", "value"))
        return sorted(zip(*columns, strict=True))

    assert [cell[:2] for cell in cells(joined)] == [cell[:2] for cell in cells(whole)]
    assert np.allclose([cell[2] for cell in cells(joined)], [c[2] for c in cells(whole)], rtol=1e-4)
    assert np.allclose(joined.gain, whole.gain, rtol=1e-3)


# -- which corrections -----------------------------------------------------------------------------


def test_corrections_are_picked_greedily(made: Material) -> None:
    members = {name: Membership.make(made.rows[name]) for name in LEVELS}
    left = centred(made)
    picked = pick_corrections(members, residuals_of(made, left))
    open_, wanted = list(LEVELS), []
    for _ in range(MOST):
        error = (left.astype(np.float64) ** 2).sum(axis=0)
        tried = {
            (name, value): correct(made, name, left, value, _CUT)
            for name in open_
            for value in _SHRINKAGE
        }
        share = {key: np.maximum(one.gain / error, 0).mean() for key, one in tried.items()}
        best = max(share, key=lambda key: share[key])
        if share[best] < LEAST_GAIN:
            break
        wanted.append(Correction(*best))
        open_.remove(best[0])
        left = left - np.where(tried[best].gain > 0, tried[best].effect, 0)
        if not open_:
            break
    assert len(wanted) > 1
    assert picked == wanted


def test_noise_is_not_corrected(made: Material) -> None:
    members = {name: Membership.make(made.rows[name]) for name in LEVELS}
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(made.fit.ids.size, 32)).astype(np.float32)
    noise[~made.fit.valid.ravel()] = 0
    assert pick_corrections(members, residuals_of(made, noise)) == []
    residuals = residuals_of(made, noise)
    for member in members.values():
        # Whatever is kept of noise is little.
        assert (residuals.fit(member, 32.0).gain.sum() / residuals.error.sum()) < LEAST_GAIN


# -- a hookpoint's corrections, the whole way ------------------------------------------------------


TILTED, PLAIN, NOISE = range(3)
SHIFT = 1.0


def planted(tokens: Tokens, keys: np.ndarray) -> Acts:
    """Three latents on tokens below 6; one is weaker or stronger by a further key [n].

    Variance among its firings: SHIFT^2 by the further key, about 0.3^2 of noise.
    """
    rng = np.random.default_rng(tokens.n_ctx)
    ids, valid = tokens.ids.ravel(), tokens.valid.ravel()
    sign = np.random.default_rng(1).permutation(np.repeat([-1.0, 1.0], 50))
    acts = np.zeros((len(ids), 3))
    base = 3 + 0.2 * ids + rng.normal(0, 0.3, len(ids))
    acts[:, TILTED] = np.where(ids < 6, base + SHIFT * sign[(7 * ids + 3 * keys) % 100], 0)
    acts[:, PLAIN] = np.where(ids < 6, base, 0)
    acts[:, NOISE] = (rng.random(len(ids)) < 0.05) * base
    acts[~valid] = 0
    return np.maximum(acts, 0).astype(np.float32)


def previous(tokens: Tokens) -> np.ndarray:
    before = np.full_like(tokens.ids, 11)
    before[:, 1:] = tokens.ids[:, :-1]
    return before.ravel()


@pytest.fixture(scope="module")
def corpus() -> Tokens:
    return make_tokens(162, n_docs=220, n_vocab=10, contexts_per_doc=(3, 5), zipf=0.3, tilt=0.4)


@pytest.fixture(scope="module")
def tilted(corpus: Tokens) -> Material:
    names = ["unigram", "unigram+previous_token", "unigram+topic"]
    acts = planted(corpus.fit, previous(corpus.fit))
    return material(corpus, names, acts, scored=["unigram"])


@pytest.fixture(scope="module")
def fit(tilted: Material) -> HookpointFit:
    return tilted.fitted()


@pytest.fixture(scope="module")
def labels(
    tilted: Material, fit: HookpointFit, tmp_path_factory: pytest.TempPathFactory
) -> LabelSet:
    return save_fit(tmp_path_factory.mktemp("run"), tilted, fit)


def r2(acts: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    left, total = acts - predicted, acts - acts.mean(axis=0)
    return 1 - (left**2).sum(axis=0) / (total**2).sum(axis=0)


@pytest.mark.slow
def test_a_planted_residual_raises_held_out_r2_by_what_it_should(
    corpus: Tokens, fit: HookpointFit, labels: LabelSet
) -> None:
    assert [one.level for one in fit.corrections] == ["unigram+previous_token"]
    assert fit.types == ["unigram"]
    assert labels.labeled.tolist() == [True, True, False]
    heldout = corpus.heldout
    valid = heldout.valid.ravel()
    before = previous(heldout)
    acts = planted(heldout, before)[valid].astype(np.float64)
    predictor = labels.predictor("unlimited")
    predicted = predictor.predict(heldout).reshape(-1, 3)[valid]
    plain = type(predictor)(
        predictor.tree, predictor.tables, predictor.default, predictor.runs, predictor.threshold
    )
    alone = plain.predict(heldout).reshape(-1, 3)[valid]
    # What the further key explains, knowing the truth of every pair; contexts begin without one.
    ids = heldout.ids.ravel()[valid]
    known = before[valid] != 11
    truth = {
        (token, last): acts[(ids == token) & (before[valid] == last), TILTED].mean()
        for token, last in set(zip(ids[known].tolist(), before[valid][known].tolist(), strict=True))
    }
    best = np.array(
        [
            truth.get((token, last), one)
            for token, last, one in zip(
                ids.tolist(), before[valid].tolist(), alone[:, TILTED].tolist(), strict=True
            )
        ]
    )
    could = r2(acts[:, TILTED], best) - r2(acts[:, TILTED], alone[:, TILTED])
    gain = r2(acts, predicted) - r2(acts, alone)
    assert could > 0.08
    assert 0.85 * could < gain[TILTED] <= could
    # Who has nothing left over is left alone, and who has no label has no table.
    assert abs(gain[PLAIN]) < 0.003
    assert gain[NOISE] == 0
    # The fit's own estimate, out of fold, is what held-out text shows.
    assert fit.r2_whole[TILTED] == pytest.approx(r2(acts, predicted)[TILTED], abs=0.03)
    assert fit.r2_whole[TILTED] - fit.r2[0, TILTED] == pytest.approx(gain[TILTED], abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("scored", [["unigram"], ["bigram", "previous_token"]])
def test_out_of_fold_figures_are_those_of_a_naive_loop(made: Material, scored: list[str]) -> None:
    """R2, F1 and threshold of whole tables with corrections, refitted without each fold."""
    acts = made.acts.astype(np.float64)
    if len(scored) > 1:
        # One latent that only the token before tells of.
        before = previous(made.fit)
        noise = np.random.default_rng(0).exponential(size=len(acts))
        acts[:, 0] = noise * np.isin(before, [2, 3]) * made.fit.valid.ravel()
        # Stronger in some subjects than in others.
        subject = np.array([int(topics[0][-1]) for topics in made.fit.topics])
        acts *= np.array([0.3, 1, 2])[np.repeat(subject[made.fit.doc], made.fit.ctx_len)][:, None]
    names = ["bigram", "previous_token", *LEVELS]
    made = material(made.tokens, names, acts.astype(np.float32), scored=scored)
    fit = made.fitted()
    assert fit.corrections
    runs = [fit.types[index] for index in fit.runs]
    assert len(set(runs)) == len(scored)
    literal = cross_validate(made, fit.shrinkage)
    valid = made.fit.valid.ravel()
    predicted = np.stack([literal[name].mean[:, j] for j, name in enumerate(runs)], axis=1)
    left = np.where(valid[:, None], acts - predicted, 0)
    alone = 1 - (left**2).sum(axis=0) / fit.sst
    assert np.allclose(fit.r2[fit.runs, np.arange(WIDTH)], alone, atol=1e-4)
    for one, cells in zip(fit.corrections, fit.extra, strict=True):
        wanted = correct(made, one.level, left, one.shrinkage, _CUT)
        left -= np.where(wanted.gain > 0, wanted.effect, 0)
        assert np.allclose(cells.gain, np.maximum(wanted.gain, 0), rtol=1e-2, atol=0.05)
    assert np.allclose(fit.r2_whole, 1 - (left**2).sum(axis=0) / fit.sst, atol=1e-4)
    assert (fit.r2_whole > alone + 0.01).any()
    predicted = (acts - left)[valid]
    for latent in range(WIDTH):
        fires = acts[valid, latent] > 0

        def f1(cut: float, fires: np.ndarray = fires, latent: int = latent) -> float:
            called = predicted[:, latent] >= cut
            return 2 * (called & fires).sum() / (called.sum() + fires.sum())

        scale = acts[valid, latent][fires].mean()
        edges = [scale / 64 * 2 ** (step / BINS_PER_OCTAVE) for step in range(N_BINS - 1)]
        assert fit.f1[latent] == pytest.approx(f1(fit.threshold[latent]), abs=0.003)
        assert fit.f1[latent] == pytest.approx(max(f1(edge) for edge in edges), abs=0.003)


def test_corrections_read_back_predict_the_same(
    tilted: Material, fit: HookpointFit, labels: LabelSet
) -> None:
    text = make_tokens(163, n_docs=12, n_vocab=10)
    again = LabelSet.load(labels.folder).predictor("unlimited")
    assert list(again.extra) == [one.level for one in fit.corrections]
    predicted = again.predict(text).reshape(-1, 3)
    plain = type(again)(again.tree, again.tables, again.default, again.runs, again.threshold)
    wanted = plain.predict(text).reshape(-1, 3).astype(np.float64)
    for one, cells in zip(fit.corrections, fit.extra, strict=True):
        node = tilted.tree.find(text, [one.level])[one.level].ravel()
        for k, latent, value in zip(cells.node, cells.latent, cells.value, strict=True):
            if fit.labeled[latent]:
                wanted[node == k, latent] += value
    # Values are kept in half precision.
    assert np.allclose(predicted, np.maximum(wanted, 0), rtol=2e-3, atol=2e-3)
    assert np.abs(predicted[:, TILTED] - plain.predict(text).reshape(-1, 3)[:, TILTED]).max() > 0.5
    assert labels.manifest["corrections"] == [
        {"level": one.level, "shrinkage": one.shrinkage} for one in fit.corrections
    ]
    for budget in ALL_BUDGETS:
        assert np.array_equal(
            LabelSet.load(labels.folder).predictor(budget).predict(text),
            labels.predictor(budget).predict(text),
        )


def test_predictions_are_never_below_nothing(
    tilted: Material, fit: HookpointFit, tmp_path: Path
) -> None:
    """A correction may take more than there is."""
    labels = save_fit(tmp_path, tilted, fit)
    (one,), (cells,) = fit.corrections, fit.extra
    # Latents without a label are left out.
    write_extra(tmp_path / "some", tilted.tree, [one], [cells], np.array([False, True, True]))
    assert TILTED in cells.latent
    assert TILTED not in np.load(tmp_path / "some" / one.level / "latent.npy")
    large = replace(cells, value=(cells.value - 100).astype(np.float32))
    write_extra(labels.folder / "extra", tilted.tree, [one], [large], fit.labeled)
    text = make_tokens(163, n_docs=12, n_vocab=10)
    predicted = LabelSet.load(labels.folder).predictor("unlimited").predict(text)
    assert predicted.min() == 0
    at = np.isin(tilted.tree.find(text, [one.level])[one.level], cells.node[cells.latent == TILTED])
    assert (predicted[at, TILTED] == 0).all()
    assert at.any()


def test_fitting_again_without_corrections_removes_them(
    corpus: Tokens, tilted: Material, fit: HookpointFit, tmp_path: Path
) -> None:
    labels = save_fit(tmp_path, tilted, fit)
    assert labels.predictor("unlimited").extra
    other = material(corpus, ["unigram"], tilted.acts)
    again = save_fit(tmp_path, other, other.fitted())
    assert not again.predictor("unlimited").extra
    assert again.predictor("unlimited").tables
