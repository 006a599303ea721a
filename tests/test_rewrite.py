"""Rewriting: every baseline against a slow computation, exactness, oracles, the unigram table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeler.coders import load_coders
from labeler.eval.rewrite import BASE, Batch, CrossEntropies, Variant, cross_entropies
from labeler.eval.rewrite_curves import TRANSFORMS, Maps, mixed
from labeler.eval.rewrite_maps import QuantileMap, least_squares_scale
from labeler.eval.rewrite_unigram import UnigramTable
from labeler.eval.rewrite_variants import (
    UNIGRAM,
    as_coder,
    at_mean,
    by,
    oracle_support,
    oracle_value,
    random,
    variants,
)
from labeler.shards import Firings, Shard
from labeler.tokens import Tokens
from tests.conftest import D_MODEL, NUM_LATENTS, K, write_coder
from tests.rewriting import MadeUp, Slow, slow_decode, slow_encode
from tests.synthetic import make_tokens, material, random_acts, save_fit

MLPS = ("layers.0.mlp", "layers.1.mlp")


@pytest.fixture(scope="module")
def text(tokens: Tokens) -> Tokens:
    """Ten held-out contexts of a few documents, some of them short."""
    heldout = tokens.heldout
    chosen = heldout.select(np.arange(10))
    assert (chosen.length < chosen.ctx_len).any()
    assert len(np.unique(chosen.doc)) > 2
    return chosen


@pytest.fixture(scope="module")
def saes(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Autoencoders of the residual stream after each block, without a skip path."""
    root = tmp_path_factory.mktemp("saes")
    tensors = {
        f"layers.{layer}": write_coder(
            root / f"layers.{layer}", seed=50 + layer, transcode=False, skip_connection=False
        )
        for layer in range(2)
    }
    return load_coders(root, model=model), tensors


