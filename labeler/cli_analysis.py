"""Commands that look at finished labels: `show`, `export`, `types`, `diff`, `triage`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labeler.errors import OptionError

if TYPE_CHECKING:
    import polars as pl
    from rich.padding import Padding
    from rich.table import Table

    from labeler.diff import HookpointDiff

Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Hookpoint = Annotated[str, typer.Argument(help="Such as layers.3.mlp.")]
Latent = Annotated[int, typer.Argument(help="Number of the latent.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OneHookpoint = Annotated[
    str | None, typer.Argument(help="Only this one, such as layers.3.mlp. Default: all.")
]

_WHOLE = "all layers"
_COLUMNS = 4
"""Hookpoints beside each other in 80 columns."""

_EXAMPLES = 2
"""Latents named for each reason."""

_FIRST = 10
"""Function types shown of each hookpoint where there are several."""


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("show", epilog="Example: labeler show layers.3.mlp 17 --out runs/demo")(
        show_command
    )
    app.command("export", epilog="Example: labeler export layers.0.mlp 17 --budget 16 > label.py")(
        export_command
    )
    app.command("types", epilog="Example: labeler types --out runs/demo")(types_command)
    app.command("diff", epilog="Example: labeler diff runs/seed0 runs/seed1")(diff_command)
    app.command("triage", epilog="Example: labeler triage layers.3.mlp --out runs/demo")(
        triage_command
    )


def show_command(
    hookpoint: Hookpoint,
    latent: Latent,
    out: Out = Path("runs/demo"),
) -> None:
    """Show one latent's card in the terminal."""
    from labeler.show import show

    show(out, hookpoint, latent)


