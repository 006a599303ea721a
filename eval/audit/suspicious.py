"""Sets of explanations that are wrong together: copied, displaced, or wrong by design.

One wrong explanation is an error. That a labeler errs where errors should be random is a pattern,
and a pattern can be tested: against chance, each p-value corrected for how many were looked at.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binom, false_discovery_control, hypergeom, poisson

from labeler.eval.audit.ground import Ground

LEVEL = 0.01
"""Corrected p-value from which a pattern is reported."""

COPIES = 3
"""Latents from which on the same text is a set."""

FEWEST = 5
"""Latents that share a trait, and explanations displaced alike, from which on they are tested."""

SHARE = 0.1
"""Share of a latent's activation from which on a token is a trait of it."""

TOPIC_SHARE = 0.5
"""The same for the topic of its documents."""

JUDGED = ("supported", "too broad", "too narrow", "contradicted")
"""Verdicts that rest on what fires."""

_EXAMPLES = 12
"""Latents named of each set."""

_QUOTED = 80
"""Characters of an explanation that are repeated."""


@dataclass(frozen=True)
class Suspicion:
    """A set of explanations that looks like more than single errors.

    Attributes
    ----------
    kind : str
        "copied", "shifted", "swapped", "displaced", "subverted".
    n : int
        Explanations in it.
    p : float or None
        How likely chance makes it, corrected for what else was tested; None where the set is a
        fact that needs no test.
    text : str
        One sentence.
    examples : tuple of str
        "layers.1.mlp 17", at most 12.
    """

    kind: str
    n: int
    p: float | None
    text: str
    examples: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"examples": list(self.examples)}


def suspicious_sets(frame: pl.DataFrame, traits: pl.DataFrame | None = None) -> list[Suspicion]:
    """Find the sets in an audit's table.

    Parameters
    ----------
    frame : polars.DataFrame
        A row per explanation: hookpoint, latent, explanation, author, verdict, better_latent.
    traits : polars.DataFrame, optional
        hookpoint, latent, kind, value: what latents have in common (`traits_of`). The author of an
        explanation is always looked at.

    Returns
    -------
    list of Suspicion
        The largest of each kind first.
    """
    rows = frame.with_row_index("row")
    return [*_copied(rows), *_displaced(rows), *_subverted(rows, traits)]


