"""What it costs the model when explained latents run on their rule, or on their explanation.

Some latents of one hookpoint get other activations at the positions of the shared windows, all of
them at once; the other latents, and all positions outside the windows, keep their true ones. Then
the cross-entropy of the tokens that follow those positions is measured.

    coder               every latent true
    mean, zero          the latents at their mean on the fit split; silent
    rule                what their rules of 100 keys predict; the mean where there is none
    rule_control        what their partners' rules predict, scaled to their own mean
    explanation         answer / 10 * highest activation on the fit split; 0 where an answer failed
    explanation_scaled  the same times the factor that fits best on the windows of other documents
    control             the partner's answer in place of their own
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from labeler.arrays import Bools, Doubles, Floats, Longs
from labeler.coders import Coder
from labeler.eval.bootstrap import document_weights, interval
from labeler.eval.llm.prompts import SCALE
from labeler.eval.llm.shared import Rules, Shared, wide
from labeler.eval.rewrite import (
    BATCH,
    Batch,
    CrossEntropies,
    Replacement,
    Variant,
    hook_pair,
)
from labeler.eval.rewrite_maps import least_squares_scale
from labeler.eval.rewrite_variants import as_coder, run_acts
from labeler.model import SubjectModel
from labeler.tokens import Tokens


def stand_ins(shared: Shared, rules: Rules, mean: Floats) -> dict[str, Floats]:
    """Activations of every variant but the coder on the shared windows, float32 [n, m, t] each.

    Parameters
    ----------
    shared : Shared
    rules : Rules
    mean : float32 [n]
        Mean activation on the fit split.
    """
    unit = wide(shared.scale, shared.act) / np.float32(SCALE)
    explained = shared.said * unit
    theirs = mean[shared.partner]
    ratio = np.divide(mean, theirs, out=np.zeros_like(mean), where=theirs > 0)
    return {
        "mean": np.broadcast_to(wide(mean, shared.act), shared.act.shape),
        "zero": np.zeros_like(shared.act),
        "rule": rules.predicted,
        "rule_control": shared.of_partner(rules.predicted) * wide(ratio, shared.act),
        "explanation": explained,
        "explanation_scaled": scaled_by_others(explained, shared.act, shared.document),
        "control": shared.of_partner(shared.said) * unit,
    }


def scaled_by_others(predicted: Floats, act: Floats, document: Longs) -> Floats:
    """Predictions [n, m, t] times the factor of each latent that fits best on other documents.

    By least squares; 1 where nothing is predicted there. `document` is int64 [m].
    """
    out = np.empty(predicted.shape, dtype=np.float32)
    for one in np.unique(document):
        mine = document == one
        said, true = (values[:, ~mine].reshape(len(values), -1).T for values in (predicted, act))
        factor = least_squares_scale(said, true)
        out[:, mine] = predicted[:, mine] * wide(factor, predicted)
    return out


def overridden(latents: Longs, position: Longs, values: Floats, ctx_len: int) -> Replacement:
    """The coder with other activations of some latents at some positions.

    Parameters
    ----------
    latents : int64 [k]
    position : int64 [n]
        Flat, ascending, counted from the first context that is run.
    values : float32 [n, k]
    ctx_len : int
    """
    column = torch.from_numpy(latents)

    def run(coder: Coder, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        begin = batch.begin * ctx_len
        low, high = np.searchsorted(position, [begin, begin + len(x)])
        row = torch.from_numpy(position[low:high] - begin)
        acts = batch.true(coder, x).clone()
        made = torch.from_numpy(np.ascontiguousarray(values[low:high]))
        acts[row[:, None].to(x.device), column.to(x.device)] = made.to(x.device, acts.dtype)
        return run_acts(coder, x, acts)

    return run


def window_variants(
    hookpoint: str,
    shared: Shared,
    values: Mapping[str, Floats],
    rows: Bools,
    contexts: Longs,
    ctx_len: int,
) -> list[Variant]:
    """The coder, and a variant for each kind of activations [n, m, t]; only latents in `rows`.

    `contexts` are those that are run, ascending; the windows lie in them.
    """
    position = _positions(shared, contexts, ctx_len)
    order = np.argsort(position)
    wanted = [Variant("coder", (hookpoint,), as_coder)]
    for name, one in values.items():
        flat = one[rows].reshape(int(rows.sum()), -1).T[order]
        run = overridden(shared.latents[rows], position[order], flat, ctx_len)
        wanted.append(Variant(name, (hookpoint,), run))
    return wanted


def window_cross_entropies(
    model: SubjectModel,
    coder: Coder,
    shared: Shared,
    tokens: Tokens,
    wanted: Sequence[Variant],
    advance: Callable[[float], None] = lambda n: None,
) -> CrossEntropies:
    """Cross-entropy of the tokens that follow the positions of the windows.

    Parameters
    ----------
    model : SubjectModel
    coder : Coder
    shared : Shared
    tokens : Tokens
        The contexts with windows, ascending (`numpy.unique` of `shared.context`).
    wanted : sequence of Variant
        Of this one hookpoint.
    advance : callable
        Told the number of variants done times contexts.
    """
    ctx_len = tokens.ctx_len
    inside = np.zeros(tokens.ids.size, dtype=bool)
    inside[_positions(shared, np.unique(shared.context), ctx_len)] = True
    # The last token of a context is followed by none.
    counted = inside.reshape(tokens.ids.shape)[:, :-1] & tokens.valid[:, 1:]
    documents, document = np.unique(tokens.doc, return_inverse=True)
    total = np.zeros((len(documents), len(wanted)))
    n = np.zeros(len(documents))
    np.add.at(n, document, counted.sum(axis=1))
    for begin in range(0, tokens.n_ctx, BATCH):
        span = slice(begin, min(begin + BATCH, tokens.n_ctx))
        part = tokens.select(np.arange(span.start, span.stop))
        batch = Batch(part, begin, {}, coder.hookpoint.name)
        for index, variant in enumerate(wanted):
            losses = model.cross_entropy(part.ids, part.length, _hooks(variant, coder, batch))
            mine = np.where(counted[span], losses.double().cpu().numpy(), 0)
            np.add.at(total[:, index], document[span], mine.sum(axis=1))
            advance(span.stop - span.start)
    return CrossEntropies([variant.name for variant in wanted], total, n)


def _hooks(
    variant: Variant, coder: Coder, batch: Batch
) -> dict[str, Callable[[torch.Tensor], torch.Tensor | None]]:
    replacement = variant.replacement
    if replacement is None:
        return {}
    return hook_pair(coder, lambda x: replacement(coder, x, batch).expand(len(x), -1))


def _positions(shared: Shared, contexts: Longs, ctx_len: int) -> Longs:
    """Flat position of each token of the windows, int64 [m * t], among some contexts."""
    row = np.searchsorted(contexts, shared.context)
    found: Longs = (row * ctx_len + shared.offset)[:, None] + np.arange(shared.length)
    return found.ravel()


def cost_summary(found: CrossEntropies, seed: int) -> dict[str, Any]:
    """Cross-entropies of the variants as figures.

    Returns
    -------
    dict
        n_tokens, n_documents; ce: nats per token; above_coder: value, low, high of what a variant
        adds to the coder's, by variant; recovered: (CE_mean - CE) / (CE_mean - CE_coder) in the
        same way, or None where the interval of the denominator reaches 0, so that the quotient
        says nothing. Intervals of 95% over documents.
    """
    weights = document_weights(len(found.n), seed)
    n = (weights @ found.n)[:, None]
    drawn = np.divide(
        weights @ found.total, n, out=np.zeros((len(n), len(found.names))), where=n > 0
    )
    ce = found.mean()
    coder = drawn[:, found.names.index("coder")]
    above = {
        name: _figures(ce[name] - ce["coder"], drawn[:, index] - coder)
        for index, name in enumerate(found.names)
        if name != "coder"
    }
    apart = above["mean"]["low"] > 0
    return {
        "n_tokens": int(found.n.sum()),
        "n_documents": len(found.n),
        "ce": ce,
        "above_coder": above,
        "recovered": (
            {name: found.summary(name, seed) for name in above if name != "mean"} if apart else None
        ),
    }


def _figures(value: float, drawn: Doubles) -> dict[str, float]:
    low, high = interval(drawn)
    return {"value": value, "low": float(low), "high": float(high)}
