"""The command that scores labels and tries them on unseen text: `verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.errors import OptionError

if TYPE_CHECKING:
    from labeler.labels import Budget

Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
All = Annotated[
    bool, typer.Option("--all", help="Try the labels on unseen text too: a verdict for each.")
]
Latents = Annotated[
    int, typer.Option(help="Labels tried at each hookpoint, drawn at random; 0 = all.")
]
KeyBudget = Annotated[str, typer.Option("--budget", help="Keys of the labels: 16, 100, unlimited.")]
TrialCount = Annotated[int, typer.Option(help="Edits of each kind for a label.")]
TextCount = Annotated[
    int, typer.Option(help="Generated texts for a label and generator; 0 = none.")
]
Generators = Annotated[
    list[str] | None,
    typer.Option(
        "--generator",
        help="Who writes unseen text: subject (the model itself), edit (held-out text spliced, no "
        "model) or the folder of a causal model; repeat it. Default: subject.",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="OpenAI-compatible endpoint as a generator; key: LABELER_LLM_KEY."),
]
LlmModel = Annotated[str | None, typer.Option(help="Model to ask there. Default: the only one.")]
LlmTimeout = Annotated[float, typer.Option(help="Seconds that one try of a request may take.")]
LlmConcurrency = Annotated[int, typer.Option(help="Requests under way at a time.")]
Ablated = Annotated[int, typer.Option(help="Labels compared token by token; 0 = none.")]
SeedProtocol = Annotated[bool, typer.Option(help="Run the seed study's own criterion too.")]
Intruder = Annotated[bool, typer.Option(help="Add intruder detection to the scores of others.")]

_EPILOG = """Examples:

labeler verify --out runs/mine

labeler verify --out runs/mine --all --latents 256

labeler verify --out runs/mine --all --llm-base-url http://localhost:8000/v1
"""


def add_verify(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("verify", epilog=_EPILOG)(verify_command)


def verify_command(
    out: Out,
    every_test: All = False,
    latents: Latents = 0,
    budget: KeyBudget = "100",
    trials: TrialCount = 12,
    texts: TextCount = 8,
    generator: Generators = None,
    llm_base_url: BaseUrl = None,
    llm_model: LlmModel = None,
    llm_timeout: LlmTimeout = 60.0,
    llm_concurrency: LlmConcurrency = 8,
    ablated: Ablated = 64,
    seed_protocol: SeedProtocol = False,
    intruder: Intruder = False,
    quiet: Quiet = False,
) -> None:
    """Score the labels on held-out documents; with --all, give each a verdict.

    Every test has its control, another latent's label. Generated texts are kept, and a run that was
    stopped continues.
    """
    from labeler.inputs import Run
    from labeler.steps import verify
    from labeler.trial_config import TrialConfig

    config = TrialConfig(
        latents=latents,
        budget=_budget(budget),
        trials=trials,
        texts=texts,
        generators=tuple(generator) if generator else ("subject",),
        llm_base_url=llm_base_url,
        llm_model=llm_model,
        llm_timeout=llm_timeout,
        llm_concurrency=llm_concurrency,
        ablated=ablated,
        seed_protocol=seed_protocol,
        intruder=intruder,
    )
    if not every_test and config != TrialConfig():
        raise OptionError("options of the tests on unseen text need --all")
    verify(Run(out, quiet=quiet), typer.echo, config if every_test else None)


def _budget(text: str) -> "Budget":
    if text == "unlimited":
        return "unlimited"
    if not text.isdigit():
        raise OptionError(f"--budget is {text!r}; give 16, 100 or unlimited")
    return int(text)
