"""The engine's sums written out: cross-validation, correction and ridge, a position at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from labeler.entries import Entries
from labeler.scores import Shrinkage
from labeler.tokens import N_FOLDS
from tests.synthetic import Material, paths_of


@dataclass
class Literal:
    """Out-of-fold predictions of one type at every position; the oracle's result.

    float64 [n_ctx * ctx_len, n_latents]; NaN at padding.
    """

    mean: np.ndarray
    fires: np.ndarray


def cross_validate(made: Material, shrinkage: Mapping[str, Shrinkage]) -> dict[str, Literal]:
    """Refit tables without each fold and predict that fold, one position at a time."""
    fit, acts = made.fit, made.acts.astype(np.float64)
    width = acts.shape[1]
    fold = np.repeat(fit.fold, fit.ctx_len)
    valid = fit.valid.ravel()
    levels = {name: level for name, level in made.tree.levels.items() if name in shrinkage}
    paths = {name: paths_of(made.tree, fit, name, fit=True) for name in levels}
    out = {
        name: Literal(*(np.full(acts.shape, np.nan) for _ in range(2))) for name in ("", *levels)
    }
    for f in range(N_FOLDS):
        train = np.flatnonzero(valid & (fold != f))
        base_mean = acts[train].sum(axis=0) / len(train)
        base_fires = ((acts[train] > 0).sum(axis=0) + 0.5) / (len(train) + 1)
        tables: dict[str, dict[tuple[int, ...], list[np.ndarray]]] = {}
        for name in levels:
            table = tables[name] = {}
            for position in train:
                path = paths[name][position]
                if path is not None:
                    n, k, s = table.setdefault(
                        path, [np.zeros(1), np.zeros(width), np.zeros(width)]
                    )
                    n += 1
                    k += acts[position] > 0
                    s += acts[position]
        for position in np.flatnonzero(valid & (fold == f)):
            out[""].mean[position], out[""].fires[position] = base_mean, base_fires
            for name, level in levels.items():
                above = out[level.parent_name or ""]
                mean, fires = above.mean[position], above.fires[position]
                path = paths[name][position]
                if path is not None and path in tables[name]:
                    n, k, s = tables[name][path]
                    lam, nu = shrinkage[name].mean, shrinkage[name].fires
                    mean = (s + lam * mean) / (n + lam)
                    fires = np.minimum((k + nu * fires) / (n + nu), 1 - 1e-6)
                out[name].mean[position], out[name].fires[position] = mean, fires
    return out


def log_likelihood(acts: np.ndarray, fires: np.ndarray) -> np.ndarray:
    """Bits of the firing events at each position."""
    return np.where(acts > 0, np.log2(fires), np.log2(1 - fires))


@dataclass
class LiteralCorrection:
    """What a level adds to residuals, out of fold and from all folds, before any is refused."""

    effect: np.ndarray
    """float64 [n_positions, n_latents]; 0 where the level says nothing."""
    whole: dict[int, np.ndarray]
    """By node, float64 [n_latents]."""
    gain: np.ndarray
    """Squared error that `effect` saves, float64 [n_latents]."""


def correct(
    made: Material, name: str, left: np.ndarray, shrinkage: float, cut: float
) -> LiteralCorrection:
    """Fit the residuals `left` [n_positions, n_latents] by a level, without each fold in turn."""
    node = made.nodes[name].ravel()
    fold = np.repeat(made.fit.fold, made.fit.ctx_len)
    left = left.astype(np.float64)
    deviation = np.sqrt((left**2).sum(axis=0) / made.fit.n_positions)

    def shrunk(positions: np.ndarray) -> np.ndarray:
        total, n = left[positions].sum(axis=0), len(positions)
        return np.where(np.abs(total) < cut * np.sqrt(n) * deviation, 0, total / (n + shrinkage))

    effect, whole = np.zeros(left.shape), {}
    for k in np.unique(node[node >= 0]).tolist():
        mine = np.flatnonzero(node == k)
        if len(set(fold[mine].tolist())) < 2:
            # Nothing told of it on text that has not seen it.
            continue
        whole[k] = shrunk(mine)
        for f in set(fold[mine].tolist()):
            effect[mine[fold[mine] == f]] = shrunk(mine[fold[mine] != f])
    return LiteralCorrection(effect, whole, (left**2 - (left - effect) ** 2).sum(axis=0))


def indicators(made: Material, entries: Entries) -> np.ndarray:
    """Where each entry's key applies, float64 [real positions of the fit split, n_entries]."""
    names = list(made.tree.levels)
    valid = made.fit.valid.ravel()
    columns = []
    for level, node in zip(entries.level.tolist(), entries.node.tolist(), strict=True):
        nodes = made.nodes[names[level]].reshape(len(valid), -1)
        columns.append((nodes == node).any(axis=1)[valid])
    return np.array(columns, dtype=np.float64).reshape(len(entries), int(valid.sum())).T


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights and objective of a ridge regression with an intercept that is not penalised.

    By least squares on the centred columns, with a row of sqrt(penalty) for every weight.
    """
    x, y = x - x.mean(axis=0), y - y.mean()
    rows = np.vstack([x, np.sqrt(penalty) * np.eye(x.shape[1])])
    wanted = np.append(y, np.zeros(x.shape[1]))
    weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return weights, float(((wanted - rows @ weights) ** 2).sum())
