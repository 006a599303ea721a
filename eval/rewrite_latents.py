"""What each label costs by itself: the rise of the cross-entropy when one latent runs on its label.

For all latents at once to first order: with the coder in place and g the gradient of the summed
cross-entropy with respect to its output at a position, latent j costs there

    (g . W_dec[j]) * (prediction - activation)

so one backward pass per batch gives every latent. The sum over positions leaves out how a change
bends the loss and how changes at several positions add to each other. The labels that cost most by
the estimate are therefore run, one at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch.nn.functional import cross_entropy

from labeler.arrays import Bools, Doubles
from labeler.coders import Coder
from labeler.eval.rewrite import (
    Batch,
    CrossEntropies,
    Forecast,
    Source,
    Variant,
    batches,
    cross_entropies,
    hook_pair,
)
from labeler.eval.rewrite_curves import mixed
from labeler.eval.rewrite_variants import as_coder, gain
from labeler.labels import Budget, LabelSet
from labeler.model import SubjectModel
from labeler.tokens import Tokens

_BATCH = 8
"""Contexts per backward pass: its activations are kept."""


@dataclass(frozen=True, eq=False)
class LabelCosts:
    """What each label of a hookpoint costs, nats per token.

    Attributes
    ----------
    first_order : float64 [n_latents]
        The estimate, for all.
    dce : float64 [n_latents]
        The cost itself where it was measured, else the estimate.
    exact : bool [n_latents]
        Where it was measured.
    n_tokens : int
        Positions predicted.
    """

    first_order: Doubles
    dce: Doubles
    exact: Bools
    n_tokens: int

    def frame(self) -> pl.DataFrame:
        """A row per latent: latent, dce, exact, first_order."""
        return pl.DataFrame(
            {
                "latent": np.arange(len(self.dce), dtype=np.int32),
                "dce": self.dce,
                "exact": self.exact,
                "first_order": self.first_order,
            }
        )


def label_costs(
    model: SubjectModel,
    coder: Coder,
    labels: LabelSet,
    tokens: Tokens,
    budget: Budget,
    n_exact: int,
    advance: Callable[[int], None] = lambda n: None,
) -> LabelCosts:
    """Estimate the cost of every label and measure that of the `n_exact` costliest.

    `advance` is told ``tokens.n_ctx * (n_exact + 2)`` contexts in all.
    """
    estimate = first_order_costs(model, coder, labels, tokens, budget, advance)
    top = np.argsort(-estimate, kind="stable")[:n_exact]
    found = exact_costs(model, coder, labels, tokens, budget, top.tolist(), advance)
    dce, exact = estimate.copy(), np.zeros(len(estimate), dtype=np.bool_)
    dce[top], exact[top] = found, True
    return LabelCosts(estimate, dce, exact, int(np.maximum(tokens.length - 1, 0).sum()))


def first_order_costs(
    model: SubjectModel,
    coder: Coder,
    labels: LabelSet,
    tokens: Tokens,
    budget: Budget,
    advance: Callable[[int], None] = lambda n: None,
) -> Doubles:
    """The estimate for all latents, nats per token, float64 [n_latents]."""
    name = coder.hookpoint.name
    total = np.zeros(labels.n_latents)
    known: dict[tuple[str, Source], Forecast] = {(name, budget): labels.predictor(budget)}
    for span, batch in batches(tokens, {name: labels}, known, size=_BATCH):
        gradient, acts = _gradient(model, coder, batch.tokens)
        with torch.inference_mode():
            difference = batch.predictions[name, budget].to(acts.device) - acts
            cost = torch.einsum("ij,ij->j", gradient @ coder.W_dec.T, difference)
        total += cost.double().cpu().numpy()
        advance(span.stop - span.start)
    mean: Doubles = total / np.maximum(tokens.length - 1, 0).sum()
    return mean


def _gradient(
    model: SubjectModel, coder: Coder, tokens: Tokens
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the summed cross-entropy by what latents write [n, d_out]; activations [n, n_latents].

    0 where a position is padding or the last one.
    """
    kept: dict[str, torch.Tensor] = {}

    def run(x: torch.Tensor) -> torch.Tensor:
        kept["acts"] = coder.encode(x.detach())
        kept["gain"] = gain(coder, x.detach())
        out = as_coder(coder, x.detach(), Batch(tokens, 0, {}))
        # A copy: what inference mode made cannot be differentiated by.
        kept["out"] = out.expand(len(x), -1).clone().requires_grad_(True)
        return kept["out"]

    hooks = hook_pair(coder, run)
    ids = torch.as_tensor(tokens.ids).to(model.device).long()
    ends = torch.as_tensor(tokens.length).to(model.device).long()
    target = ids[:, 1:].clone()
    target[torch.arange(1, ids.shape[1], device=model.device) >= ends[:, None]] = -100
    with torch.enable_grad():
        logits = model.bridge.run_with_hooks(
            ids,
            fwd_hooks=[
                (name, lambda value, hook, function=function: function(value))
                for name, function in hooks.items()
            ],
            return_type="logits",
            prepend_bos=False,
            use_cache=False,
        )
        loss = cross_entropy(
            logits[:, :-1].float().flatten(0, 1), target.flatten(), reduction="sum"
        )
        (gradient,) = torch.autograd.grad(loss, kept["out"])
    return gradient.float() * kept["gain"], kept["acts"]


def exact_costs(
    model: SubjectModel,
    coder: Coder,
    labels: LabelSet,
    tokens: Tokens,
    budget: Budget,
    latents: Sequence[int],
    advance: Callable[[int], None] = lambda n: None,
) -> Doubles:
    """Cross-entropy with one label running less the coder's, nats per token, float64 [n]."""
    name = coder.hookpoint.name
    wanted = [Variant("coder", (name,), as_coder)]
    for latent in latents:
        mask = np.zeros(labels.n_latents, dtype=np.bool_)
        mask[latent] = True
        wanted.append(mixed(str(latent), {name: mask}, budget, "none"))
    found: CrossEntropies = cross_entropies(
        model, {name: coder}, {name: labels}, tokens, wanted, [budget], advance
    )
    ce = found.total.sum(axis=0) / found.n.sum()
    costs: Doubles = ce[1:] - ce[0]
    return costs
