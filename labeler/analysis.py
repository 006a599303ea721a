"""Function types as labeling functions: what each covers, overlaps, contradicts and wins.

After the analysis of labeling functions in Snorkel (Ratner et al., 2017). A *family* is all types
whose back-off ends in the same type: a bigram saves whatever its unigram saves, so that the two
agree by construction, and only types of different families can overlap or contradict each other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from labeler.arrays import Bools, Doubles, Longs
from labeler.errors import CoderError, LabelError, OptionError, RunError
from labeler.functions import get_function_type
from labeler.hookpoints import layer_order, parse_hookpoint
from labeler.keytree import levels_of
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.level import REFINES

_NAMED = 12
"""Hookpoints named in an error; the rest is counted."""


@dataclass(frozen=True, eq=False)
class TypeScores:
    """Out-of-fold scores of every scored type on every latent of a hookpoint.

    Attributes
    ----------
    types : list of str
        Function types and refinements, coarser before finer.
    bits, net_bits : float64 [n_types, n_latents]
        Bits saved on the firings, and what is left of them after the price of the keys.
    """

    types: list[str]
    bits: Doubles
    net_bits: Doubles

    @classmethod
    def load(cls, folder: Path) -> "TypeScores":
        """Read ``types.parquet`` of a label folder.

        Raises
        ------
        LabelError
            If it is missing or damaged.
        """
        frame = read_labels(folder, "types")
        types = frame["type"].cast(pl.String).unique(maintain_order=True).to_list()
        latent = frame["latent"].to_numpy()
        n_latents = len(latent) // max(len(types), 1)
        if not np.array_equal(latent, np.tile(np.arange(n_latents), len(types))):
            raise LabelError(
                f"{folder / 'types.parquet'} lacks rows; delete {folder} and run `labeler fit`"
            )
        shape = (len(types), n_latents)
        bits, net = (frame[name].to_numpy().reshape(shape) for name in ("bits", "net_bits"))
        return cls(types, bits, net)

    @property
    def family(self) -> Longs:
        """Number of the family of each type, int64 [n_types]."""
        return np.unique([family_of(name) for name in self.types], return_inverse=True)[1]


def family_of(name: str) -> str:
    """The coarsest type that a function type or a refinement backs off to.

    >>> family_of("trigram"), family_of("topic"), family_of("unigram+topic")
    ('unigram', 'topic', 'unigram')
    """
    return next(iter(levels_of([name])))


def looks_ahead(name: str) -> bool:
    """Whether a function type or a refinement reads later positions."""
    return any(
        get_function_type(level.rpartition(REFINES)[2]).looks_ahead for level in levels_of([name])
    )


def count_types(scores: TypeScores, latents: pl.DataFrame, entries: pl.DataFrame) -> pl.DataFrame:
    """What every type of a hookpoint covers, overlaps, contradicts and wins, counted.

    Parameters
    ----------
    scores : TypeScores
    latents : polars.DataFrame
        A row per latent: status, function_type.
    entries : polars.DataFrame
        Of the short labels: budget, level, weight, n.

    Returns
    -------
    polars.DataFrame
        A row per type: type, family; n_fitted, n_labeled latents; of the fitted ones n_covered
        (it saves net bits), n_adding (more than what it backs off to), n_overlap (covered by
        another family too), n_conflict (covered, but a type of another family won); n_wins;
        n_keys and weight (sum of |weight| * n) of the labels of READABLE keys from this type, and
        all_keys and all_weight from any.
    """
    fitted = (latents["status"] != "too_rare").to_numpy()
    labeled = (latents["status"] == "labeled").to_numpy()
    index = {name: number for number, name in enumerate(scores.types)}
    winner = np.array([index.get(name, -1) for name in latents["function_type"]])
    family = scores.family
    covers = (scores.net_bits > 0) & fitted
    parent = np.array([_parent(name, index) for name in scores.types])
    below = np.where(parent[:, None] >= 0, scores.net_bits[parent], 0)
    # By how many families a latent is covered.
    n_families = sum(
        (covers[family == one].any(axis=0).astype(np.int64) for one in np.unique(family)),
        np.zeros(len(fitted), dtype=np.int64),
    )
    elsewhere: Bools = labeled & (family[winner] != family[:, None])
    short = entries.filter(pl.col("budget") == READABLE)
    mass = short["weight"].abs() * short["n"]
    mine = [(short["level"] == name).fill_null(False) for name in scores.types]
    return pl.DataFrame(
        {
            "type": scores.types,
            "family": [family_of(name) for name in scores.types],
            "n_fitted": [int(fitted.sum())] * len(scores.types),
            "n_labeled": [int(labeled.sum())] * len(scores.types),
            "n_covered": covers.sum(axis=1),
            "n_adding": (covers & (scores.net_bits > below)).sum(axis=1),
            "n_overlap": (covers & (n_families > 1)).sum(axis=1),
            "n_conflict": (covers & elsewhere).sum(axis=1),
            "n_wins": np.bincount(winner[labeled & (winner >= 0)], minlength=len(index)),
            "n_keys": [int(one.sum()) for one in mine],
            "all_keys": [len(short)] * len(scores.types),
            "weight": [float(mass.filter(one).sum()) for one in mine],
            "all_weight": [float(mass.sum())] * len(scores.types),
        },
        schema_overrides=dict.fromkeys(
            ("n_covered", "n_adding", "n_overlap", "n_conflict", "n_wins"), pl.Int64
        ),
    )


def _parent(name: str, index: dict[str, int]) -> int:
    return index.get(levels_of([name])[name] or "", -1)


def pool(counts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Counts of several hookpoints together; a type counts where it was scored."""
    together = pl.concat(counts)
    return together.group_by("type", "family", maintain_order=True).sum()


