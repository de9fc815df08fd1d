"""What the system gives the program to read from and to write to, any of which may be closed, full or gone."""

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

_STANDARD = (0, 1, 2)  # descriptors of input, output and errors


def with_utf8_names() -> None:
    """Start Python anew where it takes the names of files for another encoding than UTF-8.

    So a name is the same text on every machine, and in every table; the terminal keeps its own encoding.
    """
    is_utf8 = sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1"
    if is_utf8 or os.name != "posix" or not sys.executable:
        return
    terminal = sys.stdout or sys.stderr
    if terminal is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{terminal.encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def fill_missing_streams() -> None:
    """Put nothing where input, output or errors are closed: the next file that is opened would take their place."""
    for descriptor in _STANDARD if os.name == "posix" else ():
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at a stream; Python has None for one that is closed."""
    return stream is not None and not stream.closed and stream.isatty()


class Output(io.TextIOBase):
    """Standard output, which what cannot be written to it does not stop: what a job makes is worth more than a line.

    What the terminal's encoding cannot show is spelled out.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._problem = stream, ""
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return is_terminal(self._stream)

    def fileno(self) -> int:
        """Its descriptor; raises OSError where it has none."""
        if self._stream is None:
            raise io.UnsupportedOperation("closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write, as long as that can be done."""
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        self._try(lambda stream: stream.flush())

    def finish(self) -> bool:
        """Whether all was written; where not, a line on standard error says why."""
        if self._stream is not None:
            self.flush()
        if not self._problem:
            return True
        with suppress(OSError, ValueError, AttributeError):  # that may be closed, too
            sys.stderr.write(f"Standard output cannot be written ({self._problem}): a part of it is lost\n")
            sys.stderr.flush()
        self._forget()
        return False

    def _try(self, step: Callable[[TextIO], object]) -> None:
        if self._problem:
            return
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            step(self._stream)
        except (OSError, ValueError) as error:  # ValueError: closed
            self._problem = getattr(error, "strerror", None) or str(error)

    def _forget(self) -> None:
        """Let what waits to be written go nowhere: Python tries once more when it ends, and has a traceback for it."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
