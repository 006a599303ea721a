"""Hookpoints: names, the hooks behind them in four architectures, and coders at each of them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from labeler.cache import build_cache
from labeler.coders import Coder, SparsifyCoder, SparsifyConfig
from labeler.errors import CacheError, CoderError, ModelError
from labeler.eval.rewrite import BASE, Variant, cross_entropies
from labeler.eval.subject import ModelSubject
from labeler.hookpoints import (
    Hookpoint,
    execution_order,
    hookpoint_between,
    layer_order,
    parse_hookpoint,
)
from labeler.model import SubjectModel, load_model
from tests.architectures import D_HEAD, D_MLP, D_MODEL, HEADS, VOCAB, build
from tests.synthetic import make_tokens

# --- names


@pytest.mark.parametrize(
    ("texts", "name", "hook"),
    [
        (["layers.3.resid_pre", "blocks.3.hook_resid_pre", "blocks.3.hook_in"], None, "hook_in"),
        (["layers.3.resid_mid", "blocks.3.hook_resid_mid"], None, "hook_resid_mid"),
        (["layers.3", "blocks.3.hook_resid_post", "blocks.3.hook_out", "h.3"], None, "hook_out"),
        (["layers.3.mlp", "h.3.mlp", "layers.3.feed_forward"], None, "mlp.hook_out"),
        (["blocks.3.hook_mlp_out"], "layers.3.mlp", "hook_mlp_out"),
        (["layers.3.self_attn", "gpt_neox.layers.3.attention"], None, "attn.hook_out"),
        (["blocks.3.hook_attn_out"], "layers.3.self_attn", "hook_attn_out"),
        (["layers.3.self_attn.z", "blocks.3.attn.hook_z"], None, "attn.o.hook_in"),
        (["layers.3.mlp.hidden", "blocks.3.mlp.hook_post"], None, "mlp.out.hook_in"),
        (["layers.3.mlp.in", "blocks.3.mlp.hook_in"], None, "mlp.hook_in"),
        (["layers.3.mlp.normalized", "blocks.3.ln2.hook_normalized"], None, "ln2.hook_normalized"),
        # The residual stream as the MLP's branch takes it, not the MLP's input.
        (["blocks.3.hook_mlp_in"], "layers.3.resid_mid", "hook_resid_mid"),
    ],
)
def test_an_autoencoder_sits_at_the_very_place(
    texts: list[str], name: str | None, hook: str
) -> None:
    name = name or texts[0]
    for text in texts:
        expected = Hookpoint(3, name, f"blocks.3.{hook}", f"blocks.3.{hook}")
        assert parse_hookpoint(text, transcode=False) == expected
        assert hookpoint_between(text, text) == expected
    assert parse_hookpoint(name).name == name, "a canonical name keeps its name"


@pytest.mark.parametrize(
    ("text", "name", "hook_in", "hook_out"),
    [
        ("layers.3.mlp", "layers.3.mlp", "mlp.hook_in", "mlp.hook_out"),
        ("blocks.3.mlp.hook_in", "layers.3.mlp", "mlp.hook_in", "mlp.hook_out"),
        ("blocks.3.hook_mlp_out", "layers.3.mlp", "mlp.hook_in", "hook_mlp_out"),
        ("blocks.3.ln2.hook_normalized", "layers.3.mlp", "ln2.hook_normalized", "hook_mlp_out"),
        ("layers.3.self_attn", "layers.3.self_attn", "attn.hook_in", "attn.hook_out"),
        ("layers.3", "layers.3", "hook_in", "hook_out"),
        # No module's places: the same for a transcoder.
        ("layers.3.self_attn.z", "layers.3.self_attn.z", "attn.o.hook_in", "attn.o.hook_in"),
        ("layers.3.resid_pre", "layers.3.resid_pre", "hook_in", "hook_in"),
        ("layers.3.mlp.in", "layers.3.mlp.in", "mlp.hook_in", "mlp.hook_in"),
    ],
)
def test_a_transcoder_reads_its_modules_input(
    text: str, name: str, hook_in: str, hook_out: str
) -> None:
    expected = Hookpoint(3, name, f"blocks.3.{hook_in}", f"blocks.3.{hook_out}")
    assert parse_hookpoint(text) == expected


def test_a_coder_may_name_both_places() -> None:
    for read, hook in {
        "blocks.3.ln2.hook_normalized": "ln2.hook_normalized",
        "blocks.3.hook_resid_mid": "hook_resid_mid",
        "blocks.3.mlp.hook_in": "mlp.hook_in",
    }.items():
        assert hookpoint_between(read, "blocks.3.hook_mlp_out") == Hookpoint(
            3, "layers.3.mlp", f"blocks.3.{hook}", "blocks.3.hook_mlp_out"
        )


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("blocks.3.hook_resid_mid", "blocks.4.hook_mlp_out"),
        ("blocks.3.hook_mlp_out", "blocks.3.hook_resid_mid"),
    ],
)
def test_coders_that_cross_blocks_or_go_back_are_refused(read: str, written: str) -> None:
    with pytest.raises(CoderError, match=r"reads .* and writes .* cannot be used"):
        hookpoint_between(read, written)


@pytest.mark.parametrize(
    "text",
    ["", "mlp", "layers.3.mlp.act", "blocks.3.hook_x", "blocks.3.attn.hook_q", "../layers.3"],
)
def test_unknown_names_give_examples(text: str) -> None:
    for parse in (parse_hookpoint, lambda text: hookpoint_between("layers.3", text)):
        with pytest.raises(CoderError, match=r"unknown hookpoint.*layers\.3\.mlp.*hook_z"):
            parse(text)


def test_hookpoints_and_their_names_sort_by_layer() -> None:
    names = ["layers.2", "layers.2.mlp", "layers.10.resid_pre", "layers.10.self_attn.z"]
    shuffled = [names[i] for i in (3, 1, 0, 2)]
    assert sorted(shuffled, key=layer_order) == names
    assert [point.name for point in sorted(map(parse_hookpoint, shuffled))] == names


# --- what the hooks hold

SITES = (
    *("resid_pre", "self_attn.normalized", "self_attn.in", "self_attn.z", "self_attn"),
    *("resid_mid", "mlp.normalized", "mlp.in", "mlp.hidden", "mlp", ""),
)
"""Every place of a sequential block, in the order of the forward pass."""

Kinds = Callable[[str], tuple[SubjectModel, Any]]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    """The subject model of an architecture, and the same model in transformers."""
    from transformers import AutoModelForCausalLM

    made: dict[str, tuple[SubjectModel, Any]] = {}

    def get(kind: str) -> tuple[SubjectModel, Any]:
        if kind not in made:
            folder = build(kind, tmp_path_factory.mktemp(kind))
            other = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
            made[kind] = load_model(folder), other.eval()
        return made[kind]

    return get


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, VOCAB, (3, 7), generator=torch.Generator().manual_seed(0))


def values(model: SubjectModel, ids: Tensor, hooks: Sequence[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    model.run(ids, {hook: lambda x, hook=hook: found.update({hook: x.clone()}) for hook in hooks})
    return found


def module_values(kind: str, network: Any, ids: Tensor) -> dict[str, Tensor]:
    """What transformers' own modules of block 1 get and give, by canonical site."""
    got: dict[str, Tensor] = {}

    def first(value: Any) -> Tensor:
        return value[0] if isinstance(value, tuple) else value

    def keep(module: Any, name_in: str | None, name_out: str | None) -> None:
        def hook(_: Any, args: Any, kwargs: Any, out: Any) -> None:
            if name_in:
                got[name_in] = args[0] if args else kwargs["hidden_states"]
            if name_out:
                got[name_out] = first(out)

        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    handles: list[Any] = []
    if kind == "gpt2":
        block = network.transformer.h[1]
        norm, attention, before_mlp = block.ln_1, block.attn, block.ln_2
        to_z, down = attention.c_proj, block.mlp.c_proj
    else:
        block = (network.gpt_neox if kind == "neox" else network.model).layers[1]
        norm, down = block.input_layernorm, getattr(block.mlp, "down_proj", None)
        attention = block.attention if kind == "neox" else block.self_attn
        to_z = attention.dense if kind == "neox" else attention.o_proj
        down = block.mlp.dense_4h_to_h if kind == "neox" else down
        before_mlp = (
            block.pre_feedforward_layernorm if kind == "gemma2" else block.post_attention_layernorm
        )
    keep(block, "resid_pre", "")
    keep(norm, None, "self_attn.in")
    keep(attention, None, "self_attn")
    keep(to_z, "self_attn.z", None)
    keep(before_mlp, "resid_mid", "mlp.in")
    keep(block.mlp, None, "mlp")
    keep(down, "mlp.hidden", None)
    if kind == "gemma2":
        keep(block.post_attention_layernorm, None, "added by attention")
        keep(block.post_feedforward_layernorm, None, "added by the MLP")
    with torch.no_grad():
        network(ids)
    for handle in handles:
        handle.remove()
    return got


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox"])
def test_every_place_holds_what_transformers_computes_there(
    kind: str, kinds: Kinds, ids: Tensor
) -> None:
    model, network = kinds(kind)
    expected = module_values(kind, network, ids)
    if kind == "neox":  # a parallel block: both sublayers read the same stream
        del expected["resid_mid"]
    added = {
        "added by attention": "blocks.1.hook_attn_out",
        "added by the MLP": "blocks.1.hook_mlp_out",
    }
    hooks = {
        site: added.get(site) or parse_hookpoint(f"layers.1.{site}".rstrip("."), transcode=False)
        for site in expected
    }
    names = {site: at if isinstance(at, str) else at.hook_in for site, at in hooks.items()}
    found = values(model, ids, list(names.values()))
    for site, name in names.items():
        torch.testing.assert_close(found[name], expected[site], msg=lambda m, s=site: f"{s}: {m}")
        assert model.width(name) == expected[site].shape[-1]
    flat = HEADS * (D_HEAD if kind in ("llama", "gemma2") else D_MODEL // HEADS)
    assert model.width(names["self_attn.z"]) == flat
    assert model.width(names["mlp.hidden"]) == D_MLP
    if kind != "gemma2":
        post = values(model, ids, list(added.values()))
        torch.testing.assert_close(post["blocks.1.hook_mlp_out"], found[names["mlp"]])
        torch.testing.assert_close(post["blocks.1.hook_attn_out"], found[names["self_attn"]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox"])
def test_the_normalized_input_is_without_gain_and_bias(
    kind: str, kinds: Kinds, ids: Tensor
) -> None:
    """By the definition: LayerNorm centers and divides by the deviation, RMSNorm only divides."""
    model, _ = kinds(kind)
    middle = "ln2.hook_in" if kind == "neox" else "hook_resid_mid"
    assert model.layer_norm == (kind in ("gpt2", "neox"))
    for site, source in (("mlp.normalized", middle), ("self_attn.normalized", "hook_in")):
        hook = parse_hookpoint(f"layers.1.{site}", transcode=False).hook_in
        found = values(model, ids, [f"blocks.1.{source}", hook])
        x = found[f"blocks.1.{source}"].double().numpy()
        if model.layer_norm:
            x = x - x.mean(-1, keepdims=True)
        expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + model.bridge.cfg.eps)
        np.testing.assert_allclose(found[hook], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("folded", [True, False])
def test_the_normalized_input_is_that_of_the_hooked_transformer(
    kind: str, folded: bool, kinds: Kinds, ids: Tensor
) -> None:
    """transcoder_circuits and Gemma Scope were trained with weights folded into the next layer."""
    pytest.importorskip("transformer_lens.HookedTransformer", reason="gone since version 4")
    model, network = kinds(kind)
    _, cache = hooked_transformer(kind, network, folded).run_with_cache(ids, prepend_bos=False)
    hook = "blocks.1.ln2.hook_normalized"
    torch.testing.assert_close(values(model, ids, [hook])[hook], cache[hook], rtol=1e-4, atol=1e-4)


def hooked_transformer(kind: str, network: Any, folded: bool) -> Any:
    """TransformerLens' older model class with the same weights, converted by itself."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import (
        convert_gpt2_weights,
        convert_llama_weights,
    )

    own: dict[str, Any] = {
        "gpt2": {"act_fn": "gelu_new", "normalization_type": "LN", "d_head": D_MODEL // HEADS},
        "llama": {
            "act_fn": "silu",
            "normalization_type": "RMS",
            "d_head": D_HEAD,
            "positional_embedding_type": "rotary",
            "rotary_dim": D_HEAD,
            "rotary_adjacent_pairs": False,
            "gated_mlp": True,
            "final_rms": True,
            "n_key_value_heads": 1,
            "eps": 1e-6,
        },
    }[kind]
    sizes = {"n_layers": 2, "d_model": D_MODEL, "n_ctx": 16, "d_mlp": D_MLP, "d_vocab": VOCAB}
    config = HookedTransformerConfig(**sizes, n_heads=HEADS, **own)
    hooked = HookedTransformer(config)
    convert = {"gpt2": convert_gpt2_weights, "llama": convert_llama_weights}[kind]
    state = convert(network, config)
    hooked.load_and_process_state_dict(state, fold_ln=folded, center_writing_weights=False)
    return hooked


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox"])
@pytest.mark.slow
def test_execution_order_is_that_of_the_forward_pass(kind: str, kinds: Kinds, ids: Tensor) -> None:
    model, _ = kinds(kind)
    ran: list[str] = []
    hooks = {
        name
        for layer in range(2)
        for site in SITES
        for text in (f"layers.{layer}.{site}".rstrip("."), f"blocks.{layer}.hook_mlp_out")
        for name in [parse_hookpoint(text, transcode=False).hook_out]
    } | {f"blocks.{layer}.hook_attn_out" for layer in range(2)}
    if kind == "neox":
        hooks -= {f"blocks.{layer}.hook_resid_mid" for layer in range(2)}
    assert len(hooks) == (24 if kind == "neox" else 26)
    given = sorted(hooks, key=execution_order)
    model.run(ids, {name: lambda x, name=name: ran.append(name) for name in given})
    assert ran == given


def test_width_of_what_is_not_there(model: SubjectModel) -> None:
    with pytest.raises(ModelError, match=r"no hook 'blocks\.0\.hook_nothing'"):
        model.width("blocks.0.hook_nothing")


# --- coders at each of them


class Identity(SparsifyCoder):
    """A coder whose decoder gives its input back: latents (x, -x) behind a ReLU, all kept."""

    def __init__(self, hookpoint: Hookpoint, width: int) -> None:
        both = torch.cat([torch.eye(width), -torch.eye(width)])
        weights = {
            "encoder.weight": both,
            "encoder.bias": torch.zeros(2 * width),
            "W_dec": both.clone(),
            "b_dec": torch.zeros(width),
        }
        config = SparsifyConfig(d_in=width, num_latents=2 * width, k=2 * width, transcode=True)
        super().__init__(config, hookpoint, weights, fingerprint=hookpoint.name)


def decoded(coder: Coder, x: Tensor, batch: Any) -> Tensor:
    return coder.decode(coder.encode(x))


def nothing(coder: Coder, x: Tensor, batch: Any) -> Tensor:
    return torch.zeros(1, coder.d_out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_coders_at_every_place_cache_decode_and_rewrite(
    kind: str, kinds: Kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several passes: four contexts each.
    monkeypatch.setattr("labeler.eval.subject._POSITIONS", 24)
    model, _ = kinds(kind)
    tokens = make_tokens(n_docs=6, ctx_len=6)
    points = [parse_hookpoint(f"layers.1.{site}".rstrip("."), transcode=False) for site in SITES]
    coders: dict[str, Coder] = {
        point.name: Identity(point, model.width(point.hook_in)) for point in points
    }
    assert len(coders) == len(SITES)

    cache = build_cache(tokens, model, coders, tmp_path, batch_size=3, quiet=True)
    watched = ModelSubject(model, coders).firings(tokens, list(coders))
    truth = values(model, torch.from_numpy(tokens.ids), [point.hook_in for point in points])
    for name, coder in coders.items():
        x = truth[coder.hookpoint.hook_in].reshape(-1, coder.d_in)
        acts = torch.zeros(len(x), coder.num_latents)
        for found in cache.iter_shards(name):
            acts[found.position, found.latent.astype(np.int64)] = torch.tensor(found.act)
        valid = tokens.valid.reshape(-1)
        torch.testing.assert_close(coder.decode(acts)[valid], x[valid], rtol=1e-4, atol=1e-4)
        assert not acts[~valid].any()
        seen = watched[name].dense(0, tokens.ids.size)
        np.testing.assert_allclose(seen, acts.numpy(), rtol=1e-5, atol=1e-6)

    alone = [
        Variant(f"{word} {name}", (name,), replacement)
        for name in coders
        for word, replacement in (("same", decoded), ("zero", nothing))
    ]
    together = Variant("same everywhere", tuple(coders), decoded)
    ce = cross_entropies(model, coders, {}, tokens, [BASE, *alone, together]).mean()
    base = ce.pop("base")
    for name, value in ce.items():
        if name.startswith("same"):
            assert value == pytest.approx(base, abs=1e-5), name
        else:
            assert abs(value - base) > 1e-4, name


@pytest.mark.slow
def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = build("gpt2", tmp_path) / "model.safetensors"
    weights = load_file(path)
    weights["transformer.h.0.mlp.c_proj.bias"][3] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    model = load_model(tmp_path)
    points = [parse_hookpoint(f"layers.{layer}.mlp", transcode=False) for layer in range(2)]
    coders: dict[str, Coder] = {point.name: Identity(point, D_MODEL) for point in points}
    subject = ModelSubject(model, coders)
    with pytest.raises(CacheError, match=r"not finite at blocks\.0\.mlp\.hook_out; check the"):
        subject.firings(make_tokens(n_docs=3, ctx_len=6), list(coders))


def test_coders_that_share_a_hook_are_all_read_and_written(model: SubjectModel) -> None:
    """An autoencoder of the MLP's input writes what the MLP's transcoder reads."""
    tokens = make_tokens(n_docs=6, ctx_len=6)
    inside = parse_hookpoint("layers.1.mlp.in", transcode=False)
    width = model.width(inside.hook_in)
    coders: dict[str, Coder] = {
        "layers.1.mlp": Identity(parse_hookpoint("layers.1.mlp"), width),
        "layers.1.mlp.in": Identity(inside, width),
    }
    assert coders["layers.1.mlp"].hookpoint.hook_in == inside.hook_in
    watched = ModelSubject(model, coders).firings(tokens, list(coders))
    one, other = watched.values()
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))

    def flipped(coder: Coder, x: Tensor, batch: Any) -> Tensor:
        return x.flip(1) if coder.hookpoint == inside else x

    both = Variant("both", tuple(coders), flipped)
    found = cross_entropies(model, coders, {}, tokens, [both]).mean()["both"]
    seen: list[Tensor] = []
    expected = model.cross_entropy(
        tokens.ids,
        tokens.length,
        {
            inside.hook_in: lambda x: seen.append(x.flip(2)),
            "blocks.1.mlp.hook_out": lambda x: seen[-1],
        },
    )
    assert found == pytest.approx(float(expected.nanmean()), abs=1e-5)
    assert found != pytest.approx(float(model.cross_entropy(tokens.ids, tokens.length).nanmean()))
