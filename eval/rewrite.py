"""Cross-entropy with labels running in the layer, beside every baseline (design.md, 8).

A *variant* says what stands in for a sublayer: its own output (base), the sparse coder, zero, the
coder with every latent at its mean, the skip path alone, or the coder with every latent predicted
by its label. All variants of a batch share one prediction of the labels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from labeler.arrays import Doubles
from labeler.coders import Coder
from labeler.eval.bootstrap import document_weights, interval
from labeler.labels import Budget, LabelSet
from labeler.level import Nodes
from labeler.model import SubjectModel
from labeler.threads import map_threads
from labeler.tokens import Tokens

Replacement = Callable[[Coder, torch.Tensor, "Batch"], torch.Tensor]

BATCH = 32
"""Contexts per forward pass."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a replacement may read of the batch at hand.

    Attributes
    ----------
    tokens : Tokens
        Its contexts.
    predictions : dict of (str, budget) to float32 tensor [n_positions, n_latents]
        What the labels predict, by hookpoint and budget.
    """

    tokens: Tokens
    predictions: dict[tuple[str, Budget], torch.Tensor]


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


def variants(
    hookpoints: Sequence[str], labels: Mapping[str, LabelSet], budgets: Sequence[Budget], seed: int
) -> list[Variant]:
    """All variants for some sublayers replaced together."""
    names = tuple(hookpoints)
    mean = {name: torch.from_numpy(labels[name].mean) for name in names}
    rng = np.random.default_rng(seed)
    order = {name: torch.from_numpy(rng.permutation(labels[name].n_latents)) for name in names}

    def coder(c: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return c.decode(c.encode(x)) + c.skip(x)

    def zero(c: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(x), c.d_out, dtype=x.dtype, device=x.device)

    def skip(c: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return c.decode(torch.zeros(1, c.num_latents, device=x.device)) + c.skip(x)

    def at_mean(c: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        return c.decode(mean[c.hookpoint.name].to(x.device)[None]) + c.skip(x)

    def by_labels(budget: Budget) -> Replacement:
        def run(c: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
            predicted = batch.predictions[c.hookpoint.name, budget].to(x.device)
            return c.decode(predicted) + c.skip(x)

        return run

    def shuffled(c: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        # Each latent runs another one's label, scaled to its own mean.
        name = c.hookpoint.name
        other = order[name]
        own, theirs = mean[name], mean[name][other]
        scale = torch.where(theirs > 0, own / theirs.clamp(min=1e-9), torch.zeros_like(own))
        predicted = batch.predictions[name, "unlimited"][:, other] * scale
        return c.decode(predicted.to(x.device)) + c.skip(x)

    return [
        Variant("coder", names, coder),
        Variant("zero", names, zero),
        Variant("mean", names, at_mean),
        Variant("skip", names, skip),
        *(Variant(f"labels_{budget}", names, by_labels(budget)) for budget in budgets),
        Variant("shuffled", names, shuffled),
    ]


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
        return (ce["mean"] - ce[name]) / (ce["mean"] - ce["coder"])

    def recovered_interval(self, name: str, seed: int = 0) -> tuple[float, float]:
        """95% interval of `recovered` over resampled documents."""
        weights = document_weights(len(self.n), seed)
        ce = (weights @ self.total) / (weights @ self.n)[:, None]
        column = {key: ce[:, index] for index, key in enumerate(self.names)}
        samples = (column["mean"] - column[name]) / (column["mean"] - column["coder"])
        low, high = interval(samples)
        return float(low), float(high)


def cross_entropies(
    model: SubjectModel,
    coders: Mapping[str, Coder],
    labels: Mapping[str, LabelSet],
    heldout: Tokens,
    wanted: Sequence[Variant],
    budgets: Sequence[Budget] = (),
    advance: Callable[[int], None] = lambda n: None,
) -> CrossEntropies:
    """Run every variant over the held-out contexts.

    `budgets` are those whose predictions the variants read; `advance` is told the number of
    variants done times contexts.
    """
    documents, document = np.unique(heldout.doc, return_inverse=True)
    total = np.zeros((len(documents), len(wanted)))
    n = np.zeros(len(documents))
    for span, batch in _batches(heldout, labels, budgets):
        ids, length = batch.tokens.ids, batch.tokens.length
        np.add.at(n, document[span], np.maximum(length - 1, 0))
        for index, variant in enumerate(wanted):
            losses = model.cross_entropy(ids, length, _hooks(variant, coders, batch))
            per_context = torch.nansum(losses.double(), dim=1).cpu().numpy()
            np.add.at(total[:, index], document[span], per_context)
            advance(span.stop - span.start)
    return CrossEntropies([variant.name for variant in wanted], total, n)


def _batches(
    heldout: Tokens, labels: Mapping[str, LabelSet], budgets: Sequence[Budget]
) -> Iterator[tuple[slice, Batch]]:
    """Batches with the predictions of all labels, made on all cores."""
    wanted = [(name, budget) for name in labels for budget in budgets]
    for name, budget in wanted:
        labels[name].predictor(budget)  # made here, so that threads do not make it twice

    for begin in range(0, heldout.n_ctx, BATCH):
        span = slice(begin, min(begin + BATCH, heldout.n_ctx))
        tokens = heldout.select(np.arange(span.start, span.stop))
        # Hookpoints of one run share a tree: its nodes are looked up once for all of them.
        shared = {id(one.shared): one.shared for one in labels.values()}
        nodes = {number: tree.find(tokens) for number, tree in shared.items()}
        found = map_threads(partial(_predict, labels, tokens, nodes), wanted)
        yield span, Batch(tokens, dict(zip(wanted, found, strict=True)))


def _predict(
    labels: Mapping[str, LabelSet],
    tokens: Tokens,
    nodes: Mapping[int, Mapping[str, Nodes]],
    which: tuple[str, Budget],
) -> torch.Tensor:
    name, budget = which
    mine = labels[name].tree.complete(nodes[id(labels[name].shared)])
    dense = labels[name].predictor(budget).predict(tokens, mine)
    return torch.from_numpy(dense.reshape(-1, dense.shape[-1]))


def _hooks(
    variant: Variant, coders: Mapping[str, Coder], batch: Batch
) -> dict[str, Callable[[torch.Tensor], torch.Tensor | None]]:
    """Hooks that read a sublayer's input and replace its output."""
    hooks: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {}
    if variant.replacement is None:
        return hooks
    for name in variant.hookpoints:
        hooks.update(_pair(variant.replacement, coders[name], batch))
    return hooks


def _pair(
    replacement: Replacement, coder: Coder, batch: Batch
) -> dict[str, Callable[[torch.Tensor], torch.Tensor | None]]:
    seen: list[torch.Tensor] = []

    def replace(value: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        flat = source.reshape(-1, source.shape[-1]).float()
        out = replacement(coder, flat, batch)
        return out.to(value.dtype).expand(flat.shape[0], -1).reshape(value.shape)

    def read(value: torch.Tensor) -> None:
        seen[:] = [value]

    def write(value: torch.Tensor) -> torch.Tensor:
        return replace(value, seen[0])

    hookpoint = coder.hookpoint
    if hookpoint.hook_in == hookpoint.hook_out:
        return {hookpoint.hook_out: lambda value: replace(value, value)}
    return {hookpoint.hook_in: read, hookpoint.hook_out: write}
