"""The command line. Heavy modules are imported inside the commands, so that --help is quick."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli_analysis import add_commands
from labeler.cli_functions import functions_app
from labeler.errors import LabelerError, OptionError
from labeler.memory import keep_freed_memory

if TYPE_CHECKING:
    from labeler.plugins import Plugin

# Read by OpenMP when torch is imported. Threads that spin at barriers make torch several times
# slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

app = typer.Typer(
    help="Label the latents of sparse coders with small programs, fitted and checked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Model = Annotated[str, typer.Option(help="Model: hub name or local folder.")]
Coder = Annotated[str, typer.Option(help="Sparse coders: hub name or folder, sparsify's layout.")]
Corpus = Annotated[
    str,
    typer.Option(help="stdlib, a folder, a .txt/.jsonl/.parquet file, or a data set name."),
]
TextColumn = Annotated[str, typer.Option(help="Column of the text.")]
TopicColumn = Annotated[
    list[str] | None, typer.Option(help="Column of a topic, coarse to fine; repeat it.")
]
SplitColumn = Annotated[
    str | None, typer.Option(help="Column that says train or heldout; default: hashed split.")
]
TokenCount = Annotated[int, typer.Option(help="Tokens to fit on.")]
HeldoutTokens = Annotated[int, typer.Option(help="Tokens to score on.")]
CtxLen = Annotated[int, typer.Option(help="Tokens per context.")]
PerDocument = Annotated[
    int, typer.Option(help="Most contexts of one document, spread over it; 0 = all.")
]
Hookpoints = Annotated[
    list[str] | None,
    typer.Option("--hookpoint", help="Only this one (layers.3.mlp); repeat it. Default: all."),
]
Functions = Annotated[
    str | None,
    typer.Option(
        help="Function types or refinements (unigram+topic), comma-separated; all = every one "
        "there is. Default: those of `labeler functions` marked *, and the plug-ins'."
    ),
]
Corrections = Annotated[
    str | None,
    typer.Option(help="Refinements that may correct whole tables, comma-separated, or none."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file with function types of yours; repeat it."),
]
Seed = Annotated[int, typer.Option(help="Of sampling, null and bootstrap.")]
RewriteTokens = Annotated[int, typer.Option(help="Held-out tokens to measure cross-entropy on.")]


def _say(line: str) -> None:
    typer.echo(line)


def _functions(names: str | None, plugins: "Sequence[Plugin]") -> list[str]:
    from labeler.config import DEFAULT_FUNCTIONS
    from labeler.functions import function_types
    from labeler.keytree import levels_of

    mine = [kind.name for plugin in plugins for kind in plugin.types]
    if names is None:
        return [*DEFAULT_FUNCTIONS, *mine]
    chosen = list(function_types()) if names.strip() == "all" else _split(names)
    levels_of(chosen)  # an unknown name is refused before anything is made
    return chosen


def _corrections(names: str | None) -> list[str]:
    from labeler.config import CORRECTIONS
    from labeler.keytree import levels_of
    from labeler.level import REFINES

    if names is None:
        return list(CORRECTIONS)
    chosen = [] if names.strip() == "none" else _split(names)
    levels_of(chosen)
    for name in chosen:
        if REFINES not in name:
            raise OptionError(
                f"--corrections {name!r} is no refinement; write unigram{REFINES}{name}"
            )
    return chosen


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@app.command(
    "run",
    epilog="Example: labeler run --model ./model --coder ./transcoders --corpus docs.parquet "
    "--topic-column subject --out runs/mine",
)
def run_command(
    model: Model,
    coder: Coder,
    corpus: Corpus,
    out: Out,
    text_column: TextColumn = "text",
    topic_column: TopicColumn = None,
    split_column: SplitColumn = None,
    tokens: TokenCount = 1_000_000,
    heldout_tokens: HeldoutTokens = 100_000,
    ctx_len: CtxLen = 128,
    contexts_per_document: PerDocument = 8,
    hookpoint: Hookpoints = None,
    functions: Functions = None,
    corrections: Corrections = None,
    plugin: Plugins = None,
    rewrite_tokens: RewriteTokens = 65_536,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Do every step: cache, fit, verify, rewrite, report."""
    from labeler.config import RunConfig
    from labeler.plugins import open_plugins, record_plugins
    from labeler.steps import run_all, start

    plugins = open_plugins(out, plugin or ())
    names, further = _functions(functions, plugins), _corrections(corrections)
    config = RunConfig(
        model=model,
        coder=coder,
        corpus=corpus,
        text_column=text_column,
        topic_columns=tuple(topic_column or ()),
        split_column=split_column,
        tokens=tokens,
        heldout_tokens=heldout_tokens,
        ctx_len=ctx_len,
        contexts_per_document=contexts_per_document,
        hookpoints=tuple(hookpoint or ()),
        seed=seed,
    )
    config.save(out)  # refuses a folder of another run before its plug-ins are touched
    record_plugins(out, plugins)
    run_all(start(out, config, quiet=quiet), names, rewrite_tokens, _say, further)


