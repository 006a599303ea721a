"""Made-up text and firings whose truth is known, for tests that need no model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from labeler.arrays import Doubles
from labeler.fit import fit_hookpoint
from labeler.fitted import HookpointFit
from labeler.functions import FunctionType, Keys, registry
from labeler.keytree import KeyTree
from labeler.labels import LabelSet, save_labels
from labeler.level import Nodes
from labeler.material import Material as FitMaterial
from labeler.scores import BlockScorer
from labeler.statistics import LatentFirings, Rows
from labeler.tables import runs_by_type, write_extra, write_tables
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
    """A corpus and the firings of some latents on its fit split."""

    tokens: Tokens
    made: FitMaterial
    acts: Acts
    firings: LatentFirings

    @property
    def fit(self) -> Tokens:
        """The fit split."""
        return self.made.fit

    @property
    def tree(self) -> KeyTree:
        """All levels."""
        return self.made.tree

    @property
    def nodes(self) -> Mapping[str, Nodes]:
        """Nodes of the fit split."""
        return self.made.nodes

    @property
    def rows(self) -> Mapping[str, Rows]:
        """Rows of every level."""
        return self.made.rows

    def fitted(self, seed: int = 0) -> HookpointFit:
        """Fit all latents."""
        return fit_hookpoint(self.made, self.firings, seed=seed)


def material(
    tokens: Tokens, names: Sequence[str], acts: Acts, scored: Sequence[str] | None = None
) -> Material:
    """Number the keys of a corpus and take the firings [n_ctx * ctx_len of the fit split, n].

    All levels compete for the labels unless `scored` says which.
    """
    fit = tokens.fit
    tree, nodes = KeyTree.build(fit, names)
    made = FitMaterial.make(tree, nodes, fit, scored)
    return Material(tokens, made, acts, firings_of(acts))


def save_fit(run: Path, made: Material, fit: HookpointFit, hookpoint: str = "h.0") -> LabelSet:
    """Write labels as `labeler fit` does and read them back."""
    folder = run / "labels" / hookpoint
    made.tree.save(run / "labels" / "tree")
    runs = runs_by_type(fit.types, fit.runs, fit.labeled)
    write_tables(folder / "whole", made.tree, made.nodes, made.firings, runs, fit.shrinkage)
    write_extra(folder / "extra", made.tree, fit.corrections, fit.extra, fit.labeled)
    save_labels(folder, hookpoint, made.tree, fit, {"model": "none"})
    return LabelSet.load(folder)


def named_keys(
    tree: KeyTree, tokens: Tokens, name: str, *, fit: bool = False
) -> list[list[tuple[int, ...]]]:
    """Per flat position the paths of keys, coarsest level first, that a level has there.

    What nodes stand for, without any numbering: an oracle for the key tree. Empty where a key is
    missing; more than one where the last level has several keys. With `fit`, `tokens` are the fit
    split of a tree that was built and not loaded, and each context's own fold is left out of what
    its keys were learned from.
    """
    types = [tree.types[tree.levels[up].type_name] for up in tree.chain(name)]
    keys = [
        (kind.fit_keys(tokens) if fit else kind.keys(tokens)).reshape(tokens.ids.size, -1)
        for kind in types
    ]
    valid = tokens.valid.ravel()
    found: list[list[tuple[int, ...]]] = []
    for position in range(tokens.ids.size):
        above = tuple(int(key[position, 0]) for key in keys[:-1])
        paths = [(*above, int(last)) for last in keys[-1][position]]
        found.append([path for path in paths if valid[position] and min(path) >= 0])
    return found


def paths_of(
    tree: KeyTree, tokens: Tokens, name: str, *, fit: bool = False
) -> list[tuple[int, ...] | None]:
    """The only path of each flat position, for levels of one key per position; None = none."""
    return [paths[0] if paths else None for paths in named_keys(tree, tokens, name, fit=fit)]


class LastThree(FunctionType):
    """A token of the first four of the vocabulary among the last three, the one here included.

    A type of several keys, without a parent, for tests: the key is the token.
    """

    name = "last_three"
    several_keys = True

    def prepare(self, tokens: Tokens) -> None:
        self.vocab = tokens.vocab

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        return {"vocab": np.array(self.vocab, dtype=np.str_)}

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        self.vocab = tuple(str(text) for text in state["vocab"])

    def keys(self, tokens: Tokens) -> Keys:
        out = np.full((*tokens.ids.shape, 3), -1, dtype=np.int64)
        for back in range(3):
            token = tokens.ids[:, : max(tokens.ctx_len - back, 0)]
            for nearer in range(back):
                same = tokens.ids[:, back - nearer : tokens.ctx_len - nearer]
                token = np.where(token == same, -1, token)
            out[:, back:, back] = np.where(token < 4, token, -1)
        return out

    def render(self, key: int) -> str:
        return f"`{self.vocab[key]}` among the last 3"

    def source(self) -> str | None:
        return (
            "def keys_last_three(ids):\n"
            "    out = np.full((*ids.shape, 3), -1, dtype=np.int64)\n"
            "    for context, row in enumerate(ids.tolist()):\n"
            "        for t in range(len(row)):\n"
            "            seen = []\n"
            "            for back in range(min(3, t + 1)):\n"
            "                token = row[t - back]\n"
            "                if token < 4 and token not in seen:\n"
            "                    out[context, t, back] = token\n"
            "                seen.append(token)\n"
            "    return out\n"
        )


@contextmanager
def registered(*types: type[FunctionType]) -> Iterator[None]:
    """Register function types for a while."""
    known = dict(registry.function_types())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_registry", known | {cls.name: cls for cls in types})
        yield


class CheapKeys(BlockScorer):
    """Lets a key in that saves 1e-4 of the variance: on little text, none pays for itself."""

    def worth(self, n_keys: int) -> Doubles:
        return 1e-4 * self.sst
