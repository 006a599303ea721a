"""Prose, put to the scorers that were given."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from labeler.arrays import Longs
from labeler.eval.audit.measure import Watched, rank_auroc
from labeler.eval.audit.prose import ContextScorer, TokenScorer
from labeler.eval.audit.site import Site
from labeler.eval.audit.verdicts import Against
from labeler.eval.audit.windows import Windows, beside
from labeler.eval.bootstrap import document_weights

MOST_WINDOWS = 3000
"""Windows of a text that are put to a context scorer; of more, a sample."""

SIMULATED = 5
"""Firing contexts, and as many silent ones, that a token scorer is asked to predict."""


class Scored(NamedTuple):
    """What a scorer made of a text."""

    name: str
    """Of the scorer."""

    against: Against
    """AUROC beside that of other texts."""

    said: str
    """The scorer in the reason: its name, and how much of its answer failed."""

    accuses: bool
    """Whether it may contradict."""


class Scorers:
    """What judges prose.

    Parameters
    ----------
    contexts : ContextScorer or None
    tokens : TokenScorer or None
        Comes first where both are given.
    seed : int
    """

    def __init__(
        self, contexts: ContextScorer | None, tokens: TokenScorer | None, seed: int
    ) -> None:
        self._contexts, self._tokens, self._seed = contexts, tokens, seed

    def score(
        self, text: str, controls: Sequence[str], windows: Windows, watched: Watched
    ) -> Scored | None:
        """The AUROC of a text beside those of others; None without a scorer."""
        texts = [text, *controls]
        if self._tokens is not None:
            against, failed = self._simulated(self._tokens, texts, windows, watched)
            lost = f", which failed on {failed:.0%} of the tokens (taken as silent)"
            name = self._tokens.name
            return Scored(name, against, name + lost if failed else name, accuses=True)
        if self._contexts is not None:
            name = self._contexts.name
            against = self._fitting(self._contexts, texts, windows, watched)
            return Scored(name, against, name, accuses=False)
        return None

    def _fitting(
        self, scorer: ContextScorer, texts: Sequence[str], windows: Windows, watched: Watched
    ) -> Against:
        """How well texts fit windows where the latent fires, and others."""
        shown = windows.texts()
        chosen = np.arange(len(shown))
        if len(shown) > MOST_WINDOWS:
            rng = np.random.default_rng(self._seed)
            chosen = np.sort(rng.choice(len(shown), size=MOST_WINDOWS, replace=False))
        scores = np.full((len(texts), len(shown)), np.nan)
        scores[:, chosen] = scorer.scores(texts, [shown[one] for one in chosen.tolist()])
        return windows.against(watched, scores[0], list(scores[1:]))

    def _simulated(
        self, scorer: TokenScorer, texts: Sequence[str], windows: Windows, watched: Watched
    ) -> tuple[Against, float]:
        """How well activations predicted from texts tell firing positions from silent ones.

        In contexts that fire and contexts that do not. Where a scorer failed it predicts silence;
        the share of such positions, of the first text, comes second.
        """
        rng = np.random.default_rng(self._seed)
        predicted, fires, doc, n_docs = [], [], [], 0
        for site, rows, token in _asked(windows, watched, rng):
            tokens = site.index.tokens.select(rows)
            firing = np.zeros(site.index.tokens.ids.size, dtype=bool)
            firing[site.index.position[token]] = True
            fires.append(firing.reshape(site.index.tokens.ids.shape)[rows][tokens.valid])
            predicted.append([scorer.predict(text, tokens)[tokens.valid] for text in texts])
            doc.append(n_docs + np.repeat(np.arange(len(rows)), tokens.length))
            n_docs += len(rows)
        score = np.concatenate([np.stack(part).astype(np.float64) for part in predicted], axis=1)
        fires_, doc_ = np.concatenate(fires), np.concatenate(doc)
        failed = float(np.isnan(score[0]).mean())
        if fires_.all() or not fires_.any():
            return Against(), failed
        weights = document_weights(n_docs, self._seed)
        drawn = [rank_auroc(row, fires_, doc_, weights) for row in np.nan_to_num(score)]
        return beside(drawn[0], drawn[1:]), failed


def _asked(
    windows: Windows, watched: Watched, rng: np.random.Generator
) -> list[tuple[Site, Longs, Longs]]:
    """Contexts that a token scorer is asked about, site by site, and where the latent fires.

    Contexts of other latents make up for silent ones that are lacking.
    """
    own = windows.own
    loud = np.unique(own.index.context[watched.token])
    silent = np.setdiff1d(np.arange(len(own.rows)), loud)
    rows = np.concatenate([_some(loud, SIMULATED, rng), _some(silent, SIMULATED, rng)])
    asked = [(own, np.sort(rows), watched.token)]
    lacking = SIMULATED - min(len(silent), SIMULATED)
    if lacking and windows.others is not None and windows.kept is not None:
        more = np.sort(_some(np.flatnonzero(windows.kept), lacking, rng))
        asked.append((windows.others, more, np.zeros(0, dtype=np.int64)))
    return [part for part in asked if len(part[1])]


def _some(rows: Longs, size: int, rng: np.random.Generator) -> Longs:
    return rng.choice(rows, size=min(size, len(rows)), replace=False)
