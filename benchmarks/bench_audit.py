"""Explanations that are wrong are found by the audit, and true ones not accused: how often.

    .venv/bin/python benchmarks/bench_audit.py                # planted in the built-in corpus
    .venv/bin/python benchmarks/bench_audit.py openstax       # and in ../shared/data
    .venv/bin/python benchmarks/bench_audit.py runs/demo      # made of the labels of a run
    .venv/bin/python benchmarks/bench_audit.py builtin --each 4 --documents 60

True explanations are written in English from what was planted, or from the 16 keys of labels with
an F1 of 0.8 on the fit split. They count as true where a simple count on the fit split finds
precision and recall of 0.7, in every way their words can be read; "in one reading" are those that
hold only if blanks and case are taken as they stand. Then half of a hookpoint's explanations at a
time are corrupted: swapped, broadened (five times as many places), narrowed (15% of the activation
at most), negated, made up, or replaced by error text. Only those count whose F1 on the fit split is
below 0.5 in every reading. All explanations of a hookpoint are audited together, on held-out text.
Latents that fire less on it than the audit asks for are left out. Detected are verdicts that
accuse; unverifiable is neither detected nor accused. Prints tables and writes
benchmarks/results/audit-<subject>.json.

Changed after a first run, where explanations and not the audit were at fault: words stand without
quotes only after "the word"; what is negated is joined by "or" alone; a token is not said again
after another; underscores are no words; narrowed ones avoid "such as", "like" and "highest"; and
marks, line ends and blanks before a token are read loosely as well as closely, which drops
corruptions that are right all the same; a swap hands no text out twice. Of what names a fault, "too
broad" was added for negated ones and "duplicate" for error texts.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench_quality import RESULTS, ROOT, SHARED

sys.path.insert(0, str(ROOT))

from audit_sets import sets_table, suspicions

from labeler.eval.audit.ground import Ground
from labeler.eval.audit.verdicts import VERDICTS
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.trials import wilson
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from tests.planted_audit import ACCUSED, Case, audited, explained, planted_case
from tests.planted_explanations import CORRUPTIONS, Corruptor
from tests.planted_facts import Fact, Fired, Statement, TextCount, facts_of, said_once
from tests.planted_subject import openstax_tokens
from tests.planted_text import mixed_tokens
from tests.planted_wordings import WORDINGS, Wording
from tests.planted_wordings_fourth import FOURTH
from tests.planted_wordings_third import THIRD

EVERY = WORDINGS | {"third": THIRD, "fourth": FOURTH}
"""The audit's reader was taught the first three; who wrote the fourth, and who taught the reader,
did not know of each other's words."""

FAULTS = {
    "swapped": ("contradicted",),
    "broadened": ("too broad",),
    "narrowed": ("too narrow",),
    "negated": ("contradicted", "too broad"),
    "made up": ("contradicted",),
    "error text": ("failed", "duplicate"),
}
"""Verdicts that name each fault. "Anything but" claims nearly every place, and none that fires."""

CLAIMED = 0.8
"""Least F1 on the fit split, at 16 keys, of labels that explanations are made of."""

MOST_KEYS = 8
TRUE, ONE, BESIDE = "true", "true in one reading", "true beside corrupted"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", nargs="?", default="builtin")
    parser.add_argument("--each", type=int, default=16, help="planted latents of each kind")
    parser.add_argument("--documents", type=int, default=240, help="documents of code")
    parser.add_argument("--tokens", type=int, default=400_000, help="of OpenStax")
    parser.add_argument("--latents", type=int, default=40, help="of each hookpoint of a run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    begin = time.perf_counter()
    rows: list[dict[str, Any]] = []
    dropped: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in EVERY}
    sets: list[dict[str, Any]] = []
    for case in cases(asked):
        for name, wording in EVERY.items():
            found, suspicious = tried(case, wording, dropped[name])
            rows += [{"wording": name, **row} for row in found]
            sets.append({"wording": name, **suspicious})
    frame = pl.DataFrame(rows, infer_schema_length=None)
    kinds = (TRUE, ONE, BESIDE, *CORRUPTIONS)
    result = {
        "subject": Path(asked.subject).name,
        "seconds": round(time.perf_counter() - begin),
        "wordings": {
            name: {
                kind: summary(frame.filter(pl.col("wording") == name), kind, dropped[name])
                for kind in kinds
            }
            for name in EVERY
        },
        "by_rule": by_rule(frame),
        "sets": sets,
        "missed": missed(frame),
    }
    print(table(result))
    print(sets_table(sets))
    asked.out.mkdir(exist_ok=True)
    path = asked.out / f"audit-{result['subject']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


