"""Files that are whole or not there: written under a temporary name, flushed to the disk, then moved into place."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fext.errors import FextError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a binary stream; its bytes become the file `path` all at once, or not at all.

    Raises FextError where the disk is full or the folder cannot be written; what was there before is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FextError(f"{path} cannot be written: {error.strerror or error}; what was there is kept") from error
    finally:
        with suppress(OSError):  # what could not be made need not be removed
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    write_whole(path, lambda stream: stream.write(data))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, data: Any) -> None:
    """Indented JSON; numbers that are not finite have no place in it and raise ValueError."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV in UTF-8 with '\\n' line ends, quoted as RFC 4180 says."""
    write_text(path, "".join(csv_line(row) for row in (header, *rows)))


def csv_line(cells: Iterable[object]) -> str:
    """One line of a CSV.

    Quoted here because csv.writer, before Python 3.13, leaves a carriage return bare, and readers split the row there.
    """
    return ",".join(_quoted(str(cell)) for cell in cells) + "\n"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\r\n') else cell


def write_figure(path: Path, figure: "Figure") -> None:
    """A matplotlib figure as PNG."""
    write_whole(path, lambda stream: figure.savefig(stream, format="png"))


def write_picture(path: Path, picture: "Image.Image") -> None:
    """A Pillow image as PNG."""
    write_whole(path, lambda stream: picture.save(stream, format="PNG"))


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV written by write_csv; raises FextError where it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return list(csv.DictReader(stream, strict=True))
    except (OSError, csv.Error) as error:
        raise FextError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises FextError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FextError(f"{path} cannot be read: {error}") from error
