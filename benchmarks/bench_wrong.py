"""Wrong labels are caught, and true ones verified: how often.

    .venv/bin/python benchmarks/bench_wrong.py                    # planted in the built-in corpus
    .venv/bin/python benchmarks/bench_wrong.py openstax           # and in ../shared/data
    .venv/bin/python benchmarks/bench_wrong.py runs/demo          # the labels of a run
    .venv/bin/python benchmarks/bench_wrong.py builtin --each 2 --documents 90

Labels are tried as `labeler verify` does: true ones, and then, half of them at a time, with the
label of a random other latent, with that of the latent that fires most alike, too broad, and too
narrow. Wrong labels claim as much as the true ones did. Only labels that are wrong count: those
whose F1 on the fit split is below 0.5. Prints a table and writes
benchmarks/results/wrong-<subject>.json.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from bench_quality import RESULTS, ROOT, SHARED

sys.path.insert(0, str(ROOT))

from labeler.eval.claims import Claims
from labeler.eval.firings import TextFirings
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.prove import evidence_of
from labeler.eval.scene import Scene, partners
from labeler.eval.subject import ModelSubject, Subject
from labeler.eval.trials import wilson
from labeler.eval.verdict import VERDICTS, judge
from labeler.eval.wrong import KINDS, Ground, f1_of
from labeler.inputs import Run
from labeler.labels import LabelSet, label_folder
from labeler.level import Nodes
from labeler.tokens import Tokens
from tests.planted import Planter, Truth
from tests.planted_pairs import Pairs
from tests.planted_subject import (
    Planted,
    PlantedSubject,
    more_heldout,
    openstax_tokens,
    relatives,
)
from tests.planted_text import Text, mixed_tokens

IN_PAIRS = ("unigram", "bigram", "previous_token", "word", "previous_word", "suffix", "gap_bigram")
"""Types planted two latents at a time, which share one key of three: siblings."""

ALONE = ("topic", "subtopic", "position", "indentation", "inside_quotes", "brackets", "induction")
REFINED = ("topic", "brackets", "inside_quotes")
UNIONS = (("unigram", "previous_token"), ("word", "topic"), ("previous_word", "suffix"))
LEVELS = [*IN_PAIRS, *ALONE, "punctuation", *(f"unigram+{name}" for name in REFINED)]

SAYS_IT = 0.9
"""F1, against where a program holds, of a label that says what was planted."""

CLAIMED = 0.8
"""Least F1 on the fit split of a run's labels that are tried."""

SOURCE = 1000
"""Contexts of a run's fit split on which wrong labels are made and measured."""

HELDOUT = 0.4
"""Share of the documents that is held out: what decides is how often a latent fires there."""


