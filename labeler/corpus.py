"""A corpus: documents with an id, a text, topics and a split, read lazily in a seeded order."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from labeler.config import DELPHI_CACHE
from labeler.errors import CorpusError
from labeler.store import hash_json

if TYPE_CHECKING:
    from labeler.readers import Columns

Split = Literal["fit", "heldout"]

HELDOUT_PERCENT = 10
"""Share of documents held out by the hashed split."""

_SPLIT_NAMES: dict[str, Split] = {
    "train": "fit",
    "fit": "fit",
    "heldout": "heldout",
    "held-out": "heldout",
    "held_out": "heldout",
    "test": "heldout",
    "validation": "heldout",
    "valid": "heldout",
}

_FILE_KINDS = (".txt", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes
    ----------
    id : str
        Unique in its corpus, and the same whenever the corpus is loaded.
    text : str
        Its text.
    topics : tuple of str
        One per topic level of the corpus, "" where it has none.
    split : {'fit', 'heldout'} or None
        None leaves it to the hashed split (`hashed_split`).
    """

    id: str
    text: str
    topics: tuple[str, ...] = ()
    split: Split | None = None


class DocumentSource(Protocol):
    """Random access to the documents of one kind of source.

    Attributes
    ----------
    topic_levels : tuple of str
        Names of the topic levels.
    fingerprint : str
        SHA-256 of the content.
    n_skipped : int
        Files or rows left out: binary, undecodable or without text.
    """

    topic_levels: tuple[str, ...]
    fingerprint: str
    n_skipped: int

    def __len__(self) -> int:
        """Count the documents."""
        ...

    def doc_id(self, index: int) -> str:
        """Id of a document, without reading its text."""
        ...

    def split(self, index: int) -> Split | None:
        """Split a document was given, or None for the hashed split."""
        ...

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents, in this order."""
        ...


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus. Made by `load_corpus` or `corpus_of`.

    Attributes
    ----------
    name : str
        What it was loaded from.
    topic_levels : tuple of str
        Names of the topic levels; empty where there are no topics.
    fingerprint : str
        SHA-256 of content and columns, for provenance.
    n_skipped : int
        Files or rows left out: binary, undecodable or without text.
    """

    name: str
    topic_levels: tuple[str, ...]
    fingerprint: str
    n_skipped: int
    source: DocumentSource

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.source)

    def documents(self, seed: int = 0, split: Split | None = None) -> Iterator[Document]:
        """Yield documents lazily, in an order hashed from `seed` and their ids.

        Parameters
        ----------
        seed : int
            Another seed, another order; the splits stay the same.
        split : {'fit', 'heldout'}, optional
            Only this split; nothing of the other is read.

        Yields
        ------
        Document
            With `split` always set.
        """
        order = self._order(seed)
        splits = [self._split(int(index)) for index in order]
        chosen = [int(i) for i, its in zip(order, splits, strict=True) if split in (None, its)]
        for document in self.source.read(chosen):
            its = document.split or hashed_split(document.id)
            yield Document(document.id, document.text, document.topics, its)

    def _order(self, seed: int) -> npt.NDArray[np.int64]:
        keys = [stable_hash(f"{seed}:{self.source.doc_id(i)}") for i in range(len(self.source))]
        return np.argsort(np.array(keys, dtype=np.uint64), kind="stable")

    def _split(self, index: int) -> Split:
        return self.source.split(index) or hashed_split(self.source.doc_id(index))


