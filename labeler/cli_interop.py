"""Commands to and from the files of others: `export-labels`, `export-cache`, `import-cache`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.errors import OptionError

if TYPE_CHECKING:
    from labeler.interop.export_labels import ExportedLabels

Out = Annotated[Path, typer.Option("--out", help="The run's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Hookpoints = Annotated[
    list[str] | None,
    typer.Option("--hookpoint", help="Only this one (layers.3.mlp); repeat it. Default: all."),
]
Kind = Annotated[
    str, typer.Option("--to", help="neuronpedia, delphi, csv, tsv, parquet or circuit-tracer.")
]
LabelDest = Annotated[
    Path,
    typer.Option(
        "--dest", help="Folder (neuronpedia; delphi: results/NAME) or file (the others) to write."
    ),
]
ModelId = Annotated[
    str | None, typer.Option(help="Neuronpedia's name of the model. Default: from the run's.")
]
SourceId = Annotated[
    str | None,
    typer.Option(
        help="Neuronpedia's name of the source; {layer} and {site} are put in. "
        "Default: {layer}-labeler-{site}."
    ),
]
Graph = Annotated[
    Path | None,
    typer.Option(help="Graph of circuit-tracer: --dest becomes a copy with our names in it."),
]
CacheDest = Annotated[Path, typer.Option("--dest", help="Folder to write: delphi's results/NAME.")]
Split = Annotated[str, typer.Option(help="all, fit or heldout.")]
Splits = Annotated[int, typer.Option("--n-splits", min=1, help="Files of each hookpoint.")]
Dtype = Annotated[
    str, typer.Option(help="Of the activations: float16 (delphi's) or float32 (lossless).")
]
Delphi = Annotated[Path, typer.Argument(help="delphi's results/NAME, or its folder latents.")]
Model = Annotated[str, typer.Option(help="Model the cache was made with: hub name or folder.")]
Coder = Annotated[str, typer.Option(help="Sparse coders it was made with: hub name or folder.")]
Seed = Annotated[int, typer.Option(help="Of the null and the bootstrap.")]

_FOLDERS = ("neuronpedia", "delphi")
_TABLES = ("csv", "tsv", "parquet")
_TRACER = "circuit-tracer"

_LABELS_EPILOG = """Examples:

labeler export-labels --out runs/mine --to csv --dest labels.csv

labeler export-labels --out runs/mine --to delphi --dest results/mine

labeler export-labels --out runs/mine --to neuronpedia --model-id gemma-2-2b --dest np/gemma-2-2b

labeler export-labels --out runs/mine --to circuit-tracer --graph g.json --dest named.json
"""

_EXPORT_EPILOG = """Examples:

labeler export-cache --out runs/mine --dest results/mine

labeler export-cache --out runs/mine --dest results/heldout --split heldout --dtype float32
"""

_IMPORT_EPILOG = """Example: labeler import-cache results/mine --model M --coder C --out runs/mine

