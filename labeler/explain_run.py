"""Explain latents with a language model and score the explanations: the baseline beside our labels.

    fit windows -> explain -> held-out windows -> detect, fuzz, simulate -> scores beside controls

The driver of `labeler explain`. Every answer is kept as it comes; a run that was stopped asks for
what is left. Files in ``<run>/explain/<asker>/`` (docs/explanations.md has their columns):

    answers.jsonl        every answer, by digest of the question
    explanations.jsonl   an explanation a line: hookpoint, latent, text, author, published, origin
    failures.jsonl       a latent without one a line: hookpoint, latent, author, failure, reason
    scores.parquet       a row per latent and test: own, control, intervals, failed answers
    windows.parquet      a row per window of detection and fuzzing, with what was answered
    simulated/*.npz      predicted activations, a file per hookpoint
    usage.json           requests, tokens and dollars so far, all runs together
    done.json            written last: what it was made from, counts, means
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labeler.arrays import Longs
from labeler.errors import OptionError, RunError
from labeler.eval.llm.ask import Answers, Asker
from labeler.eval.llm.config import ExplainConfig
from labeler.eval.llm.cost import Estimate, Prices, usage_kept
from labeler.eval.llm.inquiry import Inquiry, outcome_of
from labeler.eval.llm.results import Results, controls, inquire, write_arrays
from labeler.eval.llm.scores import pooled
from labeler.eval.llm.windows import HeldoutWindows, examples, firings_of
from labeler.fitted import MIN_FIT_FIRINGS, MIN_HELDOUT_FIRINGS
from labeler.inputs import Run
from labeler.progress import progress_bar
from labeler.provenance import is_done, key_of, mark_done
from labeler.store import atomic_path, hash_json, read_json, write_parquet

Say = Callable[[str], None]

TYPICAL = 160
"""Characters of an explanation that is not written yet, for the estimate."""

MARKER = "done.json"


def explain_run(run: Run, config: ExplainConfig, say: Say = lambda line: None) -> Path:
    """Explain latents of a run and score the explanations on held-out text.

    Parameters
    ----------
    run : Run
        With a latent cache; labels play no part.
    config : ExplainConfig
    say : callable
        Told what it will cost, what came of each hookpoint, and what it has cost.

    Returns
    -------
    Path
        The folder that was written.

    Raises
    ------
    OptionError
        If a hookpoint or latent does not exist.
    EndpointError, ModelError
        If nobody answers. Answers that came before are kept.
    """
    asker = config.open_asker()
    folder = explain_folder(run.out, asker.name)
    hookpoints = _hookpoints(run, config)
    key = _key(run, config, asker, hookpoints)
    if is_done(folder / MARKER, key) and not _n_open(folder / MARKER):
        say(f"{folder}: all answers are there already")
        return folder
    answers = Answers(asker, folder / "answers.jsonl")
    inquiries = [_inquiry(run, name, config) for name in hookpoints]
    prices = Prices(config.price_in, config.price_out)
    for line in _estimated(inquiries, answers, prices).lines():
        say(line)
    _forget(folder)
    found: dict[str, Results] = {}
    with usage_kept(folder / "usage.json", asker, prices):
        for inquiry in inquiries:
            results = inquire(inquiry, answers, _bar(run, inquiry.hookpoint))
            found[inquiry.hookpoint] = results
            say(_summary(inquiry.hookpoint, results, run.config.seed))
            _write(folder, asker.name, found)
            write_arrays(folder / "simulated" / f"{inquiry.hookpoint}.npz", results.simulated)
    dollars = prices.dollars(asker.usage.sent, asker.usage.written)
    say(f"{asker.usage}" + ("" if dollars is None else f"; ${dollars:,.2f}"))
    if answers.n_open:
        say(f"{answers.n_open:,} questions got no answer; the same command asks them again")
    facts = {"author": asker.name, "config": config.to_json(), "n_open": answers.n_open}
    mark_done(folder / MARKER, key, format=1, **facts, hookpoints=_counts(found, run.config.seed))
    return folder


def estimate(run: Run, config: ExplainConfig) -> Estimate:
    """What `explain_run` would ask for, without asking: requests and tokens by stage.

    Explanations that are not there yet are taken to be of `TYPICAL` length.
    """
    asker = config.open_asker()
    answers = Answers(asker, explain_folder(run.out, asker.name) / "answers.jsonl")
    inquiries = [_inquiry(run, name, config) for name in _hookpoints(run, config)]
    return _estimated(inquiries, answers, Prices(config.price_in, config.price_out))


def explain_folder(out: Path, author: str) -> Path:
    """Where explanations by somebody are kept: the name with nothing a file system minds."""
    slug = "".join(one if one.isalnum() or one in "-_." else "-" for one in author)
    return out / "explain" / slug[:100]


def _hookpoints(run: Run, config: ExplainConfig) -> list[str]:
    known = run.hookpoints
    if unknown := [name for name in config.hookpoints if name not in known]:
        raise OptionError(
            f"--hookpoint {unknown[0]!r}: {run.out} has {', '.join(known)}; give one of these"
        )
    return [name for name in known if not config.hookpoints or name in config.hookpoints]


def _key(run: Run, config: ExplainConfig, asker: Asker, hookpoints: Sequence[str]) -> str:
    entries = run.cache.manifest.hookpoints
    shards = {
        name: [shard.sha256 for _, shard in sorted(entries[name].shards.items())]
        for name in hookpoints
    }
    return key_of(
        "eval/llm",
        asker=asker.fingerprint,
        config=config.to_json(),
        seed=run.config.seed,
        tokens=run.tokens.fingerprint,
        firings=hash_json(shards),
    )


def _latents(run: Run, hookpoint: str, config: ExplainConfig) -> Longs:
    """Those given, or live ones at random, ascending."""
    summary = run.cache.summary(hookpoint)
    if config.given:
        n = len(summary.n_fit)
        if wrong := [one for one in config.given if not 0 <= one < n]:
            raise OptionError(f"--latent {wrong[0]}: {hookpoint} has latents 0 to {n - 1}")
        return np.unique(np.array(config.given, dtype=np.int64))
    live = (summary.n_fit >= MIN_FIT_FIRINGS) & (summary.n_heldout >= MIN_HELDOUT_FIRINGS)
    every = np.flatnonzero(live)
    if not config.latents or config.latents >= len(every):
        return every
    rng = np.random.default_rng(run.config.seed)
    return np.sort(rng.choice(every, config.latents, replace=False))


def _inquiry(run: Run, hookpoint: str, config: ExplainConfig) -> Inquiry:
    latents, seed = _latents(run, hookpoint, config), run.config.seed
    tokens = run.tokens
    window = min(config.window, tokens.ctx_len)
    with progress_bar(f"reading {hookpoint.removeprefix('layers.')}", None, quiet=run.quiet):
        fit, heldout = (
            firings_of(run.cache, hookpoint, split, tokens, latents) for split in ("fit", "heldout")
        )
    summary = run.cache.summary(hookpoint)
    return Inquiry(
        hookpoint,
        latents,
        summary.n_fit[latents],
        summary.max_fit[latents],
        tokens.fit,
        examples(tokens.fit, fit, window=window, n_examples=config.examples, seed=seed),
        tokens.heldout,
        HeldoutWindows.choose(
            tokens.heldout, heldout, window=window, n_windows=config.windows, seed=seed
        ),
        window,
        seed,
    )


def _bar(
    run: Run, hookpoint: str
) -> Callable[[str, int], AbstractContextManager[Callable[[float], None]]]:
    place = hookpoint.removeprefix("layers.")
    return lambda stage, total: progress_bar(f"{stage} {place}", total, quiet=run.quiet)


def _estimated(inquiries: Sequence[Inquiry], answers: Answers, prices: Prices) -> Estimate:
    found = Estimate(prices)
    for inquiry in inquiries:
        asked = inquiry.explain()
        found.add("explain", asked, answers)
        texts: list[str | None] = []
        for latent, question in zip(inquiry.latents.tolist(), asked, strict=True):
            known = None if question is None else answers.known(question)
            if question is None or known is not None:
                texts.append(outcome_of(latent, known).text)
            else:
                # No two alike, or their questions would count once.
                texts.append(f"{inquiry.hookpoint} {latent} ".ljust(TYPICAL, "x"))
        others = controls(texts, inquiry.partners(texts))
        for stage, fuzz in (("detect", False), ("fuzz", True)):
            batches = [*inquiry.classify(texts, fuzz=fuzz), *inquiry.classify(others, fuzz=fuzz)]
            found.add(stage, [batch.question for batch in batches], answers)
        shared = inquiry.simulate_shared(texts)
        top = [*inquiry.simulate_top(texts), *inquiry.simulate_top(others)]
        found.add("simulate", [*shared, *top], answers)
    return found


def _forget(folder: Path) -> None:
    """Remove what another configuration left: what is written next may stop half-way."""
    (folder / MARKER).unlink(missing_ok=True)
    for path in (folder / "simulated").glob("*.npz"):
        path.unlink()


def _write(folder: Path, author: str, found: Mapping[str, Results]) -> None:
    """Write the tables of all hookpoints so far."""
    explained, failed = [], []
    for hookpoint, results in found.items():
        for one in results.outcomes:
            place = {"hookpoint": hookpoint, "latent": one.latent}
            if one.text is None:
                why = {"failure": one.failure, "reason": one.reason}
                failed.append(place | {"author": author} | why)
            else:
                published = results.published(one.latent)
                said = {"text": one.text, "author": author, "published": published}
                explained.append(place | said | {"origin": "labeler explain"})
    _write_lines(folder / "explanations.jsonl", explained)
    _write_lines(folder / "failures.jsonl", failed)
    for name in ("scores", "windows"):
        frames: list[pl.DataFrame] = [getattr(one, name) for one in found.values()]
        write_parquet(folder / f"{name}.parquet", pl.concat(frames))


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _summary(hookpoint: str, results: Results, seed: int) -> str:
    n = len(results.outcomes)
    n_explained = sum(one.text is not None for one in results.outcomes)
    means = pooled(results.scores, seed)
    shown = [
        f"{test} {one['own']:.2f} (control {one['control']:.2f})"
        for test, one in means.items()
        if one["own"] is not None and one["control"] is not None
    ]
    failed, wanted = (
        sum(int(one[name] or 0) for one in means.values()) for name in ("failed", "n")
    )
    lost = f"{failed:,} of {wanted:,} answers about windows and tokens failed"
    counts = f"{n_explained} of {n} latents explained, {lost}"
    return f"{hookpoint}: " + ", ".join([counts, *shown])


def _counts(found: Mapping[str, Results], seed: int) -> dict[str, dict[str, Any]]:
    facts = {}
    for hookpoint, results in found.items():
        failures = [one.failure for one in results.outcomes if one.failure is not None]
        facts[hookpoint] = {
            "n_latents": len(results.outcomes),
            "n_explained": len(results.outcomes) - len(failures),
            "failures": {name: failures.count(name) for name in sorted(set(failures))},
            "tests": pooled(results.scores, seed),
        }
    return facts


def _n_open(marker: Path) -> int:
    """Questions that a finished run got no answer to."""
    return int(read_json(marker, RunError, f"delete {marker}").get("n_open", 0))
