"""OpenAI's and Turing-LLM's coders: numbers by the published formulas, places, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labeler.coders import load_coders
from labeler.errors import CoderError
from labeler.model import SubjectModel
from tests.coder_files import (
    OPENAI,
    check,
    doubles,
    inputs,
    loaded,
    openai_state,
    save,
    top,
    turing_state,
)

# --- OpenAI


@pytest.mark.parametrize("k", [None, 1, 6, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_openai_by_its_formula(
    model: SubjectModel, tmp_path: Path, k: int | None, dtype: torch.dtype
) -> None:
    state = openai_state(k=k)
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            state[name] = value.to(dtype)
    coder, x = loaded(save(tmp_path / OPENAI / "1.pt", state), model), inputs()
    p = {name: doubles(at) for name, at in state.items() if isinstance(at, torch.Tensor)}
    seen, mean, std = doubles(x), np.zeros((50, 1)), np.ones((50, 1))
    if k is not None:
        mean = seen.mean(axis=1, keepdims=True)
        std = seen.std(axis=1, ddof=1, keepdims=True)
        seen = (seen - mean) / (std + 1e-5)
    pre = (seen - p["pre_bias"]) @ p["encoder.weight"].T + p["latent_bias"]
    acts = np.maximum(pre, 0) if k is None else top(np.maximum(pre, 0), k)
    check(coder, acts, (acts @ p["decoder.weight"].T + p["pre_bias"]) * std + mean, x)
    assert coder.config.k == k


def test_a_coder_that_standardizes_cannot_be_decoded_alone(
    model: SubjectModel, tmp_path: Path
) -> None:
    coder = loaded(save(tmp_path / OPENAI / "1.pt", openai_state()), model)
    with pytest.raises(CoderError, match=r"coder at layers\.1 standardizes every input"):
        coder.decode(torch.zeros(1, 48))


@pytest.mark.parametrize(
    ("folder", "name", "d"),
    [
        ("resid_post_mlp_v5_32k", "layers.0", 32),
        ("resid_delta_mlp", "layers.0.mlp", 32),
        ("resid_post_attn_v5_128k", "layers.0.resid_mid", 32),
        ("resid_delta_attn_v5_32k", "layers.0.self_attn", 32),
        ("mlp_post_act_v4", "layers.0.mlp.hidden", 64),
    ],
)
def test_openai_sits_where_the_folder_says(
    model: SubjectModel, tmp_path: Path, folder: str, name: str, d: int
) -> None:
    save(tmp_path / folder / "autoencoders" / "0.pt", openai_state(d=d))
    place = loaded(tmp_path, model).hookpoint
    assert place.name == name
    assert place.hook_in == place.hook_out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "GELU"}, "activation is 'GELU', which is unknown; known: ReLU, TopK"),
        ({"activation_state_dict": {"k": 0}}, r"\.k is 0, expected a number from 1 to 48"),
        ({"activation_state_dict": {"k": 49}}, r"\.k is 49, expected"),
        ({"activation_state_dict": {}}, r"\.k is None"),
        ({"activation_state_dict": 3}, "activation_state_dict is of type int, expected a dict"),
        (
            {"activation_state_dict": {"k": 3, "postact_fn": "Identity"}},
            "postact_fn is 'Identity', expected ReLU",
        ),
    ],
)
def test_what_openai_files_may_not_say(
    model: SubjectModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = save(tmp_path / OPENAI / "1.pt", openai_state() | changes)
    with pytest.raises(CoderError, match=message):
        load_coders(path, model=model)


# --- Turing-LLM


@pytest.mark.parametrize(("layer", "k", "n"), [(0, 192, 256), (1, 144, 150)])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_turing_by_its_formula(
    model: SubjectModel, tmp_path: Path, layer: int, k: int, n: int, prefix: str
) -> None:
    state = turing_state(n=n)
    # More than k of these are above 0, or TopK would not show.
    state["encoder.bias"] += 20
    path = tmp_path / f"sae_layer_{layer}.pth"
    save(path, {prefix + name: at for name, at in state.items()})
    # What their trainer writes beside it.
    torch.save(torch.zeros(n, dtype=torch.long), path.with_stem(f"{path.stem}_num_tokens"))
    coder, x = loaded(tmp_path, model), inputs()
    assert coder.hookpoint.name == f"layers.{layer}.mlp"
    assert coder.hookpoint.hook_in == coder.hookpoint.hook_out == f"blocks.{layer}.mlp.hook_out"
    p = {name: doubles(at) for name, at in state.items()}
    pre = (doubles(x) - p["decoder_bias"]) @ p["encoder.weight"].T + p["encoder.bias"]
    acts = top(np.maximum(pre, 0), k)
    assert ((pre > 0).sum(axis=1) > k).any()
    check(coder, acts, acts @ p["decoder.weight"].T + p["decoder_bias"], x)
    assert coder.config.k == k


def test_turing_elsewhere_needs_a_layer_and_enough_latents(
    model: SubjectModel, tmp_path: Path
) -> None:
    path = save(tmp_path / "mine.pth", turing_state())
    with pytest.raises(CoderError, match="does not say where"):
        load_coders(path, model=model)
    at_0, at_1 = (loaded(path, model, f"layers.{layer}.mlp") for layer in range(2))
    assert (at_0.config.k, at_1.config.k) == (192, 144)
    assert at_0.fingerprint != at_1.fingerprint
    few = save(tmp_path / "sae_layer_1.pth", turing_state(n=100))
    with pytest.raises(CoderError, match="100 latents, fewer than the 144 that may"):
        load_coders(few, model=model)


@pytest.mark.slow
def test_firings_of_131_thousand_latents_are_sliced(model: SubjectModel, tmp_path: Path) -> None:
    state = openai_state(n=1 << 17, k=32)
    coder, x = loaded(save(tmp_path / OPENAI / "1.pt", state), model), inputs(300)
    row, latent, act = coder.firings(x)
    assert row.bincount().tolist() == [32] * 300
    assert bool((latent.view(300, 32).diff(dim=1) > 0).all())
    few = coder.encode(x[200:204])
    assert torch.equal(latent.view(300, 32)[200:204], few.nonzero()[:, 1].view(4, 32))
    torch.testing.assert_close(act.view(300, 32)[200:204], few[few > 0].view(4, 32))
