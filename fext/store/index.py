"""What is known of image files already looked at, so that an unchanged file is not decoded twice.

A cache and nothing more: where it is damaged or cannot be written, images are looked at again.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fext.data.images import NO_FILE, FileState, file_state

_TABLE = """
    CREATE TABLE IF NOT EXISTS checked_images (
        path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, sha256 TEXT, reason TEXT
    ) WITHOUT ROWID
"""
_WRITE = "INSERT OR REPLACE INTO checked_images VALUES (?, ?, ?, ?, ?)"
_READ = "SELECT sha256, reason FROM checked_images WHERE path = ? AND size = ? AND modified = ?"


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
        state = file_state(path)
        try:
            row = self._database.execute(_READ, (_key(path), *state)).fetchone()
        except sqlite3.Error:
            row = self._start_anew().execute(_READ, (_key(path), *state)).fetchone()
        return CheckedImage(*row) if row else None

    def remember(self, found: Iterable[tuple[Path, FileState, CheckedImage]]) -> None:
        """Keep what was found of files in the state in which they were read."""
        rows = [(_key(path), *state, *checked) for path, state, checked in found if state != NO_FILE]
        try:
            self._write(rows)
        except sqlite3.Error:
            self._start_anew()
            self._write(rows)

    def close(self) -> None:
        self._database.close()

    def _write(self, rows: list[tuple[bytes, int, int, str, str]]) -> None:
        with self._database:
            self._database.executemany(_WRITE, rows)

    def _open(self) -> sqlite3.Connection:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._file)
            database.execute(_TABLE)
        except (OSError, sqlite3.Error):
            return self._start_anew()
        return database

    def _start_anew(self) -> sqlite3.Connection:
        """A damaged file is removed, for the next run; this one goes on in memory."""
        with suppress(AttributeError):
            self._database.close()
        with suppress(OSError):
            self._file.unlink()
        self._database = sqlite3.connect(":memory:")
        self._database.execute(_TABLE)
        return self._database


def _key(path: Path) -> bytes:
    return os.fsencode(path.absolute())
