"""Which latents get a card: by rule, so that nobody can pick the pretty ones."""

from typing import NamedTuple

import numpy as np
import polars as pl

from labeler.fitted import MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS

POOR = 0.3
"""Held-out F1 below which a label counts as poor."""

PAGE_CARDS = 120
"""Cards on a page with many hookpoints."""

MOST, LEAST = 15, 4
"""Cards of one hookpoint."""


class Choice(NamedTuple):
    """A latent to show."""

    latent: int
    why: str


def cards_per_hookpoint(n_hookpoints: int) -> int:
    """Cards of each hookpoint, so that the page stays small.

    >>> cards_per_hookpoint(4), cards_per_hookpoint(12), cards_per_hookpoint(48)
    (15, 10, 4)
    """
    return min(max(PAGE_CARDS // max(n_hookpoints, 1), LEAST), MOST)


SOUGHT = ("refuted", "weak")
"""Verdicts that no page may be without, if there are any."""


def choose(
    latents: pl.DataFrame,
    scores: pl.DataFrame,
    most: int,
    seed: int,
    verdicts: pl.DataFrame | None = None,
) -> list[Choice]:
    """Choose latents of a hookpoint: labeled ones by held-out F1, then unlabeled ones.

    Parameters
    ----------
    latents, scores : polars.DataFrame
        A row per latent each: of the labels, and held-out at READABLE keys.
    most : int
        Cards wanted; what comes late in the rules below is dropped first.
    seed : int
        Of the random choices.
    verdicts : polars.DataFrame, optional
        A row per latent that was tried: one of each kind of SOUGHT is among the first chosen.

    Returns
    -------
    list of Choice
        Labeled ones by falling F1, then abstained, then too rare.
    """
    frame = latents.select("latent", "status", "function_type", "n_fit").join(
        scores.select("latent", "f1", "n_heldout"), on="latent"
    )
    rng = np.random.default_rng(seed)
    enough = (pl.col("n_fit") >= MIN_FIT_FIRINGS) & (pl.col("n_heldout") >= MIN_HELDOUT_FIRINGS)
    live = frame.filter((pl.col("status") == "labeled") & enough)
    ranked = live.sort(["f1", "latent"], descending=[True, False])
    by_f1 = ranked["latent"].to_list()
    middle = len(by_f1) // 2
    poor = live.filter(pl.col("f1") < POOR)["latent"].to_list()
    abstained = frame.filter(pl.col("status") == "abstained")["latent"].to_list()
    # One that fires at least once in the held-out text has something to show.
    rare = frame.filter((pl.col("status") == "too_rare") & (pl.col("n_heldout") > 0))
    rare_or_dead = rare if len(rare) else frame.filter(pl.col("status") == "too_rare")
    typical = _typical(ranked)
    rules = [
        *_some(by_f1[:1], "best F1"),
        *_sought(verdicts, rng),
        *_some(by_f1[middle : middle + 1], "median F1"),
        *_some(by_f1[-1:], "worst F1"),
        *_some(_draw(abstained, 1, rng), "abstained"),
        *typical[:5],
        *_some(_draw(poor, 2, rng), f"F1 below {POOR}"),
        *_some(_draw(rare_or_dead["latent"].to_list(), 1, rng), "too rare"),
        *_some(_draw(abstained, 2, rng), "abstained"),
        *_some(_draw(by_f1, 3, rng), "drawn at random"),
        *_some(by_f1[1:2], "second-best F1"),
        *typical[5:],
    ]
    unique: dict[int, str] = {}
    for choice in rules:
        if choice.latent in unique or len(unique) < most:
            known = unique.get(choice.latent)
            unique[choice.latent] = choice.why if known in (None, choice.why) else known
    group = dict(zip(frame["latent"], frame["status"], strict=True))
    f1 = dict(zip(frame["latent"], frame["f1"], strict=True))
    order = {"labeled": 0, "abstained": 1, "too_rare": 2}
    chosen = [Choice(latent, why) for latent, why in unique.items()]
    return sorted(chosen, key=lambda c: (order[group[c.latent]], -f1[c.latent], c.latent))


def _typical(ranked: pl.DataFrame) -> list[Choice]:
    """The label of median F1 of each winning type, the commonest type first."""
    common = ranked.group_by("function_type").len().sort(["len", "function_type"], descending=True)
    out = []
    for kind in common["function_type"]:
        mine = ranked.filter(pl.col("function_type") == kind)["latent"].to_list()
        out.append(Choice(mine[len(mine) // 2], f"median {kind}"))
    return out


def _sought(verdicts: pl.DataFrame | None, rng: np.random.Generator) -> list[Choice]:
    """A label of each verdict that must not be missing, drawn at random."""
    if verdicts is None:
        return []
    return [
        choice
        for name in SOUGHT
        for choice in _some(
            _draw(verdicts.filter(pl.col("verdict") == name)["latent"].to_list(), 1, rng),
            f"{name}, drawn at random",
        )
    ]


def _some(latents: list[int], why: str) -> list[Choice]:
    return [Choice(latent, why) for latent in latents]


def _draw(latents: list[int], n: int, rng: np.random.Generator) -> list[int]:
    if not latents:
        return []
    drawn = rng.choice(latents, min(n, len(latents)), replace=False)
    return [int(latent) for latent in drawn]
