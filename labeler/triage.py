"""Why latents stay without a label, or with a weak one: one reason each, the first that applies."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import polars as pl

from labeler.arrays import Bools
from labeler.fitted import FDR, MIN_FIT_FIRINGS
from labeler.inputs import Run
from labeler.labels import READABLE
from labeler.progress import progress_bar
from labeler.store import write_parquet
from labeler.summary import triage_path
from labeler.triage_facts import DENSE, FAINT, WEAK_F1, Facts, load_facts

REDUNDANT = 0.9
"""Cosine of activations above which a latent does what another one does."""

MOST = 0.5
"""Share of a latent's firings that must be faint. With FAINT at a quarter of the mean, one of the
8,192 latents of the OpenStax subject would qualify."""

FOLLOWS = 0.7
"""Held-out correlation from which a label follows the activation, whatever its F1."""

NEARLY_Q = 0.1
"""False-discovery rate up to which a latent that missed FDR came near it."""

PART, LARGEST, N_PARTS = 0.1, 0.6, 3
"""Several rules: N_PARTS families or more with PART of the label's weight each, none with more than
LARGEST. By weight, not by bits: the bits that two families save may be the same bits."""

CONTEXT_FAMILIES = (
    "topic",
    "learned_topic",
    "context_class",
    "context_class_fast",
    "code",
    "both_before",
)
"""Families whose keys say what kind of text came before, not which tokens just did."""


class Reason(NamedTuple):
    """A reason: what it means, which latents it applies to, and what to say of one."""

    name: str
    means: str
    applies: Callable[[Facts], Bools]
    detail: Callable[[Facts, int], str]


def _redundant_with(facts: Facts, latent: int) -> str:
    other = int(facts.doubled.other[latent])
    return (
        f"cosine {facts.doubled.cosine[latent]:.2f} with latent {other}, which fires "
        f"{facts.count[other]:,} times, it {facts.count[latent]:,} times"
    )


def _faint(facts: Facts, latent: int) -> str:
    if facts.faint[latent] > MOST:
        return f"{facts.faint[latent]:.0%} of its firings are below {FAINT} of its mean activation"
    return (
        f"its label follows the activation (r = {facts.pearson[latent]:.2f}), but not the faint "
        f"firings (F1 {facts.f1[latent]:.2f})"
    )


def _nearly(facts: Facts, latent: int) -> str:
    row = facts.row(latent)
    best = f"{row['closest'][0]['type']} saves {row['closest'][0]['bits']:,.0f} bits, but "
    if row["q"] > FDR:
        return f"{best}q = {row['q']:.2g} where {FDR:g} is needed"
    return f"{best}none of its keys saves more than it costs to state"


def _parts(facts: Facts) -> Bools:
    large = (facts.weight >= PART).sum(axis=0)
    several: Bools = (large >= N_PARTS) & (facts.weight.max(axis=0, initial=0) <= LARGEST)
    return several


def _name_parts(facts: Facts, latent: int) -> str:
    share = facts.weight[:, latent]
    largest = [index for index in np.argsort(-share, kind="stable") if share[index] >= PART]
    named = ", ".join(f"{facts.families[index]} {share[index]:.0%}" for index in largest)
    return f"{named} of the label's weight"


def _leading(facts: Facts, latent: int) -> str:
    """What the type that leads saves, or why nothing does."""
    row = facts.row(latent)
    if not facts.labeled[latent]:
        return str(row["text"]).removeprefix("unexplained: ")
    rate = facts.density[latent]
    entropy = -np.log2(rate) * rate - np.log2(1 - rate) * (1 - rate)
    return (
        f"{row['function_type']} saves {row['bits']:,.0f} of {entropy * facts.n_positions:,.0f} "
        f"bits; F1 {facts.f1[latent]:.2f}"
    )


REASONS = (
    Reason(
        "too rare",
        f"fires fewer than {MIN_FIT_FIRINGS} times in the fit split, and is not fitted",
        lambda facts: facts.rare,
        lambda facts, latent: f"fires {facts.count[latent]:,} times in the fit split",
    ),
    Reason(
        "dense",
        f"fires at more than {DENSE:.0%} of all positions",
        lambda facts: facts.density > DENSE,
        lambda facts, latent: f"fires at {facts.density[latent]:.1%} of positions",
    ),
    Reason(
        "redundant",
        f"fires like another latent that fires more (cosine above {REDUNDANT})",
        lambda facts: facts.doubled.cosine > REDUNDANT,
        _redundant_with,
    ),
    Reason(
        "output-side",
        "a type that reads the text to come tells more of its firings than any other",
        lambda facts: facts.later > facts.sooner,
        lambda facts, latent: (
            f"saves {facts.later[latent]:,.0f} net bits by the text to come, "
            f"{facts.sooner[latent]:,.0f} by the text so far"
        ),
    ),
    Reason(
        "faint firings",
        "most of its firings are faint, or its label is wrong on faint ones only",
        lambda facts: (facts.faint > MOST) | (facts.labeled & (facts.pearson >= FOLLOWS)),
        _faint,
    ),
    Reason(
        "nearly",
        f"a type saves bits, but its keys cost more, or chance is ruled out at {NEARLY_Q:g} only",
        lambda facts: (
            ~facts.labeled & (facts.bits > 0) & (facts.latents["q"].to_numpy() <= NEARLY_Q)
        ),
        _nearly,
    ),
    Reason(
        "several rules",
        f"at least {N_PARTS} families of function types each explain a part",
        _parts,
        _name_parts,
    ),
    Reason(
        "context",
        "a type that tells the kind of text leads",
        lambda facts: (facts.net_bits > 0) & np.isin(facts.leads, CONTEXT_FAMILIES),
        _leading,
    ),
    Reason(
        "many keys",
        f"all keys find its firings, {READABLE} do not",
        lambda facts: facts.labeled & (facts.f1_whole >= WEAK_F1),
        lambda facts, latent: (
            f"F1 {facts.f1[latent]:.2f} with {READABLE} keys, {facts.f1_whole[latent]:.2f} with all"
        ),
    ),
    Reason("unexplained", "none of these", lambda facts: facts.count >= 0, _leading),
)
"""Every reason, in the order in which they are tried."""


def triage(facts: Facts) -> pl.DataFrame:
    """Latents that fire but have no label or a weak one: latent, reason, detail; ascending."""
    number = np.select([reason.applies(facts) for reason in REASONS], np.arange(len(REASONS)))
    latents = np.flatnonzero(facts.open)
    return pl.DataFrame(
        {
            "latent": latents.astype(np.int32),
            "reason": [REASONS[number[latent]].name for latent in latents],
            "detail": [REASONS[number[latent]].detail(facts, int(latent)) for latent in latents],
        },
        schema_overrides={"reason": pl.String, "detail": pl.String},
    )


def write_triage(run: Run, hookpoint: str) -> pl.DataFrame:
    """Triage a hookpoint and write ``triage/<hookpoint>.parquet``.

    Raises
    ------
    LabelError, CacheError, RunError
        If a step has not been run, or a file is damaged.
    """
    with progress_bar(f"triage of {hookpoint}", 1.0, quiet=run.quiet) as advance:
        found = triage(load_facts(run, hookpoint, advance))
    write_parquet(triage_path(run.out, hookpoint), found)
    return found


def count_reasons(found: pl.DataFrame) -> dict[str, int]:
    """Latents by reason, every reason named, in order."""
    counts = dict(found["reason"].value_counts().iter_rows())
    return {reason.name: counts.get(reason.name, 0) for reason in REASONS}
