"""What a job tells whoever watches it: messages, warnings and progress. Silent by default.

A job calls a Reporter and never prints; the screen room has the one that shows things.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")
_QUICK = 256  # things between two looks at the bar


class StopRequested(KeyboardInterrupt):
    """The user asked to stop, and this is a good moment: what the job holds belongs together and may be saved."""


class Progress(Protocol):
    """One bar that a job moves forward."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more are done, with a short note such as the loss so far.

        Raises StopRequested where the user has asked to stop: the one place where a job may be ended between two steps.
        """


class Reporter(Protocol):
    """What a job may say."""

    def message(self, text: str) -> None:
        """Tell a fact in a line."""

    def warning(self, text: str) -> None:
        """Tell what the user should know or mend, in a line."""

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """Show progress through `total` images; rate and time left are the reporter's business."""


def counting(items: Iterable[_Item], progress: Progress) -> Iterator[_Item]:
    """The items, with the progress through them told in large steps: for what is done quicker than a bar is drawn."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % _QUICK == 0:
            progress.advance(_QUICK)


def counted(number: int, noun: str) -> str:
    """Such as '1 image' and '1,204 images'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class _SilentProgress:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class SilentReporter:
    """Says nothing: for tests and for use as a library."""

    def message(self, text: str) -> None:
        """Drop a fact."""

    def warning(self, text: str) -> None:
        """Drop a warning."""

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """A bar that shows nothing and never stops a job."""
        yield _SilentProgress()
