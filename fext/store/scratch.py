"""A table that is needed for a while: in memory where it is small, else in a temporary file."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fext.errors import FextError

_MAX_IN_MEMORY = 2**30  # bytes


class ScratchRows:
    """Rows of float32 that come one after another."""

    def __init__(self, stream: IO[bytes], num_values: int) -> None:
        self._stream, self._num_rows, self._num_values = stream, 0, num_values

    def add(self, row: NDArray[np.float32]) -> None:
        """Put a row behind the others; raises FextError where the disk is full."""
        remaining = memoryview(row.astype("<f4", copy=False).tobytes())
        with _full_disk():
            while remaining:  # a disk that is nearly full takes a part of it, and refuses the rest
                remaining = remaining[self._stream.write(remaining) :]
        self._num_rows += 1

    def rows(self) -> NDArray[np.float32]:
        """All rows (N, D), not to be changed; those in a file are read as they are used."""
        shape = (self._num_rows, self._num_values)
        if isinstance(self._stream, io.BytesIO):
            return np.frombuffer(self._stream.getvalue(), "<f4").reshape(shape)
        return np.memmap(self._stream, "<f4", "r", shape=shape)


@contextmanager
def scratch_rows(folder: Path, max_rows: int, num_values: int) -> Iterator[ScratchRows]:
    """Room for up to that many rows; a temporary file for them lies in the folder, and is gone in the end."""
    if 4 * max_rows * num_values <= _MAX_IN_MEMORY:
        yield ScratchRows(io.BytesIO(), num_values)
        return
    with ExitStack() as stack:
        with _full_disk():
            stream = stack.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
        yield ScratchRows(stream, num_values)


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FextError(f"a temporary table cannot be written: {error.strerror or error}") from error
