"""Ctrl-C while a job works: the first asks it to stop after this batch, the second stops it at once.

A request to terminate, as torchrun and system services send it, does the same.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fext.reporting import StopRequested

STOPS = (signal.SIGINT, signal.SIGTERM)


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
    """Turn Ctrl-C and termination into a request inside this context; a request not yet met is raised at its end."""
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

    before = [(number, signal.signal(number, handle)) for number in STOPS]
    try:
        yield interrupt
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    interrupt.check()


def stop_on_termination() -> None:
    """Let the program end as on Ctrl-C where it is asked to, such as by torchrun when another process has died."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)
