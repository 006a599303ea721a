"""The labels of one hookpoint: saved, loaded, run, read.

Files in a label folder (``<run>/labels/<hookpoint>/``):

    manifest.json     format, provenance, shrinkage, budgets, counts
    latents.parquet   a row per latent: status, type, scores, thresholds, text
    entries.parquet   a row per entry of the short labels (budgets 16 and 100)
    whole/<type>/     memory-mapped tables of the unlimited budget (labeler.tables)

The key tree that all hookpoints of a run share is in ``<run>/labels/tree/``.
"""

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
from labeler.fit import BUDGETS, FDR, HookpointFit
from labeler.keytree import KeyTree
from labeler.predict import Predictor, short_tables
from labeler.store import read_json, write_json, write_parquet
from labeler.tables import read_tables, runs_by_type
from labeler.text import describe
from labeler.tokens import Tokens

FORMAT = 1

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
    latents : polars.DataFrame
        A row per latent.
    entries : polars.DataFrame
        A row per entry of the short labels: budget, latent, type, node, value, n, firings, text.
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
    ) -> None:
        self.hookpoint, self.folder, self.tree = hookpoint, folder, tree
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
            default=self.mean,
            runs=runs_by_type(types, ends, self.labeled),
            threshold=self._threshold(budget),
        )

    def _short(self, budget: Budget) -> Predictor:
        entries = self.entries.filter(pl.col("budget") == budget)
        labeled = self.labeled
        stored = self.latents[f"default_{budget}"].to_numpy()
        default = np.where(labeled, stored, self.mean).astype(np.float32)
        tables = short_tables(
            self.tree,
            entries["type"].to_numpy().astype(np.str_),
            entries["latent"].to_numpy(),
            entries["node"].to_numpy(),
            entries["value"].to_numpy(),
            default,
        )
        runs: dict[str, list[int]] = {}
        for latent, family in enumerate(self.latents[f"runs_{budget}"]):
            present = [name for name in self.tree.chain(family) if name in tables]
            if labeled[latent] and present:
                runs.setdefault(present[-1], []).append(latent)
        ends = {name: np.array(latents) for name, latents in runs.items()}
        return Predictor(self.tree, tables, default, ends, self._threshold(budget))

    def _threshold(self, budget: Budget) -> npt.NDArray[np.float32]:
        stored = self.latents[f"threshold_{budget}"].to_numpy()
        return np.where(self.labeled, stored, np.inf).astype(np.float32)

    @classmethod
    def load(cls, folder: Path, tree: KeyTree | None = None) -> "LabelSet":
        """Read the labels of one hookpoint; `tree` is read from beside it unless given.

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
        tree = tree or KeyTree.load(folder.parent / "tree")
        return cls(manifest["hookpoint"], folder, tree, cls.load_latents(folder), entries, manifest)

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
    entries = _entries_frame(tree, fit)
    latents = _latents_frame(fit).with_columns(pl.Series("text", describe(fit, entries)))
    for name, frame in (("latents", latents), ("entries", entries)):
        write_parquet(folder / f"{name}.parquet", frame)
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
            "shrinkage": {
                name: {"mean": value.mean, "fires": value.fires}
                for name, value in fit.shrinkage.items()
            },
            **provenance,
        },
    )


def _latents_frame(fit: HookpointFit) -> pl.DataFrame:
    n = len(fit.count)
    types = np.array(fit.types)
    row = np.arange(n)
    status = np.where(fit.labeled, "labeled", np.where(fit.fitted, "abstained", "too_rare"))
    best = np.argsort(-fit.bits, axis=0)
    columns: dict[str, Any] = {
        "latent": row.astype(np.int32),
        "status": status,
        "n_fit": fit.count.astype(np.int64),
        "mean": fit.mean,
        "mean_act": fit.mean_act,
        "function_type": types[fit.winner],
        "net_bits": fit.net_bits[fit.winner, row],
        "bits": fit.bits[fit.winner, row],
        "n_keys": fit.n_paying[fit.winner, row],
        "r2_out_of_fold": fit.r2[fit.runs, row],
        "f1_out_of_fold": fit.f1[fit.runs, row],
        "p": fit.p,
        "q": fit.q,
        "closest": [
            [
                {
                    "type": str(types[index]),
                    "r2": float(fit.r2[index, latent]),
                    "bits": float(fit.bits[index, latent]),
                    "net_bits": float(fit.net_bits[index, latent]),
                    "f1": float(fit.f1[index, latent]),
                }
                for index in best[:3, latent]
            ]
            for latent in row
        ],
        "runs_unlimited": types[fit.runs],
        "threshold_unlimited": fit.threshold[fit.runs, row].astype(np.float32),
    }
    for budget, short in fit.short.items():
        columns[f"runs_{budget}"] = short.family
        columns[f"default_{budget}"] = short.default
        columns[f"threshold_{budget}"] = short.threshold
        columns[f"f1_fit_{budget}"] = short.f1
    return pl.DataFrame(columns)


def _entries_frame(tree: KeyTree, fit: HookpointFit) -> pl.DataFrame:
    frames = []
    labeled = fit.labeled
    for budget, short in fit.short.items():
        keep = labeled[short.latent]
        level, node = short.level[keep], short.node[keep]
        frames.append(
            pl.DataFrame(
                {
                    "budget": np.full(int(keep.sum()), budget, dtype=np.int32),
                    "latent": short.latent[keep],
                    "type": level,
                    "node": node,
                    "value": short.value[keep],
                    "n": short.n[keep].astype(np.int64),
                    "firings": short.count[keep].astype(np.int64),
                    "text": render_nodes(tree, level, node),
                },
                schema_overrides={"type": pl.String, "text": pl.String},
            )
        )
    return pl.concat(frames)


def render_nodes(
    tree: KeyTree, level: npt.NDArray[np.str_], node: npt.NDArray[np.int32]
) -> list[str]:
    """Text of each node, its type's rendering of its key; each distinct node rendered once."""
    out = np.empty(len(node), dtype=object)
    for name in tree.levels:
        mine = np.flatnonzero(level == name)
        if not len(mine):
            continue
        distinct, back = np.unique(node[mine], return_inverse=True)
        keys = tree.levels[name].key[distinct]
        texts = np.array([tree.types[name].render(int(key)) for key in keys], dtype=object)
        out[mine] = texts[back]
    return [str(text) for text in out]


def label_folder(run: Path, hookpoint: str) -> Path:
    """Where a run keeps the labels of a hookpoint."""
    return run / "labels" / hookpoint
