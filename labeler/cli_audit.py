"""The command that checks other people's explanations: `audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.errors import OptionError

if TYPE_CHECKING:
    from labeler.audit_run import Audit
    from labeler.config import RunConfig

Labels = Annotated[
    Path,
    typer.Option(
        "--labels", help="File or folder of explanations; the format is told from the files."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Where the audit goes. Default with --run: RUN/audit/NAME."),
]
RunFolder = Annotated[
    Path | None, typer.Option("--run", help="Check on the held-out text of this run.")
]
Model = Annotated[str | None, typer.Option(help="Or on a corpus: model, hub name or local folder.")]
Coder = Annotated[str | None, typer.Option(help="The model's sparse coders: hub name or folder.")]
Corpus = Annotated[
    str | None,
    typer.Option(help="stdlib, a folder, a .txt/.jsonl/.parquet file, or a data set name."),
]
TextColumn = Annotated[str, typer.Option(help="Column of the corpus's text.")]
HeldoutTokens = Annotated[int, typer.Option(help="Tokens of the corpus to check on.")]
CtxLen = Annotated[int, typer.Option(help="Tokens per context of the corpus.")]
Format = Annotated[
    str | None, typer.Option("--format", help="Format of the explanations, if it cannot be told.")
]
PlaceOption = Annotated[
    str | None,
    typer.Option(
        "--hookpoint",
        help="Only this place (layers.3.mlp); or where explanations of one place belong.",
    ),
]
Embedding = Annotated[
    Path | None,
    typer.Option(
        help="Compare prose with contexts by this sentence-transformers folder (extra: embed)."
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="Simulate prose: OpenAI-compatible endpoint; key: LABELER_LLM_KEY."),
]
LlmModel = Annotated[str | None, typer.Option(help="Model to ask there. Default: the only one.")]
LlmFolder = Annotated[Path | None, typer.Option(help="Simulate prose: local causal model folder.")]
Seed = Annotated[int, typer.Option(help="Of controls, samples and intervals.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

_SETS = 5
"""Suspicious sets that are printed; the page has all."""

_EPILOG = """Examples:

labeler audit --labels neuronpedia.jsonl --run runs/mine

labeler audit --labels delphi/results --out audits/delphi

labeler audit --labels mine.csv --model M --coder C --corpus docs.parquet --out audits/mine

Without --run or --model, explanations are checked on the contexts that came with them, if any.
"""


def add_audit(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("audit", epilog=_EPILOG)(audit_command)


def audit_command(
    labels: Labels,
    out: Out = None,
    run: RunFolder = None,
    model: Model = None,
    coder: Coder = None,
    corpus: Corpus = None,
    text_column: TextColumn = "text",
    heldout_tokens: HeldoutTokens = 100_000,
    ctx_len: CtxLen = 128,
    file_format: Format = None,
    hookpoint: PlaceOption = None,
    embedding: Embedding = None,
    llm_base_url: BaseUrl = None,
    llm_model: LlmModel = None,
    llm_folder: LlmFolder = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Check other people's explanations: a verdict for each, with its evidence.

    No language model is asked unless --llm-base-url or --llm-folder is given. Writes audit.json,
    audit.parquet and audit.html.
    """
    config = _config(model, coder, corpus, text_column, heldout_tokens, ctx_len, seed)
    if run is not None and config is not None:
        raise OptionError("give either --run or --model, --coder and --corpus, not both")
    from labeler.audit_prose import Simulation
    from labeler.audit_run import audit

    simulation = None
    if any(one is not None for one in (llm_base_url, llm_model, llm_folder)):
        simulation = Simulation(llm_base_url, llm_model, llm_folder)
    found = audit(
        labels,
        out,
        run=run,
        config=config,
        file_format=file_format,
        hookpoint=hookpoint,
        embedding=embedding,
        simulation=simulation,
        seed=seed,
        say=typer.echo,
        quiet=quiet,
    )
    _print(found)


def _config(
    model: str | None,
    coder: str | None,
    corpus: str | None,
    text_column: str,
    heldout_tokens: int,
    ctx_len: int,
    seed: int,
) -> "RunConfig | None":
    """Settings of the run that is made for the audit; None where none is wanted."""
    wanted = {"--model": model, "--coder": coder, "--corpus": corpus}
    if not any(wanted.values()):
        return None
    if model is None or coder is None or corpus is None:
        lacking = ", ".join(name for name, value in wanted.items() if not value)
        raise OptionError(f"{lacking} is missing; --model, --coder and --corpus go together")
    from labeler.config import RunConfig

    return RunConfig(
        model=model,
        coder=coder,
        corpus=corpus,
        text_column=text_column,
        tokens=1000,  # nothing is fitted
        heldout_tokens=heldout_tokens,
        ctx_len=ctx_len,
        seed=seed,
    )


def _print(found: "Audit") -> None:
    """Print verdicts by place, and where the page is."""
    from rich.console import Console
    from rich.table import Table

    from labeler.report.audit import MEANS, verdict_table
    from labeler.report.glyphs import visible

    verdicts = verdict_table(found.frame)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("verdict", header_style="bold")
    rows = verdicts["rows"]
    # Three places fit 80 columns; of more, only the sum.
    shown = rows if len(rows) <= 3 else []
    for row in shown:
        table.add_column(row["name"], justify="right", header_style="dim", overflow="fold")
    if len(rows) != 1:
        table.add_column(f"all {len(rows)} places", justify="right", header_style="dim")
    table.add_column("", header_style="dim", max_width=34)
    for name in MEANS:
        if total := verdicts["total"][name]:
            counts = [row["counts"][name] for row in shown] + ([total] if len(rows) != 1 else [])
            table.add_row(name, *(f"{count:,}" for count in counts), f"{total / found.n:.0%}")
    console = Console(highlight=False, emoji=False, markup=False)
    console.print(table)
    suspicious = found.facts["suspicious"]
    for one in suspicious[:_SETS]:
        typer.echo(f"suspicious: {visible(one['text'])}")
    if len(suspicious) > _SETS:
        typer.echo(f"suspicious: {len(suspicious) - _SETS} more sets, on the page")
    typer.echo(f"page: {found.out / 'audit.html'}")
