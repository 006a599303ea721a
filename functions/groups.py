"""Groups of vectors by k-means, and the tokens that tell a group of positions from the rest."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_SEED = 0
_N_ROUNDS = 25
_N_TOLD = 3


def centroids(vectors: Floats, n_groups: int) -> Floats:
    """Means of at most `n_groups` groups of vectors, by k-means, float32 [n_found, n_dims].

    Lloyd's rounds are written out because scikit-learn's add up in whatever order its threads end:
    a rounding error may move a vector to another group, and two runs must give the same keys.
    """
    from sklearn.cluster import kmeans_plusplus

    means, _ = kmeans_plusplus(vectors, min(n_groups, len(vectors)), random_state=_SEED)
    for _ in range(_N_ROUNDS):
        group = nearest(vectors, means)
        size = np.bincount(group, minlength=len(means))
        total = np.stack([np.bincount(group, column, len(means)) for column in vectors.T], axis=1)
        means = (total[size > 0] / size[size > 0, None]).astype(np.float32)
    found: Floats = means
    return found


def nearest(
    vectors: npt.NDArray[np.floating[Any]], means: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.int64]:
    """Index of the mean closest to each vector, int64 [n]; of equally close ones the first."""
    half = (means**2).sum(axis=1) / 2
    out = np.empty(len(vectors), dtype=np.int64)
    at_once = 1 << 16  # vectors, to bound the memory
    for start in range(0, len(vectors), at_once):
        some = slice(start, start + at_once)
        out[some] = (vectors[some] @ means.T - half).argmax(axis=1)
    return out


def telling_tokens(
    group: npt.NDArray[np.int64],
    token: npt.NDArray[np.integer[Any]],
    worth: npt.NDArray[np.floating[Any]],
    otherwise: npt.NDArray[np.number[Any]],
) -> list[list[int]]:
    """The tokens that tell each group from the whole, at most 3 per group, the best first.

    Those with the largest part in the group's divergence from the whole, ``p(token | group) *
    log(p(token | group) / p(token))``: common in it and typical of it, not rare.

    Parameters
    ----------
    group, token : int [n]
        Of each position; group -1 = none.
    worth : float [n_vocab]
        What the part of each token is multiplied by; at 0 it is never chosen.
    otherwise : float [n_groups, n_vocab]
        How well each token fits a group; the best are taken where no position tells.
    """
    n_groups, n_vocab = otherwise.shape
    cell, count = np.unique(group[group >= 0] * n_vocab + token[group >= 0], return_counts=True)
    row, column = np.divmod(cell, n_vocab)
    share = count / np.bincount(row, weights=count, minlength=n_groups)[row]
    whole = np.bincount(token, minlength=n_vocab) / max(len(token), 1)
    part = share * np.log(share / whole[column]) * worth[column]
    order = np.lexsort((column, -part, row))
    starts = np.searchsorted(row, np.arange(n_groups + 1))
    best = [order[start:end][:_N_TOLD] for start, end in pairwise(starts)]
    told = [[int(column[cell]) for cell in cells if part[cell] > 0] for cells in best]
    for number, tokens in enumerate(told):
        if not tokens:
            tokens += np.argsort(-otherwise[number], kind="stable")[:_N_TOLD].tolist()
    return told
