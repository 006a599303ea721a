"""Audit other people's explanations: the driver of `labeler audit`.

    files -> Explanations -> Ground of each hookpoint -> verdicts -> table, JSON, page

Everything is read and judged before anything is written, except the cache that an audit with
--model makes: it stays, and the same command continues with it.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from labeler.audit_prose import Simulation, embedding_scorer, simulator_of
from labeler.config import RunConfig
from labeler.errors import OptionError
from labeler.eval.audit.ground import Ground
from labeler.eval.audit.grounds import ContextGrounds, Grounds, RunGrounds, match_places
from labeler.eval.audit.judge import audit_hookpoint
from labeler.eval.audit.prose import ContextScorer, TokenScorer
from labeler.eval.audit.suspicious import suspicious_sets, traits_of
from labeler.explanations import Explanation, Explanations
from labeler.hookpoints import parse_hookpoint
from labeler.inputs import Run
from labeler.interop.read import read_explanations
from labeler.progress import progress_bar
from labeler.report.audit import audit_content, picked_rows
from labeler.report.audit_contexts import Shown, firing_contexts
from labeler.report.audit_page import write_audit_page
from labeler.store import read_json, write_json, write_parquet

FORMAT = 1

MEANS = (
    *("precision", "recall", "f1", "auroc"),
    *("control_precision", "control_recall", "control_f1", "control_auroc"),
    *("rule_precision", "rule_recall", "rule_f1"),
)
"""Columns whose means ``audit.json`` has, by method."""

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Audit:
    """A finished audit.

    Attributes
    ----------
    out : Path
        Holds audit.parquet, audit.json and audit.html.
    frame : polars.DataFrame
        A row per explanation.
    facts : dict
        What audit.json says.
    """

    out: Path
    frame: pl.DataFrame
    facts: dict[str, Any]

    @property
    def n(self) -> int:
        """Number of explanations."""
        return len(self.frame)


def audit(
    labels: Path,
    out: Path | None = None,
    *,
    run: Path | None = None,
    config: RunConfig | None = None,
    file_format: str | None = None,
    hookpoint: str | None = None,
    embedding: Path | None = None,
    simulation: Simulation | None = None,
    seed: int = 0,
    say: Say = lambda line: None,
    quiet: bool = False,
) -> Audit:
    """Judge the explanations of a file or folder, and write what was found.

    Parameters
    ----------
    labels : Path
    out : Path, optional
        With `run`, ``RUN/audit/<name of labels>`` by default.
    run : Path, optional
        Run folder whose held-out text they are checked on.
    config : RunConfig, optional
        Instead of `run`: model, coders and corpus to check them on. Without either they are checked
        on the contexts that came with them.
    file_format : str, optional
        Format of the files, where it cannot be told.
    hookpoint : str, optional
        See `labeler.eval.audit.grounds.match_places`.
    embedding : Path, optional
        Sentence-transformers folder that prose is compared with contexts by.
    simulation : Simulation, optional
        Language model that simulates prose.
    seed : int

    Raises
    ------
    ExplanationError
        If the files cannot be read.
    OptionError
        If the options do not fit each other or the files.
    RunError, CacheError, ModelError, CoderError, CorpusError, EndpointError
        What the run, or the models asked for, raise.
    DiskError
        If the results cannot be written.
    """
    out = _out(labels, out, run)
    found = read_explanations(labels, format=file_format, hookpoint=hookpoint)
    scorer = embedding_scorer(embedding)
    cached = Run(run, quiet=quiet) if run is not None else None
    named = sorted({one.hookpoint for one in found.explanations})
    known = None if cached is None else cached.hookpoints
    # A name with {layer} in it has been filled in by the reader.
    wanted = None if hookpoint is None or "{layer}" in hookpoint else hookpoint
    places = match_places(named, known, wanted)
    found, notes = _placed(found, places)
    if config is not None:
        cached = _cache(out / "run", config, sorted(set(places.values())), say, quiet)
    grounds: Grounds = ContextGrounds(found.contexts)
    if cached is not None:
        grounds = RunGrounds(cached, "model" if config is not None else "run")
    _refuse_all_missing(found.explanations, grounds)
    simulator = simulator_of(simulation, out)
    judged = _Judged(grounds, scorer, simulator, seed, quiet)
    frame, shown = judged.all(found.explanations)
    facts = {
        "format": FORMAT,
        "source": str(labels),
        "read_as": found.format,
        "text": grounds.facts(),
        "n": len(frame),
        "verdicts": _counts(frame, "verdict"),
        "methods": _counts(frame, "method"),
        "means": _means(frame),
        "suspicious": _suspicious(frame, judged.traits),
        "prose_by": {
            "embedding": None if embedding is None else str(embedding),
            "simulator": None if simulator is None else simulator.simulator.name,
        },
        "seed": seed,
        "notes": [*found.notes, *notes],
    }
    result = Audit(out, frame, facts)
    _write(result, shown)
    return result


def _out(labels: Path, out: Path | None, run: Path | None) -> Path:
    """Where results go; refuses a folder with the audit of other explanations."""
    if out is None:
        if run is None:
            raise OptionError("give --out, or --run to write into its folder")
        name = re.sub(r"[^\w.-]+", "-", labels.resolve().name).strip(".-")
        out = run / "audit" / (name or "explanations")
    path = out / "audit.json"
    if path.exists():
        cure = "delete it, or choose another --out"
        earlier = read_json(path, OptionError, cure)
        source = earlier.get("source") if isinstance(earlier, dict) else None
        if not isinstance(source, str) or Path(source).resolve() != labels.resolve():
            raise OptionError(f"{out} holds the audit of {source}; choose another --out")
    return out


def _placed(found: Explanations, places: Mapping[str, str]) -> tuple[Explanations, list[str]]:
    """Explanations of the places to audit, under the names they have here."""
    kept = [one for one in found.explanations if one.hookpoint in places]
    left = len(found.explanations) - len(kept)
    notes = [f"{left:,} explanations of other places were left out (--hookpoint)"] if left else []
    moved = {name: target for name, target in places.items() if name != target}
    notes += [f"{name} was taken for {target} (--hookpoint)" for name, target in moved.items()]
    renamed = dataclasses.replace(
        found,
        explanations=tuple(
            dataclasses.replace(one, hookpoint=places[one.hookpoint]) for one in kept
        ),
        contexts={
            (places[place], latent): contexts
            for (place, latent), contexts in found.contexts.items()
            if place in places
        },
    )
    return renamed, notes


def _cache(out: Path, config: RunConfig, places: Sequence[str], say: Say, quiet: bool) -> Run:
    """Run model and coders over the corpus, as `labeler cache` does."""
    from labeler.steps import cache, start

    hookpoints = tuple(parse_hookpoint(name).name for name in places)
    run = start(out, dataclasses.replace(config, hookpoints=hookpoints), quiet=quiet)
    cache(run, say)
    return run


def _refuse_all_missing(explanations: Sequence[Explanation], grounds: Grounds) -> None:
    """Refuse files of which nothing can be found: they are of another model or coder.

    Raises
    ------
    OptionError
        If so.
    """
    reasons = [grounds.missing(one.hookpoint, one.latent) for one in explanations]
    if reasons and all(reasons):
        raise OptionError(
            f"none of the {len(reasons):,} explanations is of a latent that is known here: "
            f"{reasons[0]}; are they of another coder?"
        )


class _Judged:
    """Judges explanations hookpoint by hookpoint."""

    def __init__(
        self,
        grounds: Grounds,
        scorer: ContextScorer | None,
        simulator: TokenScorer | None,
        seed: int,
        quiet: bool,
    ) -> None:
        self.grounds, self.scorer, self.simulator = grounds, scorer, simulator
        self.seed, self.quiet = seed, quiet
        self.traits: list[pl.DataFrame] = []

    def all(
        self, explanations: Sequence[Explanation]
    ) -> tuple[pl.DataFrame, dict[int, list[Shown]]]:
        """The table, in order of hookpoints, and by its rows contexts for the page."""
        by_place: dict[str, list[Explanation]] = {}
        for one in explanations:
            by_place.setdefault(one.hookpoint, []).append(one)
        frames: list[pl.DataFrame] = []
        shown: dict[int, list[Shown]] = {}
        first = 0
        with progress_bar("auditing", len(explanations), quiet=self.quiet) as advance:
            for place, mine in by_place.items():
                ground = self.grounds.ground(place)
                frame = self._place(ground, place, mine, advance)
                if ground is not None:
                    self.traits.append(traits_of(ground))
                    for row in itertools.chain(*picked_rows(frame).values()):
                        shown[first + row] = firing_contexts(ground, mine[row].latent)
                frames.append(frame)
                first += len(frame)
        return pl.concat(frames), shown

    def _place(
        self,
        ground: Ground | None,
        place: str,
        explanations: Sequence[Explanation],
        advance: Callable[[float], None],
    ) -> pl.DataFrame:
        rules = self.grounds.rules(place, sorted({one.latent for one in explanations}))
        frame = audit_hookpoint(
            explanations,
            ground,
            rule=rules.calls if rules else None,
            rule_text=rules.lines if rules else None,
            context_scorer=self.scorer,
            token_scorer=self.simulator,
            seed=self.seed,
            advance=advance,
        )
        missing = [self.grounds.missing(place, one.latent) for one in explanations]
        unknown = (pl.col("verdict") == "unverifiable") & pl.col("missing").is_not_null()
        return (
            frame.with_columns(pl.Series("missing", missing, pl.String))
            .with_columns(
                pl.when(unknown).then(pl.col("missing")).otherwise(pl.col("reason")).alias("reason")
            )
            .drop("missing")
        )


def _suspicious(frame: pl.DataFrame, traits: Sequence[pl.DataFrame]) -> list[dict[str, Any]]:
    """Sets of explanations that are wrong together, for ``audit.json``."""
    found = suspicious_sets(frame, pl.concat(traits) if traits else None)
    return [one.to_json() for one in found]


def _counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    counts = frame[column].value_counts().sort("count", column, descending=[True, False])
    return dict(counts.iter_rows())


def _means(frame: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Means by method and measure, each over the explanations that have it."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for method in sorted(set(frame["method"]) - {"none"}):
        mine = frame.filter(pl.col("method") == method)
        known = {name: mine[name].fill_nan(None).drop_nulls() for name in MEANS}
        found[method] = {
            name: {"n": len(column), "mean": float(column.sum()) / len(column)}
            for name, column in known.items()
            if len(column)
        }
    return found


def _write(found: Audit, shown: Mapping[int, Sequence[Shown]]) -> None:
    """Write page and table, then the facts: what has them is whole."""
    content = audit_content(found.frame, found.facts, shown)
    write_audit_page(found.out / "audit.html", content)
    write_parquet(found.out / "audit.parquet", found.frame)
    write_json(found.out / "audit.json", found.facts)
