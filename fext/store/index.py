"""What is known of image files already looked at, so that an unchanged file is not decoded twice.

Caches and nothing more: where one is damaged or cannot be written, images are looked at again.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import fext
from fext.data.duplicates import HASHED_BY
from fext.data.images import DECODERS, NO_FILE, FileState, file_state

_HASH = 8  # bytes of a perceptual hash
_NO_DATABASE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class CheckedImage(NamedTuple):
    """A file in a certain state: its checksum, perceptual hash and small grey picture, or the reason to reject it."""

    sha256: str
    reason: str
    perceptual_hash: bytes = b""
    small: bytes = b""


class RememberedFiles:
    """Rows about files in certain states; each call of `remember` is kept at once."""

    def __init__(self, file: Path, table: str, columns: Sequence[str], made_by: str) -> None:
        """`columns` are what is remembered; `made_by` is what found it out: another program may find otherwise."""
        self._file, self._table, self._columns, self._made_by = file, table, tuple(columns), made_by
        self._replace = f"INSERT OR REPLACE INTO {table} VALUES (?, ?{', ?' * len(columns)})"
        self._database = self._open()

    def recall(self, path: Path, *columns: str) -> Sequence[Any] | None:
        """What is known of a file that has not changed since: these columns of it, or all."""
        read = f"SELECT {', '.join(columns or self._columns)} FROM {self._table} WHERE path = ? AND state = ?"
        question = (_key(path), self._described(file_state(path)))
        try:
            row = self._database.execute(read, question).fetchone()
        except sqlite3.Error as error:
            row = self._go_on_without(self._database, error).execute(read, question).fetchone()
        return None if row is None else tuple(row)

    def remember(self, found: Iterable[tuple[Path, FileState, Sequence[Any]]]) -> None:
        """Keep what was found of files in the state in which they were read."""
        rows = [(_key(path), self._described(state), *known) for path, state, known in found if state != NO_FILE]
        try:
            self._write(rows)
        except sqlite3.Error as error:
            self._go_on_without(self._database, error)
            self._write(rows)

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

    def _described(self, state: FileState) -> str:
        return f"{state.size} {state.modified} {self._made_by}"

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        with self._database:
            self._database.executemany(self._replace, rows)

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
        columns = ("path", "state", *self._columns)
        there = tuple(row[1] for row in database.execute(f"PRAGMA table_info({self._table})"))
        if there and there != columns:
            database.execute(f"DROP TABLE {self._table}")
        database.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({', '.join(columns)}, PRIMARY KEY (path))")


class CheckedImages:
    """The memory in data/validation/checked_images.sqlite of which files can be decoded, and what they look like."""

    def __init__(self, file: Path) -> None:
        made_by = f"{DECODERS}, {HASHED_BY}, FeXT {fext.__version__}"
        self._files = RememberedFiles(file, "checked_images", CheckedImage._fields, made_by)

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


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())
