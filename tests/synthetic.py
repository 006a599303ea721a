"""Made-up text and firings whose truth is known, for tests that need no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from labeler.arrays import Doubles
from labeler.fit import HookpointFit, fit_hookpoint
from labeler.keytree import KeyTree, Nodes
from labeler.labels import LabelSet, save_labels
from labeler.scores import BlockScorer
from labeler.statistics import LatentFirings, Rows, make_rows
from labeler.tables import runs_by_type, write_tables
from labeler.tokens import HELDOUT, N_FOLDS, Tokens

Acts = npt.NDArray[np.float32]

N_SUBJECTS = 3
BOOKS_PER_SUBJECT = 2
LEVELS = ("subject", "book")


def make_tokens(
    seed: int = 0,
    *,
    n_docs: int = 40,
    contexts_per_doc: tuple[int, int] = (2, 4),
    ctx_len: int = 16,
    n_vocab: int = 30,
    heldout: float = 0.2,
    topics: bool = True,
    zipf: float = 1.0,
    tilt: float = 1.0,
) -> Tokens:
    """Zipf tokens whose frequencies differ by topic; the last context of a document is short."""
    rng = np.random.default_rng(seed)
    base = np.arange(1, n_vocab + 1) ** -zipf
    by_subject = rng.normal(size=(N_SUBJECTS, n_vocab)) * tilt
    by_book = rng.normal(size=(N_SUBJECTS * BOOKS_PER_SUBJECT, n_vocab)) * tilt
    ids, length, doc, names = [], [], [], []
    for number in range(n_docs):
        book = int(rng.integers(N_SUBJECTS * BOOKS_PER_SUBJECT))
        subject = book // BOOKS_PER_SUBJECT
        names.append((f"subject {subject}", f"book {book}") if topics else ())
        weight = base * np.exp(by_subject[subject] + by_book[book])
        n_ctx = int(rng.integers(contexts_per_doc[0], contexts_per_doc[1] + 1))
        for context in range(n_ctx):
            n = ctx_len if context < n_ctx - 1 else int(rng.integers(1, ctx_len + 1))
            row = np.zeros(ctx_len, dtype=np.int32)
            row[:n] = rng.choice(n_vocab, size=n, p=weight / weight.sum())
            ids.append(row)
            length.append(n)
            doc.append(number)
    fold_of_doc = rng.permutation(n_docs) % N_FOLDS
    fold_of_doc[rng.permutation(n_docs)[: round(heldout * n_docs)]] = HELDOUT
    order = np.argsort((fold_of_doc == HELDOUT)[doc], kind="stable")
    # As tokenize_corpus has it: the fit split first, documents in ascending order.
    renumbered = {old: new for new, old in enumerate(dict.fromkeys(np.array(doc)[order].tolist()))}
    old_of = list(renumbered)
    return Tokens(
        ids=np.array(ids, dtype=np.int32)[order],
        length=np.array(length, dtype=np.int32)[order],
        doc=np.array([renumbered[d] for d in np.array(doc)[order].tolist()], dtype=np.int32),
        fold=fold_of_doc[np.array(doc)[order]].astype(np.int8),
        doc_ids=tuple(f"doc{old}" for old in old_of),
        topics=tuple(names[old] for old in old_of),
        topic_levels=LEVELS if topics else (),
        vocab=tuple(f" w{token}" for token in range(n_vocab)),
    )


def plain_tokens(
    rows: Sequence[Sequence[int]],
    *,
    fold: Sequence[int] | None = None,
    topics: Sequence[tuple[str, ...]] | None = None,
    n_vocab: int = 10,
) -> Tokens:
    """Contexts written out by hand, one document each; short ones are padded."""
    ctx_len = max(len(row) for row in rows)
    n = len(rows)
    names = tuple(topics) if topics else ((),) * n
    return Tokens(
        ids=np.array([[*row, *[0] * (ctx_len - len(row))] for row in rows], dtype=np.int32),
        length=np.array([len(row) for row in rows], dtype=np.int32),
        doc=np.arange(n, dtype=np.int32),
        fold=np.array(fold if fold is not None else [i % N_FOLDS for i in range(n)], dtype=np.int8),
        doc_ids=tuple(f"doc{i}" for i in range(n)),
        topics=names,
        topic_levels=LEVELS[: len(names[0])],
        vocab=tuple(f"<{token}>" for token in range(n_vocab)),
    )


def random_acts(tokens: Tokens, n_latents: int, seed: int = 0) -> Acts:
    """Activations of random sparse latents that lean on tokens, pairs and triples of tokens.

    float32 [n_ctx * ctx_len, n_latents], 0 where silent and on padding. The same latents for the
    same seed whatever the tokens.
    """
    rng = np.random.default_rng(seed)
    n_vocab = tokens.n_vocab
    single = rng.random((n_vocab, n_latents)) ** 4
    double = rng.random((n_vocab, n_vocab, n_latents)) ** 8
    previous = np.zeros_like(tokens.ids)
    previous[:, 1:] = tokens.ids[:, :-1]
    chance = np.minimum(single[tokens.ids] + double[tokens.ids, previous], 1) * 0.7
    noise = np.random.default_rng(seed + 1)
    fires = (noise.random(chance.shape) < chance) & tokens.valid[:, :, None]
    acts = np.where(fires, chance * 3 + noise.random(chance.shape) * 2 + 0.01, 0)
    return acts.reshape(-1, n_latents).astype(np.float32)


def firings_of(acts: Acts, first: int = 0) -> LatentFirings:
    """The firings of dense activations [n_positions, n_latents]."""
    position, latent = np.nonzero(acts)
    return LatentFirings.from_firings(
        position,
        latent + first,
        acts[position, latent],
        first=first,
        n_latents=acts.shape[1],
        n_positions=acts.shape[0],
    )


@dataclass(frozen=True, eq=False)
class Material:
    """A corpus, its key tree and the firings of some latents on its fit split."""

    tokens: Tokens
    fit: Tokens
    tree: KeyTree
    nodes: dict[str, Nodes]
    rows: dict[str, Rows]
    acts: Acts
    firings: LatentFirings

    def fitted(self, seed: int = 0) -> HookpointFit:
        """Fit all latents."""
        return fit_hookpoint(self.tree, self.rows, self.fit, self.firings, seed=seed)


def material(tokens: Tokens, names: Sequence[str], acts: Acts) -> Material:
    """Number the keys of a corpus and take the firings [n_ctx * ctx_len of the fit split, n]."""
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, names)
    return Material(tokens, fit, tree, nodes, make_rows(tree, nodes, fit), acts, firings_of(acts))


def save_fit(run: Path, made: Material, fit: HookpointFit, hookpoint: str = "h.0") -> LabelSet:
    """Write labels as `labeler fit` does and read them back."""
    folder = run / "labels" / hookpoint
    made.tree.save(run / "labels" / "tree")
    runs = runs_by_type(fit.types, fit.runs, fit.labeled)
    write_tables(folder / "whole", made.tree, made.nodes, made.firings, runs, fit.shrinkage)
    save_labels(folder, hookpoint, made.tree, fit, {"model": "none"})
    return LabelSet.load(folder)


def paths_of(tree: KeyTree, tokens: Tokens, name: str) -> list[tuple[int, ...] | None]:
    """Per flat position the keys of a chain, coarsest first; None where one is missing.

    What a node stands for, without any numbering: an oracle for the key tree.
    """
    keys = [tree.types[up].keys(tokens).ravel() for up in tree.chain(name)]
    valid = tokens.valid.ravel()
    found: list[tuple[int, ...] | None] = []
    for position in range(tokens.ids.size):
        path = tuple(int(key[position]) for key in keys)
        found.append(path if valid[position] and min(path) >= 0 else None)
    return found


class CheapKeys(BlockScorer):
    """Lets a key in that saves 1e-4 of the variance: on little text, none pays for itself."""

    def worth(self, n_keys: int) -> Doubles:
        return 1e-4 * self.sst
