"""Files that are whole or not there: written under a temporary name, flushed to the disk, then moved into place."""

import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fext.data.names import readable, readable_in_json
from fext.errors import FextError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


_PARTIAL = ".partial"
_NUM_TRIES, _SECONDS_BETWEEN_TRIES = 20, 0.1


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a binary stream; its bytes become the file `path` all at once, or not at all.

    Raises FextError where the disk is full or the folder cannot be written; what was there before is kept.
    """
    write_together([(path, write)])


def write_together(parts: Sequence[tuple[Path, Callable[[IO[bytes]], object]]]) -> None:
    """Write files that belong together: all are on the disk before the first takes its place. Raises as write_whole."""
    temporaries = [path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}") for path, _ in parts]
    try:
        for (path, write), temporary in zip(parts, temporaries, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
        for (path, _), temporary in zip(parts, temporaries, strict=True):
            replace(temporary, path)
    except Exception as error:
        # torch.save hides what the disk said behind a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise FextError(f"{path} cannot be written: {cause.strerror or cause}; what was there is kept") from error
    finally:
        for temporary in temporaries:
            with suppress(OSError):  # what could not be made need not be removed
                temporary.unlink(missing_ok=True)


def replace(temporary: Path, path: Path) -> None:
    """Move a file into its place; Windows refuses that as long as another program has the old one open."""
    for _ in range(_NUM_TRIES if sys.platform == "win32" else 0):
        with suppress(PermissionError):
            temporary.replace(path)
            return
        time.sleep(_SECONDS_BETWEEN_TRIES)
    temporary.replace(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill under a temporary name, which takes its place when the block ends without an error.

    Raises FextError where it cannot be made.
    """
    draft = folder.with_name(f".{folder.name}{_PARTIAL}")
    remove_folder(draft)
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.replace(folder)
    except OSError as error:
        raise FextError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        remove_folder(draft)


def unfinished_folders(parent: Path) -> list[str]:
    """Names of the folders that a killed process was still filling."""
    return sorted(path.name[1 : -len(_PARTIAL)] for path in parent.glob(f".*{_PARTIAL}") if path.is_dir())


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of files and of the folder itself under temporary names."""
    remove_folder(folder.with_name(f".{folder.name}{_PARTIAL}"))
    for path in folder.glob(f".*{_PARTIAL}"):
        if path.is_dir():
            remove_folder(path)
        with suppress(OSError):
            path.unlink()


def remove_file(path: Path) -> None:
    """Remove a file that may be there; raises FextError where it cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FextError(f"{path} cannot be removed: {error.strerror or error}") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as that can be done."""
    shutil.rmtree(folder, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """The bytes of a whole file; as write_whole."""
    write_whole(path, lambda stream: stream.write(data))


def write_text(path: Path, text: str) -> None:
    """Text as UTF-8; of a file name that is not UTF-8, the odd bytes are written as \\xNN."""
    write_bytes(path, readable(text).encode())


def write_text_chunks(path: Path, chunks: Iterable[str]) -> None:
    """A text that comes in pieces, so that it need not fit into memory; as write_text."""

    def write(stream: IO[bytes]) -> None:
        for chunk in chunks:
            stream.write(readable(chunk).encode())

    write_whole(path, write)


def write_json(path: Path, data: Any) -> None:
    """Data as json_text has them; as write_text."""
    write_text(path, json_text(data))


def json_text(data: Any) -> str:
    """Indented JSON; numbers that are not finite have no place in it and raise ValueError."""
    return readable_in_json(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV in UTF-8 with '\\n' line ends, quoted as RFC 4180 says."""

    def write(stream: IO[bytes]) -> None:
        for row in chain([header], rows):
            stream.write(readable(csv_line(row)).encode())

    write_whole(path, write)


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
    return list(iter_csv(path))


def iter_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of read_csv, one after another."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield from csv.DictReader(stream, strict=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FextError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises FextError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FextError(f"{path} cannot be read: {error}") from error


def close_on_disk(stream: IO[bytes]) -> None:
    """Close a file once it is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def let_go(stream: IO[bytes]) -> None:
    """Close a file that is not to be kept, whatever is still to be written to it."""
    with suppress(OSError, ValueError):
        stream.close()


def sync_folder(folder: Path) -> None:
    """Put on the disk which files a folder holds, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
