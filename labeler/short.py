"""Short labels: the few keys that each latent keeps, whichever family they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.keytree import KeyTree
from labeler.select import Chosen


@dataclass(frozen=True, eq=False)
class ShortLabels:
    """Labels of at most `budget` keys for a block or range of latents.

    Attributes
    ----------
    family : list of str
        Per latent the finest type of the chain its keys come from.
    latent, node : int32 [n]
        Absolute latent number and node of each entry.
    level : list of str
        Function type of each entry.
    value : float32 [n]
        What the label predicts there.
    n, count : float32 [n]
        Positions and firings of the fit split left to the entry.
    default, threshold, f1 : float32 [n_latents]
        Prediction elsewhere, activation above which the label says "fires", F1 in sample.
    """

    family: npt.NDArray[np.str_]
    latent: npt.NDArray[np.int32]
    level: npt.NDArray[np.str_]
    node: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    n: npt.NDArray[np.float32]
    count: npt.NDArray[np.float32]
    default: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    f1: npt.NDArray[np.float32]


def best_family(
    tree: KeyTree, chosen: Mapping[str, Chosen], first: int, mean_act: Doubles
) -> ShortLabels:
    """For each latent the family whose kept keys save most."""
    families = list(chosen)
    saved = np.stack([chosen[family].saved for family in families])
    best = saved.argmax(axis=0)
    parts = []
    n_latents = len(mean_act)
    default, threshold, f1 = np.zeros(n_latents), np.zeros(n_latents), np.zeros(n_latents)
    for index, family in enumerate(families):
        mine = best == index
        picked = chosen[family]
        default[mine] = picked.default[mine]
        cut, score = picked.thresholds()
        threshold[mine], f1[mine] = cut[mine], score[mine]
        keep = mine[picked.entries.latent]
        entries = picked.entries.take(keep)
        chain = np.array(tree.chain(family))
        parts.append(
            (
                entries.latent + first,
                chain[entries.level],
                entries.node,
                picked.value[keep].astype(np.float32),
                picked.n_left[keep].astype(np.float32),
                picked.count_left[keep].astype(np.float32),
            )
        )
    latent, level, node, value, n, count = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    order = np.argsort(latent, kind="stable")
    return ShortLabels(
        np.array(families)[best],
        latent[order],
        level[order],
        node[order],
        value[order],
        n[order],
        count[order],
        default.astype(np.float32),
        threshold.astype(np.float32),
        f1.astype(np.float32),
    )


def join_short(parts: Sequence[ShortLabels]) -> ShortLabels:
    """Labels of consecutive blocks of latents, one after another."""
    names = ShortLabels.__dataclass_fields__
    return ShortLabels(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
