"""Source of exported keys, made from the very function that computes them."""

import ast
import base64
import inspect
import textwrap
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

State = Mapping[str, npt.NDArray[np.generic] | int]


def export_source(
    name: str,
    function: Callable[..., Any],
    state: State,
    helpers: tuple[Callable[..., Any], ...] = (),
) -> str:
    """Python source of ``keys_<name>(ids)``.

    Parameters
    ----------
    name : str
        Of the function type.
    function : callable
        Module-level ``function(ids, **state)`` that returns int64 keys. It and its helpers may use
        ``np``, what they import themselves, and each other; nothing else.
    state : mapping
        Arrays (numbers or strings) and ints that the function takes by keyword; packed into the
        source.
    helpers : tuple of callables
        Module-level functions that `function` calls.
    """
    lines = [f"def keys_{name}(ids):", "    import base64, zlib"]
    for helper in (*helpers, function):
        lines.append(textwrap.indent(_plain(helper), "    "))
    arguments = []
    for key, value in state.items():
        lines.append(f"    {key} = {_packed(value)}")
        arguments.append(f"{key}={key}")
    lines.append(f"    return {function.__name__}({', '.join(['np.asarray(ids)', *arguments])})")
    return "\n".join(lines) + "\n"


def _plain(function: Callable[..., Any]) -> str:
    """Source of a function without docstring and annotations, which need imports."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            node.simple = 1
    return ast.unparse(_Unannotate().visit(tree))


class _Unannotate(ast.NodeTransformer):
    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """``x: T = v`` becomes ``x = v``; a bare ``x: T`` goes."""
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _packed(value: npt.NDArray[np.generic] | int) -> str:
    if isinstance(value, int):
        return repr(value)
    if value.dtype.kind == "U":
        text = "\x00".join(str(item) for item in value)
        packed = base64.b64encode(zlib.compress(text.encode("utf-8", "surrogatepass"), 9)).decode()
        unpacked = f'zlib.decompress(base64.b64decode("{packed}")).decode("utf-8", "surrogatepass")'
        return f'np.array({unpacked}.split("\\0")[:{len(value)}], dtype=np.str_)'
    plain = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"))
    packed = base64.b64encode(zlib.compress(plain.tobytes(), 9)).decode()
    return (
        f'np.frombuffer(zlib.decompress(base64.b64decode("{packed}")), dtype="{plain.dtype.str}")'
        f".reshape({plain.shape})"
    )
