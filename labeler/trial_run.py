"""Try labels on unseen text and give each a verdict: the driver of `labeler verify --all`.

    labels, held-out text, generators -> trials with controls -> evidence -> verdicts

Everything is kept as it is made: each test's outcome of a hookpoint, and each generated text. A run
that was stopped makes only what is left.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.errors import RunError
from labeler.eval import standard
from labeler.eval.ablation import ablation
from labeler.eval.against import f1_difference, false_actives
from labeler.eval.claims import Claims
from labeler.eval.counterfactual import necessity, sufficiency
from labeler.eval.generate import Generator, Kind, replies
from labeler.eval.generate_codec import TokenizerCodec
from labeler.eval.heldout import load_heldout_firings
from labeler.eval.prove import pooled
from labeler.eval.scene import Scene
from labeler.eval.seed_protocol import seed_protocol
from labeler.eval.subject import ModelSubject
from labeler.eval.unseen import requests_for, unseen
from labeler.eval.verdict import count_verdicts, judge
from labeler.inputs import Run
from labeler.keytree import KeyTree
from labeler.labels import LabelSet, label_folder
from labeler.level import Nodes
from labeler.progress import progress_bar
from labeler.provenance import is_done, key_of, mark_done
from labeler.statistics import load_fit_firings
from labeler.store import read_json, write_parquet
from labeler.summary import read_heldout
from labeler.tokens import Tokens
from labeler.trial_config import TrialConfig

Advance = Callable[[float], None]

_SOURCE_POSITIONS = 65_536
"""Positions of the fit split, spread over it, where keys are taken from."""

MARKER = "tests.json"
"""Counts of a hookpoint, written last."""


def try_labels(
    run: Run,
    config: TrialConfig,
    labels_key: Callable[[Run, str], str],
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Try the labels of every hookpoint.

    Parameters
    ----------
    run : Run
        With labels.
    config : TrialConfig
    labels_key : callable
        What the labels of a hookpoint were made from, as a hash.
    say : callable
        Told a line for each hookpoint.

    Raises
    ------
    LabelerError
        If labels, model, coders or a generator are missing or broken.
    """
    texts: _Texts | None = None
    for hookpoint in run.hookpoints:
        folder = run.out / "verify" / hookpoint
        labels = labels_key(run, hookpoint)
        key = key_of(labels=labels, trials=config.to_json())
        if is_done(folder / MARKER, key):
            continue
        loaded = LabelSet.load(label_folder(run.out, hookpoint), texts.tree if texts else None)
        texts = texts or _Texts(run, config, loaded.shared)
        found = _Tried(texts, loaded, key).all(labels)
        counts = found["verdicts"]
        shares = ", ".join(f"{n} {name}" for name, n in counts.items())
        say(f"{hookpoint}: of {found['n_tested']} labels {shares}")
    if texts is not None and (cost := texts.cost()):
        say(cost)


