"""Sparse coders against eai-sparsify number by number, by hand, and with everything broken."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from labeler.coders import SparsifyCoder, SparsifyConfig, load_coders
from labeler.errors import CoderError
from labeler.hookpoints import parse_hookpoint
from labeler.model import SubjectModel
from tests.conftest import D_MODEL, write_coder

# --- numbers


def by_hand(**changes: Any) -> SparsifyCoder:
    """Two inputs, three latents: encoder rows (1,0), (0,1), (1,1); decoder rows 1, 10, 100."""
    config = {"d_in": 2, "num_latents": 3, "k": 2, "transcode": True} | changes
    weights = {
        "encoder.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "encoder.bias": torch.tensor([0.0, 0.0, -1.0]),
        "W_dec": torch.tensor([[1.0, 0.0], [10.0, 1.0], [100.0, 0.0]]),
        "b_dec": torch.tensor([0.5, 0.25]),
        "W_skip": torch.tensor([[0.0, 2.0], [1.0, 0.0]]),
    }
    if not config.get("skip_connection"):
        del weights["W_skip"]
    return SparsifyCoder(
        SparsifyConfig(**config), parse_hookpoint("layers.0.mlp"), weights, fingerprint="x"
    )


def test_encode_by_hand() -> None:
    coder = by_hand()
    # pre-activations: (3, 2, 4) -> the two largest; (-1, 2, 0) -> one; (-1, -1, -3) -> none
    x = torch.tensor([[3.0, 2.0], [-1.0, 2.0], [-1.0, -1.0]])
    assert coder.encode(x).tolist() == [[3, 0, 4], [0, 2, 0], [0, 0, 0]]
    row, latent, act = coder.firings(x)
    assert list(zip(row.tolist(), latent.tolist(), act.tolist(), strict=True)) == [
        (0, 0, 3.0),
        (0, 2, 4.0),
        (1, 1, 2.0),
    ]


def test_an_autoencoder_subtracts_its_bias_first() -> None:
    # x - b_dec = (2.5, 1.75): pre-activations (2.5, 1.75, 3.25)
    assert by_hand(transcode=False).encode(torch.tensor([[3.0, 2.0]])).tolist() == [[2.5, 0, 3.25]]


def test_decode_and_skip_by_hand() -> None:
    coder = by_hand(skip_connection=True)
    assert coder.decode(torch.tensor([[3.0, 0.0, 4.0]])).tolist() == [[403.5, 0.25]]
    # x @ W_skip.T
    assert coder.skip(torch.tensor([[3.0, 2.0]])).tolist() == [[4.0, 3.0]]
    nothing = by_hand().skip(torch.tensor([[3.0, 2.0]]))
    assert (torch.ones(1, 2) + nothing).tolist() == [[1.0, 1.0]]


def test_groupmax_by_hand() -> None:
    coder = by_hand(activation="groupmax", k=3)
    assert coder.encode(torch.tensor([[3.0, 2.0]])).tolist() == [[3, 2, 4]]
    coder = by_hand(activation="groupmax", k=1)
    assert coder.encode(torch.tensor([[3.0, 2.0]])).tolist() == [[0, 0, 4]]


def test_firings_are_the_positive_entries_of_encode(
    coders: dict[str, SparsifyCoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(101, D_MODEL, generator=torch.Generator().manual_seed(1))
    coder = coders["layers.1.mlp"]
    dense = coder.encode(x)
    for most in (1 << 24, 10 * coder.num_latents, 1):
        monkeypatch.setattr("labeler.coders.activations.MAX_AT_ONCE", most)
        row, latent, act = coder.firings(x)
        expected = dense.nonzero(as_tuple=True)
        assert (row == expected[0]).all()
        assert (latent == expected[1]).all()
        torch.testing.assert_close(act, dense[expected], rtol=1e-5, atol=1e-6)
    assert [len(part) for part in coder.firings(x[:0])] == [0, 0, 0]


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("transcode", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("num_latents", [0, 48])
def test_the_same_numbers_as_sparsify(
    model: SubjectModel,
    tmp_path: Path,
    activation: str,
    transcode: bool,
    skip: bool,
    num_latents: int,
) -> None:
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed")
    folder = tmp_path / "layers.1.mlp"
    write_coder(
        folder,
        seed=5,
        activation=activation,
        transcode=transcode,
        skip_connection=skip,
        num_latents=num_latents,
        normalize_decoder=True,
        k=8,
    )
    oracle = sparsify.SparseCoder.load_from_disk(folder)
    (coder,) = load_coders(folder, model=model).values()
    assert coder.num_latents == oracle.num_latents
    x = torch.randn(64, D_MODEL, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = oracle(x)
    dense = torch.zeros(64, oracle.num_latents).scatter_(1, out.latent_indices, out.latent_acts)
    torch.testing.assert_close(coder.encode(x), dense, rtol=0, atol=0)
    torch.testing.assert_close(coder.decode(dense) + coder.skip(x), out.sae_out)


@pytest.mark.shared
@pytest.mark.slow
def test_real_transcoders_give_the_numbers_of_sparsify(shared_data: Path) -> None:
    sparsify = pytest.importorskip("sparsify", reason="eai-sparsify is not installed")
    from labeler.model import load_model

    root = shared_data / "openstax-subject"
    coders = load_coders(root / "transcoders", model=load_model(root / "model"))
    assert list(coders) == [f"layers.{layer}.mlp" for layer in range(4)]
    oracles = sparsify.SparseCoder.load_many(str(root / "transcoders"), local=True)
    x = torch.randn(32, 256, generator=torch.Generator().manual_seed(2))
    for name, coder in coders.items():
        with torch.no_grad():
            out = oracles[name].float()(x)
        acts = coder.encode(x)
        assert torch.equal(acts.gather(1, out.latent_indices), out.latent_acts)
        torch.testing.assert_close(coder.decode(acts) + coder.skip(x), out.sae_out)


# --- finding and loading


def test_all_coders_come_in_layer_order(
    coder_folder: Path, model: SubjectModel, tmp_path: Path
) -> None:
    assert list(load_coders(coder_folder, model=model)) == ["layers.0.mlp", "layers.1.mlp"]
    for name in ("h.1.mlp", "layers.0", "blocks.0.hook_attn_out"):
        write_coder(tmp_path / name, seed=0, transcode=False)
    found = load_coders(tmp_path, model=model)
    assert list(found) == ["layers.0", "layers.0.self_attn", "layers.1.mlp"]
    assert found["layers.1.mlp"].hookpoint.hook_in == "blocks.1.mlp.hook_out"


def test_hookpoints_choose_in_any_spelling(coder_folder: Path, model: SubjectModel) -> None:
    found = load_coders(coder_folder, model=model, hookpoints=["blocks.1.hook_mlp_out"])
    assert list(found) == ["layers.1.mlp"]


def test_one_coder_folder_is_enough(
    coder_folder: Path, model: SubjectModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(load_coders(coder_folder / "layers.1.mlp", model=model)) == ["layers.1.mlp"]
    monkeypatch.chdir(coder_folder / "layers.0.mlp")
    assert list(load_coders(".", model=model)) == ["layers.0.mlp"]


def test_fingerprint_follows_weights_and_config(coder_folder: Path, model: SubjectModel) -> None:
    prints = {coder.fingerprint for coder in load_coders(coder_folder, model=model).values()}
    assert len(prints) == 2


def test_half_precision_is_read_as_float32(model: SubjectModel, tmp_path: Path) -> None:
    folder = tmp_path / "layers.0.mlp"
    tensors = write_coder(folder, seed=0)
    save_file({k: v.half() for k, v in tensors.items()}, folder / "sae.safetensors")
    (coder,) = load_coders(folder, model=model).values()
    assert coder.W_dec.dtype == torch.float32
    torch.testing.assert_close(coder.W_dec, tensors["W_dec"].half().float(), rtol=0, atol=0)


@pytest.fixture
def folder(coder_folder: Path, tmp_path: Path) -> Path:
    """A copy of one coder, to break."""
    copy = tmp_path / "layers.1.mlp"
    shutil.copytree(coder_folder / "layers.1.mlp", copy)
    return copy


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(folder: Path, **changes: Tensor | None) -> None:
    weights: dict[str, Tensor | None] = dict(load_file(folder / "sae.safetensors"))
    weights |= {name.replace("_dot_", "."): value for name, value in changes.items()}
    kept = {name: value.contiguous() for name, value in weights.items() if value is not None}
    save_file(kept, folder / "sae.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_in": 64}, "d_in is 64, but .* has width 32 at blocks.1.mlp.hook_in"),
        ({"d_in": None}, "no field d_in"),
        ({"d_in": "32"}, "d_in is '32', expected int"),
        ({"activation": "jumprelu"}, "activation 'jumprelu' is unknown; known: topk, groupmax"),
        ({"k": 0}, "k is 0, expected 1 to num_latents = 48"),
        ({"k": 49}, "k is 49"),
        ({"activation": "groupmax", "k": 7}, "num_latents 48 divisible by k 7"),
        ({"num_latents": 47}, r"encoder\.weight has shape \(48, 32\), .* calls for \(47, 32\)"),
    ],
)
def test_configs_that_do_not_fit_are_named(
    model: SubjectModel, folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(CoderError, match=message):
        load_coders(folder, model=model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_dec": None, "b_dec": None}, "lacks the tensors W_dec, b_dec; it has W_skip, enc"),
        ({"W_skip": None}, "lacks the tensors W_skip"),
        ({"b_dec": torch.zeros(31)}, r"b_dec has shape \(31,\), cfg\.json calls for \(32,\)"),
        ({"encoder_dot_bias": torch.full((48,), float("nan"))}, r"encoder\.bias .* not finite"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    model: SubjectModel, folder: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    change_weights(folder, **changes)
    with pytest.raises(CoderError, match=message):
        load_coders(folder, model=model)


@pytest.mark.parametrize("keep", [0, 6, 200, -4])
def test_truncated_weights_are_named(model: SubjectModel, folder: Path, keep: int) -> None:
    path = folder / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CoderError, match=r"sae\.safetensors is damaged: it is \d+ bytes"):
        load_coders(folder, model=model)


def test_weights_that_are_no_safetensors_are_named(model: SubjectModel, folder: Path) -> None:
    path = folder / "sae.safetensors"
    path.write_bytes((20).to_bytes(8, "little") + b"x" * 100)
    with pytest.raises(CoderError, match="not a safetensors header"):
        load_coders(folder, model=model)
    path.unlink()
    with pytest.raises(CoderError, match=r"sae\.safetensors is missing"):
        load_coders(folder, model=model)


def test_broken_config_is_named(model: SubjectModel, folder: Path) -> None:
    (folder / "cfg.json").write_text("{")
    with pytest.raises(CoderError, match=r"cfg\.json cannot be read as JSON"):
        load_coders(folder, model=model)


def test_coder_of_another_layer_count_is_refused(model: SubjectModel, folder: Path) -> None:
    folder = folder.rename(folder.parent / "layers.2.mlp")
    with pytest.raises(CoderError, match=r"layer 2, but .* has layers 0 to 1"):
        load_coders(folder.parent, model=model)


def test_unknown_hookpoint_lists_those_found(coder_folder: Path, model: SubjectModel) -> None:
    with pytest.raises(CoderError, match=r"layers\.7\.mlp .*found: layers\.0\.mlp, layers\.1\.mlp"):
        load_coders(coder_folder, model=model, hookpoints=["layers.7.mlp"])
    with pytest.raises(CoderError, match="unknown hookpoint 'bogus'"):
        load_coders(coder_folder, model=model, hookpoints=["bogus"])


def test_folder_whose_name_is_no_hookpoint_is_named(model: SubjectModel, folder: Path) -> None:
    folder = folder.rename(folder.parent / "my-coder")
    with pytest.raises(CoderError, match="my-coder holds a coder, but its name"):
        load_coders(folder, model=model)


def test_two_folders_for_one_hookpoint_are_refused(model: SubjectModel, folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "h.1.mlp")
    with pytest.raises(CoderError, match=r"are both for layers\.1\.mlp"):
        load_coders(folder.parent, model=model)


def test_missing_and_empty_folders_are_refused(model: SubjectModel, tmp_path: Path) -> None:
    with pytest.raises(CoderError, match="does not exist"):
        load_coders(tmp_path / "nothing", model=model)
    with pytest.raises(CoderError, match=r"no sparse coder in .*Known layouts:"):
        load_coders(tmp_path, model=model)


def test_what_lies_below_is_found_and_loops_are_not_followed(
    coder_folder: Path, model: SubjectModel, tmp_path: Path
) -> None:
    shutil.copytree(coder_folder, tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path)
    # A trainer's own config, beside the coders' folders.
    (tmp_path / "a" / "b" / "cfg.json").write_text("{}")
    assert list(load_coders(tmp_path, model=model)) == ["layers.0.mlp", "layers.1.mlp"]
    linked = tmp_path / "links" / "layers.0.mlp"
    linked.parent.mkdir()
    linked.symlink_to(coder_folder / "layers.1.mlp")
    assert list(load_coders(linked.parent, model=model)) == ["layers.0.mlp"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(CoderError, match="loop cannot be opened: Too many levels"):
        load_coders(loop, model=model)


def test_a_folder_of_everything_is_refused(
    model: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr("labeler.coders.load._MAX_ENTRIES", 20)
    with pytest.raises(CoderError, match="more than 20 files; give the folder of the coders"):
        load_coders(tmp_path, model=model)


# --- the hub

REPOSITORY = [
    *("README.md", "cfg.json", "layers.0.mlp/cfg.json", "layers.1.mlp/cfg.json"),
    *("layers.0.mlp/sae.safetensors", "layers.1.mlp/sae.safetensors"),
]
GEMMA_SCOPE = [
    f"layer_{layer}/width_16k/average_l0_{l0}/params.npz" for layer in range(2) for l0 in (9, 8)
]


@pytest.fixture
def hub(coder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of a hub whose repositories all hold the tiny coders."""
    calls: list[Any] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        return str(coder_folder)

    def list_repo_files(name: str) -> list[str]:
        return GEMMA_SCOPE if "gemma" in name else REPOSITORY

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    return calls


