"""Planted truth: latents made from known keyings, with noise, through the whole fit.

Text of 300 tokens with preferred pairs and triples, topics at two levels, and words of one topic
only. Every planted latent misses a tenth of its positions, fires at random a fifth as often as it
should, and has noisy activations. Noise is independent, or bursty by document, or in runs.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from labeler.fit import fit_hookpoint
from labeler.fitted import HookpointFit
from labeler.keytree import KeyTree
from labeler.level import Level, Nodes
from labeler.material import Material
from labeler.pick import PARSIMONY, pick_type
from labeler.tokens import N_FOLDS, Tokens
from tests.synthetic import firings_of

N_VOCAB, N_DOCS, CTX_LEN = 300, 80, 128
N_SUBJECTS, N_BOOKS = 4, 8
EACH, N_NOISE = 30, 150
"""Latents of each planted kind, and of each kind of noise."""

MISSES, SPURIOUS = 0.1, 0.2
NOISE = ("noise", "bursty noise", "noise in runs")

WANTED = {
    "unigrams": "unigram",
    "bigrams": "bigram",
    "trigrams": "trigram",
    "previous tokens": "previous_token",
    "topic": "topic",
    "subtopic": "subtopic",
    "topic of the document": "topic",
    "subtopic of the document": "subtopic",
    "unigram and bigrams": "bigram",
    "word of one topic": "unigram",
    "word with one predecessor": "unigram",
}
"""Kind of planted latent -> the type that explains it."""


def markov_text(seed: int) -> Tokens:
    """80 documents in the fit split, about 80,000 tokens."""
    rng = np.random.default_rng(seed)
    base = rng.permutation(np.arange(1, N_VOCAB + 1) ** -0.9)
    after_one = np.stack([rng.choice(N_VOCAB, 6, replace=False) for _ in range(N_VOCAB)])
    after_two = rng.integers(0, N_VOCAB, (N_VOCAB, N_VOCAB))
    tilts = [
        rng.normal(size=(n, N_VOCAB)) * 1.5 * (rng.random((n, N_VOCAB)) < share)
        for n, share in ((N_SUBJECTS, 0.3), (N_BOOKS, 0.2))
    ]
    only = rng.permutation(N_VOCAB)[:24]
    ids, length, doc, topics = [], [], [], []
    for number in range(N_DOCS):
        book = number % N_BOOKS
        subject = book * N_SUBJECTS // N_BOOKS
        weight = base * np.exp(tilts[0][subject] + tilts[1][book])
        weight[only] *= np.where(np.arange(24) % N_SUBJECTS == subject, 4, 1e-3)
        n = int(rng.integers(400, 1600))
        own = rng.choice(N_VOCAB, n, p=weight / weight.sum()).tolist()
        pick, rank = rng.random(n).tolist(), (6 * rng.random(n) ** 2).astype(int).tolist()
        text = own[:2]
        for t in range(2, n):
            before, last = text[-2], text[-1]
            if pick[t] < 0.15:
                token = after_two[before, last]
            elif pick[t] < 0.5:
                token = after_one[last, rank[t]]
            else:
                token = own[t]
            text.append(int(token))
        for begin in range(0, n, CTX_LEN):
            row = text[begin : begin + CTX_LEN]
            length.append(len(row))
            ids.append(row + [0] * (CTX_LEN - len(row)))
            doc.append(number)
        topics.append((f"subject {subject}", f"book {book}"))
    fold = rng.permutation(N_DOCS) % N_FOLDS
    return Tokens(
        ids=np.array(ids, dtype=np.int32),
        length=np.array(length, dtype=np.int32),
        doc=np.array(doc, dtype=np.int32),
        fold=fold[doc].astype(np.int8),
        doc_ids=tuple(f"doc{number}" for number in range(N_DOCS)),
        topics=tuple(topics),
        topic_levels=("subject", "book"),
        vocab=tuple(f" w{token}" for token in range(N_VOCAB)),
    )


class Planter:
    """Makes masks of positions [n_ctx * ctx_len] where a latent should fire."""

    def __init__(self, fit: Tokens, tree: KeyTree, nodes: dict[str, Nodes], seed: int) -> None:
        self.fit, self.tree, self.nodes = fit, tree, nodes
        self.rng = np.random.default_rng(seed)
        self.valid = fit.valid.ravel()
        self.doc = np.repeat(fit.doc, fit.ctx_len)
        self.token, self.last = fit.ids.ravel(), self.back(1)
        pair, triple = self.number(2), self.number(3)
        self.pair, self.triple = pair, triple
        self.n_token = np.bincount(self.token[self.valid], minlength=N_VOCAB)
        self.pairs, self.n_pair = np.unique(pair[pair >= 0], return_counts=True)
        self.triples, self.n_triple = np.unique(triple[triple >= 0], return_counts=True)
        # How much of its last token a pair is, and of its last pair a triple.
        self.share_pair = self.n_pair / self.n_token[self.pairs % N_VOCAB]
        known = np.searchsorted(self.pairs, self.triples % N_VOCAB**2)
        self.share_triple = self.n_triple / self.n_pair[known]

    def back(self, n: int) -> np.ndarray:
        out = np.full_like(self.fit.ids, -1)
        out[:, n:] = self.fit.ids[:, :-n]
        return out.ravel()

    def number(self, order: int) -> np.ndarray:
        parts = [self.back(n) for n in range(order - 1, 0, -1)] + [self.token]
        number = np.zeros(len(self.token), dtype=np.int64)
        for part in parts:
            number = number * N_VOCAB + part
        return np.where((np.stack(parts).min(axis=0) >= 0) & self.valid, number, -1)

    def some(self, values: np.ndarray, at_most: int) -> np.ndarray:
        n = int(self.rng.integers(1, min(at_most, len(values)) + 1))
        return self.rng.choice(values, n, replace=False)

    def tokens(self, low: int, high: int = 1500) -> np.ndarray:
        return np.flatnonzero((self.n_token > low) & (self.n_token < high))

    def sometimes(self, mask: np.ndarray) -> np.ndarray:
        return mask & (self.rng.random(len(mask)) < self.rng.uniform(0.3, 1))

    def topic_key(self, name: str) -> np.ndarray:
        node, level = self.nodes[name].ravel(), self.tree.levels[name]
        frequent = level.n.sum(axis=1) > 2000
        key = self.rng.choice(np.unique(level.key[frequent]))
        return self.sometimes((node >= 0) & (level.key[node] == key))

    def topic_of_document(self, level: int) -> np.ndarray:
        names = np.array([topics[level] for topics in self.fit.topics])
        return self.sometimes((names == self.rng.choice(names))[self.doc])

    def rare_pairs(self, n: int) -> np.ndarray:
        """Pairs whose last token mostly follows others."""
        fine = (self.n_pair >= 40) & (self.share_pair < 0.2)
        return self.rng.choice(self.pairs[fine], n, replace=False)

    def plant(self, kind: str) -> np.ndarray:
        rng = self.rng
        match kind:
            case "unigrams":
                mask = np.isin(self.token, self.some(self.tokens(40), 8))
            case "bigrams":
                fine = self.pairs[(self.n_pair >= 40) & (self.share_pair < 0.5)]
                mask = np.isin(self.pair, self.some(fine, 4))
            case "trigrams":
                fine = self.triples[(self.n_triple >= 36) & (self.share_triple < 0.5)]
                mask = np.isin(self.triple, self.some(fine, 3))
            case "previous tokens":
                mask = np.isin(self.last, self.some(self.tokens(60), 3))
            case "topic" | "subtopic":
                mask = self.topic_key(kind)
            case "topic of the document":
                mask = self.topic_of_document(0)
            case "subtopic of the document":
                mask = self.topic_of_document(1)
            case "unigram and bigrams":
                pairs = self.rare_pairs(2)
                mask = np.isin(self.pair, pairs)
                n = int(mask.sum())
                mask |= self.token == rng.choice(self.tokens(n // 2, 2 * n))
            case "word of one topic":
                subject = np.array([int(topics[0][-1]) for topics in self.fit.topics])
                count = np.zeros((N_SUBJECTS, N_VOCAB))
                np.add.at(count, (subject[self.doc[self.valid]], self.token[self.valid]), 1)
                # The preferred pairs carry every word into every topic.
                purity = count.max(axis=0) / np.maximum(count.sum(axis=0), 1)
                purity[self.n_token < 60] = 0
                mask = self.token == rng.choice(np.argsort(-purity)[:8])
            case "word with one predecessor":
                share = np.zeros(N_VOCAB)
                np.maximum.at(share, self.pairs % N_VOCAB, self.share_pair)
                share[self.n_token < 60] = 0
                mask = self.token == rng.choice(np.argsort(-share)[:8])
            case _:
                return self.noise(kind)
        hits = mask & self.valid & (rng.random(len(mask)) >= MISSES)
        anywhere = rng.choice(np.flatnonzero(self.valid), int(SPURIOUS * hits.sum()))
        hits[anywhere] = True
        return hits

    def noise(self, kind: str) -> np.ndarray:
        rng, n = self.rng, len(self.valid)
        rate = np.exp(rng.uniform(np.log(50 / n), np.log(0.05)))
        if kind == "noise":
            return (rng.random(n) < rate) & self.valid
        by_doc = rng.gamma(0.5, 2 * rate, size=N_DOCS)[self.doc]
        if kind == "bursty noise":
            return (rng.random(n) < np.minimum(by_doc, 1)) & self.valid
        starts = rng.random(n) < np.minimum(by_doc / 5, 1)
        mask = np.zeros(n, dtype=bool)
        for later in range(8):
            mask[later:] |= starts[: n - later] & (rng.random(n - later) < 0.7)
        return mask & self.valid


@dataclass
class Planted:
    """What was planted and what the fit makes of it, per latent."""

    kind: np.ndarray
    found: np.ndarray
    fit: HookpointFit


@pytest.fixture(scope="module")
def planted() -> Planted:
    fit = markov_text(0)
    assert fit.n_positions >= 60_000
    tree, nodes = KeyTree.build(fit, ["fourgram", "previous_token", "subtopic"])
    planter = Planter(fit, tree, nodes, seed=1)
    kinds = [kind for kind in WANTED for _ in range(EACH)]
    kinds += [kind for kind in NOISE for _ in range(N_NOISE)]
    acts = np.zeros((fit.ids.size, len(kinds)), dtype=np.float32)
    for latent, kind in enumerate(kinds):
        mask = planter.plant(kind)
        strength = planter.rng.uniform(0.3, 3)
        acts[mask, latent] = strength * np.exp(planter.rng.normal(0, 0.4, int(mask.sum())))
    result = fit_hookpoint(Material.make(tree, nodes, fit), firings_of(acts))
    winner = np.array(result.types)[result.winner]
    return Planted(np.array(kinds), np.where(result.labeled, winner, "none"), result)


def table(planted: Planted, kinds: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Types found by kind, for the message of a failure."""
    return {kind: dict(Counter(planted.found[planted.kind == kind].tolist())) for kind in kinds}


