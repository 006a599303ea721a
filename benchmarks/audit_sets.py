"""Sets of wrong explanations that were planted, and honest errors: what the audit says of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from labeler.eval.audit.ground import Ground
from labeler.eval.audit.suspicious import suspicious_sets, traits_of
from tests.planted_audit import audited
from tests.planted_explanations import Told

PATTERNS = ("copied", "shifted", "swapped", "subverted")
HONEST, SEEDS = 0.1, 200
"""Share of explanations that an honest labeler errs in, and how often one is drawn."""

FEWEST, MOST_TRAITS = 6, 12
"""Latents that share what a subverted labeler lies about, and how many such things are tried."""


def suspicions(
    ground: Ground, told: Mapping[int, Told], true: pl.DataFrame, swapped: pl.DataFrame
) -> dict[str, Any]:
    """Which planted sets are found, and how often honest errors look like one.

    Parameters
    ----------
    ground : Ground
    told : mapping of int to Told
        True explanations.
    true, swapped : polars.DataFrame
        The audit of them, and of the same latents with another's explanation: rows of both make
        up a labeler that errs where it is told to.
    """
    latents = true["latent"].to_list()
    traits = traits_of(ground).filter(pl.col("latent").is_in([*latents, *np.add(latents, 1)]))
    rng = np.random.default_rng(0)
    plain = {one: told[one].text for one in latents}
    shifted = {one + 1: text for one, text in plain.items() if one + 1 in ground.column}
    pairs = exchanged(plain, rng)
    return {
        "hookpoint": ground.hookpoint,
        "n": len(latents),
        "shifted": shown(audited(ground, shifted), traits),
        "pairs": {"planted": len(pairs), **shown(audited(ground, plain | pairs), traits)},
        "subverted": subverted(true, swapped, traits, rng),
        "honest": honest(true, swapped, traits),
    }


def subverted(
    true: pl.DataFrame, swapped: pl.DataFrame, traits: pl.DataFrame, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Labelers that are right, except about one token or topic."""
    members = (
        traits.filter(pl.col("latent").is_in(swapped["latent"].to_list()))
        .group_by("kind", "value")
        .agg("latent")
        .filter(pl.col("latent").list.len().is_between(FEWEST, len(true) // 2))
        .sort("kind", "value")
    )
    tried = []
    for number in rng.permutation(len(members))[:MOST_TRAITS].tolist():
        kind, value, latents = members.row(number)
        sets = suspicious_sets(with_lies(true, swapped, latents), traits)
        found = [one for one in sets if one.kind == "subverted"]
        named = any(f"`{value}`" in one.text for one in found)
        tried.append(
            {"kind": kind, "value": value, "n": len(latents), "named": named, "found": bool(found)}
        )
    return tried


def honest(true: pl.DataFrame, swapped: pl.DataFrame, traits: pl.DataFrame) -> dict[str, Any]:
    """How often errors at random are reported as a pattern."""
    latents = true["latent"].to_numpy()
    reports: Counter[str] = Counter()
    n_wrong = []
    for seed in range(SEEDS):
        wrong = latents[np.random.default_rng(seed).random(len(latents)) < HONEST].tolist()
        sets = suspicious_sets(with_lies(true, swapped, wrong), traits)
        reports.update({one.kind for one in sets} & set(PATTERNS))
        n_wrong.append(len(wrong))
    return {
        "seeds": SEEDS,
        "wrong": float(np.mean(n_wrong)),
        "reports": {kind: reports[kind] for kind in PATTERNS},
    }


def exchanged(
    texts: Mapping[int, str], rng: np.random.Generator, share: float = 0.2
) -> dict[int, str]:
    """Texts of latents that exchange theirs in pairs."""
    order = rng.permutation(list(texts)).tolist()
    most = 2 * max(5, round(share * len(order) / 2))
    pairs = zip(order[0:most:2], order[1:most:2], strict=False)
    return {mine: texts[other] for a, b in pairs for mine, other in ((a, b), (b, a))}


def with_lies(true: pl.DataFrame, swapped: pl.DataFrame, wrong: Sequence[int]) -> pl.DataFrame:
    """The table with some latents' rows replaced by those of a wrong explanation."""
    lies = swapped.filter(pl.col("latent").is_in(wrong))
    kept = true.filter(~pl.col("latent").is_in(lies["latent"].to_list()))
    return pl.concat([kept, lies]).sort("latent")


def shown(frame: pl.DataFrame, traits: pl.DataFrame) -> dict[str, Any]:
    sets = suspicious_sets(frame, traits)
    displaced = int(frame["better_latent"].is_not_null().sum())
    return {"n": len(frame), "displaced": displaced, "found": {one.kind: one.n for one in sets}}


def sets_table(sets: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of what is said of sets, a line for each hookpoint."""
    lines = [
        "| wording, hookpoint | n | shifted by one | exchanged in pairs | "
        "lies about one thing: named, found | honest errors reported |",
        "|---|---|---|---|---|---|",
    ]
    for one in sets:
        lied, honest = one["subverted"], one["honest"]
        reports = ", ".join(f"{kind} {n}" for kind, n in honest["reports"].items())
        lines.append(
            f"| {one['wording']}, {one['hookpoint']} | {one['n']} | {one['shifted']['found']} | "
            f"{one['pairs']['planted']}: {one['pairs']['found']} | "
            f"{sum(it['named'] for it in lied)}, {sum(it['found'] for it in lied)} of {len(lied)} |"
            f" {reports} of {honest['seeds']} |"
        )
    return "\n".join(lines)
