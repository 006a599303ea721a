"""The training programs at a tiny size, and the files that are shipped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from typer.testing import CliRunner

from labeler.builtin import HOOKPOINTS, evaluate, model_path, transcoders_path
from labeler.builtin.corpus import StdlibDocument, is_heldout, stdlib_documents
from labeler.builtin.scaled import ScaledTranscoder
from labeler.builtin.tokenizer import load_tokenizer
from labeler.builtin.train_model import ModelTraining, train_model
from labeler.builtin.train_transcoders import TranscoderTraining, train_transcoders
from labeler.builtin.transcoder import SkipTranscoder, load_transcoder, save_transcoder
from labeler.builtin.windows import document_windows, encode_documents, train_batches
from labeler.errors import CoderError, CorpusError, RunError

TINY_MODEL = ModelTraining(
    steps=6, batch_size=4, ctx_len=32, vocab_size=300, d_model=16, n_heads=2, d_mlp=24, warmup=2
)
TINY_CODERS = TranscoderTraining(
    steps=6, kl_steps=3, batch_size=5, ctx_len=16, num_latents=40, k=4, warmup=2, dead_after=100
)


@pytest.fixture(scope="module")
def documents() -> list[StdlibDocument]:
    """Sixty small files, some of them held out."""
    return [
        StdlibDocument(f"m{i}.py", f"def f{i}(a, b):\n    return a + {i} * b\n" * 5, (f"m{i}", ""))
        for i in range(60)
    ]


@pytest.fixture(scope="module")
def tiny_model(documents: list[StdlibDocument], tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without_muon()
    out = tmp_path_factory.mktemp("model")
    train_model(documents, TINY_MODEL, out)
    return out


@pytest.fixture(scope="module")
def tiny_ids(documents: list[StdlibDocument], tiny_model: Path) -> list[np.ndarray]:
    return encode_documents(load_tokenizer(tiny_model), documents)


def skip_without_muon() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("training needs torch 2.9 or newer")


def load_model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder).float().eval()


# --- windows


def test_document_windows_never_mix_documents() -> None:
    windows = document_windows([np.arange(5), np.arange(10, 13), np.array([7])], 2)
    assert windows.tolist() == [[0, 1], [2, 3], [10, 11]]


def test_train_batches_resume_where_they_stopped() -> None:
    ids = [np.arange(i, i + 20, dtype=np.int32) for i in range(0, 200, 20)]
    batches = train_batches(ids, 8, 4, seed=0)
    straight = [next(batches) for _ in range(15)]  # over two epochs
    resumed = train_batches(ids, 8, 4, seed=0, start_step=9)
    assert np.array_equal(straight[9:], [next(resumed) for _ in range(6)])


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(CorpusError, match="too few"):
        next(train_batches([np.arange(10)], 8, 4, seed=0))


# --- transcoders


def test_transcoder_by_hand() -> None:
    transcoder = SkipTranscoder(2, 3, k=1)
    with torch.no_grad():
        transcoder.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        transcoder.encoder.bias.copy_(torch.tensor([0.0, 0.5, 0.0]))
        transcoder.W_dec.copy_(torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]))
        transcoder.b_dec.copy_(torch.tensor([0.25, 0.0]))
        transcoder.W_skip.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    # pre-activations 3, 2.5, 0: the first latent wins; the skip path moves x[1] to y[0]
    assert transcoder(torch.tensor([[3.0, 2.0]])).tolist() == [[3.0 + 0.25 + 2.0, 6.0]]
    # nothing is positive: bias and skip path alone
    assert transcoder(torch.tensor([[0.0, -1.0]])).tolist() == [[0.25 - 1.0, 0.0]]


def test_folding_keeps_the_function_and_the_start_is_better_than_a_line() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=generator) * torch.tensor([1, 2, 0.1, 5, 1, 1]) + 3
    y = 100 * torch.relu(x @ torch.randn(6, 6, generator=generator)) + x
    layer = ScaledTranscoder(6, 64, 8)
    layer.start_from(x, y, generator)
    plain = layer.fold()
    assert torch.allclose(plain(x), layer(x), rtol=1e-4, atol=1e-2)
    fvu = (y - plain(x)).square().sum() / (y - y.mean(0)).square().sum()
    line = (y - plain.skip(x)).square().sum() / (y - y.mean(0)).square().sum()
    assert fvu < line < 1
    assert layer.loss(x, y, 10**9, 0.0)[1] == pytest.approx(fvu.item(), rel=1e-3)


def test_dead_latents_get_a_gradient_from_the_auxiliary_loss() -> None:
    layer = ScaledTranscoder(4, 16, 2)
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    layer.start_from(x, x.square(), torch.Generator().manual_seed(0))
    layer.inner.encoder.bias.data.fill_(20.0)  # every other latent is always positive,
    layer.inner.encoder.bias.data[3] = 0.0  # this one now and then, and never on top
    layer.loss(x, x.square(), 500, 0.0)
    assert layer.silent_for[3] == 500
    layer.loss(x, x.square(), 500, 1.0)[0].backward()
    assert layer.inner.encoder.weight.grad[3].abs().max() > 0


def test_a_missing_transcoder_says_where(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match=r"cfg\.json is missing"):
        load_transcoder(tmp_path)


@pytest.mark.slow
def test_sparsify_loads_the_files_and_gives_the_same_outputs(tmp_path: Path) -> None:
    sparsify = pytest.importorskip("sparsify")
    torch.manual_seed(0)
    transcoder = SkipTranscoder(16, 64, 4)
    for parameter in transcoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_transcoder(transcoder, tmp_path)
    check_against_sparsify(sparsify, tmp_path)


def check_against_sparsify(sparsify: object, folder: Path) -> None:
    theirs = sparsify.SparseCoder.load_from_disk(folder).float()
    ours = load_transcoder(folder)
    x = torch.randn(200, ours.d_in, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(theirs(x).sae_out, ours(x), rtol=1e-4, atol=1e-4)
        their_acts, their_indices, _ = theirs.encode(x)
        our_acts, our_indices, _ = ours.encode(x)
    order, our_order = their_acts.argsort(descending=True), our_acts.argsort(descending=True)
    assert torch.allclose(their_acts.gather(1, order), our_acts.gather(1, our_order), atol=1e-5)
    assert torch.equal(their_indices.gather(1, order), our_indices.gather(1, our_order))


# --- the training programs, tiny


@pytest.mark.slow
def test_training_a_model_resumes_to_the_same_weights(
    documents: list[StdlibDocument], tiny_model: Path, tmp_path: Path
) -> None:
    train_model(documents, TINY_MODEL, tmp_path, stop_after=3)
    train_model(documents, TINY_MODEL, tmp_path, resume=True)
    straight, resumed = (load_file(d / "model.safetensors") for d in (tiny_model, tmp_path))
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.allclose(tensor, resumed[name], atol=1e-3), name


@pytest.mark.slow
def test_heldout_documents_do_not_reach_training(
    documents: list[StdlibDocument], tiny_model: Path, tmp_path: Path
) -> None:
    held_in = [document for document in documents if not is_heldout(document.id)]
    assert len(held_in) < len(documents)
    train_model(held_in, TINY_MODEL, tmp_path)
    straight, without = (load_file(d / "model.safetensors") for d in (tiny_model, tmp_path))
    assert all(torch.allclose(straight[name], without[name], atol=1e-3) for name in straight)


@pytest.mark.slow
def test_resuming_with_other_settings_is_an_error(
    documents: list[StdlibDocument], tiny_model: Path
) -> None:
    with pytest.raises(RunError, match="'steps'"):
        train_model(documents, replace(TINY_MODEL, steps=7), tiny_model, resume=True)


@pytest.mark.slow
def test_training_transcoders_resumes_to_the_same_weights(
    tiny_model: Path, tiny_ids: list[np.ndarray], tmp_path: Path
) -> None:
    model = load_model(tiny_model)
    straight, resumed = tmp_path / "a", tmp_path / "b"
    train_transcoders(model, tiny_ids, TINY_CODERS, straight)
    train_transcoders(model, tiny_ids, TINY_CODERS, resumed, stop_after=2)
    train_transcoders(model, tiny_ids, TINY_CODERS, resumed, resume=True)
    for hookpoint in HOOKPOINTS:
        one, other = (load_file(d / hookpoint / "sae.safetensors") for d in (straight, resumed))
        assert one.keys() == {"encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip"}
        for name, tensor in one.items():
            assert torch.allclose(tensor.float(), other[name].float(), atol=1e-2), name


@pytest.mark.slow
def test_evaluating_gives_every_figure(
    tiny_model: Path, tiny_ids: list[np.ndarray], tmp_path: Path
) -> None:
    train_transcoders(load_model(tiny_model), tiny_ids, TINY_CODERS, tmp_path)
    windows = document_windows(tiny_ids, 16)
    figures = evaluate.evaluate(tiny_model, tmp_path, evaluate.Split(windows, windows))
    assert figures["heldout_tokens"] == windows.size
    for layer in figures["layers"].values():
        assert layer.keys() >= {"fvu", "dead", "coder", "zero", "mean", "skip"}
        assert layer["firings_per_position"] <= TINY_CODERS.k
    assert evaluate.markdown_table(figures).count("\n") == 5


@pytest.mark.slow
def test_the_commands_run(
    documents: list[StdlibDocument], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_muon()
    from labeler.builtin import train_model as model_program
    from labeler.builtin import train_transcoders as coder_program

    large = [replace(one, text=one.text * 20) for one in documents]
    for program in (model_program, coder_program, evaluate):
        monkeypatch.setattr(program, "stdlib_documents", lambda: large)
    model, coders = str(tmp_path / "model"), str(tmp_path / "coders")
    figures = tmp_path / "figures.json"
    steps = ["--steps", "2", "--batch-size", "5"]
    coder_options = ["--model", model, "--out", coders, "--kl-steps", "1", "--num-latents", "64"]
    evaluate_options = ["--model", model, "--transcoders", coders, "--out", str(figures)]
    for app, options in (
        (model_program.app, ["--out", model, *steps]),
        (coder_program.app, [*coder_options, *steps]),
        (evaluate.app, [*evaluate_options, "--heldout-windows", "8", "--held-in-windows", "8"]),
    ):
        result = CliRunner().invoke(app, options)
        assert result.exit_code == 0, result.output
    assert json.loads(figures.read_text())["base"] > 0


# --- what is shipped


def test_shipped_files_are_small_and_half_precision() -> None:
    files = [f for d in (model_path(), transcoders_path()) for f in d.rglob("*") if f.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25e6
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert len(weights) == 1 + len(HOOKPOINTS)
    for file in weights:
        for name, tensor in load_file(file).items():
            assert tensor.dtype == torch.float16, (file, name)
            assert tensor.isfinite().all(), (file, name)


def test_shipped_folder_holds_no_checkpoint() -> None:
    assert {file.name for file in model_path().iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in transcoders_path().iterdir()} == set(HOOKPOINTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    return x  . y , z ! ?\n",
        " leading and trailing \n\n\t\t",
        "na\u00efve \U0001f40d \u4e2d\u6587 \x00\x7f\ufeff",
        "",
        "# don 't 's isn't\r\n",
    ],
)
def test_shipped_tokenizer_gives_text_back(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids
    assert ids == load_tokenizer(model_path()).encode(text).ids


@pytest.mark.slow
def test_shipped_tokenizer_knows_its_special_token() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.convert_ids_to_tokens(0) == "<|endoftext|>"
    assert len(tokenizer) == 4096


@pytest.mark.slow
def test_shipped_model_is_half_precision_for_transformers() -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(), torch_dtype="auto")
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.float16
    assert model.config.num_hidden_layers == len(HOOKPOINTS)


@pytest.mark.slow
@pytest.mark.parametrize("hookpoint", HOOKPOINTS)
def test_sparsify_agrees_on_the_shipped_transcoders(hookpoint: str) -> None:
    check_against_sparsify(pytest.importorskip("sparsify"), transcoders_path() / hookpoint)


@pytest.mark.slow
def test_shipped_transcoders_stand_in_for_their_mlps_on_heldout_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # tokenizing all of the library would take most of the time
    some = [one for i, one in enumerate(stdlib_documents()) if is_heldout(one.id) or i % 40 == 0]
    monkeypatch.setattr(evaluate, "stdlib_documents", lambda: some)
    split = evaluate.stdlib_split(model_path(), n_held_in=24, n_heldout=24)
    # wider than the README's figures: a small sample, and another Python has other files
    figures = evaluate.evaluate(model_path(), transcoders_path(), split)
    assert figures["base"] < 4
    for layer in figures["layers"].values():
        assert layer["fvu"] < 0.2
        assert layer["coder"] < figures["base"] + 0.06
        assert layer["coder"] < layer["mean"]
