"""Quality of the labels: the whole pipeline on a subject, as one table.

    .venv/bin/python benchmarks/bench_quality.py builtin
    .venv/bin/python benchmarks/bench_quality.py openstax        # needs ../shared/data
    .venv/bin/python benchmarks/bench_quality.py tinystories     # trains a small coder first

Prints explained@0.7 and recovered by layer and budget beside the plain back-off n-gram's figures
where those are known, and writes benchmarks/results/quality-<subject>.json. Runs (and continues)
in runs/bench-<subject>.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LABELER_SHARED_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"

FLOOR = {
    "openstax": {
        "recovered": {
            "16": (0.814, 0.770, 0.443, 0.275),
            "100": (0.977, 0.894, 0.671, 0.403),
            "unlimited": (0.998, 0.977, 0.912, 0.633),
        },
        "explained": {
            "16": (0.48, 0.35, 0.19, 0.13),
            "100": (0.92, 0.73, 0.38, 0.20),
            "unlimited": (0.98, 0.93, 0.80, 0.32),
        },
        "all_layers": 0.919,
    }
}
"""The prototype of ../shared/data/openstax-subject/README.md: plain back-off n-grams."""


def options(subject: str) -> list[str]:
    """Options of `labeler run` for a subject."""
    if subject == "builtin":
        builtin = ROOT / "labeler" / "builtin"
        return [
            *("--model", str(builtin / "model"), "--coder", str(builtin / "transcoders")),
            *("--corpus", "stdlib", "--tokens", "800000", "--heldout-tokens", "130000"),
        ]
    if subject == "openstax":
        folder = SHARED / "openstax-subject"
        return [
            *("--model", str(folder / "model"), "--coder", str(folder / "transcoders")),
            *("--corpus", str(SHARED / "openstax" / "openstax.parquet")),
            *("--topic-column", "subject", "--topic-column", "book", "--split-column", "split"),
            *("--tokens", "1000000", "--heldout-tokens", "200000"),
        ]
    from train_tinystories import coder_folder, corpus_file

    return [
        *("--model", str(SHARED / "tinystories-656k"), "--coder", str(coder_folder())),
        *("--corpus", str(corpus_file()), "--tokens", "300000", "--heldout-tokens", "50000"),
    ]


def main() -> None:
    subject = sys.argv[1] if len(sys.argv) > 1 else "builtin"
    out = ROOT / "runs" / f"bench-{subject}"
    command = [sys.executable, "-m", "labeler", "run", *options(subject), "--out", str(out)]
    subprocess.run([*command, "--rewrite-tokens", "65536"], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    summary = json.loads((out / "summary.json").read_text())
    print(table(summary, FLOOR.get(subject)))
    print(f"seconds: {summary['timing_s']}; peak memory {peak:.2f} GB")
    RESULTS.mkdir(exist_ok=True)
    result = {"subject": subject, "peak_memory_gb": round(peak, 2), "summary": summary}
    (RESULTS / f"quality-{subject}.json").write_text(json.dumps(result, indent=1) + "\n")


def table(summary: dict[str, Any], floor: dict[str, Any] | None) -> str:
    """A Markdown table; the floor in brackets."""
    lines = [
        "| layer | live | labeled | explained@0.7: 16 / 100 / unlimited "
        "| recovered: 16 / 100 / unlimited | shuffled |",
        "|---|---|---|---|---|---|",
    ]
    for index, (name, entry) in enumerate(summary["hookpoints"].items()):
        cells = []
        for kind in ("explained", "recovered"):
            values = []
            for budget, one in entry["by_budget"].items():
                value = one[kind]["0.7"] if kind == "explained" else one[kind]
                low, high = (
                    one[f"{kind}_interval"]["0.7"]
                    if kind == "explained"
                    else one[f"{kind}_interval"]
                )
                known = f" (floor {floor[kind][budget][index]:.3g})" if floor else ""
                values.append(f"{value:.3f} [{low:.3f}, {high:.3f}]{known}")
            cells.append(" / ".join(values))
        lines.append(
            f"| {name} | {entry['n_live']} | {entry['n_labeled']} | {cells[0]} | {cells[1]} "
            f"| {entry['recovered_shuffled']:.3f} |"
        )
    every = summary["all_layers"]
    values = [f"{one['recovered']:.3f}" for one in every["by_budget"].values()]
    known = f" (floor {floor['all_layers']})" if floor else ""
    lines.append(f"| all at once | | | | {' / '.join(values)}{known} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
