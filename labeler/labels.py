"""The labels of one hookpoint: saved, loaded, run, read.

Files in a label folder (``<run>/labels/<hookpoint>/``):

    manifest.json     format, provenance, shrinkage, budgets, counts
    latents.parquet   a row per latent: status, type, scores, thresholds, text, weights
    entries.parquet   a row per entry of the short labels (budgets 16 and 100)
    types.parquet     a row per latent and function type: R2, bits, net bits
    whole/<level>/    memory-mapped tables of the unlimited budget (labeler.tables)
    calls/            the level of calls of earlier labels, where there is one
    extra/<level>/    what other types add to them (labeler.corrections)

The key tree that all hookpoints of a run share is in ``<run>/labels/tree/``.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.arrays import Bools
from labeler.errors import LabelError
from labeler.fitted import BUDGETS, FDR, HookpointFit
from labeler.frames import entries_frame, latents_frame, types_frame
from labeler.functions.calls import Calls
from labeler.keytree import KeyTree
from labeler.predict import Predictor, additive_tables
from labeler.store import read_json, write_json, write_parquet
from labeler.tables import read_tables, runs_by_type
from labeler.text import describe
from labeler.tokens import Tokens

FORMAT = 2

Budget = int | Literal["unlimited"]

ALL_BUDGETS: tuple[Budget, ...] = (*BUDGETS, "unlimited")
"""Key budgets that every quality figure is given for."""

READABLE: Budget = 100
"""The budget of the label that a person reads and that is exported."""


@dataclass(frozen=True)
class Label:
    """The label of one latent.

    Attributes
    ----------
    hookpoint, latent : str, int
    status : {"labeled", "abstained", "too_rare"}
    function_type : str or None
        The winning type; None unless labeled.
    text : str
        One line for a reader; says why there is no label where there is none.
    """

    hookpoint: str
    latent: int
    status: str
    function_type: str | None
    text: str
    labels: "LabelSet"

    def predict(self, tokens: Tokens, budget: Budget = READABLE) -> npt.NDArray[np.float32]:
        """Predicted activation, float32 [n_ctx, ctx_len]."""
        predictor = self.labels.predictor(budget)
        parts = [part[:, self.latent] for _, part in predictor.iterate(tokens)]
        return np.concatenate([*parts, np.zeros(0, np.float32)]).reshape(tokens.ids.shape)

    def fires(self, tokens: Tokens, budget: Budget = READABLE) -> npt.NDArray[np.bool_]:
        """Where the label says that the latent fires, bool [n_ctx, ctx_len]."""
        threshold = self.labels.predictor(budget).threshold[self.latent]
        fires: Bools = self.predict(tokens, budget) >= threshold
        return fires

    def source(self, budget: Budget = READABLE) -> str:
        """Plain Python that needs only numpy and predicts exactly as `predict` does."""
        from labeler.export import label_source

        return label_source(self.labels, self.latent, budget)


class LabelSet:
    """All labels of a hookpoint.

    Attributes
    ----------
    hookpoint : str
    tree : KeyTree
    shared : KeyTree
        The same without the hookpoint's own level of calls: all hookpoints of a run have it.
    latents : polars.DataFrame
        A row per latent.
    entries : polars.DataFrame
        A row per entry of the short labels: budget, latent, level, node, weight, value, n,
        firings, text; the most telling entries of a latent first.
    manifest : dict
        Provenance and settings.
    """

    def __init__(
        self,
        hookpoint: str,
        folder: Path,
        tree: KeyTree,
        latents: pl.DataFrame,
        entries: pl.DataFrame,
        manifest: Mapping[str, Any],
        *,
        shared: KeyTree | None = None,
    ) -> None:
        self.hookpoint, self.folder, self.tree = hookpoint, folder, tree
        self.shared = shared or tree
        self.latents, self.entries, self.manifest = latents, entries, manifest
        self._predictors: dict[Budget, Predictor] = {}

    @property
    def n_latents(self) -> int:
        """Number of latents, labeled or not."""
        return len(self.latents)

    @cached_property
    def labeled(self) -> npt.NDArray[np.bool_]:
        """Which latents have a label, bool [n_latents]."""
        return (self.latents["status"] == "labeled").to_numpy()

    @cached_property
    def mean(self) -> npt.NDArray[np.float32]:
        """Mean activation on the fit split, float32 [n_latents]."""
        return self.latents["mean"].to_numpy().astype(np.float32)

    def label(self, latent: int) -> Label:
        """The label of one latent.

        Raises
        ------
        LabelError
            If the hookpoint has no such latent.
        """
        if not 0 <= latent < self.n_latents:
            raise LabelError(
                f"{self.hookpoint} has latents 0 to {self.n_latents - 1}, not {latent}"
            )
        row = self.latents.row(latent, named=True)
        kind = row["function_type"] if row["status"] == "labeled" else None
        return Label(self.hookpoint, latent, row["status"], kind, row["text"], self)

    def predictor(self, budget: Budget) -> Predictor:
        """All labels under a key budget, ready to run.

        Latents without a label predict their mean.

        Raises
        ------
        LabelError
            If there is no such budget.
        """
        if budget not in ALL_BUDGETS:
            raise LabelError(f"budget {budget!r}: there are {', '.join(map(str, ALL_BUDGETS))}")
        if budget not in self._predictors:
            make = self._whole if budget == "unlimited" else self._short
            self._predictors[budget] = make(budget)
        return self._predictors[budget]

    def _whole(self, budget: Budget) -> Predictor:
        types = list(self.tree.levels)
        index = {name: number for number, name in enumerate(types)}
        ends = np.array([index.get(name, -1) for name in self.latents["runs_unlimited"]])
        return Predictor(
            tree=self.tree,
            tables=read_tables(self.folder / "whole", self.tree),
            extra=read_tables(self.folder / "extra", self.tree, scaled=False),
            default=self.mean,
            runs=runs_by_type(types, ends, self.labeled),
            threshold=self._threshold(budget),
        )

    def _short(self, budget: Budget) -> Predictor:
        entries = self.entries.filter(pl.col("budget") == budget)
        labeled = self.labeled
        stored = self.latents[f"default_{budget}"].to_numpy()
        default = np.where(labeled, stored, self.mean).astype(np.float32)
        tables = additive_tables(
            self.tree,
            entries["level"].to_numpy().astype(np.str_),
            entries["latent"].to_numpy(),
            entries["node"].to_numpy(),
            entries["weight"].to_numpy(),
            self.n_latents,
        )
        return Predictor(self.tree, {}, default, {}, self._threshold(budget), tables)

    def _threshold(self, budget: Budget) -> npt.NDArray[np.float32]:
        stored = self.latents[f"threshold_{budget}"].to_numpy()
        return np.where(self.labeled, stored, np.inf).astype(np.float32)

    @classmethod
    def load(cls, folder: Path, tree: KeyTree | None = None) -> "LabelSet":
        """Read the labels of one hookpoint; the shared `tree` is read from beside it unless given.

        Raises
        ------
        LabelError
            If a file is missing, broken or of another format.
        """
        manifest = read_json(folder / "manifest.json", LabelError, "run `labeler fit`")
        if manifest.get("format") != FORMAT:
            raise LabelError(
                f"{folder / 'manifest.json'}: format is {manifest.get('format')!r}, this version "
                f"reads {FORMAT}; run `labeler fit` again"
            )
        entries = _read(folder / "entries.parquet")
        shared = tree or KeyTree.load(folder.parent / "tree")
        calls = folder / "calls"
        tree = shared.joined(KeyTree.load(calls)) if calls.is_dir() else shared
        return cls(
            manifest["hookpoint"],
            folder,
            tree,
            cls.load_latents(folder),
            entries,
            manifest,
            shared=shared,
        )

    @staticmethod
    def load_latents(folder: Path) -> pl.DataFrame:
        """Only the row per latent, without the tree and the tables."""
        return _read(folder / "latents.parquet")


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise LabelError(f"{path}: cannot be read ({error}); run `labeler fit` again") from error


def save_labels(
    folder: Path, hookpoint: str, tree: KeyTree, fit: HookpointFit, provenance: Mapping[str, Any]
) -> None:
    """Write the fitted labels of a hookpoint (its whole tables are written by `write_tables`)."""
    entries = entries_frame(tree, fit)
    ahead = [name for name in fit.types if tree.looks_ahead(name)]
    latents = latents_frame(fit).with_columns(pl.Series("text", describe(fit, entries, ahead)))
    scores = types_frame(fit)
    for name, frame in (("latents", latents), ("entries", entries), ("types", scores)):
        write_parquet(folder / f"{name}.parquet", frame)
    shutil.rmtree(folder / "calls", ignore_errors=True)
    if Calls.name in tree.levels:
        tree.only(Calls.name).save(folder / "calls")
    labeled = fit.labeled
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "hookpoint": hookpoint,
            "n_latents": len(fit.count),
            "n_labeled": int(labeled.sum()),
            "n_positions_fit": fit.n_positions,
            "fdr": FDR,
            "budgets": list(BUDGETS),
            "types": fit.types,
            "abstained_types": tree.abstained,
            "corrections": [
                {"level": one.level, "shrinkage": one.shrinkage} for one in fit.corrections
            ],
            "shrinkage": {
                name: {"mean": value.mean, "fires": value.fires}
                for name, value in fit.shrinkage.items()
            },
            **provenance,
        },
    )


def label_folder(run: Path, hookpoint: str) -> Path:
    """Where a run keeps the labels of a hookpoint."""
    return run / "labels" / hookpoint
