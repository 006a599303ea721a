"""Held-out F1 of each label against that of its control on the same latent."""

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from labeler.arrays import Doubles
from labeler.eval.bootstrap import document_weights, interval
from labeler.eval.firings import TextFirings
from labeler.eval.scene import Scene
from labeler.eval.trials import combined, wilson

TEST = "heldout"


def f1_difference(scene: Scene) -> pl.DataFrame:
    """Firing F1 on held-out documents at the natural base rate: own label against the partner's.

    Returns
    -------
    polars.DataFrame
        A row per tested latent with the columns of `Trials.tally`; `n` counts its firings, own and
        control are F1. The interval of an F1 is the wider of two at either end: percentiles over
        resampled documents, and Wilson's for hits in (called + fires) / 2, which a handful of
        firings in one document cannot make narrow. Those of the difference combine both labels'.
    """
    tested, partner = scene.latents, scene.partner[scene.latents]
    fires = _columns(scene.firings, tested)
    own = _columns(scene.calls, tested)
    paired = partner >= 0
    other = _columns(scene.calls, np.where(paired, partner, 0))
    documents, document = np.unique(scene.heldout.doc, return_inverse=True)
    row = np.repeat(document, scene.heldout.ctx_len)
    by_document = sparse.csr_matrix(
        (np.ones(len(row), np.float32), (row, np.arange(len(row)))),
        shape=(len(documents), len(row)),
    )
    weights = document_weights(len(documents), scene.seed)
    fired = _dense(by_document @ fires)
    mine = _f1(_dense(by_document @ own), fired, _dense(by_document @ own.multiply(fires)), weights)
    theirs = _f1(
        _dense(by_document @ other), fired, _dense(by_document @ other.multiply(fires)), weights
    )
    low, high = combined(mine[0], mine[1:], theirs[0], theirs[1:])
    unknown = np.where(paired, 0.0, np.nan)
    return pl.DataFrame(
        {
            "latent": tested.astype(np.int32),
            "test": [TEST] * len(tested),
            "n": fired.sum(axis=0).astype(np.int64),
            "own": mine[0],
            "own_low": mine[1],
            "own_high": mine[2],
            "control": theirs[0] + unknown,
            "difference": mine[0] - theirs[0] + unknown,
            "low": low + unknown,
            "high": high + unknown,
            "failed": np.zeros(len(tested), dtype=np.int64),
        }
    )


def false_actives(scores: pl.DataFrame, n_positions: int) -> dict[str, float]:
    """How many latents all labels of a hookpoint wake by mistake, beside how many fire.

    Parameters
    ----------
    scores : polars.DataFrame
        Held-out scores under one key budget, a row per latent (`score_heldout`).
    n_positions : int
        Positions they were measured on.

    Returns
    -------
    dict
        called_per_token, firing_per_token, false_per_token (called though silent); specificity:
        share of silent (position, latent) pairs that are not called. Latents without a label are
        never called.
    """
    fires = scores["n_heldout"].to_numpy().astype(np.float64)
    false = scores["false_per_1000"].to_numpy() * n_positions / 1000
    hit = np.where(fires > 0, fires * np.nan_to_num(scores["recall"].to_numpy()), 0)
    return {
        "called_per_token": float((hit + false).sum() / n_positions),
        "firing_per_token": float(fires.sum() / n_positions),
        "false_per_token": float(false.sum() / n_positions),
        "specificity": float(1 - false.sum() / (n_positions * len(scores) - fires.sum())),
    }


def _columns(found: TextFirings, latents: npt.NDArray[np.int64]) -> sparse.csc_matrix:
    """Where each of some latents fires or is called, [n_positions, n] of ones."""
    whole = sparse.csr_matrix(
        (np.ones(len(found.latent), np.float32), found.latent, found.start),
        shape=(found.n_positions, found.n_latents),
    )
    return whole.tocsc()[:, latents]


def _dense(matrix: sparse.spmatrix) -> Doubles:
    return np.asarray(matrix.todense(), dtype=np.float64)


def _f1(
    called: Doubles, fires: Doubles, hit: Doubles, weights: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """F1 with its interval, from sums [n_documents, n]."""

    def of(by: Doubles) -> Doubles:
        f1: Doubles = 2 * (by @ hit) / np.maximum(by @ (called + fires), 1e-12)
        return f1

    value = of(np.ones((1, len(hit))))[0]
    low, high = interval(of(weights))
    few_low, few_high = wilson(hit.sum(axis=0), (called + fires).sum(axis=0) / 2)
    return value, np.fmin(low, few_low), np.fmax(high, few_high)
