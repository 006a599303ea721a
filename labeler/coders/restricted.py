"""A reader of pickles that runs nothing: it only puts plain values and tensors together.

Coders of transcoder_circuits hold an object of a class of theirs (``cfg``) beside the tensors, so
``torch.load(weights_only=True)`` refuses the files, and with that class allowed it would import and
run foreign code. Here no global is ever looked up. A name in the pickle stays a name; the few calls
that torch writes to rebuild tensors are replaced by code of this module; an object of a class named
``...Config`` becomes a bag of the plain values it held; all else is refused by name.

Python's own `pickle.Unpickler` is not used: it makes room for a memo of any size that a file asks
for, and lets a file change what a restricted `find_class` returns.
"""

import collections
import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import torch
from torch import Tensor

from labeler.errors import CoderError

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""torch's names of storages -> type of their elements."""

_DTYPE_NAMES = {str(dtype) for dtype in DTYPES.values()}

_CALLS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.storage._load_from_bytes",
    "torch.device",
    "torch.Size",
}

FAULTS = (ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, MemoryError)
"""What a malformed pickle makes the machine, or `pickletools` below it, raise."""


@dataclass(frozen=True)
class Name:
    """A global that a pickle names: never looked up, only compared."""

    text: str


@dataclass
class Bag:
    """What an object of a class named ``...Config`` held."""

    name: str
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of numbers in a file, not read yet."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytearray]


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a file, not read yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """Read it."""
        if not math.prod(self.size):
            return torch.empty(self.size, dtype=self.storage.dtype)
        flat = torch.frombuffer(self.storage.read(), dtype=self.storage.dtype)
        return flat.as_strided(self.size, self.stride, self.offset)


class RefusedError(CoderError):
    """A pickle asks for something that is never done; the message names it."""


