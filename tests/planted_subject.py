"""Planted latents as a subject that can be watched on any text.

A latent is a program of the tokens, `tests.planted.Truth`. It fires with probability 0.9 where its
keys hold, with gamma noise, and a tenth as often elsewhere. As in a model, all of it depends on the
tokens up to the position alone: the noise is a hash of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.special import gammaincinv

from labeler.arrays import Bools
from labeler.corpus import load_corpus
from labeler.eval.firings import TextFirings
from labeler.fit import fit_hookpoint
from labeler.keytree import KeyTree
from labeler.labels import LabelSet, label_folder, save_labels
from labeler.level import Nodes
from labeler.material import Material
from labeler.statistics import LatentFirings
from labeler.tokens import HELDOUT, Tokens
from labeler.windows import tokenize_corpus
from tests.planted import Planter, Truth, lookup
from tests.planted_fit import FIRES, SHAPE, SPURIOUS
from tests.planted_text import CTX_LEN, Text

HOOKPOINT = "layers.0.mlp"

_AT_ONCE = 512
"""Contexts looked up at once."""

_FIRE, _STRAY, _SIZE = 1, 2, 3
"""What a hash decides."""


def splitmix(x: np.ndarray) -> np.ndarray:
    """Mix the bits of uint64 numbers (Steele, Lea and Flood 2014, OOPSLA, SplitMix)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def prefix_hash(ids: np.ndarray) -> np.ndarray:
    """A number for the tokens of a context up to each position, uint64 [n_ctx, ctx_len]."""
    out = np.empty(ids.shape, dtype=np.uint64)
    so_far = np.zeros(len(ids), dtype=np.uint64)
    for pos in range(ids.shape[1]):
        so_far = splitmix(so_far ^ splitmix(ids[:, pos].astype(np.uint64) + np.uint64(1)))
        out[:, pos] = so_far
    return out


def uniform(prefix: np.ndarray, latent: int, what: int, seed: int) -> np.ndarray:
    """A number in (0, 1) for each prefix, float64; the same for the same arguments."""
    salt = splitmix(np.array([latent * 4 + what, seed], dtype=np.uint64))
    mixed = splitmix(prefix ^ salt[0] ^ splitmix(salt[1:])[0])
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


@dataclass(frozen=True, eq=False)
class PlantedSubject:
    """Latents made of programs, at one hookpoint.

    Attributes
    ----------
    tree : KeyTree
        Levels that the programs read.
    truths : sequence of Truth
    rate : float64 [n_latents]
        Chance of firing where the program is silent.
    seed : int
    max_ctx : int
    """

    tree: KeyTree
    truths: Sequence[Truth]
    rate: np.ndarray
    seed: int = 0
    max_ctx: int = CTX_LEN

    @classmethod
    def make(cls, text: Text, truths: Sequence[Truth], seed: int = 0) -> "PlantedSubject":
        """With stray firings a tenth as frequent as true ones on the fit split."""
        valid = text.fit.valid.ravel()
        share = np.array([(t.strength(text.nodes) > 0)[valid].mean() for t in truths])
        return cls(text.tree, truths, SPURIOUS * FIRES * share / (1 - share), seed)

    def firings(
        self,
        tokens: Tokens,
        hookpoints: Sequence[str],
        where: Bools | None = None,
        advance: Callable[[float], None] = lambda n: None,
    ) -> dict[str, TextFirings]:
        """Firings on a text."""
        parts = []
        for start in range(0, tokens.n_ctx, _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, tokens.n_ctx))
            some = tokens.select(rows)
            watched = some.valid if where is None else some.valid & where[rows]
            found = self.watch(some, self.tree.find(some), watched)
            parts.append((found.position + start * tokens.ctx_len, found.latent, found.act))
            advance(len(rows))
        position, latent, act = (
            np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*parts, strict=True)
        )
        found = TextFirings.make(
            position, latent, act, n_positions=tokens.ids.size, n_latents=len(self.truths)
        )
        return dict.fromkeys(hookpoints, found)

    def watch(self, tokens: Tokens, nodes: Mapping[str, Nodes], where: Bools) -> TextFirings:
        """Firings where a text is watched, from its nodes."""
        at = np.flatnonzero(where)
        here = {
            name: node.reshape(where.size, *node.shape[2:])[at][:, None]
            for name, node in nodes.items()
        }
        prefix = prefix_hash(tokens.ids).ravel()[at]
        latents, places, acts = [], [], []
        for latent, truth in enumerate(self.truths):
            strength = truth.strength(here)
            holds = strength > 0
            hit = holds & (uniform(prefix, latent, _FIRE, self.seed) < FIRES)
            stray = ~hit & (uniform(prefix, latent, _STRAY, self.seed) < self.rate[latent])
            fires = np.flatnonzero(hit | stray)
            noise = gammaincinv(SHAPE, uniform(prefix[fires], latent, _SIZE, self.seed)) / SHAPE
            latents.append(np.full(len(fires), latent))
            places.append(at[fires])
            acts.append(np.where(hit[fires], strength[fires], 1.0) * noise)
        place, latent_of, act = (np.concatenate(part) for part in (places, latents, acts))
        order = np.lexsort((latent_of, place))
        return TextFirings.make(
            place[order],
            latent_of[order],
            act[order],
            n_positions=where.size,
            n_latents=len(self.truths),
        )

    def holds(self, nodes: Mapping[str, Nodes], valid: Bools) -> TextFirings:
        """Where each program holds on a text, without noise; the strength there."""
        found = [np.where(valid.ravel(), truth.strength(nodes), 0) for truth in self.truths]
        matrix = sparse.csr_matrix(np.stack(found, axis=1, dtype=np.float32))
        return TextFirings(
            matrix.indptr.astype(np.int64), matrix.indices, matrix.data, len(self.truths)
        )


