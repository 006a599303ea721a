"""Labels as a person reads them."""

import numpy as np
import polars as pl

from labeler.fit import FDR, MIN_FIT_FIRINGS, HookpointFit

SHOWN = 6
"""Keys named in a label's line; the rest is counted."""


def describe(fit: HookpointFit, entries: pl.DataFrame) -> list[str]:
    """One line per latent: what it fires on, or why it has no label.

    Parameters
    ----------
    fit : HookpointFit
    entries : polars.DataFrame
        Entries of all short labels, `text` filled.
    """
    budget = max(fit.short)
    threshold = fit.short[budget].threshold
    mine = entries.filter(pl.col("budget") == budget)
    start = np.searchsorted(mine["latent"].to_numpy(), np.arange(len(fit.count) + 1))
    labeled = fit.labeled
    lines = []
    for latent in range(len(fit.count)):
        if labeled[latent]:
            rows = mine.slice(start[latent], start[latent + 1] - start[latent])
            lines.append(_sentence(rows, float(threshold[latent])))
        elif not fit.fitted[latent]:
            lines.append(
                f"not fitted: fires {int(fit.count[latent])} times in the fit split, "
                f"{MIN_FIT_FIRINGS} are needed"
            )
        else:
            lines.append(_unexplained(fit, latent))
    return lines


def _unexplained(fit: HookpointFit, latent: int) -> str:
    """Why a fitted latent has no label."""
    best = int(fit.bits[:, latent].argmax())
    bits, kind = fit.bits[best, latent], fit.types[best]
    if bits <= 0:
        return "unexplained: no function type predicts its firings better than its base rate"
    if fit.q[latent] > FDR:
        return (
            f"unexplained: the closest type is {kind} ({bits:.0f} bits), no better than chance at "
            f"a false-discovery rate of {FDR:.0%} (q = {fit.q[latent]:.2g})"
        )
    return (
        f"unexplained: the closest type is {kind} ({bits:.0f} bits), but none of its keys saves "
        "more than it costs to state"
    )


def _sentence(rows: pl.DataFrame, threshold: float) -> str:
    """What the label's entries say, those that carry most of the activation first."""
    weight = (rows["value"] * rows["n"]).to_numpy()
    fires = (rows["value"] >= threshold).to_numpy()
    order = np.argsort(-weight, kind="stable")
    positive = [index for index in order if fires[index]]
    # Entries below the threshold matter as exceptions to a coarser entry above it.
    negative = [index for index in order if not fires[index]]
    texts = rows["text"]
    line = "fires on " + _listing([texts[int(index)] for index in positive])
    if not len(rows):
        return "predicts its mean: no key saves enough of its squared error to be kept"
    if not positive:
        line = "leans towards " + _listing([texts[int(index)] for index in order])
        return line + ", never surely enough to say it fires"
    if negative:
        line += f"; {len(negative)} weaker or excepted key{'s' if len(negative) > 1 else ''}"
    return line


def _listing(texts: list[str]) -> str:
    shown = ", ".join(texts[:SHOWN])
    more = len(texts) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
