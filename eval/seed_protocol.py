"""The seed study's own evaluation, and what its criterion makes of labels taken at random.

Davies and Maratha (2024, Explaining-Latents-with-Function-Types, eval.py): a probe succeeds if the
latent's activation at the target is more than 0.01 from its mean over all probes, in either
direction, and a latent is explained if any of up to seven probes does. There is no control. Here
the same criterion is applied to another latent's probes, and both to a criterion with a control.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labeler.arrays import Doubles, Longs
from labeler.errors import OptionError
from labeler.eval.firings import TextFirings
from labeler.eval.scene import Scene
from labeler.eval.seed_probes import KINDS, Probes, Sentences, build, wants_of
from labeler.eval.seed_sentences import HeldoutSentences
from labeler.eval.trials import Trials, wilson
from labeler.eval.verdict import MIN_TRIALS
from labeler.statistics import LatentFirings
from labeler.tokens import Tokens

SUCCESS = 0.01
"""Distance of an activation from the mean that counts as success."""

PUBLISHED = (0.78, 0.95, 0.94, 0.88, 0.94, 0.78, 0.63, 0.45, 0.44, 0.37, 0.27, 0.21)
"""Share of latents explained that the study reports, layers 1 to 12."""

_THEIR_KINDS = ("top-token", "connecting-tokens", "detecting-dataset-topic")


def published_table(path: Path) -> pl.DataFrame:
    """Recompute the study's table from its probes.

    Parameters
    ----------
    path : Path
        ``eval_results.jsonl``, plain or gzipped: an object per probe with layer, latent_index,
        type, activation_value, success.

    Returns
    -------
    polars.DataFrame
        A row per layer, counted from 1: layer, n_latents, explained (share of latents with a
        success), n_probes, n_success, n_silent (successes with activation exactly 0), and for each
        of `KINDS` its probes and successes (``specific token``, ``specific token success``).

    Raises
    ------
    OptionError
        If the file is missing or not of that form.
    """
    fields = ("layer", "latent_index", "type", "activation_value", "success")
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            rows = [json.loads(line) for line in lines]
        probes = pl.DataFrame([{name: row[name] for name in fields} for row in rows])
        kinds = [
            expression
            for kind, theirs in zip(KINDS, _THEIR_KINDS, strict=True)
            for expression in (
                (pl.col("type") == theirs).sum().alias(kind),
                ((pl.col("type") == theirs) & pl.col("success")).sum().alias(f"{kind} success"),
            )
        ]
        by_latent = probes.group_by("layer", "latent_index").agg(pl.col("success").any())
        latents = by_latent.group_by("layer").agg(
            pl.len().alias("n_latents"), pl.col("success").mean().alias("explained")
        )
        layers = probes.group_by("layer").agg(
            pl.len().alias("n_probes"),
            pl.col("success").sum().alias("n_success"),
            (pl.col("success") & (pl.col("activation_value") == 0)).sum().alias("n_silent"),
            *kinds,
        )
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise OptionError(
            f"{path}: not the seed study's results ({type(error).__name__}: {error}); give its "
            "eval_results.jsonl, plain or gzipped"
        ) from error
    return latents.join(layers, on="layer").sort("layer").with_columns(pl.col("layer") + 1)


@dataclass(frozen=True, eq=False)
class SeedResult:
    """What came of the protocol at one hookpoint.

    Attributes
    ----------
    probes : polars.DataFrame
        A row per latent and probe: latent, label ("own", or "random": its partner's), kind,
        activation, mean (of the latent over all probes), success.
    latents : polars.DataFrame
        A row per latent that has probes and whose partner has: latent, n_probes, passes, fires,
        beats (null with fewer than 6 probes), each also with suffix ``_random``.
    """

    probes: pl.DataFrame
    latents: pl.DataFrame

    def summary(self) -> dict[str, Any]:
        """Shares of latents that pass, for ``tests.json["seed_protocol"]``.

        ``passes`` is the study's criterion; ``fires`` is that without the successes whose
        activation is exactly 0; ``beats`` is ours: the latent fires on more of the label's probes
        than of its control's, the interval of the difference above 0, among latents with at least
        6 probes. Each for the own label and a random one (another latent's). Wilson intervals of
        95%. ``n_silent`` counts successes with activation exactly 0.
        """
        frame, probes = self.latents, self.probes

        def shares(some: pl.DataFrame, label: str) -> dict[str, Any]:
            mine = some.filter(pl.col("label") == label)
            silent = mine.filter(pl.col("success") & (pl.col("activation") == 0))
            return share(mine["success"]) | {"n_silent": len(silent)}

        return {
            "n_latents": len(frame),
            **{
                name: {"own": share(frame[name]), "random": share(frame[f"{name}_random"])}
                for name in ("passes", "fires", "beats")
            },
            "probes": {
                kind: {label: shares(some, label) for label in ("own", "random")}
                for kind in KINDS
                for some in [probes.filter(pl.col("kind") == kind)]
            },
        }


@dataclass(frozen=True, eq=False)
class _Watched:
    """Activations of latents on probes, by latent and then in the order of the probes."""

    latent: Longs
    row: Longs
    act: Doubles

    @property
    def place(self) -> Longs:
        """Number of each probe among its latent's."""
        return np.arange(len(self.latent)) - np.searchsorted(self.latent, self.latent)

    def frame(self, label: str, probes: Probes, mean: Doubles) -> pl.DataFrame:
        """As rows of `SeedResult.probes`."""
        return pl.DataFrame(
            {
                "latent": self.latent.astype(np.int32),
                "label": [label] * len(self.row),
                "kind": [probes.wants[row].kind for row in self.row.tolist()],
                "activation": self.act,
                "mean": mean[self.latent],
                "success": np.abs(self.act - mean[self.latent]) > SUCCESS,
            },
            schema_overrides={"label": pl.String, "kind": pl.String},
        )


def seed_protocol(
    scene: Scene,
    fit: Tokens,
    fired: LatentFirings,
    *,
    sentences: Sentences | None = None,
    advance: Callable[[float], None] = lambda n: None,
) -> SeedResult:
    """Run the study's evaluation on the latents under test of a scene.

    Tokens, pairs and topics are taken by the study's rules from the latents' top sequences, not
    from their labels. A latent's random label is its partner's tokens, pairs and topics: the same
    texts, watched on this latent. A random label's own control is that of a third latent.

    Parameters
    ----------
    scene : Scene
    fit : Tokens
        The fit split.
    fired : LatentFirings
        Firings there of latents that include those under test.
    sentences : Sentences, optional
        Where sentences come from; pieces of the held-out text where None.
    advance : callable
        Told the probes done.
    """
    latents = scene.latents
    source = sentences or HeldoutSentences(scene.heldout, scene.seed)
    probes = build(wants_of(fit, fired, latents), source, scene.heldout, scene.subject.max_ctx)
    name = scene.claims.hookpoint
    firings = scene.subject.firings(probes.text, [name], advance=advance)[name]
    total = np.bincount(firings.latent, weights=firings.act, minlength=firings.n_latents)
    mean = total / max(probes.text.n_positions, 1)
    owner = np.array([want.latent for want in probes.wants], dtype=np.int64)

    def watched(on: Longs) -> _Watched:
        """Each latent under test on the probes of another; -1 for none."""
        first, last = np.searchsorted(owner, on), np.searchsorted(owner, on, side="right")
        latent = np.repeat(latents, last - first)
        spans = zip(first.tolist(), last.tolist(), strict=True)
        row = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(*span) for span in spans)])
        return _Watched(latent, row, _activation(firings, probes, row, latent))

    partner = scene.partner[latents]
    own, control, third = (
        watched(on) for on in (latents, partner, _third(latents, partner, scene.seed))
    )
    frames = {
        label: some.frame(label, probes, mean)
        for label, some in (("own", own), ("random", control))
    }
    by_latent = [
        frame.group_by("latent").agg(
            pl.len().alias(f"n_{label}"),
            pl.col("success").any().alias(f"passes_{label}"),
            (pl.col("success") & (pl.col("activation") > 0)).any().alias(f"fires_{label}"),
        )
        for label, frame in frames.items()
    ]
    joined = by_latent[0].join(by_latent[1], on="latent").sort("latent")
    for name, pair in (("beats", (own, control)), ("beats_random", (control, third))):
        joined = joined.join(_beats(*pair, name), on="latent", how="left", maintain_order="left")
    return SeedResult(
        pl.concat(frames.values()),
        joined.select(
            "latent",
            pl.col("n_own").alias("n_probes"),
            pl.col("passes_own").alias("passes"),
            "passes_random",
            pl.col("fires_own").alias("fires"),
            "fires_random",
            "beats",
            "beats_random",
        ),
    )


