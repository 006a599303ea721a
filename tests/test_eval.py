"""Held-out scores: by hand, against scikit-learn, and their intervals over documents."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn import metrics

from labeler.eval.bootstrap import document_weights, interval
from labeler.eval.explained import explained
from labeler.eval.heldout import DocumentSums, TextFirings, score_heldout
from labeler.eval.ranking import RankHistogram
from labeler.keytree import KeyTree
from labeler.labels import ALL_BUDGETS
from labeler.level import Nodes
from labeler.tokens import Tokens
from tests.synthetic import make_tokens, material, plain_tokens, random_acts, save_fit


@dataclass
class FixedPredictor:
    """Predictions and thresholds made up by the test, in the shape of a `Predictor`."""

    predicted: np.ndarray
    threshold: np.ndarray
    at_once: int = 3

    def iterate(
        self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        for begin in range(0, tokens.n_ctx, self.at_once):
            span = slice(begin, min(begin + self.at_once, tokens.n_ctx))
            low, high = span.start * tokens.ctx_len, span.stop * tokens.ctx_len
            yield span, self.predicted[low:high].copy()


@dataclass
class FixedLabels:
    """A `LabelSet` with one predictor for every budget."""

    made: FixedPredictor
    tree: KeyTree = field(default_factory=lambda: KeyTree({}, {}))

    @property
    def shared(self) -> KeyTree:
        return self.tree

    @property
    def n_latents(self) -> int:
        return self.made.predicted.shape[1]

    def predictor(self, budget: Any) -> FixedPredictor:
        return self.made


def firings_of(acts: np.ndarray) -> TextFirings:
    position, latent = np.nonzero(acts)
    return TextFirings.make(
        position,
        latent,
        acts[position, latent],
        n_positions=acts.shape[0],
        n_latents=acts.shape[1],
    )


def scores(
    heldout: Tokens, acts: np.ndarray, predicted: np.ndarray, threshold: np.ndarray
) -> pl.DataFrame:
    labels: Any = FixedLabels(FixedPredictor(predicted.astype(np.float32), threshold))
    return score_heldout(labels, heldout, firings_of(acts), budgets=[16])[0].latents


@dataclass
class Example:
    """Random activations and predictions that lean towards them; some latents are special."""

    heldout: Tokens
    acts: np.ndarray
    predicted: np.ndarray
    threshold: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        return self.heldout.valid.ravel()


SILENT, CONSTANT, NEVER_CALLED = 5, 6, 7


@pytest.fixture(scope="module")
def example() -> Example:
    heldout = make_tokens(81, n_docs=50, heldout=0.999).heldout
    rng = np.random.default_rng(0)
    shape = (heldout.ids.size, 8)
    fires = rng.random(shape) < np.array([0.02, 0.05, 0.1, 0.3, 0.6, 0, 0.1, 0.1])
    acts = fires * np.exp(rng.normal(0, 0.5, shape)) * np.array([0.01, 1, 1, 5, 100, 1, 1, 1])
    scale = np.maximum(acts.max(axis=0), 1)
    predicted = np.abs(0.3 * acts + scale * 0.05 * rng.exponential(size=shape))
    predicted[:, CONSTANT] = 0.0123
    # What stands at padded positions must not matter.
    padding = ~heldout.valid.ravel()
    predicted[padding] = 1e3
    acts[padding] = 0
    threshold = np.quantile(predicted, 0.8, axis=0).astype(np.float32)
    threshold[NEVER_CALLED] = np.inf
    return Example(heldout, acts.astype(np.float32), predicted, threshold)


@pytest.fixture(scope="module")
def frame(example: Example) -> pl.DataFrame:
    return scores(example.heldout, example.acts, example.predicted, example.threshold)


ORDINARY = range(5)


# -- thresholded scores ----------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    # Two documents of 4 and 2 tokens. Called: t = 0, 1 of the first, t = 0 of the second.
    heldout = plain_tokens([[1, 2, 3, 4], [1, 2]], fold=[-1, -1])
    acts = np.array([2, 0, 1, 0, 3, 0, 0, 0], dtype=np.float32)[:, None]
    predicted = np.array([2, 1, 0.5, 0, 2, 0, 9, 9])[:, None]
    frame = scores(heldout, acts, predicted, np.array([1.0]))
    row = frame.row(0, named=True)
    assert row["n_heldout"] == 3
    assert row["precision"] == pytest.approx(2 / 3)
    assert row["recall"] == pytest.approx(2 / 3)
    assert row["f1"] == pytest.approx(2 / 3)
    assert row["specificity"] == pytest.approx(2 / 3)
    assert row["false_per_1000"] == pytest.approx(1000 / 6)
    # Of 9 pairs of a firing and a silent position, the firing one is ahead but for 0.5 < 1.
    assert row["auroc"] == pytest.approx(8 / 9)
    # Firing at 2 (2 of 2), at 0.5 (3 of 4).
    assert row["average_precision"] == pytest.approx((2 / 3) * 1 + (1 / 3) * 3 / 4)
    # Errors 0, 1, 0.25, 0, 1, 0; squares about the mean of 1: 1 + 1 + 0 + 1 + 4 + 1.
    assert row["r2"] == pytest.approx(1 - 2.25 / 8)
    product = 2 * 2 + 0.5 + 3 * 2
    by_hand = (product - 5.5 * 6 / 6) / np.sqrt((9.25 - 5.5**2 / 6) * 8)
    assert row["pearson"] == pytest.approx(by_hand)


def test_threshold_scores_are_scikit_learns(example: Example, frame: pl.DataFrame) -> None:
    valid = example.valid
    for latent in ORDINARY:
        fires = example.acts[valid, latent] > 0
        called = example.predicted[valid, latent].astype(np.float32) >= example.threshold[latent]
        row = frame.row(latent, named=True)
        assert row["latent"] == latent
        assert row["n_heldout"] == fires.sum()
        assert row["precision"] == pytest.approx(metrics.precision_score(fires, called))
        assert row["recall"] == pytest.approx(metrics.recall_score(fires, called))
        assert row["f1"] == pytest.approx(metrics.f1_score(fires, called))
        specificity = metrics.recall_score(~fires, ~called)
        assert row["specificity"] == pytest.approx(specificity)
        false = 1000 * (called & ~fires).mean()
        assert row["false_per_1000"] == pytest.approx(false)


def test_pearson_and_r2_are_scipys_and_scikit_learns(example: Example, frame: pl.DataFrame) -> None:
    valid = example.valid
    for latent in ORDINARY:
        acts = example.acts[valid, latent].astype(np.float64)
        predicted = example.predicted[valid, latent]
        row = frame.row(latent, named=True)
        assert row["pearson"] == pytest.approx(stats.pearsonr(predicted, acts)[0], abs=1e-4)
        assert row["r2"] == pytest.approx(metrics.r2_score(acts, predicted), abs=1e-4)


def test_latents_that_a_score_does_not_apply_to(frame: pl.DataFrame) -> None:
    silent, constant = (frame.row(latent, named=True) for latent in (SILENT, CONSTANT))
    assert silent["n_heldout"] == 0
    for name in ("recall", "auroc", "average_precision", "r2", "pearson"):
        assert np.isnan(silent[name])
    assert silent["precision"] == 0
    assert silent["f1"] == 0
    assert np.isnan(constant["pearson"])
    assert constant["auroc"] == pytest.approx(0.5)
    never = frame.row(NEVER_CALLED, named=True)
    assert np.isnan(never["precision"])
    assert (never["f1"], never["recall"], never["specificity"]) == (0, 0, 1)
    assert never["auroc"] > 0.5


@pytest.mark.parametrize("mean", [1e-4, 0.0123, 0.3, 7.7, 123.4])
def test_a_constant_prediction_has_no_correlation(example: Example, mean: float) -> None:
    predicted = np.full_like(example.predicted, mean)
    frame = scores(example.heldout, example.acts, predicted, example.threshold)
    assert frame["pearson"].is_nan().all()


def test_batches_and_padding_do_not_matter(example: Example, frame: pl.DataFrame) -> None:
    predicted = example.predicted.copy()
    predicted[~example.valid] = 0
    made = FixedPredictor(predicted.astype(np.float32), example.threshold, at_once=1000)
    labels: Any = FixedLabels(made)
    found = score_heldout(labels, example.heldout, firings_of(example.acts), budgets=[16, 100])
    assert [score.budget for score in found] == [16, 100]
    for score in found:
        for name in frame.columns:
            assert np.allclose(score.latents[name], frame[name], rtol=1e-4, equal_nan=True)


# -- ranking ---------------------------------------------------------------------------------------


def test_ranking_is_scikit_learns_up_to_the_bins(example: Example, frame: pl.DataFrame) -> None:
    for latent in ORDINARY:
        fires = example.acts[example.valid, latent] > 0
        predicted = example.predicted[example.valid, latent]
        row = frame.row(latent, named=True)
        assert row["auroc"] == pytest.approx(metrics.roc_auc_score(fires, predicted), abs=0.01)
        precision = metrics.average_precision_score(fires, predicted)
        assert row["average_precision"] == pytest.approx(precision, abs=0.03)


def test_ranking_of_few_distinct_predictions_is_exact() -> None:
    rng = np.random.default_rng(1)
    values = np.array([0, 1e-4, 0.01, 0.02, 1, 1.3, 40, 5000], dtype=np.float32)
    level = rng.integers(0, 8, (2000, 3))
    fires = rng.random(level.shape) < level / 10
    ranks = RankHistogram.empty(3)
    for part in np.array_split(np.arange(2000), 7):
        ranks.add(values[level[part]], fires[part])
    for latent in range(3):
        wanted = metrics.roc_auc_score(fires[:, latent], values[level[:, latent]])
        assert ranks.auroc()[latent] == pytest.approx(wanted)
        wanted = metrics.average_precision_score(fires[:, latent], values[level[:, latent]])
        assert ranks.average_precision()[latent] == pytest.approx(wanted)


def test_bins_keep_the_order_of_predictions() -> None:
    ordered = np.geomspace(1e-6, 4000, 3000, dtype=np.float32)
    bins = []
    for value in [-5.0, 0.0, *ordered.tolist(), 1e9]:
        ranks = RankHistogram.empty(1)
        ranks.add(np.array([[value]], dtype=np.float32), np.array([[True]]))
        bins.append(int(ranks.positions[:, 0].argmax()))
    assert bins == sorted(bins)
    assert bins[0] == bins[1] == 0
    assert len(set(bins)) == len(ranks.positions)
    # One part in eight apart is told apart.
    pairs = zip(ordered.tolist(), bins[2:-1], strict=True)
    by_bin: dict[int, list[float]] = {}
    for value, row in pairs:
        by_bin.setdefault(row, []).append(value)
    assert max(max(values) / min(values) for values in by_bin.values()) <= 1.126


# -- intervals -------------------------------------------------------------------------------------


def test_document_weights_draw_each_document_once_on_average() -> None:
    weights = document_weights(40, seed=0, n=2000)
    assert weights.shape == (2000, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert np.allclose(weights.mean(axis=0), 1, atol=0.1)
    assert np.array_equal(weights, document_weights(40, seed=0, n=2000))
    assert not np.array_equal(weights, document_weights(40, seed=1, n=2000))


def test_interval_by_hand() -> None:
    samples = np.arange(1001.0)[:, None] * np.array([1.0, 2.0])
    samples = np.vstack([samples, [[np.nan, np.nan]]])
    low, high = interval(samples)
    assert low.tolist() == pytest.approx([25, 50])
    assert high.tolist() == pytest.approx([975, 1950])


def test_resampled_f1_is_the_f1_of_the_documents_drawn(example: Example) -> None:
    """Copies of documents, scored as text of their own, give the F1 of the resample."""
    heldout = example.heldout
    documents = np.unique(heldout.doc)
    weights = document_weights(len(documents), seed=0)
    labels: Any = FixedLabels(
        FixedPredictor(example.predicted.astype(np.float32), example.threshold)
    )
    found = score_heldout(labels, heldout, firings_of(example.acts), budgets=[16], seed=0)[0]
    assert found.resampled.shape == (len(weights), 8)
    called = example.predicted.astype(np.float32) >= example.threshold
    fires = example.acts > 0
    for draw in range(5):
        copies = np.repeat(weights[draw][np.searchsorted(documents, heldout.doc)], heldout.ctx_len)
        use = copies * example.valid
        hit = (use[:, None] * (called & fires)).sum(axis=0)
        both = (use[:, None] * called).sum(axis=0) + (use[:, None] * fires).sum(axis=0)
        assert np.allclose(found.resampled[draw], 2 * hit / np.maximum(both, 1e-12))
    low, high = found.latents["f1_low"].to_numpy(), found.latents["f1_high"].to_numpy()
    f1 = found.latents["f1"].to_numpy()
    assert (low <= f1 + 1e-9).all()
    assert (f1 <= high + 1e-9).all()
    assert (high - low)[:5].min() > 0.001


def document_sums(rng: np.random.Generator, n: int) -> DocumentSums:
    """Documents of 100 to 300 tokens whose rates of firing and of hits differ."""
    length = rng.integers(100, 300, (n, 1))
    rate = rng.beta(2, 18, (n, 1))
    fires = rng.binomial(length, rate)
    hit = rng.binomial(fires, rng.beta(8, 2, (n, 1)))
    called = hit + rng.binomial(length - fires, rng.beta(1, 60, (n, 1)))
    nothing = np.zeros((n, 1))
    return DocumentSums(length * 1.0, fires * 1.0, called * 1.0, hit * 1.0, *[nothing] * 5)


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = document_sums(rng, 200_000).total().f1()[0, 0]
    covered = []
    for trial in range(300):
        sums = document_sums(rng, 50)
        low, high = interval(sums.resampled_f1(document_weights(50, seed=trial, n=300)))
        covered.append(low[0] <= truth <= high[0])
    assert 0.89 <= np.mean(covered) <= 0.98


# -- explained -------------------------------------------------------------------------------------


def test_explained_by_hand() -> None:
    f1 = np.array([0.9, 0.7, 0.69, 0.95, 0.95])
    live = np.array([True, True, True, True, False])
    labeled = np.array([True, True, True, False, True])
    resampled = np.repeat(f1[None], 100, axis=0)
    # Two of four live latents reach 0.7 with a label; one more would without, one is not live.
    assert explained(f1, resampled, live, labeled, 0.7) == {"share": 0.5, "low": 0.5, "high": 0.5}
    assert explained(f1, resampled, live, labeled, 0.5)["share"] == 0.75
    assert explained(f1, resampled, live, labeled, 0.95)["share"] == 0
    nobody = np.zeros(5, dtype=bool)
    assert explained(f1, resampled, nobody, labeled, 0.7)["share"] == 0
    assert explained(f1, resampled, live, nobody, 0.7)["share"] == 0


def test_explained_interval_contains_the_share_and_stays_within_0_and_1() -> None:
    rng = np.random.default_rng(0)
    yes = np.ones(200, dtype=bool)
    for centre, spread in ((0.3, 0.1), (0.7, 0.1), (0.98, 0.1), (0.72, 0.01)):
        f1 = np.clip(rng.normal(centre, spread, 200), 0, 1)
        resampled = np.clip(f1 + rng.normal(0, 0.05, (500, 200)), 0, 1)
        found = explained(f1, resampled, yes, yes, 0.7)
        assert 0 <= found["low"] <= found["share"] <= found["high"] <= 1
        assert found["share"] == pytest.approx((f1 >= 0.7).mean())
        if centre == 0.7:
            assert 0.02 < found["high"] - found["low"] < 0.3


# -- real labels -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_of_real_labels(tmp_path: Path) -> None:
    tokens = make_tokens(82, n_docs=100, n_vocab=14)
    made = material(tokens, ["bigram"], random_acts(tokens.fit, 6, seed=4))
    labels = save_fit(tmp_path, made, made.fitted())
    heldout = tokens.heldout
    acts = random_acts(heldout, 6, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_heldout(labels, heldout, firings_of(acts), budgets=ALL_BUDGETS)
    assert [score.budget for score in found] == list(ALL_BUDGETS)
    # Nodes that are known already make no difference.
    nodes = labels.shared.find(heldout)
    again = score_heldout(labels, heldout, firings_of(acts), budgets=ALL_BUDGETS, nodes=nodes)
    for one, other in zip(again, found, strict=True):
        assert one.latents.equals(other.latents)
        assert np.array_equal(one.resampled, other.resampled)
    valid = heldout.valid.ravel()
    for score in found:
        predicted = labels.predictor(score.budget).predict(heldout).reshape(-1, 6)[valid]
        threshold = labels.predictor(score.budget).threshold
        for latent in np.flatnonzero(labels.labeled):
            fires = acts[valid, latent] > 0
            f1 = metrics.f1_score(fires, predicted[:, latent] >= threshold[latent])
            row = score.latents.row(int(latent), named=True)
            assert row["f1"] == pytest.approx(f1)
            auroc = metrics.roc_auc_score(fires, predicted[:, latent])
            assert row["auroc"] == pytest.approx(auroc, abs=0.03)
            assert auroc > 0.55
    assert labels.labeled.any()


def test_heldout_firings_by_hand() -> None:
    firings = TextFirings.make(
        np.array([0, 0, 2, 5]),
        np.array([1, 0, 1, 2]),
        np.array([1.0, 2.0, 3.0, 4.0]),
        n_positions=6,
        n_latents=3,
    )
    assert firings.count.tolist() == [1, 2, 1]
    assert firings.dense(0, 3).tolist() == [[2, 1, 0], [0, 0, 0], [0, 3, 0]]
    assert firings.dense(3, 6).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 4]]
    assert firings.dense(2, 2).shape == (0, 3)