def test_hub_fetches_only_what_is_asked_for(hub: list[Any], model: SubjectModel) -> None:
    assert len(load_coders("owner/name", model=model)) == 2
    assert len(load_coders("owner/name", model=model, hookpoints=["layers.1.mlp"])) == 1
    assert len(load_coders("owner/name/layers.1.mlp", model=model)) == 1
    both = ["layers.0.mlp/*", "layers.1.mlp/*"]
    assert hub == [
        ("owner/name", {"allow_patterns": both}),
        ("owner/name", {"allow_patterns": both[1:]}),
        ("owner/name", {"allow_patterns": both[1:]}),
    ]


def test_hub_of_many_coders_fetches_none_of_them(hub: list[Any], model: SubjectModel) -> None:
    name = "google/gemma-scope-2b-pt-res"
    with pytest.raises(
        CoderError, match=rf"several coders for layers\.0.* such as {name}/layer_0/"
    ):
        load_coders(name, model=model)
    with pytest.raises(CoderError, match=r"several coders for layers\.1"):
        load_coders(name, model=model, hookpoints=["layers.1"])
    with pytest.raises(CoderError, match=r"is named like a sparse coder's at layers\.7"):
        load_coders(name, model=model, hookpoints=["layers.7"])
    assert not hub
    with pytest.raises(CoderError, match="no sparse coder in"):
        load_coders(f"{name}/layer_0/width_16k/average_l0_9", model=model)
    assert hub == [(name, {"allow_patterns": [GEMMA_SCOPE[0]]})]


def test_without_a_connection_what_was_fetched_before_is_used(
    hub: list[Any], model: SubjectModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str) -> list[str]:
        raise huggingface_hub.errors.OfflineModeIsEnabled

    monkeypatch.setattr(huggingface_hub, "list_repo_files", offline)
    assert len(load_coders("owner/name", model=model)) == 2
    assert hub == [("owner/name", {"local_files_only": True})]


def test_hub_failure_is_a_coder_error(model: SubjectModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> list[str]:
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(CoderError, match="owner/name from the hub: OSError: no connection"):
        load_coders("owner/name", model=model)


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(
    hub: list[Any], model: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for text in ("runs/a/b", "./a/b/c", str(tmp_path / "x"), "a/b/c/"):
        with pytest.raises(CoderError, match="does not exist"):
            load_coders(text, model=model)
    assert not hub