@dataclass(frozen=True, eq=False)
class Case:
    """Labels of a hookpoint, and what they are tried on.

    Attributes
    ----------
    subject : Subject
    ground : Ground
    heldout : Tokens
    nodes : mapping of str to int32 [n_ctx, ctx_len] or [n_ctx, ctx_len, m]
        Of the held-out text.
    firings : TextFirings
        On the held-out text.
    latents : int64 [n]
        Under test; siblings were planted one after the other.
    kinds : dict of int to str
        What each of them is.
    dropped : dict of str to int
        True labels that are not tried, and why.
    """

    subject: Subject
    ground: Ground
    heldout: Tokens
    nodes: dict[str, Nodes]
    firings: TextFirings
    latents: np.ndarray
    kinds: dict[int, str]
    dropped: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", nargs="?", default="builtin")
    parser.add_argument("--each", type=int, default=16, help="planted latents of each kind")
    parser.add_argument("--documents", type=int, default=320, help="documents of code")
    parser.add_argument("--tokens", type=int, default=400_000, help="of OpenStax")
    parser.add_argument("--latents", type=int, default=150, help="of each hookpoint of a run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    begin = time.perf_counter()
    with TemporaryDirectory() as folder:
        rows, dropped = [], Counter[tuple[str, str]]()
        for case in cases(asked, Path(folder)):
            rows += tried(case, dropped)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    name = Path(asked.subject).name
    result = {
        "subject": name,
        "seconds": round(time.perf_counter() - begin),
        "kinds": {kind: summary(frame, kind, dropped) for kind in ("true", *KINDS)},
        "missed": missed(frame),
    }
    print(table(result))
    for one in result["missed"]:
        print(one)
    asked.out.mkdir(exist_ok=True)
    (asked.out / f"wrong-{name}.json").write_text(json.dumps(result, indent=1) + "\n")


# -- what is tried ---------------------------------------------------------------------------------


def cases(asked: argparse.Namespace, folder: Path) -> Iterator[Case]:
    if asked.subject == "builtin":
        yield planted_case(mixed_tokens(asked.documents), asked.each, folder)
    elif asked.subject == "openstax":
        yield planted_case(openstax_tokens(SHARED, asked.tokens, 1), asked.each, folder)
    else:
        run = Run(Path(asked.subject), quiet=True)
        fit, heldout = part(run.tokens.fit, SOURCE), run.tokens.heldout
        tree = LabelSet.load(label_folder(run.out, run.hookpoints[0])).shared
        found = tree.find(fit), tree.find(heldout)
        for name in run.hookpoints:
            labels = LabelSet.load(label_folder(run.out, name), tree)
            yield run_case(run, labels, (fit, heldout), found, asked.latents)


def part(tokens: Tokens, n: int) -> Tokens:
    """At most n contexts, drawn at random."""
    chosen = np.random.default_rng(0).permutation(tokens.n_ctx)[:n]
    return tokens.select(np.sort(chosen))


def planted_case(tokens: Tokens, each: int, folder: Path) -> Case:
    """Latents planted in a text, and the labels fitted to them."""
    text = Text.make(more_heldout(tokens, HELDOUT), LEVELS)
    levels = [name for name in LEVELS if name in text.tree.levels]
    truths = planted_truths(Planter(text, levels, 1), each)
    planted = Planted(text, PlantedSubject.make(text, truths, 1), levels)
    claims = Claims(planted.labels(folder))
    ground = Ground.make(claims, text.fit, text.nodes, planted.fit)
    says = f1_of(ground.calls, planted.subject.holds(text.nodes, text.fit.valid)) >= SAYS_IT
    print(
        f"{len(truths)} latents planted; {text.fit.n_positions:,} fit and "
        f"{text.heldout.n_positions:,} held-out positions"
    )
    dropped = Counter("no label" for _ in np.flatnonzero(~claims.labeled))
    dropped |= Counter("does not say it" for _ in np.flatnonzero(claims.labeled & ~says))
    return Case(
        planted.subject,
        ground,
        text.heldout,
        dict(text.held),
        planted.heldout,
        np.flatnonzero(says & claims.labeled),
        {latent: truth.kind for latent, truth in enumerate(truths)},
        dict(dropped),
    )


def planted_truths(planter: Planter, each: int) -> list[Truth]:
    """Latents of every kind that the text has keys for."""
    pairs = Pairs(planter)
    draws: list[tuple[str, Callable[[], Sequence[Truth]]]] = [
        (name, partial(relatives, planter, name)) for name in IN_PAIRS
    ]
    single: list[tuple[str, Callable[[], Truth]]] = [
        *((name, partial(planter.simple, name)) for name in ALONE),
        *((f"token & {by}", partial(pairs.refinement, by)) for by in REFINED),
        *((f"{one} or {other}", partial(pairs.union, one, other)) for one, other in UNIONS),
        ("token unless token", partial(pairs.unless, "token")),
        ("token, stronger in topic", partial(pairs.stronger, "topic")),
    ]
    draws += [(name, lambda draw=draw: [draw()]) for name, draw in single]
    truths: list[Truth] = []
    for name, draw in draws:
        found: list[Truth] = []
        try:
            while len(found) < each:
                found += draw()
        except (ValueError, KeyError) as why:
            print(f"{name}: {len(found)} planted; {why}")
        truths += found
    return truths


def run_case(
    run: Run,
    labels: LabelSet,
    texts: tuple[Tokens, Tokens],
    nodes: tuple[dict[str, Nodes], dict[str, Nodes]],
    most: int,
) -> Case:
    """Labels of a run that claim an F1 of 0.8, drawn at random."""
    claims = Claims(labels)
    # Where a model's latents fire on the fit split is seen again: it need not be all of it.
    subject = ModelSubject(run.model, run.coders)
    firings = subject.firings(texts[0], [labels.hookpoint])[labels.hookpoint]
    ground = Ground.make(claims, texts[0], nodes[0], firings)
    good = claims.labeled & (claims.claimed >= CLAIMED)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(good))[:most]
    chosen = np.sort(drawn)
    print(f"{labels.hookpoint}: {len(chosen)} of {good.sum()} labels that claim {CLAIMED}")
    return Case(
        subject,
        ground,
        texts[1],
        nodes[1],
        load_heldout_firings(run.cache, labels.hookpoint, run.tokens),
        chosen,
        dict.fromkeys(chosen.tolist(), labels.hookpoint),
        {},
    )


