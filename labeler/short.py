"""Short labels: the few keys that each latent keeps, what each adds, and when they say "fires"."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Bools, Doubles
from labeler.curves import FiringCurve
from labeler.keytree import KeyTree
from labeler.predict import additive_tables
from labeler.sample import Sample
from labeler.select import Chosen


@dataclass(frozen=True, eq=False)
class ShortLabels:
    """Labels of at most `budget` keys for a block or range of latents.

    Attributes
    ----------
    latent, node : int32 [n]
        Absolute latent number and node of each entry; entries by latent, most telling first.
    level : str [n]
        Level of each entry.
    weight : float32 [n]
        What the entry adds to the prediction.
    value : float32 [n]
        The prediction where the entry applies, and of the rest only what it refines.
    n, count : float32 [n]
        Positions of the fit split at the key, and firings there.
    default, threshold, f1 : float32 [n_latents]
        Prediction elsewhere, activation from which the label says "fires", F1 on the sample of
        the fit split that the threshold was chosen on.
    """

    latent: npt.NDArray[np.int32]
    level: npt.NDArray[np.str_]
    node: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float32]
    value: npt.NDArray[np.float32]
    n: npt.NDArray[np.float32]
    count: npt.NDArray[np.float32]
    default: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    f1: npt.NDArray[np.float32]


def short_labels(
    tree: KeyTree,
    chosen: Chosen,
    budget: int,
    first: int,
    mean: Doubles,
    mean_act: Doubles,
    n_positions: float,
    sample: Sample,
    fires: Bools,
) -> ShortLabels:
    """The first `budget` keys of a block's choice, with weights and thresholds.

    Parameters
    ----------
    tree : KeyTree
    chosen : Chosen
    budget : int
    first : int
        Number of the block's first latent.
    mean, mean_act : float64 [n_latents]
        Mean activation over all positions, and where the latent fires.
    n_positions : float
        Positions of the fit split.
    sample : Sample
    fires : bool [n, n_latents]
        Firings in the sample.
    """
    weights = chosen.weights(budget)
    keep = np.flatnonzero(chosen.rank < budget)
    entries = chosen.entries.take(keep)
    weight = weights[entries.latent, chosen.rank[keep]]
    default = mean.copy()
    np.subtract.at(default, entries.latent, weight * entries.n / n_positions)
    level = np.array(list(tree.levels))[entries.level]
    tables = additive_tables(tree, level, entries.latent, entries.node, weight, len(mean))
    predicted = np.empty((len(sample.position), len(mean)), dtype=np.float32)
    predicted[:] = default
    for name, table in tables.items():
        for node in sample.nodes[name].T:
            table.add_to(predicted, node)
    f1, threshold = FiringCurve.of(predicted, fires, mean_act).best()
    return ShortLabels(
        (entries.latent + first).astype(np.int32),
        level,
        entries.node,
        weight.astype(np.float32),
        _values(tree, level, entries.latent, entries.node, weight, default).astype(np.float32),
        entries.n,
        entries.count,
        default.astype(np.float32),
        threshold.astype(np.float32),
        f1.astype(np.float32),
    )


def _values(
    tree: KeyTree,
    level: npt.NDArray[np.str_],
    latent: npt.NDArray[np.int32],
    node: npt.NDArray[np.int32],
    weight: Doubles,
    default: Doubles,
) -> Doubles:
    """Prediction at each entry: the default, its weight, and those of the kept keys above it."""
    value = default[latent] + weight
    known = {
        (str(name), int(j), int(at)): w
        for name, j, at, w in zip(level, latent, node, weight, strict=True)
    }
    for index, name in enumerate(level):
        at, here = int(node[index]), str(name)
        while (up := tree.levels[here].parent_name) is not None:
            at, here = int(tree.levels[here].pair[at] // max(len(tree.levels[here].keys), 1)), up
            value[index] += known.get((here, int(latent[index]), at), 0.0)
    return value


def join_short(parts: Sequence[ShortLabels]) -> ShortLabels:
    """Labels of consecutive blocks of latents, one after another."""
    names = ShortLabels.__dataclass_fields__
    return ShortLabels(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
