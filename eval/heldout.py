"""Scores of all labels on held-out documents at the natural base rate (design.md, 7.1)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from labeler.arrays import Doubles
from labeler.cache import LatentCache
from labeler.eval.bootstrap import document_weights, interval
from labeler.eval.firings import TextFirings
from labeler.eval.ranking import RankHistogram, ratio
from labeler.labels import Budget, LabelSet
from labeler.level import Nodes
from labeler.threads import map_threads
from labeler.tokens import HELDOUT, Tokens

_ROUNDING = 1e-4
"""Relative error of a sum of a thousand equal float32 numbers, and more."""

_SUMS = ("n", "fires", "called", "hit", "predicted", "predicted2", "act", "act2", "product")


@dataclass(frozen=True, eq=False)
class DocumentSums:
    """Sums per (document, latent) that every threshold score and its interval follow from.

    Each float64 [n_documents, n_latents]; `n` float64 [n_documents, 1].
    """

    n: Doubles
    fires: Doubles
    called: Doubles
    hit: Doubles
    predicted: Doubles
    predicted2: Doubles
    act: Doubles
    act2: Doubles
    product: Doubles

    def total(self) -> "DocumentSums":
        """Sums over all documents, [1, n_latents]."""
        return DocumentSums(*(getattr(self, name).sum(axis=0, keepdims=True) for name in _SUMS))

    def resampled_f1(self, weights: Doubles) -> Doubles:
        """F1 of each resample, from weights [n_resamples, n_documents]."""
        hit, called, fires = (weights @ part for part in (self.hit, self.called, self.fires))
        f1: Doubles = 2 * hit / np.maximum(called + fires, 1e-12)
        return f1

    def f1(self) -> Doubles:
        """2 hit / (called + fires); 0 where nothing is called nor fires."""
        return 2 * self.hit / np.maximum(self.called + self.fires, 1e-12)

    def precision(self) -> Doubles:
        """Share of called positions that fire; NaN where none is called."""
        return ratio(self.hit, self.called)

    def recall(self) -> Doubles:
        """Share of firings that are called; NaN where none fires."""
        return ratio(self.hit, self.fires)

    def specificity(self) -> Doubles:
        """Share of silent positions that are not called."""
        return 1 - ratio(self.called - self.hit, self.n - self.fires)

    def pearson(self) -> Doubles:
        """Correlation of prediction and activation; NaN where either is constant."""
        covariance = self.product - self.predicted * self.act / self.n
        one = _spread(self.predicted2, self.predicted, self.n)
        return ratio(covariance, np.sqrt(one * _spread(self.act2, self.act, self.n)))

    def r2(self) -> Doubles:
        """1 - squared error / sum of squares about the held-out mean; NaN if it never fires."""
        error = self.act2 - 2 * self.product + self.predicted2
        return 1 - ratio(error, self.act2 - self.act**2 / self.n)


def _spread(square: Doubles, total: Doubles, n: Doubles) -> Doubles:
    """Sum of squares about the mean; 0 for a constant, whose float32 sums leave a little over."""
    spread: Doubles = square - total**2 / n
    return np.where(spread > _ROUNDING * square, spread, 0.0)


@dataclass(frozen=True, eq=False)
class HeldoutScores:
    """Scores of a hookpoint's labels under one key budget.

    Attributes
    ----------
    budget : int or "unlimited"
    latents : polars.DataFrame
        A row per latent: latent, n_heldout, f1, f1_low, f1_high, precision, recall, specificity,
        auroc, average_precision, pearson, r2, false_per_1000.
    resampled : float64 [n_resamples, n_latents]
        F1 of each resample of documents.
    """

    budget: Budget
    latents: pl.DataFrame
    resampled: Doubles


def score_heldout(
    labels: LabelSet,
    heldout: Tokens,
    firings: TextFirings,
    *,
    budgets: Sequence[Budget],
    seed: int = 0,
    nodes: Mapping[str, Nodes] | None = None,
    advance: Callable[[float], None] = lambda n: None,
) -> list[HeldoutScores]:
    """Score every latent of a hookpoint under each budget.

    `nodes` are those of the held-out text in the shared tree, where they are known already;
    `advance` is told the contexts done, for each budget.
    """
    found = labels.tree.complete(labels.shared.find(heldout) if nodes is None else nodes)
    weights = document_weights(len(np.unique(heldout.doc)), seed)

    def score(budget: Budget) -> HeldoutScores:
        sums, ranks = _sums(labels, heldout, firings, budget, found, advance)
        resampled = sums.resampled_f1(weights)
        low, high = interval(resampled)
        total = sums.total()
        columns = {
            "f1": total.f1(),
            "precision": total.precision(),
            "recall": total.recall(),
            "specificity": total.specificity(),
            "pearson": total.pearson(),
            "r2": total.r2(),
            "false_per_1000": 1000 * (total.called - total.hit) / total.n,
        }
        frame = pl.DataFrame(
            {
                "latent": np.arange(labels.n_latents, dtype=np.int32),
                "n_heldout": total.fires[0].astype(np.int64),
                "f1_low": low,
                "f1_high": high,
                "auroc": ranks.auroc(),
                "average_precision": ranks.average_precision(),
                **{name: values[0] for name, values in columns.items()},
            }
        )
        return HeldoutScores(budget, frame, resampled)

    for budget in budgets:
        labels.predictor(budget)  # made here, so that threads do not make it twice
    return map_threads(score, budgets)


def _sums(
    labels: LabelSet,
    heldout: Tokens,
    firings: TextFirings,
    budget: Budget,
    nodes: Mapping[str, Nodes],
    advance: Callable[[float], None],
) -> tuple[DocumentSums, RankHistogram]:
    documents, document = np.unique(heldout.doc, return_inverse=True)
    predictor = labels.predictor(budget)
    shape = (len(documents), labels.n_latents)
    sums = {name: np.zeros(shape) for name in _SUMS}
    sums["n"] = np.bincount(document, weights=heldout.length)[:, None].astype(np.float64)
    ranks = RankHistogram.empty(labels.n_latents)
    for span, predicted in predictor.iterate(heldout, nodes):
        begin, end = span.start * heldout.ctx_len, span.stop * heldout.ctx_len
        valid = heldout.valid[span].ravel()
        act = firings.dense(begin, end)[valid]
        predicted = predicted[valid]
        fires, called = act > 0, predicted >= predictor.threshold
        ranks.add(predicted, fires)
        rows = np.repeat(document[span], heldout.length[span])
        flags = {"fires": fires, "called": called, "hit": fires & called}
        values = {name: flag.astype(np.float32) for name, flag in flags.items()}
        values |= {"predicted": predicted, "act": act}
        products = {
            "predicted2": (predicted, predicted),
            "act2": (act, act),
            "product": (predicted, act),
        }
        # Contexts come in order of documents: add up runs of rows of the same document.
        edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))
        for low, high in pairwise(edges.tolist()):
            row = rows[low]
            for name, value in values.items():
                sums[name][row] += value[low:high].sum(axis=0)
            for name, (one, other) in products.items():
                sums[name][row] += np.einsum("ij,ij->j", one[low:high], other[low:high])
        advance(span.stop - span.start)
    return DocumentSums(**sums), ranks


def load_heldout_firings(cache: LatentCache, hookpoint: str, tokens: Tokens) -> TextFirings:
    """The held-out firings of a hookpoint; contexts counted from the first held-out one."""
    n_fit = int((tokens.fold != HELDOUT).sum()) * tokens.ctx_len
    shards = list(cache.iter_shards(hookpoint, "heldout"))
    return TextFirings.make(
        np.concatenate([found.position - n_fit for found in shards]),
        np.concatenate([found.latent for found in shards]),
        np.concatenate([found.act for found in shards]),
        n_positions=tokens.ids.size - n_fit,
        n_latents=cache.num_latents(hookpoint),
    )
