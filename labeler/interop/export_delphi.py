"""Labels as delphi's explanation files, which its scorers read (``explainer: none``)."""

import json
from collections.abc import Sequence
from pathlib import Path

from labeler.interop.export_files import write_files
from labeler.interop.export_labels import ExportedLabels


def export_delphi(labels: Sequence[ExportedLabels], dest: Path, *, quiet: bool = False) -> None:
    """Write ``explanations/<hookpoint>_latent<i>.txt`` below `dest`, a JSON string in each.

    `dest` is the folder of a delphi run (``results/<name>``), such as `write_delphi_cache` makes.

    Raises
    ------
    ExplanationError
        If a file is there that labeler did not write.
    """
    files = {
        f"explanations/{one.hookpoint}_latent{latent}.txt": _json(text)
        for one in labels
        for latent, text in one.rows.select("latent", "text").iter_rows()
    }
    replaces = [f"explanations/{one.hookpoint}_latent" for one in labels]
    write_files(dest, files, replaces, quiet=quiet)


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
