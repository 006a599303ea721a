"""The protocol of "Partially rewriting a transformer in natural language" (arXiv 2501.18838).

Contexts of 32 tokens; latents are replaced at the last token only, and the cross-entropy is that of
the token after it; latents that are not replaced keep their true values; latents with the best
explanations go first; predictions are quantile-normalised, then TopK is applied over all latents.

What differs here, for want of a prose simulator: labels predict, and labels are ranked by their F1
on the fit split instead of a detection score by a language model. Earlier positions keep the
model's own sublayer, and the mean baseline is the coder with its latents at their means.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from labeler.coders import Coder
from labeler.eval.rewrite import BASE, Variant, cross_entropies
from labeler.eval.rewrite_curves import COARSE, Curve, Maps, curve_json, curve_variants
from labeler.eval.rewrite_sample import windows
from labeler.eval.rewrite_variants import as_coder, at_mean, zero
from labeler.labels import Budget, LabelSet
from labeler.model import SubjectModel
from labeler.tokens import Tokens

CONTEXT = 32
"""Tokens of a context; one more is predicted."""


def paper_curves(budget: Budget) -> list[Curve]:
    """The protocol, and the same without its quantile normalisation."""
    return [Curve("score", budget, "quantile+topk"), Curve("score", budget, "topk", COARSE)]


def paper_windows(heldout: Tokens, n_tokens: int, seed: int) -> Tokens:
    """Contexts of `CONTEXT` tokens and the token to predict, about `n_tokens` in all."""
    return windows(heldout, CONTEXT + 1, max(n_tokens // (CONTEXT + 1), 1), seed)


def paper_protocol(
    model: SubjectModel,
    coders: Mapping[str, Coder],
    labels: Mapping[str, LabelSet],
    pieces: Tokens,
    order: Mapping[str, Mapping[tuple[str, Budget], npt.NDArray[np.int64]]],
    maps: Mapping[str, Maps],
    budget: Budget,
    seed: int,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Measure the protocol's curves on windows of held-out text.

    Parameters
    ----------
    model : SubjectModel
    coders, labels : mapping by hookpoint
    pieces : Tokens
        From `paper_windows`.
    order, maps : mapping by hookpoint
        As for `curve_variants`.
    budget : int or "unlimited"
    seed : int
        Of the intervals.
    advance : callable
        Told the variants done times windows.

    Returns
    -------
    dict
        Settings, counts, ce of base, coder, zero and mean, and the curves.
    """
    names = tuple(coders)
    curves, baselines = paper_curves(budget), paper_baselines(names, labels)
    wanted = [*baselines, *curve_variants(curves, order, maps)]
    found = cross_entropies(model, coders, labels, pieces, wanted, [budget], advance, final=True)
    ce = found.mean()
    sizes = [labels[name].n_latents for name in names]
    return {
        "context": CONTEXT,
        "position": "last token only",
        "unselected": "true",
        "ranking": "F1 on the fit split",
        "n_tokens": int(found.n.sum()),
        "n_documents": len(found.n),
        "ce": {variant.name: ce[variant.name] for variant in baselines},
        "curves": [curve_json(curve, found, sizes, seed) for curve in curves],
    }


def paper_baselines(names: Sequence[str], labels: Mapping[str, LabelSet]) -> list[Variant]:
    """The model, the coder, nothing, and latents at their means."""
    mine = tuple(names)
    return [
        BASE,
        Variant("coder", mine, as_coder),
        Variant("zero", mine, zero),
        Variant("mean", mine, at_mean(labels)),
    ]
