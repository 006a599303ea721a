"""SAELens' coders: every architecture number by number, old layouts, and everything broken.

What needs the library is skipped without it: `make test-saelens` runs it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from labeler.coders import Coder, load_coders
from labeler.coders.saelens import SAE_LENS, SaeLensCoder
from labeler.coders.saelens_config import TENSORS, read_config
from labeler.errors import CoderError
from labeler.eval.rewrite import BASE, Variant, cross_entropies
from labeler.model import SubjectModel, load_model
from tests.architectures import D_MODEL as D_SMALL
from tests.architectures import VOCAB, build
from tests.conftest import D_MODEL, write_coder
from tests.synthetic import make_tokens

D_SAE, K = 40, 5
HOOK = "blocks.1.hook_resid_post"
TRANSCODERS = tuple(name for name in TENSORS if name.endswith("transcoder"))
SAES = tuple(name for name in TENSORS if name not in TRANSCODERS)


@pytest.fixture
def sae_lens() -> Any:
    reason = "sae-lens is not installed (it needs transformer-lens < 4): make test-saelens"
    return pytest.importorskip("sae_lens", reason=reason)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(50, D_MODEL, generator=torch.Generator().manual_seed(1)) * 2 + 0.3


# --- the oracle, from the published formulas


def normalized(kind: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The input as it is encoded, and what scales and shifts the output back."""
    one = np.ones((len(x), 1))
    if kind == "layer_norm":
        mean = x.mean(1, keepdims=True)
        deviation = x.std(1, ddof=1, keepdims=True)
        return (x - mean) / (deviation + 1e-5), deviation, mean
    if kind == "constant_norm_rescale":
        length = np.sqrt((x**2).sum(1, keepdims=True))
        return x * np.sqrt(x.shape[1]) / length, length / np.sqrt(x.shape[1]), 0 * one
    return x, one, 0 * one


