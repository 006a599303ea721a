"""Label sets in which some labels are replaced; what the labels claim stays as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.labels import LabelSet
from labeler.text import sentence

Key = tuple[str, int]
"""Level and node."""


@dataclass(frozen=True)
class Change:
    """What a label becomes.

    Attributes
    ----------
    default : float
        Prediction where no key holds.
    threshold : float
        Activation from which it calls.
    entries : sequence of (key, float, float)
        Keys, what each adds, and the prediction where it holds.
    keep : bool
        Whether the label's own entries stay too.
    """

    default: float
    threshold: float
    entries: Sequence[tuple[Key, float, float]]
    keep: bool = False


def lend(
    labels: LabelSet,
    budget: int,
    latents: npt.NDArray[np.integer],
    source: npt.NDArray[np.integer],
) -> LabelSet:
    """The same labels, but some latents have that of another one, `source`."""
    taken = np.arange(labels.n_latents)
    taken[latents] = source
    columns = (f"default_{budget}", f"threshold_{budget}", "text", "function_type")
    frame = labels.latents.with_columns(labels.latents[name].gather(taken) for name in columns)
    loan = pl.DataFrame({"latent": source.astype(np.int32), "to": latents.astype(np.int32)})
    mine = labels.entries.filter(pl.col("budget") == budget)
    lent = mine.join(loan, on="latent", how="inner", maintain_order="right_left")
    entries = lent.with_columns(latent="to").select(labels.entries.columns)
    return _with(labels, budget, latents, frame, entries)


def change(labels: LabelSet, budget: int, changes: Mapping[int, Change]) -> LabelSet:
    """The same labels, but some latents have changed ones."""
    latents = np.array(list(changes), dtype=np.int64)
    columns = {
        name: labels.latents[name].to_list()
        for name in (f"default_{budget}", f"threshold_{budget}", "text")
    }
    frames = [labels.entries.clear()]
    for latent, made in changes.items():
        entries = entries_of(labels, budget, latent) if made.keep else frames[0]
        frames.append(pl.concat([_rows(labels, budget, latent, made), entries]))
        text = sentence(frames[-1], made.threshold)
        for column, value in zip(
            columns.values(), (made.default, made.threshold, text), strict=True
        ):
            column[latent] = value
    frame = labels.latents.with_columns(
        pl.Series(name, values, dtype=labels.latents.schema[name])
        for name, values in columns.items()
    )
    return _with(labels, budget, latents, frame, pl.concat(frames))


def entries_of(labels: LabelSet, budget: int, latent: int) -> pl.DataFrame:
    """Rows of one short label."""
    return labels.entries.filter((pl.col("budget") == budget) & (pl.col("latent") == latent))


def _rows(labels: LabelSet, budget: int, latent: int, made: Change) -> pl.DataFrame:
    """Rows of entries that claim to fire wherever they hold."""
    rows = []
    for (level, node), weight, value in made.entries:
        n = int(labels.tree.levels[level].n_total[node])
        text = labels.tree.text(level, node)
        rows.append((budget, latent, level, node, weight, value, n, n, text))
    return pl.DataFrame(rows, schema=labels.entries.schema, orient="row")


def _with(
    labels: LabelSet,
    budget: int,
    latents: npt.NDArray[np.integer],
    frame: pl.DataFrame,
    entries: pl.DataFrame,
) -> LabelSet:
    """With another row per latent, and some latents' entries replaced."""
    replaced = (pl.col("budget") == budget) & pl.col("latent").is_in(latents.tolist())
    joined = pl.concat([labels.entries.filter(~replaced), entries])
    return LabelSet(
        labels.hookpoint,
        labels.folder,
        labels.tree,
        frame,
        joined.sort("budget", "latent", maintain_order=True),
        labels.manifest,
        shared=labels.shared,
    )
