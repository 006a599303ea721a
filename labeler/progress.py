"""Progress bars on standard error, silent where nobody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    description: str, total: float | None, *, quiet: bool = False
) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs and yield a function that advances it.

    Parameters
    ----------
    description : str
        What is being done; cut at 28 characters so that the bar fits 80 columns.
    total : int or None
        Number of units; None shows a pulsing bar.
    quiet : bool
        Show nothing. Nothing is shown either where standard error is not a terminal.

    Yields
    ------
    callable
        ``advance(n)`` moves the bar by `n` units.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda n: None
        return
    # Imported here: a piped or quiet run need not pay for rich.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=total is None),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(description[:28], total=total)
        yield lambda n: progress.advance(task, n)
