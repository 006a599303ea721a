"""What a run was made from, and the commands that make it again."""

import shlex
from pathlib import Path

import numpy as np

from labeler import __version__
from labeler.config import CORRECTIONS, DEFAULT_FUNCTIONS, DELPHI_CACHE, RunConfig
from labeler.inputs import Run
from labeler.labels import LabelSet
from labeler.store import looks_local
from labeler.summary import read_rewrite


def facts(run: Run, n_documents: int) -> list[tuple[str, str]]:
    """Model, coders and texts, as the head of the page names them."""
    config, tokens = run.config, run.tokens
    fit = tokens.fit
    return [
        ("model", short(config.model)),
        ("coders", f"{short(config.coder)} ({len(run.hookpoints)})"),
        ("corpus", short(config.corpus)),
        ("fit", f"{fit.n_positions:,} tokens of {len(np.unique(fit.doc)):,} documents"),
        ("held out", f"{tokens.heldout.n_positions:,} tokens of {n_documents:,} documents"),
        ("contexts", f"{tokens.ctx_len} tokens"),
    ]


def hashes(run: Run, labels: LabelSet) -> list[tuple[str, str]]:
    """Hashes of the inputs, and versions."""
    manifest = labels.manifest
    coders = [
        (f"coder {name}", run.cache.manifest.hookpoints[name].coder[:12]) for name in run.hookpoints
    ]
    return [
        ("corpus", str(manifest["corpus"])[:12]),
        ("model", str(manifest["model"])[:12]),
        ("tokens", run.tokens.fingerprint[:12]),
        *coders,
        ("fitted by", str(manifest["code"])),
        ("report by", __version__),
        ("seed", str(run.config.seed)),
    ]


def short(source: str) -> str:
    """The last two parts of a path; hub names and the built-in corpus as they are."""
    return "/".join(Path(source).parts[-2:]) if looks_local(source) else source


def commands(run: Run, labels: LabelSet) -> list[str]:
    """Commands that make this run again, and that look further into it."""
    out = ["--out", str(run.out)]
    first = run.hookpoints[0]
    asked = labels.manifest["asked"]
    fitted = []
    if set(asked["functions"]) != set(DEFAULT_FUNCTIONS):
        fitted += ["--functions", ",".join(asked["functions"])]
    if set(asked["corrections"]) != set(CORRECTIONS):
        fitted += ["--corrections", ",".join(asked["corrections"]) or "none"]
    for plugin in run.plugins:
        fitted += ["--plugin", str(plugin.path)]
    rewritten = ["--rewrite-tokens", str(_rewrite_tokens(run))]
    if run.config.corpus.startswith(DELPHI_CACHE):
        made = [
            _imported(run.config) + out,
            ["labeler", "fit", *fitted, *out],
            ["labeler", "verify", "--all", *out],
            ["labeler", "rewrite", *rewritten, *out],
        ]
    else:
        made = [[*_made(run.config), *fitted, *rewritten, "--seed", str(run.config.seed), *out]]
    looks = [["labeler", "show", first, "0", *out], ["labeler", "export", first, "0", *out]]
    return [shlex.join(words) for words in (*made, *looks)]


def _made(config: RunConfig) -> list[str]:
    """`labeler run` up to what is fitted."""
    words = ["labeler", "run", "--model", config.model, "--coder", config.coder]
    words += ["--corpus", config.corpus]
    if config.text_column != "text":
        words += ["--text-column", config.text_column]
    for column in config.topic_columns:
        words += ["--topic-column", column]
    if config.split_column:
        words += ["--split-column", config.split_column]
    words += ["--tokens", str(config.tokens), "--heldout-tokens", str(config.heldout_tokens)]
    words += ["--ctx-len", str(config.ctx_len)]
    for name in config.hookpoints:
        words += ["--hookpoint", name]
    return words


def _imported(config: RunConfig) -> list[str]:
    """`labeler import-cache`."""
    words = ["labeler", "import-cache", config.corpus.removeprefix(DELPHI_CACHE)]
    words += ["--model", config.model, "--coder", config.coder]
    for name in config.hookpoints:
        words += ["--hookpoint", name]
    return [*words, "--seed", str(config.seed)]


def _rewrite_tokens(run: Run) -> int:
    """Positions of the documents that `rewrite` used: asking for as many takes the same ones."""
    heldout = run.tokens.heldout
    n = read_rewrite(run.out, run.hookpoints[0])["n_documents"]
    documents = np.unique(heldout.doc)[:n]
    return int(heldout.length[np.isin(heldout.doc, documents)].sum())
