"""What is known of image files already looked at, so that an unchanged file is not decoded twice.

A cache and nothing more: where it is damaged or cannot be written, images are looked at again.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import fext
from fext.data.images import DECODERS, NO_FILE, FileState, file_state

_TABLE = """
    CREATE TABLE IF NOT EXISTS checked_images (
        path BLOB PRIMARY KEY, state TEXT, sha256 TEXT, reason TEXT
    ) WITHOUT ROWID
"""
_WRITE = "INSERT OR REPLACE INTO checked_images VALUES (?, ?, ?, ?)"
_READ = "SELECT sha256, reason FROM checked_images WHERE path = ? AND state = ?"
_NO_DATABASE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class CheckedImage(NamedTuple):
    """A file in a certain state: its checksum, or the reason to reject it."""

    sha256: str
    reason: str


class CheckedImages:
    """The memory in data/validation/checked_images.sqlite; each call of `remember` is kept at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._database = self._open()

    def recall(self, path: Path) -> CheckedImage | None:
        """What is known of a file that has not changed since."""
        question = (_key(path), _described(file_state(path)))
        try:
            row = self._database.execute(_READ, question).fetchone()
        except sqlite3.Error as error:
            row = self._go_on_without(self._database, error).execute(_READ, question).fetchone()
        return CheckedImage(*row) if row else None

    def remember(self, found: Iterable[tuple[Path, FileState, CheckedImage]]) -> None:
        """Keep what was found of files in the state in which they were read."""
        rows = [(_key(path), _described(state), *checked) for path, state, checked in found if state != NO_FILE]
        try:
            self._write(rows)
        except sqlite3.Error as error:
            self._go_on_without(self._database, error)
            self._write(rows)

    def close(self) -> None:
        self._database.close()

    def _write(self, rows: list[tuple[bytes, str, str, str]]) -> None:
        with self._database:
            self._database.executemany(_WRITE, rows)

    def _open(self) -> sqlite3.Connection:
        database = None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._file)
            database.execute(_TABLE)
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
        self._database.execute(_TABLE)
        return self._database


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())


def _described(state: FileState) -> str:
    """The state of a file, and what looked at it: another decoder may think otherwise."""
    return f"{state.size} {state.modified} {DECODERS}, FeXT {fext.__version__}"
