"""The labels of a hookpoint as the tests read them: what they call, and what they claim."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles, Floats, Longs
from labeler.eval.firings import TextFirings
from labeler.labels import READABLE, Budget, LabelSet
from labeler.level import Nodes
from labeler.threads import map_threads
from labeler.tokens import Tokens

_AT_ONCE = 512
"""Contexts looked up at once."""

_CALLED_AT_ONCE = 64
"""Contexts that a thread searches for calls at a time."""

_NOTHING = np.zeros(0, dtype=np.int64)


class Claims:
    """The labels of a hookpoint under one key budget.

    A label *calls* a position where it says that its latent fires there: from its `threshold`,
    float32 [n_latents].

    Attributes
    ----------
    labels : LabelSet
    budget : int or "unlimited"
    latents : int64 [n]
        Those whose labels are run, ascending; all where not given. The others call nothing, and
        may not be asked for.
    """

    def __init__(
        self,
        labels: LabelSet,
        budget: Budget = READABLE,
        latents: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.labels, self.budget = labels, budget
        whole = labels.predictor(budget)
        self.latents = np.arange(labels.n_latents) if latents is None else latents
        self.threshold: Floats = whole.threshold
        self._predictor = whole if latents is None else whole.only(latents)
        self._levels = [*whole.tables, *whole.extra]

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
            predicted = self._predictor.at_nodes(here, len(rows))
            mine: Floats = predicted[np.arange(len(rows)), self.column(latent[rows])]
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
        threshold = self.threshold[self.latents]
        found = None if nodes is None else self.labels.tree.complete(nodes)

        def some(start: int) -> tuple[Longs, Longs, Floats]:
            rows = slice(start, min(start + _CALLED_AT_ONCE, tokens.n_ctx))
            part = tokens.select(np.arange(rows.start, rows.stop))
            mine = None if found is None else {name: node[rows] for name, node in found.items()}
            position, column, value = [_NOTHING], [_NOTHING], [np.zeros(0, np.float32)]
            for span, predicted in self._predictor.iterate(part, mine):
                called = (predicted >= threshold) & part.valid[span].reshape(-1, 1)
                at, which = np.nonzero(called)
                position.append(at + (start + span.start) * tokens.ctx_len)
                column.append(which)
                value.append(predicted[at, which])
            advance(rows.stop - rows.start)
            return np.concatenate(position), np.concatenate(column), np.concatenate(value)

        parts = [(_NOTHING, _NOTHING, np.zeros(0, np.float32))]
        parts += map_threads(some, range(0, tokens.n_ctx, _CALLED_AT_ONCE))
        position, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        return TextFirings.make(
            position,
            self.latents[column],
            value,
            n_positions=tokens.ids.size,
            n_latents=self.n_latents,
        )

    def iterate(
        self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None
    ) -> Iterator[tuple[slice, Floats]]:
        """Predictions a few contexts at a time: the contexts, float32 [n * ctx_len, n_mine].

        Columns are `latents`; `nodes` as for `calls`.
        """
        found = None if nodes is None else self.labels.tree.complete(nodes)
        return self._predictor.iterate(tokens, found)

    def column(self, latent: npt.NDArray[np.integer]) -> Longs:
        """Columns of some of `latents` in what `iterate` yields."""
        found: Longs = np.searchsorted(self.latents, latent)
        return found
