"""How well a claim fits what fires: precision in occurrences, recall in activation.

An *occurrence* of a claim is right if the latent fires at one of its tokens or at the one right
after: words span tokens, and people name the word after which a latent fires as often as the one at
which it does. *Precision* is the share of occurrences that are right. *Recall* is the share of the
latent's activation at tokens of occurrences or right after one. *AUROC* is that of the yes or no
"at an occurrence or right after" at firing against silent positions: (1 + its share of firing
positions - its share of silent ones) / 2. Rules and controls are read with the same leniency.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labeler.arrays import Bools, Doubles, Longs
from labeler.eval.audit.match import TextIndex
from labeler.eval.audit.spans import Spans
from labeler.eval.bootstrap import interval
from labeler.eval.trials import wilson

_OCCURRENCES, _RIGHT, _MASS, _COVERED, _FIRES, _FOUND, _TOKENS, _CALLED = range(8)

_LEVELS = 256
"""Steps of a score that resamples tell apart."""


@dataclass(frozen=True)
class Estimate:
    """A share and its 95% interval; NaN where it was not measured."""

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


class Held:
    """Where a claim holds, and what is counted of it whatever the latent.

    Parameters
    ----------
    index : TextIndex
    spans : Spans
    doc : int64 [n_tokens]
        Document of each token, from 0.
    n_docs : int
    """

    def __init__(self, index: TextIndex, spans: Spans, doc: Longs, n_docs: int) -> None:
        self.first = spans.first
        self.last: Longs = index.reach[spans.last]
        self.doc: Longs = doc[spans.first]
        self.occurrences = np.bincount(self.doc, minlength=n_docs).astype(np.float64)
        self._far: Longs = np.maximum.accumulate(self.last)
        called = np.zeros(len(index) + 1, dtype=np.int64)
        np.add.at(called, self.first, 1)
        np.add.at(called, self.last + 1, -1)
        on = np.cumsum(called)[:-1] > 0
        self.called = np.bincount(doc[on], minlength=n_docs).astype(np.float64)

    def covers(self, token: Longs) -> Bools:
        """Which tokens are in an occurrence or right after one."""
        if not len(self.first):
            return np.zeros(len(token), dtype=bool)
        place = np.searchsorted(self.first, token, side="right") - 1
        covers: Bools = (place >= 0) & (self._far[np.maximum(place, 0)] >= token)
        return covers


@dataclass(frozen=True, eq=False)
class Watched:
    """One latent on a text.

    Attributes
    ----------
    token : int64 [n]
        Where it fires, as tokens of the index, ascending.
    act : float64 [n]
    doc : int64 [n_tokens]
        Document of each token of the text.
    size : float64 [n_docs]
        Tokens of each document.
    """

    token: Longs
    act: Doubles
    doc: Longs
    size: Doubles

    @cached_property
    def _before(self) -> Longs:
        fires = np.zeros(len(self.doc) + 1, dtype=np.int64)
        fires[self.token + 1] = 1
        before: Longs = np.cumsum(fires)
        return before

    @cached_property
    def _constant(self) -> tuple[Doubles, Doubles]:
        doc, n_docs = self.doc[self.token], len(self.size)
        mass = np.bincount(doc, weights=self.act, minlength=n_docs).astype(np.float64)
        return mass, np.bincount(doc, minlength=n_docs).astype(np.float64)

    @cached_property
    def effective(self) -> float:
        """Firings of equal strength that its activation amounts to (Kish 1965)."""
        return float(self.act.sum() ** 2 / max((self.act**2).sum(), 1e-30))

    def sums(self, held: Held) -> Doubles:
        """What every measure follows from, by document, float64 [n_docs, 8]."""
        n_docs = len(self.size)
        right = self._before[held.last + 1] > self._before[held.first]
        found = held.covers(self.token)
        doc = self.doc[self.token[found]]
        mass, fires = self._constant
        return np.stack(
            [
                held.occurrences,
                np.bincount(held.doc[right], minlength=n_docs),
                mass,
                np.bincount(doc, weights=self.act[found], minlength=n_docs),
                fires,
                np.bincount(doc, minlength=n_docs),
                self.size,
                held.called,
            ],
            axis=1,
        ).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Fit:
    """How well a claim fits a latent, from its sums by document [n_docs, 8]."""

    sums: Doubles

    @cached_property
    def total(self) -> Doubles:
        """Sums over all documents, [8]."""
        total: Doubles = self.sums.sum(axis=0)
        return total

    @property
    def occurrences(self) -> int:
        """How often the claim holds."""
        return int(self.total[_OCCURRENCES])

    @property
    def right(self) -> int:
        """How often the latent fires there."""
        return int(self.total[_RIGHT])

    @property
    def precision(self) -> float:
        """Share of occurrences that are right; NaN if there are none."""
        return float(_precision(self.total))

    @property
    def recall(self) -> float:
        """Share of activation covered."""
        return float(_recall(self.total))

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 if the claim never holds."""
        return float(_f1(self.total))

    @property
    def auroc(self) -> float:
        """AUROC at positions."""
        return float(_auroc(self.total))

    def resampled(self, weights: Doubles) -> "Resampled":
        """The same for resamples of documents, from weights [n_resamples, n_docs]."""
        return Resampled(weights @ self.sums)


