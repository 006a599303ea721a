"""Gathering the evidence on an explanation from a text and what fires there."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from labeler.arrays import Longs
from labeler.eval.audit.controls import Controls
from labeler.eval.audit.elsewhere import better_latent
from labeler.eval.audit.fires import fires_on
from labeler.eval.audit.ground import Ground
from labeler.eval.audit.measure import Fit, Watched, difference, estimates, with_interval
from labeler.eval.audit.rows import Row
from labeler.eval.audit.scorers import Scorers
from labeler.eval.audit.site import Site
from labeler.eval.audit.terms import Claim, Term
from labeler.eval.audit.verdicts import Against, Evidence, judge
from labeler.eval.audit.windows import Windows
from labeler.eval.firings import TextFirings

N_OTHERS = 200
"""Contexts of other latents in which a latent with contexts of its own is taken to be silent."""

_ANYTHING = Claim((Term(None),))
"""The control where there is no other explanation."""


class Gatherer:
    """Gathers evidence on the explanations of a hookpoint.

    Parameters
    ----------
    ground : Ground
    controls : Controls
        The explanations with their claims, and which of them are controls of which.
    scorers : Scorers
    seed : int

    Attributes
    ----------
    order : list of int
        Order in which the explanations are cheapest to go through.
    """

    def __init__(self, ground: Ground, controls: Controls, scorers: Scorers, seed: int) -> None:
        self._ground, self._controls, self._scorers = ground, controls, scorers
        self._seed = seed
        self._calls: dict[int, Longs] = {}
        self._lines: Mapping[int, str] = {}
        self._latest: tuple[int, Site] | None = None
        self._shared: Site | None = None
        self._others: tuple[Site, Longs] | None = None
        n_ctx = ground.tokens.n_ctx
        if ground.owner is None:
            # What one needs as a control, the next has looked up already.
            self.order = controls.order
            self._shared = Site(ground, np.arange(n_ctx), seed, cut=True)
            return
        # A latent's own site is small, but made only once for all its explanations.
        self.order = sorted(controls.order, key=lambda one: controls.explanations[one].latent)
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(n_ctx, size=min(N_OTHERS, n_ctx), replace=False))
        self._others = Site(ground, rows, seed, cut=False), ground.owner[rows]

    def rules(self, rule: TextFirings | None, lines: Mapping[int, str]) -> None:
        """Note what our labels call, of explained latents that have a line."""
        self._lines = lines
        explained = {one.latent for one in self._controls.explanations}
        columns = [self._ground.column[one] for one in explained & set(lines) if self.knows(one)]
        if rule is not None and columns:
            self._calls = rule.by_latent(sorted(columns))

    def knows(self, latent: int) -> bool:
        """Whether the ground has this latent."""
        return latent in self._ground.column

    def gather(self, number: int, row: Row, evidence: Evidence) -> Evidence:
        """Fill in a row and its evidence; the latent must be known."""
        one, claim = self._controls.explanations[number], self._controls.known[number]
        column = self._ground.column[one.latent]
        site = self._site(column)
        watched = site.watch(column)
        row.n_firings = len(watched.token)
        row.n_contexts = len(np.unique(site.index.context[watched.token]))
        evidence = replace(
            evidence,
            n_firings=row.n_firings,
            n_contexts=row.n_contexts,
            fires_on=fires_on(site.index, watched),
        )
        if column in self._calls:
            row.set_rule(
                self._lines[one.latent], Fit(watched.sums(site.called(self._calls[column])))
            )
        if not row.n_firings or (evidence.failure and not claim):
            return evidence
        if claim:
            evidence = self._words(number, row, evidence, site, watched)
        if claim and not claim.partial:
            return evidence
        windows = self._windows(site, column)
        if claim:
            controls = [windows.counts(other) for other in self._controls.claims(number)]
            contexts = windows.against(watched, windows.counts(claim), controls)
            row.set_auroc(contexts)
            evidence = replace(evidence, contexts=contexts)
        if evidence.failure or judge(evidence)[0] not in ("unverifiable", "duplicate"):
            return evidence
        found = self._scorers.score(one.text, self._controls.texts(number), windows, watched)
        if found is None:
            return evidence
        scored = replace(evidence, scorer=found.said, prose=found.against, accuses=found.accuses)
        if not claim or judge(scored)[0] in ("supported", "contradicted"):
            row.method = found.name
            row.set_auroc(found.against)
        return scored

    def _words(
        self, number: int, row: Row, evidence: Evidence, site: Site, watched: Watched
    ) -> Evidence:
        """Measure a claim beside the claims of others."""
        claim = self._controls.known[number]
        own, held = site.fit(claim, watched)
        others = [site.fit(one, watched)[0] for one in self._controls.claims(number) or [_ANYTHING]]
        found = estimates(own, watched, site.weights)
        resampled = own.resampled(site.weights)
        drawn = np.where(resampled.known, resampled.f1, np.nan)
        of_others = np.mean([other.resampled(site.weights).f1 for other in others], axis=0)
        f1 = Against(
            with_interval(own.f1, drawn),
            float(np.mean([other.f1 for other in others])),
            *difference(drawn, of_others),
        )
        row.set_words(own.f1, found, others)
        evidence = replace(
            evidence,
            occurrences=own.occurrences,
            right=own.right,
            precision=found["precision"],
            recall=found["recall"],
            auroc=found["auroc"],
            f1=f1,
        )
        if site is self._shared and not claim.partial and judge(evidence)[0] != "supported":
            better = better_latent(site, held, own.f1)
            if better is not None:
                row.better_latent, row.better_f1 = int(self._ground.latents[better[0]]), better[1]
        return evidence

    def _site(self, column: int) -> Site:
        """The text on which a latent is judged."""
        if self._shared is not None:
            return self._shared
        if self._latest is None or self._latest[0] != column:
            rows = np.flatnonzero(self._ground.own_contexts(column))
            self._latest = column, Site(self._ground, rows, self._seed, cut=False)
        return self._latest[1]

    def _windows(self, site: Site, column: int) -> Windows:
        if self._others is None:
            return Windows(site, None, None, self._seed)
        others, owner = self._others
        return Windows(site, others, owner != column, self._seed)
