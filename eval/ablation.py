"""Ablated text: whether the tokens that matter to a latent are those that its label reads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from labeler.arrays import Doubles, Longs
from labeler.eval.bootstrap import mean_interval
from labeler.eval.edit_contexts import Prefixes, fired, firing, predicted
from labeler.eval.scene import Scene

NEAR = 12
"""Last tokens of a context that are left out, one at a time."""

_ABLATION = 3
"""Which random numbers are taken."""

_DECIMALS = 5
"""Of an importance; what differs by less is rounding."""

_LEAST = 3
"""Tokens from which a rank correlation is taken."""


def ablation(
    scene: Scene,
    n: int = 4,
    most: int = 128,
    advance: Callable[[float], None] = lambda done: None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare the tokens that a latent depends on with those that its label reads.

    At up to n held-out positions of each latent, where it fires and its label calls, each of the
    last NEAR tokens is left out in turn. A token's importance is how much less the latent then
    does, or the label predicts, at the last token left. The control is the partner's label at the
    same positions.

    Parameters
    ----------
    scene : Scene
    n : int
        Positions of each latent.
    most : int
        Latents looked at; drawn where there are more.
    advance : callable
        Told each share of the work as it is done; the shares add up to 1.

    Returns
    -------
    polars.DataFrame
        A row per latent with a position: latent, n, same, same_control, spearman,
        spearman_control; means over its positions, NaN where not defined. `same` is whether the
        most important token is the same one; where several are equally important, the tokens in
        common among those that are most important to either. `spearman` is the rank correlation
        of importances: 0 where all tokens are alike to the label, which then says nothing about
        them, and not defined where they are alike to the latent.
    dict
        n_latents, n, and for same and spearman: own, control, difference, low, high over the
        latents that have both; intervals of 95% over resampled latents.
    """
    rng = np.random.default_rng([scene.seed, _ABLATION])
    latents = np.sort(rng.choice(scene.latents, min(most, len(scene.latents)), replace=False))
    contexts = firing(scene, latents, n, _ABLATION)
    partner = scene.partner[contexts.latent]
    shorter, row, back = _shorter(contexts)
    total = max(len(contexts) + len(shorter), 1)

    def acts(some: Prefixes) -> Doubles:
        found = fired(scene, some, lambda done: advance(done / total))
        return found.at(np.arange(len(some)), some.latent).astype(np.float64)

    def claims(some: Prefixes, latent: Longs) -> Doubles:
        asked = Prefixes(np.maximum(latent, 0), some.ids, some.length)
        predictions = predicted(scene, asked) / scene.claims.threshold[asked.latent]
        return np.where(latent < 0, np.nan, predictions.astype(np.float64))

    def importance(full: Doubles, left: Doubles) -> Doubles:
        out = np.full((len(contexts), NEAR), np.nan)
        out[row, back] = np.round(full[row] - left, _DECIMALS)
        return out

    act = acts(contexts)
    latent = importance(np.ones(len(contexts)), acts(shorter) / np.where(act > 0, act, np.nan)[row])
    own, control = (
        importance(claims(contexts, whose), claims(shorter, whose[row]))
        for whose in (contexts.latent, partner)
    )
    frame = (
        pl.DataFrame(
            {
                "latent": contexts.latent.astype(np.int32),
                "same": _same(latent, own),
                "same_control": _same(latent, control),
                "spearman": _spearman(latent, own),
                "spearman_control": _spearman(latent, control),
            }
        )
        .group_by("latent", maintain_order=True)
        .agg(pl.len().cast(pl.Int64).alias("n"), pl.exclude("latent").drop_nans().mean())
        .with_columns(pl.col(pl.Float64).fill_null(np.nan))
    )
    return frame, {
        "n_latents": len(frame),
        "n": len(contexts),
        "same": _pooled(frame, "same", scene.seed),
        "spearman": _pooled(frame, "spearman", scene.seed),
    }


def _shorter(contexts: Prefixes) -> tuple[Prefixes, Longs, Longs]:
    """All contexts with one token left out, the row each is made of, and how far back it was.

    A context's first token, which may be a mark of its beginning, stays.
    """
    near = np.arange(NEAR)
    row, back = np.nonzero(near < (contexts.length - 1)[:, None])
    length = contexts.length[row] - 1
    column = np.arange(max(contexts.ids.shape[1] - 1, 0))
    later = column >= (length - back)[:, None]
    ids = np.where(column < length[:, None], contexts.ids[row[:, None], column + later], 0)
    return Prefixes(contexts.latent[row], ids, length), row, back


def _same(one: Doubles, other: Doubles) -> Doubles:
    """Of the most important tokens of either, the share common to both, [n]; NaN where unknown."""
    top = [
        values == np.nanmax(values, axis=1, keepdims=True, initial=-np.inf)
        for values in (one, other)
    ]
    with np.errstate(invalid="ignore"):
        share: Doubles = (top[0] & top[1]).sum(axis=1) / (top[0] | top[1]).sum(axis=1)
    return np.where(top[0].any(axis=1) & top[1].any(axis=1), share, np.nan)


def _spearman(one: Doubles, other: Doubles) -> Doubles:
    """Rank correlation of each row, [n]; NaN where `one` is constant, 0 where only `other` is."""
    out = np.full(len(one), np.nan)
    for row, (mine, theirs) in enumerate(zip(one, other, strict=True)):
        known = ~np.isnan(mine) & ~np.isnan(theirs)
        if known.sum() >= _LEAST and np.ptp(mine[known]) > 0:
            alike = np.ptp(theirs[known]) == 0
            out[row] = 0 if alike else spearmanr(mine[known], theirs[known]).statistic
    return out


def _pooled(frame: pl.DataFrame, name: str, seed: int) -> dict[str, float | int | None]:
    """Means over the latents that have both figures, with the interval of their difference."""
    both = frame.select(name, f"{name}_control").to_numpy()
    both = both[~np.isnan(both).any(axis=1)]
    difference, low, high = mean_interval(both[:, 0] - both[:, 1], seed)
    own, control = both.mean(axis=0).tolist() if len(both) else (None, None)
    return {"own": own, "control": control, "difference": difference, "low": low, "high": high}