@pytest.fixture(scope="module")
def transcoders(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("transcoders")
    tensors = {name: write_coder(root / name, seed=layer) for layer, name in enumerate(MLPS)}
    return load_coders(root, model=model), tensors


def made_up(text: Tokens, seed: int, shape: float = 0.2) -> MadeUp:
    """Labels that predict anything."""
    rng = np.random.default_rng(seed)
    predicted = rng.exponential(shape, (*text.ids.shape, NUM_LATENTS)).astype(np.float32)
    predicted *= rng.random(predicted.shape) < 0.3
    return MadeUp(text, predicted, mean=rng.exponential(0.1, NUM_LATENTS))


def measured(
    model: Any, coders: Any, labels: Any, text: Tokens, wanted: Sequence[Variant]
) -> CrossEntropies:
    return cross_entropies(model, coders, labels, text, wanted, ["unlimited", 100])


# -- against a slow computation --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sae", "transcoder"])
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
def test_every_variant_is_that_of_a_slow_computation(
    kind: str,
    layers: tuple[int, ...],
    text: Tokens,
    model: Any,
    model_folder: Path,
    saes: Any,
    transcoders: Any,
) -> None:
    loaded, tensors = saes if kind == "sae" else transcoders
    site = "" if kind == "sae" else "mlp"
    names = {layer: f"layers.{layer}" + (".mlp" if site else "") for layer in layers}
    coders = {name: loaded[name] for name in names.values()}
    for name, coder in coders.items():
        assert (coder.hookpoint.hook_in == coder.hookpoint.hook_out) == (kind == "sae")
        assert coder.hookpoint.name == name
    labels: Any = {name: made_up(text, seed) for seed, name in enumerate(coders)}
    wanted = [
        BASE,
        *variants(list(coders), labels, ["unlimited"], seed=0),
    ]
    forecasts = {(name, UNIGRAM): made_up(text, 7).predictor(100) for name in coders}
    found = cross_entropies(model, coders, labels, text, wanted, ["unlimited"], forecasts=forecasts)
    ce = found.mean()
    slow = Slow(model_folder)
    acts: dict[str, Callable[[str, int, int, np.ndarray], np.ndarray]] = {
        "coder": lambda name, context, t, x: slow_encode(x, tensors[name], K, kind == "sae"),
        "skip": lambda name, context, t, x: np.zeros(NUM_LATENTS),
        "mean": lambda name, context, t, x: labels[name].mean.astype(np.float64),
        "labels_unlimited": lambda name, context, t, x: labels[name].predicted[context, t],
        "unigram": lambda name, context, t, x: made_up(text, 7).predicted[context, t],
    }

    def replaced(variant: str, context: int) -> dict[Any, Any]:
        if variant == "base":
            return {}

        def function(name: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            source = (out if kind == "sae" else x).double().numpy()
            if variant == "zero":
                return torch.zeros_like(out)
            rows = [
                slow_decode(acts[variant](name, context, t, row), row, tensors[name])
                for t, row in enumerate(source)
            ]
            return torch.from_numpy(np.stack(rows)).to(out.dtype)

        return {
            (layer, site): lambda x, out, name=name: function(name, x, out)
            for layer, name in names.items()
        }

    for variant in ("base", "zero", *acts):
        expected = slow.cross_entropy(text, lambda context, v=variant: replaced(v, context))
        assert ce[variant] == pytest.approx(expected, abs=2e-5), variant
    # All different, so that none passes for another.
    assert len({round(value, 4) for value in ce.values()}) == len(ce)


def test_positions_count_alike_and_belong_to_their_documents(text: Tokens, model: Any) -> None:
    found = cross_entropies(model, {}, {}, text, [BASE])
    losses = model.cross_entropy(text.ids, text.length).double()
    documents = np.unique(text.doc)
    for row, document in enumerate(documents):
        mine = text.doc == document
        assert found.n[row] == (text.length[mine] - 1).sum()
        expected = float(torch.nansum(losses[torch.from_numpy(mine)]))
        assert found.total[row, 0] == pytest.approx(expected, rel=1e-5)
    assert found.mean()["base"] == pytest.approx(float(torch.nanmean(losses)), rel=1e-6)


def test_batches_do_not_matter(
    text: Tokens, model: Any, coders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: Any = {name: made_up(text, seed) for seed, name in enumerate(MLPS)}
    wanted = [Variant("coder", MLPS, as_coder), Variant("labels", MLPS, by("unlimited"))]
    once = measured(model, coders, labels, text, wanted)
    # 32 positions, 2 hookpoints of 48 latents, 2 budgets: three contexts at once.
    monkeypatch.setattr("labeler.eval.rewrite._MAX_PREDICTED", 3 * 32 * 48 * 4)
    sizes: list[int] = []
    original = model.cross_entropy

    def counted(ids: Any, length: Any, hooks: Any) -> Any:
        sizes.append(len(ids))
        return original(ids, length, hooks)

    monkeypatch.setattr(model, "cross_entropy", counted)
    parts = measured(model, coders, labels, text, wanted)
    assert sizes == [3, 3, 3, 3, 3, 3, 1, 1]
    assert np.allclose(once.total, parts.total, rtol=1e-5)


# -- exactness -------------------------------------------------------------------------------------


def true_acts(text: Tokens, model: Any, coders: Any) -> dict[str, np.ndarray]:
    """Activations of the coders with all of them in place."""
    seen: dict[str, np.ndarray] = {}

    def keep(coder: Any, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        acts = coder.encode(x)
        seen[coder.hookpoint.name] = acts.numpy().reshape(*text.ids.shape, -1)
        return as_coder(coder, x, batch)

    cross_entropies(model, coders, {}, text, [Variant("keep", tuple(coders), keep)])
    return seen


@pytest.mark.parametrize("kind", ["transcoder", "sae"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_true_activations_as_labels_reproduce_the_coder(
    kind: str, n_layers: int, text: Tokens, model: Any, transcoders: Any, saes: Any
) -> None:
    loaded = (saes if kind == "sae" else transcoders)[0]
    coders = dict(list(loaded.items())[:n_layers])
    acts = true_acts(text, model, coders)
    labels: Any = {
        name: MadeUp(text, acts[name], mean=acts[name].mean(axis=(0, 1))) for name in coders
    }
    some = {name: np.arange(NUM_LATENTS) % 3 == 0 for name in coders}
    every = {name: np.ones(NUM_LATENTS, dtype=bool) for name in coders}
    wanted = [
        Variant("coder", tuple(coders), as_coder),
        Variant("labels", tuple(coders), by("unlimited")),
        Variant("support", tuple(coders), oracle_support),
        mixed("some", some, 100, "none"),
        mixed("some topk", some, 100, "topk"),
        mixed("every topk", every, 100, "topk"),
    ]
    ce = measured(model, coders, labels, text, wanted).mean()
    for name in ("labels", "support", "some", "some topk", "every topk"):
        assert ce[name] == pytest.approx(ce["coder"], abs=1e-5), name
    # Not because nothing matters.
    off: Any = {name: MadeUp(text, acts[name] * 1.2, labels[name].mean) for name in coders}
    changed = measured(model, coders, off, text, wanted).mean()
    for name in ("labels", "support", "some", "some topk", "every topk"):
        assert abs(changed[name] - ce["coder"]) > 1e-3, name


def test_means_as_labels_are_the_mean_ablation(text: Tokens, model: Any, coders: Any) -> None:
    rng = np.random.default_rng(0)
    labels: Any = {}
    for name in MLPS:
        mean = rng.exponential(0.1, NUM_LATENTS).astype(np.float32)
        predicted = np.broadcast_to(mean, (*text.ids.shape, NUM_LATENTS))
        labels[name] = MadeUp(text, predicted, mean)
    wanted = [
        Variant("coder", MLPS, as_coder),
        Variant("mean", MLPS, at_mean(labels)),
        Variant("labels", MLPS, by("unlimited")),
    ]
    found = measured(model, coders, labels, text, wanted)
    ce = found.mean()
    assert ce["labels"] == pytest.approx(ce["mean"], abs=1e-5)
    assert abs(ce["mean"] - ce["coder"]) > 1e-3
    assert found.recovered("labels") == pytest.approx(0, abs=1e-4)
    assert found.recovered("coder") == 1


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_chosen_is_the_coder_and_all_chosen_the_transform(
    transform: str, text: Tokens, model: Any, coders: Any
) -> None:
    labels: Any = {name: made_up(text, seed) for seed, name in enumerate(MLPS)}
    rng = np.random.default_rng(1)
    maps, plain = {}, {}
    for name in MLPS:
        said = labels[name].predicted.reshape(-1, NUM_LATENTS)
        act = (rng.exponential(size=said.shape) * (rng.random(said.shape) < 0.2)).astype(np.float32)
        maps[name] = Maps(QuantileMap.fit(said, act), least_squares_scale(said, act))
        expected = said
        if "quantile" in transform:
            expected = maps[name].quantile.apply(said)
        if "scale" in transform:
            expected = said * maps[name].scale
        if "topk" in transform:
            lowest = -np.sort(-expected, axis=1)[:, K - 1 : K]
            expected = np.where(expected >= lowest, expected, 0)
        plain[name] = MadeUp(text, expected.reshape(labels[name].predicted.shape), said[0])
    none, every = ({name: np.full(NUM_LATENTS, value) for name in MLPS} for value in (False, True))
    wanted = [
        Variant("coder", MLPS, as_coder),
        mixed("none", none, 100, transform, maps),
        mixed("every", every, 100, transform, maps),
    ]
    ce = measured(model, coders, labels, text, wanted).mean()
    assert ce["none"] == pytest.approx(ce["coder"], abs=1e-5)
    again = measured(model, coders, plain, text, [Variant("labels", MLPS, by(100))]).mean()
    assert ce["every"] == pytest.approx(again["labels"], abs=1e-5)
    assert abs(ce["every"] - ce["coder"]) > 1e-3


# -- oracles and random labels ---------------------------------------------------------------------


def acts_of(replacement: Any, coder: Any, x: torch.Tensor, batch: Batch) -> np.ndarray:
    """The activations that a replacement decodes."""
    caught: list[torch.Tensor] = []

    class Caught:
        def __getattr__(self, name: str) -> Any:
            return getattr(coder, name)

        def output(self, acts: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            caught.append(acts)
            return coder.output(acts, x)

    replacement(Caught(), x, batch)
    return caught[0].numpy()


def test_oracles_by_hand(text: Tokens, coders: Any) -> None:
    name = "layers.0.mlp"
    coder = coders[name]
    labels: Any = {name: made_up(text, 5)}
    labels[name].labeled[::7] = False
    labels[name].made.threshold[::7] = np.inf
    said = labels[name].predicted.reshape(-1, NUM_LATENTS)
    x = torch.from_numpy(
        np.random.default_rng(0).normal(size=(len(said), D_MODEL)).astype(np.float32)
    )
    batch = Batch(text, 0, {(name, "unlimited"): torch.from_numpy(said)})
    true = coder.encode(x).numpy()
    support = acts_of(oracle_support, coder, x, batch)
    value = acts_of(oracle_value(labels), coder, x, batch)
    kinds = set()
    for position, latent in np.ndindex(60, NUM_LATENTS):
        act, guess = true[position, latent], said[position, latent]
        assert support[position, latent] == (guess if act > 0 else 0)
        calls = guess >= 0.5
        if latent % 7 == 0:
            expected = guess
        elif calls:
            expected = act if act > 0 else guess
        else:
            expected = 0
        assert value[position, latent] == expected
        kinds.add((latent % 7 == 0, bool(calls), bool(act > 0)))
    assert len(kinds) == 8


def test_random_labels_fire_at_their_own_rate_and_strength(text: Tokens, coders: Any) -> None:
    name = "layers.0.mlp"
    rng = np.random.default_rng(2)
    rate = rng.uniform(0, 0.3, NUM_LATENTS)
    rate[3] = 0
    strength = rng.uniform(1, 2, NUM_LATENTS)
    strength[3] = 0
    labels: Any = {
        name: MadeUp(text, np.zeros((10, 32, NUM_LATENTS)), rate * strength, mean_act=strength)
    }
    x = torch.zeros(20_000, D_MODEL)
    draws = [
        acts_of(random(labels, 0), coders[name], x, Batch(text, begin, {})) for begin in (0, 32)
    ]
    again = acts_of(random(labels, 0), coders[name], x, Batch(text, 0, {}))
    assert np.array_equal(draws[0], again)
    assert not np.array_equal(draws[0], draws[1])
    assert not np.array_equal(
        draws[0], acts_of(random(labels, 1), coders[name], x, Batch(text, 0, {}))
    )
    for acts in draws:
        assert np.allclose((acts > 0).mean(axis=0), rate, atol=0.02)
        assert set(np.unique(acts[:, 5]).tolist()) == {0, float(np.float32(strength[5]))}
        assert not acts[:, 3].any()


# -- the unigram table -----------------------------------------------------------------------------


def shards_of(acts: np.ndarray, size: int) -> list[Firings]:
    found = []
    for begin in range(0, len(acts), size):
        position, latent = np.nonzero(acts[begin : begin + size])
        act = acts[begin : begin + size][position, latent]
        shard = Shard(begin // size, begin, begin + size, "fit")
        found.append(Firings(position + begin, latent.astype(np.int32), act, shard))
    return found


def test_the_unigram_table_by_hand_and_as_labels_have_it(tmp_path: Path) -> None:
    tokens = make_tokens(5, n_docs=60, n_vocab=12)
    acts = random_acts(tokens.fit, 5, seed=2)
    made = material(tokens, ["unigram"], acts)
    labels = save_fit(tmp_path, made, made.fitted())
    table = UnigramTable.make(labels, tokens.fit, shards_of(acts, 160))
    heldout = tokens.heldout
    found = table.predict(heldout)
    assert found.shape == (*heldout.ids.shape, 5)
    lam = labels.manifest["shrinkage"]["unigram"]["mean"]
    fit_ids, valid = tokens.fit.ids.ravel(), tokens.fit.valid.ravel()
    for token in range(12):
        here = valid & (fit_ids == token)
        mean = acts[valid].mean(axis=0)
        expected = (acts[here].sum(axis=0) + lam * mean) / (here.sum() + lam)
        rows = found[(heldout.ids == token) & heldout.valid]
        assert len(rows)
        assert np.allclose(rows, expected, rtol=1e-4)
    # Where labels are tables of single tokens, they say the same up to half precision.
    labeled = labels.labeled
    assert labeled.any()
    whole = labels.predictor("unlimited").predict(heldout)
    assert np.allclose(
        whole[heldout.valid][:, labeled], found[heldout.valid][:, labeled], rtol=2e-3
    )


def test_a_token_that_the_fit_split_lacks_gets_the_mean(tmp_path: Path) -> None:
    tokens = make_tokens(6, n_docs=60, n_vocab=12)
    acts = random_acts(tokens.fit, 5, seed=2)
    made = material(tokens, ["unigram"], acts)
    labels = save_fit(tmp_path, made, made.fitted())
    fit = tokens.fit
    fit.ids[fit.ids == 4] = 3
    table = UnigramTable.make(labels, fit, shards_of(acts, 160))
    unseen = fit.with_ids(np.array([[4, 3]]), np.array([2]))
    assert np.allclose(table.predict(unseen)[0, 0], labels.mean)
    assert not np.allclose(table.predict(unseen)[0, 1], labels.mean)
