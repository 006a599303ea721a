"""Reading anybody's explanations: which format it is, and one `Explanations` from all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from labeler.errors import ExplanationError, OptionError
from labeler.explanations import Explanations
from labeler.interop import (
    annotations,
    delphi_results,
    neuronpedia,
    openai_neurons,
    seed_results,
    tables,
)
from labeler.interop.bounded import files_below, stored_size
from labeler.interop.collect import Collector
from labeler.progress import progress_bar


@dataclass(frozen=True)
class ExplanationFormat:
    """One way in which people store explanations.

    Attributes
    ----------
    layout : str
        What its files look like, for messages.
    owns : callable
        Whether a file is one of it; looks at its name and its beginning.
    read : callable
        Reads files of it; the first argument is what the user pointed at.
    """

    layout: str
    owns: Callable[[Path], bool]
    read: Callable[[Path, Sequence[Path], Collector], None]


FORMATS: Mapping[str, ExplanationFormat] = MappingProxyType(
    {
        "delphi": ExplanationFormat(
            "explanations/<hookpoint>_latent<i>.txt and scores/<scorer>/ of the same names",
            delphi_results.owns,
            delphi_results.read,
        ),
        "neuronpedia": ExplanationFormat(
            "JSON or JSONL(.gz) records with modelId, layer and index",
            neuronpedia.owns,
            neuronpedia.read,
        ),
        "openai": ExplanationFormat(
            "JSON or JSONL with scored_explanations or most_positive_activation_records",
            openai_neurons.owns,
            openai_neurons.read,
        ),
        "seed": ExplanationFormat(
            "eval_results.jsonl(.gz) with layer, latent_index, type, activation_value and success",
            seed_results.owns,
            seed_results.read,
        ),
        "annotations": ExplanationFormat(
            "JSONL with Name (resid_0/2494) and Annotation, or with top_contexts",
            annotations.owns,
            annotations.read,
        ),
        "table": ExplanationFormat(
            "CSV, TSV, JSON, JSONL or Parquet with columns hookpoint, latent and text",
            tables.owns,
            tables.read,
        ),
    }
)
"""Formats by name, in the order in which they are tried."""


def read_explanations(
    path: str | Path,
    *,
    format: str | None = None,
    hookpoint: str | None = None,
    contexts_per_latent: int = 40,
) -> Explanations:
    """Read explanations, and the contexts and scores that come with them.

    Parameters
    ----------
    path : str or Path
        A file, or a folder whose files are merged.
    format : str, optional
        A name of `FORMATS`; by default it is recognised from names and contents.
    hookpoint : str, optional
        Where the latents sit, if the files do not say it or give a name that is not known.
        ``{layer}`` in it stands for the number of the layer that they do give
        (``layers.{layer}.mlp``).
    contexts_per_latent : int
        Contexts kept of a latent: as many of each kind, from the strongest to the weakest.

    Raises
    ------
    ExplanationError
        If nothing is there, it is of no known format, damaged, or holds no usable record.
    OptionError
        If `format` is no format, or another option cannot be used.
    """
    root = Path(path).expanduser()
    if format is not None and format not in FORMATS:
        raise OptionError(f"format {format!r} is not known; formats: {', '.join(FORMATS)}")
    files = files_below(root)
    name, own, aside = _recognised(root, files) if format is None else _forced(root, files, format)
    total = sum(map(stored_size, own))
    with progress_bar("reading explanations", total) as advance:
        into = Collector(
            root, hookpoint=hookpoint, contexts_per_latent=contexts_per_latent, advance=advance
        )
        FORMATS[name].read(root, own, into)
        if aside:
            into.note(
                f"{len(aside):,} tables in the folder were left aside (first: {aside[0]}); name "
                "one itself to read it"
            )
        return into.finish(name)


def _recognised(
    root: Path, files: Sequence[Path]
) -> tuple[str, tuple[Path, ...], tuple[Path, ...]]:
    """Format, its files, and tables beside them."""
    owned: dict[str, list[Path]] = {}
    for file in files:
        for name, one in FORMATS.items():
            if one.owns(file):
                owned.setdefault(name, []).append(file)
                break
    # A single file that nobody knows is most likely a table with other columns: its reader says so.
    if not owned and root.is_file():
        return "table", tuple(files), ()
    # Runs keep summaries of themselves beside what they stored.
    beside = owned.pop("table", []) if len(owned) > 1 else []
    if len(owned) > 1:
        raise ExplanationError(
            f"{root} holds several formats: "
            + "; ".join(f"{name} ({found[0].name})" for name, found in owned.items())
            + "; point at one of them, or name a format with --format"
        )
    for name, found in owned.items():
        return name, tuple(found), tuple(beside)
    raise ExplanationError(f"{root} holds no explanations that are known. {_layouts()}")


def _forced(
    root: Path, files: Sequence[Path], name: str
) -> tuple[str, tuple[Path, ...], tuple[Path, ...]]:
    own = tuple(files) if root.is_file() else tuple(filter(FORMATS[name].owns, files))
    if not own:
        raise ExplanationError(
            f"{root} holds nothing of format {name}, which is {FORMATS[name].layout}"
        )
    return name, own, ()


def _layouts() -> str:
    known = "; ".join(f"{name}: {one.layout}" for name, one in FORMATS.items())
    return f"Layouts known: {known}"
