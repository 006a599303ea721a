"""The command line. Heavy modules are imported inside the commands, so that --help is quick."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli_analysis import add_commands
from labeler.cli_audit import add_audit
from labeler.cli_explain import add_explain
from labeler.cli_functions import functions_app
from labeler.cli_interop import add_interop
from labeler.cli_verify import add_verify
from labeler.errors import LabelerError, OptionError
from labeler.memory import keep_freed_memory

if TYPE_CHECKING:
    from labeler.plugins import Plugin
    from labeler.trial_config import TrialConfig

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
Coder = Annotated[
    str, typer.Option(help="Sparse coders: hub name, folder or file; neurons[:K], residual[:K].")
]
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
VerifyLatents = Annotated[
    int,
    typer.Option(
        min=0,
        help="Labels of each hookpoint tried on unseen text, drawn at random; 0 = none. All of "
        "them: labeler verify --all.",
    ),
]
CurvesTokens = Annotated[
    int,
    typer.Option(
        min=0,
        help="Held-out tokens for the curves over the share of latents that run on their labels; "
        "0 = no curves.",
    ),
]


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


def _trials(n_latents: int) -> "TrialConfig | None":
    from labeler.trial_config import TrialConfig

    return TrialConfig(latents=n_latents, ablated=min(n_latents, 64)) if n_latents else None


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
    verify_latents: VerifyLatents = 256,
    rewrite_tokens: RewriteTokens = 65_536,
    curves_tokens: CurvesTokens = 2_048,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Do every step: cache, fit, verify --all, rewrite, report."""
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
    run_all(
        start(out, config, quiet=quiet),
        names,
        rewrite_tokens,
        _say,
        further,
        _trials(verify_latents),
        curves_tokens,
    )


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


add_verify(app)


@app.command("rewrite", epilog="Example: labeler rewrite --out runs/mine")
def rewrite_command(
    out: Out,
    rewrite_tokens: RewriteTokens = 65_536,
    curves_tokens: CurvesTokens = 2_048,
    quiet: Quiet = False,
) -> None:
    """Run the labels in the layers; measure cross-entropy."""
    from labeler.inputs import Run
    from labeler.steps import rewrite

    rewrite(Run(out, quiet=quiet), rewrite_tokens, _say, curves_tokens)


@app.command("report", epilog="Example: labeler report --out runs/mine")
def report_command(out: Out, quiet: Quiet = False) -> None:
    """Write report.html and summary.json."""
    from labeler.inputs import Run
    from labeler.steps import report

    report(Run(out, quiet=quiet), _say)


@app.command("demo", epilog="Example: labeler demo --out runs/demo")
def demo_command(
    out: Out = Path("runs/demo"),
    tokens: TokenCount = 220_000,
    heldout_tokens: HeldoutTokens = 50_000,
    verify_latents: VerifyLatents = 32,
    rewrite_tokens: RewriteTokens = 10_240,
    curves_tokens: CurvesTokens = 512,
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
    run_all(
        start(out, config, quiet=quiet),
        DEFAULT_FUNCTIONS,
        rewrite_tokens,
        _say,
        trials=_trials(verify_latents),
        curves_tokens=curves_tokens,
    )


add_explain(app)
add_audit(app)
add_commands(app)
add_interop(app)
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