@app.command(
    "cache", epilog="Example: labeler cache --model M --coder C --corpus X --out runs/mine"
)
def cache_command(
    model: Model,
    coder: Coder,
    corpus: Corpus,
    out: Out,
    text_column: TextColumn = "text",
    topic_column: TopicColumn = None,
    split_column: SplitColumn = None,
    tokens: TokenCount = 1_000_000,
    heldout_tokens: HeldoutTokens = 100_000,
    ctx_len: CtxLen = 128,
    contexts_per_document: PerDocument = 8,
    hookpoint: Hookpoints = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Run model and coders over the corpus once; write every firing."""
    from labeler.config import RunConfig
    from labeler.steps import cache, start

    config = RunConfig(
        model=model,
        coder=coder,
        corpus=corpus,
        text_column=text_column,
        topic_columns=tuple(topic_column or ()),
        split_column=split_column,
        tokens=tokens,
        heldout_tokens=heldout_tokens,
        ctx_len=ctx_len,
        contexts_per_document=contexts_per_document,
        hookpoints=tuple(hookpoint or ()),
        seed=seed,
    )
    cache(start(out, config, quiet=quiet), _say)


@app.command("fit", epilog="Example: labeler fit --out runs/mine --functions unigram,bigram")
def fit_command(
    out: Out,
    functions: Functions = None,
    corrections: Corrections = None,
    plugin: Plugins = None,
    quiet: Quiet = False,
) -> None:
    """Fit labels to a cached run."""
    from labeler.inputs import Run
    from labeler.plugins import open_plugins, record_plugins
    from labeler.steps import fit

    plugins = open_plugins(out, plugin or ())
    names, further = _functions(functions, plugins), _corrections(corrections)
    record_plugins(out, plugins)
    fit(Run(out, quiet=quiet), names, _say, further)


@app.command("verify", epilog="Example: labeler verify --out runs/mine")
def verify_command(out: Out, quiet: Quiet = False) -> None:
    """Score the labels on held-out documents."""
    from labeler.inputs import Run
    from labeler.steps import verify

    verify(Run(out, quiet=quiet), _say)


@app.command("rewrite", epilog="Example: labeler rewrite --out runs/mine")
def rewrite_command(out: Out, rewrite_tokens: RewriteTokens = 65_536, quiet: Quiet = False) -> None:
    """Run the labels in the layers; measure cross-entropy."""
    from labeler.inputs import Run
    from labeler.steps import rewrite

    rewrite(Run(out, quiet=quiet), rewrite_tokens, _say)


@app.command("report", epilog="Example: labeler report --out runs/mine")
def report_command(out: Out, quiet: Quiet = False) -> None:
    """Write report.html and summary.json."""
    from labeler.inputs import Run
    from labeler.steps import report

    report(Run(out, quiet=quiet), _say)


@app.command("demo", epilog="Example: labeler demo --out runs/demo")
def demo_command(
    out: Out = Path("runs/demo"),
    tokens: TokenCount = 250_000,
    heldout_tokens: HeldoutTokens = 65_536,
    rewrite_tokens: RewriteTokens = 24_576,
    quiet: Quiet = False,
) -> None:
    """Do every step on the built-in model, offline."""
    from labeler.builtin import model_path, transcoders_path
    from labeler.config import DEFAULT_FUNCTIONS, RunConfig
    from labeler.steps import run_all, start

    config = RunConfig(
        model=str(model_path()),
        coder=str(transcoders_path()),
        corpus="stdlib",
        tokens=tokens,
        heldout_tokens=heldout_tokens,
    )
    run_all(start(out, config, quiet=quiet), DEFAULT_FUNCTIONS, rewrite_tokens, _say)


@app.command("show", epilog="Example: labeler show layers.3.mlp 17 --out runs/demo")
def show_command(
    hookpoint: Annotated[str, typer.Argument(help="Such as layers.3.mlp.")],
    latent: Annotated[int, typer.Argument(help="Number of the latent.")],
    out: Out = Path("runs/demo"),
) -> None:
    """Show one latent's card in the terminal."""
    from labeler.show import show

    show(out, hookpoint, latent)


@app.command("export", epilog="Example: labeler export layers.0.mlp 17 --budget 16 > label.py")
def export_command(
    hookpoint: Annotated[str, typer.Argument(help="Such as layers.3.mlp.")],
    latent: Annotated[int, typer.Argument(help="Number of the latent.")],
    out: Out = Path("runs/demo"),
    budget: Annotated[int, typer.Option(help="16 or 100 keys.")] = 100,
) -> None:
    """Print a label as Python that needs only numpy."""
    from labeler.hookpoints import parse_hookpoint
    from labeler.inputs import Run
    from labeler.labels import LabelSet, label_folder

    Run(out, quiet=True)  # loads the plug-ins that the labels were fitted with
    labels = LabelSet.load(label_folder(out, parse_hookpoint(hookpoint).name))
    typer.echo(labels.label(latent).source(budget))


add_commands(app)
app.add_typer(functions_app, name="functions")


def main() -> None:
    """Run the command line; labeler's own errors become one line and exit status 2."""
    keep_freed_memory()
    try:
        app(standalone_mode=False)
    except LabelerError as error:
        typer.echo(f"labeler: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("labeler: interrupted; the same command continues where it stopped", err=True)
        sys.exit(130)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
