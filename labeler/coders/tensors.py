"""Tensors from files of strangers: every one is checked before it is used."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from labeler.errors import CoderError
from labeler.hookpoints import Hookpoint
from labeler.model import SubjectModel
from labeler.store import safetensors_fault

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> the shape it must have."""


def check_tensors(
    path: Path, found: Mapping[str, Tensor], shapes: Shapes, *, said_by: str
) -> dict[str, Tensor]:
    """Check the tensors of a coder and return them as float32.

    Parameters
    ----------
    path : Path
        Where they come from, for messages.
    found : mapping of str to Tensor
        What the file holds.
    shapes : mapping of str to tuple of int
        Which tensors are needed, and their shapes.
    said_by : str
        Who says that these are the shapes, for messages: ``cfg.json``, ``encoder.weight``.

    Raises
    ------
    CoderError
        If one is missing, has another shape, is not of floating point, or has values that float32
        does not hold (NaN, infinity, beyond 3.4e38).
    """
    if missing := [name for name in shapes if name not in found]:
        raise CoderError(
            f"{path} lacks the tensors {', '.join(missing)}; it has "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    checked = {}
    for name, shape in shapes.items():
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise CoderError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, {said_by} calls for {shape}"
            )
        if not tensor.is_floating_point():
            raise CoderError(
                f"{path}: {name} is of type {tensor.dtype}, expected floating point; it is not a "
                "weight of a sparse coder"
            )
        tensor = tensor.to(torch.float32)
        if not bool(tensor.isfinite().all()):
            raise CoderError(
                f"{path}: {name} has values that are not finite (NaN or infinity); the coder is "
                "damaged, copy or download it again"
            )
        checked[name] = tensor
    return checked


def matrix_shape(path: Path, name: str, shape: tuple[int, ...] | None) -> tuple[int, int]:
    """The shape of the matrix that fixes all other sizes of a coder.

    Raises
    ------
    CoderError
        If it is missing, is no matrix, or has no row or column.
    """
    if shape is None:
        raise CoderError(f"{path} lacks the tensor {name}; the file is incomplete or no coder")
    if len(shape) != 2 or 0 in shape:
        raise CoderError(f"{path}: {name} has shape {shape}, expected a matrix")
    return shape[0], shape[1]


def check_fit(path: Path, hookpoint: Hookpoint, d_in: int, d_out: int, model: SubjectModel) -> None:
    """Check that a coder fits the model where it sits.

    Raises
    ------
    CoderError
        If the model has no such layer, or another width there.
    """
    if hookpoint.layer >= model.n_layers:
        raise CoderError(
            f"{path} is for layer {hookpoint.layer}, but {model.name} has layers 0 to "
            f"{model.n_layers - 1}; is it the coder of another model?"
        )
    places = (("d_in", d_in, hookpoint.hook_in), ("d_out", d_out, hookpoint.hook_out))
    for name, size, hook in places:
        width = model.width(hook)
        if size != width:
            raise CoderError(
                f"{path}: {name} is {size}, but {model.name} has width {width} at {hook}; is it "
                "the coder of another model, or of another place in it?"
            )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises
    ------
    CoderError
        If it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CoderError(f"{path} is missing; copy or download it again")
    try:
        fault = safetensors_fault(path)
        if fault is None:
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
    raise CoderError(f"{path} is damaged: {fault}; copy or download it again")


def read_exactly(stream: IO[bytes], n_bytes: int) -> bytearray:
    """The next bytes of a stream, without a second copy of them in memory.

    Raises
    ------
    EOFError
        If there are fewer.
    """
    data = bytearray(n_bytes)
    view = memoryview(data)
    at = 0
    while at < n_bytes:
        block = stream.read(min(n_bytes - at, 1 << 24))
        if not block:
            raise EOFError(f"it ends after {at:,} of {n_bytes:,} bytes of an array")
        view[at : at + len(block)] = block
        at += len(block)
    return data