def share(hits: pl.Series) -> dict[str, float | int | None]:
    """Share of a boolean column, nulls left out, with its Wilson interval; None where empty."""
    n, found = len(hits) - hits.null_count(), int(hits.sum())
    if not n:
        return {"n": 0, "share": None, "low": None, "high": None}
    low, high = wilson(found, n)
    return {"n": n, "share": found / n, "low": max(0.0, float(low)), "high": float(high)}


def _activation(firings: TextFirings, probes: Probes, row: Longs, latent: Longs) -> Doubles:
    """Activation of each latent on a probe: at its targets, or the highest of the text."""
    length = probes.text.ctx_len
    act = np.zeros(len(row))
    topical = probes.read[row, 0] < 0
    some = np.flatnonzero(~topical)
    for place in (0, 1):
        position = row[some] * length + probes.read[row[some], place]
        act[some] += firings.at(position, latent[some]) / 2
    some = np.flatnonzero(topical)
    everywhere = (row[some] * length)[:, None] + np.arange(length)
    found = firings.at(everywhere.ravel(), np.repeat(latent[some], length))
    act[some] = found.reshape(len(some), length).max(axis=1, initial=0)
    return act


def _beats(own: _Watched, control: _Watched, name: str) -> pl.DataFrame:
    """Whether a latent fires on more of the own probes than of the control's, beyond chance.

    A row per latent with as many probes of both as a verdict asks for.
    """
    width = 1 + max([0, *own.place.tolist(), *control.place.tolist()])
    _, mine, theirs = np.intersect1d(
        own.latent * width + own.place,
        control.latent * width + control.place,
        assume_unique=True,
        return_indices=True,
    )
    latent = own.latent[mine].astype(np.int32)
    failed = np.zeros(int(latent.max(initial=0)) + 1, dtype=np.int64)
    trials = Trials("seed", latent, own.act[mine] > 0, control.act[theirs] > 0, failed)
    tried = trials.tally().filter(pl.col("n") >= MIN_TRIALS)
    return tried.select("latent", (pl.col("low") > 0).alias(name))


def _third(latents: Longs, partner: Longs, seed: int) -> Longs:
    """A further latent for each, neither itself nor its partner; -1 where there is none."""
    rng = np.random.default_rng(seed)
    left = [
        latents[(latents != one) & (latents != other)]
        for one, other in zip(latents, partner, strict=True)
    ]
    return np.array([rng.choice(some) if len(some) else -1 for some in left], dtype=np.int64)
