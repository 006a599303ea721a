"""`labeler functions`: what function types there are, a skeleton of a new one, and its check."""

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from labeler.errors import FunctionTypeError

_WIDTH = 80
_NAME_WIDTH = 28

functions_app = typer.Typer(
    help="List the function types there are; write and check a new one.",
    rich_markup_mode=None,
    invoke_without_command=True,
)


@functions_app.callback(epilog="Example: labeler functions new part_of_speech")
def functions_command(context: typer.Context) -> None:
    """List the function types there are; write and check a new one."""
    if context.invoked_subcommand is None:
        list_command()


@functions_app.command("list", epilog="Example: labeler functions list")
def list_command() -> None:
    """List the function types there are."""
    from labeler.config import DEFAULT_FUNCTIONS
    from labeler.functions import function_types, with_back_off

    known = function_types()
    for name in with_back_off(known):
        kind = known[name]
        mark = "* " if name in DEFAULT_FUNCTIONS else "  "
        back_off = f" -> {kind.backs_off_to}" if kind.backs_off_to else ""
        summary = (kind.__doc__ or "").strip().split("\n")[0]
        _say_row(mark + name + back_off, summary)
    typer.echo("* fitted unless --functions says otherwise")


@functions_app.command("new", epilog="Example: labeler functions new part_of_speech")
def new_command(
    name: Annotated[str, typer.Argument(help="Name of the type, in snake case.")],
) -> None:
    """Write NAME.py, a function type that works, and its test."""
    from labeler.scaffold import write_skeleton

    module, test = write_skeleton(name, Path())
    typer.echo(
        f"wrote {module} and {test}; they work as they are\n"
        f"  python -m pytest {test}\n"
        f"  labeler functions check {module}\n"
        f"  labeler fit --out RUN --plugin {module}\n"
        f"Now change keys and render in {module}; docs/function-types.md says how."
    )


@functions_app.command("check", epilog="Example: labeler functions check part_of_speech.py")
def check_command(
    file: Annotated[Path, typer.Argument(help="Python file with function types.")],
    out: Annotated[
        Path | None, typer.Option(help="Try them on the text of this run, not on made-up text.")
    ] = None,
) -> None:
    """Try the function types of a file; exit status 2 on a fault."""
    from labeler.functions.check import try_function_type
    from labeler.plugins import load_plugin, text_of_run

    plugin = load_plugin(file)
    tokens = text_of_run(out) if out else None
    n_refused = 0
    for kind in plugin.types:
        found = try_function_type(kind, tokens)
        if found.faults:
            n_refused += 1
            verdict = "; ".join(str(fault) for fault in found.faults)
        elif found.abstained is not None:
            verdict = f"ok, but little was tried: it abstains on this text ({found.abstained})"
        elif not found.n_keys:
            verdict = "ok, but little was tried: it has no key on this text"
        else:
            verdict = f"ok (distinct keys on this text: {found.n_keys})"
        typer.echo(f"{kind.name}: {verdict}")
    if n_refused:
        raise FunctionTypeError(
            f"{file}: {n_refused} of {len(plugin.types)} function types break the contract"
        )


def _say_row(name: str, summary: str) -> None:
    """Print a name and what it means, on further lines where it is long."""
    lines = textwrap.wrap(
        summary,
        _WIDTH,
        initial_indent=f"{name:{_NAME_WIDTH}}" if len(name) < _NAME_WIDTH else f"{name}  ",
        subsequent_indent=" " * _NAME_WIDTH,
    )
    typer.echo("\n".join(lines) or name)
