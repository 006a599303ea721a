"""Finding and loading the sparse coders of a model, in whatever format they are."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labeler.coders.basis import is_basis, load_basis
from labeler.coders.coder import Coder, CoderFormat
from labeler.coders.formats import FORMATS, layouts
from labeler.coders.hub import download
from labeler.coders.torch_files import read_torch
from labeler.errors import CoderError
from labeler.hookpoints import layer_order, parse_hookpoint
from labeler.model import SubjectModel
from labeler.store import looks_local

_DEPTH = 6
"""Folders below the one that is given; Gemma Scope needs three, a copy of the hub's cache six."""

_MAX_ENTRIES = 20_000
"""Files and folders looked at: someone who gives his home folder should hear of it."""

_TORCH = (".pt", ".pth", ".pkl", ".pkl.gz")


@dataclass
class _Found:
    """A coder that was recognised, loaded only where its place cannot be told otherwise."""

    path: Path
    format: CoderFormat
    place: str | None
    coder: Coder | None = None


def load_coders(
    source: str | Path, *, model: SubjectModel, hookpoints: Sequence[str] | None = None
) -> dict[str, Coder]:
    """Load the sparse coders of a model.

    The format is recognised from the files: docs/coders.md lists them. Nothing in a file is run.

    Parameters
    ----------
    source : str or Path
        A folder that holds coders, however deep and in whatever formats; one coder's folder or
        file; a hub name; or ``neurons``, ``residual`` and files of directions
        (`labeler.coders.basis`).
    model : SubjectModel
        The model they belong to; sizes are checked against it.
    hookpoints : sequence of str, optional
        Which to load, in any spelling; all where None. Where the files do not say where a coder
        belongs, the one name given here does.

    Returns
    -------
    dict of str to Coder
        By canonical hookpoint name, in layer order.

    Raises
    ------
    CoderError
        If nothing is there, a file is damaged, malformed or hostile, a coder does not fit the
        model, several are for one place, or a hookpoint asked for is not among those found.
    """
    if is_basis(str(source)):
        return load_basis(str(source), model=model, hookpoints=hookpoints)
    wanted = None if hookpoints is None else [parse_hookpoint(text).name for text in hookpoints]
    root = _root(source, wanted)
    found = _unambiguous(_recognised(root), model, hookpoints)
    if wanted is not None:
        if unknown := [name for name in wanted if name not in found]:
            raise CoderError(
                f"no coder for hookpoint {', '.join(unknown)} in {source}; found: "
                f"{', '.join(sorted(found, key=layer_order))}"
            )
        found = {name: found[name] for name in wanted}
    chosen = {
        name: one.coder or one.format.load(one.path, model, None) for name, one in found.items()
    }
    return {name: chosen[name] for name in sorted(chosen, key=layer_order)}


def _root(source: str | Path, wanted: Sequence[str] | None) -> Path:
    """The local folder or file; a hub repository is fetched."""
    text = str(source)
    if _on_hub(text):
        return download(text, wanted)
    # Not resolve(): names of links say what is behind them, also in the hub's cache.
    root = Path(os.path.abspath(Path(text).expanduser()))
    try:
        root.stat()
    except FileNotFoundError:
        raise CoderError(
            f"coder folder {root} does not exist; give a folder or file of sparse coders, or a "
            f"hub name. Known layouts:\n{layouts()}"
        ) from None
    except OSError as error:
        raise CoderError(
            f"{root} cannot be opened: {error.strerror}; give another folder"
        ) from error
    return root


def _on_hub(text: str) -> bool:
    """Whether it is ``owner/repository``, or a folder in one, and nothing that is here."""
    if not looks_local(text):
        return True
    plain = text.count("/") > 1 and text[0] not in "./~" and text[-1] != "/" and "\\" not in text
    return plain and not Path(text).exists() and not Path(Path(text).parts[0]).exists()


def _recognised(root: Path) -> list[_Found]:
    """Every coder at or below a path."""
    found = []
    for path, one in _walk(root):
        place = one.place(path)
        found.append(_Found(path, one, place.name if place else None))
    if not found:
        if root.is_file() and root.name.endswith(_TORCH):
            # Says what is wrong with it, or what it asks for.
            read_torch(root)
        raise CoderError(f"no sparse coder in {root}. Known layouts:\n{layouts()}")
    return found


def _walk(root: Path) -> Iterator[tuple[Path, CoderFormat]]:
    """Coders at and below a path, sorted; what lies in the folder of one belongs to it."""
    seen: set[Path] = set()
    waiting = [(root, 0)]
    n_looked = 0
    while waiting:
        path, depth = waiting.pop()
        n_looked += 1
        if n_looked > _MAX_ENTRIES:
            raise CoderError(
                f"{root} holds more than {_MAX_ENTRIES:,} files; give the folder of the coders"
            )
        one = next((one for one in FORMATS if one.holds(path)), None)
        if one is not None:
            yield path, one
        elif depth <= _DEPTH and path.is_dir():
            real = path.resolve()
            # Links may lead back to a folder above.
            if real not in seen:
                seen.add(real)
                below = sorted(path.iterdir(), reverse=True)
                waiting += [(at, depth + 1) for at in below if not at.name.startswith(".")]


def _unambiguous(
    found: Sequence[_Found], model: SubjectModel, hookpoints: Sequence[str] | None
) -> dict[str, _Found]:
    """By hookpoint; a coder whose place only its content or the user tells is loaded for it."""
    only = hookpoints[0] if hookpoints and len(hookpoints) == len(found) == 1 else None
    wanted = None if hookpoints is None else {parse_hookpoint(text).name for text in hookpoints}
    places: dict[str, _Found] = {}
    for one in found:
        if one.place is None:
            one.coder = one.format.load(one.path, model, only)
            one.place = one.coder.hookpoint.name
        if one.place in places and (wanted is None or one.place in wanted):
            same = [str(at.path) for at in found if at.place == one.place]
            raise CoderError(
                f"{', '.join(same[:8])}{', ...' if len(same) > 8 else ''} are both for {one.place}"
                "; give the folder or file of the one you mean"
            )
        places[one.place] = one
    return places
