"""Labels as Neuronpedia's explanation files.

``<source id>/explanations/batch-<n>.jsonl.gz``: a line per explanation with the columns of
Neuronpedia's table. Its import takes the columns of the first line, so every line has the same.
Scores are a table of their own there, which the export does not hold: they are said in ``notes``.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labeler import __version__
from labeler.errors import OptionError
from labeler.hookpoints import parse_hookpoint
from labeler.interop.export_files import write_files
from labeler.interop.export_labels import ExportedLabels

BATCH = 1024
"""Explanations of a file, as in Neuronpedia's own export."""

TYPE_NAME = "labeler"
"""Neuronpedia's ``ExplanationType``, which its administrator must add before importing."""

AUTHOR = "clkht01d40000jv08hvalcvly"
"""The default user of every Neuronpedia database, the author of what its own export holds."""

_SITES = {"": "res", "mlp": "mlp", "self_attn": "att"}


def export_neuronpedia(
    labels: Sequence[ExportedLabels],
    dest: Path,
    *,
    model_id: str,
    source_id: str | None = None,
    zipped: bool = True,
    quiet: bool = False,
) -> list[str]:
    """Write explanation batches of every hookpoint; returns the source ids.

    Parameters
    ----------
    labels : sequence of ExportedLabels
    dest : Path
        The folder of a model's sources.
    model_id : str
        Neuronpedia's name of the model: ``gemma-2-2b``.
    source_id : str, optional
        Of each hookpoint; ``{layer}`` and ``{site}`` (res, mlp or att) stand for its own. Without
        it ``{layer}-labeler-{site}``.
    zipped : bool
        ``.jsonl.gz`` rather than ``.jsonl``.
    quiet : bool
        Show no progress.

    Raises
    ------
    OptionError
        If two hookpoints would get the same source id, or an id is no name of a folder.
    ExplanationError
        If a file is there that labeler did not write.
    """
    names = [source_of(one.hookpoint, source_id) for one in labels]
    if len(set(names)) < len(names):
        raise OptionError(
            f"--source-id {source_id!r} names {len(names)} hookpoints alike; write {{layer}} and "
            "{site} into it, or choose one --hookpoint"
        )
    files: dict[str, bytes] = {}
    for name, one in zip(names, labels, strict=True):
        lines = list(_lines(one, model_id, name))
        for number, begin in enumerate(range(0, len(lines), BATCH)):
            data = "".join(line + "\n" for line in lines[begin : begin + BATCH]).encode()
            path = f"{name}/explanations/batch-{number}.jsonl"
            # mtime 0: the same labels give the same bytes.
            files |= {f"{path}.gz": gzip.compress(data, 6, mtime=0)} if zipped else {path: data}
    write_files(dest, files, [f"{name}/explanations/batch-" for name in names], quiet=quiet)
    return names


def source_of(hookpoint: str, pattern: str | None) -> str:
    """Source id of a hookpoint.

    Examples
    --------
    >>> source_of("layers.6.mlp", None)
    '6-labeler-mlp'
    >>> source_of("layers.6", "{layer}-res-jb")
    '6-res-jb'
    """
    place = parse_hookpoint(hookpoint)
    site = _SITES[place.name.partition(f"layers.{place.layer}")[2].lstrip(".")]
    name = (pattern or "{layer}-labeler-{site}").replace("{layer}", str(place.layer))
    name = name.replace("{site}", site)
    if not name or name.startswith(".") or any(one in name for one in "/\\{}\0"):
        raise OptionError(
            f"--source-id gives {name!r} for {hookpoint}; give a name such as 6-res-jb, with "
            "{layer} and {site} for those of the hookpoint"
        )
    return name


def _lines(labels: ExportedLabels, model_id: str, source: str) -> Iterator[str]:
    created = labels.made.strftime("%Y-%m-%d %H:%M:%S")
    for row in labels.rows.iter_rows(named=True):
        content = json.dumps([model_id, source, row["latent"], row["text"]])
        record = {
            # Ids there are 25 characters from a letter on; the same label keeps its id.
            "id": "c" + hashlib.sha256(content.encode()).hexdigest()[:24],
            "modelId": model_id,
            "layer": source,
            "index": str(row["latent"]),
            "authorId": AUTHOR,
            "description": row["text"],
            "typeName": TYPE_NAME,
            "explanationModelName": f"labeler {__version__}",
            "notes": _notes(row),
            "createdAt": created,
            "updatedAt": created,
        }
        yield json.dumps(record)


def _notes(row: dict[str, Any]) -> str:
    parts = [f"function type {row['type']}", f"{row['keys']} keys"]
    if row["f1"] is not None:
        parts.append(f"held-out F1 {row['f1']:.3f} [{row['f1_low']:.3f}, {row['f1_high']:.3f}]")
    if row["precision"] is not None and row["recall"] is not None:
        parts.append(f"precision {row['precision']:.3f}, recall {row['recall']:.3f}")
    if row["verdict"] is not None:
        parts.append(f"verdict {row['verdict']}")
    return "; ".join(parts)
