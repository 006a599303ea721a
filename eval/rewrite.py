"""Cross-entropy with something else standing in for sublayers (design.md, 8).

A *variant* says what stands in: the sparse coder, zero, the coder with its latents predicted by
their labels, ... (labeler.eval.rewrite_variants, labeler.eval.rewrite_curves). All variants of a
batch share one prediction of the labels.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch

from labeler.arrays import Doubles, Floats
from labeler.coders import Coder
from labeler.eval.bootstrap import document_weights, interval
from labeler.hookpoints import execution_order
from labeler.labels import Budget, LabelSet
from labeler.level import Nodes
from labeler.model import SubjectModel
from labeler.threads import map_threads
from labeler.tokens import Tokens

Source = Budget | str
"""What predicts: the labels under a key budget, or another forecast by its name."""

Replacement = Callable[[Coder, torch.Tensor, "Batch"], torch.Tensor]

BATCH = 32
"""Most contexts per forward pass."""

_MAX_PREDICTED = 1 << 28
"""Predictions held at once: 1 GiB of float32, whatever the number of latents."""


class Forecast(Protocol):
    """Predicts all latents of a hookpoint; a `labeler.predict.Predictor` is one."""

    def predict(self, tokens: Tokens, nodes: Mapping[str, Nodes] | None = None) -> Floats:
        """Activations, float32 [n_ctx, ctx_len, n_latents]."""
        ...


Forecasts = Mapping[tuple[str, Source], Forecast]
"""By hookpoint and name."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a replacement may read of the batch at hand.

    Attributes
    ----------
    tokens : Tokens
        Its contexts.
    begin : int
        Number of its first context.
    predictions : dict of (str, source) to float32 tensor [n, n_latents]
        By hookpoint and budget or forecast, at the positions that are replaced.
    first : str or None
        The hookpoint that a forward pass reaches first, whose input is every variant's.
    """

    tokens: Tokens
    begin: int
    predictions: dict[tuple[str, Source], torch.Tensor]
    first: str | None = None
    _made: dict[Hashable, torch.Tensor] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `make` returns, made for the first variant that asks and kept for the others."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def true(self, coder: Coder, x: torch.Tensor) -> torch.Tensor:
        """The coder's activations of its input [n, d_in], float32 [n, n_latents]."""
        name = coder.hookpoint.name
        if name != self.first:
            return coder.encode(x)
        return self.once(("true", name), lambda: coder.encode(x))


@dataclass(frozen=True)
class Variant:
    """A named way to run the model.

    Attributes
    ----------
    name : str
        Column of the result: "base", "coder", "labels_100", ...
    hookpoints : tuple of str
        Which sublayers are replaced.
    replacement : callable or None
        (coder, its input [n, d_in], batch) to the sublayer's output [n, d_out]; None leaves the
        model alone.
    """

    name: str
    hookpoints: tuple[str, ...]
    replacement: Replacement | None


BASE = Variant("base", (), None)
"""The model as it is."""


@dataclass(frozen=True, eq=False)
class CrossEntropies:
    """Cross-entropy of variants by document.

    Attributes
    ----------
    names : list of str
    total : float64 [n_documents, n_variants]
        Sum over positions, nats.
    n : float64 [n_documents]
        Positions predicted.
    """

    names: list[str]
    total: Doubles
    n: Doubles

    def mean(self) -> dict[str, float]:
        """Nats per token over all positions, by variant."""
        values = self.total.sum(axis=0) / self.n.sum()
        return dict(zip(self.names, values.tolist(), strict=True))

    def join(self, other: "CrossEntropies") -> "CrossEntropies":
        """Variants of both, on the same documents."""
        return CrossEntropies(
            self.names + other.names, np.hstack([self.total, other.total]), self.n
        )

    def recovered(self, name: str) -> float:
        """(CE_mean - CE_name) / (CE_mean - CE_coder)."""
        ce = self.mean()
        whole = ce["mean"] - ce["coder"]
        return (ce["mean"] - ce[name]) / whole if whole else float("nan")

    def recovered_interval(self, name: str, seed: int = 0) -> tuple[float, float]:
        """95% interval of `recovered` over resampled documents."""
        weights = document_weights(len(self.n), seed)
        n = weights @ self.n
        mean, mine, coder = (
            (weights @ self.total[:, self.names.index(column)]) / n
            for column in ("mean", name, "coder")
        )
        whole = mean - coder
        samples = np.divide(mean - mine, whole, out=np.full_like(whole, np.nan), where=whole != 0)
        low, high = interval(samples)
        return float(low), float(high)

    def summary(self, name: str, seed: int = 0) -> dict[str, float]:
        """`recovered` as "value" and its interval as "low" and "high"."""
        low, high = self.recovered_interval(name, seed)
        return {"value": self.recovered(name), "low": low, "high": high}


