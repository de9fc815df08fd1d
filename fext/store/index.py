"""What is known of image files already looked at, so that an unchanged file is not decoded twice.

Caches and nothing more: where one is damaged or cannot be written, images are looked at again.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import fext
from fext.data.duplicates import HASHED_BY
from fext.data.images import DECODERS, NO_FILE, FileState, file_state
from fext.data.unchanged import Remembered, look_again

_BATCH_SIZE = 256  # files that are looked at between two writes
_COMPARED = "path IN (SELECT path FROM compared)"
_HASH = 8  # bytes of a perceptual hash
_NO_DATABASE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class CheckedImage(NamedTuple):
    """A file in a certain state: its checksum, and its perceptual hash and small grey picture or why it is rejected."""

    sha256: str
    reason: str
    perceptual_hash: bytes = b""
    small: bytes = b""


class RememberedFiles:
    """Rows about files in certain states; each call of `remember` is kept at once."""

    def __init__(self, file: Path, table: str, columns: Sequence[str], made_by: str, by_contents: bool) -> None:
        """`columns` are what is remembered, 'sha256' among them; `made_by` is what found it out: another program may
        find otherwise. With `by_contents` nothing from before holds until the contents of its file were compared."""
        self._file, self._table, self._columns = file, table, tuple(columns)
        self._made_by, self._by_contents = made_by, by_contents
        self._replace = f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?{', ?' * len(columns)})"
        self._database = self._open()

    def knows(self, paths: Iterable[Path]) -> Iterator[bool]:
        """Of each file, in order, whether what is remembered of it holds.

        Where one is the same in another state, that is remembered from now on. Quicker than `recall` for many files.
        """
        looked_at = look_again(map(self._remembered, paths))
        while batch := list(islice(looked_at, _BATCH_SIZE)):
            same = [(key, before, state) for (key, before), state in batch if state is not None]
            self._write(
                f"UPDATE {self._table} SET state = ? WHERE path = ?",
                [(_described(state), key) for key, before, state in same if state != before],
            )
            self._note_compared(key for key, _, _ in same)
            yield from (state is not None for _, state in batch)

    def recall(self, path: Path, *columns: str) -> Sequence[Any] | None:
        """What is known of a file that is the same as it was then: these columns of it, or all."""
        wanted = ", ".join(columns or self._columns)
        read = f"SELECT {wanted} FROM {self._table} WHERE path = ? AND state = ? AND made_by = ? AND (? OR {_COMPARED})"

        def known() -> Sequence[Any] | None:
            return self._row(read, (_key(path), _described(file_state(path)), self._made_by, not self._by_contents))

        return known() or (known() if next(self.knows([path])) else None)

    def remember(self, found: Iterable[tuple[Path, FileState, Sequence[Any]]]) -> None:
        """Keep what was found of files in the state in which they were read."""
        rows = [
            (_key(path), _described(state), self._made_by, *known) for path, state, known in found if state != NO_FILE
        ]
        self._write(self._replace, rows)
        self._note_compared(row[0] for row in rows)

    def everything(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """The number of each row and these columns of it, whatever has become of the file since."""
        try:
            yield from self._database.execute(f"SELECT rowid, {', '.join(columns)} FROM {self._table}")
        except sqlite3.Error as error:
            self._go_on_without(self._database, error)

    def of_row(self, row: int, column: str) -> Any:
        """A column of the row of that number; None where it is gone."""
        try:
            found = self._database.execute(f"SELECT {column} FROM {self._table} WHERE rowid = ?", (row,)).fetchone()
        except sqlite3.Error as error:
            self._go_on_without(self._database, error)
            return None
        return found[0] if found else None

    def forget_vanished(self, folder: Path) -> None:
        """Drop what is known of files below a folder that are no longer there, though the folder that held them is."""
        first = _key(folder) + os.fsencode(os.sep)
        behind_last = first[:-1] + bytes([first[-1] + 1])
        try:
            known = self._database.execute(
                f"SELECT path FROM {self._table} WHERE path >= ? AND path < ?", (first, behind_last)
            )
            gone = [row for row in known if _is_gone(row[0])]
            with self._database:
                self._database.executemany(f"DELETE FROM {self._table} WHERE path = ?", gone)
        except sqlite3.Error as error:
            self._go_on_without(self._database, error)

    def close(self) -> None:
        """Close the file; what was remembered is in it."""
        self._database.close()

    def _remembered(self, path: Path) -> Remembered[tuple[bytes, FileState]]:
        """What is known of a file, whatever became of it."""
        key = _key(path)
        read = f"SELECT state, sha256, {_COMPARED} FROM {self._table} WHERE path = ? AND made_by = ?"
        row = self._row(read, (key, self._made_by))
        if row is None:
            return Remembered((key, NO_FILE), None, NO_FILE, "")
        state = FileState(*map(int, row[0].split()))
        return Remembered((key, state), path, state, row[1], self._by_contents and not row[2])

    def _note_compared(self, keys: Iterable[bytes]) -> None:
        if self._by_contents:
            self._write("INSERT OR IGNORE INTO compared VALUES (?)", [(key,) for key in keys])

    def _row(self, read: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            row = self._database.execute(read, values).fetchone()
        except sqlite3.Error as error:
            row = self._go_on_without(self._database, error).execute(read, values).fetchone()
        return None if row is None else tuple(row)

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            with self._go_on_without(self._database, error) as database:
                database.executemany(statement, rows)

    def _open(self) -> sqlite3.Connection:
        database = None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._file)
            self._make_table(database)
        except (OSError, sqlite3.Error) as error:
            return self._go_on_without(database, error)
        return database

    def _go_on_without(self, database: sqlite3.Connection | None, error: Exception) -> sqlite3.Connection:
        """Go on in memory; a damaged file is removed for the next run, one that only fails at the moment is not."""
        if database is not None:
            database.close()
        if getattr(error, "sqlite_errorcode", None) in _NO_DATABASE:
            with suppress(OSError):
                self._file.unlink()
        self._database = sqlite3.connect(":memory:")
        self._make_table(self._database)
        return self._database

    def _make_table(self, database: sqlite3.Connection) -> None:
        """Make the table; one with other columns, of another version of FeXT, is made anew."""
        columns = ("path", "state", "made_by", *self._columns)
        there = tuple(row[1] for row in database.execute(f"PRAGMA table_info({self._table})"))
        if there and there != columns:
            database.execute(f"DROP TABLE {self._table}")
        database.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({', '.join(columns)}, PRIMARY KEY (path))")
        # Of this run alone: SQLite keeps it on the disk where it grows.
        database.execute("CREATE TEMP TABLE IF NOT EXISTS compared (path PRIMARY KEY) WITHOUT ROWID")


class CheckedImages:
    """The memory in data/validation/checked_images.sqlite of which files can be decoded, and what they look like."""

    def __init__(self, file: Path, by_contents: bool = False) -> None:
        made_by = f"{DECODERS}, {HASHED_BY}, FeXT {fext.__version__}"
        self._files = RememberedFiles(file, "checked_images", CheckedImage._fields, made_by, by_contents)

    def knows(self, paths: Iterable[Path]) -> Iterator[bool]:
        """Of each file, in order, whether what is remembered of it holds; quicker than `recall` for many."""
        return self._files.knows(paths)

    def recall(self, path: Path) -> CheckedImage | None:
        """What is known of a file that has not changed since."""
        row = self._files.recall(path)
        return CheckedImage(*row) if row else None

    def small(self, path: Path) -> bytes | None:
        """The small picture of a file that has not changed since."""
        row = self._files.recall(path, "small")
        return row[0] if row else None

    def good_images(self) -> Iterator[tuple[int, str, bytes]]:
        """The row, SHA-256 and perceptual hash of every picture that was ever looked at: what its content is like."""
        for row, sha256, perceptual_hash in self._files.everything("sha256", "perceptual_hash"):
            if len(perceptual_hash) == _HASH:
                yield row, sha256, perceptual_hash

    def small_of_row(self, row: int) -> bytes | None:
        """The small picture of a row that good_images gave."""
        small = self._files.of_row(row, "small")
        return bytes(small) if small else None

    def remember(self, found: Iterable[tuple[Path, FileState, CheckedImage]]) -> None:
        """Keep what was found of files in the state in which they were read."""
        self._files.remember(found)

    def close(self) -> None:
        """Close the file; what was remembered is in it."""
        self._files.close()


def _is_gone(path: bytes) -> bool:
    """Whether a file was removed; an empty folder may be a share that is away and comes back with it."""
    if os.path.lexists(path):
        return False
    try:
        with os.scandir(Path(os.fsdecode(path)).parent) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _described(state: FileState) -> str:
    return " ".join(map(str, state))


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())
