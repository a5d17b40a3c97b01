"""A ``map`` over worker processes, and its progress."""
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from task1a.machine import cores

# not on Windows
_SIGNALS = (signal.SIGINT, signal.SIGTERM) if hasattr(signal, "pthread_sigmask") else ()


@contextmanager
def parallel_map(count: int, min_items: int, chunksize: int,
                 workers: int | None = None) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a ``map`` over worker processes, or the built-in one where that is as fast.

    Args:
        count: number of items.
        min_items: below this number, starting processes takes longer than the work.
        chunksize: number of items sent to a worker at a time.
        workers: number of processes; default: one per core.
    """
    workers = workers or cores()
    if workers == 1 or count < min_items:
        yield map
        return
    # spawn, because a forked process would inherit the locks of this one's threads
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)

    def map_in_pool(function: Callable[..., Any], *items: Iterable[Any]) -> Iterator[Any]:
        if not _SIGNALS:
            return pool.map(function, *items, chunksize=chunksize)
        # the workers that this starts inherit the mask, until they can deal with the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return pool.map(function, *items, chunksize=chunksize)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield map_in_pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave signals to all processes, from a terminal or a batch system, to the parent."""
    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _SIGNALS:
        # a worker that ended at once would be reported as killed; SIGTERM alone, as from the pool,
        # ends it as well
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(5))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()


class _Log(io.TextIOBase):
    """Standard error with a line for every state of a progress bar."""

    def write(self, text: str) -> int:
        if line := text.strip():  # tqdm returns to the start of the line before each state
            sys.stderr.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(results: Iterable[Any], what: str, count: int, unit: str) -> "tqdm[Any]":
    """Return results with a progress bar on a terminal, or in a log a line every half a minute."""
    if sys.stderr.isatty():
        return tqdm(results, what, count, unit=unit, dynamic_ncols=True, disable=not count)
    return tqdm(results, what, count, unit=unit, file=_Log(), mininterval=30, disable=not count,
                bar_format="{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed} passed, {remaining} left")
