"""Coders in the layouts of others: numbers by the published formulas, places, refusals."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from labeler.cache import build_cache
from labeler.coders import load_coders
from labeler.errors import CoderError
from labeler.model import SubjectModel, load_model
from labeler.tokens import Tokens
from tests.coder_files import (
    GEMMA,
    OPENAI,
    check,
    circuits_tensors,
    doubles,
    gemma_arrays,
    inputs,
    loaded,
    openai_state,
    save,
    turing_state,
    write_circuits,
    write_gemma,
)
from tests.conftest import write_coder

# --- Gemma Scope


@pytest.mark.parametrize("n", [48, 300])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_gemma_scope_by_its_formula(
    model: SubjectModel, tmp_path: Path, n: int, dtype: str
) -> None:
    arrays = {name: at.astype(dtype) for name, at in gemma_arrays(n=n).items()}
    write_gemma(tmp_path / GEMMA, arrays)
    coder, x = loaded(tmp_path, model), inputs()
    p = {name: doubles(at) for name, at in arrays.items()}
    pre = doubles(x) @ p["W_enc"] + p["b_enc"]
    acts = np.maximum(pre, 0) * (pre > p["threshold"])
    check(coder, acts, acts @ p["W_dec"] + p["b_dec"], x)
    assert coder.config.activation == "jumprelu"
    assert coder.config.k is None
    # Some pre-activations lie between 0 and the threshold, some thresholds are below 0: no ReLU.
    assert ((pre > 0) & (pre <= p["threshold"])).any()


def test_a_threshold_below_zero_lets_nothing_negative_fire(
    model: SubjectModel, tmp_path: Path
) -> None:
    arrays = gemma_arrays()
    arrays["threshold"][:] = -5
    coder = loaded(write_gemma(tmp_path / GEMMA, arrays), model)
    assert float(coder.encode(inputs()).min()) == 0


def test_gemma_scope_may_be_compressed_and_written_by_column(
    model: SubjectModel, tmp_path: Path
) -> None:
    arrays = gemma_arrays()
    plain = loaded(write_gemma(tmp_path / "a" / GEMMA, arrays), model)
    columns = {name: np.asfortranarray(at).astype(">f4") for name, at in arrays.items()}
    other = loaded(write_gemma(tmp_path / "b" / GEMMA, columns, compressed=True), model)
    assert torch.equal(plain.encode(inputs()), other.encode(inputs()))
    assert torch.equal(plain.W_dec, other.W_dec)
    assert plain.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("repository", "name", "hook_in", "hook_out"),
    [
        ("gemma-scope-2b-pt-res", "layers.1", "hook_out", "hook_out"),
        ("models--google--gemma-scope-9b-it-mlp", "layers.1.mlp", "hook_mlp_out", "hook_mlp_out"),
        ("gemma-scope-2b-pt-att", "layers.1.self_attn.z", "attn.o.hook_in", "attn.o.hook_in"),
        (
            "gemma-scope-2b-pt-transcoders",
            "layers.1.mlp",
            "ln2.hook_normalized",
            "hook_mlp_out",
        ),
    ],
)
def test_gemma_scope_sits_where_the_repository_says(
    model: SubjectModel, tmp_path: Path, repository: str, name: str, hook_in: str, hook_out: str
) -> None:
    write_gemma(tmp_path / repository / "layer_1/width_16k/average_l0_9", gemma_arrays())
    place = loaded(tmp_path, model).hookpoint
    assert place.name == name
    assert place.hook_in == f"blocks.1.{hook_in}"
    assert place.hook_out == f"blocks.1.{hook_out}"


def test_gemma_scope_elsewhere_needs_one_hookpoint(model: SubjectModel, tmp_path: Path) -> None:
    write_gemma(tmp_path / "layer_1/width_16k/average_l0_9", gemma_arrays())
    with pytest.raises(CoderError, match=r"params\.npz does not say where.*name one --hookpoint"):
        load_coders(tmp_path, model=model)
    assert loaded(tmp_path, model, "blocks.1.hook_resid_post").hookpoint.name == "layers.1"
    with pytest.raises(
        CoderError, match=r"stands for what a transcoder .* write layers\.1\.mlp\.in"
    ):
        load_coders(tmp_path, model=model, hookpoints=["blocks.1.mlp.hook_in"])
    with pytest.raises(CoderError, match="does not say where"):
        load_coders(tmp_path, model=model, hookpoints=["layers.0", "layers.1"])


def test_several_widths_of_one_layer_are_listed(model: SubjectModel, tmp_path: Path) -> None:
    root = tmp_path / "gemma-scope-2b-pt-res"
    for folder in ("layer_0/width_16k/average_l0_9", "layer_0/width_65k/average_l0_8"):
        write_gemma(root / folder, gemma_arrays())
    write_gemma(root / "layer_1/width_16k/average_l0_7", gemma_arrays())
    message = r"width_16k/average_l0_9.*width_65k/average_l0_8.* are both for layers\.0; give"
    with pytest.raises(CoderError, match=message):
        load_coders(root, model=model)
    with pytest.raises(CoderError, match=message):
        load_coders(root, model=model, hookpoints=["layers.0"])
    assert list(load_coders(root, model=model, hookpoints=["layers.1"])) == ["layers.1"]
    one = root / "layer_0/width_65k"
    assert list(load_coders(one, model=model)) == ["layers.0"]
    assert list(load_coders(one / "average_l0_8/params.npz", model=model)) == ["layers.0"]


def test_a_folder_of_gemma_scope_may_be_linked(model: SubjectModel, tmp_path: Path) -> None:
    path = write_gemma(tmp_path / "blobs", gemma_arrays())
    (tmp_path / GEMMA).mkdir(parents=True)
    (tmp_path / GEMMA / "params.npz").symlink_to(path.rename(tmp_path / "blobs" / "0a1b2c"))
    assert loaded(tmp_path / GEMMA, model).hookpoint.name == "layers.1"


def test_gemma_scope_of_embeddings_and_with_scaling_is_refused(
    model: SubjectModel, tmp_path: Path
) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res"
    write_gemma(folder / "embedding/width_4k/average_l0_6", gemma_arrays())
    with pytest.raises(CoderError, match="embedding autoencoders, which sit in no block"):
        load_coders(folder, model=model)
    arrays = gemma_arrays()
    ones = arrays | {"scaling_factor": np.ones(48, np.float32)}
    assert loaded(write_gemma(tmp_path / GEMMA, ones), model).num_latents == 48
    path = write_gemma(tmp_path / GEMMA, arrays | {"scaling_factor": arrays["b_enc"]})
    with pytest.raises(CoderError, match="scaling_factor other than 1"):
        load_coders(path, model=model)


# --- transcoder_circuits


@pytest.mark.parametrize("name", ["a.pt", "a.pkl.gz", "a.pkl", "old.pt"])
@pytest.mark.parametrize("n", [48, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_transcoder_circuits_by_its_formula(
    model: SubjectModel, tmp_path: Path, name: str, n: int, dtype: torch.dtype
) -> None:
    tensors = {key: at.to(dtype) for key, at in circuits_tensors(n=n).items()}
    path = write_circuits(tmp_path / name, tensors, zipped=name != "old.pt")
    coder, x = loaded(path, model), inputs()
    assert coder.hookpoint.hook_in == "blocks.1.ln2.hook_normalized"
    assert coder.hookpoint.hook_out == "blocks.1.hook_mlp_out"
    assert coder.hookpoint.name == "layers.1.mlp"
    p = {key: doubles(at) for key, at in tensors.items()}
    acts = np.maximum((doubles(x) - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)
    check(coder, acts, acts @ p["W_dec"] + p["b_dec_out"], x)


def test_an_autoencoder_of_transcoder_circuits_adds_b_dec(
    model: SubjectModel, tmp_path: Path
) -> None:
    tensors = circuits_tensors()
    del tensors["b_dec_out"]
    at = {"hook_point": "blocks.0.hook_resid_pre", "is_transcoder": False, "out_hook_point": None}
    coder, x = loaded(write_circuits(tmp_path / "a.pt", tensors, **at), model), inputs()
    assert coder.hookpoint.name == "layers.0.resid_pre"
    p = {key: doubles(at) for key, at in tensors.items()}
    acts = np.maximum((doubles(x) - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)
    check(coder, acts, acts @ p["W_dec"] + p["b_dec"], x)


def test_where_transcoder_circuits_sits(model: SubjectModel, tmp_path: Path) -> None:
    path = write_circuits(tmp_path / "a.pt", circuits_tensors(), hook_point=None)
    with pytest.raises(CoderError, match="does not say where"):
        load_coders(path, model=model)
    assert loaded(path, model, "layers.0").hookpoint.name == "layers.0"
    write_circuits(path, circuits_tensors(), hook_point="blocks.0.hook_resid_pre")
    with pytest.raises(CoderError, match=r"a\.pt: cfg\.hook_point .* in one block"):
        load_coders(path, model=model)
    write_circuits(path, circuits_tensors(), hook_point_head_index=3)
    with pytest.raises(CoderError, match="one attention head"):
        load_coders(path, model=model)


def test_a_transcoder_of_another_width_is_cached_and_written(
    model: SubjectModel, tokens: Tokens, tmp_path: Path
) -> None:
    tensors = circuits_tensors(d=64, out=32)
    at = {"hook_point": "blocks.1.mlp.hook_post", "d_in": 64}
    coder = loaded(write_circuits(tmp_path / "a.pt", tensors, **at), model)
    assert (coder.d_in, coder.d_out) == (64, 32)
    few = tokens.select(np.arange(6))
    cache = build_cache(few, model, {"layers.1.mlp": coder}, tmp_path / "cache", quiet=True)
    seen: list[torch.Tensor] = []
    model.run(few.ids, {coder.hookpoint.hook_in: lambda value: seen.append(value)})
    x = seen[0].reshape(-1, 64)
    p = {key: doubles(tensor) for key, tensor in tensors.items()}
    acts = np.maximum((doubles(x) - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)
    stored = np.zeros_like(acts)
    for shard in cache.iter_shards("layers.1.mlp"):
        stored[shard.position, shard.latent] = shard.act
    valid = few.valid.reshape(-1)
    np.testing.assert_allclose(stored[valid], acts[valid], rtol=1e-4, atol=1e-4)
    out = acts @ p["W_dec"] + p["b_dec_out"]
    written = coder.decode(torch.from_numpy(stored).float()) + coder.skip(x)
    np.testing.assert_allclose(written[valid], out[valid], rtol=1e-3, atol=1e-3)
    replaced = model.run(few.ids, {coder.hookpoint.hook_out: lambda _: written.view(6, -1, 32)})
    assert replaced is not None
    assert bool(replaced.isfinite().all())


@pytest.fixture(scope="module")
def gpt2(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SubjectModel:
    """A GPT-2 of one layer and width 16: a model with LayerNorm."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder / name, folder)
    config = GPT2Config(vocab_size=320, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return load_model(folder)


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_mlp_out", "ln2.hook_normalized"])
def test_coders_of_a_processed_model_read_no_mean(
    gpt2: SubjectModel, tmp_path: Path, hook: str
) -> None:
    tensors = circuits_tensors(d=16)
    at = {"hook_point": f"blocks.0.{hook}", "is_transcoder": False}
    coder, x = loaded(write_circuits(tmp_path / "a.pt", tensors, **at), gpt2), inputs(d=16)
    seen = doubles(x)
    if hook != "ln2.hook_normalized":
        seen = seen - seen.mean(axis=1, keepdims=True)
    p = {key: doubles(tensor) for key, tensor in tensors.items()}
    acts = np.maximum((seen - p["b_dec"]) @ p["W_enc"] + p["b_enc"], 0)
    check(coder, acts, acts @ p["W_dec"] + p["b_dec"], x)


# --- all of them


def test_formats_may_be_mixed_in_a_folder(model: SubjectModel, tmp_path: Path) -> None:
    write_coder(tmp_path / "a" / "layers.0.mlp", seed=0)
    write_gemma(tmp_path / "b" / GEMMA, gemma_arrays())
    write_circuits(tmp_path / "c.pt", circuits_tensors())
    save(tmp_path / "resid_post_attn" / "autoencoders" / "0.pt", openai_state())
    (tmp_path / "README.md").write_text("Coders of all kinds.")
    save(tmp_path / "optimizer.pt", {"lr": 0.1})
    assert list(load_coders(tmp_path, model=model)) == [
        "layers.0.mlp",
        "layers.0.resid_mid",
        "layers.1",
        "layers.1.mlp",
    ]
    chosen = load_coders(tmp_path, model=model, hookpoints=["layers.1.mlp", "layers.0.mlp"])
    assert list(chosen) == ["layers.0.mlp", "layers.1.mlp"]


WRITERS = {
    "gemma": lambda folder, d, n: write_gemma(folder / GEMMA, gemma_arrays(d=d, n=n)),
    "circuits": lambda folder, d, n: write_circuits(folder / "a.pt", circuits_tensors(d=d, n=n)),
    "openai": lambda folder, d, n: save(folder / OPENAI / "1.pt", openai_state(d=d, n=n)),
    "turing": lambda folder, d, n: save(folder / "sae_layer_1.pth", turing_state(d=d, n=n)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_coders_of_another_model_are_refused(
    model: SubjectModel, tmp_path: Path, kind: str
) -> None:
    WRITERS[kind](tmp_path, 31, 256)
    with pytest.raises(CoderError, match=r"d_in is 31, but .* has width 32 at blocks\.1\."):
        load_coders(tmp_path, model=model)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_file_has_the_same_fingerprint(
    model: SubjectModel, tmp_path: Path, kind: str
) -> None:
    WRITERS[kind](tmp_path, 32, 256)
    first = loaded(tmp_path, model).fingerprint
    assert loaded(tmp_path, model).fingerprint == first
    shutil.rmtree(tmp_path)
    WRITERS[kind](tmp_path, 32, 255)
    assert loaded(tmp_path, model).fingerprint != first
