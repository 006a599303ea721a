"""The text on which latents are judged, and where claims hold in it.

Latents that were watched everywhere share one site. A latent with contexts of its own has a site of
those alone: its activation elsewhere is not known, so precision and recall are of its own contexts.
"""

from collections import OrderedDict
from functools import cached_property
from itertools import pairwise

import numpy as np

from labeler.arrays import Bools, Doubles, Longs
from labeler.eval.audit.ground import Ground
from labeler.eval.audit.match import TextIndex
from labeler.eval.audit.measure import Fit, Held, Watched, best
from labeler.eval.audit.spans import Spans
from labeler.eval.audit.terms import Claim
from labeler.eval.bootstrap import RESAMPLES, document_weights

_KEPT = 64
"""Claims whose places are remembered: each is asked for again as the control of the next ones."""

WINDOW = 32
"""Tokens of the windows into which the contexts of a run are cut where contexts are compared."""


class Site:
    """Some contexts of a ground.

    Parameters
    ----------
    ground : Ground
    rows : int64 [n]
        Its contexts, ascending.
    seed : int
    cut : bool
        Contexts are cut into windows of `WINDOW` tokens; otherwise each is a window.

    Attributes
    ----------
    index : TextIndex
    doc : int64 [n_tokens]
        Document of each token, from 0.
    weights : float64 [n_resamples, n_docs]
    window : int64 [n_tokens]
        Window of each token, from 0.
    """

    def __init__(self, ground: Ground, rows: Longs, seed: int, *, cut: bool) -> None:
        self.ground, self.rows = ground, rows
        self.index = TextIndex(ground.tokens.select(rows))
        _, doc = np.unique(self.index.tokens.doc, return_inverse=True)
        self.doc: Longs = doc[self.index.context].astype(np.int64)
        n_docs = int(doc.max(initial=-1)) + 1
        self.size = np.bincount(self.doc, minlength=n_docs).astype(np.float64)
        self.weights: Doubles = (
            document_weights(n_docs, seed) if n_docs else np.zeros((RESAMPLES, 0))
        )
        step = WINDOW if cut else max(ground.tokens.ctx_len, 1)
        per_context = -(-ground.tokens.ctx_len // step)
        offset = self.index.position % max(ground.tokens.ctx_len, 1)
        _, window = np.unique(
            self.index.context * per_context + offset // step, return_inverse=True
        )
        self.window: Longs = window.astype(np.int64)
        self.n_windows = int(window.max(initial=-1)) + 1
        self._held: OrderedDict[Claim, list[Held]] = OrderedDict()

    def held(self, claim: Claim) -> list[Held]:
        """Where a claim holds, reading by reading."""
        found = self._held.get(claim)
        if found is None:
            found = [self.holding(spans) for spans in self.index.readings(claim).values()]
            self._held[claim] = found
            if len(self._held) > _KEPT:
                self._held.popitem(last=False)
        return found

    def holding(self, spans: Spans) -> Held:
        """Counts of some stretches of the text."""
        return Held(self.index, spans, self.doc, len(self.size))

    def fit(self, claim: Claim, watched: Watched) -> tuple[Fit, Held]:
        """The reading of a claim that fits best, and where it holds."""
        held = self.held(claim)
        fits = [Fit(watched.sums(one)) for one in held]
        chosen = best(fits)
        return chosen, held[fits.index(chosen)]

    def watch(self, column: int) -> Watched:
        """A latent's firings here."""
        position = self.ground.fires_in[column]
        act = self.ground.firings.at(position, np.full(len(position), column))
        token, found = self.tokens_at(position)
        return Watched(token[found], act[found].astype(np.float64), self.doc, self.size)

    def called(self, position: Longs) -> Held:
        """Flat positions of the ground that a rule calls, each an occurrence."""
        token, found = self.tokens_at(position)
        token = token[found]
        return self.holding(Spans(token, token, token, token))

    def tokens_at(self, position: Longs) -> tuple[Longs, Bools]:
        """Tokens of the index at flat positions of the ground, and which of them are in it."""
        width = max(self.ground.tokens.ctx_len, 1)
        row = np.searchsorted(self.rows, position // width)
        inside = row < len(self.rows)
        inside[inside] = self.rows[row[inside]] == position[inside] // width
        own = row * width + position % width
        token = np.searchsorted(self.index.position, own)
        found = inside & (token < len(self.index))
        found[found] = self.index.position[token[found]] == own[found]
        return token, found

    @cached_property
    def everywhere(self) -> tuple[Longs, Doubles]:
        """Firings and activation of every latent of the ground, [n_latents] each."""
        firings = self.ground.firings
        n = firings.n_latents
        mass = np.bincount(firings.latent, weights=firings.act, minlength=n)
        return firings.count, mass.astype(np.float64)

    def doc_of_window(self) -> Longs:
        """Document of each window, int64 [n_windows]."""
        doc = np.zeros(self.n_windows, dtype=np.int64)
        doc[self.window] = self.doc
        return doc

    @cached_property
    def texts(self) -> list[str]:
        """Text of each window."""
        ids = self.index.tokens.ids.ravel()[self.index.position]
        vocab = self.index.tokens.vocab
        edges = np.searchsorted(self.window, np.arange(self.n_windows + 1))
        return [
            "".join(vocab[one] for one in ids[low:high].tolist())
            for low, high in pairwise(edges.tolist())
        ]
