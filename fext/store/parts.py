"""Parts of an extraction: what one process has done since one start, safe on the disk every second.

A part is two files: the rows as plain little-endian float32, and a journal, a CSV with a line for each image in sorted
order. A line is written after the row that it speaks of is on the disk, so what the journal says is done, is done; of
a journal that a kill cut off, the whole lines count.
"""

import csv
import hashlib
import heapq
import io
import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fext.data.images import NO_FILE, FileState, file_state
from fext.data.names import name_from_bytes, name_to_bytes
from fext.data.unchanged import state_if_same
from fext.errors import ExtractionError
from fext.store import files

Row = NDArray[np.float32]

WRITTEN, REJECTED = "written", "rejected"
SEEN = "seen"  # what an earlier part or the table says of the file holds: it is the same in another state
NOT_FINITE = "its features are not finite"
_SECONDS_BETWEEN_COMMITS = 1.0
_BATCHES_WAITING = 4
_WORDS_OF_EARLIER_VERSIONS = 2  # of a file: its size and its time
_PART = re.compile(r"part-(\d{6})-(\d{6})\.(?:csv|rows)")


class Record(NamedTuple):
    """What is known of one image: its status, its file when it was read, the checksum of its row or why it has none.

    `sha256` is that of the file; records of earlier versions have none.
    """

    image: str
    status: str
    state: FileState
    row_sha256: str = ""
    reason: str = ""
    sha256: str = ""

    @property
    def lasts(self) -> bool:
        """Whether it holds as long as the file stays as it is; one of no file, or of too little memory, does not."""
        return self.state != NO_FILE

    def is_of(self, path: Path, by_contents: bool = False) -> bool:
        """Whether a file is the one that was read; as far as size and time tell where its checksum was not kept."""
        if not self.sha256:
            return file_state(path)[:2] == self.state[:2]
        return state_if_same(path, self.state, self.sha256, by_contents) is not None


class RowSource(Protocol):
    """The rows of records, asked for in ascending order."""

    def close(self) -> None:
        """Let go of the file; no row is asked for afterwards."""

    def row(self, number: int, image: str) -> Row | None:
        """The row of that number, which is of that image; None where it cannot be read as such."""


class Done(NamedTuple):
    """A record with the way to its row, and the start that it was encoded after; 0 where it stands in the table."""

    record: Record
    number: int
    rows: RowSource
    start: int = 0

    def row(self) -> Row | None:
        """The row as its checksum says; None where it is damaged."""
        row = self.rows.row(self.number, self.record.image)
        return row if row is not None and row_checksum(row) == self.record.row_sha256 else None


def row_checksum(row: Row) -> str:
    """SHA-256 of a row as little-endian float32."""
    return hashlib.sha256(row.astype("<f4", copy=False).tobytes()).hexdigest()


class PartWriter:
    """Writes one part; what came since is made safe every second.

    Once something could not be written, nothing more is: rows and journal would not belong together.
    """

    def __init__(self, folder: Path, start: int, rank: int) -> None:
        journal, rows = part_files(folder, start, rank)
        self._path = journal
        self._unsaved: list[Record] = []
        self._is_broken = False
        with _full_disk(self._path):
            self._rows, self._journal = rows.open("xb"), journal.open("xb")
        self._saved_at = time.monotonic()

    def add(self, results: Iterable[tuple[Record, Row | None]]) -> None:
        """Take the results of a batch, in sorted order of images."""
        if self._is_broken:
            return
        with self._whole_or_broken():
            for record, row in results:
                if row is not None:
                    self._rows.write(row.astype("<f4", copy=False).tobytes())
                self._unsaved.append(record)
            if time.monotonic() - self._saved_at > _SECONDS_BETWEEN_COMMITS:
                self._save()

    def close(self) -> None:
        """Make safe what is not yet; where the disk is full, what is safe stays so."""
        try:
            if not self._is_broken:
                with self._whole_or_broken():
                    self._save()
        finally:
            files.let_go(self._rows)
            files.let_go(self._journal)

    def _save(self) -> None:
        if self._unsaved:
            lines, self._unsaved = "".join(map(_journal_line, self._unsaved)), []
            _to_disk(self._rows)
            self._journal.write(name_to_bytes(lines))
            _to_disk(self._journal)
        self._saved_at = time.monotonic()

    @contextmanager
    def _whole_or_broken(self) -> Iterator[None]:
        try:
            with _full_disk(self._path):
                yield
        except BaseException:
            self._is_broken = True
            raise


def _to_disk(stream: io.BufferedWriter) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _journal_line(record: Record) -> str:
    return files.csv_line((record.image, record.status, *record.state, record.sha256, record.row_sha256, record.reason))


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExtractionError(
            f"{path.parent} cannot be written: {error.strerror or error}; what was finished is kept: make space and "
            f"start again to go on"
        ) from error


