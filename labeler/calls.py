"""Make the labels of earlier layers callable: see labeler.functions.calls."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.functions.calls import Calls
from labeler.functions.contract import State
from labeler.keytree import KeyTree
from labeler.labels import LabelSet

BUDGET = 16
"""Keys of a called label: a call stands for a rule short enough to read."""

LEAST_F1 = 0.7
"""F1 on the fit split that a label needs to be called."""

MOST = 192
"""Callable labels per earlier layer: those that account for most firings."""

_TEXT_KEYS = 3


def make_calls(earlier: Sequence[LabelSet], tree: KeyTree) -> Calls | None:
    """The callable labels of some layers; None where there is none.

    Parameters
    ----------
    earlier : sequence of LabelSet
        Of the layers below, fitted on the same key tree.
    tree : KeyTree
        The shared tree, without calls.
    """
    parts, defaults, thresholds, texts = [], [], [], []
    n_calls = 0
    for labels in earlier:
        chosen = _callable(labels)
        number = np.full(labels.n_latents, -1, dtype=np.int32)
        number[chosen] = n_calls + np.arange(len(chosen), dtype=np.int32)
        n_calls += len(chosen)
        mine = labels.entries.filter(
            (pl.col("budget") == BUDGET) & pl.col("latent").is_in(chosen.tolist())
        )
        parts.append(mine.with_columns(pl.Series("call", number[mine["latent"].to_numpy()])))
        defaults.append(labels.latents[f"default_{BUDGET}"].to_numpy()[chosen])
        thresholds.append(labels.latents[f"threshold_{BUDGET}"].to_numpy()[chosen])
        texts += [_text(labels.hookpoint, int(latent), mine) for latent in chosen]
    if not n_calls:
        return None
    entries = pl.concat(parts)
    levels = [name for name in tree.levels if (entries["level"] == name).any()]
    index = {name: position for position, name in enumerate(levels)}
    state: State = {
        "levels": np.array(levels, dtype=np.str_),
        "level_size": np.array([tree.levels[name].n_nodes for name in levels]),
        "level": np.array([index[name] for name in entries["level"]], dtype=np.int32),
        "node": entries["node"].to_numpy().astype(np.int32),
        "call": entries["call"].to_numpy().astype(np.int32),
        "weight": entries["weight"].to_numpy().astype(np.float32),
        "default": np.concatenate(defaults).astype(np.float32),
        "threshold": np.concatenate(thresholds).astype(np.float32),
        "text": np.array(texts, dtype=np.str_),
    }
    calls = Calls()
    calls.load_state(state)
    return calls


def _callable(labels: LabelSet) -> npt.NDArray[np.int64]:
    """Latents of a layer whose labels may be called, ascending.

    A label that itself calls others is not: a call then never waits for another.
    """
    good = labels.labeled & (labels.latents[f"f1_fit_{BUDGET}"].to_numpy() >= LEAST_F1)
    calling = labels.entries.filter(
        (pl.col("budget") == BUDGET) & pl.col("level").str.contains(Calls.name)
    )["latent"].unique()
    good[calling.to_numpy()] = False
    firings = np.where(good, labels.latents["n_fit"].to_numpy(), 0)
    most = np.argsort(-firings, kind="stable")[:MOST]
    return np.sort(most[firings[most] > 0])


def _text(hookpoint: str, latent: int, entries: pl.DataFrame) -> str:
    """A call as a person reads it: whose label, and its strongest keys."""
    rows = entries.filter((pl.col("latent") == latent) & (pl.col("weight") > 0))
    heaviest = rows.sort(pl.col("weight") * pl.col("n"), descending=True)["text"].to_list()
    more = ", ..." if len(heaviest) > _TEXT_KEYS else ""
    return f"{hookpoint} {latent} fires ({', '.join(heaviest[:_TEXT_KEYS])}{more})"