@dataclass(frozen=True, eq=False)
class Resampled:
    """Measures of each resample, from its sums [n_resamples, 8]."""

    sums: Doubles

    @property
    def precision(self) -> Doubles:
        """[n_resamples]; NaN where the claim never holds."""
        return _precision(self.sums)

    @property
    def recall(self) -> Doubles:
        """[n_resamples]; NaN where the latent never fires."""
        return _recall(self.sums)

    @property
    def f1(self) -> Doubles:
        """[n_resamples]; 0 where nothing holds or fires."""
        return _f1(self.sums)

    @property
    def known(self) -> Bools:
        """Which resamples drew both an occurrence and a firing: the others tell nothing.

        They are left out of all intervals; those of recall reach down to Wilson's all the same.
        """
        return (self.sums[:, _OCCURRENCES] > 0) & (self.sums[:, _MASS] > 0)

    @property
    def auroc(self) -> Doubles:
        """[n_resamples]."""
        return _auroc(self.sums)


def best(fits: Sequence[Fit]) -> Fit:
    """The reading that fits best: highest F1, the first of equals."""
    return max(fits, key=lambda fit: fit.f1)


def estimates(fit: Fit, watched: Watched, weights: Doubles) -> dict[str, Estimate]:
    """Precision, recall and AUROC with intervals.

    Documents are resampled, since what stands in one is alike. Where few documents hold anything,
    resamples hardly differ: the intervals of precision and recall are never narrower than Wilson's
    for as many occurrences, or firings of equal strength.
    """
    drawn = fit.resampled(weights)
    own = {"precision": fit.precision, "recall": fit.recall, "auroc": fit.auroc}
    found = {
        name: with_interval(value, np.where(drawn.known, getattr(drawn, name), np.nan))
        for name, value in own.items()
    }
    sizes = {"precision": float(fit.occurrences), "recall": watched.effective}
    for name, size in sizes.items():
        low, high = wilson(own[name] * size, size)
        one = found[name]
        found[name] = Estimate(
            one.value, float(np.fmin(one.low, low)), float(np.fmax(one.high, high))
        )
    return found


def with_interval(value: float, drawn: Doubles) -> Estimate:
    """A measure with the interval of its resamples; none where nothing was drawn."""
    if not np.isfinite(value) or not np.isfinite(drawn).any():
        return Estimate(value)
    low, high = interval(drawn)
    return Estimate(value, float(low), float(high))


def difference(own: Doubles, control: Doubles) -> tuple[float, float]:
    """Interval of a difference over resamples; NaN if nothing was drawn."""
    drawn = own - control
    if not np.isfinite(drawn).any():
        return float("nan"), float("nan")
    low, high = interval(drawn)
    return float(low), float(high)


def rank_auroc(
    score: Doubles, positive: Bools, doc: Longs, weights: Doubles
) -> tuple[float, Doubles]:
    """AUROC of scores with ties, and that of each resample of documents.

    Parameters
    ----------
    score, positive, doc : float64, bool, int64 [n]
        `doc` is a column of `weights`.
    weights : float64 [n_resamples, n_docs]

    Returns
    -------
    float, float64 [n_resamples]
        NaN where there are no positives, or nothing else.
    """
    ordered, level = np.unique(score, return_inverse=True)
    exact = _tied_auroc(
        np.bincount(level[positive], minlength=len(ordered))[None].astype(np.float64),
        np.bincount(level[~positive], minlength=len(ordered))[None].astype(np.float64),
    )
    n_docs, size = weights.shape[1], min(len(ordered), _LEVELS)
    # Resamples need no finer steps: neighbours in rank share one.
    coarse = level * size // max(len(ordered), 1)
    by_doc = [
        np.bincount(doc[which] * size + coarse[which], minlength=n_docs * size)
        for which in (positive, ~positive)
    ]
    one, other = (weights @ counts.reshape(n_docs, size) for counts in by_doc)
    return float(exact[0]), _tied_auroc(one, other)


def _tied_auroc(one: Doubles, other: Doubles) -> Doubles:
    """AUROC from how many positives and others are at each level, float64 [n, n_levels]."""
    below = np.cumsum(other, axis=1) - other / 2
    return _divide((one * below).sum(axis=1), one.sum(axis=1) * other.sum(axis=1))


def _divide(one: Doubles, other: Doubles) -> Doubles:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Doubles = one / other
    return ratio


def _precision(sums: Doubles) -> Doubles:
    return _divide(sums[..., _RIGHT], sums[..., _OCCURRENCES])


def _recall(sums: Doubles) -> Doubles:
    return _divide(sums[..., _COVERED], sums[..., _MASS])


def _f1(sums: Doubles) -> Doubles:
    precision, recall = _precision(sums), _recall(sums)
    return np.nan_to_num(_divide(2 * precision * recall, precision + recall))


def _auroc(sums: Doubles) -> Doubles:
    found = _divide(sums[..., _FOUND], sums[..., _FIRES])
    false = sums[..., _CALLED] - sums[..., _FOUND]
    auroc: Doubles = (1 + found - _divide(false, sums[..., _TOKENS] - sums[..., _FIRES])) / 2
    return auroc
