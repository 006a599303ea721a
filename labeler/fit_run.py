"""Fit every hookpoint of a run, from the first layer to the last, and write the labels."""

from collections.abc import Callable, Sequence
from pathlib import Path

from labeler.calls import make_calls
from labeler.errors import CoderError, ModelError, OptionError, RunError
from labeler.fit import fit_hookpoint
from labeler.functions.calls import Calls
from labeler.hookpoints import parse_hookpoint
from labeler.inputs import Run
from labeler.keytree import KeyTree
from labeler.labels import LabelSet, label_folder, save_labels
from labeler.material import Material
from labeler.progress import progress_bar
from labeler.provenance import code_version, is_done, key_of, mark_done
from labeler.statistics import load_fit_firings
from labeler.store import read_json
from labeler.tables import runs_by_type, write_extra, write_tables
from labeler.weights import add_weights


def fit_run(
    run: Run, functions: Sequence[str], corrections: Sequence[str], say: Callable[[str], None]
) -> None:
    """Fit labels to every cached hookpoint that has none of these functions and corrections.

    Raises
    ------
    OptionError
        If no function type applies to the corpus.
    """
    tokens, source = run.tokens, run.cache
    corpus = read_json(run.out / "tokens" / "done.json", RunError, "run cache")["corpus"]
    made: Material | None = None
    for hookpoint in run.hookpoints:
        folder = label_folder(run.out, hookpoint)
        earlier = _earlier(run, hookpoint) if Calls.name in functions else []
        facts = {
            "corpus": corpus,
            "model": source.manifest.model,
            "coder": source.manifest.hookpoints[hookpoint].coder,
            "tokens": tokens.fingerprint,
            "asked": {"functions": list(functions), "corrections": list(corrections)},
            "calls": [
                read_json(path / "done.json", RunError, "fit again")["key"] for path in earlier
            ],
            "seed": run.config.seed,
        }
        if is_done(folder / "done.json", key_of(**facts)):
            continue
        # Numbered once, and only if there is anything left to fit.
        made = made or _material(run, functions, corrections, say)
        calls = make_calls([LabelSet.load(path, made.tree) for path in earlier], made.tree)
        mine = made.with_calls(calls) if calls else made
        firings = load_fit_firings(source, hookpoint, tokens)
        with progress_bar(f"fitting {hookpoint}", 1.0, quiet=run.quiet) as advance:
            fitted = fit_hookpoint(mine, firings, seed=run.config.seed, advance=advance)
        runs = runs_by_type(fitted.types, fitted.runs, fitted.labeled)
        write_tables(folder / "whole", made.tree, made.nodes, firings, runs, fitted.shrinkage)
        write_extra(folder / "extra", made.tree, fitted.corrections, fitted.extra, fitted.labeled)
        save_labels(folder, hookpoint, mine.tree, fitted, {**facts, "code": code_version()})
        labels = LabelSet.load(folder, made.tree)
        try:
            add_weights(labels, run.model, run.coders[hookpoint], tokens.vocab)
        except (ModelError, CoderError) as error:
            say(f"{hookpoint}: nothing is said of the weights: {error}")
        mark_done(folder / "done.json", key_of(**facts))
        say(f"{hookpoint}: {int(fitted.labeled.sum()):,} of {len(fitted.count):,} labeled")


def _material(
    run: Run, functions: Sequence[str], corrections: Sequence[str], say: Callable[[str], None]
) -> Material:
    """Number the keys of the fit split, save the tree that all hookpoints share."""
    split = run.tokens.fit
    plain = [name for name in functions if name != Calls.name]
    with progress_bar("numbering keys", 1.0, quiet=run.quiet) as advance:
        tree, nodes = KeyTree.build(split, [*plain, *corrections], advance)
    for name, why in tree.abstained.items():
        say(f"{name} abstains: {why}")
    if not tree.select(plain).levels:
        raise OptionError(
            "--functions: none of the function types applies to this corpus: "
            + "; ".join(tree.abstained.values())
        )
    tree.save(run.out / "labels" / "tree")
    return Material.make(tree, nodes, split, plain)


def _earlier(run: Run, hookpoint: str) -> list[Path]:
    """Label folders of the layers below a hookpoint's."""
    layer = parse_hookpoint(hookpoint).layer
    below = [name for name in run.hookpoints if parse_hookpoint(name).layer < layer]
    return [label_folder(run.out, name) for name in below]