class Machine:
    """Runs one pickle from a stream.

    Parameters
    ----------
    stream : binary stream
        At the start of a pickle; afterwards right behind it.
    storage : callable
        The storage that a persistent id (a tuple) stands for.
    from_bytes : callable
        The storage in bytes that torch wrote (``_load_from_bytes``).

    Raises
    ------
    RefusedError
        If the pickle asks for a global, a call or an instruction that is not on the list.
    """

    def __init__(
        self,
        stream: BinaryIO,
        storage: Callable[[tuple[object, ...]], Storage],
        from_bytes: Callable[[bytes], Storage],
    ) -> None:
        self._stream = stream
        self._storage = storage
        self._from_bytes = from_bytes
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """The value that the pickle stands for."""
        for code, arg, _ in pickletools.genops(self._stream):
            if code.name in _PUSHED:
                self._stack.append(arg)
            elif code.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[code.name]())
            elif code.name in _DONE:
                _DONE[code.name](self, arg)
            elif code.name == "STOP":
                break
            elif code.name not in ("PROTO", "FRAME"):
                raise RefusedError(f"it holds the pickle instruction {code.name}, which is refused")
        return self._pop()

    def _pop(self) -> object:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("a pickle instruction finds its stack empty")
        return self._stack.pop()

    def _popped(self) -> list[object]:
        """Everything above the last mark."""
        start = self._marks.pop()
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def _tuple(self, n: int) -> None:
        found = [self._pop() for _ in range(n)]
        self._stack.append(tuple(reversed(found)))

    def _set(self, pairs: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError("a pickle sets items of what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Nothing else may be a key: hashing a tuple nested a million deep kills the process.
            if not isinstance(key, str | int):
                raise ValueError(f"a key is of type {type(key).__name__}, expected a string")
            target[key] = value

    def _extend(self, values: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError("a pickle appends to what is no list")
        target.extend(values)

    def _put(self, at: object) -> None:
        self._memo[len(self._memo) if at is None else int(str(at))] = self._stack[-1]

    def _get(self, at: object) -> None:
        self._stack.append(self._memo[int(str(at))])

    def _global(self, module: object, name: object) -> None:
        text = f"{module}.{name}"
        plain = text.removeprefix("torch.")
        known = text in _CALLS or plain in DTYPES or text in _DTYPE_NAMES
        if not known and not plain.endswith("Config"):
            raise RefusedError(
                f"it asks for {text}, which no coder needs: the file may be hostile; nothing of it "
                "was run"
            )
        self._stack.append(Name(text))

    def _named(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self) -> None:
        args, called = self._pop(), self._pop()
        text = called.text if isinstance(called, Name) else type(called).__name__
        if text not in _CALLS or not isinstance(args, tuple):
            raise RefusedError(f"it calls {text}, which is refused; nothing of it was run")
        self._stack.append(self._made(text, args))

    def _made(self, text: str, args: tuple[object, ...]) -> object:
        """What torch's or Python's own function would have made."""
        if text == "collections.OrderedDict":
            if args:
                raise ValueError("an OrderedDict is made with arguments")
            return collections.OrderedDict[object, object]()
        if text == "torch._utils._rebuild_tensor_v2":
            return _tensor(args[0], args[1], args[2], args[3])
        if text == "torch.storage._load_from_bytes":
            if not isinstance(args[0], bytes):
                raise ValueError("_load_from_bytes is given no bytes")
            return self._from_bytes(args[0])
        if text == "torch._utils._rebuild_parameter":
            return args[0]
        return args

    def _new(self) -> None:
        args, kind = self._pop(), self._pop()
        if not isinstance(kind, Name) or not kind.text.endswith("Config") or args != ():
            text = kind.text if isinstance(kind, Name) else type(kind).__name__
            raise RefusedError(
                f"it makes an object of {text}, which is refused; nothing of it was run"
            )
        self._stack.append(Bag(kind.text))

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, Bag) and isinstance(state, dict):
            target.attributes.update({str(key): value for key, value in state.items()})
        elif not isinstance(target, collections.OrderedDict):
            # torch hangs its version notes (_metadata) on a state dict; they are dropped.
            raise RefusedError(f"it sets the state of a {type(target).__name__}, which is refused")

    def _persistent(self) -> None:
        saved = self._pop()
        if not isinstance(saved, tuple):
            raise ValueError("a persistent id is no tuple")
        self._stack.append(self._storage(saved))


_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_DONE: dict[str, Callable[[Machine, object], object]] = {
    "MARK": lambda it, arg: it._marks.append(len(it._stack)),
    "TUPLE": lambda it, arg: it._stack.append(tuple(it._popped())),
    "TUPLE1": lambda it, arg: it._tuple(1),
    "TUPLE2": lambda it, arg: it._tuple(2),
    "TUPLE3": lambda it, arg: it._tuple(3),
    "SETITEM": lambda it, arg: it._set([it._pop(), it._pop()][::-1]),
    "SETITEMS": lambda it, arg: it._set(it._popped()),
    "APPEND": lambda it, arg: it._extend([it._pop()]),
    "APPENDS": lambda it, arg: it._extend(it._popped()),
    "BINPUT": lambda it, arg: it._put(arg),
    "LONG_BINPUT": lambda it, arg: it._put(arg),
    "MEMOIZE": lambda it, arg: it._put(None),
    "BINGET": lambda it, arg: it._get(arg),
    "LONG_BINGET": lambda it, arg: it._get(arg),
    "GLOBAL": lambda it, arg: it._global(*str(arg).split(" ", 1)),
    "STACK_GLOBAL": lambda it, arg: it._named(),
    "REDUCE": lambda it, arg: it._call(),
    "NEWOBJ": lambda it, arg: it._new(),
    "BUILD": lambda it, arg: it._build(),
    "BINPERSID": lambda it, arg: it._persistent(),
}


def _tensor(storage: object, offset: object, size: object, stride: object) -> Stored:
    """The tensor over a storage, if it lies within it and repeats nothing."""
    if not isinstance(storage, Storage) or not isinstance(offset, int):
        raise ValueError("a tensor has no storage")
    sizes, strides = _naturals(size), _naturals(stride)
    n_values = math.prod(sizes)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    # A stride of 0 turns four bytes into any number of values.
    if n_values > storage.numel or (n_values and not 0 <= offset <= last < storage.numel):
        raise ValueError(
            f"a tensor of shape {sizes} does not lie within its storage of {storage.numel} values"
        )
    return Stored(storage, offset, sizes, strides)


def _naturals(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise ValueError("the shape of a tensor is no tuple")
    found = tuple(at for at in value if type(at) is int and at >= 0)
    if len(found) != len(value) or len(found) > 8:
        raise ValueError("the shape of a tensor is malformed")
    return found


def strings(data: bytes | BinaryIO) -> set[str]:
    """All string constants of a pickle, which is not run."""
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    return {
        arg
        for code, arg, _ in pickletools.genops(stream)
        if code.name.endswith("BINUNICODE") and isinstance(arg, str)
    }
