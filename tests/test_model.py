"""The subject model: what it computes against transformers itself, its hooks, and its errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from labeler.errors import ModelError
from labeler.model import SubjectModel, load_model
from labeler.tokens import Tokens
from tests.architectures import build


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation="eager").eval()


@pytest.fixture
def ids(model: SubjectModel) -> Tensor:
    return torch.randint(0, model.n_vocab, (3, 17), generator=torch.Generator().manual_seed(0))


def test_sizes_are_those_of_the_config(model: SubjectModel, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    assert model.n_layers == config["num_hidden_layers"]
    assert model.d_model == config["hidden_size"]
    assert model.n_vocab == config["vocab_size"]
    assert model.max_ctx == config["max_position_embeddings"]
    assert not model.layer_norm
    assert model.name == str(model_folder)


def test_logits_are_those_of_transformers(model: SubjectModel, reference: Any, ids: Tensor) -> None:
    logits = model.run(ids)
    assert logits is not None
    with torch.no_grad():
        torch.testing.assert_close(logits, reference(ids).logits)
    torch.testing.assert_close(model.run(ids.numpy().astype(np.int32)), logits)


def test_hooks_read_a_modules_input_and_output(
    model: SubjectModel, reference: Any, ids: Tensor
) -> None:
    wanted: dict[str, Tensor] = {}
    block = reference.model.layers[1]
    handles = [
        block.mlp.register_forward_hook(lambda _, x, y: wanted.update(mlp_in=x[0], mlp_out=y)),
        block.self_attn.register_forward_hook(lambda _, x, y: wanted.update(attn_out=y[0])),
        block.register_forward_hook(lambda _, x, y: wanted.update(out=y)),
    ]
    with torch.no_grad():
        reference(ids)
    for handle in handles:
        handle.remove()
    found: dict[str, Tensor] = {}
    names = {
        "blocks.1.mlp.hook_in": "mlp_in",
        "blocks.1.mlp.hook_out": "mlp_out",
        "blocks.1.attn.hook_out": "attn_out",
        "blocks.1.hook_out": "out",
    }
    model.run(ids, {hook: lambda x, key=key: found.update({key: x}) for hook, key in names.items()})
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key])
    assert found.keys() == wanted.keys()


def test_a_returned_tensor_replaces_the_value_for_that_run_only(
    model: SubjectModel, reference: Any, ids: Tensor
) -> None:
    before = model.run(ids)
    edited = model.run(ids, {"blocks.0.mlp.hook_out": torch.zeros_like})
    handle = reference.model.layers[0].mlp.register_forward_hook(lambda m, x, y: y * 0)
    with torch.no_grad():
        torch.testing.assert_close(edited, reference(ids).logits)
    handle.remove()
    assert not torch.allclose(before, edited)
    torch.testing.assert_close(model.run(ids), before, rtol=0, atol=0)


def test_stop_after_skips_the_rest(model: SubjectModel, ids: Tensor) -> None:
    ran: list[str] = []

    def note(name: str) -> Any:
        return lambda x: ran.append(name)

    first, last = "blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"
    later = model.bridge.original_model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    assert model.run(ids, {first: note("first")}, stop_after=first) is None
    assert ran == ["first"]
    # whichever order the hooks are given in, and even if stop_after comes early
    assert model.run(ids, {last: note("last"), first: note("first")}, stop_after=first) is None
    assert ran == ["first", "first", "last"]
    model.run(ids)
    later.remove()
    assert ran[-1] == "head"


def test_width_is_that_of_the_last_axis(model: SubjectModel, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    widths = {
        "blocks.0.hook_in": config["hidden_size"],
        "blocks.1.mlp.out.hook_in": config["intermediate_size"],
        # Split into heads in the bridge, side by side for hooks.
        "blocks.1.attn.o.hook_in": config["num_attention_heads"] * config["head_dim"],
    }
    assert len(set(widths.values())) > 1
    for hook, width in widths.items():
        assert model.width(hook) == model.width(hook) == width
    with pytest.raises(ModelError, match=r"no hook 'blocks\.2\.hook_in'"):
        model.width("blocks.2.hook_in")


def test_hooks_see_heads_side_by_side(model: SubjectModel, reference: Any, ids: Tensor) -> None:
    wanted: list[Tensor] = []
    projection = reference.model.layers[1].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _, x: wanted.append(x[0]))
    with torch.no_grad():
        before = reference(ids).logits
    handle.remove()
    found: list[Tensor] = []
    hook = "blocks.1.attn.o.hook_in"
    model.run(ids, {hook: lambda x: found.append(x)}, stop_after=hook)
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(model.run(ids, {hook: lambda x: x.clone()}), before)
    halved = model.run(ids, {hook: lambda x: x / 2})
    handle = projection.register_forward_pre_hook(lambda _, x: (x[0] / 2,))
    with torch.no_grad():
        torch.testing.assert_close(halved, reference(ids).logits)
    handle.remove()
    assert not torch.allclose(before, halved)


def test_an_error_in_a_hook_leaves_no_hook_behind(model: SubjectModel, ids: Tensor) -> None:
    before = model.run(ids)

    def fail(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.run(ids, {"blocks.0.mlp.hook_out": fail})
    torch.testing.assert_close(model.run(ids), before, rtol=0, atol=0)


def test_right_padding_does_not_touch_real_positions(model: SubjectModel, ids: Tensor) -> None:
    padded, other = ids.clone(), ids.clone()
    padded[:, 9:] = 0
    other[:, 9:] = 7
    first, second = model.run(padded), model.run(other)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first[:, :9], second[:, :9], rtol=0, atol=0)
    assert not torch.allclose(first[:, 9:], second[:, 9:])


def test_cross_entropy_by_hand(model: SubjectModel, ids: Tensor) -> None:
    length = torch.tensor([17, 9, 1])
    loss = model.cross_entropy(ids, length)
    logits = model.run(ids)
    assert logits is not None
    assert loss.shape == (3, 16)
    for row in range(3):
        for i in range(16):
            if i + 1 < length[row]:
                p = torch.softmax(logits[row, i].double(), -1)[ids[row, i + 1]]
                assert loss[row, i].item() == pytest.approx(-p.log().item(), rel=1e-5)
            else:
                assert loss[row, i].isnan()


def test_cross_entropy_takes_tokens_and_hooks(model: SubjectModel, tokens: Tokens) -> None:
    base = model.cross_entropy(tokens.ids[:4], tokens.length[:4])
    zero = model.cross_entropy(
        tokens.ids[:4], tokens.length[:4], {"blocks.0.mlp.hook_out": torch.zeros_like}
    )
    assert (base.isnan().numpy() == ~tokens.valid[:4, 1:]).all()
    assert (base.isnan() == zero.isnan()).all()
    assert base.nanmean() != zero.nanmean()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"\[batch, ctx_len\]"),
        (torch.zeros(1, 65, dtype=torch.long), "--ctx-len 64 or less"),
        (torch.full((1, 4), 10**6), "outside the vocabulary"),
        (torch.full((1, 4), -1), "outside the vocabulary"),
    ],
)
def test_ids_that_do_not_fit_are_refused(model: SubjectModel, bad: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model.run(bad)


def test_unknown_hooks_are_refused(model: SubjectModel, ids: Tensor) -> None:
    for options in (
        {"hooks": {"blocks.2.mlp.hook_in": torch.relu}},
        {"stop_after": "blocks.2.mlp.hook_in"},
    ):
        with pytest.raises(ModelError, match=r"no hook 'blocks\.2\.mlp\.hook_in'; it has 2 blocks"):
            model.run(ids, **options)


# --- loading


def test_loading_says_nothing(model_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(model_folder)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_fingerprint_follows_the_weights(
    model: SubjectModel, model_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    assert load_model(copy).fingerprint == model.fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_model(copy).fingerprint != model.fingerprint


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any look at the hub a failure of another type."""
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "a/b/c"])
def test_missing_folder_is_said_before_any_look_at_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not exist; give a Hugging Face folder"):
        load_model(name)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_incomplete_folder_names_what_is_missing(
    model_folder: Path, tmp_path: Path, file: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    (copy / file).unlink()
    with pytest.raises(ModelError, match=f"lacks {file}"):
        load_model(copy)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("keep", [4, 100, -1])
def test_truncated_weights_are_named(model_folder: Path, tmp_path: Path, keep: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: it is \d+ bytes"):
        load_model(copy)


def test_damaged_config_is_a_model_error(model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    (copy / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ModelError, match=r"cannot load the model .*copy: .*; it must be a causal"):
        load_model(copy)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["openstax-subject/model", "tinystories-656k"])
def test_real_models_load_without_a_special_case(shared_data: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    model = load_model(shared_data / name)
    ids = torch.randint(3, model.n_vocab, (2, 12), generator=torch.Generator().manual_seed(0))
    other = AutoModelForCausalLM.from_pretrained(
        shared_data / name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        torch.testing.assert_close(model.run(ids), other(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "refused"), [(False, True), (True, False)])
def test_a_model_that_sees_what_comes_is_refused(
    decoder: bool, refused: bool, tmp_path: Path
) -> None:
    import transformers

    build("llama", tmp_path)  # for its tokenizer
    (tmp_path / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.3,
        is_decoder=decoder,
    )
    transformers.BertLMHeadModel(config).save_pretrained(tmp_path)
    if refused:
        with pytest.raises(ModelError, match=r"is no causal language model.*is_decoder"):
            load_model(tmp_path)
    else:
        assert load_model(tmp_path).n_layers == 2
