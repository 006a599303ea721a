"""What a result was made from, as hashes: a step whose inputs have not changed is not redone."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from labeler import __version__
from labeler.errors import RunError
from labeler.store import hash_json, read_json, write_json


@cache
def code_version(*more: str) -> str:
    """Version, and a hash of the sources that results depend on.

    Those that labels and their scores depend on, and of the folders `more`, named below the
    package: what changes only the LLM baseline or the audit makes no label stale.
    """
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent
    for name in ("", "coders", "functions", "eval", *more):
        for path in sorted((root / name).resolve().glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def key_of(*more: str, **inputs: Any) -> str:
    """Hash of a step's inputs, the code included (`more` as for `code_version`)."""
    return hash_json({"code": code_version(*more), **inputs})


def is_done(marker: Path, key: str) -> bool:
    """Whether `marker` says that its step was finished with these inputs."""
    if not marker.exists():
        return False
    found = read_json(marker, RunError, f"delete {marker} and run the step again")
    return bool(isinstance(found, dict) and found.get("key") == key)


def mark_done(marker: Path, key: str, **facts: Any) -> None:
    """Say that a step is finished; written last, after all its files."""
    write_json(marker, {"key": key, **facts})
