"""What a fit makes of planted latents: the right type, the right keys, held-out F1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from labeler.fitted import HookpointFit
from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.predict import Predictor, additive_tables
from labeler.tokens import Tokens
from tests.planted import Part, Truth

BUDGET = 16
LIGHT = 0.25
"""Share of the heaviest entry's weight below which an entry does not count."""


@dataclass(frozen=True)
class Verdict:
    """What was planted in a latent and what was found.

    Attributes
    ----------
    kind, wanted, found : str
        Types; "none" where the latent is left unexplained.
    right_type, right_parts : bool
    f1, best_f1 : float
        On held-out text, of the label of 16 keys and of the truth itself.
    entries : list of (str, float)
        The heaviest of the label: level, and weight times positions.
    """

    kind: str
    wanted: str
    found: str
    right_type: bool
    right_parts: bool
    f1: float
    best_f1: float
    entries: list[tuple[str, str, float]]


def found_types(fit: HookpointFit) -> np.ndarray:
    """Winning type of each latent, "none" where it has no label."""
    return np.where(fit.labeled, np.array(fit.types)[fit.winner], "none")


def entries_of(fit: HookpointFit, latent: int) -> list[tuple[str, int, float]]:
    """Entries of a label of 16 keys: level, node, weight times positions; the heaviest first."""
    short = fit.short[BUDGET]
    mine = np.flatnonzero(short.latent == latent)
    heavy = short.weight[mine] * short.n[mine]
    order = mine[np.argsort(-np.abs(heavy))]
    return [
        (str(short.level[i]), int(short.node[i]), float(short.weight[i] * short.n[i]))
        for i in order
    ]


def is_part(entry: tuple[str, int, float], part: Part) -> bool:
    """Whether an entry is of a part's level and keys, and has its sign."""
    level, node, heavy = entry
    return level == part.level and node in part.nodes and heavy * part.sign > 0


def names_parts(entries: Sequence[tuple[str, int, float]], truth: Truth) -> bool:
    """Whether the heaviest entries, as many as there are parts, hold every part and nothing else.

    A light one among them may be anything.
    """
    top = entries[: len(truth.parts)]
    held = [[any(is_part(one, p) for p in group) for group in truth.parts] for one in top]
    if not top or not all(any(column) for column in zip(*held, strict=True)):
        return False
    heavy = [
        any(row) or abs(one[2]) < LIGHT * abs(top[0][2]) for one, row in zip(top, held, strict=True)
    ]
    return all(heavy)


def heldout_f1(
    fit: HookpointFit,
    tree: KeyTree,
    heldout: Tokens,
    nodes: Mapping[str, Nodes],
    held: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """F1 of the labels of 16 keys on held-out text, float64 [n_latents]."""
    short, n = fit.short[BUDGET], len(fit.count)
    tables = additive_tables(tree, short.level, short.latent, short.node, short.weight, n)
    predictor = Predictor(tree, {}, short.default, {}, short.threshold, tables)
    fires = np.zeros((heldout.ids.size, n), dtype=bool)
    for latent, (at, _) in enumerate(held):
        fires[at, latent] = True
    called, hit = np.zeros(n), np.zeros(n)
    for span, predicted in predictor.iterate(heldout, nodes):
        flat = slice(span.start * heldout.ctx_len, span.stop * heldout.ctx_len)
        calls = (predicted >= short.threshold) & heldout.valid.reshape(-1, 1)[flat]
        called += calls.sum(axis=0)
        hit += (calls & fires[flat]).sum(axis=0)
    return 2 * hit / np.maximum(called + fires.sum(axis=0), 1)


def judge(
    truths: Sequence[Truth],
    fit: HookpointFit,
    tree: KeyTree,
    heldout: Tokens,
    nodes: Mapping[str, Nodes],
    held: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[Verdict]:
    """A verdict on each of the first latents, those that have a truth."""
    found = found_types(fit)
    f1 = heldout_f1(fit, tree, heldout, nodes, held)
    verdicts = []
    for latent, truth in enumerate(truths):
        entries = entries_of(fit, latent)
        holds = (truth.strength(nodes) > 0) & heldout.valid.ravel()
        hit = np.count_nonzero(holds[held[latent][0]])
        verdicts.append(
            Verdict(
                truth.kind,
                "/".join(sorted(truth.wanted)),
                str(found[latent]),
                found[latent] in truth.wanted,
                names_parts(entries, truth),
                float(f1[latent]),
                2 * hit / max(int(holds.sum()) + len(held[latent][0]), 1),
                [(level, tree.text(level, node), heavy) for level, node, heavy in entries[:4]],
            )
        )
    return verdicts


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * sqrt(hits * (n - hits) / n + z * z / 4)
    return middle - half, middle + half
