"""Readers of the kinds of corpora that `labeler.corpus.load_corpus` knows."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.corpus import Document, Split, parse_split
from labeler.errors import CorpusError
from labeler.store import hash_file, hash_json

DOCUMENT_END = b"<|endoftext|>"
"""A line of a .txt file that holds only this ends a document."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what."""

    text: str = "text"
    topics: tuple[str, ...] = ()
    split: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """All columns named, without repeats."""
        return tuple(
            dict.fromkeys([self.text, *self.topics, *([self.split] if self.split else [])])
        )

    def check(self, found: Sequence[str], where: str) -> None:
        """Raise unless every column exists."""
        if missing := [column for column in self.all if column not in found]:
            raise CorpusError(
                f"{where} has no column {', '.join(missing)}; its columns: {', '.join(found)}"
            )


def refuse_columns(columns: Columns, where: str) -> None:
    """Raise where columns are named for a source that has none."""
    if columns.topics or columns.split:
        raise CorpusError(
            f"{where} has no columns, so --topic-column and --split-column do not apply; leave "
            "them out (topics of a folder come from its sub-folders)"
        )


def _topic(value: object) -> str:
    return "" if value is None else str(value)


class MemorySource:
    """Documents held in memory."""

    def __init__(
        self, documents: Sequence[Document], topic_levels: tuple[str, ...], name: str
    ) -> None:
        self.topic_levels = topic_levels
        self.n_skipped = sum(not document.text.strip() for document in documents)
        self._documents = [document for document in documents if document.text.strip()]
        seen: set[str] = set()
        for document in self._documents:
            if document.id in seen:
                raise CorpusError(f"corpus {name}: two documents have the id {document.id!r}")
            seen.add(document.id)
            if len(document.topics) != len(topic_levels):
                raise CorpusError(
                    f"corpus {name}: document {document.id!r} has {len(document.topics)} topics "
                    f"for the levels {topic_levels}"
                )
        self.fingerprint = hash_json(
            [[d.id, d.text, list(d.topics), d.split] for d in self._documents]
        )

    def __len__(self) -> int:
        return len(self._documents)

    def doc_id(self, index: int) -> str:
        """Id of a document."""
        return self._documents[index].id

    def split(self, index: int) -> Split | None:
        """Split it was given."""
        return self._documents[index].split

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents."""
        return (self._documents[index] for index in indices)


def stdlib_source() -> MemorySource:
    """Sources of the running Python's standard library, about 30 MB."""
    from labeler.builtin.corpus import TOPIC_LEVELS, is_heldout, stdlib_documents

    documents = [
        Document(d.id, d.text, d.topics, "heldout" if is_heldout(d.id) else "fit")
        for d in stdlib_documents()
    ]
    return MemorySource(documents, TOPIC_LEVELS, "stdlib")


class FolderSource:
    """Text files below a folder; topics are the folders of the path, at most two levels.

    Every file is read once to hash it and to leave out what is not UTF-8 text.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.n_skipped = 0
        self._files: list[str] = []
        digest = hashlib.sha256()
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            if any(part.startswith(".") for part in relative.parts) or not path.is_file():
                continue
            text = _read_text(path)
            if text is None:
                self.n_skipped += 1
                continue
            self._files.append(relative.as_posix())
            digest.update(f"{relative.as_posix()}\0{len(text)}\0{text}".encode())
        self.fingerprint = digest.hexdigest()
        depth = min(2, max((file.count("/") for file in self._files), default=0))
        self.topic_levels = tuple(f"level_{level + 1}" for level in range(depth))

    def __len__(self) -> int:
        return len(self._files)

    def doc_id(self, index: int) -> str:
        """Path below the folder, with forward slashes."""
        return self._files[index]

    def split(self, index: int) -> Split | None:
        """Return None: a folder has no splits."""
        return None

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents."""
        for index in indices:
            file = self._files[index]
            text = _read_text(self._root / file)
            if text is None:
                raise CorpusError(f"{self._root / file} changed while it was being read; run again")
            yield Document(file, text, self._topics(file))

    def _topics(self, file: str) -> tuple[str, ...]:
        folders = file.split("/")[:-1]
        # "a/b", not "b": folders of one name below different parents are different topics.
        return tuple(
            "/".join(folders[: level + 1]) if level < len(folders) else ""
            for level in range(len(self.topic_levels))
        )