# -- what is tried ---------------------------------------------------------------------------------


def cases(asked: argparse.Namespace) -> Iterator[Case]:
    if asked.subject == "builtin":
        yield planted_case(mixed_tokens(asked.documents), asked.each)
    elif asked.subject == "openstax":
        yield planted_case(openstax_tokens(SHARED, asked.tokens, 1), asked.each)
    else:
        run = Run(Path(asked.subject), quiet=True)
        count = TextCount(run.tokens.fit)
        tree = LabelSet.load(label_folder(run.out, run.hookpoints[0])).shared
        for name in run.hookpoints:
            labels = LabelSet.load(label_folder(run.out, name), tree)
            yield run_case(run, labels, count, asked.latents)


def run_case(run: Run, labels: LabelSet, count: TextCount, most: int) -> Case:
    """Latents of a run whose label claims an F1 of 0.8, explained by its keys."""
    name = labels.hookpoint
    good = labels.labeled & (labels.latents["f1_fit_16"].to_numpy() >= CLAIMED)
    threshold = labels.latents["threshold_16"].to_numpy()
    short = labels.entries.filter(pl.col("budget") == 16).partition_by("latent", as_dict=True)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(good)).tolist()
    said = {one: said_by_label(labels, short[one,], float(threshold[one])) for one in drawn}
    chosen = [one for one in drawn if said[one] is not None][: 4 * most]
    parts = []
    for shard in run.cache.iter_shards(name, "fit"):
        mine = np.isin(shard.latent, chosen)
        parts.append((shard.position[mine], shard.latent[mine], shard.act[mine]))
    position, latent, act = (np.concatenate(column) for column in zip(*parts, strict=True))
    fired = {}
    for one in chosen:
        mine = np.flatnonzero(latent == one)
        mine = mine[np.argsort(position[mine], kind="stable")]
        fired[one] = Fired(position[mine].astype(np.int64), act[mine].astype(np.float32))
    firings = load_heldout_firings(run.cache, name, run.tokens)
    ground = Ground(name, run.tokens.heldout, np.arange(firings.n_latents), firings)
    return Case(ground, count, fired, said, dict.fromkeys(drawn, name), most)


def said_by_label(labels: LabelSet, rows: pl.DataFrame, threshold: float) -> Statement | None:
    """What the keys say that a label fires on, the heaviest first; None if words cannot say it."""
    fires = rows.filter((pl.col("weight") > 0) & (pl.col("value") >= threshold))
    heaviest = fires.sort(pl.col("weight") * pl.col("n"), descending=True)
    facts: list[Fact] = []
    for level, node in heaviest.select("level", "node").iter_rows():
        found = facts_of(labels.tree, level, [node])
        if found is None:
            return None
        facts += found
    return Statement(said_once(facts)[:MOST_KEYS]) if facts else None


# -- trying it -------------------------------------------------------------------------------------


