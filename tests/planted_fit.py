"""What a fit makes of planted latents: the right type, the right keys, held-out F1.

A latent fires with probability 0.9 where its keys hold, with gamma noise times the strength there,
and a tenth as often anywhere else.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeler.fit import fit_hookpoint
from labeler.fitted import HookpointFit
from labeler.keytree import KeyTree
from labeler.level import Nodes
from labeler.material import Material
from labeler.predict import Predictor, additive_tables
from labeler.statistics import LatentFirings
from labeler.tokens import Tokens
from tests.planted import Part, Truth
from tests.planted_pairs import noise
from tests.planted_text import Text

FIRES, SPURIOUS = 0.9, 0.1
SHAPE = 4.0
"""Of the gamma noise: its standard deviation is half its mean."""

BUDGET = 16

LIGHT = 0.25
"""Share of the heaviest entry's weight below which an entry does not count."""

Fired = tuple[np.ndarray, np.ndarray]
"""Flat positions, ascending, and activations."""

Entry = tuple[str, int, float]
"""Level, node, and weight times positions."""


@dataclass(frozen=True)
class Verdict:
    """What was planted in a latent and what was found.

    Attributes
    ----------
    kind, wanted, found : str
        Types; "none" where the latent is left unexplained.
    right_type : bool
    right_parts : bool
        Of a type that looks ahead, which no label may use: that it does not.
    f1, best_f1 : float
        On held-out text, of the label of 16 keys and of the truth itself.
    entries : tuple of str
        The heaviest of the label.
    """

    kind: str
    wanted: str
    found: str
    right_type: bool
    right_parts: bool
    f1: float
    best_f1: float
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """Verdicts on planted latents, and the types given to those of noise."""

    verdicts: list[Verdict]
    noise: list[str]


def sample(
    truth: Truth, tokens: Tokens, nodes: Mapping[str, Nodes], rate: float, rng: np.random.Generator
) -> Fired:
    """Firings of a latent in a split; `rate` is that of firing anywhere."""
    strength = truth.strength(nodes)
    valid = tokens.valid.ravel()
    hits = (strength > 0) & valid & (rng.random(len(valid)) < FIRES)
    stray = valid & ~hits & (rng.random(len(valid)) < rate)
    at = np.flatnonzero(hits | stray)
    mean = np.where(hits[at], strength[at], 1.0)
    return at, mean * rng.gamma(SHAPE, 1 / SHAPE, len(at))


def plant(text: Text, truths: Sequence[Truth], seed: int) -> tuple[list[Fired], list[Fired]]:
    """Firings of each latent on the fit split and on the held-out split."""
    rng = np.random.default_rng(seed)
    fit, held = [], []
    for truth in truths:
        share = float((truth.strength(text.nodes) > 0)[text.fit.valid.ravel()].mean())
        rate = SPURIOUS * FIRES * share / (1 - share)
        fit.append(sample(truth, text.fit, text.nodes, rate, rng))
        held.append(sample(truth, text.heldout, text.held, rate, rng))
    return fit, held


def join(found: Sequence[Fired]) -> LatentFirings:
    """Firings of latents, one after another."""
    sizes = [len(at) for at, _ in found]
    return LatentFirings(
        0,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([at for at, _ in found]).astype(np.int32),
        np.concatenate([act for _, act in found]).astype(np.float32),
    )


def outcome(
    text: Text, names: Sequence[str], truths: Sequence[Truth], seed: int, n_noise: int = 0
) -> Outcome:
    """Plant, fit with the given levels, and judge."""
    tree = text.tree.select(names)
    nodes = {name: text.nodes[name] for name in tree.levels}
    fired, held = plant(text, truths, seed)
    rng = np.random.default_rng(seed + 1)
    doc = np.repeat(text.fit.doc, text.fit.ctx_len)
    for at in noise(text.fit.valid.ravel(), doc, n_noise, seed + 2):
        fired.append((at, rng.gamma(SHAPE, 1 / SHAPE, len(at))))
    fit = fit_hookpoint(Material.make(tree, nodes, text.fit, list(names)), join(fired))
    verdicts = judge(text, tree, fit, truths, held)
    return Outcome(verdicts, found_types(fit)[len(truths) :].tolist())


