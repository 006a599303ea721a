"""The steps of a run, each a function and a command: cache, fit, verify, rewrite, report.

    Corpus -> Tokens -> LatentCache -> sums -> LabelSet -> scores, cross-entropies -> report

Every step continues where an interrupted one stopped, hookpoint by hookpoint, and does again only
what was made from other inputs or by other code.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from labeler.config import CORRECTIONS, DEFAULT_FUNCTIONS, RunConfig
from labeler.errors import OptionError, RunError
from labeler.inputs import Run
from labeler.provenance import is_done, key_of, mark_done
from labeler.store import read_json, write_json, write_parquet
from labeler.tokens import Tokens

if TYPE_CHECKING:
    from labeler.labels import LabelSet

Say = Callable[[str], None]


@contextmanager
def timed(run: Run, step: str) -> Iterator[None]:
    """Add a step's seconds to ``timing.json``; repeated or continued steps add up."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        path = run.out / "timing.json"
        known = read_json(path, RunError, "delete it") if path.exists() else {}
        known[step] = round(known.get(step, 0.0) + time.perf_counter() - begin, 2)
        write_json(path, known)


def cache(run: Run, say: Say = lambda line: None) -> None:
    """Tokenize the corpus and write every firing of every coder."""
    from labeler.cache import build_cache
    from labeler.corpus import load_corpus
    from labeler.windows import save_tokens, tokenize_corpus

    config = run.config
    with timed(run, "cache"):
        corpus = load_corpus(
            config.corpus,
            text_column=config.text_column,
            topic_columns=config.topic_columns,
            split_column=config.split_column,
        )
        model, coders = run.model, run.coders
        if config.ctx_len > model.max_ctx:
            raise OptionError(
                f"--ctx-len is {config.ctx_len}, {model.name} was made for at most {model.max_ctx}"
            )
        marker = run.out / "tokens" / "done.json"
        key = key_of(corpus=corpus.fingerprint, model=model.fingerprint, config=config.to_json())
        if not is_done(marker, key):
            tokens = tokenize_corpus(
                corpus,
                model.tokenizer,
                ctx_len=config.ctx_len,
                fit_tokens=config.tokens,
                heldout_tokens=config.heldout_tokens,
                seed=config.seed,
                contexts_per_document=config.contexts_per_document,
                n_vocab=model.n_vocab,
            )
            save_tokens(tokens, run.out / "tokens")
            mark_done(marker, key, corpus=corpus.fingerprint)
        tokens = run.tokens
        say(
            f"{tokens.fit.n_positions:,} fit and {tokens.heldout.n_positions:,} held-out tokens "
            f"of {len(tokens.doc_ids):,} documents; {len(coders)} coders"
        )
        build_cache(tokens, model, coders, run.out / "cache", quiet=run.quiet)


def fit(
    run: Run,
    functions: Sequence[str] = DEFAULT_FUNCTIONS,
    say: Say = lambda line: None,
    corrections: Sequence[str] = CORRECTIONS,
) -> None:
    """Fit labels to every cached hookpoint.

    `functions` compete for the labels; `corrections`, refinements all, are added to whole tables
    where they help.
    """
    from labeler.fit_run import fit_run

    with timed(run, "fit"):
        fit_run(run, functions, corrections, say)


def verify(run: Run, say: Say = lambda line: None) -> None:
    """Score every label on held-out documents, under each key budget."""
    import polars as pl

    from labeler.eval.explained import LEVELS, explained
    from labeler.eval.heldout import load_heldout_firings, score_heldout
    from labeler.labels import ALL_BUDGETS, LabelSet, label_folder
    from labeler.progress import progress_bar

    with timed(run, "verify"):
        tokens = run.tokens
        # Read and looked up once for all hookpoints, if there is anything left to score.
        tree, nodes = None, None
        for hookpoint in run.hookpoints:
            folder = run.out / "verify" / hookpoint
            key = _labels_key(run, hookpoint)
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


