"""The run's report on its audits, as plain dicts."""

from pathlib import Path
from typing import Any

import polars as pl

from labeler.errors import RunError
from labeler.inputs import Run
from labeler.report.audit import TEXTS, beside, rule_means, verdict_table
from labeler.report.audit_text import cut
from labeler.report.glyphs import visible
from labeler.store import read_json


def audit_section(run: Run) -> dict[str, Any] | None:
    """Audits in a run's folder, for its report; None where there is none.

    Raises
    ------
    RunError
        If one of them cannot be read; names the file.
    """
    audits = [_one_audit(path.parent) for path in sorted(run.out.glob("audit/*/audit.json"))]
    return {"audits": audits} if audits else None


def _one_audit(folder: Path) -> dict[str, Any]:
    cure = f"run `labeler audit` again, or delete {folder}"
    facts = read_json(folder / "audit.json", RunError, cure)
    path = folder / "audit.parquet"
    try:
        frame = pl.read_parquet(path)
        return {
            "name": visible(folder.name),
            "link": f"audit/{folder.name}/audit.html",
            "source": visible(cut(str(facts["source"]), 200)["text"]),
            "read_as": facts["read_as"],
            "text": TEXTS[facts["text"]["kind"]],
            "n": facts["n"],
            "verdicts": verdict_table(frame),
            "beside": beside(frame),
            "with_rules": rule_means(frame),
            "n_suspicious": len(facts["suspicious"]),
        }
    except (OSError, pl.exceptions.PolarsError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {cure}") from error
