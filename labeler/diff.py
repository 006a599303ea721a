"""Two runs' labels side by side: across checkpoints, seeds, corpora, or dictionaries.

Latents are matched by number, or by the cosine of their decoder directions. Every figure is given
for a random matching of the same latents too: labels agree somewhat by chance, since all of them
speak of the common tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from labeler.analysis import labeled_hookpoints
from labeler.arrays import Doubles, Floats
from labeler.errors import OptionError
from labeler.eval.heldout import DocumentSums
from labeler.eval.ranking import ratio
from labeler.inputs import Run
from labeler.labels import READABLE, LabelSet, label_folder
from labeler.matching import Matching, match_by_cosine, match_by_number, shuffled
from labeler.progress import progress_bar
from labeler.store import write_json, write_parquet
from labeler.tokens import Tokens

How = Literal["number", "cosine"]

THRESHOLD = 0.7
"""Cosine of decoder directions from which latents of two dictionaries are matched."""

MAX_TOKENS = 16_384
"""Held-out positions of the first run on which predictions are compared."""


@dataclass(frozen=True, eq=False)
class HookpointDiff:
    """The labels of one hookpoint in two runs.

    Attributes
    ----------
    hookpoint : str
    how : {"number", "cosine"}
        How latents were matched.
    same_coder : bool
        Whether both runs used the same coder.
    n_a, n_b : int
        Latents of each run.
    pairs, random : polars.DataFrame
        `compare` of the matching and of a random one: a, b, cosine, labeled_a, labeled_b, type_a,
        type_b, text_a, text_b, jaccard, pearson, f1.
    """

    hookpoint: str
    how: How
    same_coder: bool
    n_a: int
    n_b: int
    pairs: pl.DataFrame
    random: pl.DataFrame


def diff_runs(
    a: Run, b: Run, how: How | None = None, threshold: float = THRESHOLD
) -> list[HookpointDiff]:
    """Compare the labels of two runs at every hookpoint that both have.

    Parameters
    ----------
    a, b : Run
    how : {"number", "cosine"}, optional
        How to match latents; None for by number where both coders have as many, else by cosine.
    threshold : float
        Least cosine of a match.

    Raises
    ------
    RunError, LabelError, CoderError
        If a run lacks labels, or a file is missing or damaged.
    OptionError
        If they share no hookpoint, or their latents cannot be matched in the way asked for.
    """
    names, others = labeled_hookpoints(a.out), labeled_hookpoints(b.out)
    shared = [name for name in names if name in others]
    if not shared:
        raise OptionError(
            f"{a.out} and {b.out} share no hookpoint: {', '.join(names)} there, "
            f"{', '.join(others)} here"
        )
    # Keys are computed from token ids, which mean the same under the same vocabulary only.
    tokens = _some(a.tokens.heldout) if a.tokens.vocab == b.tokens.vocab else None
    return [_diff_hookpoint(a, b, name, how, threshold, tokens) for name in shared]


def _diff_hookpoint(
    a: Run, b: Run, name: str, how: How | None, threshold: float, tokens: Tokens | None
) -> HookpointDiff:
    one, other = (LabelSet.load(label_folder(run.out, name)) for run in (a, b))
    n_a, n_b = one.n_latents, other.n_latents
    how = how or ("number" if n_a == n_b else "cosine")
    if how == "number":
        matching = match_by_number(n_a, n_b, name)
    else:
        matching = match_by_cosine(_directions(a, name), _directions(b, name), threshold, name)
    matchings = (matching, shuffled(matching, a.config.seed))
    total = tokens.n_ctx if tokens is not None else 1
    with progress_bar(f"comparing {name}", total, quiet=a.quiet) as advance:
        pairs, random = compare(one, other, matchings, tokens, advance)
    same = one.manifest["coder"] == other.manifest["coder"]
    return HookpointDiff(name, how, same, n_a, n_b, pairs, random)


def _some(tokens: Tokens) -> Tokens:
    """At most MAX_TOKENS positions, in contexts spread over the text."""
    most = max(MAX_TOKENS // tokens.ctx_len, 1)
    chosen = np.linspace(0, tokens.n_ctx - 1, min(most, tokens.n_ctx)).astype(np.int64)
    return tokens.select(np.unique(chosen))


def _directions(run: Run, name: str) -> Floats:
    directions: Floats = run.coders[name].W_dec.detach().float().cpu().numpy()
    return directions


def compare(
    a: LabelSet,
    b: LabelSet,
    matchings: Sequence[Matching],
    tokens: Tokens | None,
    advance: Callable[[float], None] = lambda n: None,
) -> list[pl.DataFrame]:
    """What the labels of each pair have in common, a table per matching.

    Parameters
    ----------
    a, b : LabelSet
    matchings : sequence of Matching
    tokens : Tokens or None
        Text to predict on; None where the vocabularies differ.
    advance : callable
        Told the contexts done.

    Returns
    -------
    list of polars.DataFrame
        A row per pair: a, b, cosine, labeled_a, labeled_b, type_a, type_b, text_a, text_b; and
        where both are labeled, jaccard of the texts of the keys that say "fires", pearson of the
        predictions and f1 of where they fire, all of READABLE keys. Null where undefined.
    """
    columns = ("labeled", "type", "text")
    keys = [firing_keys(labels) for labels in (a, b)]
    frames = []
    for matching in matchings:
        frame = pl.DataFrame(matching._asdict())
        for side, labels in (("a", a), ("b", b)):
            labeled = pl.col("status") == "labeled"
            facts = labels.latents.select(
                labeled.alias("labeled"),
                pl.when(labeled).then("function_type").alias("type"),
                "text",
            )
            chosen = facts[getattr(matching, side)]
            frame = frame.with_columns(chosen[name].alias(f"{name}_{side}") for name in columns)
        frames.append(frame.with_columns(pl.Series("jaccard", _jaccard(keys, matching))))
    agreement: Sequence[tuple[Doubles, Doubles]]
    if tokens is None:
        agreement = [(np.full(len(one.a), np.nan),) * 2 for one in matchings]
    else:
        agreement = _predictions(a, b, matchings, tokens, advance)
    both = pl.col("labeled_a") & pl.col("labeled_b")
    return [
        frame.with_columns(pl.Series("pearson", pearson), pl.Series("f1", f1))
        .with_columns(pl.when(both).then(name).alias(name) for name in ("jaccard", "pearson", "f1"))
        .with_columns(pl.col("cosine", "jaccard", "pearson", "f1").fill_nan(None))
        for frame, (pearson, f1) in zip(frames, agreement, strict=True)
    ]


def firing_keys(labels: LabelSet) -> pl.DataFrame:
    """Distinct (latent, text) of the keys of which a label of READABLE keys says "fires"."""
    threshold = labels.latents.select("latent", pl.col(f"threshold_{READABLE}").alias("threshold"))
    return (
        labels.entries.filter((pl.col("budget") == READABLE) & (pl.col("weight") > 0))
        .join(threshold, on="latent")
        .filter(pl.col("value") >= pl.col("threshold"))
        .select(pl.col("latent").cast(pl.Int64), "text")
        .unique()
    )


def _jaccard(keys: Sequence[pl.DataFrame], matching: Matching) -> Doubles:
    """Shared texts over all texts of each pair; NaN where there are none."""
    n = len(matching.a)
    of_a, of_b = (
        pl.DataFrame({"pair": np.arange(n), "latent": latent}).join(mine, on="latent")
        for mine, latent in zip(keys, (matching.a, matching.b), strict=True)
    )
    shared = of_a.join(of_b, on=["pair", "text"])
    n_a, n_b, n_shared = (np.bincount(one["pair"], minlength=n) for one in (of_a, of_b, shared))
    return ratio(n_shared.astype(np.float64), (n_a + n_b - n_shared).astype(np.float64))


def _predictions(
    a: LabelSet,
    b: LabelSet,
    matchings: Sequence[Matching],
    tokens: Tokens,
    advance: Callable[[float], None],
) -> list[tuple[Doubles, Doubles]]:
    """Correlation of the predictions of each pair, and F1 of where they fire."""
    one, other = a.predictor(READABLE), b.predictor(READABLE)
    names = ("fires", "called", "hit", "predicted", "predicted2", "act", "act2", "product")
    sums = [{name: np.zeros(len(matching.a)) for name in names} for matching in matchings]
    for (span, x), (_, y) in zip(one.iterate(tokens), other.iterate(tokens), strict=True):
        valid = tokens.valid[span].ravel()
        for matching, total in zip(matchings, sums, strict=True):
            act, predicted = x[valid][:, matching.a], y[valid][:, matching.b]
            fires = act >= one.threshold[matching.a]
            called = predicted >= other.threshold[matching.b]
            for name, flag in (("fires", fires), ("called", called), ("hit", fires & called)):
                total[name] += flag.sum(axis=0)
            total["act"] += act.sum(axis=0)
            total["predicted"] += predicted.sum(axis=0)
            total["act2"] += np.einsum("ij,ij->j", act, act)
            total["predicted2"] += np.einsum("ij,ij->j", predicted, predicted)
            total["product"] += np.einsum("ij,ij->j", act, predicted)
        advance(span.stop - span.start)
    n = np.array([float(tokens.n_positions)])
    found = [DocumentSums(n=n, **total) for total in sums]
    return [(s.pearson(), ratio(2 * s.hit, s.fires + s.called)) for s in found]


def figures(pairs: pl.DataFrame) -> dict[str, Any]:
    """Figures of a matching: counts of pairs, and means over those with two labels."""
    both = pairs.filter(pl.col("labeled_a") & pl.col("labeled_b"))
    same = (both["type_a"] == both["type_b"]).mean()
    means = {name: both[name].mean() for name in ("jaccard", "pearson", "f1")}
    return {
        "pairs": len(pairs),
        "labeled_a": int(pairs["labeled_a"].sum()),
        "labeled_b": int(pairs["labeled_b"].sum()),
        "both": len(both),
        "same_type": same,
        **means,
    }


def most_different(found: Sequence[HookpointDiff], n: int) -> pl.DataFrame:
    """The `n` pairs of two labels that agree least: by F1, then by Jaccard; with `hookpoint`.

    By Jaccard alone where no predictions were compared.
    """
    every = all_pairs(found).filter(pl.col("labeled_a") & pl.col("labeled_b"))
    by = ["f1", "jaccard"] if every["f1"].is_not_null().any() else ["jaccard"]
    differ = pl.any_horizontal(pl.col(name) < 1 for name in by)
    return every.filter(pl.col(by[0]).is_not_null() & differ).sort([*by, "hookpoint", "a"]).head(n)


def all_pairs(found: Sequence[HookpointDiff]) -> pl.DataFrame:
    """The pairs of all hookpoints, one table with `hookpoint`."""
    return pl.concat(
        one.pairs.select(pl.lit(one.hookpoint).alias("hookpoint"), pl.all()) for one in found
    )


def write_diff(path: Path, found: Sequence[HookpointDiff]) -> None:
    """Write all pairs, as .parquet, or as .json with the figures."""
    if path.suffix == ".parquet":
        write_parquet(path, all_pairs(found))
    else:
        write_json(path, {"hookpoints": summarise(found), "pairs": all_pairs(found).to_dicts()})


def summarise(found: Sequence[HookpointDiff]) -> dict[str, Any]:
    """How latents were matched, and the figures of the matching and of the random one."""
    return {
        one.hookpoint: {
            "how": one.how,
            "same_coder": one.same_coder,
            "latents": [one.n_a, one.n_b],
            "matched": figures(one.pairs),
            "random": figures(one.random),
        }
        for one in found
    }
