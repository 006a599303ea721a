"""What is exported of a run's labels: a row per labeled latent, with its held-out scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from labeler.analysis import labeled_hookpoints, read_labels
from labeler.errors import OptionError, RunError
from labeler.hookpoints import parse_hookpoint
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.provenance import is_done
from labeler.steps import labels_key
from labeler.store import read_json

SCORES = (
    "f1",
    "f1_low",
    "f1_high",
    "precision",
    "recall",
    "auroc",
    "average_precision",
    "pearson",
    "r2",
)
"""Scores on held-out documents, by their names in ``verify/<hookpoint>/latents.parquet``."""

COLUMNS = (
    *("hookpoint", "latent", "type", "text"),
    *SCORES,
    *("n_heldout", "threshold", "keys", "verdict"),
)
"""Columns of an exported table."""


@dataclass(frozen=True, eq=False)
class ExportedLabels:
    """The labels of one hookpoint, as they are exported.

    Attributes
    ----------
    hookpoint : str
    rows : polars.DataFrame
        `COLUMNS`; a row per labeled latent, ascending. Scores and verdict are null where they
        were not measured on the present labels.
    n_unlabeled : int
        Latents without a label, which have no row.
    scored : bool
        Whether there are scores.
    made : datetime
        When the labels were fitted.
    """

    hookpoint: str
    rows: pl.DataFrame
    n_unlabeled: int
    scored: bool
    made: datetime


def gather(run: Run, hookpoints: Sequence[str] = ()) -> list[ExportedLabels]:
    """Read the labels of some hookpoints, in layer order; all that have labels where empty.

    Raises
    ------
    OptionError
        If one asked for has no labels.
    LabelError, RunError
        If there are none at all, or a file is damaged.
    """
    known = labeled_hookpoints(run.out)
    wanted = {parse_hookpoint(name).name for name in hookpoints}
    if unknown := sorted(wanted - set(known)):
        raise OptionError(
            f"{run.out} has no labels of {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return [_gather(run, name) for name in known if not wanted or name in wanted]


def _gather(run: Run, hookpoint: str) -> ExportedLabels:
    folder = label_folder(run.out, hookpoint)
    latents = LabelSet.load_latents(folder)
    entries = read_labels(folder, "entries")
    keys = entries.filter(pl.col("budget") == READABLE).group_by("latent").len("keys")
    scores, verdicts = _scores(run, hookpoint), _verdicts(run, hookpoint)
    rows = (
        latents.filter(pl.col("status") == "labeled")
        .rename({"function_type": "type", f"threshold_{READABLE}": "threshold"})
        .with_columns(pl.lit(hookpoint).alias("hookpoint"))
        .join(keys, on="latent", how="left", maintain_order="left")
        .join(scores, on="latent", how="left", maintain_order="left")
        .join(verdicts, on="latent", how="left", maintain_order="left")
        .with_columns(
            pl.col("latent").cast(pl.Int64),
            pl.col("keys").fill_null(0).cast(pl.Int64),
            pl.col("threshold").cast(pl.Float64),
            pl.col(SCORES).fill_nan(None),
        )
        .select(COLUMNS)
    )
    made = datetime.fromtimestamp((folder / "manifest.json").stat().st_mtime, UTC)
    return ExportedLabels(hookpoint, rows, len(latents) - len(rows), len(scores) > 0, made)


def _scores(run: Run, hookpoint: str) -> pl.DataFrame:
    """Scores of the present labels by latent; no rows where there are none."""
    folder = run.out / "verify" / hookpoint
    schema = {
        "latent": pl.Int32,
        "n_heldout": pl.Int64,
        **dict.fromkeys(SCORES, pl.Float64),
        "budget": pl.String,
    }
    path = folder / "latents.parquet"
    if not path.exists() or not is_done(folder / "done.json", labels_key(run, hookpoint)):
        return pl.DataFrame(schema=schema)
    return _read(path, schema).filter(pl.col("budget") == str(READABLE))


def _verdicts(run: Run, hookpoint: str) -> pl.DataFrame:
    """Verdicts on the present labels by latent; no rows where there are none."""
    folder = run.out / "verify" / hookpoint
    schema = {"latent": pl.Int32, "verdict": pl.String}
    tests, path = folder / "tests.json", folder / "verdicts.parquet"
    if tests.exists() and path.exists():
        found = read_json(tests, RunError, f"delete {tests}")
        if isinstance(found, dict) and found.get("labels") == labels_key(run, hookpoint):
            return _read(path, schema)
    return pl.DataFrame(schema=schema)


def _read(path: object, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
    try:
        return pl.read_parquet(str(path), columns=list(schema)).cast(schema)  # type: ignore[arg-type]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run `labeler verify` again") from error
