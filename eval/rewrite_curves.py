"""Cross-entropy as more and more latents are replaced by their labels (design.md, 8).

Latents come in an order, the *ranking*; a fraction of them runs on labels, the others keep their
true activations. What the labels predict may go through a *transform* first:

    none           as predicted
    quantile       predicted to true distribution, per latent (labeler.eval.rewrite_maps)
    scale          times E[s a] / E[s^2], per latent
    topk           as predicted, then the coder's activation function again over all latents
    quantile+topk  both
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from labeler.arrays import Bools, Doubles, Floats
from labeler.coders import Coder
from labeler.eval.rewrite import Batch, CrossEntropies, Variant
from labeler.eval.rewrite_maps import QuantileMap
from labeler.eval.rewrite_variants import run_acts
from labeler.labels import Budget, LabelSet

FRACTIONS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of a coder's latents that run on their labels."""

RANKINGS = ("score", "dce", "random")
"""Best fit-split score first; least change of the fit split's cross-entropy first; by chance.

The size of the change counts, not its sign: first-order costs below 0 are large effects that
happened to help on a small sample, and labels ranked first by them do worse than labels at random.
"""

COARSE = (0.01, 0.1, 0.4, 1.0)
"""Fractions of curves that are there to be compared with another one."""

TRANSFORMS = ("none", "quantile", "topk", "scale", "quantile+topk")


@dataclass(frozen=True, eq=False)
class Maps:
    """What `quantile` and `scale` do to the predictions of one hookpoint's labels.

    Attributes
    ----------
    quantile : QuantileMap
    scale : float32 [n_latents]
    """

    quantile: QuantileMap
    scale: Floats


@dataclass(frozen=True)
class Curve:
    """How latents are chosen and what is done to their predictions.

    Attributes
    ----------
    ranking, budget, transform : str, int or "unlimited", str
    fractions : tuple of float
    """

    ranking: str
    budget: Budget
    transform: str = "none"
    fractions: tuple[float, ...] = FRACTIONS

    def point(self, fraction: float) -> str:
        """Name of the variant at a fraction; at 1, where no order matters, of all rankings."""
        ranking = "all" if fraction == 1 else self.ranking
        return f"{ranking}/{self.budget}/{self.transform}/{fraction}"


def n_replaced(fraction: float, n_latents: int) -> int:
    """Latents in a fraction: at least one."""
    return max(1, round(fraction * n_latents))


def rankings(
    labels: LabelSet, budget: Budget, cost: Doubles, seed: int
) -> dict[tuple[str, Budget], npt.NDArray[np.int64]]:
    """Latents in the order in which they are replaced, int64 [n_latents], by ranking and budget.

    Parameters
    ----------
    labels : LabelSet
    budget : int or "unlimited"
        Whose score on the fit split counts; latents without a label come last.
    cost : float64 [n_latents]
        What each label costs on the fit split, nats per token.
    seed : int
    """
    column = "f1_out_of_fold" if budget == "unlimited" else f"f1_fit_{budget}"
    score = np.where(labels.labeled, labels.latents[column].to_numpy(), -np.inf)
    return {
        ("score", budget): np.argsort(-score, kind="stable"),
        ("dce", budget): np.argsort(np.abs(cost), kind="stable"),
        ("random", budget): np.random.default_rng(seed).permutation(labels.n_latents),
    }


def transformed(
    batch: Batch, name: str, budget: Budget, how: str, maps: Maps | None
) -> torch.Tensor:
    """Predictions after the transform of each latent by itself, float32 [n, n_latents]."""
    said = batch.predictions[name, budget]
    if how == "none" or maps is None:
        return said
    if how == "scale":
        return batch.once((how, name, budget), lambda: said * torch.from_numpy(maps.scale))
    mapped = partial(maps.quantile.apply, said.numpy())
    return batch.once((how, name, budget), lambda: torch.from_numpy(mapped()))


