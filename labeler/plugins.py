"""Plug-in files: function types in a Python file of the user's, named with ``--plugin``.

The file is loaded alone and registers its types with `@register`. A run remembers the files that
its labels were fitted with, since no later step can load the labels without them.
"""

import hashlib
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from labeler.config import RunConfig
from labeler.errors import FunctionTypeError, RunError
from labeler.functions import FunctionType, function_types
from labeler.functions.check import try_function_type
from labeler.functions.registry import all_or_none
from labeler.store import read_json, write_json
from labeler.tokens import Tokens

FORMAT = 1
FILE_NAME = "plugins.json"

_N_FIT, _N_HELDOUT = 48, 16
"""Contexts of a run that a plug-in is tried on."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in file that was loaded.

    Attributes
    ----------
    path : Path
        Absolute.
    sha256 : str
        Of its bytes, in hex.
    types : tuple of type
        What it registered, in the order of the file.
    """

    path: Path
    sha256: str
    types: tuple[type[FunctionType], ...]


def load_plugin(path: Path | str) -> Plugin:
    """Run a plug-in file, which registers its function types.

    A file loaded before, or a copy of it, is run again: its types take the place of the earlier
    ones.

    Raises
    ------
    FunctionTypeError
        If there is no such file, it raises, breaks the contract or takes a name that is taken,
        or registers nothing. Nothing is registered then.
    """
    path = Path(path).expanduser().resolve()
    if path.suffix != ".py":
        raise FunctionTypeError(f"plug-in {path} is no Python file; its name must end in .py")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FunctionTypeError(
            f"plug-in {path} cannot be read ({error.strerror}); check the path"
        ) from None
    function_types()  # types of installed plug-ins first, so that their names are known to be taken
    sha256 = hashlib.sha256(source).hexdigest()
    # Of the content: two runs may use copies of one plug-in.
    module = ModuleType(f"plugin_{sha256[:12]}")
    module.__file__ = str(path)
    before = sys.modules.get(module.__name__)
    try:
        with all_or_none(module.__name__, str(path)) as registered:
            sys.modules[module.__name__] = module  # where inspect and pickle look for it
            # Not through the import system, which may run a cached version of the file.
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        if before is not None:
            sys.modules[module.__name__] = before
        raise FunctionTypeError(f"plug-in {path}: {_told(error, path)}") from error
    return Plugin(path, sha256, tuple(registered))


def _told(error: BaseException, path: Path) -> str:
    """What went wrong in the file, and where."""
    if isinstance(error, FunctionTypeError):
        return str(error)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines, error = [error.lineno], SyntaxError(error.msg)
    where = f"line {lines[-1]} raises " if lines else "raises "
    cure = "correct the file"
    if isinstance(error, ModuleNotFoundError):
        cure = (
            "install that module; modules beside the file are not seen, put these into a package "
            "with an entry point"
        )
    elif isinstance(error, SystemExit):
        cure = "put what is not for loading under `if __name__ == '__main__':`"
    return f"{where}{type(error).__name__}: {error}; {cure}"


def open_plugins(out: Path, files: Sequence[Path]) -> tuple[Plugin, ...]:
    """Load the plug-ins given and try their types, or load those that the run remembers.

    They are tried on text of the run where it has tokens already, on made-up text before.

    Raises
    ------
    FunctionTypeError
        If one cannot be loaded or breaks the contract.
    RunError
        If none is given, and one that the run remembers is missing or has changed.
    """
    if not files:
        return load_recorded(out)
    plugins = tuple({plugin.path: plugin for plugin in map(load_plugin, files)}.values())
    tokens = text_of_run(out) if (out / "tokens" / "done.json").exists() else None
    for plugin in plugins:
        for kind in plugin.types:
            faults = try_function_type(kind, tokens).faults
            if faults:
                raise FunctionTypeError(
                    f"plug-in {plugin.path}: {kind.__qualname__} ({kind.name}): "
                    + "; ".join(str(fault) for fault in faults)
                ) from faults[0].__cause__
    return plugins


def text_of_run(out: Path) -> Tokens:
    """Some contexts of a run, of both splits, to try function types on.

    Raises
    ------
    CacheError
        If the run has no tokens.
    """
    from labeler.windows import load_tokens

    tokens = load_tokens(out / "tokens")
    chosen = []
    for split, n in ((tokens.fold >= 0, _N_FIT), (tokens.fold < 0, _N_HELDOUT)):
        contexts = np.flatnonzero(split)
        chosen.append(contexts[:: max(1, -(-len(contexts) // n))])
    return tokens.select(np.concatenate(chosen))


def load_recorded(out: Path) -> tuple[Plugin, ...]:
    """Load the plug-ins that a run's labels were fitted with.

    Raises
    ------
    RunError
        If a file is missing or is not what it was.
    """
    plugins = []
    for file, sha256 in _recorded(out):
        if not file.is_file():
            raise RunError(
                f"the plug-in {file}, which the labels of {out} were fitted with, is missing; put "
                f"it back, or run `labeler fit --out {out} --plugin FILE` with where it is now; to "
                f"fit without it, delete {out / FILE_NAME} and the folders labels, verify and "
                "rewrite beside it"
            )
        if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            raise RunError(
                f"the plug-in {file} has changed since the labels of {out} were fitted with it; "
                f"undo the change, or run `labeler fit --out {out} --plugin {file}` to fit again"
            )
        plugins.append(load_plugin(file))
    return tuple(plugins)


def _recorded(out: Path) -> list[tuple[Path, str]]:
    """Path and hash of each plug-in that a run remembers."""
    path = out / FILE_NAME
    if not path.exists():
        return []
    cure = f"run `labeler fit --out {out} --plugin FILE` again"
    found = read_json(path, RunError, cure)
    try:
        if found["format"] != FORMAT:
            raise RunError(f"{path} is not of format {FORMAT}; {cure}")
        return [(Path(entry["path"]), str(entry["sha256"])) for entry in found["plugins"]]
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}); {cure}") from error


def record_plugins(out: Path, plugins: Sequence[Plugin]) -> None:
    """Have a run remember its plug-ins; nothing happens where there are none.

    What was made with another version of one of them is marked as not done.

    Raises
    ------
    RunError
        If `out` is no run.
    """
    if not plugins:
        return
    RunConfig.load(out)
    try:
        before = {sha256 for _, sha256 in _recorded(out)}
    except RunError:
        before = {"unknown"}
    if not before <= {plugin.sha256 for plugin in plugins}:
        for pattern in ("labels/*/done.json", "verify/*/done.json", "rewrite/*.json"):
            for marker in out.glob(pattern):
                marker.unlink()
    write_json(
        out / FILE_NAME,
        {
            "format": FORMAT,
            "plugins": [
                {
                    "path": str(plugin.path),
                    "sha256": plugin.sha256,
                    "types": [kind.name for kind in plugin.types],
                }
                for plugin in plugins
            ],
        },
    )
