"""The seed study's table, recomputed, and what its criterion makes of random labels.

    .venv/bin/python benchmarks/bench_seed_protocol.py [RUN] [LATENTS]

Prints the published table beside the one that follows from the study's own results (needs
../shared/data), then runs the study's protocol on some labeled latents of each hookpoint of a run
folder (runs/demo, 82 latents as in the study) with their own and with random labels, and writes
benchmarks/results/seed-protocol.json. The run folder needs `labeler fit`; sentences are pieces of
its held-out text.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labeler.eval.claims import Claims
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.scene import Scene
from labeler.eval.seed_probes import KINDS
from labeler.eval.seed_protocol import PUBLISHED, published_table, seed_protocol
from labeler.eval.subject import ModelSubject
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.statistics import load_fit_firings

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LABELER_SHARED_DATA", ROOT.parent / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"

SEED = 0


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "demo"
    n_latents = int(sys.argv[2]) if len(sys.argv) > 2 else 82
    result: dict[str, Any] = {"n_latents": n_latents, "seed": SEED}
    path = SHARED / "seed-results" / "eval_results.jsonl.gz"
    if path.is_file():
        table = published_table(path)
        print(published(table))
        result["published"] = table.to_dicts()
    else:
        print(f"no {path}: the published table is left out; set LABELER_SHARED_DATA")
    result["run"] = {"name": folder.name, "hookpoints": on_run(folder, n_latents)}
    print(by_hookpoint(result["run"]["hookpoints"]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "seed-protocol.json").write_text(json.dumps(result, indent=1) + "\n")


def on_run(folder: Path, n_latents: int) -> dict[str, Any]:
    """The protocol on every hookpoint of a run folder."""
    run = Run(folder, quiet=True)
    subject = ModelSubject(run.model, run.coders)
    fit, heldout = run.tokens.fit, run.tokens.heldout
    found = {}
    for name in run.hookpoints:
        begun = time.perf_counter()
        labels = LabelSet.load(label_folder(run.out, name))
        labeled = np.flatnonzero(labels.labeled)
        rng = np.random.default_rng(SEED)
        latents = rng.choice(labeled, min(n_latents, len(labeled)), replace=False)
        scene = Scene.make(
            subject,
            Claims(labels),
            fit.select(np.arange(1)),  # keys are not needed here
            heldout,
            load_heldout_firings(run.cache, name, run.tokens),
            latents,
            seed=SEED,
        )
        made = seed_protocol(scene, fit, load_fit_firings(run.cache, name, run.tokens))
        found[name] = made.summary() | {"seconds": round(time.perf_counter() - begun, 1)}
    return found


def published(table: pl.DataFrame) -> str:
    """The published shares beside the recomputed ones, and the counts of probes."""
    lines = ["| layer | published | recomputed | probes | successes | of them silent |"]
    lines.append("|---|---|---|---|---|---|")
    for row, known in zip(table.iter_rows(named=True), PUBLISHED, strict=True):
        lines.append(
            f"| {row['layer']} | {known:.2f} | {row['explained']:.2f} | {row['n_probes']} "
            f"| {row['n_success']} | {row['n_silent']} |"
        )
    total = table.sum().row(0, named=True)
    lines.append(f"| all | | | {total['n_probes']} | {total['n_success']} | {total['n_silent']} |")
    kinds = [f"{kind} {total[f'{kind} success']}/{total[kind]}" for kind in KINDS]
    return "\n".join([*lines, "", f"successes: {', '.join(kinds)}", ""])


def by_hookpoint(found: dict[str, Any]) -> str:
    """Shares that pass, by hookpoint: the study's criterion and ours, own and random labels."""
    lines = [
        "| hookpoint | latents | passes: own | random | passes while firing: own | random "
        "| beats its control: own | random | successes with activation 0: own | random | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        silent = []
        for label in ("own", "random"):
            tallies = [kind[label] for kind in one["probes"].values()]
            hits = sum(round(tally["n"] * (tally["share"] or 0)) for tally in tallies)
            silent.append(f"{sum(tally['n_silent'] for tally in tallies)}/{hits}")
        cells = [
            share(one[criterion][label])
            for criterion in ("passes", "fires", "beats")
            for label in ("own", "random")
        ]
        row = [name, one["n_latents"], *cells, *silent, one["seconds"]]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def share(one: dict[str, Any]) -> str:
    if one["share"] is None:
        return "none of 0"
    return f"{one['share']:.2f} [{one['low']:.2f}, {one['high']:.2f}] of {one['n']}"


if __name__ == "__main__":
    main()
