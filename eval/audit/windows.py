"""Windows of text in which a latent fires, against those in which it is silent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeler.arrays import Bools, Doubles, Longs
from labeler.eval.audit.measure import Watched, difference, rank_auroc, with_interval
from labeler.eval.audit.site import Site
from labeler.eval.audit.terms import Claim
from labeler.eval.audit.verdicts import MIN_CONTEXTS, Against
from labeler.eval.bootstrap import document_weights


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows on which a latent's contexts are compared.

    Attributes
    ----------
    own : Site
        Windows that show its true activations.
    others : Site or None
        Contexts of other latents, where it is assumed silent.
    kept : bool [n_others] or None
        Which windows of `others` are not its own.
    seed : int
    """

    own: Site
    others: Site | None
    kept: Bools | None
    seed: int

    def fires(self, watched: Watched) -> Bools:
        """Which windows it fires in, bool [n]: its own first, then the others."""
        fires = np.zeros(len(self.doc), dtype=bool)
        fires[self.own.window[watched.token]] = True
        return fires

    @property
    def doc(self) -> Longs:
        """Document of each window."""
        own = self.own.doc_of_window()
        if self.others is None or self.kept is None:
            return own
        more = self.others.doc_of_window()[self.kept]
        return np.concatenate([own, len(self.own.size) + more])

    @property
    def _weights(self) -> Doubles:
        """Resamples: a latent's documents among themselves, the others' among themselves."""
        if self.others is None:
            return self.own.weights
        more = document_weights(len(self.others.size), self.seed + 1)
        return np.concatenate([self.own.weights, more], axis=1)

    def counts(self, claim: Claim) -> Doubles:
        """How often a claim holds in each window, in any case; float64 [n]."""
        counts = _counts(self.own, claim)
        if self.others is None or self.kept is None:
            return counts
        return np.concatenate([counts, _counts(self.others, claim)[self.kept]])

    def texts(self) -> list[str]:
        """Text of each window."""
        texts = self.own.texts
        if self.others is None or self.kept is None:
            return texts
        return texts + [self.others.texts[one] for one in np.flatnonzero(self.kept).tolist()]

    def against(self, watched: Watched, own: Doubles, controls: Sequence[Doubles]) -> Against:
        """AUROC of one score per window beside those of controls.

        Windows whose score is NaN are left out; nothing is said of fewer than `MIN_CONTEXTS` that
        fire, or that do not.
        """
        scored = np.isfinite(own)
        fires, doc, weights = self.fires(watched)[scored], self.doc[scored], self._weights
        if min(fires.sum(), (~fires).sum()) < MIN_CONTEXTS:
            return Against()
        own, controls = own[scored], [one[scored] for one in controls]
        drawn = [rank_auroc(one, fires, doc, weights) for one in (own, *controls)]
        return beside(drawn[0], drawn[1:])


def beside(own: tuple[float, Doubles], controls: Sequence[tuple[float, Doubles]]) -> Against:
    """An AUROC and its resamples beside those of controls; beside chance where there are none."""
    control = float(np.mean([value for value, _ in controls])) if controls else 0.5
    drawn = np.mean([one for _, one in controls], axis=0) if controls else np.full(1, 0.5)
    low, high = difference(own[1], drawn)
    return Against(with_interval(*own), control, low, high)


def _counts(site: Site, claim: Claim) -> Doubles:
    spans = site.index.find(claim, "words")
    return np.bincount(site.window[spans.first], minlength=site.n_windows).astype(np.float64)
