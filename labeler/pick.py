"""Which type names a label, and which type's table runs: two choices (docs/design.md)."""

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles, Longs
from labeler.errors import OptionError
from labeler.keytree import KeyTree

PARSIMONY = 0.05
"""A simpler type wins when its net bits are within this share of the best type's."""

SLACK = 0.01
"""Share of the error that a latent may lose by running on the finest type of its family."""


def pick_type(tree: KeyTree, types: list[str], net_bits: Doubles) -> npt.NDArray[np.int64]:
    """Index of the winning type per latent, from net bits [n_types, n_latents].

    Among the types within PARSIMONY of the best, the one with the shortest chain of back-off;
    among those, the one with the most net bits.
    """
    depth = np.array([len(tree.chain(name)) for name in types])
    close = net_bits >= (1 - PARSIMONY) * net_bits.max(axis=0)
    simplest = np.where(close, depth[:, None], depth.max() + 1).min(axis=0)
    allowed = close & (depth[:, None] == simplest)
    winner: Longs = np.where(allowed, net_bits, -np.inf).argmax(axis=0)
    return winner


def pick_runs(tree: KeyTree, types: list[str], sse: Doubles) -> npt.NDArray[np.int64]:
    """Index of the type whose whole table runs, from out-of-fold error [n_types, n_latents].

    The type with the least error, or the finest type of its family where that costs at most
    SLACK of it: latents that run on the same tables are predicted together. A type that looks
    ahead never runs, and one of several keys per position has no table.
    """
    fit_to_run = [not (tree.looks_ahead(name) or tree.several_keys(name)) for name in types]
    if not any(fit_to_run):
        raise OptionError(
            "--functions: every function type looks ahead or has several keys per position, and "
            "none of them can run as a whole table; add unigram"
        )
    sse = np.where(np.array(fit_to_run)[:, None], sse, np.inf)
    best: Longs = sse.argmin(axis=0)
    least = sse[best, np.arange(sse.shape[1])]
    for leaf in tree.leaves:
        index = types.index(leaf)
        family = np.isin(best, [types.index(name) for name in tree.chain(leaf)])
        best[family & (sse[index] <= (1 + SLACK) * least)] = index
    return best
