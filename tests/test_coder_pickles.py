"""Hostile pickles under the names of coders: refused by name, and nothing in them is run."""

import builtins
import contextlib
import gzip
import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labeler.coders import load_coders
from labeler.errors import CoderError
from labeler.model import SubjectModel
from tests.coder_files import (
    Reduced,
    circuits_tensors,
    turing_state,
)


class Restored:
    """Runs something when its state is set."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["canary"].touch()


def legacy(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


PAYLOADS: dict[str, Callable[[Path], Any]] = {
    "system": lambda canary: Reduced(os.system, (f"touch {canary}",)),
    "eval": lambda canary: Reduced(builtins.eval, (f"open({str(canary)!r}, 'w')",)),
    "nested": lambda canary: Reduced(
        Reduced(getattr, (Reduced(__import__, ("os",)), "system")), (f"touch {canary}",)
    ),
    "argument": lambda canary: Reduced(
        OrderedDict, ([("a", Reduced(os.system, (f"touch {canary}",)))],)
    ),
    "setstate": Restored,
    "storage": lambda canary: Reduced(
        torch.storage._load_from_bytes, (legacy(Reduced(os.system, (f"touch {canary}",))),)
    ),
    "state of torch": lambda canary: Reduced(
        torch._utils._rebuild_parameter, (Reduced(os.system, (f"touch {canary}",)), True, None)
    ),
}


@pytest.fixture(params=PAYLOADS)
def payload(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """An object that makes a file when it is unpickled, and that file."""
    canary = tmp_path / "canary"
    return PAYLOADS[request.param](canary), canary


def write_pickle(path: Path, value: Any) -> None:
    """In the container that its name calls for."""
    if path.name.endswith(".pkl.gz"):
        path.write_bytes(gzip.compress(pickle.dumps(value)))
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=path.stem != "old")


@pytest.mark.parametrize("name", ["a.pt", "old.pt", "a.pkl", "a.pkl.gz", "sae_layer_1.pth"])
@pytest.mark.parametrize("disguised", [True, False])
def test_no_pickle_is_ever_run(
    model: SubjectModel, tmp_path: Path, payload: tuple[Any, Path], name: str, disguised: bool
) -> None:
    hostile, canary = payload
    state: dict[str, Any] = circuits_tensors() | turing_state()
    value = {"cfg": hostile, "state_dict": state, **state} if disguised else hostile
    path = tmp_path / name
    write_pickle(path, value)
    with pytest.raises(CoderError, match=rf"{name} is refused: it .*refused|nothing of it was run"):
        load_coders(path, model=model)
    assert not canary.exists()
    # In a folder, a pickle that is no coder is left alone; one that poses as a coder is refused.
    with pytest.raises(CoderError, match="is refused" if disguised else "no sparse coder"):
        load_coders(tmp_path, model=model)
    assert not canary.exists()


def test_the_payloads_are_live(payload: tuple[Any, Path]) -> None:
    hostile, canary = payload
    # Some fail after they ran.
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(hostile))
    assert canary.exists()


# --- pickles made by hand


def op(name: str, argument: bytes = b"") -> bytes:
    code = next(code for code in pickletools.opcodes if code.name == name)
    return code.code.encode("latin-1") + argument


def text(value: str) -> bytes:
    return op("BINUNICODE", struct.pack("<I", len(value)) + value.encode())


def name_of(module: str, name: str) -> bytes:
    return op("GLOBAL", f"{module}\n{name}\n".encode())


def pickled(*parts: bytes) -> bytes:
    return op("PROTO", b"\x04") + b"".join(parts) + op("STOP")


def keys() -> bytes:
    """Strings that make a file look like one of transcoder_circuits, and are then dropped."""
    words = ("cfg", "state_dict", "W_enc", "b_dec")
    return b"".join(text(word) + op("BINPUT", b"\x00") for word in words)


MADE = {
    "call of a config": (
        name_of("a", "SomeConfig") + text("x") + op("TUPLE1") + op("REDUCE"),
        r"calls a\.SomeConfig",
    ),
    "config made with arguments": (
        name_of("a", "SomeConfig") + text("x") + op("TUPLE1") + op("NEWOBJ"),
        r"makes an object of a\.SomeConfig",
    ),
    "state of a name": (
        name_of("torch._utils", "_rebuild_tensor_v2") + op("EMPTY_DICT") + op("BUILD"),
        "sets the state of a Name",
    ),
    "an instruction": (name_of("a", "SomeConfig") + op("EMPTY_TUPLE") + op("OBJ"), "OBJ"),
    "extension registry": (op("EXT1", b"\x01"), "instruction EXT1"),
    "stack global": (text("os") + text("system") + op("STACK_GLOBAL"), r"asks for os\.system"),
    "a module of torch": (name_of("torch", "_inductor"), r"asks for torch\._inductor"),
    "stack underflow": (op("TUPLE3") * 3, "damaged: a pickle instruction finds its stack empty"),
    "tuple for ever": (op("EMPTY_DICT") + op("EMPTY_TUPLE") + op("SETITEM") * 2, "damaged"),
    "deep key": (
        op("EMPTY_DICT") + op("EMPTY_TUPLE") + op("TUPLE1") * 20_000 + op("NONE") + op("SETITEM"),
        "key is of type tuple",
    ),
    "huge memo": (op("NONE") + op("LONG_BINPUT", b"\xff\xff\xff\x7f"), "expected a dict"),
    "huge bytes": (op("BINBYTES8", struct.pack("<Q", 1 << 46)), "damaged"),
    "huge number": (op("LONG4", struct.pack("<i", (1 << 31) - 1)), "damaged"),
    "nothing": (b"", "damaged"),
}


@pytest.mark.parametrize("which", MADE)
@pytest.mark.parametrize("packed", [True, False])
def test_pickles_made_by_hand_are_refused(
    model: SubjectModel, tmp_path: Path, which: str, packed: bool
) -> None:
    parts, message = MADE[which]
    data = pickled(keys(), parts) if parts else op("PROTO", b"\x04")
    path = tmp_path / "a.pt"
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data)
    else:
        path.write_bytes(data)
    with pytest.raises(CoderError, match=rf"a\.pt.*{message}"):
        load_coders(path, model=model)


def stored(offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = 4) -> bytes:
    """A tensor as torch writes it into data.pkl; the storage is ``data/0``."""

    def number(value: int) -> bytes:
        return op("LONG1", b"\x08" + struct.pack("<q", value))

    def numbers(values: tuple[int, ...]) -> bytes:
        return op("MARK") + b"".join(map(number, values)) + op("TUPLE")

    storage = op("MARK") + text("storage") + name_of("torch", "FloatStorage") + text("0")
    storage += text("cpu") + number(numel) + op("TUPLE") + op("BINPERSID")
    hooks = name_of("collections", "OrderedDict") + op("EMPTY_TUPLE") + op("REDUCE")
    arguments = storage + number(offset) + numbers(size) + numbers(stride) + op("NEWFALSE") + hooks
    rebuild = name_of("torch._utils", "_rebuild_tensor_v2")
    return rebuild + op("MARK") + arguments + op("TUPLE") + op("REDUCE")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (stored(0, (1 << 20, 1 << 20), (0, 0)), "does not lie within its storage of 4 values"),
        (stored(0, (5,), (1,)), "does not lie within"),
        (stored(3, (2,), (1,)), "does not lie within"),
        (stored(0, (2, 2), (3, 1)), "does not lie within"),
        (stored(-1, (2,), (1,)), "does not lie within"),
        (stored(0, (2,), (-1,)), "shape of a tensor is malformed"),
        (stored(0, (-2, -2), (1, 1)), "shape of a tensor is malformed"),
        (stored(0, (2, 2), (1,)), "damaged"),
        (stored(0, (4,), (1,), numel=5), "storage 0 should hold 5 values .* has 16 bytes"),
        (stored(0, (4,), (1,), numel=1 << 60), "storage 0 should hold"),
    ],
)
def test_tensors_lie_within_what_is_stored(
    model: SubjectModel, tmp_path: Path, tensor: bytes, message: str
) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(keys(), tensor))
        archive.writestr("a/data/0", bytes(16))
    with pytest.raises(CoderError, match=message):
        load_coders(path, model=model)


def test_torchs_tar_is_named(model: SubjectModel, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, io.BytesIO(b"cos\ns"))
    with pytest.raises(CoderError, match=r"a\.pt is in the tar format"):
        load_coders(path, model=model)