def live_latents(labels: "LabelSet", heldout: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Which latents are live (design.md, section 2), bool [n_latents]."""
    from labeler.fitted import MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS

    enough = labels.latents["n_fit"].to_numpy() >= MIN_FIT_FIRINGS
    return enough & (heldout >= MIN_HELDOUT_FIRINGS)


def rewrite(run: Run, tokens: int = 65_536, say: Say = lambda line: None) -> None:
    """Run the labels in the layers and measure cross-entropy, one layer at a time and all."""
    from labeler.eval.rewrite import BASE, cross_entropies, variants
    from labeler.labels import ALL_BUDGETS, LabelSet, label_folder
    from labeler.progress import progress_bar

    with timed(run, "rewrite"):
        heldout = first_positions(run.tokens.heldout, tokens)
        sets: list[tuple[str, ...]] = [(name,) for name in run.hookpoints]
        if len(run.hookpoints) > 1:
            sets.append(run.hookpoints)
        labels: dict[str, LabelSet] = {}
        base, tree = None, None
        for chosen in sets:
            name = chosen[0] if len(chosen) == 1 else "all_layers"
            path = run.out / "rewrite" / f"{name}.json"
            keys = [_labels_key(run, hookpoint) for hookpoint in chosen]
            key = key_of(labels=keys, tokens=heldout.fingerprint)
            if is_done(path, key):
                continue
            for hookpoint in chosen:
                if hookpoint not in labels:
                    labels[hookpoint] = LabelSet.load(label_folder(run.out, hookpoint), tree)
                    tree = labels[hookpoint].shared
            wanted = variants(chosen, labels, ALL_BUDGETS, run.config.seed)
            total = heldout.n_ctx * (len(wanted) + (base is None))
            with progress_bar(f"rewriting {name}", total, quiet=run.quiet) as advance:
                if base is None:
                    base = cross_entropies(run.model, {}, {}, heldout, [BASE], advance=advance)
                coders = {hookpoint: run.coders[hookpoint] for hookpoint in chosen}
                mine = {hookpoint: labels[hookpoint] for hookpoint in chosen}
                found = cross_entropies(
                    run.model, coders, mine, heldout, wanted, ALL_BUDGETS, advance
                )
            found = base.join(found)
            recovered = {}
            for budget in ALL_BUDGETS:
                low, high = found.recovered_interval(f"labels_{budget}", run.config.seed)
                value = found.recovered(f"labels_{budget}")
                recovered[str(budget)] = {"value": value, "low": low, "high": high}
            mark_done(
                path,
                key,
                labels=keys,
                hookpoints=list(chosen),
                n_tokens=int(found.n.sum()),
                n_documents=len(found.n),
                ce=found.mean(),
                recovered=recovered,
                shuffled=found.recovered("shuffled"),
            )
            say(f"{name}: recovered {recovered['unlimited']['value']:.3f}")


def first_positions(heldout: Tokens, wanted: int) -> Tokens:
    """The first whole documents that together hold at least `wanted` positions, or all."""
    documents = np.unique(heldout.doc)
    lengths = np.bincount(heldout.doc, weights=heldout.length)[documents]
    n = int(np.searchsorted(np.cumsum(lengths), wanted)) + 1
    keep = documents[: min(n, len(documents))]
    return heldout.select(np.isin(heldout.doc, keep))


def report(run: Run, say: Say = lambda line: None) -> None:
    """Write summary.json and the HTML report."""
    from labeler.summary import write_summary

    with timed(run, "report"):
        from labeler.report.page import write_report

        _refuse_stale(run)
        write_report(run)
    write_summary(run)
    say(f"report: {run.out / 'report.html'}")


def _refuse_stale(run: Run) -> None:
    """Refuse to show scores of other labels than those there are.

    Raises
    ------
    RunError
        If labels were fitted again after `verify` or `rewrite`; names the step to run.
    """
    keys = {hookpoint: _labels_key(run, hookpoint) for hookpoint in run.hookpoints}
    for hookpoint, key in keys.items():
        if not is_done(run.out / "verify" / hookpoint / "done.json", key):
            raise RunError(
                f"{hookpoint} has no held-out scores of its present labels; run `labeler verify "
                f"--out {run.out}` first"
            )
    sets = [(hookpoint,) for hookpoint in keys] + ([tuple(keys)] if len(keys) > 1 else [])
    for chosen in sets:
        name = chosen[0] if len(chosen) == 1 else "all_layers"
        path = run.out / "rewrite" / f"{name}.json"
        found = read_json(path, RunError, "run `labeler rewrite` first")
        if found.get("labels") != [keys[hookpoint] for hookpoint in chosen]:
            raise RunError(
                f"{path} was measured with other labels than the present ones; run `labeler "
                f"rewrite --out {run.out}` first"
            )


def run_all(
    run: Run,
    functions: Sequence[str],
    rewrite_tokens: int,
    say: Say = lambda line: None,
    corrections: Sequence[str] = CORRECTIONS,
) -> None:
    """Every step in order."""
    cache(run, say)
    fit(run, functions, say, corrections)
    verify(run, say)
    rewrite(run, rewrite_tokens, say)
    report(run, say)


def start(out: Path, config: RunConfig, *, quiet: bool = False) -> Run:
    """Open or make a run folder with these settings."""
    config.save(out)
    return Run(out, config, quiet=quiet)


def _labels_key(run: Run, hookpoint: str) -> str:
    from labeler.labels import label_folder

    marker = label_folder(run.out, hookpoint) / "done.json"
    found = read_json(marker, RunError, "run `labeler fit` first")
    return key_of(labels=found["key"], tokens=run.tokens.fingerprint)