def topk_again(coder: Coder, acts: torch.Tensor) -> torch.Tensor:
    """The coder's activation function over activations [n, n_latents], mixed as they may be.

    Those of coders that say no `k` come back as they are.
    """
    config = getattr(coder, "config", None)
    k = getattr(config, "k", None)
    if k is None:
        return acts
    if getattr(config, "activation", "topk") == "groupmax":
        groups = acts.view(len(acts), k, -1)
        best = groups.max(dim=-1, keepdim=True)
        return torch.zeros_like(groups).scatter_(-1, best.indices, best.values).view_as(acts)
    top = acts.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(acts).scatter_(1, top.indices, top.values)


def mixed(
    name: str,
    chosen: Mapping[str, Bools],
    budget: Budget,
    transform: str,
    maps: Mapping[str, Maps] | None = None,
) -> Variant:
    """Run the chosen latents of each hookpoint on their labels, the others on what is true.

    Parameters
    ----------
    name : str
    chosen : mapping of str to bool [n_latents]
        By hookpoint.
    budget : int or "unlimited"
    transform : str
        One of `TRANSFORMS`.
    maps : mapping of str to Maps, optional
        By hookpoint; needed for "quantile" and "scale".
    """
    masks = {hookpoint: torch.from_numpy(mask) for hookpoint, mask in chosen.items()}
    each, _, again = transform.partition("+")
    each, again = ("none", "topk") if each == "topk" else (each, again)

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        hookpoint = coder.hookpoint.name
        mine = maps[hookpoint] if maps else None
        acts = transformed(batch, hookpoint, budget, each, mine).to(x.device)
        mask = masks[hookpoint]
        if not bool(mask.all()):
            acts = torch.where(mask.to(x.device), acts, batch.true(coder, x))
        return run_acts(coder, x, topk_again(coder, acts) if again else acts)

    return Variant(name, tuple(chosen), run)


def curve_variants(
    curves: Sequence[Curve],
    order: Mapping[str, Mapping[tuple[str, Budget], npt.NDArray[np.int64]]],
    maps: Mapping[str, Maps],
) -> list[Variant]:
    """The variants of all points of some curves; a point that curves share comes once.

    Parameters
    ----------
    curves : sequence of Curve
    order : mapping of str to mapping of (ranking, budget) to int64 [n_latents]
        By hookpoint: the order in which latents are replaced. The same fraction of every
        hookpoint's latents is.
    maps : mapping of str to Maps
        By hookpoint.
    """
    found: dict[str, Variant] = {}
    for curve, fraction in [(one, fraction) for one in curves for fraction in one.fractions]:
        name = curve.point(fraction)
        if name in found:
            continue
        chosen = {}
        for hookpoint, ranked in order.items():
            latents = ranked[curve.ranking, curve.budget]
            chosen[hookpoint] = np.zeros(len(latents), dtype=np.bool_)
            chosen[hookpoint][latents[: n_replaced(fraction, len(latents))]] = True
        found[name] = mixed(name, chosen, curve.budget, curve.transform, maps)
    return list(found.values())


def curve_json(
    curve: Curve, found: CrossEntropies, sizes: Sequence[int], seed: int
) -> dict[str, Any]:
    """A curve: ranking, budget, transform, points of fraction, n_latents, ce, recovered, low, high.

    `sizes` are the numbers of latents of the hookpoints.
    """
    ce = found.mean()
    points = []
    for fraction in curve.fractions:
        share = found.summary(curve.point(fraction), seed)
        points.append(
            {
                "fraction": fraction,
                "n_latents": sum(n_replaced(fraction, n) for n in sizes),
                "ce": ce[curve.point(fraction)],
                "recovered": share["value"],
                "low": share["low"],
                "high": share["high"],
            }
        )
    return {
        "ranking": curve.ranking,
        "budget": curve.budget,
        "transform": curve.transform,
        "points": points,
    }
