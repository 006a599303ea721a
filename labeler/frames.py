"""What a fit found, as tables: a row per latent, per entry, per latent and type."""

from typing import Any

import numpy as np
import polars as pl

from labeler.fitted import HookpointFit
from labeler.keytree import KeyTree


def latents_frame(fit: HookpointFit) -> pl.DataFrame:
    """A row per latent: status, winning type, scores, thresholds."""
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
        "r2_out_of_fold": fit.r2_whole,
        "f1_out_of_fold": fit.f1,
        "p": fit.p,
        "q": fit.q,
        "closest": [
            [
                {
                    "type": str(types[index]),
                    "r2": float(fit.r2[index, latent]),
                    "bits": float(fit.bits[index, latent]),
                    "net_bits": float(fit.net_bits[index, latent]),
                }
                for index in best[:3, latent]
            ]
            for latent in row
        ],
        "runs_unlimited": types[fit.runs],
        "threshold_unlimited": fit.threshold.astype(np.float32),
    }
    for budget, short in fit.short.items():
        columns[f"default_{budget}"] = short.default
        columns[f"threshold_{budget}"] = short.threshold
        columns[f"f1_fit_{budget}"] = short.f1
    return pl.DataFrame(columns)


def entries_frame(tree: KeyTree, fit: HookpointFit) -> pl.DataFrame:
    """A row per entry of the short labels of labeled latents."""
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
                    "level": level,
                    "node": node,
                    "weight": short.weight[keep],
                    "value": short.value[keep],
                    "n": short.n[keep].astype(np.int64),
                    "firings": short.count[keep].astype(np.int64),
                    "text": tree.texts(level, node),
                },
                schema_overrides={"level": pl.String, "text": pl.String},
            )
        )
    return pl.concat(frames)


def types_frame(fit: HookpointFit) -> pl.DataFrame:
    """Scores of every type on every latent, a row per pair: latent, type, r2, bits, net_bits."""
    n_types, n_latents = fit.bits.shape
    return pl.DataFrame(
        {
            "latent": np.tile(np.arange(n_latents, dtype=np.int32), n_types),
            "type": pl.Series(np.repeat(np.array(fit.types), n_latents), dtype=pl.Categorical),
            "r2": fit.r2.ravel(),
            "bits": fit.bits.ravel(),
            "net_bits": fit.net_bits.ravel(),
        }
    )