# -- trying it -------------------------------------------------------------------------------------


def tried(case: Case, dropped: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """A row per label that was tried; counts those that were not in `dropped`."""
    dropped.update({("true", why): n for why, n in case.dropped.items()})
    true = f1_of(case.ground.calls, case.ground.firings)
    rows = found(case, "true", case.ground.claims, case.ground.calls, case.latents, true)
    for kind, make in KINDS.items():
        for half in (0, 1):
            made = make(case.ground, case.latents[half::2], half)
            dropped.update((kind, why) for why in made.unchanged.values())
            dropped[kind, "right all the same"] += int(made.right.sum())
            wrong = np.flatnonzero(made.wrong)
            rows += found(case, kind, made.claims, made.calls, wrong, made.f1)
    return rows


def found(
    case: Case,
    kind: str,
    claims: Claims,
    source_calls: TextFirings,
    counted: np.ndarray,
    f1: np.ndarray,
) -> list[dict[str, Any]]:
    """Verdicts on some labels, when all latents under test are tried together."""
    calls = claims.calls(case.heldout, case.nodes)
    scene = Scene(
        case.subject,
        claims,
        case.ground.tokens,
        source_calls,
        case.heldout,
        case.firings,
        calls,
        case.latents,
        partners(calls, case.latents, 0),
        0,
    )
    evidence = evidence_of(scene)
    tests: dict[int, dict[str, Any]] = {}
    for row in evidence.iter_rows(named=True):
        mine = tests.setdefault(row["latent"], {})
        for name in ("n", "own", "own_high", "control", "low", "high", "failed"):
            mine[f"{row['test']} {name}"] = row[name]
    verdicts = judge(evidence, claims.claimed, scene.latents)
    return [
        {
            "kind": kind,
            "planted": case.kinds[row["latent"]],
            "f1": float(f1[row["latent"]]),
            "firings": int(case.firings.count[row["latent"]]),
            "text": claims.labels.latents["text"][row["latent"]],
            **row,
            **tests[row["latent"]],
        }
        for row in verdicts.iter_rows(named=True)
        if row["latent"] in set(counted.tolist())
    ]


# -- what came out ---------------------------------------------------------------------------------


def summary(frame: pl.DataFrame, kind: str, dropped: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Verdicts on labels of a kind, and the share of those that are as they should be."""
    mine = frame.filter(pl.col("kind") == kind)
    counts = Counter(mine["verdict"].to_list())
    should = "verified" if kind == "true" else "refuted"
    told = len(mine) - counts["untestable"]
    return {
        "n": len(mine),
        "dropped": {why: n for (of, why), n in dropped.items() if of == kind and n},
        "verdicts": {name: counts[name] for name in VERDICTS},
        "should_be": should,
        "share": counts[should] / max(told, 1),
        "interval": wilson(counts[should], max(told, 1)),
    }


def missed(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Labels that were not judged as they should be."""
    should = pl.when(pl.col("kind") == "true").then(pl.lit("verified")).otherwise(pl.lit("refuted"))
    wrong = frame.filter((pl.col("verdict") != should) & (pl.col("verdict") != "untestable"))
    shown = ("kind", "planted", "latent", "f1", "firings", "verdict", "reason")
    rounded = wrong.select(shown).with_columns(pl.col("f1").round(3))
    return rounded.to_dicts()


def table(result: dict[str, Any]) -> str:
    """A Markdown table, a line for each kind of label."""
    lines = [
        "| labels | n | verified | weak | refuted | untestable | as it should be | not tried |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, one in result["kinds"].items():
        low, high = one["interval"]
        counts = " | ".join(str(one["verdicts"][name]) for name in VERDICTS)
        share = f"{one['should_be']} {one['share']:.3f} [{low:.3f}, {high:.3f}]"
        why = ", ".join(f"{n} {why}" for why, n in one["dropped"].items())
        lines.append(f"| {kind} | {one['n']} | {counts} | {share} | {why} |")
    return "\n".join([*lines, f"\n{result['seconds']} seconds"])


if __name__ == "__main__":
    main()