def type_shares(counts: pl.DataFrame) -> pl.DataFrame:
    """Counts as shares, what wins most first.

    Returns
    -------
    polars.DataFrame
        A row per type: type, family; coverage and adds (of the fitted latents), overlap and
        conflict (of the covered ones), wins (of the labeled ones), keys and weight (of those of
        all labels); null where there is nothing to take a share of.
    """
    parts = {
        "coverage": ("n_covered", "n_fitted"),
        "adds": ("n_adding", "n_fitted"),
        "overlap": ("n_overlap", "n_covered"),
        "conflict": ("n_conflict", "n_covered"),
        "wins": ("n_wins", "n_labeled"),
        "keys": ("n_keys", "all_keys"),
        "weight": ("weight", "all_weight"),
    }
    return counts.select(
        "type",
        "family",
        *((pl.col(a) / pl.col(b)).fill_nan(None).alias(name) for name, (a, b) in parts.items()),
    ).sort(["wins", "coverage", "type"], descending=[True, True, False], nulls_last=True)


def analyse_types(out: Path, hookpoints: Iterable[str]) -> dict[str, pl.DataFrame]:
    """`count_types` of some hookpoints of a run.

    Raises
    ------
    LabelError
        If a label folder lacks a file; names it.
    """
    counts = {}
    for name in hookpoints:
        folder = label_folder(out, name)
        latents, entries = LabelSet.load_latents(folder), read_labels(folder, "entries")
        counts[name] = count_types(TypeScores.load(folder), latents, entries)
    return counts


def labeled_hookpoints(out: Path) -> list[str]:
    """Hookpoints that a run has labels of, in layer order.

    Raises
    ------
    RunError
        If there are none.
    """
    names = [path.parent.name for path in (out / "labels").glob("*/manifest.json")]
    if not names:
        raise RunError(f"{out} has no labels; run `labeler fit --out {out}` first")
    return sorted(names, key=layer_order)


def choose_hookpoints(out: Path, wanted: str | None) -> list[str]:
    """All hookpoints with labels, or the one asked for in any spelling.

    Raises
    ------
    RunError, OptionError
        If the run has no labels, or none of the one asked for.
    """
    names = labeled_hookpoints(out)
    if wanted is None:
        return names
    try:
        name = parse_hookpoint(wanted).name
    except CoderError:
        name = wanted
    if name not in names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise OptionError(
            f"{out} has no labels of hookpoint {wanted!r}; it has {', '.join(names[:_NAMED])}{more}"
        )
    return [name]


def read_labels(folder: Path, name: str) -> pl.DataFrame:
    """A table of a label folder, without its key tree.

    Raises
    ------
    LabelError
        If it is missing or damaged.
    """
    path = folder / f"{name}.parquet"
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise LabelError(f"{path}: cannot be read ({error}); run `labeler fit` again") from error