@pytest.mark.slow
def test_planted_latents_get_the_right_type(planted: Planted) -> None:
    real = np.isin(planted.kind, list(WANTED))
    wanted = np.array([WANTED.get(kind, "none") for kind in planted.kind])
    right = planted.found == wanted
    assert right[real].mean() >= 0.95, table(planted, tuple(WANTED))


@pytest.mark.slow
@pytest.mark.parametrize("kind", WANTED)
def test_each_kind_gets_the_right_type(planted: Planted, kind: str) -> None:
    right = planted.found[planted.kind == kind] == WANTED[kind]
    assert right.mean() >= 0.9, table(planted, (kind,))


@pytest.mark.slow
def test_noise_is_left_unlabeled(planted: Planted) -> None:
    noise = np.isin(planted.kind, NOISE)
    assert noise.sum() >= 300
    assert (planted.found[noise] == "none").mean() >= 0.99, table(planted, NOISE)
    assert planted.fit.fitted[noise].mean() > 0.8


@pytest.mark.slow
def test_short_labels_name_the_planted_keys(planted: Planted) -> None:
    """F1 of the labels of 16 keys is what the noise allows: 1 / (1 + misses + spurious)."""
    best = 2 * (1 - MISSES) / ((1 - MISSES) * (1 + SPURIOUS) + 1)
    for kind in ("unigrams", "bigrams", "trigrams", "previous tokens", "unigram and bigrams"):
        mine = planted.kind == kind
        assert np.median(planted.fit.short[16].f1[mine]) > best - 0.03
        entries = np.isin(planted.fit.short[16].latent, np.flatnonzero(mine))
        assert entries.sum() / mine.sum() < 16


# -- parsimony, by hand ----------------------------------------------------------------------------


def tree_of(**parents: str | None) -> KeyTree:
    nothing = np.zeros(0, dtype=np.int64)
    counts = np.zeros((0, N_FOLDS), dtype=np.int32)
    return KeyTree({}, {n: Level(n, p, nothing, nothing, counts) for n, p in parents.items()})


def test_the_simplest_type_close_to_the_best_wins() -> None:
    tree = tree_of(unigram=None, bigram="unigram", trigram="bigram", topic=None)
    types = list(tree.levels)
    nearly, below = 100 * (1 - PARSIMONY) + 0.1, 100 * (1 - PARSIMONY) - 0.1
    cases = [
        ([100, 100, 100, 0], "unigram"),
        ([nearly, 100, 100, 0], "unigram"),
        ([below, 100, 100, 0], "bigram"),
        ([50, 60, 100, 0], "trigram"),
        ([nearly, 0, 100, 100], "topic"),
        ([0, 0, 100, nearly], "topic"),
        ([10, 20, 20, 21], "topic"),
    ]
    for net_bits, wanted in cases:
        winner = pick_type(tree, types, np.array(net_bits, dtype=float)[:, None])
        assert types[winner[0]] == wanted