def stable_hash(text: str) -> int:
    """First 8 bytes of the SHA-256 of a text: the same on every machine, 0 to 2**64 - 1."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")


def hashed_split(doc_id: str) -> Split:
    """Split of a document that was given none: 10% are held out, by their id alone."""
    return "heldout" if stable_hash(doc_id) % 100 < HELDOUT_PERCENT else "fit"


def parse_split(value: object, where: str) -> Split:
    """Read a value of a split column.

    Raises
    ------
    CorpusError
        If it is not one of train, fit, heldout, held-out, test, validation, valid.
    """
    split = _SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise CorpusError(
            f"{where}: split value {value!r} is unknown; known: {', '.join(_SPLIT_NAMES)}. "
            "Rename it, or leave out --split-column for a hashed split"
        )
    return split


def corpus_of(
    documents: Sequence[Document], *, name: str, topic_levels: tuple[str, ...] = ()
) -> Corpus:
    """Make a corpus of documents in memory.

    Raises
    ------
    CorpusError
        If there are none, two share an id, or one has not a topic per level.
    """
    from labeler.readers import MemorySource

    return _corpus(MemorySource(documents, topic_levels, name), name)


def load_corpus(
    source: str | Path,
    *,
    text_column: str = "text",
    topic_columns: Sequence[str] = (),
    split_column: str | None = None,
) -> Corpus:
    """Load a corpus.

    Parameters
    ----------
    source : str or Path
        One of

        - ``stdlib``: the sources of the running Python's standard library;
        - a folder: every text file below it is a document, and its topics are the first two
          folders of its path (``level_1``, ``level_2``); hidden and binary files are left out;
        - a ``.txt`` file: documents end at lines that hold only ``<|endoftext|>``; without such
          lines the whole file is one document (blank lines are not taken for borders);
        - a ``.jsonl`` or ``.parquet`` file with a text column;
        - a Hugging Face data set name, ``owner/name`` or ``owner/name:config``.
    text_column : str
        Column of the text, for files with columns and data sets.
    topic_columns : sequence of str
        Columns of the topics, coarse to fine.
    split_column : str, optional
        Column that says train/fit or heldout/test/validation; without it 10% of the documents
        are held out by a hash of their id, whatever the seed.

    Raises
    ------
    CorpusError
        If the source is missing, empty, unreadable, or lacks a column.
    """
    from labeler import readers

    name = str(source)
    if name.startswith(DELPHI_CACHE):
        raise CorpusError(
            f"corpus {name}: this run was imported from a delphi cache, so its tokens and firings "
            "are there already; go on with `labeler fit`"
        )
    columns = readers.Columns(text_column, tuple(topic_columns), split_column)
    path = Path(name).expanduser()
    if name == "stdlib":
        return _corpus(readers.stdlib_source(), name)
    if path.is_dir():
        readers.refuse_columns(columns, f"the folder {name}")
        return _corpus(readers.FolderSource(path), name)
    if path.is_file():
        return _corpus(_file_source(path, columns), name)
    if path.suffix in _FILE_KINDS or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CorpusError(
            f"corpus {name} does not exist; give a folder of text files, a .txt, .jsonl or ."
            "parquet file, a Hugging Face data set name, or stdlib"
        )
    from labeler.table_readers import DatasetSource

    return _corpus(DatasetSource(name, columns), name)


def _file_source(path: Path, columns: "Columns") -> DocumentSource:
    from labeler import readers

    if path.suffix == ".parquet":
        # Imported here, like the readers above: polars takes a moment.
        from labeler.table_readers import ParquetSource

        return ParquetSource(path, columns)
    if path.suffix in (".jsonl", ".ndjson"):
        return readers.JsonlSource(path, columns)
    if path.suffix == ".txt":
        readers.refuse_columns(columns, str(path))
        return readers.TextSource(path)
    raise CorpusError(
        f"corpus {path} has the ending {path.suffix!r}; files that can be read: "
        f"{', '.join(_FILE_KINDS)}"
    )


def _corpus(source: DocumentSource, name: str) -> Corpus:
    if not len(source):
        skipped = f" ({source.n_skipped} skipped: binary or empty)" if source.n_skipped else ""
        raise CorpusError(f"corpus {name} holds no text{skipped}; give one with documents")
    fingerprint = hash_json([source.fingerprint, list(source.topic_levels)])
    return Corpus(name, source.topic_levels, fingerprint, source.n_skipped, source)
