"""Labels as one table: CSV, TSV or Parquet."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from labeler.interop.export_files import write_file
from labeler.interop.export_labels import COLUMNS, ExportedLabels

Kind = Literal["csv", "tsv", "parquet"]

_SEPARATOR = {"csv": ",", "tsv": "\t"}


def export_table(labels: Sequence[ExportedLabels], dest: Path, kind: Kind) -> None:
    """Write `COLUMNS` of all labels to one file; scores that are not known are empty.

    Raises
    ------
    ExplanationError
        If `dest` is a file that was not written so.
    """
    table = pl.concat([one.rows for one in labels])
    buffer = io.BytesIO()
    if kind == "parquet":
        table.write_parquet(buffer)
    else:
        table.write_csv(buffer, separator=_SEPARATOR[kind])
    write_file(dest, buffer.getvalue(), is_ours=dest.is_file() and _is_ours(dest, kind))


def _is_ours(path: Path, kind: Kind) -> bool:
    """Whether a file has just our columns."""
    try:
        if kind == "parquet":
            return tuple(pl.read_parquet_schema(path)) == COLUMNS
        with path.open("rb") as stream:
            return stream.readline(4096).rstrip() == _SEPARATOR[kind].join(COLUMNS).encode()
    except (OSError, pl.exceptions.PolarsError):
        return False
