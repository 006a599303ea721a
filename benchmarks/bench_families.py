"""What each family of function types buys: an ablation, families added one after another.

    .venv/bin/python benchmarks/bench_families.py openstax       # needs ../shared/data
    .venv/bin/python benchmarks/bench_families.py builtin
    .venv/bin/python benchmarks/bench_families.py openstax layers.1.mlp layers.3.mlp   # only these

Fits the same cache again and again, each time with one more family, and prints per layer and
budget explained@0.7 and recovered, with the seconds of the fit. It takes a part of the text of
bench_quality (FIT_TOKENS), so the figures lie below those. The order of the families matters: it
is that of labeler.config.FAMILIES. Writes benchmarks/results/families-<subject>.json; runs in
runs/bench-families-<subject>.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from bench_quality import RESULTS, ROOT, options

from labeler.builtin import model_path, transcoders_path
from labeler.config import CORRECTIONS, FAMILIES, RunConfig
from labeler.steps import cache, fit, rewrite, start, verify
from labeler.store import read_json, write_json

FIT_TOKENS, HELDOUT_TOKENS, REWRITE_TOKENS = 150_000, 60_000, 8_192


def config(subject: str, hookpoints: tuple[str, ...]) -> RunConfig:
    """The settings of bench_quality on less text, and for some hookpoints only."""
    if subject == "builtin":
        return RunConfig(
            model=str(model_path()),
            coder=str(transcoders_path()),
            corpus="stdlib",
            tokens=FIT_TOKENS,
            heldout_tokens=HELDOUT_TOKENS,
            hookpoints=hookpoints,
        )
    given = options(subject)
    value = dict(zip(given[::2], given[1::2], strict=True))
    topics = tuple(b for a, b in zip(given[::2], given[1::2], strict=True) if a == "--topic-column")
    return RunConfig(
        model=value["--model"],
        coder=value["--coder"],
        corpus=value["--corpus"],
        topic_columns=topics,
        split_column=value.get("--split-column"),
        tokens=FIT_TOKENS,
        heldout_tokens=HELDOUT_TOKENS,
        hookpoints=hookpoints,
    )


def measure(
    folder: Path, settings: RunConfig, functions: list[str], corrections: list[str]
) -> dict[str, Any]:
    """Fit, verify and rewrite with these types; figures by hookpoint, and seconds."""
    for name in ("labels", "verify", "rewrite", "timing.json"):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    run = start(folder, settings)
    fit(run, functions, print, corrections)
    verify(run, print)
    rewrite(run, REWRITE_TOKENS, print)
    found: dict[str, Any] = {"seconds": read_json(folder / "timing.json", ValueError, "")}
    for name in (*run.hookpoints, "all_layers"):
        rewritten = read_json(folder / "rewrite" / f"{name}.json", ValueError, "")
        found[name] = {"recovered": rewritten["recovered"]}
        if name != "all_layers":
            explained = read_json(folder / "verify" / name / "explained.json", ValueError, "")
            found[name]["explained"] = {
                budget: shares["0.7"] for budget, shares in explained["explained"].items()
            }
    return found


def main() -> None:
    subject = sys.argv[1] if len(sys.argv) > 1 else "builtin"
    folder = ROOT / "runs" / f"bench-families-{subject}"
    settings = config(subject, tuple(sys.argv[2:]))
    cache(start(folder, settings), print)
    path = RESULTS / f"families-{subject}.json"
    steps: list[tuple[str, list[str], list[str]]] = []
    functions: list[str] = []
    for family, names in FAMILIES.items():
        functions = [*functions, *names]
        known = [c for c in CORRECTIONS if set(c.split("+")) <= set(functions)]
        steps.append((family, functions, known))
    rows: dict[str, Any] = {}
    for family, names, corrections in steps:
        rows[family] = measure(folder, settings, names, corrections)
        write_json(path, {"subject": subject, "fit_tokens": FIT_TOKENS, "families": rows})
        print(table(rows))


def table(rows: dict[str, Any]) -> str:
    """A Markdown table, a row per family added."""
    layers = [name for name in next(iter(rows.values())) if name not in ("seconds", "all_layers")]
    lines = [
        "| families so far | "
        + " | ".join(f"{name}: explained; recovered" for name in layers)
        + " | all at once: recovered | fit, s |",
        "|---" * (len(layers) + 3) + "|",
    ]
    for family, found in rows.items():
        cells = []
        for name in layers:
            explained = "/".join(f"{one['share']:.2f}" for one in found[name]["explained"].values())
            recovered = "/".join(f"{o['value']:.2f}" for o in found[name]["recovered"].values())
            cells.append(f"{explained}; {recovered}")
        every = "/".join(f"{o['value']:.2f}" for o in found["all_layers"]["recovered"].values())
        cells.append(every)
        cells.append(f"{found['seconds']['fit']:.0f}")
        lines.append(f"| + {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
