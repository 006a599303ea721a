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

from labeler.config import CORRECTIONS, DEFAULT_FUNCTIONS, RunConfig
from labeler.errors import OptionError, RunError
from labeler.inputs import Run
from labeler.provenance import is_done, key_of, mark_done
from labeler.store import read_json, write_json
from labeler.tokens import Tokens

if TYPE_CHECKING:
    from labeler.trial_config import TrialConfig

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


def verify(run: Run, say: Say = lambda line: None, trials: "TrialConfig | None" = None) -> None:
    """Score every label on held-out documents, under each key budget.

    With `trials`, try labels on unseen text too, and give each a verdict.
    """
    from labeler.score_run import score_labels

    with timed(run, "verify"):
        score_labels(run, labels_key, say)
    if trials is not None:
        from labeler.trial_run import try_labels

        with timed(run, "verdicts"):
            try_labels(run, trials, labels_key, say)


def rewrite(
    run: Run,
    tokens: int = 65_536,
    say: Say = lambda line: None,
    curves_tokens: int = 0,
) -> None:
    """Run the labels in the layers and measure cross-entropy, one layer at a time and all.

    Curves over the share of latents that run on labels are measured on about `curves_tokens`
    held-out tokens; not at all where that is 0.
    """
    from labeler.rewrite_run import rewrite_run

    with timed(run, "rewrite"):
        heldout = first_positions(run.tokens.heldout, tokens)
        keys = {hookpoint: labels_key(run, hookpoint) for hookpoint in run.hookpoints}
        rewrite_run(run, heldout, keys, curves_tokens, say)


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
    keys = {hookpoint: labels_key(run, hookpoint) for hookpoint in run.hookpoints}
    for hookpoint, key in keys.items():
        if not is_done(run.out / "verify" / hookpoint / "done.json", key):
            raise RunError(
                f"{hookpoint} has no held-out scores of its present labels; run `labeler verify "
                f"--out {run.out}` first"
            )
        tried = run.out / "verify" / hookpoint / "tests.json"
        if tried.exists() and read_json(tried, RunError, f"delete {tried}").get("labels") != key:
            raise RunError(
                f"{tried} has verdicts on other labels than the present ones; run `labeler verify "
                f"--all --out {run.out}` again, or delete it"
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
    trials: "TrialConfig | None" = None,
    curves_tokens: int = 0,
) -> None:
    """Every step in order."""
    cache(run, say)
    fit(run, functions, say, corrections)
    verify(run, say, trials)
    rewrite(run, rewrite_tokens, say, curves_tokens)
    report(run, say)


def start(out: Path, config: RunConfig, *, quiet: bool = False) -> Run:
    """Open or make a run folder with these settings."""
    config.save(out)
    return Run(out, config, quiet=quiet)


def labels_key(run: Run, hookpoint: str) -> str:
    """What the labels of a hookpoint and the text they are scored on were made from, as a hash."""
    from labeler.labels import label_folder

    marker = label_folder(run.out, hookpoint) / "done.json"
    found = read_json(marker, RunError, "run `labeler fit` first")
    return key_of(labels=found["key"], tokens=run.tokens.fingerprint)