@contextmanager
def writing_part(folder: Path, start: int, rank: int) -> Iterator[Callable[[list[tuple[Record, Row | None]]], None]]:
    """A function that takes results and returns at once: a thread writes them, a few batches behind at most.

    However the block ends, what was taken is written; what went wrong with that is raised.
    """
    part = PartWriter(folder, start, rank)
    waiting: deque[Future[None]] = deque()
    # Whatever happens here, the executor ends with everything done that it was given: closing comes last.
    with ThreadPoolExecutor(max_workers=1) as writer:

        def take(results: list[tuple[Record, Row | None]]) -> None:
            while len(waiting) >= _BATCHES_WAITING:
                waiting.popleft().result()
            waiting.append(writer.submit(part.add, results))

        try:
            yield take
        finally:
            waiting.append(writer.submit(part.close))
            for future in waiting:
                future.result()


def part_files(folder: Path, start: int, rank: int) -> tuple[Path, Path]:
    """The journal and the rows of the part that a process of that rank writes after that start."""
    name = f"part-{start:06}-{rank:06}"
    return folder / f"{name}.csv", folder / f"{name}.rows"


def find_parts(folder: Path) -> list[tuple[int, int]]:
    """(start, rank) of each part there is, oldest first."""
    return [part for part in _named_parts(folder) if all(path.is_file() for path in part_files(folder, *part))]


def next_start(folder: Path) -> int:
    """The number of a new start, after all there have been; parts in which nothing is are removed."""
    parts = _named_parts(folder)
    for part in parts:
        journal, rows = part_files(folder, *part)
        if not (journal.is_file() and journal.stat().st_size):
            journal.unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
    return parts[-1][0] + 1 if parts else 1


def _named_parts(folder: Path) -> list[tuple[int, int]]:
    matches = (_PART.fullmatch(path.name) for path in folder.glob("part-*"))
    return sorted({(int(match[1]), int(match[2])) for match in matches if match})


def read_part(folder: Path, start: int, rank: int, num_values: int) -> Generator[Done, None, None]:
    """What a part holds, in sorted order."""
    journal, rows = part_files(folder, start, rank)
    with closing(PlainRows(rows, num_values)) as source:
        num_rows, before = 0, b""
        for record in _journal_records(journal):
            if name_to_bytes(record.image) <= before:
                return  # what follows is not what was written there
            before = name_to_bytes(record.image)
            if record.status == WRITTEN:
                num_rows += 1
            yield Done(record, num_rows - 1, source, start)


def _journal_records(journal: Path) -> Iterator[Record]:
    """The records of the whole lines of a journal."""
    with journal.open("rb") as stream, suppress(csv.Error, ValueError):
        for image, status, *words, row_sha256, reason in csv.reader(_whole_lines(stream), strict=True):
            if len(words) == _WORDS_OF_EARLIER_VERSIONS:
                yield Record(image, status, FileState(*map(int, words)), row_sha256, reason)
            else:
                *times, sha256 = words
                yield Record(image, status, FileState(*map(int, times)), row_sha256, reason, sha256)


def _whole_lines(stream: io.BufferedReader) -> Iterator[str]:
    return (name_from_bytes(line) for line in stream if line.endswith(b"\n"))


class PlainRows:
    """Rows of float32 one behind the other in a file, after a header of some bytes."""

    def __init__(self, path: Path, num_values: int, header_bytes: int = 0) -> None:
        self._row_bytes, self._header_bytes = 4 * num_values, header_bytes
        self._path = path
        self._stream: io.BufferedReader | None = None

    def close(self) -> None:
        """Let go of the file, if a row was asked for."""
        if self._stream is not None:
            self._stream.close()

    def row(self, number: int, image: str) -> Row | None:
        """The row of that number, whatever its image; None where the file ends before it does."""
        if self._stream is None:
            self._stream = self._path.open("rb")
        self._stream.seek(self._header_bytes + number * self._row_bytes)
        data = self._stream.read(self._row_bytes)
        return np.frombuffer(data, dtype="<f4") if len(data) == self._row_bytes else None


def newest(runs: Sequence[Iterable[Done]]) -> Iterator[tuple[bytes, Done]]:
    """(name as bytes, what is done) of each image in sorted order: what the last of the runs says that has it, with the
    state in which its file was seen since.

    The runs are sorted; nothing but their heads is in memory. Raises ExtractionError where one is not sorted.
    """
    before: bytes | None = None
    seen: Record | None = None
    for name, _, done in heapq.merge(*(_with_keys(run, -age) for age, run in enumerate(runs))):
        if name == before:
            continue
        if done.record.status == SEEN:
            seen = seen if seen is not None and seen.image == done.record.image else done.record
            continue
        if seen is not None and (seen.image, seen.sha256) == (done.record.image, done.record.sha256):
            done = done._replace(record=done.record._replace(state=seen.state))
        yield name, done
        before = name


def _with_keys(run: Iterable[Done], age: int) -> Iterator[tuple[bytes, int, Done]]:
    before = b""
    for done in run:
        name = name_to_bytes(done.record.image)
        if name > before:
            yield name, age, done
        elif done.record.lasts:  # else a name that is not UTF-8 and stands spelled out in images.csv: looked at anew
            raise ExtractionError(f"the list of images is damaged at {done.record.image}: extract under another name")
        before = max(before, name)
