"""What is known of image files already looked at, so that an unchanged file is not decoded twice."""

from dataclasses import dataclass
from pathlib import Path

from fext.errors import FextError
from fext.store import files

_COLUMNS = ("path", "size", "modified", "sha256", "reason")


@dataclass(frozen=True)
class CheckedImage:
    """A file of that size and modification time: its checksum, or the reason to reject it."""

    size: int
    modified: int  # nanoseconds since 1970
    sha256: str
    reason: str


class CheckedImages:
    """The memory in data/validation/checked_images.csv."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, CheckedImage] = {}
        self._changed = False
        try:
            rows = files.read_csv(file) if file.is_file() else []
            for row in rows:
                self._known[row["path"]] = CheckedImage(
                    int(row["size"]), int(row["modified"]), row["sha256"], row["reason"]
                )
        except (FextError, KeyError, TypeError, ValueError):
            self._known.clear()  # it only saves time: a damaged one is made anew

    def recall(self, path: Path) -> CheckedImage | None:
        """What is known of a file that has not changed since."""
        known = self._known.get(str(path.absolute()))
        if known is None or (known.size, known.modified) != file_state(path):
            return None
        return known

    def remember(self, path: Path, sha256: str, reason: str) -> CheckedImage:
        size, modified = file_state(path)
        checked = CheckedImage(size, modified, sha256, reason)
        self._known[str(path.absolute())] = checked
        self._changed = True
        return checked

    def save(self) -> None:
        if self._changed:
            rows = [(path, c.size, c.modified, c.sha256, c.reason) for path, c in sorted(self._known.items())]
            files.write_csv(self._file, _COLUMNS, rows)
            self._changed = False


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds; (0, 0) for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
