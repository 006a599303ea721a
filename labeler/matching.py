"""Which latents of two coders belong together: by number, by decoder direction, or at random."""

from typing import NamedTuple

import numpy as np

from labeler.arrays import Doubles, Floats, Longs
from labeler.errors import OptionError

_AT_ONCE = 1024
"""Latents whose cosines with all others are held at once."""


class Matching(NamedTuple):
    """Pairs of latents.

    Attributes
    ----------
    a, b : int64 [n_pairs]
        Latents of the first and of the second run.
    cosine : float64 [n_pairs]
        Of their decoder directions; NaN where they are matched by number.
    """

    a: Longs
    b: Longs
    cosine: Doubles


def match_by_number(n_a: int, n_b: int, name: str) -> Matching:
    """Every latent with the one of the same number.

    Raises
    ------
    OptionError
        If one coder has more latents than the other.
    """
    if n_a != n_b:
        raise OptionError(
            f"{name}: {n_a} latents in one run, {n_b} in the other, and no match by number; give "
            "--match cosine"
        )
    every = np.arange(n_a)
    return Matching(every, every, np.full(n_a, np.nan))


def match_by_cosine(a: Floats, b: Floats, threshold: float, name: str) -> Matching:
    """Pairs of latents by decoder direction, each in one pair at most, the most similar first.

    Parameters
    ----------
    a, b : float32 [n_a, d], [n_b, d]
        Decoder directions.
    threshold : float
        Least cosine of a pair.
    name : str
        The hookpoint, for the message.

    Raises
    ------
    OptionError
        If the directions are of different sizes, and so of different models.
    """
    if a.shape[1] != b.shape[1]:
        raise OptionError(
            f"{name}: decoder directions have {a.shape[1]} and {b.shape[1]} numbers; cosines need "
            "two coders of one model"
        )
    a, b = _unit(a), _unit(b)
    found = []
    for begin in range(0, len(a), _AT_ONCE):
        cosine = a[begin : begin + _AT_ONCE] @ b.T
        row, column = np.nonzero(cosine >= threshold)
        found.append((row + begin, column, cosine[row, column]))
    row, column, value = (np.concatenate(part) for part in zip(*found, strict=True))
    free_a, free_b = np.ones(len(a), dtype=bool), np.ones(len(b), dtype=bool)
    kept = []
    for index in np.argsort(-value, kind="stable"):
        if free_a[row[index]] and free_b[column[index]]:
            free_a[row[index]] = free_b[column[index]] = False
            kept.append(index)
    chosen = np.array(kept, dtype=np.int64)
    chosen = chosen[np.argsort(row[chosen])]
    return Matching(row[chosen], column[chosen], value[chosen].astype(np.float64))


def _unit(directions: Floats) -> Floats:
    norm = np.linalg.norm(directions, axis=1, keepdims=True)
    unit: Floats = (directions / np.maximum(norm, 1e-12)).astype(np.float32)
    return unit


def shuffled(matching: Matching, seed: int) -> Matching:
    """The same latents paired at random, none with its match unless there is only one pair."""
    order = np.random.default_rng(seed).permutation(len(matching.a))
    other = np.empty_like(matching.b)
    other[order] = matching.b[np.roll(order, 1)]
    return Matching(matching.a, other, np.full(len(other), np.nan))