def _read_text(path: Path) -> str | None:
    """Text of a file; None where it is binary, undecodable, unreadable or blank."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except (UnicodeDecodeError, OSError):
        return None
    return text if text.strip() and b"\0" not in data else None


class TextSource:
    """A .txt file; a line that holds only ``<|endoftext|>`` ends a document."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.topic_levels: tuple[str, ...] = ()
        self.n_skipped = 0
        self._spans: list[tuple[int, int]] = []
        self.fingerprint = hash_file(path)
        start = end = 0
        blank = True
        with path.open("rb") as stream:
            for line in stream:
                if line.strip() == DOCUMENT_END:
                    self._add(start, end, blank)
                    start, blank = end + len(line), True
                elif line.strip():
                    blank = False
                    self._check(line)
                end += len(line)
        self._add(start, end, blank)

    def _add(self, start: int, end: int, blank: bool) -> None:
        if not blank:
            self._spans.append((start, end))

    def _check(self, line: bytes) -> None:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{self._path} is not UTF-8 text: {error.reason} in {line[:40]!r}; convert it first"
            ) from error

    def __len__(self) -> int:
        return len(self._spans)

    def doc_id(self, index: int) -> str:
        """File name and number of the document."""
        return f"{self._path.name}:{index}"

    def split(self, index: int) -> Split | None:
        """Return None: a text file has no splits."""
        return None

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents."""
        with self._path.open("rb") as stream:
            for index in indices:
                start, end = self._spans[index]
                stream.seek(start)
                yield Document(self.doc_id(index), stream.read(end - start).decode().strip())


class JsonlSource:
    """A file with one JSON object per line; an index of line offsets is kept in memory."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        self._columns = columns
        self.topic_levels = columns.topics
        self.n_skipped = 0
        self.fingerprint = hash_json([hash_file(path), *columns.all])
        self._rows: list[tuple[int, int, Split | None]] = []
        found: dict[str, None] = {}
        offset = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    found.update(dict.fromkeys(self._index(line, number, offset)))
                offset += len(line)
        if found:
            columns.check(list(found), str(path))

    def _index(self, line: bytes, number: int, offset: int) -> list[str]:
        row = self._parse(line, number)
        where = f"{self._path}, line {number}"
        text = row.get(self._columns.text)
        if text is not None and not isinstance(text, str):
            raise CorpusError(f"{where}: {self._columns.text} is {text!r:.40}, expected a string")
        if text is None or not text.strip():
            self.n_skipped += 1
            return list(row)
        column = self._columns.split
        split = parse_split(row.get(column), f"{where}, column {column}") if column in row else None
        if column is not None and split is None:
            raise CorpusError(f"{where} has no field {column}; its fields: {', '.join(row)}")
        self._rows.append((offset, number, split))
        return list(row)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{self._path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{self._path}, line {number} is not a JSON object")
        return row

    def __len__(self) -> int:
        return len(self._rows)

    def doc_id(self, index: int) -> str:
        """File name and line number."""
        return f"{self._path.name}:{self._rows[index][1]}"

    def split(self, index: int) -> Split | None:
        """Split it was given."""
        return self._rows[index][2]

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents."""
        with self._path.open("rb") as stream:
            for index in indices:
                offset, number, split = self._rows[index]
                stream.seek(offset)
                row = self._parse(stream.readline(), number)
                topics = tuple(_topic(row.get(column)) for column in self._columns.topics)
                yield Document(self.doc_id(index), row[self._columns.text], topics, split)
