"""Verification and rewriting of the labels of a finished run, as tables.

    .venv/bin/python benchmarks/bench_verify.py runs/bench-openstax openstax
    .venv/bin/python benchmarks/bench_verify.py runs/demo builtin [labels per hookpoint]

Tries a random sample of labels (200 of each hookpoint unless said otherwise) with `labeler verify
--all`, measures the curves of `labeler rewrite`, and prints by layer: verdicts, every test beside
its control, other people's scores, false actives, and what is recovered by share of latents,
ranking and transform, with all baselines and oracles. The run is one of `labeler run` or
bench_quality.py. Writes benchmarks/results/verify-<name>.json.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_quality import RESULTS

TESTS = ("heldout", "sufficiency", "necessity", "unseen:subject")
SCORES = ("detection", "fuzzing", "simulation_r", "n2g_f1", "f1", "pearson")
VARIANTS = (
    *("base", "coder", "oracle_support", "oracle_value", "labels_unlimited", "labels_100"),
    *("labels_16", "unigram", "mean", "skip", "shuffled", "random", "zero"),
)
LABELS = 200
CURVES_TOKENS = 4_096


def main() -> None:
    out, name = Path(sys.argv[1]), sys.argv[2]
    n = sys.argv[3] if len(sys.argv) > 3 else str(LABELS)
    labeler = [sys.executable, "-m", "labeler"]
    subprocess.run([*labeler, "verify", "--all", "--latents", n, "--out", str(out)], check=True)
    command = [*labeler, "rewrite", "--curves-tokens", str(CURVES_TOKENS), "--out", str(out)]
    subprocess.run(command, check=True)
    tried = {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((out / "verify").glob("*/tests.json"))
    }
    rewritten = {
        path.stem: json.loads(path.read_text()) for path in sorted((out / "rewrite").glob("*.json"))
    }
    print(verdict_table(tried))
    print(test_table(tried))
    print(score_table(tried))
    print(variant_table(rewritten))
    print(curve_table(rewritten))
    RESULTS.mkdir(exist_ok=True)
    result = {
        "run": name,
        "timing_s": json.loads((out / "timing.json").read_text()),
        "tests": {one: _without_keys(found) for one, found in tried.items()},
        "rewrite": {one: _without_keys(found) for one, found in rewritten.items()},
    }
    text = json.dumps(_rounded(result), separators=(",", ":"))
    (RESULTS / f"verify-{name}.json").write_text(text + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def _without_keys(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("key", "labels")}


def verdict_table(tried: dict[str, Any]) -> str:
    """Verdicts and false actives, by layer."""
    lines = [
        "| layer | tried | verified | weak | refuted | untestable | specificity "
        "| called / fire / false per token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in tried.items():
        n = one["n_tested"]
        cells = [f"{count} ({count / n:.2f})" for count in one["verdicts"].values()]
        actives = one["actives"]
        per_token = [actives[f"{kind}_per_token"] for kind in ("called", "firing", "false")]
        lines.append(
            f"| {name} | {n} | {' | '.join(cells)} | {actives['specificity']:.4f} | "
            + " / ".join(f"{value:.1f}" for value in per_token)
            + " |"
        )
    return "\n".join(lines) + "\n"


def test_table(tried: dict[str, Any]) -> str:
    """Own against control: mean over labels, and the interval of the difference."""
    lines = [
        f"| layer | {' | '.join(TESTS)} | same most important token |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in tried.items():
        cells = []
        for test in [*(one["tests"][key] for key in TESTS), one["ablation"]["same"]]:
            interval = f"[{test['low']:.2f}, {test['high']:.2f}]"
            cells.append(f"{test['own']:.3f} / {test['control']:.3f} {interval}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def score_table(tried: dict[str, Any]) -> str:
    """Other people's scores beside ours, own / control."""
    lines = [f"| layer | {' | '.join(SCORES)} |", "|---" * (len(SCORES) + 1) + "|"]
    for name, one in tried.items():
        found = [one["standard"][key] for key in SCORES]
        cells = [f"{score['own']:.3f} / {score['control']:.3f}" for score in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def variant_table(rewritten: dict[str, Any]) -> str:
    """Cross-entropy and share recovered of every variant."""
    tables = {name: one for name, one in rewritten.items() if not name.endswith("-curves")}
    lines = [f"| variant | {' | '.join(tables)} |", "|---" * (len(tables) + 1) + "|"]
    for variant in VARIANTS:
        cells = []
        for one in tables.values():
            found = one["recovered_by_variant"][variant]
            share = "" if found["value"] is None else f" ({found['value']:.3f})"
            cells.append(f"{one['ce'][variant]:.3f}{share}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def curve_table(rewritten: dict[str, Any]) -> str:
    """Recovered by share of latents replaced."""
    lines = []
    for name, one in rewritten.items():
        if not name.endswith("-curves"):
            continue
        for curve in one["curves"]:
            points = ", ".join(
                f"{point['fraction']:g}: {point['recovered']:.3f}" for point in curve["points"]
            )
            what = f"{curve['ranking']}, {curve['budget']} keys, {curve['transform']}"
            lines.append(f"{name.removesuffix('-curves')}: {what}: {points}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
