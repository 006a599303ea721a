"""Planted truth: the right type and the right keys, for every function type.

    .venv/bin/python benchmarks/bench_planted.py

Latents made from known keys of every predefined type, and of two parts, on real text; all default
types compete. Prints a table and writes benchmarks/results/planted.json.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from labeler.config import DEFAULT_FUNCTIONS  # noqa: E402
from labeler.eval.trials import wilson  # noqa: E402
from labeler.functions import function_types  # noqa: E402
from tests.planted import Planter, Truth  # noqa: E402
from tests.planted_fit import Outcome, Verdict, misses, outcome  # noqa: E402
from tests.planted_pairs import (  # noqa: E402
    CONFOUNDS,
    EXCEPTIONS,
    REFINED,
    STRONGER_IN,
    UNIONS,
    Pairs,
    drawn,
)
from tests.planted_text import Text, mixed_tokens  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
N_CODE, EACH, N_NOISE = 320, 10, 90
"""Documents of code, latents of each kind, and latents of noise."""

DEFAULT = [name for name in DEFAULT_FUNCTIONS if name != "calls"]
FURTHER = [
    *(name for name in function_types() if name not in (*DEFAULT, "calls")),
    "unigram+skip_gram",
    "unigram+absent",
]
REFINEMENTS = [f"unigram+{name}" for name in REFINED]


def main() -> None:
    begin = time.perf_counter()
    tokens = mixed_tokens(N_CODE)
    text = Text.make(tokens, [*DEFAULT, *FURTHER, *REFINEMENTS])
    n_fit, n_heldout = text.fit.n_positions, text.heldout.n_positions
    print(f"{n_fit:,} fit and {n_heldout:,} held-out positions of {len(tokens.doc_ids)} documents")
    groups = {
        "types fitted by default": types(text, DEFAULT, DEFAULT, 1, N_NOISE),
        "other types": types(text, FURTHER, [*DEFAULT, *FURTHER], 2),
        "two parts": composed(text),
        "either of two": unions(text),
        "confounds": confounded(text),
    }
    seconds = time.perf_counter() - begin
    print(table(groups))
    noise = groups["types fitted by default"].noise
    labeled = sum(name != "none" for name in noise)
    print(f"\n{labeled} of {len(noise)} latents of noise labeled; {seconds:.0f} seconds")
    result = {
        "n_fit": n_fit,
        "n_heldout": n_heldout,
        "seconds": round(seconds),
        "noise": {"n": len(noise), "labeled": labeled},
        "groups": {name: summary(group.verdicts) for name, group in groups.items()},
        "total": share_of(every(groups)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "planted.json").write_text(json.dumps(result, indent=1) + "\n")


def types(
    text: Text, planted: Sequence[str], names: Sequence[str], seed: int, n_noise: int = 0
) -> Outcome:
    """Latents of one type each."""
    planter = Planter(text, names, seed)
    truths = drawn(EACH, *(partial(planter.simple, name) for name in planted))
    return outcome(text, names, truths, seed, n_noise)


def composed(text: Text) -> Outcome:
    """A token refined by, except after, or stronger in something, with such levels scored."""
    names = [*DEFAULT, *REFINEMENTS]
    pairs = Pairs(Planter(text, names, 3))
    truths = drawn(
        EACH,
        *(partial(pairs.refinement, by) for by in REFINED),
        *(partial(pairs.unless, exception) for exception in EXCEPTIONS),
        *(partial(pairs.stronger, inside) for inside in STRONGER_IN),
    )
    return outcome(text, names, truths, 3)


def unions(text: Text) -> Outcome:
    pairs = Pairs(Planter(text, DEFAULT, 4))
    truths: list[Truth] = drawn(EACH // 2, *(partial(pairs.union, *names) for names in UNIONS))
    return outcome(text, DEFAULT, truths, 4)


def confounded(text: Text) -> Outcome:
    pairs = Pairs(Planter(text, DEFAULT, 5))
    truths = drawn(EACH, *(partial(pairs.confound, *names) for names in CONFOUNDS))
    return outcome(text, DEFAULT, truths, 5)


def every(groups: dict[str, Outcome]) -> list[Verdict]:
    """The verdicts of all groups."""
    return [one for group in groups.values() for one in group.verdicts]


def share_of(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Shares of right types and right keys with intervals, and mean held-out F1."""
    n = len(verdicts)
    right = {
        "type": sum(one.right_type for one in verdicts),
        "keys": sum(one.right_parts for one in verdicts),
    }
    return {
        "n": n,
        **{name: hits / n for name, hits in right.items()},
        **{f"{name}_interval": wilson(hits, n) for name, hits in right.items()},
        "f1": sum(one.f1 for one in verdicts) / n,
        "f1_of_truth": sum(one.best_f1 for one in verdicts) / n,
    }


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Shares by kind and in all, types found instead, and the latents got wrong."""
    kinds = dict.fromkeys(one.kind for one in verdicts)
    wrong = [one for one in verdicts if not (one.right_type and one.right_parts)]
    return {
        "total": share_of(verdicts),
        "kinds": {kind: share_of([one for one in verdicts if one.kind == kind]) for kind in kinds},
        "found_instead": misses(verdicts),
        "wrong": [asdict(one) for one in wrong],
    }


def table(groups: dict[str, Outcome]) -> str:
    """A Markdown table, with a line in bold for each group and for all of them."""
    lines = [
        "| planted | latents | right type | right keys | F1, 16 keys (truth) | found instead |",
        "|---|---|---|---|---|---|",
    ]

    def add(name: str, verdicts: Sequence[Verdict], wrong: str, *, total: bool) -> None:
        found = share_of(verdicts)
        cells = []
        for what in ("type", "keys"):
            low, high = found[f"{what}_interval"]
            cells.append(f"{found[what]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if total else ""))
        name = f"**{name}**" if total else name
        f1 = f"{found['f1']:.3f} ({found['f1_of_truth']:.3f})"
        lines.append(f"| {name} | {found['n']} | {' | '.join(cells)} | {f1} | {wrong} |")

    for title, group in groups.items():
        wrong = misses(group.verdicts)
        for kind in dict.fromkeys(one.kind for one in group.verdicts):
            instead = ", ".join(f"{name} {n}" for name, n in wrong.get(kind, {}).items())
            mine = [one for one in group.verdicts if one.kind == kind]
            add(kind, mine, instead, total=False)
        add(title, group.verdicts, "", total=True)
    add("all", every(groups), "", total=True)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
