"""Plain tables of explanations: CSV, TSV, JSONL, JSON, Parquet, and what `labeler explain` writes.

Columns are known by common names, in any case. The whole of a CSV or JSON file is held; JSONL and
Parquet are read bit by bit.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl

from labeler.errors import ExplanationError
from labeler.interop.bounded import MAX_WHOLE, Json, keys_of, read_whole, starts_with
from labeler.interop.checks import DamagedError, latent_of, number_of, text_of
from labeler.interop.collect import Collector
from labeler.interop.neuronpedia import hookpoint_of_source

HOOKPOINT = ("hookpoint", "layer", "site", "source", "module", "hook_name")
LATENT = (
    *("latent", "index", "feature", "neuron", "latent_index", "latent_id", "feature_id"),
    *("feature_index", "neuron_index"),
)
TEXT = ("text", "explanation", "description", "label", "annotation")
AUTHOR = ("author", "explanationmodelname", "explainer", "explainer_model", "model")

MAX_ROWS = 20_000_000
MAX_COLUMNS = 10_000
_SLICE = 20_000
"""Rows of a Parquet file that are held at a time."""

_PUBLISHED = "published"
_JSON = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_PARQUET = ".parquet"
_ZSTD = b"\x28\xb5\x2f\xfd"
_POLARS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What polars raises on damaged files; on some it panics."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Attributes
    ----------
    hookpoint : str or None
        None where no column says it.
    latent, text : str
    author : str or None
    scores : tuple of str
        Columns with "score" in their name, numbers or not.
    """

    hookpoint: str | None
    latent: str
    text: str
    author: str | None
    scores: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every column that is read."""
        named = (self.hookpoint, self.latent, self.text, self.author)
        return tuple(dict.fromkeys([*(name for name in named if name), *self.scores]))


def columns_of(names: Sequence[str], where: object) -> Columns:
    """Find the columns of a table.

    ``hookpoint`` and ``latent`` stand before other names of the same; of the names of the text only
    one may be there, unless ``hookpoint``, ``latent`` and ``text`` all are.

    Raises
    ------
    ExplanationError
        If a column is missing or two might be it; the message lists the columns found.
    """
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(name.strip().lower().replace(" ", "_"), name)
    own = {"hookpoint", "latent", "text"} <= by_name.keys()
    return Columns(
        hookpoint=_one(by_name, HOOKPOINT, "hookpoint", names, where, needed=False),
        latent=_one(by_name, LATENT, "latent", names, where) or "",
        text=by_name["text"] if own else _one(by_name, TEXT, "text", names, where) or "",
        author=next((by_name[name] for name in AUTHOR if name in by_name), None),
        scores=tuple(name for key, name in by_name.items() if "score" in key or key == _PUBLISHED),
    )


def _one(
    by_name: Mapping[str, str],
    known: Sequence[str],
    role: str,
    names: Sequence[str],
    where: object,
    *,
    needed: bool = True,
) -> str | None:
    found = [by_name[name] for name in known if name in by_name]
    # "text" is also what people call the texts that latents fire on.
    if len(found) == 1 or (found and known[0] in by_name and role != "text"):
        return found[0]
    listed = ", ".join(names[:30]) or "none"
    if found:
        raise ExplanationError(
            f"{where}: columns {' and '.join(found)} could each be the {role}; keep one, or name "
            f"it {role} and the others otherwise; its columns: {listed}"
        )
    if needed:
        raise ExplanationError(
            f"{where} has no column for the {role}; name one {role} (also known: "
            f"{', '.join(name for name in known if name != role)}); its columns: {listed}"
        )
    return None


def owns(file: Path) -> bool:
    """Whether a file in a folder is a table with a column for the latent and one for the text."""
    if file.name.endswith(_JSON):
        names = {name.lower() for name in keys_of(file)}
        return bool(names & set(TEXT)) and bool(names & set(LATENT))
    try:
        if file.name.endswith(_CSV):
            columns_of(_header(file), file)
        elif file.name.endswith(_PARQUET):
            columns_of(_scan(file)[1].names(), file)
        else:
            return False
    except ExplanationError:
        return False
    return True


def read(root: Path, files: Sequence[Path], into: Collector) -> None:
    """Read tables; what kind a file is follows from its name.

    Raises
    ------
    ExplanationError
        If a file is of another kind, damaged, too large, or lacks a column.
    """
    for file in into.through(files):
        if file.name.endswith(_PARQUET):
            _read_frames(file, _parquet(file), into)
        elif file.name.endswith(_CSV):
            _read_frames(file, _csv(file), into)
        elif file.name.endswith(_JSON):
            _read_json(file, into)
        else:
            raise ExplanationError(
                f"{file} has none of the names of a table ({', '.join((*_CSV, *_JSON, _PARQUET))});"
                " rename it, or name its format with --format"
            )


def _read_json(file: Path, into: Collector) -> None:
    @cache
    def columns(names: tuple[str, ...]) -> Columns:
        return columns_of(names, file)

    first: list[str] = []

    def take(record: dict[str, Json], where: str) -> None:
        try:
            found = columns(tuple(record))
        except ExplanationError:
            if not first:
                raise
            raise DamagedError("record without the columns of the first", list(record)) from None
        first[:] = [where]
        _take(record, found, where, into)

    into.each(file, take)


def _read_frames(file: Path, frames: Iterator[pl.DataFrame], into: Collector) -> None:
    number = 0
    columns: Columns | None = None
    for frame in frames:
        columns = columns or columns_of(frame.columns, file)
        scores = [name for name in columns.scores if _holds_scores(frame[name])]
        kept = Columns(
            columns.hookpoint, columns.latent, columns.text, columns.author, tuple(scores)
        )
        for row in frame.select(kept.all).iter_rows(named=True):
            number += 1
            where = f"{file}, row {number}"
            with into.counting(where):
                _take(row, kept, where, into)


def _holds_scores(column: pl.Series) -> bool:
    """Whether a column has numbers, as such or as text, or is the JSON of several."""
    if column.name.strip().lower() == _PUBLISHED:
        return True
    if column.dtype != pl.String:
        return column.dtype.is_numeric()
    values = column.drop_nulls().str.strip_chars()
    return bool(values.filter(values != "").cast(pl.Float64, strict=False).is_not_null().all())


def _take(row: Mapping[str, Json], columns: Columns, where: str, into: Collector) -> None:
    latent = latent_of(row.get(columns.latent))
    text = text_of(row.get(columns.text), "text")
    author = row.get(columns.author) if columns.author else None
    into.add(
        _place(row, columns, into),
        latent,
        text,
        author=author if isinstance(author, str) else "",
        published=_published(row, columns),
        origin=where,
    )


def _place(row: Mapping[str, Json], columns: Columns, into: Collector) -> str:
    if columns.hookpoint is None:
        return into.default_place("no column hookpoint")
    value = row.get(columns.hookpoint)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(latent_of(value))
    said = text_of(value, "hookpoint").strip()
    if not said:
        raise DamagedError("record without a hookpoint")
    if said.isdecimal():
        # The number of a layer: it may be the residual stream, the MLP or the attention.
        return into.layer_place(said, columns.hookpoint)
    return into.place_of(said, hookpoint_of_source("", said))


def _published(row: Mapping[str, Json], columns: Columns) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in columns.scores:
        value = row.get(name)
        if name.strip().lower() == _PUBLISHED:
            found |= _scores_in(value)
        elif (number := number_of(value)) is not None:
            found[name] = number
    return found


def _scores_in(value: Json) -> dict[str, float]:
    """Scores of an object, or of the JSON of one; what is no number is left out."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(value, dict):
        return {}
    return {name: number for name, one in value.items() if (number := number_of(one)) is not None}