Then: labeler fit --out runs/mine, verify, rewrite, report.
"""


def add_interop(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("export-labels", epilog=_LABELS_EPILOG)(export_labels_command)
    app.command("export-cache", epilog=_EXPORT_EPILOG)(export_cache_command)
    app.command("import-cache", epilog=_IMPORT_EPILOG)(import_cache_command)


def export_labels_command(
    out: Out,
    to: Kind,
    dest: LabelDest,
    hookpoint: Hookpoints = None,
    model_id: ModelId = None,
    source_id: SourceId = None,
    graph: Graph = None,
    quiet: Quiet = False,
) -> None:
    """Write the labels in a format of others: Neuronpedia, delphi, a table, circuit-tracer.

    Latents without a label are left out and counted. Files of others are never overwritten.
    """
    if to not in (*_FOLDERS, *_TABLES, _TRACER):
        raise OptionError(f"--to is {to!r}; give {', '.join((*_FOLDERS, *_TABLES))} or {_TRACER}")
    if graph is not None and to != _TRACER:
        raise OptionError(f"--graph is a graph of circuit-tracer, so it needs --to {_TRACER}")
    if (model_id or source_id) and to != "neuronpedia":
        raise OptionError(
            "--model-id and --source-id are Neuronpedia's: they need --to neuronpedia"
        )
    from labeler.inputs import Run
    from labeler.interop.export_labels import gather

    run = Run(out, quiet=quiet)
    labels = gather(run, hookpoint or ())
    if to == "neuronpedia":
        from labeler.interop.export_neuronpedia import export_neuronpedia

        name = model_id or Path(run.config.model).name.lower()
        sources = export_neuronpedia(labels, dest, model_id=name, source_id=source_id, quiet=quiet)
        typer.echo(f"model {name}, sources {', '.join(sources)}")
    elif to == "delphi":
        from labeler.interop.export_delphi import export_delphi

        export_delphi(labels, dest, quiet=quiet)
    elif to == _TRACER:
        from labeler.interop.export_circuit_tracer import export_names, name_graph

        if graph is None:
            export_names(labels, dest)
        else:
            n_named, n_features = name_graph(labels, graph, dest)
            typer.echo(f"named {n_named:,} of {n_features:,} feature nodes")
    else:
        from labeler.interop.export_tables import export_table

        export_table(labels, dest, to)  # type: ignore[arg-type]
    _tell(labels, dest, out)


def _tell(labels: "Sequence[ExportedLabels]", dest: Path, out: Path) -> None:
    """Say what was exported, and what was not."""
    n_labels = sum(len(one.rows) for one in labels)
    n_unlabeled = sum(one.n_unlabeled for one in labels)
    typer.echo(
        f"{n_labels:,} labels of {len(labels)} hookpoints: {dest}; {n_unlabeled:,} latents have "
        "none"
    )
    if unscored := [one.hookpoint for one in labels if not one.scored]:
        typer.echo(
            f"no held-out scores of the present labels of {', '.join(unscored)}: `labeler verify "
            f"--out {out}` makes them"
        )


def export_cache_command(
    out: Out,
    dest: CacheDest,
    split: Split = "all",
    n_splits: Splits = 5,
    dtype: Dtype = "float16",
    hookpoint: Hookpoints = None,
    quiet: Quiet = False,
) -> None:
    """Write the cached activations in delphi's layout, for its explainers and scorers.

    An export that was stopped continues.
    """
    if dtype not in ("float16", "float32"):
        raise OptionError(f"--dtype is {dtype!r}; give float16 or float32")
    from labeler.cache import open_cache
    from labeler.hookpoints import parse_hookpoint
    from labeler.inputs import Run
    from labeler.interop.delphi_cache import write_delphi_cache

    run = Run(out, quiet=quiet)
    cache = run.cache
    if hookpoint:
        names = [parse_hookpoint(name).name for name in hookpoint]
        if unknown := [name for name in names if name not in cache.hookpoints]:
            raise OptionError(
                f"{out} has no cache of {', '.join(unknown)}; it has {', '.join(cache.hookpoints)}"
            )
        cache = open_cache(out / "cache", run.tokens, names)
    write_delphi_cache(
        cache,
        run.tokens,
        dest,
        config=run.config,
        split=split,  # type: ignore[arg-type]
        n_splits=n_splits,
        dtype=dtype,  # type: ignore[arg-type]
        quiet=quiet,
    )
    typer.echo(f"{len(cache.hookpoints)} hookpoints in {dest / 'latents'}")


def import_cache_command(
    delphi_dir: Delphi,
    model: Model,
    coder: Coder,
    out: Out,
    hookpoint: Hookpoints = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make a run from a delphi latent cache: its activations instead of `labeler cache`."""
    from labeler.interop.delphi_cache_read import read_delphi_cache

    read_delphi_cache(
        delphi_dir,
        out,
        model=model,
        coder=coder,
        hookpoints=tuple(hookpoint or ()),
        seed=seed,
        quiet=quiet,
        say=typer.echo,
    )
