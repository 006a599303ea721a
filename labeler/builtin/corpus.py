"""The standard library of the running Python as a corpus: on every machine, and free to use.

A document is one ``.py`` file; its topics are the first two levels of its path. Nothing here
knows the file list of a Python version: another version is another, similar corpus.
"""

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labeler.errors import CorpusError

TOPIC_LEVELS = ("module", "part")
"""Names of the two topic levels."""

HELDOUT_PERCENT = 10
"""Percentage of documents held out."""

_MIN_CHARS = 200
"""Shorter files are empty ``__init__.py`` and the like: nothing to learn from."""

_SKIPPED_FOLDERS = frozenset(
    # other people's packages, generated tables, and the help texts as one literal
    {"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"}
)

_SKIPPED_PREFIXES = (
    "config-",  # build folders of the C extension modules
    "_sysconfigdata",  # one generated table, with paths of the machine that built Python
)


@dataclass(frozen=True)
class StdlibDocument:
    """One source file of the standard library.

    Attributes
    ----------
    id : str
        Path relative to the standard library, with forward slashes ("asyncio/events.py").
    text : str
        The file, exactly as decoded from UTF-8.
    topics : tuple of str
        ``("asyncio", "events")``; the second level is "" for a top-level module.
    """

    id: str
    text: str
    topics: tuple[str, str]


def stdlib_root() -> Path:
    """Folder of the running Python's standard library (in a venv: the base interpreter's)."""
    return Path(sysconfig.get_path("stdlib"))


def stdlib_documents() -> list[StdlibDocument]:
    """Read every usable file of the standard library.

    Files that do not decode as UTF-8, are shorter than 200 characters, or repeat an earlier file
    byte for byte are left out. Test folders are kept where the machine has them.

    Returns
    -------
    list of StdlibDocument
        Sorted by `id`.

    Raises
    ------
    CorpusError
        If the standard library is not a folder of sources.
    """
    root = stdlib_root()
    documents: list[StdlibDocument] = []
    seen: set[bytes] = set()
    for doc_id in sorted(_source_files(root)):
        text = _read(root / doc_id)
        if text is None or len(text) < _MIN_CHARS:
            continue
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in seen:
            seen.add(digest)
            documents.append(StdlibDocument(doc_id, text, topics_of(doc_id)))
    if not documents:
        raise CorpusError(
            f"no Python sources under {root}: this Python ships its standard library compiled or "
            "zipped; use a Python installed with its sources, or give another corpus"
        )
    return documents


def is_heldout(doc_id: str) -> bool:
    """Whether a document is held out: decided by its id alone, the same on every machine.

    Examples
    --------
    >>> is_heldout("asyncio/events.py"), is_heldout("test/test_asyncio/test_events.py")
    (False, False)
    >>> round(sum(is_heldout(f"module{i}.py") for i in range(2000)) / 2000, 1)
    0.1
    """
    digest = hashlib.sha256(doc_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELDOUT_PERCENT


def topics_of(doc_id: str) -> tuple[str, str]:
    """Topics of a document, from its path.

    Examples
    --------
    >>> topics_of("asyncio/events.py"), topics_of("argparse.py")
    (('asyncio', 'events'), ('argparse', ''))
    >>> topics_of("test/test_email/test_utils.py")
    ('test', 'test_email')
    """
    parts = PurePosixPath(doc_id).with_suffix("").parts
    return (parts[0], parts[1] if len(parts) > 1 else "")


def _source_files(root: Path) -> Iterator[str]:
    """Ids of all candidate files under `root`, in no particular order."""
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if not any(_is_skipped(part) for part in relative.parts) and path.is_file():
            yield relative.as_posix()


def _is_skipped(part: str) -> bool:
    return part in _SKIPPED_FOLDERS or part.startswith(_SKIPPED_PREFIXES)


def _read(path: Path) -> str | None:
    """Text of a file, or None where it cannot be read as UTF-8."""
    try:
        # bytes, so that line ends stay as they are
        return path.read_bytes().decode("utf-8")
    except (UnicodeDecodeError, OSError):
        return None
