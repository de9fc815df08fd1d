"""What an extraction will take: space, from the rows themselves, and time, from the first batches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fext.errors import ExtractionError
from fext.reporting import Reporter
from fext.store.extractions import free_bytes
from fext.store.parts import Record, Row
from fext.store.tables import Columns, csv_row

_BYTES_OF_A_FLOAT = 4
_LEAST_CSV_BYTES = 4  # of a value in CSV: '0.0,'
_NUM_BATCHES = 4  # the first one is slower than the others, and not measured


@dataclass(frozen=True)
class Work:
    """What is to be written: rows in all, those yet to be encoded, by so many processes, and in which formats."""

    folder: Path
    columns: Columns
    formats: tuple[str, ...]
    num_rows: int
    num_todo: int
    num_processes: int
    smaller_grids: tuple[int, ...]


class Forecast:
    """Measures the first batches of a run, which are part of it, and stops it there where the disk is too small."""

    def __init__(self, work: Work, reporter: Reporter) -> None:
        self._work, self._reporter = work, reporter
        self._num_batches = self._num_images = 0
        self._row_bytes: list[int] = []
        self._begun_at = 0.0
        _refuse_too_little_space(work, _LEAST_CSV_BYTES * work.columns.num_values)

    def see(self, results: Sequence[tuple[Record, Row | None]]) -> None:
        """Take note of a batch; after a few, tell how long it will take and how much space."""
        if self._num_batches >= _NUM_BATCHES:
            return
        self._num_batches += 1
        self._row_bytes += [len(csv_row(record.image, row)) for record, row in results if row is not None]
        if self._num_batches == 1:
            self._begun_at = time.perf_counter()
            return
        self._num_images += len(results)
        if self._num_batches == _NUM_BATCHES and self._row_bytes:
            self._tell()

    def _tell(self) -> None:
        rate = self._num_images / (time.perf_counter() - self._begun_at) * self._work.num_processes
        csv_row_bytes = sum(self._row_bytes) / len(self._row_bytes)
        size = _table_bytes(self._work, csv_row_bytes)
        self._reporter.message(
            f"about {duration(self._work.num_todo / rate)} at {rate:.1f} images/s; the table will take "
            f"{readable_size(size)}, and {readable_size(free_bytes(self._work.folder))} are free"
        )
        _refuse_too_little_space(self._work, csv_row_bytes)


def _table_bytes(work: Work, csv_row_bytes: float) -> float:
    """The size of the table in all formats; Parquet, which is compressed, is counted as if it were not."""
    plain = _BYTES_OF_A_FLOAT * work.columns.num_values
    return work.num_rows * sum(csv_row_bytes if name == "csv" else plain for name in work.formats)


def _refuse_too_little_space(work: Work, csv_row_bytes: float) -> None:
    """What is encoded lies on the disk until the table, which takes the place of an older one, is whole."""
    encoded = work.num_todo * _BYTES_OF_A_FLOAT * work.columns.num_values
    needed, free = _table_bytes(work, csv_row_bytes) + encoded, free_bytes(work.folder)
    if needed <= free:
        return
    ways = []
    if work.formats != ("parquet",):
        plain = work.num_rows * _BYTES_OF_A_FLOAT * work.columns.num_values
        ways.append(f"feature_formats = 'parquet' (up to {readable_size(plain + encoded)})")
    ways += [f"feature_grid = {grid} ({readable_size(needed * share)})" for grid, share in _shares(work.smaller_grids)]
    raise ExtractionError(
        f"the table and what is kept until it is whole take {readable_size(needed)}, and {work.folder} has "
        f"{readable_size(free)} left: "
        f"make space{''.join(f', or set {way}' for way in ways)}"
    )


def _shares(grids: tuple[int, ...]) -> list[tuple[int, float]]:
    """Smaller grids with what they take of the space; the first one given is the grid that is asked for."""
    asked, *smaller = grids
    return [(grid, (grid / asked) ** 2) for grid in smaller]


def readable_size(num_bytes: float) -> str:
    """Such as '1.6 GB'."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{max(1, round(num_bytes / 1e6))} MB"


def duration(seconds: float) -> str:
    """Such as '40 s', '12 min' or '3.5 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
