"""Quantile maps, rankings, curves, what labels cost, the protocol of 2501.18838."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeler.coders.activations import Relu
from labeler.coders.affine import AffineCoder, AffineWeights
from labeler.coders.sparsify import SparsifyConfig
from labeler.eval.rewrite import CrossEntropies, Variant, cross_entropies
from labeler.eval.rewrite_curves import (
    FRACTIONS,
    Curve,
    Maps,
    curve_json,
    curve_variants,
    n_replaced,
    rankings,
    topk_again,
)
from labeler.eval.rewrite_latents import exact_costs, first_order_costs, label_costs
from labeler.eval.rewrite_maps import QuantileMap, least_squares_scale
from labeler.eval.rewrite_paper import CONTEXT, paper_protocol, paper_windows
from labeler.eval.rewrite_sample import dense_acts, spread, windows
from labeler.eval.rewrite_variants import as_coder, at_mean, by, gain
from labeler.tokens import Tokens
from tests.conftest import NUM_LATENTS
from tests.rewriting import MadeUp, Slow, slow_decode, slow_encode
from tests.synthetic import make_tokens, plain_tokens
from tests.test_rewrite import shards_of, true_acts

NAME = "layers.0.mlp"


def sparse(rng: np.random.Generator, n: int, rate: Any) -> np.ndarray:
    fires = rng.random((n, len(rate))) < rate
    return np.where(fires, rng.lognormal(size=fires.shape), 0).astype(np.float32)


# -- maps ------------------------------------------------------------------------------------------


def test_quantile_map_of_distinct_predictions_gives_the_true_distribution() -> None:
    rng = np.random.default_rng(0)
    act = sparse(rng, 500, [0.02, 0.3, 1.0])
    said = (act + rng.normal(size=act.shape) * 2).astype(np.float32)
    mapped = QuantileMap.fit(said, act).apply(said)
    assert np.array_equal(np.sort(mapped, axis=0), np.sort(act, axis=0))
    # Rank by rank, not as the activations happen to lie.
    for latent in range(3):
        order = np.argsort(said[:, latent])
        assert (np.diff(mapped[order, latent]) >= 0).all()
    assert not np.array_equal(mapped, act)


def test_quantile_map_by_hand() -> None:
    said = np.array([[5, 1, 1, 0, 2, 0]], dtype=np.float32).T
    act = np.array([[0, 0, 8, 0, 4, 2]], dtype=np.float32).T
    found = QuantileMap.fit(said, act)
    # 5 is largest: 8. 2 is next: 4. The two 1s share 2 and 0. Nothing is left for 0.
    assert found.said.tolist() == [1, 2, 5]
    assert found.meant.tolist() == [1, 4, 8]
    unseen = np.array([[-3, 0, 0.99, 1.5, 3, 4.25, 5, 99]], dtype=np.float32).T
    assert found.apply(unseen)[:, 0] == pytest.approx([0, 0, 0, 2.5, 4 + 4 / 3, 7, 8, 8])


def test_quantile_map_keeps_means_and_never_sends_what_is_common_to_the_maximum() -> None:
    rng = np.random.default_rng(1)
    act = sparse(rng, 2000, [0.05, 0.05, 0.05, 0.05, 0])
    said = np.zeros_like(act)
    said[:, 1] = 0.3
    said[:40, 2] = rng.random(40)
    said[:400, 3] = rng.random(400)
    said[:, 4] = rng.random(2000)
    found = QuantileMap.fit(said, act)
    mapped = found.apply(said)
    assert np.allclose(mapped.mean(axis=0), act.mean(axis=0), rtol=1e-3)
    # The same everywhere, as of a label that failed: its mean.
    for latent in (0, 1):
        assert np.allclose(mapped[:, latent], act[:, latent].mean(), rtol=1e-4)
    # Fewer predictions than firings: zero takes what is left. More: nothing.
    assert 0 < mapped[-1, 2] < act[:, 2].mean()
    assert mapped[-1, 3] == 0
    assert not mapped[:, 4].any()
    # Zero that was never predicted on the fit split is below everything.
    always = QuantileMap.fit((1 + act).astype(np.float32), act)
    zero = always.apply(np.zeros((1, 5), dtype=np.float32))
    assert not zero.any()


def test_scale_brings_predictions_closest() -> None:
    rng = np.random.default_rng(2)
    act = sparse(rng, 800, [0.1, 0.5, 0.5])
    said = (np.abs(act + rng.normal(size=act.shape)) * [0.2, 3, 0]).astype(np.float32)
    scale = least_squares_scale(said, act)
    assert scale[2] == 1
    for latent in (0, 1):
        expected = np.linalg.lstsq(said[:, [latent]], act[:, latent], rcond=None)[0][0]
        assert scale[latent] == pytest.approx(expected, rel=1e-4)


# -- samples ---------------------------------------------------------------------------------------


def test_a_sample_takes_one_context_of_every_document_before_a_second() -> None:
    tokens = make_tokens(3, n_docs=20).heldout
    n_docs = len(np.unique(tokens.doc))
    per_doc = [len(np.unique(tokens.doc[spread(tokens, n, 0)])) for n in (1, 30, 10**6)]
    assert per_doc[0] == 1
    assert per_doc[2] == n_docs
    for wanted in (1, 30, 60, 100, 10**6):
        chosen = spread(tokens, wanted, seed=4)
        assert (np.diff(chosen) > 0).all()
        counts = np.bincount(tokens.doc[chosen], minlength=tokens.doc.max() + 1)[tokens.doc]
        of_doc = np.bincount(tokens.doc)[tokens.doc]
        assert (np.minimum(of_doc, counts.max() - 1) <= counts).all()
        held = tokens.length[chosen].sum()
        assert held >= min(wanted, tokens.n_positions)
        if wanted < tokens.n_positions:
            assert held - wanted < tokens.ctx_len
    assert not np.array_equal(spread(tokens, 60, 1), spread(tokens, 60, 2))


def test_activations_of_a_sample_are_those_of_the_cache() -> None:
    fit = make_tokens(3, n_docs=20).fit
    rng = np.random.default_rng(0)
    acts = sparse(rng, fit.ids.size, [0.1, 0.4])
    acts[~fit.valid.ravel()] = 0
    chosen = spread(fit, 100, 0)
    found = dense_acts(fit, chosen, shards_of(acts, 5 * fit.ctx_len), 2)
    assert np.array_equal(found, acts.reshape(*fit.ids.shape, 2)[chosen].reshape(-1, 2))


def test_windows_are_pieces_of_contexts() -> None:
    heldout = plain_tokens([[1, 2, 3, 4, 5, 6, 7], [8, 9, 1], [2, 3]], fold=[-1] * 3)
    cut = windows(heldout, 3, 100, seed=0)
    assert cut.ids.tolist() == [[1, 2, 3], [4, 5, 6], [8, 9, 1]]
    assert cut.doc.tolist() == [0, 0, 1]
    assert cut.valid.all()
    assert len(windows(heldout, 3, 2, seed=0).ids) == 2
    # Another context length makes no other pieces of them.
    assert (cut.doc_ids, cut.topics) == (heldout.doc_ids, heldout.topics)


# -- rankings and curves ---------------------------------------------------------------------------


def test_rankings_by_hand() -> None:
    text = plain_tokens([[1, 2]])
    labels: Any = MadeUp(
        text,
        np.zeros((1, 2, 4)),
        np.zeros(4),
        f1=np.array([0.2, 0.9, 0.5, 0.95]),
        labeled=np.array([True, True, True, False]),
    )
    cost = np.array([0.3, -0.5, 0.1, 0.0])
    found = rankings(labels, 100, cost, seed=0)
    assert found["score", 100].tolist() == [1, 2, 0, 3]
    assert found["dce", 100].tolist() == [3, 2, 0, 1]
    assert sorted(found["random", 100].tolist()) == [0, 1, 2, 3]
    # f1_out_of_fold is the other way round.
    assert rankings(labels, "unlimited", cost, 0)["score", "unlimited"].tolist() == [0, 2, 1, 3]
    assert [n_replaced(fraction, 2000) for fraction in FRACTIONS] == [
        2, 20, 100, 200, 400, 800, 1200, 1600, 2000,
    ]  # fmt: skip
    assert n_replaced(0.001, 48) == 1


def test_topk_again_is_the_coders_own_rule() -> None:
    class OfKind:
        def __init__(self, activation: str) -> None:
            self.config = SparsifyConfig(d_in=4, num_latents=12, k=3, activation=activation)

    acts = torch.from_numpy(np.random.default_rng(0).exponential(size=(50, 12)))
    topk: Any = topk_again(OfKind("topk"), acts)  # type: ignore[arg-type]
    assert (topk > 0).sum(dim=1).tolist() == [3] * 50
    assert torch.equal(topk.sort(dim=1).values[:, -3:], acts.sort(dim=1).values[:, -3:])
    assert torch.equal(topk[topk > 0], acts[topk > 0])
    groups: Any = topk_again(OfKind("groupmax"), acts)  # type: ignore[arg-type]
    for row, kept in zip(acts.numpy(), groups.numpy(), strict=True):
        for group in range(3):
            part = slice(4 * group, 4 * group + 4)
            expected = np.where(row[part] == row[part].max(), row[part], 0)
            assert np.array_equal(kept[part], expected)
    plain: Any = object()
    assert topk_again(plain, acts) is acts


@pytest.fixture(scope="module")
def text(tokens: Tokens) -> Tokens:
    return tokens.heldout.select(np.arange(12))


def noisy(text: Tokens, model: Any, coders: Any, names: Any, noise: float, seed: int = 0) -> Any:
    """Labels that predict the true activations and some error, ever worse with the latent."""
    rng = np.random.default_rng(seed)
    chosen = {name: coders[name] for name in names}
    acts = true_acts(text, model, chosen)
    found = {}
    for name in names:
        error = rng.normal(size=acts[name].shape) * np.linspace(0, 2, NUM_LATENTS) * noise
        said = np.maximum(acts[name] + error, 0).astype(np.float32)
        score = np.linspace(1, 0, NUM_LATENTS)
        found[name] = MadeUp(text, said, acts[name].mean(axis=(0, 1)), f1=score)
    return chosen, found


def test_curves_replace_what_the_ranking_says(text: Tokens, model: Any, coders: Any) -> None:
    names = ("layers.0.mlp", "layers.1.mlp")
    chosen, labels = noisy(text, model, coders, names, 0.5)
    order = {name: rankings(labels[name], 100, np.zeros(NUM_LATENTS), 0) for name in names}
    curves = [Curve("score", 100), Curve("random", 100)]
    wanted = [
        Variant("coder", names, as_coder),
        Variant("mean", names, at_mean(labels)),
        Variant("labels_100", names, by(100)),
        *curve_variants(curves, order, {}),
    ]
    assert len(wanted) == 3 + 2 * len(FRACTIONS) - 1
    found = cross_entropies(model, chosen, labels, text, wanted, [100])
    ce = found.mean()
    best, chance = (curve_json(curve, found, [NUM_LATENTS, NUM_LATENTS], 0) for curve in curves)
    assert (best["ranking"], best["budget"], best["transform"]) == ("score", 100, "none")
    assert [point["fraction"] for point in best["points"]] == list(FRACTIONS)
    assert [point["n_latents"] for point in best["points"]][:4] == [2, 2, 4, 10]
    for curve in (best, chance):
        last = curve["points"][-1]
        assert last["ce"] == pytest.approx(ce["labels_100"], abs=1e-5)
        assert last["n_latents"] == 2 * NUM_LATENTS
        for point in curve["points"]:
            share = (ce["mean"] - point["ce"]) / (ce["mean"] - ce["coder"])
            assert point["recovered"] == pytest.approx(share)
            assert point["low"] <= point["recovered"] <= point["high"]
    assert best["points"][3]["ce"] != chance["points"][3]["ce"]
    # By hand: the first tenth of both layers.
    tenth = n_replaced(0.1, NUM_LATENTS)

    def first(coder: Any, x: torch.Tensor, batch: Any) -> torch.Tensor:
        acts = coder.encode(x)
        said = batch.predictions[coder.hookpoint.name, 100]
        acts[:, :tenth] = said[:, :tenth]
        return coder.decode(acts) + coder.skip(x)

    again = cross_entropies(model, chosen, labels, text, [Variant("first", names, first)], [100])
    assert best["points"][3]["ce"] == pytest.approx(again.mean()["first"], abs=1e-5)


def test_a_share_without_a_scale_is_no_number() -> None:
    found = CrossEntropies(
        ["mean", "coder", "x"], np.array([[2.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), np.array([2.0, 3.0])
    )
    assert np.isnan(found.recovered("x"))


# -- what each label costs -------------------------------------------------------------------------


def standardizing(coder: Any) -> AffineCoder:
    """A coder of the same size that scales its output back by the spread of its input."""
    nothing = torch.zeros(coder.num_latents), torch.zeros(coder.d_out)
    weights = AffineWeights(coder.W_enc, nothing[0], coder.W_dec, nothing[1])
    return AffineCoder(coder.hookpoint, weights, Relu(), fingerprint="made up", norm="standardize")


def test_what_a_coder_multiplies_its_decoder_by(coders: Any) -> None:
    x = torch.randn(7, coders[NAME].d_in, generator=torch.Generator().manual_seed(0)) * 3
    assert torch.allclose(gain(coders[NAME], x), torch.ones(7, 1), atol=1e-5)
    spread = x.std(dim=1, keepdim=True)
    assert torch.allclose(gain(standardizing(coders[NAME]), x), spread, rtol=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_first_order_costs_are_the_limit_of_small_errors(
    normalized: bool, text: Tokens, model: Any, coders: Any
) -> None:
    if normalized:
        coders = {NAME: standardizing(coders[NAME])}
    chosen, labels = noisy(text, model, coders, (NAME,), 1.0)
    acts = true_acts(text, model, chosen)[NAME]
    labels = labels[NAME]
    step = 0.02
    small: Any = MadeUp(text, acts + step * (labels.predicted - acts), labels.mean)
    estimate = first_order_costs(model, chosen[NAME], labels, text, 100)
    assert np.allclose(
        first_order_costs(model, chosen[NAME], small, text, 100), step * estimate, atol=1e-6
    )
    latents = np.argsort(-np.abs(estimate))[:6].tolist()
    exact = exact_costs(model, chosen[NAME], small, text, 100, latents) / step
    assert np.allclose(exact, estimate[latents], rtol=0.15, atol=1e-4)
    assert np.abs(estimate[latents]).min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_first_order_costs_go_with_exact_replacement(
    noise: float, text: Tokens, model: Any, coders: Any
) -> None:
    chosen, labels = noisy(text, model, coders, (NAME,), noise)
    estimate = first_order_costs(model, chosen[NAME], labels[NAME], text, 100)
    every = list(range(NUM_LATENTS))
    exact = exact_costs(model, chosen[NAME], labels[NAME], text, 100, every)
    assert estimate[0] == exact[0] == 0
    assert np.corrcoef(estimate, exact)[0, 1] > 0.98


def test_padding_and_the_last_position_cost_nothing(text: Tokens, model: Any, coders: Any) -> None:
    chosen, labels = noisy(text, model, coders, (NAME,), 0.0)
    uncounted = ~text.valid
    uncounted[np.arange(text.n_ctx), text.length - 1] = True
    labels[NAME].predicted[uncounted] += 1
    wrong: Any = MadeUp(text, labels[NAME].predicted, labels[NAME].mean)
    assert np.abs(first_order_costs(model, chosen[NAME], wrong, text, 100)).max() < 1e-6
    assert np.abs(exact_costs(model, chosen[NAME], wrong, text, 100, [0, 40])).max() < 1e-6


def test_the_costliest_labels_are_measured(text: Tokens, model: Any, coders: Any) -> None:
    chosen, labels = noisy(text, model, coders, (NAME,), 0.5)
    ticks: list[int] = []
    found = label_costs(model, chosen[NAME], labels[NAME], text, 100, 5, ticks.append)
    assert sum(ticks) == text.n_ctx * 7
    assert found.n_tokens == (text.length - 1).sum()
    frame = found.frame()
    assert frame.columns == ["latent", "dce", "exact", "first_order"]
    top = np.argsort(-found.first_order)[:5]
    assert sorted(np.flatnonzero(found.exact)) == sorted(top)
    exact = exact_costs(model, chosen[NAME], labels[NAME], text, 100, top.tolist())
    assert np.allclose(found.dce[top], exact)
    rest = ~found.exact
    assert np.array_equal(found.dce[rest], found.first_order[rest])
    assert not np.allclose(found.dce[top], found.first_order[top], rtol=1e-3)


# -- the protocol of 2501.18838 --------------------------------------------------------------------


@pytest.mark.slow
def test_the_protocol_replaces_the_last_token_and_measures_the_one_after_it(
    tokens: Tokens, model: Any, model_folder: Path, coders: Any, coder_folder: Path
) -> None:
    from safetensors.torch import load_file

    # Windows of 32 tokens leave no 33rd: the corpus again, in longer contexts.
    heldout = tokens.heldout
    joined = np.stack([heldout.ids[:-1], heldout.ids[1:]], axis=1).reshape(heldout.n_ctx - 1, -1)
    full = np.flatnonzero(heldout.length == heldout.ctx_len)
    full = full[full < heldout.n_ctx - 1]
    long = heldout.with_ids(joined[full], heldout.length[full + 1] + 32)
    pieces = paper_windows(long, 8 * (CONTEXT + 1), seed=0)
    assert pieces.ids.shape == (8, CONTEXT + 1)

    rng = np.random.default_rng(0)
    said = rng.exponential(size=(8, CONTEXT + 1, NUM_LATENTS)) * (rng.random(NUM_LATENTS) < 0.4)
    labels: Any = {NAME: MadeUp(pieces, said, rng.random(NUM_LATENTS), f1=rng.random(NUM_LATENTS))}
    flat = labels[NAME].predicted.reshape(-1, NUM_LATENTS).astype(np.float32)
    act = sparse(rng, len(flat), np.full(NUM_LATENTS, 0.2))
    maps = {NAME: Maps(QuantileMap.fit(flat, act), least_squares_scale(flat, act))}
    order = {NAME: rankings(labels[NAME], 100, np.zeros(NUM_LATENTS), 0)}
    found = paper_protocol(model, {NAME: coders[NAME]}, labels, pieces, order, maps, 100, 0)
    assert found["n_tokens"] == 8
    assert found["n_documents"] == len(np.unique(pieces.doc))
    assert set(found["ce"]) == {"base", "coder", "zero", "mean"}

    tensors = load_file(coder_folder / NAME / "sae.safetensors")
    slow = Slow(model_folder)
    ranked = order[NAME]["score", 100]

    def acts_at(context: int, x: np.ndarray, curve: dict[str, Any], n: int) -> np.ndarray:
        true = slow_encode(x, tensors, 6, sae=False)
        mine = flat.reshape(8, CONTEXT + 1, -1)[context, CONTEXT - 1]
        if "quantile" in curve["transform"]:
            mine = maps[NAME].quantile.apply(mine[None])[0]
        true[ranked[:n]] = mine[ranked[:n]]
        top = np.argsort(-true)[:6]
        return np.where(np.isin(np.arange(NUM_LATENTS), top), true, 0)

    def mean_loss(stand_in: Any) -> float:
        losses = []
        for context, ids in enumerate(pieces.ids):

            def function(x: torch.Tensor, out: torch.Tensor, context: int = context) -> Any:
                new = out.clone()
                row = x[CONTEXT - 1].double().numpy()
                new[CONTEXT - 1] = torch.from_numpy(stand_in(context, row)).to(out.dtype)
                return new

            losses.append(slow.losses(ids, {(0, "mlp"): function})[-1])
        return float(np.mean(losses))

    zero = mean_loss(lambda context, x: np.zeros(len(x)))
    assert found["ce"]["zero"] == pytest.approx(zero, abs=1e-5)
    base = [slow.losses(ids, {})[-1] for ids in pieces.ids]
    assert found["ce"]["base"] == pytest.approx(np.mean(base), abs=1e-5)
    seen = set()
    for curve in found["curves"]:
        assert curve["ranking"] == "score"
        for point in curve["points"]:
            expected = mean_loss(
                lambda context, x, curve=curve, n=point["n_latents"]: slow_decode(
                    acts_at(context, x, curve, n), x, tensors
                )
            )
            assert point["ce"] == pytest.approx(expected, abs=2e-5)
            seen.add(round(expected, 4))
    assert [curve["transform"] for curve in found["curves"]] == ["quantile+topk", "topk"]
    assert [point["fraction"] for point in found["curves"][0]["points"]] == list(FRACTIONS)
    assert len(seen) > 8
