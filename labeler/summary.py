"""``summary.json``: the figures of a run, on which scripts rely (docs/summary.md)."""

from pathlib import Path
from typing import Any

import polars as pl

from labeler import __version__
from labeler.errors import RunError
from labeler.fitted import MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.labels import ALL_BUDGETS, LabelSet, label_folder
from labeler.store import read_json, write_json

FORMAT = 1

_FURTHER = ("actives", "standard", "ablation", "seed_protocol")
"""Figures of `verify --all` that are passed on as they are."""


def write_summary(run: Run) -> dict[str, Any]:
    """Gather every step's results and write ``summary.json``.

    Raises
    ------
    RunError
        If a step has not been run.
    """
    tokens = run.tokens
    out: dict[str, Any] = {
        "format": FORMAT,
        "labeler": __version__,
        "n_tokens": {"fit": tokens.fit.n_positions, "heldout": tokens.heldout.n_positions},
        "n_documents": {
            "fit": len(set(tokens.fit.doc.tolist())),
            "heldout": len(set(tokens.heldout.doc.tolist())),
        },
        "hookpoints": {name: _hookpoint(run, name) for name in run.hookpoints},
    }
    if len(run.hookpoints) > 1:
        out["all_layers"] = _rewritten(read_rewrite(run.out, "all_layers"))
    else:
        only = out["hookpoints"][run.hookpoints[0]]
        out["all_layers"] = {key: only[key] for key in ("ce", "recovered", "recovered_interval")}
        out["all_layers"]["by_budget"] = {
            budget: {"recovered": entry["recovered"]} for budget, entry in only["by_budget"].items()
        }
    if prose := _explanations(run.out):
        out["explanations"] = prose
    out["timing_s"] = read_json(run.out / "timing.json", RunError, "run the steps first")
    write_json(run.out / "summary.json", out)
    return out


def _explanations(out: Path) -> dict[str, Any]:
    """Explanations by language models, by author and hookpoint; they count nowhere else."""
    found: dict[str, Any] = {}
    for marker in sorted((out / "explain").glob("*/done.json")):
        cure = f"delete {marker.parent} and run `labeler explain` again"
        done = read_json(marker, RunError, cure)
        beside = marker.with_name("beside.json")
        more = read_json(beside, RunError, cure)["hookpoints"] if beside.exists() else {}
        found[done["author"]] = {
            name: facts | {key: more.get(name, {}).get(key) for key in ("means", "rewritten")}
            for name, facts in done["hookpoints"].items()
        }
    return found


def read_rewrite(out: Path, name: str) -> dict[str, Any]:
    """What `rewrite` measured for a hookpoint or for all_layers."""
    found: dict[str, Any] = read_json(
        out / "rewrite" / f"{name}.json", RunError, "run `labeler rewrite` first"
    )
    return found


def read_curves(out: Path, name: str) -> dict[str, Any] | None:
    """What `rewrite` measured by share of latents replaced; None where it was not asked to."""
    path = out / "rewrite" / f"{name}-curves.json"
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(
        path, RunError, f"delete {path} and run `labeler rewrite` again"
    )
    return found


def read_explained(out: Path, hookpoint: str) -> dict[str, Any]:
    """What `verify` counted for a hookpoint."""
    found: dict[str, Any] = read_json(
        out / "verify" / hookpoint / "explained.json", RunError, "run `labeler verify` first"
    )
    return found


def read_tests(out: Path, hookpoint: str) -> dict[str, Any] | None:
    """What `verify --all` counted for a hookpoint; None before it was run."""
    path = out / "verify" / hookpoint / "tests.json"
    if not path.exists():
        return None
    found: dict[str, Any] = read_json(
        path, RunError, f"delete {path} and run `labeler verify --all` again"
    )
    return found


def read_heldout(out: Path, hookpoint: str) -> pl.DataFrame:
    """Held-out scores, a row per latent and budget."""
    path = out / "verify" / hookpoint / "latents.parquet"
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run `labeler verify`") from error


def triage_path(out: Path, hookpoint: str) -> Path:
    """Where the triage of a hookpoint is kept."""
    return out / "triage" / f"{hookpoint}.parquet"


def read_triage(out: Path, hookpoint: str) -> dict[str, int]:
    """Latents without a label, or with a weak one, by reason."""
    path = triage_path(out, hookpoint)
    try:
        reasons = pl.read_parquet(path)["reason"]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run `labeler triage`") from error
    return dict(sorted(reasons.value_counts().iter_rows()))


def _hookpoint(run: Run, name: str) -> dict[str, Any]:
    counts = read_explained(run.out, name)
    rewritten = read_rewrite(run.out, name)
    latents = LabelSet.load_latents(label_folder(run.out, name))
    heldout = read_heldout(run.out, name).filter(pl.col("budget") == "unlimited")
    live = (latents["n_fit"] >= MIN_FIT_FIRINGS) & (heldout["n_heldout"] >= MIN_HELDOUT_FIRINGS)
    kinds = latents.filter((latents["status"] == "labeled") & live)["function_type"]
    shares = counts["explained"]
    return {
        "n_latents": counts["n_latents"],
        "n_live": counts["n_live"],
        "n_labeled": counts["n_labeled"],
        "n_abstained": counts["n_live"] - counts["n_labeled"],
        "explained": {level: value["share"] for level, value in shares["unlimited"].items()},
        "explained_interval": _intervals(shares["unlimited"]),
        "function_types": dict(sorted(kinds.value_counts().iter_rows())),
        "triage": read_triage(run.out, name),
        **_rewritten(rewritten, shares),
        **_tried(read_tests(run.out, name)),
    }


def _tried(found: dict[str, Any] | None) -> dict[str, Any]:
    """Verdicts and means of tests; nothing before `verify --all`."""
    if found is None:
        return {}
    tests = {
        name: {
            **{key: one[key] for key in ("n_labels", "n", "failed", "own", "control")},
            "difference": one["difference"],
            "interval": [one["low"], one["high"]],
        }
        for name, one in found["tests"].items()
    }
    further = {name: found[name] for name in _FURTHER if name in found}
    return {
        "verdicts": found["verdicts"],
        "n_tested": found["n_tested"],
        "tests": tests,
        **further,
    }


def _rewritten(found: dict[str, Any], shares: dict[str, Any] | None = None) -> dict[str, Any]:
    ce = {name: value for name, value in found["ce"].items() if not name.startswith("labels_")}
    ce["labels"] = found["ce"]["labels_unlimited"]
    best = found["recovered"]["unlimited"]
    by_budget = {}
    for budget in map(str, ALL_BUDGETS):
        one = found["recovered"][budget]
        entry: dict[str, Any] = {
            "recovered": one["value"],
            "recovered_interval": [one["low"], one["high"]],
            "ce": found["ce"][f"labels_{budget}"],
        }
        if shares is not None:
            levels = shares[budget]
            entry["explained"] = {level: value["share"] for level, value in levels.items()}
            entry["explained_interval"] = _intervals(levels)
        by_budget[budget] = entry
    return {
        "by_budget": by_budget,
        "ce": ce,
        "recovered": best["value"],
        "recovered_interval": [best["low"], best["high"]],
        "recovered_shuffled": found["shuffled"],
    }


def _intervals(levels: dict[str, Any]) -> dict[str, list[float]]:
    return {level: [value["low"], value["high"]] for level, value in levels.items()}