def largest(pre: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(pre)
    for row, values in enumerate(pre):
        best = sorted(range(len(values)), key=lambda i: -values[i])[:k]
        kept[row, best] = np.maximum(values[best], 0)
    return kept


def pursuit(x: np.ndarray, decoder: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Matching pursuit, one input and one step at a time."""
    acts = np.zeros((len(x), len(decoder)))
    for row, rest in enumerate(x.copy()):
        for _ in range(config["max_iterations"] or x.shape[1]):
            best = int(np.argmax(np.maximum(decoder @ rest, 0)))
            value = max(float(decoder[best] @ rest), 0.0)
            known = acts[row, best] != 0 or value == 0
            acts[row, best] += value
            rest = rest - value * decoder[best]
            if (config["stop_on_duplicate_support"] and known) or (
                np.sqrt(rest @ rest) < config["residual_threshold"]
            ):
                break
    return acts


def oracle(
    config: dict[str, Any], tensors: dict[str, Tensor], x: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations, output without the skip path, and skip path."""
    w = {name: value.double().numpy() for name, value in tensors.items()}
    architecture, raw = config["architecture"], x.double().numpy()
    inner, scale, shift = normalized(config.get("normalize_activations") or "none", raw)
    transcodes = architecture.endswith("transcoder")
    if config.get("apply_b_dec_to_input", True) and not transcodes:
        inner = inner - w["b_dec"]
    norms = np.ones(D_SAE)
    if config.get("rescale_acts_by_decoder_norm"):
        norms = np.sqrt((w["W_dec"] ** 2).sum(1))
    if architecture == "matching_pursuit":
        acts = pursuit(inner, w["W_dec"], config)
    elif architecture == "gated":
        gate = inner @ w["W_enc"] + w["b_gate"] > 0
        acts = gate * np.maximum(inner @ w["W_enc"] * np.exp(w["r_mag"]) + w["b_mag"], 0)
    else:
        pre = (inner @ w["W_enc"] + w["b_enc"]) * norms
        if architecture == "topk":
            acts = largest(pre, config["k"])
        else:
            acts = np.maximum(pre, 0) * (pre > w.get("threshold", 0))
    out = acts / norms @ w["W_dec"]
    if architecture != "matching_pursuit" or config.get("apply_b_dec_to_input", True):
        out = out + w["b_dec"]
    skip = raw @ w["W_skip"].T if "W_skip" in w else np.zeros(1)
    return acts, out if transcodes else out * scale + shift, skip


def agrees(coder: Coder, folder: Path, x: Tensor, **said: Any) -> None:
    """The coder against the oracle on its files; `said`: what an old cfg.json says otherwise."""
    config = json.loads((folder / "cfg.json").read_text()) | said
    acts, out, skip = oracle(config, load_file(folder / "sae_weights.safetensors"), x)
    assert 0 < (acts > 0).mean() < 1, "a trivial case"
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(coder.encode(x), acts, **close)
    made = torch.from_numpy(acts).float()
    assert isinstance(coder, SaeLensCoder)
    stored = load_file(folder / "sae_weights.safetensors")
    assert torch.equal(coder.W_enc, stored["W_enc"].T if "W_enc" in stored else stored["W_dec"])
    # The scale of an input seen between must not count.
    coder.encode(x.flip(0))
    np.testing.assert_allclose(coder.output(made, x), out + skip, **close)
    if not coder.config.normalizes_output:
        np.testing.assert_allclose(coder.decode(made), out, **close)
        bias = coder.decode(torch.zeros(1, coder.num_latents))
        np.testing.assert_allclose(made @ coder.W_dec + bias, out, **close)
    expected_skip = np.broadcast_to(skip, out.shape)
    np.testing.assert_allclose(coder.skip(x).expand(out.shape), expected_skip, **close)
    row, latent, act = coder.firings(x)
    dense = coder.encode(x)
    expected = (dense > 0).nonzero(as_tuple=True)
    assert torch.equal(row, expected[0])
    assert torch.equal(latent, expected[1])
    torch.testing.assert_close(act, dense[expected])
    assert act.dtype == coder.W_dec.dtype == torch.float32


# --- files that the library writes


def randomize(sae: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            value = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(value.abs() if name == "threshold" else value)
    return sae


def options(architecture: str) -> dict[str, Any]:
    """What a config of this architecture needs."""
    needed: dict[str, Any] = {"d_in": D_MODEL, "d_sae": D_SAE}
    if architecture in TRANSCODERS:
        needed |= {"d_out": D_MODEL, "apply_b_dec_to_input": False}
    if architecture == "topk":
        needed |= {"k": K}
    if architecture == "matching_pursuit":
        needed |= {"max_iterations": 6, "residual_threshold": 1.5}
    return needed


def save(sae_lens: Any, folder: Path, architecture: str, **changes: Any) -> Any:
    """Have the library make a coder with random weights and write it; returns the coder."""
    from sae_lens.registry import get_sae_class

    cls, config_cls = get_sae_class(architecture)
    metadata: dict[str, Any] = {"hook_name": changes.pop("hook_name", HOOK)}
    if architecture in TRANSCODERS:
        metadata = {
            "hook_name": "blocks.1.ln2.hook_normalized",
            "hook_name_out": "blocks.1.hook_mlp_out",
        }
    metadata |= changes.pop("metadata", {})
    config = config_cls(
        **options(architecture) | changes,
        metadata=sae_lens.saes.sae.SAEMetadata(**metadata),
    )
    sae = randomize(cls(config))
    if architecture == "matching_pursuit":
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    sae.save_model(folder)
    return sae


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TENSORS)
def test_every_architecture_of_the_library(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor, architecture: str
) -> None:
    changes: list[dict[str, Any]] = [{}, {"normalize_activations": "layer_norm"}]
    changes.append({"normalize_activations": "constant_norm_rescale"})
    if architecture in SAES:
        changes.append({"apply_b_dec_to_input": False})
    if architecture == "topk":
        changes.append({"rescale_acts_by_decoder_norm": True})
    if architecture == "matching_pursuit":
        changes.append({"stop_on_duplicate_support": False, "max_iterations": 12})
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        theirs = save(sae_lens, folder, architecture, **change)
        assert SAE_LENS.holds(folder)
        coder = SAE_LENS.load(folder, model, None)
        agrees(coder, folder, x)
        with torch.no_grad():
            acts = theirs.encode(x)
            torch.testing.assert_close(coder.encode(x), acts, rtol=0, atol=0)
            assert isinstance(coder, SaeLensCoder)
            torch.testing.assert_close(coder.output(acts, x), theirs(x))


def test_all_inference_classes_are_used_or_refused(
    sae_lens: Any, model: SubjectModel, tmp_path: Path
) -> None:
    from sae_lens.registry import SAE_CLASS_REGISTRY

    assert set(SAE_CLASS_REGISTRY) - set(TENSORS) == {"temporal", "abstopk"}
    for name in ("temporal", "abstopk"):
        write(tmp_path / name, "standard", architecture=name)
        with pytest.raises(CoderError, match=f"architecture '{name}' cannot be used: its latents"):
            SAE_LENS.load(tmp_path / name, model, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "saved_as"),
    [
        ("standard", "standard"),
        ("gated", "gated"),
        ("topk", "topk"),
        ("jumprelu", "jumprelu"),
        ("batchtopk", "jumprelu"),
        ("matryoshka_batchtopk", "jumprelu"),
    ],
)
def test_trained_coders_saved_for_inference(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor, training: str, saved_as: str
) -> None:
    from sae_lens.registry import get_sae_training_class

    cls, config_cls = get_sae_training_class(training)
    needed: dict[str, Any] = {"d_in": D_MODEL, "d_sae": D_SAE}
    if "topk" in training:
        needed["k"] = K
    if "matryoshka" in training:
        needed["matryoshka_widths"] = [10, D_SAE]
    config = config_cls(**needed, metadata=sae_lens.saes.sae.SAEMetadata(hook_name=HOOK))
    sae = randomize(cls(config))
    if saved_as == "jumprelu" and training != "jumprelu":
        sae.topk_threshold.fill_(0.7)
    sae.save_inference_model(tmp_path / "inference")
    said = json.loads((tmp_path / "inference" / "cfg.json").read_text())
    assert said["architecture"] == saved_as
    coder = SAE_LENS.load(tmp_path / "inference", model, None)
    agrees(coder, tmp_path / "inference", x)
    if training == "batchtopk":
        # What training calls a firing: pre-activation times the decoder's norm, above a threshold.
        w = {name: value.detach() for name, value in sae.named_parameters()}
        scaled = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * w["W_dec"].norm(dim=1)
        torch.testing.assert_close(coder.encode(x), scaled * (scaled > 0.7), rtol=1e-4, atol=1e-5)
    if "batchtopk" in training:
        sae.save_model(tmp_path / "checkpoint")
        with pytest.raises(CoderError, match=r"checkpoint of a training; save it with save_inf"):
            SAE_LENS.load(tmp_path / "checkpoint", model, None)


@pytest.mark.slow
def test_memory_of_firings_does_not_grow_with_the_input(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor, monkeypatch: Any
) -> None:
    save(sae_lens, tmp_path, "jumprelu")
    coder = SAE_LENS.load(tmp_path, model, None)
    whole = coder.firings(x)
    rows: list[int] = []
    encode = coder.encode
    monkeypatch.setattr(coder, "encode", lambda part: rows.append(len(part)) or encode(part))
    monkeypatch.setattr("labeler.coders.activations.MAX_AT_ONCE", 7 * D_SAE)
    for part, other in zip(coder.firings(x), whole, strict=True):
        torch.testing.assert_close(part, other)
    assert rows == [7] * 7 + [1]
    assert [len(part) for part in coder.firings(x[:0])] == [0, 0, 0]


# --- files written by hand, as versions before 6 wrote them

OLD = {
    "model_name": "tiny",
    "hook_name": HOOK,
    "hook_layer": 1,
    "hook_head_index": None,
    "activation_fn_str": "relu",
    "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False,
    "normalize_activations": "none",
    "prepend_bos": True,
    "context_size": 128,
    "dataset_path": "some/text",
    "dtype": "torch.float32",
    "device": "cuda",
    "sae_lens_training_version": "4.0.0",
    "model_from_pretrained_kwargs": {},
}
OLDEST = {
    "model_name": "tiny",
    "hook_point": HOOK,
    "hook_point_layer": 1,
    "hook_point_head_index": None,
    "use_cached_activations": False,
    "normalize_activations": False,
    "expansion_factor": 2,
    "dtype": "float32",
    "device": "mps",
    "l1_coefficient": 5e-4,
}


def write(folder: Path, kind: str, **fields: Any) -> dict[str, Tensor]:
    """Write a coder of version 6 by hand; None removes a field. Returns its tensors."""
    config = {
        "architecture": kind,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.12.0", "hook_name": HOOK},
    } | options(kind)
    return write_files(folder, kind, config | fields)


def write_old(folder: Path, kind: str, layout: dict[str, Any], **fields: Any) -> None:
    write_files(folder, kind, options(kind) | layout | fields)


def write_files(folder: Path, kind: str, config: dict[str, Any]) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "cfg.json").write_text(json.dumps(kept))
    generator = torch.Generator().manual_seed(3)
    width = D_SMALL if config.get("d_in") == D_SMALL else D_MODEL
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (width, D_SAE),
        "W_dec": (D_SAE, width),
        "W_skip": (width, width),
        "b_dec": (width,),
    }
    tensors = {
        name: torch.randn(shapes.get(name, (D_SAE,)), generator=generator) * 0.3
        for name in TENSORS[kind]
    }
    save_file(tensors, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(D_SAE)}, folder / "sparsity.safetensors")
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("layout", [OLD, OLDEST], ids=["old", "oldest"])
def test_flat_configs_of_old(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor, layout: dict[str, Any]
) -> None:
    def check(name: str, kind: str, says: dict[str, Any], **means: Any) -> None:
        folder = tmp_path / name
        write_old(folder, kind, layout, **says)
        means = {"architecture": kind, "normalize_activations": "none"} | means
        agrees(SAE_LENS.load(folder, model, None), folder, x, **means)

    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    check("a", "standard", {})
    check("b", "gated", {"architecture": "gated", "apply_b_dec_to_input": False})
    check("c", "jumprelu", {"architecture": "jumprelu"})
    check("d", "standard", topk | {"architecture": "standard"}, architecture="topk", k=3)
    named = {"normalize_activations": "layer_norm"}
    check("e", "standard", named, **named)
    # A factor of fine-tuning that never changed.
    tensors = load_file(tmp_path / "a" / "sae_weights.safetensors")
    tensors["scaling_factor"] = torch.ones(D_SAE)
    save_file(tensors, tmp_path / "a" / "sae_weights.safetensors")
    SAE_LENS.load(tmp_path / "a", model, None)
    tensors["scaling_factor"][3] = 2
    save_file(tensors, tmp_path / "a" / "sae_weights.safetensors")
    with pytest.raises(CoderError, match="scaling_factor is not 1 everywhere"):
        SAE_LENS.load(tmp_path / "a", model, None)