def export_command(
    hookpoint: Hookpoint,
    latent: Latent,
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


def types_command(
    hookpoint: OneHookpoint = None, out: Out = Path("runs/demo"), json: AsJson = False
) -> None:
    """Compare the function types: coverage, overlap, conflict, wins."""
    from labeler.analysis import analyse_types, choose_hookpoints, pool, type_shares
    from labeler.inputs import Run

    run = Run(out, quiet=True)
    counts = analyse_types(run.out, choose_hookpoints(run.out, hookpoint))
    tables = {_WHOLE: pool(counts.values()), **counts} if len(counts) > 1 else counts
    if json:
        _print_json({name: _shares_and_counts(table) for name, table in tables.items()})
        return
    console = _console()
    for name, table in tables.items():
        rows, idle = _split(table)
        most = len(rows) if name == _WHOLE or len(tables) == 1 else _FIRST
        console.print(_types_table(name, type_shares(rows).head(most)))
        if len(rows) > most:
            console.print(f"and {len(rows) - most} more: labeler types {name}", style="dim")
        elif idle:
            console.print(f"save nothing: {', '.join(idle)}", style="dim")
        console.print()
    console.print(_TYPES_LEGEND, style="dim")


_TYPES_LEGEND = (
    "covers: saves bits net of its keys, of the fitted latents. adds: more than what it backs off "
    "to. overlap, conflict: of the latents it covers, those that another family covers too, and "
    "those where another family won. wins: of the labeled latents. keys, weight: of the 100-key "
    "labels."
)


def _shares_and_counts(table: "pl.DataFrame") -> list[dict[str, Any]]:
    from labeler.analysis import type_shares

    return type_shares(table).join(table.drop("family", "weight"), on="type").to_dicts()


def _split(table: "pl.DataFrame") -> "tuple[pl.DataFrame, list[str]]":
    """Types that cover some latent, and the names of the others."""
    import polars as pl

    idle: list[str] = table.filter(pl.col("n_covered") == 0)["type"].to_list()
    return table.filter(pl.col("n_covered") > 0), idle


def _types_table(name: str, rows: "pl.DataFrame") -> "Table":
    from labeler.report.page import percent

    table = _table(name, ("covers", "adds", "overlap", "conflict", "wins", "keys", "weight"))
    for row in rows.drop("family").iter_rows():
        table.add_row(row[0], *(percent(value, 1) for value in row[1:]))
    return table


def diff_command(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of another run.")],
    match: Annotated[
        str | None,
        typer.Option(
            help="number or cosine (of decoder directions). Default: number where both coders "
            "have as many latents."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Least cosine of a match.")] = 0.7,
    worst: Annotated[int, typer.Option(min=0, help="How many pairs to show.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write all pairs to this .json or .parquet file.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare the labels of two runs, latent by latent."""
    from labeler.diff import diff_runs, most_different, write_diff
    from labeler.inputs import Run

    if match not in (None, "number", "cosine"):
        raise OptionError(f"--match is {match!r}; give number or cosine")
    if out is not None and out.suffix not in (".json", ".parquet"):
        raise OptionError(f"--out is {out}; give a file that ends in .json or .parquet")
    first, second = Run(a, quiet=quiet), Run(b, quiet=quiet)
    found = diff_runs(first, second, match, threshold)  # type: ignore[arg-type]
    if out is not None:
        write_diff(out, found)
    console = _console()
    console.print(_diff_table(found))
    for one in found:
        console.print(_how(one, threshold), style="dim")
    if found[0].pairs["f1"].null_count() == len(found[0].pairs):
        console.print("no predictions compared: other vocabulary, or no two labels", style="dim")
    different = most_different(found, worst)
    if len(different):
        console.print("\nleast alike, of pairs with two labels:")
    for line in _pair_lines(different):
        console.print(_hanging(line))


def _diff_table(found: "Sequence[HookpointDiff]") -> "Table":
    from labeler.diff import figures
    from labeler.report.page import number, percent

    names = ("pairs", "A", "B", "both", "type", "Jaccard", "r", "F1")
    table = _table("labeled, and agreement", names)
    for one in found:
        for name, pairs in ((one.hookpoint, one.pairs), ("  at random", one.random)):
            shown = figures(pairs)
            table.add_row(
                name,
                *(f"{shown[key]:,}" for key in ("pairs", "labeled_a", "labeled_b", "both")),
                percent(shown["same_type"]),
                *(number(shown[key]) for key in ("jaccard", "pearson", "f1")),
            )
    return table


def _how(one: "HookpointDiff", threshold: float) -> str:
    coder = "the same coder" if one.same_coder else "another coder"
    if one.how == "number":
        return f"{one.hookpoint}: matched by number, {coder}"
    return (
        f"{one.hookpoint}: {len(one.pairs):,} of {one.n_a:,} and {one.n_b:,} latents matched by "
        f"decoder cosine of {threshold:g} or more, {coder}"
    )


def _pair_lines(pairs: "pl.DataFrame") -> Iterator[str]:
    from labeler.report.glyphs import visible
    from labeler.report.page import number

    for row in pairs.iter_rows(named=True):
        cosine = "" if row["cosine"] is None else f", cosine {row['cosine']:.2f}"
        yield (
            f"{row['hookpoint']} {row['a']} and {row['b']}{cosine}: F1 {number(row['f1'])}, "
            f"r {number(row['pearson'])}, Jaccard {number(row['jaccard'])}"
        )
        yield f"  A {row['type_a']}: {visible(row['text_a'])}"
        yield f"  B {row['type_b']}: {visible(row['text_b'])}"


def triage_command(
    hookpoint: OneHookpoint = None,
    out: Out = Path("runs/demo"),
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say why latents have no label, or a weak one; writes triage/."""
    from labeler.analysis import choose_hookpoints
    from labeler.inputs import Run
    from labeler.triage import count_reasons, write_triage

    run = Run(out, quiet=quiet)
    names = choose_hookpoints(run.out, hookpoint)
    found = {name: write_triage(run, name) for name in names}
    counts = {name: count_reasons(frame) for name, frame in found.items()}
    if json:
        _print_json(counts)
        return
    console = _console()
    for table in _triage_tables(counts):
        console.print(table)
    console.print()
    for line in _reason_lines(found, run.config.seed):
        console.print(_hanging(line))
    console.print(
        f"labeler show {names[0]} NUMBER --out {out} shows one with its text", style="dim"
    )


def _triage_tables(counts: Mapping[str, Mapping[str, int]]) -> "Iterator[Table]":
    """Reasons by hookpoint, a few hookpoints to a table."""
    names = list(counts)
    for begin in range(0, len(names), _COLUMNS):
        some = names[begin : begin + _COLUMNS]
        table = _table("no label, or a weak one", some)
        for reason in counts[names[0]]:
            table.add_row(reason, *(f"{counts[name][reason]:,}" for name in some))
        table.add_row("together", *(f"{sum(counts[name].values()):,}" for name in some))
        yield table


def _reason_lines(found: "Mapping[str, pl.DataFrame]", seed: int) -> Iterator[str]:
    """What each reason means, and latents drawn at random that show it."""
    import polars as pl

    from labeler.report.glyphs import visible
    from labeler.triage import REASONS

    every = pl.concat(
        frame.select(pl.lit(name).alias("hookpoint"), pl.all()) for name, frame in found.items()
    )
    for reason in REASONS:
        mine = every.filter(pl.col("reason") == reason.name)
        if len(mine):
            yield f"{reason.name}: {reason.means}"
            for row in mine.sample(min(_EXAMPLES, len(mine)), seed=seed).iter_rows(named=True):
                yield f"  {row['hookpoint']} {row['latent']}: {visible(row['detail'])}"


def _table(title: str, names: Sequence[str]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title, header_style="bold", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", header_style="dim")
    return table


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, emoji=False, markup=False)


def _hanging(line: str) -> "Padding":
    """A line whose continuations are indented as it is."""
    from rich.padding import Padding

    text = line.lstrip(" ")
    return Padding(text, (0, 0, 0, len(line) - len(text)), expand=False)


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, allow_nan=False))