def tried(
    case: Case, wording: Wording, dropped: Counter[tuple[str, str]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per explanation that counts, and what is found of sets; fills `dropped`."""
    ground = case.ground
    told, doubtful, unsaid = explained(case, wording)
    dropped.update({(TRUE, why): n for why, n in unsaid.items()})
    print(f"{ground.hookpoint}: {len(told)} true explanations, {len(doubtful)} in one reading")
    true = {latent: one.text for latent, one in told.items()}
    alone = audited(ground, true | {latent: one.text for latent, one in doubtful.items()})
    rows = found(case, TRUE, alone, true) + found(case, ONE, alone, doubtful)
    corruptor = Corruptor(case.count, case.fired, told, 1)
    swapped = []
    for kind in CORRUPTIONS:
        made = {latent: corruptor.corrupt(kind, latent) for latent in true}
        wrong = {latent: text for latent, text in made.items() if text is not None}
        for half in (0, 1):
            mine = {latent: wrong[latent] for latent in list(true)[half::2] if latent in wrong}
            frame = audited(ground, true | mine)
            rows += found(case, kind, frame, mine)
            rows += found(case, BESIDE, frame, set(true) - set(mine))
            if kind == "swapped":
                swapped.append(frame.filter(pl.col("latent").is_in(list(mine))))
    dropped.update(corruptor.dropped)
    straight = alone.filter(pl.col("latent").is_in(list(true)))
    return rows, suspicions(ground, told, straight, pl.concat(swapped))


def found(
    case: Case, kind: str, frame: pl.DataFrame, latents: Iterable[int]
) -> list[dict[str, Any]]:
    """Verdicts on some latents."""
    shown = ("latent", "explanation", "claim", "n_firings", "verdict", "reason")
    mine = frame.filter(pl.col("latent").is_in(list(latents))).select(shown)
    return [{"kind": kind, "rule": case.kinds[row["latent"]], **row} for row in mine.to_dicts()]


# -- what came out ---------------------------------------------------------------------------------


def summary(frame: pl.DataFrame, kind: str, dropped: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Verdicts on explanations of a kind, and the share that was accused."""
    mine = frame.filter(pl.col("kind") == kind)
    counts = Counter(mine["verdict"].to_list())
    n, accused = len(mine), sum(counts[one] for one in ACCUSED)
    out = {
        "n": n,
        "dropped": {why: many for (of, why), many in dropped.items() if of == kind and many},
        "verdicts": {name: counts[name] for name in VERDICTS},
        "accused": accused / max(n, 1),
        "interval": share(accused, n),
        "accused_of_told": accused / max(n - counts["unverifiable"], 1),
    }
    if kind in FAULTS:
        right = sum(counts[one] for one in FAULTS[kind])
        out |= {
            "fault": " or ".join(FAULTS[kind]),
            "named": right / max(accused, 1),
            "named_interval": share(right, accused),
        }
    return out


def share(hits: int, n: int) -> list[float]:
    low, high = wilson(hits, max(n, 1))
    return [float(low), float(high)]


def by_rule(frame: pl.DataFrame) -> dict[str, dict[str, list[int]]]:
    """Accused and all explanations, by what was planted and kind of corruption."""
    counted = frame.with_columns(pl.col("verdict").is_in(ACCUSED).alias("accused"))
    groups = counted.group_by("rule", "kind").agg(pl.sum("accused"), pl.len()).sort("rule", "kind")
    out: dict[str, dict[str, list[int]]] = {}
    for rule, kind, accused, n in groups.iter_rows():
        out.setdefault(rule, {})[kind] = [accused, n]
    return out


def missed(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """True ones that were accused, and corrupted ones that were not.

    Of the first wording alone: who mends the audit may look at these.
    """
    wrong = pl.col("kind").is_in(list(CORRUPTIONS))
    accused = pl.col("verdict").is_in(ACCUSED)
    odd = frame.filter((wrong & ~accused) | (~wrong & accused))
    shown = odd.filter((pl.col("kind") != BESIDE) & (pl.col("wording") == next(iter(EVERY))))
    return shown.to_dicts()


def table(result: Mapping[str, Any]) -> str:
    """A Markdown table, a line for each kind of explanation."""
    lines = [
        f"| explanations | n | {' | '.join(VERDICTS)} | accused | of those told | right fault |"
        " not tried |",
        "|---" * (len(VERDICTS) + 6) + "|",
    ]
    every = [
        (f"{name}: {kind}", one)
        for name, of in result["wordings"].items()
        for kind, one in of.items()
    ]
    for kind, one in every:
        counts = " | ".join(str(one["verdicts"][name]) for name in VERDICTS)
        low, high = one["interval"]
        named = f"{one['named']:.3f}" if "named" in one else ""
        why = ", ".join(f"{n} {reason}" for reason, n in one["dropped"].items())
        lines.append(
            f"| {kind} | {one['n']} | {counts} | {one['accused']:.3f} [{low:.3f}, {high:.3f}] | "
            f"{one['accused_of_told']:.3f} | {named} | {why} |"
        )
    return "\n".join([*lines, f"\n{result['seconds']} seconds"])


if __name__ == "__main__":
    main()
