"""The labels of a hookpoint as the tests read them: what they call, and what they claim."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles, Floats
from labeler.eval.firings import TextFirings
from labeler.labels import READABLE, Budget, LabelSet
from labeler.level import Nodes
from labeler.threads import map_threads
from labeler.tokens import Tokens

_AT_ONCE = 512
"""Contexts looked up at once."""


class Claims:
    """All labels of a hookpoint under one key budget.

    A label *calls* a position where it says that its latent fires there.

    Attributes
    ----------
    labels : LabelSet
    budget : int or "unlimited"
    """

    def __init__(self, labels: LabelSet, budget: Budget = READABLE) -> None:
        self.labels, self.budget = labels, budget
        self.predictor = labels.predictor(budget)
        self._levels = [*self.predictor.tables, *self.predictor.extra]

    @property
    def hookpoint(self) -> str:
        """Whose latents these are."""
        return self.labels.hookpoint

    @property
    def n_latents(self) -> int:
        """Number of latents, labeled or not."""
        return self.labels.n_latents

    @property
    def labeled(self) -> Bools:
        """Which latents have a label, bool [n_latents]."""
        return self.labels.labeled

    @property
    def threshold(self) -> Floats:
        """Activation from which a label calls, float32 [n_latents]."""
        return self.predictor.threshold

    @property
    def claimed(self) -> Doubles:
        """F1 on the fit split, which the label is held to, float64 [n_latents]."""
        column = "f1_out_of_fold" if self.budget == "unlimited" else f"f1_fit_{self.budget}"
        return self.labels.latents[column].to_numpy().astype(np.float64)

    def at(
        self, tokens: Tokens, pos: npt.NDArray[np.integer], latent: npt.NDArray[np.integer]
    ) -> Floats:
        """Prediction of one latent at one position of each context, float32 [n_ctx].

        Parameters
        ----------
        tokens : Tokens
        pos : int [n_ctx]
            Position within the context.
        latent : int [n_ctx]
        """

        def some(start: int) -> Floats:
            rows = np.arange(start, min(start + _AT_ONCE, tokens.n_ctx))
            nodes = self.labels.tree.find(tokens.select(rows), self._levels)
            here = {
                name: node[np.arange(len(rows)), pos[rows]][:, None] for name, node in nodes.items()
            }
            predicted = self.predictor.at_nodes(here, len(rows))
            mine: Floats = predicted[np.arange(len(rows)), latent[rows]]
            return mine

        parts = map_threads(some, range(0, tokens.n_ctx, _AT_ONCE))
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def calls_at(
        self, tokens: Tokens, pos: npt.NDArray[np.integer], latent: npt.NDArray[np.integer]
    ) -> Bools:
        """Whether each context's latent is called at its position, bool [n_ctx]."""
        called: Bools = self.at(tokens, pos, latent) >= self.threshold[latent]
        return called

    def calls(
        self,
        tokens: Tokens,
        nodes: Mapping[str, Nodes] | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> TextFirings:
        """Every position that a label calls, with what it predicts there.

        `nodes` are those of the text in the shared tree, where they are known already; `advance`
        is told the contexts done.
        """
        found = None if nodes is None else self.labels.tree.complete(nodes)
        parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]] = []
        for span, predicted in self.predictor.iterate(tokens, found):
            called = (predicted >= self.threshold) & tokens.valid[span].reshape(-1, 1)
            row, latent = np.nonzero(called)
            parts.append((row + span.start * tokens.ctx_len, latent, predicted[row, latent]))
            advance(span.stop - span.start)
        position, latent, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        return TextFirings.make(
            position, latent, value, n_positions=tokens.ids.size, n_latents=self.n_latents
        )
