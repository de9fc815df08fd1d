"""Ctrl-C while a job works: the first asks it to stop after this batch, the second stops it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fext.reporting import StopRequested


class Interrupt:
    """Whether Ctrl-C was pressed.

    An exception raised wherever the program happens to be was seen to be lost in one run, with no trace of where; a
    request that is looked at between batches cannot be, and it stops where stopping is safe.
    """

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise StopRequested where a stop was asked for."""
        if self.requested:
            raise StopRequested


@contextmanager
def asked_to_stop(on_request: Callable[[], None]) -> Iterator[Interrupt]:
    """Turn Ctrl-C into a request inside this context; a request not yet met is raised at its end."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        with suppress(Exception):  # a terminal in the middle of printing cannot print this
            on_request()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    interrupt.check()
