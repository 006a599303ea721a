"""Readers of Parquet files and Hugging Face data sets."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl

from labeler.corpus import Document, Split, parse_split
from labeler.errors import CorpusError
from labeler.readers import Columns
from labeler.store import hash_file, hash_json

_BATCHES = (256, 8192)
"""Documents fetched per scan of a Parquet file: from the first, doubling up to the second."""


_ROW = "__row__"
"""Name of the row index: one that no file uses."""


def _topic(value: object) -> str:
    return "" if value is None else str(value)


class ParquetSource:
    """A Parquet file; texts are fetched in batches, so it is never held whole.

    Memory follows the batch (at most 8,192 texts), time the number of batches, each one scan.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        self._columns = columns
        self.topic_levels = columns.topics
        self.fingerprint = hash_json([hash_file(path), *columns.all])
        try:
            scan = pl.scan_parquet(path)
            schema = scan.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorpusError(f"{path} is not a Parquet file that can be read: {error}") from error
        columns.check(schema.names(), str(path))
        if schema[columns.text] != pl.String:
            raise CorpusError(
                f"{path}: column {columns.text} holds {schema[columns.text]}, expected text"
            )
        small = scan.with_row_index(_ROW).select(
            pl.col(_ROW),
            # str.contains, not a cast of the text: nothing but this flag is kept of it.
            has_text=pl.col(columns.text).str.contains(r"\S").fill_null(False),
            split=pl.col(columns.split) if columns.split else pl.lit(None),
        )
        try:
            rows = small.collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorpusError(f"{path} is damaged: {error}; copy or make it again") from error
        kept = rows.filter(pl.col("has_text"))
        self.n_skipped = rows.height - kept.height
        self._rows: list[int] = kept[_ROW].to_list()
        self._splits: list[Split] | None = None
        if columns.split:
            where = f"{path}, column {columns.split}"
            names = {value: parse_split(value, where) for value in kept["split"].unique().to_list()}
            self._splits = [names[value] for value in kept["split"].to_list()]

    def __len__(self) -> int:
        return len(self._rows)

    def doc_id(self, index: int) -> str:
        """File name and row number, from 0."""
        return f"{self._path.name}:{self._rows[index]}"

    def split(self, index: int) -> Split | None:
        """Split it was given."""
        return None if self._splits is None else self._splits[index]

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents."""
        size, start = _BATCHES[0], 0
        while start < len(indices):
            yield from self._fetch(indices[start : start + size])
            start, size = start + size, min(2 * size, _BATCHES[1])

    def _fetch(self, indices: Sequence[int]) -> Iterator[Document]:
        rows = [self._rows[index] for index in indices]
        wanted = pl.DataFrame(
            {_ROW: rows, "order": range(len(rows))},
            schema={_ROW: pl.get_index_type(), "order": pl.Int64},
        )
        columns = self._columns
        topics = [
            pl.col(name).cast(pl.String).fill_null("").alias(f"topic {level}")
            for level, name in enumerate(columns.topics)
        ]
        scan = pl.scan_parquet(self._path).with_row_index(_ROW)
        found = scan.join(wanted.lazy(), on=_ROW).select(
            "order", pl.col(columns.text).alias("text"), *topics
        )
        try:
            table = found.collect(engine="streaming").sort("order")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorpusError(
                f"{self._path} cannot be read: {error}; topic columns must hold text or numbers"
            ) from error
        for order, text, *values in table.iter_rows():
            index = indices[order]
            yield Document(self.doc_id(index), text, tuple(values), self.split(index))


class DatasetSource:
    """A Hugging Face data set, downloaded once by the ``datasets`` library and memory-mapped.

    Its own split names (train, test, validation) are the split where it has both sides.
    """

    def __init__(self, name: str, columns: Columns) -> None:
        self._name = name
        self._columns = columns
        self.topic_levels = columns.topics
        self.n_skipped = 0
        parts = _load_dataset(name)
        for key, part in parts.items():
            columns.check(list(part.column_names), f"data set {name}, split {key}")
        self._parts = list(parts.items())
        self._ends = list(accumulate(len(part) for _, part in self._parts))
        self._part_splits = _split_of_parts(list(parts))
        self._column_splits: list[Split] | None = None
        if columns.split:
            where = f"data set {name}, column {columns.split}"
            values = [value for _, part in self._parts for value in part[columns.split]]
            names = {value: parse_split(value, where) for value in set(values)}
            self._column_splits = [names[value] for value in values]
        prints = [str(getattr(part, "_fingerprint", len(part))) for _, part in self._parts]
        self.fingerprint = hash_json([name, prints, *columns.all])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _locate(self, index: int) -> tuple[int, int]:
        """Part and row of a document."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    def doc_id(self, index: int) -> str:
        """Data set, split and row number, from 0."""
        part, row = self._locate(index)
        return f"{self._name}:{self._parts[part][0]}:{row}"

    def split(self, index: int) -> Split | None:
        """Split it was given."""
        if self._column_splits is not None:
            return self._column_splits[index]
        return self._part_splits[self._locate(index)[0]]

    def read(self, indices: Sequence[int]) -> Iterator[Document]:
        """Yield these documents; rows without text are left out."""
        for index in indices:
            part, row = self._locate(index)
            record: dict[str, Any] = self._parts[part][1][row]
            text = record[self._columns.text]
            if not isinstance(text, str | None):
                raise CorpusError(
                    f"data set {self._name}: column {self._columns.text} is {text!r:.40}, "
                    "expected text"
                )
            if text and text.strip():
                topics = tuple(_topic(record[column]) for column in self._columns.topics)
                yield Document(self.doc_id(index), text, topics, self.split(index))


def _split_of_parts(names: Sequence[str]) -> list[Split | None]:
    """Fit and held-out by the data set's own splits, where both exist; else a hashed split."""
    known: list[Split | None] = []
    for name in names:
        try:
            known.append(parse_split(name, name))
        except CorpusError:
            known.append(None)
    return known if {"fit", "heldout"} <= set(known) else [None] * len(names)


def _load_dataset(name: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"corpus {name} is no file or folder here, and reading it as a Hugging Face data set "
            'needs the datasets library: pip install "labeler[datasets]"'
        ) from error
    repository, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:
        # The library raises its own, the hub's, requests' and the operating system's types.
        raise CorpusError(
            f"corpus {name} is no file or folder here, and cannot be loaded as a Hugging Face data "
            f"set: {type(error).__name__}: {error}"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