def judge(
    text: Text, tree: KeyTree, fit: HookpointFit, truths: Sequence[Truth], held: Sequence[Fired]
) -> list[Verdict]:
    """A verdict on each of the first latents, those that have a truth."""
    found = found_types(fit)
    f1 = heldout_f1(fit, tree, text, held)
    verdicts = []
    for latent, truth in enumerate(truths):
        entries = entries_of(fit, latent)
        holds = (truth.strength(text.held) > 0) & text.heldout.valid.ravel()
        fires = held[latent][0]
        hit = np.count_nonzero(holds[fires])
        if any(tree.looks_ahead(name) for name in truth.wanted):
            right = not any(tree.looks_ahead(level) for level, _, _ in entries)
        else:
            right = names_parts(entries, truth.parts)
        texts = [
            f"{level}: {tree.text(level, node)} ({heavy:+.0f})"
            for level, node, heavy in entries[:4]
        ]
        verdicts.append(
            Verdict(
                truth.kind,
                "/".join(sorted(truth.wanted)),
                str(found[latent]),
                found[latent] in truth.wanted,
                right,
                float(f1[latent]),
                2 * hit / max(int(holds.sum()) + len(fires), 1),
                tuple(texts),
            )
        )
    return verdicts


def found_types(fit: HookpointFit) -> np.ndarray:
    """Winning type of each latent, "none" where it has no label."""
    return np.where(fit.labeled, np.array(fit.types)[fit.winner], "none")


def entries_of(fit: HookpointFit, latent: int) -> list[Entry]:
    """Entries of a label of 16 keys, the heaviest first."""
    short = fit.short[BUDGET]
    mine = np.flatnonzero(short.latent == latent)
    found = [
        (str(short.level[i]), int(short.node[i]), float(short.weight[i] * short.n[i])) for i in mine
    ]
    return sorted(found, key=lambda entry: -abs(entry[2]))


def is_part(entry: Entry, part: Part) -> bool:
    """Whether an entry is of a part's level and nodes, and has its sign."""
    level, node, heavy = entry
    return level == part.level and node in part.nodes and heavy * part.sign > 0


def names_parts(entries: Sequence[Entry], groups: Sequence[Sequence[Part]]) -> bool:
    """Whether the heaviest entries, as many as there are groups, hold all of them and no more.

    A light one among them may be anything.
    """
    top = entries[: len(groups)]
    held = [[any(is_part(entry, part) for part in group) for group in groups] for entry in top]
    if not top or not np.any(held, axis=0).all():
        return False
    return all(
        any(row) or abs(entry[2]) < LIGHT * abs(top[0][2])
        for entry, row in zip(top, held, strict=True)
    )


def heldout_f1(fit: HookpointFit, tree: KeyTree, text: Text, held: Sequence[Fired]) -> np.ndarray:
    """F1 of the labels of 16 keys on held-out text, float64 [n_latents]; 0 beyond `held`."""
    short, n, tokens = fit.short[BUDGET], len(fit.count), text.heldout
    tables = additive_tables(tree, short.level, short.latent, short.node, short.weight, n)
    predictor = Predictor(tree, {}, short.default, {}, short.threshold, tables)
    fires = np.zeros((tokens.ids.size, n), dtype=bool)
    for latent, (at, _) in enumerate(held):
        fires[at, latent] = True
    called, hit = np.zeros(n), np.zeros(n)
    for span, predicted in predictor.iterate(tokens, text.held):
        flat = slice(span.start * tokens.ctx_len, span.stop * tokens.ctx_len)
        calls = (predicted >= short.threshold) & tokens.valid.reshape(-1, 1)[flat]
        called += calls.sum(axis=0)
        hit += (calls & fires[flat]).sum(axis=0)
    f1: np.ndarray = 2 * hit / np.maximum(called + fires.sum(axis=0), 1)
    return f1


def misses(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """Types found instead of the right one, by kind."""
    wrong: dict[str, Counter[str]] = {}
    for one in verdicts:
        if not one.right_type:
            wrong.setdefault(one.kind, Counter())[one.found] += 1
    return {kind: dict(found) for kind, found in wrong.items()}