# --- where they sit


def decoded(coder: Coder, x: Tensor, batch: Any) -> Tensor:
    return coder.decode(coder.encode(x)) + coder.skip(x)


@pytest.mark.slow
def test_a_coder_at_hook_z_takes_heads_side_by_side(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor
) -> None:
    hook = "blocks.0.attn.hook_z"
    theirs = save(
        sae_lens, tmp_path / "z", "standard", hook_name=hook, reshape_activations="hook_z"
    )
    coder = SAE_LENS.load(tmp_path / "z", model, None)
    assert coder.hookpoint.name == "layers.0.self_attn.z"
    agrees(coder, tmp_path / "z", x)
    with torch.no_grad():
        heads = x.reshape(5, 10, 4, D_MODEL // 4)
        torch.testing.assert_close(coder.encode(x).reshape(5, 10, -1), theirs.encode(heads))
        torch.testing.assert_close(decoded(coder, x, None).reshape(heads.shape), theirs(heads))
    tokens = make_tokens(n_docs=3, ctx_len=6)
    variants = [BASE, Variant("coder", (coder.hookpoint.name,), decoded)]
    ce = cross_entropies(model, {coder.hookpoint.name: coder}, {}, tokens, variants).mean()
    assert ce["coder"] != pytest.approx(ce["base"], abs=1e-3)
    # The same place in the flat layout, which does not say how to reshape.
    write_old(tmp_path / "old", "standard", OLD, hook_name=hook)
    flat = SAE_LENS.load(tmp_path / "old", model, None)
    agrees(flat, tmp_path / "old", x, architecture="standard")


@pytest.mark.slow
def test_transcoders_say_both_places(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor
) -> None:
    save(sae_lens, tmp_path / "a", "skip_transcoder")
    coder = SAE_LENS.load(tmp_path / "a", model, None)
    point = coder.hookpoint
    assert (point.name, point.hook_in, point.hook_out) == (
        "layers.1.mlp",
        "blocks.1.ln2.hook_normalized",
        "blocks.1.hook_mlp_out",
    )
    # Asked for by a name that means less, it still reads where its file says.
    assert SAE_LENS.load(tmp_path / "a", model, "layers.1.mlp").hookpoint == point
    with pytest.raises(CoderError, match=r"sits at layers\.1\.mlp, not at layers\.0\.mlp"):
        SAE_LENS.load(tmp_path / "a", model, "blocks.0.hook_mlp_out")
    save(sae_lens, tmp_path / "b", "transcoder", metadata={"hook_name_out": None})
    assert SAE_LENS.load(tmp_path / "b", model, None).hookpoint == point


@pytest.mark.slow
def test_files_that_do_not_say_where_take_the_users_word(
    sae_lens: Any, model: SubjectModel, tmp_path: Path
) -> None:
    write(tmp_path, "standard", metadata={"sae_lens_version": "6.0.0"})
    with pytest.raises(CoderError, match=r"does not say where the coder sits.*--hookpoint"):
        SAE_LENS.load(tmp_path, model, None)
    coder = SAE_LENS.load(tmp_path, model, "layers.1.mlp")
    assert coder.hookpoint.hook_in == coder.hookpoint.hook_out == "blocks.1.mlp.hook_out"
    named = tmp_path / "blocks.0.hook_resid_pre"
    write(named, "standard", metadata={"sae_lens_version": "6.0.0"})
    assert SAE_LENS.load(named, model, None).hookpoint.name == "layers.0.resid_pre"


# --- models that their authors had processed


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> SubjectModel:
    return load_model(build("gpt2", tmp_path_factory.mktemp("gpt2")))


def placed(hook: str, kwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "d_in": D_SMALL,
        "metadata": {
            "sae_lens_version": "6.0.0",
            "hook_name": hook,
            "model_from_pretrained_kwargs": kwargs,
        },
    }


@pytest.mark.slow
def test_a_coder_of_a_centered_model_gets_its_input_centered(
    sae_lens: Any, gpt2: SubjectModel, tmp_path: Path
) -> None:
    """Against a model whose weights really are centered, made with TransformerLens."""
    hook = "blocks.1.hook_resid_pre"
    write(tmp_path, "standard", **placed(hook, {"center_writing_weights": True}))
    coder = SAE_LENS.load(tmp_path, gpt2, None)
    ids = torch.randint(0, VOCAB, (2, 6), generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    ours = gpt2.run(ids, {"blocks.1.hook_in": lambda x: seen.append(x)})
    theirs = centered_gpt2(gpt2)
    logits, cache = theirs.run_with_cache(ids, prepend_bos=False)
    assert ours is not None
    torch.testing.assert_close(logits.log_softmax(-1), ours.log_softmax(-1), rtol=1e-4, atol=1e-4)
    x = seen[0].reshape(-1, D_SMALL)
    clean = cache[hook].reshape(-1, D_SMALL)
    assert not torch.allclose(x, clean, atol=1e-2)
    write(tmp_path / "plain", "standard", **placed(hook, {}))
    plain = SAE_LENS.load(tmp_path / "plain", gpt2, None)
    torch.testing.assert_close(coder.encode(x), plain.encode(clean), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain.encode(x), plain.encode(clean), atol=1e-2)
    # Centered weights leave what the heads give as it is.
    write(
        tmp_path / "z",
        "standard",
        **placed("blocks.1.attn.hook_z", {"center_writing_weights": True}),
    )
    other = SAE_LENS.load(tmp_path / "z", gpt2, None)
    torch.testing.assert_close(other.encode(x), plain.encode(x), rtol=0, atol=0)
    # What is written back lacks the mean, which the model does not see.
    with torch.no_grad():
        decode = lambda x: coder.decode(coder.encode(x))  # noqa: E731
        mine = gpt2.run(ids, {"blocks.1.hook_in": decode})
        other = theirs.run_with_hooks(
            ids,
            fwd_hooks=[(hook, lambda value, hook: plain.decode(plain.encode(value)))],
            prepend_bos=False,
        )
    assert mine is not None
    torch.testing.assert_close(mine.log_softmax(-1), other.log_softmax(-1), rtol=1e-4, atol=1e-4)


def centered_gpt2(model: SubjectModel) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = HookedTransformerConfig(
        n_layers=2,
        d_model=D_SMALL,
        n_ctx=16,
        d_head=8,
        n_heads=2,
        d_mlp=24,
        d_vocab=VOCAB,
        act_fn="gelu_new",
        normalization_type="LN",
    )
    from transformers import AutoModelForCausalLM

    hooked = HookedTransformer(config)
    network = AutoModelForCausalLM.from_pretrained(model.name)
    hooked.load_and_process_state_dict(
        convert_gpt2_weights(network, config),
        fold_ln=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return hooked


@pytest.mark.parametrize(
    ("hook", "kwargs", "message"),
    [
        ("blocks.1.attn.hook_z", {"fold_value_biases": True}, "has fold_value_biases, which"),
        ("blocks.1.ln2.hook_normalized", {}, "held values after the norm's gain and bias before"),
    ],
)
def test_processing_that_cannot_be_undone_is_refused(
    gpt2: SubjectModel, tmp_path: Path, hook: str, kwargs: dict[str, Any], message: str
) -> None:
    write(tmp_path, "standard", **placed(hook, kwargs))
    with pytest.raises(CoderError, match=message):
        SAE_LENS.load(tmp_path, gpt2, None)


def test_old_files_of_layer_norm_models_must_say_how_it_was_processed(
    gpt2: SubjectModel, tmp_path: Path
) -> None:
    write_old(tmp_path, "standard", OLDEST, d_in=D_SMALL)
    with pytest.raises(CoderError, match=r"no model_from_pretrained_kwargs.*center_writing_weig"):
        SAE_LENS.load(tmp_path, gpt2, None)


# --- recognition


def test_coders_of_others_are_not_taken_for_ours(tmp_path: Path) -> None:
    write(tmp_path / "new", "standard")
    write_old(tmp_path / "old", "standard", OLDEST)
    assert SAE_LENS.holds(tmp_path / "new")
    assert SAE_LENS.holds(tmp_path / "old")
    for name in ("new", "old"):
        (tmp_path / name / "sae_weights.safetensors").unlink()
        assert SAE_LENS.holds(tmp_path / name), "the config alone says what is missing"
    write_coder(tmp_path / "sparsify", seed=0)
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cfg.json").write_text("{")
    for folder in (tmp_path / "sparsify", empty, broken, tmp_path, tmp_path / "none"):
        assert not SAE_LENS.holds(folder)
    assert not SAE_LENS.holds(tmp_path / "new" / "cfg.json")


def test_without_the_library_the_cure_is_said(
    model: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    write(tmp_path, "standard")
    with pytest.raises(CoderError, match=r"pip install 'labeler\[saelens\]' \(it brings transf"):
        SAE_LENS.load(tmp_path, model, None)


def test_the_place_is_told_without_loading(tmp_path: Path) -> None:
    write(tmp_path / "a", "standard")
    write_old(tmp_path / "b", "standard", OLDEST)
    for name in ("a", "b"):
        (tmp_path / name / "sae_weights.safetensors").unlink()
        place = SAE_LENS.place(tmp_path / name)
        assert place is not None
        assert (place.name, place.hook_in) == ("layers.1", "blocks.1.hook_out")
    write(tmp_path / "c", "standard", metadata={"hook_name": "nowhere"})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cfg.json").write_text("{")
    for name in ("c", "broken", "none"):
        assert SAE_LENS.place(tmp_path / name) is None


@pytest.mark.slow
def test_a_folder_of_them_is_found_and_chosen_from(
    sae_lens: Any, model: SubjectModel, tmp_path: Path
) -> None:
    write(tmp_path / "deep" / "one", "standard")
    hook = {"sae_lens_version": "6.0.0", "hook_name": "blocks.0.hook_mlp_out"}
    write(tmp_path / "deep" / "two", "topk", metadata=hook)
    assert list(load_coders(tmp_path, model=model)) == ["layers.0.mlp", "layers.1"]
    chosen = load_coders(tmp_path, model=model, hookpoints=["blocks.1.hook_resid_post"])
    assert list(chosen) == ["layers.1"]


# --- broken and hostile files; none of these needs the library


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("standard", {"d_in": "32"}, "d_in is '32', expected a whole number above 0"),
        ("standard", {"d_in": True}, "d_in is True, expected a whole number"),
        ("standard", {"d_in": 10**30}, "d_in is 1000000000000000000000000000000"),
        ("standard", {"d_sae": None}, "d_sae is None"),
        ("standard", {"d_sae": -1}, "d_sae is -1"),
        ("standard", {"d_in": 64}, "d_in is 64, but .* has width 32 at blocks.1.hook_out"),
        ("standard", {"architecture": "no-such"}, "architecture is 'no-such', expected one of st"),
        ("standard", {"architecture": ["topk"]}, r"architecture is \['topk'\], expected a string"),
        ("standard", {"architecture": "../../x"}, "architecture is '../../x'"),
        ("standard", {"normalize_activations": "x"}, "normalize_activations is 'x', expected none"),
        ("standard", {"normalize_activations": {}}, "normalize_activations is {}, expected a str"),
        (
            "standard",
            {"normalize_activations": "expected_average_only_in"},
            "normalize_activations .* not in the file; call fold_activation_norm_scaling_factor",
        ),
        (
            "standard",
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations .* call fold_activation_whitening",
        ),
        ("standard", {"apply_b_dec_to_input": 1}, "apply_b_dec_to_input is 1, expected true or"),
        ("standard", {"reshape_activations": "x"}, "reshape_activations is 'x'"),
        ("standard", {"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z', expec"),
        ("topk", {"k": 0}, "k is 0, expected 1 to d_sae = 40"),
        ("topk", {"k": 41}, "k is 41"),
        ("topk", {"k": 2.5}, "k is 2.5"),
        ("topk", {"rescale_acts_by_decoder_norm": "no"}, "rescale_acts_by_decoder_norm is 'no'"),
        ("transcoder", {"d_out": None}, "d_out is None"),
        ("transcoder", {"apply_b_dec_to_input": True}, "apply_b_dec_to_input is True, expected f"),
        ("matching_pursuit", {"max_iterations": -3}, "max_iterations is -3"),
        ("matching_pursuit", {"residual_threshold": "x"}, "residual_threshold is 'x'"),
        ("matching_pursuit", {"residual_threshold": float("nan")}, "residual_threshold is nan"),
        ("standard", {"metadata": {"hook_name": 3}}, "hook_name is 3, expected a string"),
        ("standard", {"metadata": {"hook_name": "../x"}}, r"hook_name: unknown hookpoint '\.\./x'"),
        (
            "standard",
            {"metadata": {"hook_name": "blocks.7.hook_resid_post"}},
            "is for layer 7, but",
        ),
        (
            "standard",
            {"metadata": {"hook_name": HOOK, "hook_head_index": 2}},
            "hook_head_index is 2, expected null",
        ),
        (
            "standard",
            {"metadata": {"hook_name": HOOK, "model_from_pretrained_kwargs": [1]}},
            r"model_from_pretrained_kwargs is \[1\]",
        ),
    ],
)
def test_configs_that_cannot_be_used_are_named(
    model: SubjectModel, tmp_path: Path, architecture: str, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path, architecture, **changes)
    with pytest.raises(CoderError, match=rf"cfg\.json.*{message}"):
        SAE_LENS.load(tmp_path, model, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation_fn is 'tanh-relu', expected relu or topk"),
        ({"activation_fn_str": "topk"}, "k is None, expected 1 to d_sae"),
        ({"activation_fn_kwargs": 3}, "activation_fn_kwargs is 3"),
        ({"normalize_activations": True}, "normalize_activations is True, expected none: the sc"),
        ({"hook_point_head_index": 1}, "hook_head_index is 1, expected null"),
    ],
)
def test_old_configs_that_cannot_be_used_are_named(
    model: SubjectModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_old(tmp_path, "standard", OLDEST, **changes)
    with pytest.raises(CoderError, match=message):
        SAE_LENS.load(tmp_path, model, None)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", '{"d_in": 1' + "0" * 10_000 + "}", "[" * 100_000, "\x00"]
)
def test_configs_that_are_no_json_are_named(model: SubjectModel, tmp_path: Path, text: str) -> None:
    write(tmp_path, "standard")
    (tmp_path / "cfg.json").write_text(text)
    with pytest.raises(CoderError, match=r"cfg\.json"):
        SAE_LENS.load(tmp_path, model, None)


def test_the_library_gets_nothing_of_a_file_but_what_was_checked(tmp_path: Path) -> None:
    hostile = {"hook_name": HOOK, "sae_lens_version": "x" * 99, "to_dict": "x", "self": 1}
    write(tmp_path, "standard", metadata=hostile, device="cuda:99", dtype="../x", converter="x")
    given = read_config(tmp_path / "cfg.json").library
    assert given["metadata"] == {"sae_lens_version": "6.0.0", "hook_name": HOOK}
    assert (given["device"], given["dtype"]) == ("cpu", "float32")
    assert "converter" not in given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("b_enc"), "lacks the tensors b_enc; it has W_dec, W_enc"),
        (
            lambda w: w.update(b_enc=torch.zeros(39)),
            r"b_enc has shape \(39,\), cfg\.json calls for",
        ),
        (lambda w: w.update(W_enc=w["W_dec"].clone()), r"W_enc has shape \(40, 32\)"),
        (lambda w: w["W_dec"].fill_(float("nan")), "W_dec has values that are not finite"),
        (lambda w: w.update(b_dec=torch.zeros(32, dtype=torch.int64)), "b_dec is of type"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    model: SubjectModel, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    tensors = write(tmp_path, "standard")
    change(tensors)
    kept = {name: value.contiguous() for name, value in tensors.items()}
    save_file(kept, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CoderError, match=message):
        SAE_LENS.load(tmp_path, model, None)


@pytest.mark.parametrize("keep", [0, 6, 200, -4])
def test_damaged_weights_are_named(model: SubjectModel, tmp_path: Path, keep: int) -> None:
    write(tmp_path, "standard")
    path = tmp_path / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CoderError, match=r"sae_weights\.safetensors is damaged"):
        SAE_LENS.load(tmp_path, model, None)
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(CoderError, match=r"sae_weights\.safetensors is damaged"):
        SAE_LENS.load(tmp_path, model, None)
    path.unlink()
    with pytest.raises(CoderError, match=r"sae_weights\.safetensors is missing"):
        SAE_LENS.load(tmp_path, model, None)


@pytest.mark.slow
def test_half_precision_is_read_as_float32(
    sae_lens: Any, model: SubjectModel, tmp_path: Path, x: Tensor
) -> None:
    tensors = write(tmp_path, "standard", dtype="bfloat16")
    halves = {name: value.bfloat16() for name, value in tensors.items()}
    save_file(halves, tmp_path / "sae_weights.safetensors")
    coder = SAE_LENS.load(tmp_path, model, None)
    assert coder.W_dec.dtype == torch.float32
    wide = {name: value.float() for name, value in halves.items()}
    save_file(wide, tmp_path / "sae_weights.safetensors")
    agrees(coder, tmp_path, x)


@pytest.mark.slow
def test_a_coder_that_scales_its_output_back_cannot_be_decoded_alone(
    sae_lens: Any, model: SubjectModel, tmp_path: Path
) -> None:
    save(sae_lens, tmp_path, "standard", normalize_activations="layer_norm")
    coder = SAE_LENS.load(tmp_path, model, None)
    with pytest.raises(CoderError, match="normalize_activations: it scales its output back by"):
        coder.decode(torch.zeros(1, D_SAE))


@pytest.mark.slow
def test_fingerprint_follows_weights_and_config(
    sae_lens: Any, model: SubjectModel, tmp_path: Path
) -> None:
    prints = set()
    for number, changes in enumerate(({}, {"apply_b_dec_to_input": False}, {"dtype": "float64"})):
        write(tmp_path / str(number), "standard", **changes)
        prints.add(SAE_LENS.load(tmp_path / str(number), model, None).fingerprint)
    assert len(prints) == 3