def traits_of(ground: Ground) -> pl.DataFrame:
    """What latents have in common: tokens and topics they fire on.

    Returns
    -------
    polars.DataFrame
        hookpoint, latent, kind ("token" or "topic"), value. A token, without the blanks around it
        and in small letters, from `SHARE` of the latent's activation; a topic, at the coarsest
        level, from `TOPIC_SHARE`.
    """
    tokens, firings = ground.tokens, ground.firings
    position = firings.position
    found = pl.DataFrame(
        {
            "column": firings.latent.astype(np.int64),
            "token": tokens.ids.reshape(-1)[position].astype(np.int64),
            "doc": tokens.doc[position // tokens.ctx_len].astype(np.int64),
            "act": firings.act.astype(np.float64),
        }
    )
    named = pl.DataFrame(
        {
            "token": np.arange(tokens.n_vocab, dtype=np.int64),
            "value": [text.strip().lower() for text in tokens.vocab],
        }
    )
    parts = [_shares(found.join(named, on="token"), "token", SHARE)]
    if tokens.topic_levels:
        topics = pl.DataFrame(
            {
                "doc": np.arange(len(tokens.topics), dtype=np.int64),
                "value": [names[0] if names else "" for names in tokens.topics],
            }
        )
        parts.append(_shares(found.join(topics, on="doc"), "topic", TOPIC_SHARE))
    numbered = pl.DataFrame(
        {"column": np.arange(len(ground.latents), dtype=np.int64), "latent": ground.latents}
    )
    return (
        pl.concat(parts)
        .join(numbered, on="column")
        .select(pl.lit(ground.hookpoint).alias("hookpoint"), "latent", "kind", "value")
        .sort("kind", "value", "latent")
    )


def _shares(found: pl.DataFrame, kind: str, least: float) -> pl.DataFrame:
    summed = found.filter(pl.col("value") != "").group_by("column", "value").agg(pl.sum("act"))
    whole = found.group_by("column").agg(pl.sum("act").alias("whole"))
    return (
        summed.join(whole, on="column")
        .filter(pl.col("act") >= least * pl.col("whole"))
        .select("column", pl.lit(kind).alias("kind"), "value")
    )


def _copied(rows: pl.DataFrame) -> list[Suspicion]:
    """The same words on several latents, where they hold for less than half."""
    words = pl.col("explanation").str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ")
    groups = (
        rows.with_columns(words.str.strip_chars().alias("words"))
        .filter((pl.col("words") != "") & (pl.col("verdict") != "failed"))
        .group_by("words")
        .agg(
            pl.struct("hookpoint", "latent").n_unique().alias("n"),
            (pl.col("verdict") == "supported").sum().alias("held"),
            pl.first("explanation"),
            pl.col("row").alias("rows"),
        )
        .filter((pl.col("n") >= COPIES) & (2 * pl.col("held") < pl.col("rows").list.len()))
        .sort("n", "words", descending=[True, False])
    )
    return [
        Suspicion(
            "copied",
            n,
            None,
            f"“{_quoted(text)}” stands for {n} latents and is supported for {held} of them",
            _named(rows, members),
        )
        for n, held, text, members in groups.select("n", "held", "explanation", "rows").iter_rows()
    ]


def _displaced(rows: pl.DataFrame) -> list[Suspicion]:
    """Explanations that another latent of the same hookpoint fits far better."""
    moved = rows.filter(pl.col("better_latent").is_not_null())
    if not len(moved):
        return []
    shift = (moved["better_latent"] - moved["latent"]).to_numpy()
    found: list[Suspicion] = []
    steps, counts = np.unique(shift, return_counts=True)
    # A random other latent is any shift from -n to n; that the most frequent one was picked after
    # looking is paid for by the number of shifts.
    spread = int(moved.select("latent", "better_latent").to_numpy().max()) + 1
    step, most = int(steps[counts.argmax()]), int(counts.max())
    p_shift = min(1.0, 2 * spread * float(binom.sf(most - 1, len(moved), 1 / max(1, spread - 1))))
    if most >= FEWEST and p_shift <= LEVEL:
        members = moved.filter(pl.col("better_latent") - pl.col("latent") == step)["row"].to_list()
        found.append(
            Suspicion(
                "shifted",
                most,
                p_shift,
                f"{most} of {len(moved)} displaced explanations fit the latent {step:+d} from "
                "theirs: the numbers of the file may be off",
                _named(rows, members),
            )
        )
    pairs = moved.join(
        moved,
        left_on=["hookpoint", "latent", "better_latent"],
        right_on=["hookpoint", "better_latent", "latent"],
        how="semi",
    )
    n_pairs = len(pairs) // 2
    expected = len(moved) * (len(moved) - 1) / 2 / spread**2
    p_swap = float(poisson.sf(n_pairs - 1, expected)) if n_pairs else 1.0
    if len(pairs) >= FEWEST and p_swap <= LEVEL:
        found.append(
            Suspicion(
                "swapped",
                len(pairs),
                p_swap,
                f"{len(pairs)} explanations fit each other's latents: exchanged in pairs",
                _named(rows, pairs["row"].to_list()),
            )
        )
    found.append(
        Suspicion(
            "displaced",
            len(moved),
            None,
            f"{len(moved)} explanations fit another latent far better than their own",
            _named(rows, moved["row"].to_list()),
        )
    )
    return found


def _subverted(rows: pl.DataFrame, traits: pl.DataFrame | None) -> list[Suspicion]:
    """Traits whose explanations are contradicted more often than chance makes them."""
    judged = rows.filter(pl.col("verdict").is_in(JUDGED)).with_columns(
        (pl.col("verdict") == "contradicted").alias("wrong")
    )
    n, n_wrong = len(judged), int(judged["wrong"].sum())
    if not 0 < n_wrong < n:
        return []
    named = judged.select("row", pl.lit("author").alias("kind"), pl.col("author").alias("value"))
    parts = [named.filter(pl.col("value") != "")]
    if traits is not None:
        joined = judged.join(traits, on=["hookpoint", "latent"])
        parts.append(joined.select("row", "kind", "value"))
    groups = (
        pl.concat(parts)
        .unique()
        .join(judged.select("row", "wrong"), on="row")
        .group_by("kind", "value")
        .agg(
            pl.len().alias("n"),
            pl.col("wrong").sum().alias("hits"),
            pl.col("row").filter(pl.col("wrong")).sort().alias("rows"),
        )
        .filter((pl.col("n") >= FEWEST) & (pl.col("n") < n))
        .sort("kind", "value")
    )
    if not len(groups):
        return []
    hits, size = (groups[name].to_numpy().astype(np.int64) for name in ("hits", "n"))
    p = false_discovery_control(np.minimum(hypergeom.sf(hits - 1, n, n_wrong, size), 1.0))
    found = []
    for (kind, value, of, wrong, members), corrected in zip(groups.iter_rows(), p, strict=True):
        if corrected <= LEVEL:
            rest = (n_wrong - wrong) / (n - of)
            whose = f"by {value}" if kind == "author" else f"of the {kind} `{value}`"
            found.append(
                Suspicion(
                    "subverted",
                    wrong,
                    float(corrected),
                    f"explanations {whose} are contradicted {wrong} times in {of}, "
                    f"others {rest:.0%} of the time",
                    _named(rows, members),
                )
            )
    return sorted(found, key=lambda one: (one.p or 0.0, -one.n))


def _named(rows: pl.DataFrame, members: Sequence[int]) -> tuple[str, ...]:
    some = rows[sorted(members)[:_EXAMPLES]]
    return tuple(
        f"{place} {latent}" for place, latent in some.select("hookpoint", "latent").iter_rows()
    )


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"
