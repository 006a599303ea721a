"""Score labels on held-out documents: the driver of `labeler verify`."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from labeler.eval.explained import LEVELS, explained
from labeler.eval.heldout import load_heldout_firings, score_heldout
from labeler.fitted import MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.labels import ALL_BUDGETS, LabelSet, label_folder
from labeler.progress import progress_bar
from labeler.provenance import is_done, mark_done
from labeler.store import write_json, write_parquet


def score_labels(
    run: Run, labels_key: Callable[[Run, str], str], say: Callable[[str], None]
) -> None:
    """Score every label of a run under each key budget.

    `labels_key` says what the labels of a hookpoint were made from; those whose scores were made
    from the same are left alone.
    """
    tokens = run.tokens
    # Read and looked up once for all hookpoints, if there is anything left to score.
    tree, nodes = None, None
    for hookpoint in run.hookpoints:
        folder = run.out / "verify" / hookpoint
        key = labels_key(run, hookpoint)
        if is_done(folder / "done.json", key):
            continue
        labels = LabelSet.load(label_folder(run.out, hookpoint), tree)
        if tree is None:
            tree = labels.shared
            nodes = tree.find(run.tokens.heldout)
        firings = load_heldout_firings(run.cache, hookpoint, tokens)
        heldout = tokens.heldout
        total = heldout.n_ctx * len(ALL_BUDGETS)
        with progress_bar(f"scoring {hookpoint}", total, quiet=run.quiet) as advance:
            scored = score_heldout(
                labels,
                heldout,
                firings,
                budgets=ALL_BUDGETS,
                seed=run.config.seed,
                nodes=nodes,
                advance=advance,
            )
        live = live_latents(labels, firings.count)
        frames, shares = [], {}
        for one in scored:
            frames.append(one.latents.with_columns(pl.lit(str(one.budget)).alias("budget")))
            f1 = one.latents["f1"].to_numpy()
            shares[str(one.budget)] = {
                str(level): explained(f1, one.resampled, live, labels.labeled, level)
                for level in LEVELS
            }
        write_parquet(folder / "latents.parquet", pl.concat(frames))
        facts = {
            "n_latents": labels.n_latents,
            "n_live": int(live.sum()),
            "n_labeled": int((live & labels.labeled).sum()),
            "explained": shares,
        }
        write_json(folder / "explained.json", facts)
        mark_done(folder / "done.json", key)
        best = shares["unlimited"]["0.7"]
        say(
            f"{hookpoint}: explained@0.7 {best['share']:.3f} "
            f"[{best['low']:.3f}, {best['high']:.3f}]"
        )


def live_latents(labels: LabelSet, heldout: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Which latents are live (design.md, section 2), bool [n_latents]."""
    enough = labels.latents["n_fit"].to_numpy() >= MIN_FIT_FIRINGS
    return enough & (heldout >= MIN_HELDOUT_FIRINGS)
