"""Labels as a person reads them: a sentence, and a formula."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import polars as pl

from labeler.fitted import FDR, MIN_FIT_FIRINGS, HookpointFit

SHOWN = 6
"""Keys named as those that a label fires on; the rest is counted."""

MODIFIERS = 3
"""Keys named as what makes a label predict more or less."""

_SMALL = 0.1
"""Share of the largest weight below which a modifier goes unsaid."""


def describe(fit: HookpointFit, entries: pl.DataFrame, ahead: Collection[str] = ()) -> list[str]:
    """One line per latent: what it fires on, or why it has no label.

    Parameters
    ----------
    fit : HookpointFit
    entries : polars.DataFrame
        Entries of all short labels, `text` filled.
    ahead : collection of str
        Types that look ahead: they may name a label, of which they are no part.
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
            line = sentence(rows, float(threshold[latent]))
            name = fit.types[fit.winner[latent]]
            if name in ahead:
                line = f"follows the text to come ({name}, which cannot run); what runs: {line}"
            lines.append(line)
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


def sentence(rows: pl.DataFrame, threshold: float) -> str:
    """What a label's entries say, those that carry most of the activation first.

    Parameters
    ----------
    rows : polars.DataFrame
        Entries of one label: text, weight, value, n.
    threshold : float
        Activation from which the label says "fires".
    """
    if not len(rows):
        return "predicts its mean: no key saves enough of its squared error to be kept"
    weight, value, n = (rows[name].to_numpy() for name in ("weight", "value", "n"))
    texts = rows["text"].to_list()
    order = np.argsort(-np.abs(weight) * n, kind="stable")
    fires = [texts[i] for i in order if weight[i] > 0 and value[i] >= threshold]
    large = np.abs(weight) >= _SMALL * np.abs(weight).max()
    more = [texts[i] for i in order if weight[i] > 0 and value[i] < threshold and large[i]]
    down = [i for i in order if weight[i] < 0 and large[i]]
    # An exception takes even the strongest prediction below the threshold. Where keys only take
    # away, that is what they take it from.
    strongest = float(np.maximum(value, value - weight).max())
    exception = (strongest >= threshold) & (strongest + weight < threshold)
    unless = [texts[i] for i in down if exception[i]]
    less = [texts[i] for i in down if not exception[i]]
    if fires:
        parts = ["fires on " + _listing(fires, SHOWN)]
        if more:
            parts.append("stronger with " + _listing(more, MODIFIERS))
    elif more:
        parts = [f"leans towards {_listing(more, SHOWN)}, never one of them alone"]
    else:
        parts = ["fires at any token" if strongest >= threshold else "fires at no token"]
    if less:
        parts.append("weaker with " + _listing(less, MODIFIERS))
    line = "; ".join(parts)
    return f"{line}; unless {_listing(unless, MODIFIERS)}" if unless else line


def formula(rows: pl.DataFrame, default: float, most: int = 8) -> str:
    """A label as one line of code: its default and what each key adds, the heaviest first.

    >>> frame = pl.DataFrame({"text": ["` not`"], "weight": [2.0], "n": [5]})
    >>> formula(frame, 0.125)
    'act = 0.125 + 2*[` not`]'
    """
    found: Sequence[dict[str, Any]] = rows.to_dicts()
    heaviest = sorted(found, key=lambda row: -abs(row["weight"]) * row["n"])
    parts = [f"act = {default:.3g}"]
    for row in heaviest[:most]:
        sign = "-" if row["weight"] < 0 else "+"
        parts.append(f"{sign} {abs(row['weight']):.3g}*[{row['text']}]")
    left = len(heaviest) - most
    return " ".join(parts) + (f" + {left} more" if left > 0 else "")


def _listing(texts: Sequence[str], most: int) -> str:
    shown = ", ".join(texts[:most])
    more = len(texts) - most
    return f"{shown} and {more} more" if more > 0 else shown