@dataclass(frozen=True, eq=False)
class Planted:
    """A text, planted latents, their firings, and the labels fitted to them.

    Attributes
    ----------
    text : Text
    subject : PlantedSubject
    fit, heldout : TextFirings
        Firings on either split.
    names : sequence of str
        Levels that compete for the labels.
    """

    text: Text
    subject: PlantedSubject
    names: Sequence[str]

    @cached_property
    def fit(self) -> TextFirings:
        """Firings on the fit split, whose keys are those made without their own fold."""
        return self.subject.watch(self.text.fit, self.text.nodes, self.text.fit.valid)

    @cached_property
    def heldout(self) -> TextFirings:
        """Firings on the held-out split."""
        return self.subject.watch(self.text.heldout, self.text.held, self.text.heldout.valid)

    def labels(self, run: Path) -> LabelSet:
        """Fit, save below a run folder, and load."""
        tree = self.text.tree.select(self.names)
        nodes = {name: self.text.nodes[name] for name in tree.levels}
        firings = LatentFirings.from_firings(
            self.fit.position,
            self.fit.latent,
            self.fit.act,
            first=0,
            n_latents=self.fit.n_latents,
            n_positions=self.fit.n_positions,
        )
        fitted = fit_hookpoint(
            Material.make(tree, nodes, self.text.fit, list(self.names)), firings, seed=1
        )
        folder = label_folder(run, HOOKPOINT)
        tree.save(folder.parent / "tree")
        save_labels(folder, HOOKPOINT, tree, fitted, {"corpus": "planted"})
        return LabelSet.load(folder)


def relatives(planter: Planter, name: str, tries: int = 300) -> tuple[Truth, Truth]:
    """Two latents of three keys each of a type, of which one is the same.

    Raises
    ------
    ValueError
        If there are none.
    """
    for _ in range(tries):
        one = planter.draw(name, 3)
        node = np.flatnonzero(one[1][:-1])
        shared = planter.keys(name)[node[planter.rng.integers(len(node))]]
        others = np.setdiff1d(planter.usable(name), planter.keys(name)[node])
        if len(others) < 2:
            break
        keys = np.append(planter.rng.choice(others, 2, replace=False), shared)
        two = planter.table(name, keys, planter.rng.uniform(0.5, 2, 3))
        if planter.rival(planter.holds(two), name, 3) is None:
            return tuple(
                Truth(
                    f"{name}, shared key",
                    frozenset({name}),
                    ((planter.part(table),),),
                    lambda nodes, table=table: lookup(nodes, table),
                )
                for table in (one, two)
            )
    raise ValueError(f"{name}: no two latents that share a key")


def more_heldout(tokens: Tokens, share: float, seed: int = 0) -> Tokens:
    """The same windows with about this share of the documents held out."""
    documents, first = np.unique(tokens.doc, return_index=True)
    fold = tokens.fold[first].copy()
    wanted = round(share * len(documents)) - np.count_nonzero(fold == HELDOUT)
    fit = np.flatnonzero(fold != HELDOUT)
    fold[np.random.default_rng(seed).choice(fit, max(wanted, 0), replace=False)] = HELDOUT
    return replace(tokens, fold=fold[np.searchsorted(documents, tokens.doc)])


def openstax_tokens(shared: Path, fit_tokens: int, heldout_tokens: int) -> Tokens:
    """Windows of OpenStax in the tokens of its subject."""
    from transformers import AutoTokenizer

    return tokenize_corpus(
        load_corpus(
            shared / "openstax" / "openstax.parquet",
            topic_columns=["subject", "book"],
            split_column="split",
        ),
        AutoTokenizer.from_pretrained(shared / "openstax-subject" / "model"),
        ctx_len=CTX_LEN,
        fit_tokens=fit_tokens,
        heldout_tokens=heldout_tokens,
        contexts_per_document=8,
    )
