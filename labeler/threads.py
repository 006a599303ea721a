"""Work spread over the machine's cores."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def n_threads() -> int:
    """Threads to use: LABELER_THREADS, or the cores this process may run on."""
    wanted = os.environ.get("LABELER_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Results in order; numpy releases the interpreter lock, so threads use all cores.

    Linear algebra inside does not start threads of its own: more threads than cores, waiting for
    each other, took a quarter of a fit. An error or Ctrl-C cancels what has not begun.
    """
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_threads()) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
