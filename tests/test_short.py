"""Short labels: weights, values and thresholds, and types of several keys or that look ahead."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest

from labeler.curves import BINS_PER_OCTAVE, N_BINS
from labeler.fitted import BUDGETS, HookpointFit
from labeler.keytree import KeyTree
from labeler.labels import ALL_BUDGETS, LabelSet
from labeler.predict import Predictor, additive_tables
from labeler.sample import Sample
from labeler.scores import BlockScorer
from labeler.short import ShortLabels, join_short
from labeler.tokens import Tokens
from tests.synthetic import (
    Acts,
    CheapKeys,
    LastThree,
    Material,
    make_tokens,
    material,
    named_keys,
    random_acts,
    registered,
    save_fit,
)

NAMES = ["bigram", "previous_token", "topic", "unigram+topic", "last_three", "unigram+last_three"]
WIDTH = 5
SAMPLED = 700


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    with registered(LastThree):
        yield


def near(tokens: Tokens, token: int) -> np.ndarray:
    """Whether a token is among the last three, bool [n_ctx, ctx_len]."""
    out = np.zeros(tokens.ids.shape, dtype=bool)
    for back in range(3):
        out[:, back:] |= tokens.ids[:, : tokens.ctx_len - back] == token
    return out & tokens.valid


@pytest.fixture(scope="module")
def made() -> Material:
    tokens = make_tokens(141, n_docs=80, n_vocab=9)
    rng = np.random.default_rng(0)
    acts = random_acts(tokens.fit, WIDTH, seed=8)
    # Tokens nearby add something of their own.
    for token in range(4):
        fires = rng.random(acts.shape) < 0.7
        acts += fires * near(tokens.fit, token).reshape(-1, 1) * rng.random(WIDTH) * 2
    whole = material(tokens, NAMES, acts.astype(np.float32))
    # Thresholds from a part of the text only.
    sample = Sample.take(whole.fit, whole.nodes, SAMPLED)
    assert len(sample.position) < 0.7 * whole.fit.n_positions
    return replace(whole, made=replace(whole.made, sample=sample))


@pytest.fixture(scope="module")
def fit(made: Material) -> HookpointFit:
    return cheaply_fitted(made)


def cheaply_fitted(made: Material) -> HookpointFit:
    with patch.object(BlockScorer, "worth", CheapKeys.worth):
        return made.fitted()


def path_of(tree: KeyTree, name: str, node: int) -> tuple[int, ...]:
    """Keys along the chain of a node, coarsest first."""
    keys: list[int] = []
    for up in reversed(tree.chain(name)):
        keys.append(int(tree.levels[up].key[node]))
        node = int(tree.levels[up].parent[node])
    return tuple(reversed(keys))


def entries_of(short: ShortLabels, latent: int) -> list[tuple[str, int, float, float]]:
    """Level, node, weight and value of a latent's entries, in order."""
    columns = (short.level, short.node, short.weight, short.value)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    return [row for row, j in zip(rows, short.latent, strict=True) if j == latent]


def naive(tree: KeyTree, short: ShortLabels, tokens: Tokens, *, fit: bool = False) -> np.ndarray:
    """The default and the weights of the keys that apply, float64 [n_positions, n_latents]."""
    holds: list[set[tuple[str, tuple[int, ...]]]] = [set() for _ in range(tokens.ids.size)]
    for name in tree.levels:
        for position, paths in enumerate(named_keys(tree, tokens, name, fit=fit)):
            holds[position].update((name, path) for path in paths)
    out = np.tile(short.default.astype(np.float64), (tokens.ids.size, 1))
    for latent in range(out.shape[1]):
        for name, node, weight, _ in entries_of(short, latent):
            key = (name, path_of(tree, name, node))
            out[:, latent] += [weight if key in held else 0.0 for held in holds]
    return out


def predictor_of(tree: KeyTree, short: ShortLabels) -> Predictor:
    tables = additive_tables(
        tree, short.level, short.latent, short.node, short.weight, len(short.default)
    )
    return Predictor(tree, {}, short.default, {}, short.threshold, tables)


