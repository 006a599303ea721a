"""Hostile and broken files of coders: an error that names them, and nothing is run or blown up."""

import gzip
import json
import os
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labeler.coders import load_coders
from labeler.errors import CoderError
from labeler.model import SubjectModel
from tests.coder_files import (
    GEMMA,
    OPENAI,
    Reduced,
    circuits_tensors,
    gemma_arrays,
    openai_state,
    save,
    turing_state,
    write_circuits,
    write_gemma,
)
from tests.conftest import write_coder

# --- bombs


def peak(action: Callable[[], object]) -> int:
    """Bytes that Python and numpy held at once while it ran into a CoderError."""
    tracemalloc.start()
    try:
        with pytest.raises(CoderError, match=r"decompression bomb|is compressed, which"):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header.encode("latin-1") + data


def header(shape: tuple[int, ...], descr: str = "<f4") -> str:
    return str({"descr": descr, "fortran_order": False, "shape": shape}) + "\n"


@pytest.mark.slow
def test_bombs_do_not_go_off(model: SubjectModel, tmp_path: Path) -> None:
    zeros = bytes(40 << 20)
    gz = tmp_path / "a.pkl.gz"
    gz.write_bytes(gzip.compress(zeros))
    arrays = dict(gemma_arrays(), W_enc=np.zeros((32, 1 << 18), np.float32))
    npz = write_gemma(tmp_path / GEMMA, arrays, compressed=True)
    pt = tmp_path / "a.pt"
    with zipfile.ZipFile(pt, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", zeros)
    for path in (gz, npz, pt):
        assert path.stat().st_size < 1 << 19
        assert peak(lambda path=path: load_coders(path, model=model)) < 20 << 20


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (npy(header((32, 1 << 40))), r"promises \(32, 1099511627776\) of float32 and has"),
        (npy(header((-1, 48)), bytes(48)), r"promises \(-1, 48\)"),
        (npy(header((32, 48), "|O"), bytes(99)), "holds object, expected numbers; objects are nev"),
        (npy(header((32, 48), "<U9"), bytes(99)), "holds <U9, expected numbers"),
        (npy(header((32, 48)) + " " * 70_000, version=b"\x02\x00"), ""),
        (npy("{" * 9_000), ""),
        (npy("-" * 9_000 + "1"), ""),
        (npy("__import__('os').system('false')"), ""),
        (npy(header((32, 48)), bytes(99), version=b"\x09\x00"), r"version \(9, 0\)"),
        (b"text", ""),
        (b"", ""),
    ],
)
def test_hostile_headers_of_arrays_are_named(
    model: SubjectModel, tmp_path: Path, member: bytes, message: str
) -> None:
    path = write_gemma(tmp_path / GEMMA, {k: v for k, v in gemma_arrays().items() if k != "W_enc"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("W_enc.npy", member)
    with pytest.raises(CoderError, match=rf"params\.npz is damaged or hostile: .*{message}"):
        load_coders(path, model=model)


def test_an_array_of_objects_is_not_unpickled(model: SubjectModel, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    hostile = np.array([Reduced(os.system, (f"touch {canary}",))], dtype=object)
    path = write_gemma(tmp_path / GEMMA, gemma_arrays() | {"b_dec": hostile})
    with pytest.raises(CoderError, match="objects are never unpickled"):
        load_coders(path, model=model)
    assert not canary.exists()
    with np.load(path, allow_pickle=True) as archive:
        assert archive["b_dec"].size == 1
    assert canary.exists()


# --- safetensors


def safetensors(head: Any, data: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: Any, stop: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"W_dec": {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}}


@pytest.mark.parametrize(
    "content",
    [
        (1 << 62).to_bytes(8, "little") + b"{}",
        safetensors(b"[" * 200_000),
        safetensors(entry([4], 0, 1 << 40)),
        safetensors(entry([1 << 40], 0, 16), bytes(16)),
        safetensors(entry([4], 0, 16, "X9"), bytes(16)),
        safetensors(entry([4], "a", "b"), bytes(16)),
        safetensors(entry([4], -16, 16), bytes(16)),
        safetensors(entry([4], 16, 0), b""),
        safetensors({"a": entry([4], 0, 16)["W_dec"], "b": entry([4], 8, 16)["W_dec"]}, bytes(16)),
        safetensors({"W_dec": 3}),
        safetensors([]),
        b"not a file of tensors at all, but long enough to be one",
    ],
)
def test_hostile_safetensors_are_named(model: SubjectModel, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "layers.1.mlp"
    write_coder(folder, seed=0)
    (folder / "sae.safetensors").write_bytes(content)
    with pytest.raises(CoderError, match=r"sae\.safetensors is damaged: .*; copy or download"):
        load_coders(folder, model=model)


def test_a_config_nested_without_end_is_named(model: SubjectModel, tmp_path: Path) -> None:
    write_coder(tmp_path / "layers.1.mlp", seed=0)
    (tmp_path / "layers.1.mlp" / "cfg.json").write_text("[" * 200_000)
    with pytest.raises(CoderError, match=r"cfg\.json cannot be read as JSON"):
        load_coders(tmp_path, model=model)


# --- weights that cannot be


Change = Callable[[Any], Any]
CHANGES: dict[str, tuple[Change, str]] = {
    "NaN": (lambda at: at * float("nan"), "{name} has values that are not finite"),
    "too large": (lambda at: at.astype(np.float64) * 1e200, "{name} has values that are not fin"),
    "integers": (lambda at: at.astype(np.int32), "{name} is of type torch.int32, expected float"),
    "truth": (lambda at: at > 0, "{name} is of type torch.bool, expected float"),
    "shorter": (lambda at: at[:-1], r"{name} has shape \(\d+.*\), .* calls for \("),
    "deeper": (lambda at: at[None], r"{name} has shape \(1, .*\), .* calls for \("),
    "missing": (lambda at: None, "lacks the tensors {name}; it has"),
}


def changed(arrays: Any, name: str, change: Change) -> dict[str, Any]:
    """A copy with one array changed, or without it; torch's arrays stay torch's."""
    found = dict(arrays)
    array = found.pop(name)
    made = change(np.asarray(array))
    if made is not None:
        found[name] = torch.from_numpy(made) if isinstance(array, torch.Tensor) else made
    return found


@pytest.mark.parametrize("which", CHANGES)
@pytest.mark.parametrize("kind", ["sparsify", "gemma", "circuits", "openai", "turing"])
def test_weights_that_cannot_be_are_named(
    model: SubjectModel, tmp_path: Path, kind: str, which: str
) -> None:
    change, message = CHANGES[which]
    if kind == "sparsify":
        name, folder = "encoder.weight", tmp_path / "layers.1.mlp"
        tensors = changed(write_coder(folder, seed=0), name, change)
        save_file(tensors, folder / "sae.safetensors")
    elif kind == "gemma":
        name = "b_enc"
        write_gemma(tmp_path / GEMMA, changed(gemma_arrays(), name, change))
    elif kind == "circuits":
        name = "b_dec_out"
        write_circuits(tmp_path / "a.pt", changed(circuits_tensors(), name, change))
    elif kind == "openai":
        name = "decoder.weight"
        save(tmp_path / OPENAI / "1.pt", changed(openai_state(), name, change))
    else:
        name = "encoder.bias"
        save(tmp_path / "sae_layer_1.pth", changed(turing_state(), name, change))
    with pytest.raises(CoderError, match=message.format(name=name.replace(".", r"\."))):
        load_coders(tmp_path, model=model)


def test_dtypes_may_be_mixed(model: SubjectModel, tmp_path: Path) -> None:
    types = (torch.float16, torch.bfloat16, torch.float64, torch.float32, torch.float16)
    tensors = circuits_tensors()
    mixed = {name: at.to(kind) for (name, at), kind in zip(tensors.items(), types, strict=True)}
    (coder,) = load_coders(write_circuits(tmp_path / "a.pt", mixed), model=model).values()
    assert coder.W_dec.dtype == torch.float32
    assert torch.equal(coder.W_dec, mixed["W_dec"].float())


# --- files that are no files of coders


def write_all(folder: Path) -> dict[str, Path]:
    """A good file of each kind."""
    write_coder(folder / "layers.1.mlp", seed=0)
    return {
        "sae.safetensors": folder / "layers.1.mlp" / "sae.safetensors",
        "cfg.json": folder / "layers.1.mlp" / "cfg.json",
        "npz": write_gemma(folder / GEMMA, gemma_arrays()),
        "packed npz": write_gemma(folder / "c" / GEMMA, gemma_arrays(), compressed=True),
        "pt": write_circuits(folder / "a.pt", circuits_tensors()),
        "old pt": write_circuits(folder / "old.pt", circuits_tensors(), zipped=False),
        "pkl": write_circuits(folder / "a.pkl", circuits_tensors()),
        "pkl.gz": write_circuits(folder / "a.pkl.gz", circuits_tensors()),
        "openai": save(folder / OPENAI / "1.pt", openai_state()),
        "pth": save(folder / "sae_layer_1.pth", turing_state()),
    }


KINDS = [
    *("sae.safetensors", "cfg.json", "npz", "packed npz", "pt", "old pt", "pkl", "pkl.gz"),
    *("openai", "pth"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"some text\n", b"PK\x03\x04", b"\x80\x02}", b"\x1f\x8b"])
def test_other_content_under_a_coders_name_is_named(
    model: SubjectModel, tmp_path: Path, kind: str, content: bytes
) -> None:
    path = write_all(tmp_path)[kind]
    path.write_bytes(content)
    source = path if path.parent == tmp_path else path.parent
    with pytest.raises(CoderError, match=path.name.replace(".", r"\.")):
        load_coders(source, model=model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_named(
    model: SubjectModel, tmp_path: Path, kind: str, share: float
) -> None:
    path = write_all(tmp_path)[kind]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    source = path if path.parent == tmp_path else path.parent
    with pytest.raises(CoderError, match=path.name.replace(".", r"\.")):
        load_coders(source, model=model)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_give_an_error_or_a_coder(
    model: SubjectModel, tmp_path: Path, kind: str
) -> None:
    path = write_all(tmp_path)[kind]
    source = path if path.parent == tmp_path else path.parent
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(data)
        # Headers are at both ends; most of the rest are numbers.
        for at in rng.integers(0, min(1200, len(data)), size=3):
            broken[int(at) if rng.random() < 0.6 else -1 - int(at)] = int(rng.integers(256))
        path.write_bytes(broken)
        try:
            load_coders(source, model=model)
        except CoderError:
            refused += 1
    assert refused > 10


def test_folders_under_the_names_of_files(model: SubjectModel, tmp_path: Path) -> None:
    for name in ("params.npz", "a.pt", "sae_layer_0.pth", "a.pkl.gz", "cfg.json"):
        (tmp_path / name).mkdir()
    for source in (tmp_path, tmp_path / "params.npz", tmp_path / "a.pt"):
        with pytest.raises(CoderError, match=r"no sparse coder in .*\n  sae_lens: "):
            load_coders(source, model=model)


def test_nothing_known_lists_what_is_known(model: SubjectModel, tmp_path: Path) -> None:
    save(tmp_path / "model.pt", {"weights": torch.zeros(3)})
    for source in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(CoderError) as caught:
            load_coders(source, model=model)
        for name in ("sparsify", "sae_lens", "gemma_scope", "transcoder_circuits", "openai"):
            assert f"\n  {name}: " in str(caught.value)


def test_links_in_a_loop_are_left_alone(model: SubjectModel, tmp_path: Path) -> None:
    write_all(tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "c")
    good = write_gemma(tmp_path / "y" / GEMMA, gemma_arrays())
    (good.parent / "again").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "round.pt").symlink_to(tmp_path / "y" / "round.pt")
    assert list(load_coders(tmp_path / "y", model=model)) == ["layers.1"]
