"""Writing exported files beside those of others, without ever overwriting one of those."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from labeler import __version__
from labeler.errors import ExplanationError
from labeler.progress import progress_bar
from labeler.store import atomic_path, hash_file, read_json, write_json

MARKER = "labeler-export.json"
"""What a folder's exported files are known by: their names and SHA-256."""

_FORMAT = 1


def write_files(
    dest: Path, files: Mapping[str, bytes], replaces: Sequence[str], *, quiet: bool = False
) -> None:
    """Write files into a folder; those of an earlier export are replaced.

    Parameters
    ----------
    dest : Path
        The folder; may hold files of others.
    files : mapping of str to bytes
        Content by path below `dest`.
    replaces : sequence of str
        Beginnings of such paths: files of an earlier export that begin so and are not among
        `files` are removed.
    quiet : bool
        Show no progress.

    Raises
    ------
    ExplanationError
        If a file is there that labeler did not write, or that was changed since; nothing is
        written then.
    """
    marker = dest / MARKER
    known = _known(marker) if marker.exists() else {}
    new = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    old = [name for name in known if name.startswith(tuple(replaces)) and name not in new]
    with progress_bar("writing labels", 2 * len(new), quiet=quiet) as advance:
        for name in new:
            # A killed export leaves files that are new and not yet known.
            if (dest / name).exists() and hash_file(dest / name) not in (
                known.get(name),
                new[name],
            ):
                raise ExplanationError(
                    f"{dest / name} exists and is not as labeler wrote it; choose another --dest, "
                    "or move it away"
                )
            advance(1)
        for name, data in files.items():
            with atomic_path(dest / name) as temporary:
                temporary.write_bytes(data)
            advance(1)
    for name in old:
        if (dest / name).exists() and hash_file(dest / name) == known[name]:
            (dest / name).unlink()
    kept = {name: sha for name, sha in known.items() if name not in old}
    write_json(marker, {"format": _FORMAT, "labeler": __version__, "files": kept | new})


def _known(marker: Path) -> dict[str, str]:
    found = read_json(marker, ExplanationError, f"delete {marker} or choose another --dest")
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(isinstance(sha, str) for sha in files.values()):
        raise ExplanationError(
            f"{marker} is damaged: it does not list files; delete it or choose another --dest"
        )
    # Names lead nowhere but below the folder, whatever the marker says.
    return {
        name: sha
        for name, sha in files.items()
        if not Path(name).is_absolute() and ".." not in Path(name).parts
    }


def write_file(dest: Path, data: bytes, *, is_ours: bool) -> None:
    """Write one file; `is_ours` says whether one that is there came from labeler.

    Raises
    ------
    ExplanationError
        If there is one that did not.
    """
    if dest.is_dir():
        raise ExplanationError(f"{dest} is a folder; give --dest the name of a file")
    if dest.exists() and not is_ours:
        raise ExplanationError(
            f"{dest} exists and was not written by labeler; choose another --dest, or move it away"
        )
    with atomic_path(dest) as temporary:
        temporary.write_bytes(data)
