"""Lay the explanations of a run beside its rules: same windows, measures, controls and rewriting.

    simulated activations, labels -> measures -> cross-entropies -> beside.parquet, beside.json

The last step of `labeler explain` (docs/explanations.md). No language model is asked; nothing of
it counts as explained.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labeler.arrays import Bools, Floats
from labeler.errors import CoderError, ExplanationError, ModelError, RunError
from labeler.eval.claims import Claims
from labeler.eval.llm.beside import FIRES_FROM, SCHEMA, Beside
from labeler.eval.llm.rewrite_beside import (
    cost_summary,
    stand_ins,
    window_cross_entropies,
    window_variants,
)
from labeler.eval.llm.shared import Rules, Shared
from labeler.inputs import Run
from labeler.keytree import KeyTree
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.progress import progress_bar
from labeler.provenance import is_done, key_of, mark_done
from labeler.store import hash_file, read_json, write_parquet

FORMAT = 1

TABLE, MARKER = "beside.parquet", "beside.json"

Say = Callable[[str], None]


def beside(run: Run, folder: Path, say: Say = lambda line: None) -> Path:
    """Measure the explanations of one author beside the rules of the run.

    Parameters
    ----------
    run : Run
        With a latent cache; without labels the explanations are measured alone.
    folder : Path
        ``<run>/explain/<author>``, finished by `labeler explain`.
    say : callable
        Told a line per hookpoint.

    Returns
    -------
    Path
        ``beside.json``, written last. A model or coder that cannot be loaded is noted in it; then
        nothing is rewritten, and the next call tries again.

    Raises
    ------
    RunError, ExplanationError
        If files of `labeler explain` are missing or damaged.
    LabelError
        If labels are damaged.
    """
    done = read_json(folder / "done.json", RunError, "run `labeler explain` first")
    names = [name for name in run.hookpoints if name in done["hookpoints"]]
    labels = {name: labels_of(run, name) for name in names}
    files = [folder / "explanations.jsonl", *(_simulated(folder, name) for name in names)]
    key = key_of(
        "eval/llm",
        labels=labels,
        tokens=run.tokens.fingerprint,
        files={path.name: hash_file(path) for path in files if path.exists()},
    )
    marker = folder / MARKER
    if is_done(marker, key) and (folder / TABLE).exists() and not read_beside(folder)["notes"]:
        return marker
    marker.unlink(missing_ok=True)
    explained = _explained(folder / "explanations.jsonl")
    step = _Step(run, folder)
    frames, found = [pl.DataFrame(schema={"hookpoint": pl.String, **SCHEMA})], {}
    for name in names:
        frame, found[name] = step.measure(name, explained.get(name, set()))
        frames.append(frame)
        say(_line(name, found[name]))
    for note in step.notes:
        say(note)
    write_parquet(folder / TABLE, pl.concat(frames))
    mark_done(
        marker,
        key,
        format=FORMAT,
        author=done["author"],
        budget=READABLE,
        fires_from=FIRES_FROM,
        labels=labels,
        notes=step.notes,
        hookpoints=found,
    )
    return marker


def read_beside(folder: Path) -> dict[str, Any]:
    """What `beside` found.

    Raises
    ------
    RunError
        If it was not run, or the file is damaged.
    """
    path = folder / MARKER
    cure = f"delete {path} and run `labeler explain` again"
    found: dict[str, Any] = read_json(path, RunError, cure)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RunError(f"{path}: not of format {FORMAT}, which this version reads; {cure}")
    return found


def labels_of(run: Run, hookpoint: str) -> str | None:
    """What the labels of a hookpoint were made from, as a hash; None where there are none."""
    marker = label_folder(run.out, hookpoint) / "done.json"
    if not marker.exists():
        return None
    return str(read_json(marker, RunError, "run `labeler fit` again")["key"])


class _Step:
    """What the hookpoints of a run share: tokens, tree, model, and what went wrong."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.heldout, self.n_fit = run.tokens.heldout, run.tokens.fit.n_positions
        self.notes: list[str] = []
        self._tree: KeyTree | None = None

    def measure(self, hookpoint: str, explained: set[int]) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Table and figures of one hookpoint."""
        run, heldout = self.run, self.heldout
        shared = Shared.read(_simulated(self.folder, hookpoint), heldout, explained)
        summary = run.cache.summary(hookpoint)
        mean = (summary.sum_fit[shared.latents] / max(self.n_fit, 1)).astype(np.float32)
        rules = self._rules(hookpoint, shared, mean)
        place = hookpoint.removeprefix("layers.")
        total = 4 * len(shared.latents)
        with progress_bar(f"comparing {place}", total, quiet=run.quiet) as advance:
            found = Beside.make(shared, rules, run.config.seed, advance)
        groups = found.groups()
        facts = {
            "n_latents": len(shared.latents),
            "n_explained": int(shared.explained.sum()),
            "n_rules": int(rules.labeled.sum()),
            "n_windows": len(shared.context),
            "n_tokens": int(shared.act[0].size) if len(shared.act) else 0,
            "n_documents": len(np.unique(shared.document)),
            "failed": int(shared.failed.sum()),
            "means": found.means(),
            "f1_by_digit": found.f1_by_digit(),
            "rewritten": self._rewritten(hookpoint, shared, rules, mean, groups),
        }
        frame = found.frame().with_columns(hookpoint=pl.lit(hookpoint, pl.String))
        return frame.select("hookpoint", *SCHEMA), facts

    def _rules(self, hookpoint: str, shared: Shared, mean: Floats) -> Rules:
        if labels_of(self.run, hookpoint) is None:
            return Rules.none(shared, mean)
        labels = LabelSet.load(label_folder(self.run.out, hookpoint), self._tree)
        self._tree = labels.shared
        return Rules.run(Claims(labels, READABLE, shared.latents), shared, self.heldout)

    def _rewritten(
        self,
        hookpoint: str,
        shared: Shared,
        rules: Rules,
        mean: Floats,
        groups: Mapping[str, Bools],
    ) -> dict[str, Any] | None:
        """Cross-entropies with all latents, and with those that have rule and explanation."""
        try:
            model, coder = self.run.model, self.run.coders[hookpoint]
        except (ModelError, CoderError) as error:
            note = f"not rewritten: {error}"
            self.notes += [] if note in self.notes else [note]
            return None
        contexts = np.unique(shared.context)
        tokens = self.heldout.select(contexts)
        sets = {"all": groups["all"]}
        if groups["both"].any() and not groups["both"].all():
            sets["both"] = groups["both"]
        values = stand_ins(shared, rules, mean)
        place, out = hookpoint.removeprefix("layers."), {}
        total = len(sets) * (len(values) + 1) * tokens.n_ctx
        with progress_bar(f"rewriting {place}", total, quiet=self.run.quiet) as advance:
            for name, rows in sets.items():
                wanted = window_variants(hookpoint, shared, values, rows, contexts, tokens.ctx_len)
                found = window_cross_entropies(model, coder, shared, tokens, wanted, advance)
                out[name] = {
                    "n_latents": int(rows.sum()),
                    **cost_summary(found, self.run.config.seed),
                }
        return out


def _simulated(folder: Path, hookpoint: str) -> Path:
    return folder / "simulated" / f"{hookpoint}.npz"


def _explained(path: Path) -> dict[str, set[int]]:
    """Latents with an explanation, by hookpoint."""
    found: dict[str, set[int]] = {}
    try:
        # Not splitlines: explanations may hold other line ends than the file's own.
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            row = json.loads(line)
            found.setdefault(row["hookpoint"], set()).add(int(row["latent"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExplanationError(
            f"{path}: cannot be read ({error}); run `labeler explain` again"
        ) from error
    return found


def _line(hookpoint: str, facts: dict[str, Any]) -> str:
    both = facts["means"]["both"]
    shown = [
        f"{name.replace('_', ' ')} {both[name]['f1']['value']:.2f}"
        for name in ("rule", "explanation", "control")
        if both[name]["f1"]["value"] is not None
    ]
    what = ", ".join(shown) or "nothing to compare"
    return f"{hookpoint}: F1 on the shared windows, {both['n_firing']} latents: {what}"