def _header(file: Path) -> list[str]:
    """Names in the first line of a CSV file; of a small part of it, however long it is."""
    try:
        data = read_whole(file)
    except ExplanationError:
        return []
    line = data.split(b"\n", 1)[0][: 1 << 16].decode("utf-8-sig", "replace").strip()
    return [name.strip('"') for name in line.split(_separator(file))]


def _separator(file: Path) -> str:
    return "\t" if ".tsv" in file.suffixes else ","


def _csv(file: Path) -> Iterator[pl.DataFrame]:
    if starts_with(file) == _ZSTD:
        raise ExplanationError(f"{file} is compressed with zstd; inflate it first")
    data = read_whole(file).removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ExplanationError(
            f"{file}, line {line} is not UTF-8 text: {error.reason}; convert it first"
        ) from error
    if not data.strip():
        raise ExplanationError(f"{file} is empty; check that it is complete")
    if data.split(b"\n", 1)[0].count(_separator(file).encode()) > MAX_COLUMNS:
        raise ExplanationError(f"{file} has more than {MAX_COLUMNS:,} columns")
    try:
        frame = pl.read_csv(io.BytesIO(data), separator=_separator(file), infer_schema=False)
    except _POLARS as error:
        raise ExplanationError(
            f"{file} is no table that can be read: {str(error)[:200]}; quote fields that contain "
            "the separator or a line break"
        ) from error
    yield frame


def _scan(file: Path) -> tuple[pl.LazyFrame, pl.Schema]:
    try:
        scan = pl.scan_parquet(file, glob=False, hive_partitioning=False)
        return scan, scan.collect_schema()
    except _POLARS as error:
        raise ExplanationError(
            f"{file} is not a Parquet file that can be read: {str(error)[:200]}; copy or make it "
            "again"
        ) from error


def _parquet(file: Path) -> Iterator[pl.DataFrame]:
    scan, schema = _scan(file)
    columns = columns_of(schema.names(), file)
    if schema[columns.text] != pl.String:
        raise ExplanationError(
            f"{file}: column {columns.text} holds {schema[columns.text]}, expected text"
        )
    try:
        n_rows = int(scan.select(pl.len()).collect().item())
        if n_rows > MAX_ROWS:
            raise ExplanationError(f"{file} has {n_rows:,} rows; at most {MAX_ROWS:,} are read")
        for start in range(0, max(n_rows, 1), _SLICE):
            frame = scan.select(columns.all).slice(start, _SLICE).collect()
            # A dictionary can repeat one huge text without taking room.
            size = int(frame[columns.text].str.len_bytes().sum())
            if size > MAX_WHOLE:
                raise ExplanationError(
                    f"{file}, from row {start + 1}: {size:,} bytes of explanations in {_SLICE:,} "
                    f"rows; at most {MAX_WHOLE:,} are read"
                )
            yield frame
    except _POLARS as error:
        raise ExplanationError(
            f"{file} is damaged: {str(error)[:200]}; copy or make it again"
        ) from error