def cross_entropies(
    model: SubjectModel,
    coders: Mapping[str, Coder],
    labels: Mapping[str, LabelSet],
    heldout: Tokens,
    wanted: Sequence[Variant],
    budgets: Sequence[Budget] = (),
    advance: Callable[[int], None] = lambda n: None,
    *,
    forecasts: Forecasts | None = None,
    final: bool = False,
) -> CrossEntropies:
    """Run every variant over some contexts.

    Parameters
    ----------
    model : SubjectModel
    coders, labels : mapping by hookpoint
    heldout : Tokens
        The contexts.
    wanted : sequence of Variant
    budgets : sequence of int or "unlimited"
        Those whose predictions the variants read.
    advance : callable
        Told the number of variants done times contexts.
    forecasts : mapping of (str, str) to Forecast, optional
        What else they read, by hookpoint and name.
    final : bool
        Replace at one position only, the last but one of contexts that are all full, and measure
        the prediction of the last token alone.
    """
    documents, document = np.unique(heldout.doc, return_inverse=True)
    total = np.zeros((len(documents), len(wanted)))
    n = np.zeros(len(documents))
    known: dict[tuple[str, Source], Forecast] = {
        (name, budget): labels[name].predictor(budget) for name in labels for budget in budgets
    }
    known.update(forecasts or {})
    at = heldout.ctx_len - 2 if final else None
    first = min(
        coders, key=lambda name: execution_order(coders[name].hookpoint.hook_in), default=None
    )
    for span, batch in batches(heldout, labels, known, at=at, first=first):
        ids, length = batch.tokens.ids, batch.tokens.length
        np.add.at(n, document[span], 1 if final else np.maximum(length - 1, 0))
        for index, variant in enumerate(wanted):
            losses = model.cross_entropy(ids, length, _hooks(variant, coders, batch, at))
            losses = losses[:, -1:] if final else losses
            per_context = torch.nansum(losses.double(), dim=1).cpu().numpy()
            np.add.at(total[:, index], document[span], per_context)
            advance(span.stop - span.start)
    return CrossEntropies([variant.name for variant in wanted], total, n)


def batches(
    tokens: Tokens,
    labels: Mapping[str, LabelSet],
    known: Forecasts,
    *,
    at: int | None = None,
    first: str | None = None,
    size: int = BATCH,
) -> Iterator[tuple[slice, Batch]]:
    """Batches with all forecasts, made on all cores; only at position `at` of each context."""
    width = tokens.ctx_len * sum(labels[name].n_latents for name, _ in known)
    size = max(1, min(size, _MAX_PREDICTED // max(width, 1)))
    for begin in range(0, tokens.n_ctx, size):
        span = slice(begin, min(begin + size, tokens.n_ctx))
        part = tokens.select(np.arange(span.start, span.stop))
        # Hookpoints of one run share a tree: its nodes are looked up once for all of them.
        shared = {id(one.shared): one.shared for one in labels.values()}
        nodes = {number: tree.find(part) for number, tree in shared.items()}
        predict = partial(_predict, labels, part, nodes, known, at)
        found = map_threads(predict, known)
        yield span, Batch(part, begin, dict(zip(known, found, strict=True)), first)


def _predict(
    labels: Mapping[str, LabelSet],
    tokens: Tokens,
    nodes: Mapping[int, Mapping[str, Nodes]],
    known: Forecasts,
    at: int | None,
    which: tuple[str, Source],
) -> torch.Tensor:
    mine = labels[which[0]].tree.complete(nodes[id(labels[which[0]].shared)])
    dense = known[which].predict(tokens, mine)
    dense = dense if at is None else np.ascontiguousarray(dense[:, at])
    return torch.from_numpy(dense.reshape(-1, dense.shape[-1]))


def _hooks(
    variant: Variant, coders: Mapping[str, Coder], batch: Batch, at: int | None
) -> dict[str, Callable[[torch.Tensor], torch.Tensor | None]]:
    """Hooks that read a sublayer's input and replace its output."""
    hooks: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {}
    if variant.replacement is None:
        return hooks
    # Where several coders share a hook, what one writes there is what the others read.
    for name in sorted(variant.hookpoints, key=lambda name: _reads_only(coders[name])):
        run = partial(_run, variant.replacement, coders[name], batch)
        for hook, function in hook_pair(coders[name], run, at).items():
            hooks[hook] = partial(_after, hooks[hook], function) if hook in hooks else function
    return hooks


def _reads_only(coder: Coder) -> bool:
    return coder.hookpoint.hook_in != coder.hookpoint.hook_out


def _after(
    first: Callable[[torch.Tensor], torch.Tensor | None],
    second: Callable[[torch.Tensor], torch.Tensor | None],
    value: torch.Tensor,
) -> torch.Tensor | None:
    """Both hooks, the second on what the first made of the value."""
    made = first(value)
    again = second(value if made is None else made)
    return made if again is None else again


def _run(replacement: Replacement, coder: Coder, batch: Batch, x: torch.Tensor) -> torch.Tensor:
    return replacement(coder, x, batch).expand(x.shape[0], -1)


def hook_pair(
    coder: Coder, run: Callable[[torch.Tensor], torch.Tensor], at: int | None = None
) -> dict[str, Callable[[torch.Tensor], torch.Tensor | None]]:
    """Hooks that put `run` of a sublayer's input in place of its output.

    `run` maps float32 [n, d_in] to [n, d_out]; n is all positions, or those at offset `at`.
    """
    seen: list[torch.Tensor] = []

    def replace(value: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if at is None:
            flat = source.reshape(-1, source.shape[-1]).float()
            return run(flat).to(value.dtype).reshape(value.shape)
        out = value.clone()
        out[:, at] = run(source[:, at].float()).to(value.dtype)
        return out

    def read(value: torch.Tensor) -> None:
        seen[:] = [value]

    def write(value: torch.Tensor) -> torch.Tensor:
        return replace(value, seen[0])

    hookpoint = coder.hookpoint
    if hookpoint.hook_in == hookpoint.hook_out:
        return {hookpoint.hook_out: lambda value: replace(value, value)}
    return {hookpoint.hook_in: read, hookpoint.hook_out: write}