# -- what a label predicts -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
def test_predictions_are_the_default_and_the_weights(
    made: Material, fit: HookpointFit, budget: int
) -> None:
    short = fit.short[budget]
    text = make_tokens(142, n_docs=12, n_vocab=9)
    predicted = predictor_of(made.tree, short).predict(text)
    assert predicted.dtype == np.float32
    wanted = naive(made.tree, short, text)
    valid = text.valid.ravel()
    found = predicted.reshape(-1, WIDTH)[valid]
    assert np.allclose(found, np.maximum(wanted, 0)[valid], rtol=1e-4, atol=1e-5)
    assert (wanted[valid] < -1e-3).any()
    assert {"bigram", "last_three", "unigram+last_three"} <= set(short.level.tolist())
    # Keys of one level that hold at once are added up.
    nodes = made.tree.find(text)["last_three"].reshape(-1, 3)[valid]
    kept = [
        short.node[(short.level == "last_three") & (short.latent == latent)]
        for latent in range(WIDTH)
    ]
    assert sum((np.isin(nodes, mine).sum(axis=1) > 1).sum() for mine in kept) > 200


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_mean_prediction_is_the_mean(made: Material, fit: HookpointFit, budget: int) -> None:
    """A ridge with a free intercept: what the keys add is taken off the default."""
    short = fit.short[budget]
    valid = made.fit.valid.ravel()
    mean = naive(made.tree, short, made.fit, fit=True)[valid].mean(axis=0)
    assert np.allclose(mean, made.acts[valid].mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("budget", BUDGETS)
def test_values_count_what_an_entry_refines(made: Material, fit: HookpointFit, budget: int) -> None:
    short, tree = fit.short[budget], made.tree
    refining = 0
    for latent in range(WIDTH):
        entries = entries_of(short, latent)
        weights = {(name, path_of(tree, name, node)): w for name, node, w, _ in entries}
        for name, node, weight, value in entries:
            chain, path = tree.chain(name), path_of(tree, name, node)
            above = [
                weights.get((up, path[:depth]), 0) for depth, up in enumerate(chain[:-1], start=1)
            ]
            assert value == pytest.approx(short.default[latent] + weight + sum(above), abs=1e-5)
            refining += any(above)
    assert refining > 10


def test_the_smaller_budget_is_the_beginning_of_the_larger(fit: HookpointFit) -> None:
    small, large = (fit.short[budget] for budget in BUDGETS)
    for latent in range(WIDTH):
        one, other = ([row[:2] for row in entries_of(s, latent)] for s in (small, large))
        assert len(one) == 16
        assert len(other) > 16
        assert other[:16] == one


def test_what_is_counted_at_an_entry(made: Material, fit: HookpointFit) -> None:
    short = fit.short[100]
    for index in range(0, len(short.latent), 11):
        nodes = made.nodes[str(short.level[index])].reshape(made.fit.ids.size, -1)
        at = (nodes == short.node[index]).any(axis=1)
        assert short.n[index] == at.sum()
        assert short.count[index] == (made.acts[at, short.latent[index]] > 0).sum()


# -- thresholds ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
def test_thresholds_maximise_f1_on_the_sample(
    made: Material, fit: HookpointFit, budget: int
) -> None:
    short = fit.short[budget]
    position = made.made.sample.position
    predicted = naive(made.tree, short, made.fit, fit=True)[position]
    fires = made.acts[position] > 0

    def f1(latent: int, threshold: float) -> float:
        called = predicted[:, latent] >= threshold
        return 2 * (called & fires[:, latent]).sum() / (called.sum() + fires[:, latent].sum())

    for latent in range(WIDTH):
        acts = made.acts[made.fit.valid.ravel(), latent]
        scale = acts[acts > 0].astype(np.float64).mean()
        tried = [scale / 64 * 2 ** (step / BINS_PER_OCTAVE) for step in range(N_BINS - 1)]
        assert short.f1[latent] == pytest.approx(max(f1(latent, t) for t in tried), abs=2e-3)
        assert f1(latent, short.threshold[latent] * (1 - 1e-6)) == pytest.approx(
            short.f1[latent], abs=2e-3
        )
        assert min(abs(short.threshold[latent] / t - 1) for t in tried) < 1e-5
    # The rest of the text would have had other thresholds.
    whole = cheaply_fitted(replace(made, made=replace(made.made, sample=whole_sample(made))))
    assert np.array_equal(whole.short[budget].weight, short.weight)
    assert not np.array_equal(whole.short[budget].f1, short.f1)


def whole_sample(made: Material) -> Sample:
    return Sample.take(made.fit, made.nodes)


def test_a_sample_is_whole_contexts_spread_over_the_text(made: Material) -> None:
    fit = made.fit
    for n in (1, 100, 300, SAMPLED, 10**9):
        sample = Sample.take(fit, made.nodes, n)
        context = sample.position // fit.ctx_len
        chosen = np.unique(context)
        # Every real position of the chosen contexts, evenly spread.
        there = fit.valid & np.isin(np.arange(fit.n_ctx), chosen)[:, None]
        assert np.array_equal(sample.position, np.flatnonzero(there.ravel()))
        assert len(set(np.diff(chosen).tolist())) <= 1
        if 100 <= n <= fit.n_positions:
            assert 0.7 * n <= len(sample.position) <= 2.5 * n
        assert np.array_equal(sample.place[sample.position], np.arange(len(sample.position)))
        assert (sample.place >= 0).sum() == len(sample.position)
        for name, nodes in made.nodes.items():
            flat = nodes.reshape(fit.ids.size, -1)
            assert np.array_equal(sample.nodes[name], flat[sample.position])
        assert np.array_equal(sample.acts(made.firings), made.acts[sample.position])
    assert len(Sample.take(fit, made.nodes, 10**9).position) == fit.n_positions


@pytest.mark.slow
def test_labels_of_blocks_follow_one_another(
    made: Material, fit: HookpointFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeler.fit.BLOCK", 2)
    again = cheaply_fitted(made)
    for budget in BUDGETS:
        one, other = again.short[budget], fit.short[budget]
        for latent in range(WIDTH):
            mine, same = entries_of(one, latent), entries_of(other, latent)
            assert [row[:2] for row in mine] == [row[:2] for row in same]
            assert np.allclose([row[2:] for row in mine], [row[2:] for row in same], rtol=1e-3)
        assert np.allclose(one.default, other.default, rtol=1e-4, atol=1e-6)
        assert np.allclose(one.threshold, other.threshold)
    joined = join_short([fit.short[16], fit.short[100]])
    assert joined.latent.tolist() == [*fit.short[16].latent, *fit.short[100].latent]
    assert joined.f1.tolist() == [*fit.short[16].f1, *fit.short[100].f1]


# -- a type of several keys, the whole way ---------------------------------------------------------


def planted(tokens: Tokens) -> Acts:
    """Near token 1 or 2: 2 or 3, together 5. At token 5 near token 1. Before token 3."""
    rng = np.random.default_rng(tokens.n_ctx)
    after = np.full_like(tokens.ids, -1)
    after[:, :-1] = np.where(tokens.valid[:, 1:], tokens.ids[:, 1:], -1)
    acts = np.stack(
        [
            2.0 * near(tokens, 1) + 3.0 * near(tokens, 2),
            4.0 * (near(tokens, 1) & (tokens.ids == 5)),
            3.0 * ((after == 3) & tokens.valid),
        ],
        axis=-1,
    )
    acts *= np.exp(rng.normal(0, 0.1, acts.shape))
    return acts.reshape(-1, 3).astype(np.float32)


NEAR, PAIR, BEFORE = range(3)


@pytest.fixture(scope="module")
def corpus() -> Tokens:
    return make_tokens(143, n_docs=150, n_vocab=12, contexts_per_doc=(3, 6), zipf=0.3, tilt=0.3)


@pytest.fixture(scope="module")
def several(corpus: Tokens, tmp_path_factory: pytest.TempPathFactory) -> LabelSet:
    """Labels of the planted latents, read from disk."""
    names = ["bigram", "previous_token", "last_three", "unigram+last_three", "next_token"]
    whole = material(corpus, names, planted(corpus.fit))
    return save_fit(tmp_path_factory.mktemp("several"), whole, whole.fitted())


@pytest.mark.slow
def test_keys_of_a_type_of_several_are_found(corpus: Tokens, several: LabelSet) -> None:
    assert several.labeled.all()
    assert several.label(NEAR).text in {
        "fires on ` w2` among the last 3, ` w1` among the last 3",
        "fires on ` w1` among the last 3, ` w2` among the last 3",
    }
    assert several.label(PAIR).function_type == "unigram+last_three"
    assert several.label(PAIR).text == "fires on ` w5` and ` w1` among the last 3"
    # Both keys together predict what both add.
    entries = several.entries.filter((pl.col("budget") == 16) & (pl.col("latent") == NEAR))
    assert entries["level"].to_list() == ["last_three"] * 2
    assert sorted(entries["weight"].to_list()) == pytest.approx([2, 3], rel=0.05)
    heldout = corpus.heldout
    acts = planted(heldout).reshape(*heldout.ids.shape, -1)
    valid = heldout.valid
    for latent in (NEAR, PAIR):
        label = several.label(latent)
        for budget in BUDGETS:
            called = label.fires(heldout, budget)[valid]
            fires = acts[:, :, latent][valid] > 0
            assert 2 * (called & fires).sum() / (called.sum() + fires.sum()) > 0.97
    predicted = several.label(NEAR).predict(heldout, 16)
    both = near(heldout, 1) & near(heldout, 2)
    assert predicted[both].mean() == pytest.approx(5, rel=0.06)
    assert predicted[near(heldout, 1) & ~both].mean() == pytest.approx(2, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS)
def test_source_of_several_keys_predicts_exactly_the_same(
    corpus: Tokens, several: LabelSet, budget: int
) -> None:
    heldout = corpus.heldout
    for latent in (NEAR, PAIR):
        label = several.label(latent)
        names: dict[str, Any] = {}
        exec(compile(label.source(budget), "label.py", "exec"), names)
        found = names["predict"](heldout.ids)
        assert np.array_equal(found[heldout.valid], label.predict(heldout, budget)[heldout.valid])
        fires = names["fires"](heldout.ids)
        assert np.array_equal(fires[heldout.valid], label.fires(heldout, budget)[heldout.valid])
        assert "def keys_last_three(ids):" in label.source(budget)


@pytest.mark.slow
def test_source_of_many_keys_at_a_position_predicts_exactly_the_same(
    made: Material, fit: HookpointFit, tmp_path: Path
) -> None:
    """Random weights, of which up to three of a level are added up: rounding would show."""
    every = replace(fit, net_bits=np.abs(fit.net_bits) + 1, q=fit.q * 0, bits=np.abs(fit.bits) + 1)
    labels = save_fit(tmp_path, made, every)
    text = make_tokens(144, n_docs=12, n_vocab=9)
    for latent in range(WIDTH):
        names: dict[str, Any] = {}
        exec(compile(labels.label(latent).source(), "label.py", "exec"), names)
        found = names["predict"](text.ids)
        assert np.array_equal(found[text.valid], labels.label(latent).predict(text)[text.valid])


# -- a type that looks ahead -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_type_that_looks_ahead_names_a_label_and_does_nothing_else(
    corpus: Tokens, several: LabelSet
) -> None:
    label = several.label(BEFORE)
    assert label.function_type == "next_token"
    assert label.text.startswith("follows the text to come (next_token, which cannot run); what")
    assert "next_token" in {row["type"] for row in several.latents["closest"][BEFORE]}
    assert several.latents["runs_unlimited"][BEFORE] != "next_token"
    assert "next_token" not in set(several.entries["level"])
    # The label cannot run on what it cannot see: the same text cut short predicts the same.
    text = corpus.heldout.select(np.arange(8))
    for budget in ALL_BUDGETS:
        predictor = several.predictor(budget)
        assert not {"next_token"} & {*predictor.tables, *predictor.extra}
        changed = text.ids.copy()
        changed[:, 9:] = (changed[:, 9:] + 5) % 12
        whole = predictor.predict(text)
        assert np.array_equal(whole[:, :9], predictor.predict(replace(text, ids=changed))[:, :9])


def test_types_that_look_ahead_are_no_corrections(corpus: Tokens) -> None:
    acts = planted(corpus.fit)
    names = ["unigram", "unigram+next_token", "unigram+last_three", "unigram+previous_token"]
    made = material(corpus, names, acts, scored=["unigram"])
    assert list(made.made.members) == ["unigram+previous_token"]
    assert list(made.made.scored.levels) == ["unigram"]
