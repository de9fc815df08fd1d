"""Processes that read images beside this one: how they start, what a Ctrl-C does to them, and when one dies."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Literal, TypeVar

from fext.errors import ReaderDiedError, is_out_of_memory

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

READER_DIED = (
    "a process that reads images has died, most often for lack of memory or (in a container) of shared memory: what "
    "was finished is kept; set num_processors to a lower number, or to 1, and start again"
)
_AHEAD = 8  # items that are given to each process before the first of them is asked for


def map_in_processes(
    function: Callable[[_Item], _Result], items: Iterable[_Item], num_processors: int
) -> Iterator[_Result]:
    """The results of a function, in the order of the items, worked out by `num_processors` processes (1: this one).

    A few items for each process are in memory at a time. Raises ReaderDiedError where a process has died.
    """
    if num_processors == 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        num_processors, multiprocessing.get_context("spawn"), leave_ctrl_c_to_the_main_process, (0,)
    )
    pending: deque[Future[_Result]] = deque()
    try:
        for item in items:
            pending.append(_submitted(pool, function, item))
            if len(pending) >= _AHEAD * num_processors:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise ReaderDiedError(READER_DIED) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, function: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    """Give work to the processes, of which as many are started as it takes."""
    try:
        with own_signals():
            return pool.submit(function, item)
    except (OSError, RuntimeError) as error:
        if isinstance(error, BrokenProcessPool) or is_out_of_memory(error) or isinstance(error, BlockingIOError):
            raise ReaderDiedError(READER_DIED) from error
        raise


def num_processes(asked: int | Literal["auto"]) -> int:
    """How many processes are to read images where nothing else is to be computed: 'auto' is one for each core."""
    return num_usable_cores() if asked == "auto" else asked


def num_usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def leave_ctrl_c_to_the_main_process(_worker: int) -> None:
    """Let a process that reads images ignore Ctrl-C: the one that started it ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def own_signals() -> Iterator[None]:
    """Start processes that a Ctrl-C meant for this one does not reach, and whose death breaks in nowhere.

    A terminal sends Ctrl-C to every process; one that is still starting would end with a traceback, so it starts with
    the signal blocked. torch's own handler raises wherever this process happens to be when a worker dies; without it
    the death is noticed where the next batch is waited for.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    on_child = signal.getsignal(signal.SIGCHLD)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, on_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