@dataclass(eq=False)
class _Texts:
    """What all hookpoints share: their key tree, texts with their nodes, the generators."""

    run: Run
    config: TrialConfig
    tree: KeyTree

    @cached_property
    def source(self) -> Tokens:
        """Contexts spread evenly over the fit split."""
        fit = self.run.tokens.fit
        n = min(fit.n_ctx, max(1, _SOURCE_POSITIONS // fit.ctx_len))
        return fit.select(np.linspace(0, fit.n_ctx - 1, n).astype(np.int64))

    @cached_property
    def heldout(self) -> Tokens:
        """The held-out split."""
        return self.run.tokens.heldout

    @cached_property
    def source_nodes(self) -> dict[str, Nodes]:
        """Nodes of `source`."""
        return self.tree.find(self.source)

    @cached_property
    def heldout_nodes(self) -> dict[str, Nodes]:
        """Nodes of `heldout`."""
        return self.tree.find(self.heldout)

    @cached_property
    def codec(self) -> TokenizerCodec:
        """The subject's tokens."""
        return TokenizerCodec(self.run.model.tokenizer)

    @cached_property
    def generators(self) -> list[Generator]:
        """Those asked for."""
        from labeler.eval.generate_edit import EditGenerator
        from labeler.eval.generate_local import LocalGenerator

        found: list[Generator] = []
        for name in self.config.generators:
            if name == "subject":
                found.append(LocalGenerator(self.run.config.model, name="subject"))
            elif name == "edit":
                found.append(EditGenerator(self.heldout, self.codec))
            else:
                found.append(LocalGenerator(name))
        if self.config.llm_base_url is not None:
            from labeler.eval.endpoint import EndpointGenerator

            found.append(
                EndpointGenerator(
                    self.config.llm_base_url,
                    self.config.llm_model,
                    concurrency=self.config.llm_concurrency,
                    timeout=self.config.llm_timeout,
                )
            )
        return found

    def cost(self) -> str | None:
        """What an endpoint was sent and wrote, in words; None where none was asked."""
        usage = getattr(self.generators[-1], "usage", None)
        return None if usage is None or not usage.n_requests else str(usage)


class _Tried:
    """The tests of one hookpoint."""

    def __init__(self, texts: _Texts, labels: LabelSet, key: str) -> None:
        self.run, self.config, self.texts = texts.run, texts.config, texts
        self.labels, self.key = labels, key
        self.hookpoint = labels.hookpoint
        self.folder = texts.run.out / "verify" / labels.hookpoint

    def all(self, labels: str) -> dict[str, Any]:
        """Make what is missing, write verdicts and counts, and return the counts.

        `labels` is what the labels were made from, which the counts keep.
        """
        scene, config = self.scene, self.config
        n = len(scene.latents)
        parts = [f1_difference(scene)]
        for name, test in (("sufficiency", sufficiency), ("necessity", necessity)):
            make = partial(_tallied, test, scene, config.trials)
            parts.append(self._part(name, make, n))
        written: dict[str, Any] = {}
        for generator in self.texts.generators if config.texts else ():
            found, written[generator.name] = self._unseen(generator)
            parts.append(found)
        evidence = pl.concat(parts)
        verdicts = judge(evidence, scene.claims.claimed, scene.latents)
        scores = self._part("standard", self._standard, scene.heldout.n_ctx)
        facts: dict[str, Any] = {
            "budget": config.budget,
            "n_tested": n,
            "n_labeled": int(self.labels.labeled.sum()),
            "verdicts": count_verdicts(verdicts),
            "tests": pooled(evidence, scene.seed),
            "standard": standard.pooled(scores, scene.seed),
            "actives": self._actives(),
            "texts": written,
        }
        if config.ablated:
            facts["ablation"] = self._facts("ablation", self._ablation, 1)
        if config.seed_protocol:
            facts["seed_protocol"] = self._facts("seed_protocol", self._seed_protocol, None)
        write_parquet(self.folder / "evidence.parquet", evidence)
        write_parquet(self.folder / "verdicts.parquet", verdicts)
        write_parquet(self.folder / "standard.parquet", scores)
        mark_done(self.folder / MARKER, self.key, labels=labels, config=config.to_json(), **facts)
        return facts

    @cached_property
    def scene(self) -> Scene:
        """Labels and texts, with what fires and what is called on them."""
        texts, seed = self.texts, self.run.config.seed
        latents = drawn(self.labels, self.config.latents, seed)
        return Scene.make(
            ModelSubject(self.run.model, self.run.coders),
            Claims(self.labels, self.config.budget, latents),
            texts.source,
            texts.heldout,
            load_heldout_firings(self.run.cache, self.hookpoint, self.run.tokens),
            latents,
            seed=seed,
            source_nodes=texts.source_nodes,
            heldout_nodes=texts.heldout_nodes,
        )

    def _part(
        self, name: str, make: Callable[[Advance], pl.DataFrame], total: float
    ) -> pl.DataFrame:
        """A table of one test, made or read."""
        path = self.folder / "parts" / f"{name}.parquet"
        marker = path.with_suffix(".json")
        if is_done(marker, self.key) and path.exists():
            return pl.read_parquet(path)
        with self._bar(name, total) as advance:
            found = make(advance)
        write_parquet(path, found)
        mark_done(marker, self.key)
        return found

    def _facts(
        self, name: str, make: Callable[[Advance], dict[str, Any]], total: float | None
    ) -> dict[str, Any]:
        """Figures of one test, made or read."""
        marker = self.folder / "parts" / f"{name}.json"
        if not is_done(marker, self.key):
            with self._bar(name, total) as advance:
                mark_done(marker, self.key, facts=make(advance))
        found: dict[str, Any] = read_json(marker, RunError, f"delete {marker}")["facts"]
        return found

    @contextmanager
    def _bar(self, name: str, total: float | None) -> Iterator[Advance]:
        title = f"{name} {self.hookpoint.removeprefix('layers.')}"
        with progress_bar(title, total, quiet=self.run.quiet) as advance:
            yield advance

    def _unseen(self, generator: Generator) -> tuple[pl.DataFrame, dict[str, Any]]:
        """What came of a generator's texts: evidence, and counts."""
        scene, config, codec = self.scene, self.config, self.texts.codec
        # A text without the key tells less than one with it, and takes as long.
        sizes: dict[Kind, int] = {"contain": config.texts, "avoid": max(config.texts // 4, 1)}
        requests = [
            one
            for kind, n in sizes.items()
            for one in requests_for(scene, codec, (kind,), n, seed=scene.seed)
        ]
        file = _file_name(generator.name)
        path = self.run.out / "generated" / f"{file}.jsonl"
        with self._bar(f"writing {generator.name}", len(requests)) as advance:
            texts = replies(generator, requests, path, advance)
        with self._bar(f"reading {generator.name}", len(requests)) as advance:
            found = unseen(scene, codec, generator.name, requests, texts, advance)
        write_parquet(self.folder / f"texts-{file}.parquet", found.figures)
        means = {
            name: _mean(found.figures[name])
            for name in ("precision", "recall", "silent", "silent_control", "share_seen")
        }
        counts = {"requests": len(requests), "failures": found.failures}
        return found.trials.tally(), counts | means

    def _actives(self) -> dict[str, float]:
        scores = read_heldout(self.run.out, self.hookpoint)
        mine = scores.filter(pl.col("budget") == str(self.config.budget))
        return false_actives(mine, self.texts.heldout.n_positions)

    def _standard(self, advance: Advance) -> pl.DataFrame:
        return standard.standard_scores(
            self.scene,
            intruder=self.config.intruder,
            nodes=self.texts.heldout_nodes,
            advance=advance,
        )

    def _ablation(self, advance: Advance) -> dict[str, Any]:
        return ablation(self.scene, most=self.config.ablated, advance=advance)[1]

    def _seed_protocol(self, advance: Advance) -> dict[str, Any]:
        run, latents = self.run, self.scene.latents
        fired = load_fit_firings(run.cache, self.hookpoint, run.tokens)
        found = seed_protocol(self.scene, run.tokens.fit, fired, advance=advance)
        return found.summary() | {"n_tested": len(latents)}


def _tallied(
    test: Callable[[Scene, int, Advance], Any], scene: Scene, n: int, advance: Advance
) -> pl.DataFrame:
    found: pl.DataFrame = test(scene, n, advance).tally()
    return found


def _file_name(generator: str) -> str:
    """A generator's name with nothing in it that a file system minds."""
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in generator)


def _mean(values: pl.Series) -> float | None:
    known = values.drop_nans()
    return float(known.mean()) if len(known) else None  # type: ignore[arg-type]


def drawn(labels: LabelSet, n: int, seed: int) -> npt.NDArray[np.int64]:
    """Labeled latents to try: `n` at random, or all where `n` is 0, ascending."""
    every = np.flatnonzero(labels.labeled)
    if not n or n >= len(every):
        return every
    return np.sort(np.random.default_rng(seed).choice(every, n, replace=False))
