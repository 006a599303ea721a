"""The command that has a language model explain latents, as a baseline: `explain`."""

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint to ask; key: LABELER_LLM_KEY.")
]
LlmModel = Annotated[str | None, typer.Option(help="Model to ask there. Default: the only one.")]
LlmFolder = Annotated[
    Path | None, typer.Option(help="Folder of a causal language model to ask instead.")
]
LlmTimeout = Annotated[float, typer.Option(help="Seconds that one try of a request may take.")]
LlmConcurrency = Annotated[int, typer.Option(help="Requests under way at a time.")]
Hookpoints = Annotated[
    list[str] | None,
    typer.Option("--hookpoint", help="Only this one (layers.3.mlp); repeat it. Default: all."),
]
Latents = Annotated[
    int, typer.Option(help="Live latents of each hookpoint, drawn at random; 0 = all.")
]
Given = Annotated[
    list[int] | None,
    typer.Option("--latent", help="This latent of each hookpoint instead; repeat it."),
]
Examples = Annotated[int, typer.Option(help="Pieces of fit text that a latent is explained from.")]
Windows = Annotated[
    int,
    typer.Option(
        help="Held-out pieces of text for each test: of a latent for detection and fuzzing, of all "
        "latents for simulation."
    ),
]
PriceIn = Annotated[float | None, typer.Option(help="Dollars for a million tokens sent.")]
PriceOut = Annotated[float | None, typer.Option(help="Dollars for a million tokens written.")]
DryRun = Annotated[bool, typer.Option(help="Only say what it would cost.")]

_EPILOG = """Examples:

labeler explain --out runs/mine --llm-base-url http://localhost:8000/v1 --dry-run

labeler explain --out runs/mine --llm-folder ./llama --latents 8 --hookpoint layers.1.mlp

labeler explain --out runs/mine --llm-base-url https://api.openai.com/v1 --llm-model gpt-4o-mini
--price-in 0.15 --price-out 0.6
"""


def add_explain(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("explain", epilog=_EPILOG)(explain_command)


def explain_command(
    out: Out,
    llm_base_url: BaseUrl = None,
    llm_model: LlmModel = None,
    llm_folder: LlmFolder = None,
    hookpoint: Hookpoints = None,
    latents: Latents = 32,
    latent: Given = None,
    examples: Examples = 40,
    windows: Windows = 20,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    dry_run: DryRun = False,
    llm_timeout: LlmTimeout = 60.0,
    llm_concurrency: LlmConcurrency = 8,
    quiet: Quiet = False,
) -> None:
    """Have a language model explain latents, and score what it says on held-out text.

    A baseline: no label needs it, and an explanation is no label. What it will cost is shown
    first, what it has cost at the end. Answers are kept, and a run that was stopped continues.
    """
    from labeler.beside_run import beside
    from labeler.eval.llm.config import ExplainConfig
    from labeler.explain_run import estimate, explain_run
    from labeler.inputs import Run

    config = ExplainConfig(
        llm_base_url=llm_base_url,
        llm_model=llm_model,
        llm_folder=None if llm_folder is None else str(llm_folder),
        hookpoints=tuple(hookpoint or ()),
        latents=latents,
        given=tuple(latent or ()),
        examples=examples,
        windows=windows,
        price_in=price_in,
        price_out=price_out,
        llm_timeout=llm_timeout,
        llm_concurrency=llm_concurrency,
    )
    run = Run(out, quiet=quiet)
    if dry_run:
        for line in estimate(run, config).lines():
            typer.echo(line)
        return
    folder = explain_run(run, config, typer.echo)
    beside(run, folder, typer.echo)
    typer.echo(f"explanations: {folder}")
