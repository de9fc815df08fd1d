"""Finding images: a folder, or a text or CSV file that lists paths, becomes a sorted list of names.

What a file holds is not looked at here beyond its first bytes; fext.data.images decodes.
"""

import csv
import os
import struct
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from PIL import Image

from fext.data.formats import CAMERA_RAW_EXTENSIONS, NOT_DECODED
from fext.data.listing import column_name, lines_of, read_text, rows_of
from fext.data.names import Names, name_to_bytes
from fext.data.spelling import Disk
from fext.errors import SourceError, is_out_of_memory
from fext.reporting import Reporter, SilentReporter, counted

# Images that Pillow does not open: found, and then rejected with that reason rather than passed over.
_OTHER_IMAGES = {f".{name}" for name in ("heic", "heif", "jxl", "svg", "wmf", "emf")} | CAMERA_RAW_EXTENSIONS
_LIST_EXTENSIONS = {".txt", ".csv"}
_MAX_LISTED = 32_768  # characters; no system has longer paths
_LIST_COLUMNS = ("image", "path", "file", "filename")
_NUM_EXAMPLES = 3
# What systems put beside the files of their users, in small letters: bins, thumbnails, indexes, what repairs found.
_SYSTEM_NAMES = {
    "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "__macosx", ".trashes", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".appledouble", "network trash folder",
    "temporary items", "icon\r", "lost+found", ".trash", "@eadir", "#recycle", "#snapshot", "@recycle",
    "@recently-snapshot", "@tmp",
}  # fmt: skip
_SYSTEM_STARTS = ("._", ".trash-")  # what macOS keeps of a file on other disks; the bins of Linux


@dataclass(frozen=True)
class ImageSource:
    """The images of a folder or list: `names` sorted by bytes, each a POSIX path relative to `root`.

    Left out are num_system files and folders that are the system's, and `unreadable` folders, which end with '/'.
    """

    location: Path
    root: Path
    names: Names
    num_not_images: int
    num_system: int = 0
    unreadable: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Where the image of that name lies."""
        return self.root / name

    def is_unreadable(self, name: str) -> bool:
        """Whether an image of that name would lie in a folder that cannot be read now."""
        return name.startswith(self.unreadable) if self.unreadable else False

    def with_names(self, more: Collection[bytes]) -> "ImageSource":
        """With other names, which are not among these, beside them."""
        return replace(self, names=Names(sorted([*self.names.iter_bytes(), *more])))

    def is_there(self, name: str) -> bool:
        """Whether the folder in which an image was found is there and holds anything; a list was only promised.

        A share that went away may leave an empty folder.
        """
        folder = self.path(name).parent if self.location == self.root else self.root
        try:
            with os.scandir(folder) as entries:
                return any(True for _ in entries)
        except OSError:
            return False

    def describe_empty(self) -> str:
        """What to say where no image was found, such as 'there are no images in data/images (3 other files)'."""
        others = [counted(self.num_not_images, "other file")] if self.num_not_images else []
        if self.unreadable:
            others.append(f"{counted(len(self.unreadable), 'folder')} that cannot be read")
        return f"there are no images in {self.location}" + (f" ({', '.join(others)})" if others else "")

    def __len__(self) -> int:
        return len(self.names)


def find_images(location: Path, reporter: Reporter | None = None) -> ImageSource:
    """Find every image below a folder, or every path that a .txt or .csv file lists.

    Hidden files and folders are skipped, and what is the system's; linked folders are followed once. A folder below
    that cannot be read is left out, and the reporter told so. Raises SourceError where the location is missing,
    unreadable, or neither a folder nor a list, and where no line of a list leads to a file.
    """
    reporter = reporter or SilentReporter()
    _check_name(location)
    if os.path.isdir(location):  # Path.is_dir raises where a folder above may not be entered
        return _from_folder(location, reporter)
    if os.path.isfile(location) and location.suffix.lower() in _LIST_EXTENSIONS:
        return _from_list(location, reporter)
    if os.path.exists(location):
        raise SourceError(f"{location} is neither a folder nor a list of images (.txt or .csv)")
    raise SourceError(f"{location} does not exist: give a folder of images, or a .txt or .csv file that lists them")


def known_images(location: Path, names: Names) -> ImageSource:
    """Images of a folder or list that are known by name from before; nothing is looked for."""
    # os.path says no where pathlib, before Python 3.14, raises.
    root = location if os.path.isdir(location) else location.parent
    return ImageSource(location, root, names, 0)


def _check_name(location: Path) -> None:
    """The location is written to JSON files, which are UTF-8."""
    try:
        str(location.absolute()).encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"the name of the folder {location} is not UTF-8: give it another name") from error


@dataclass
class _LeftOut:
    """What is passed over below a folder, by name: the first few of the system's, and each folder with the reason."""

    num_system: int = 0
    of_system: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add_of_system(self, name: str) -> None:
        """Count a file or folder of the system; the first are kept as examples."""
        self.num_system += 1
        if len(self.of_system) < _NUM_EXAMPLES:
            self.of_system.append(name)

    def tell(self, reporter: Reporter) -> None:
        """Say what is left out, and why."""
        if self.num_system:
            such = _such_as(self.of_system, self.num_system)
            reporter.message(f"files and folders of the system, which are left out: {self.num_system:,} ({such})")
        if self.unreadable:
            folders = [f"{name} ({reason})" for name, reason in self.unreadable.items()]
            reporter.warning(
                f"{counted(len(folders), 'folder')} cannot be read, and what is in there is left out: "
                f"{_such_as(folders, len(folders))}"
            )


def _such_as(names: list[str], count: int) -> str:
    """The first of so many names, and how many more there are."""
    more = f" and {count - _NUM_EXAMPLES:,} more" if count > _NUM_EXAMPLES else ""
    return ", ".join(names[:_NUM_EXAMPLES]) + more


def _from_folder(folder: Path, reporter: Reporter) -> ImageSource:
    names: list[bytes] = []
    num_not_images = 0
    left_out = _LeftOut()
    for name, path in _walk(folder, left_out):
        if path is not None and is_image_file(path):
            names.append(name_to_bytes(name))
        else:
            num_not_images += 1
    names.sort()
    left_out.tell(reporter)
    unreadable = tuple(f"{name}/" for name in left_out.unreadable)
    return ImageSource(folder, folder, Names(names), num_not_images, left_out.num_system, unreadable)


def _walk(folder: Path, left_out: _LeftOut) -> Iterator[tuple[str, str | None]]:
    """(name, path) of everything visible below the folder that is no folder; None for what cannot be read as a file.

    Each real folder is visited once, and linked ones after all others: a link does not rename what it leads to.
    """
    visited: set[str] = set()
    folders, linked = deque([("", os.fspath(folder))]), deque[tuple[str, str]]()
    while folders or linked:
        prefix, current = (folders or linked).popleft()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        below: list[os.DirEntry[str]] = []
        try:
            with os.scandir(current) as found:
                for entry in found:
                    if is_of_system(entry.name):
                        left_out.add_of_system(prefix + entry.name)
                    elif not entry.name.startswith("."):
                        kind = _kind(entry)
                        if kind == "folder":
                            below.append(entry)
                        else:
                            yield prefix + entry.name, entry.path if kind == "file" else None
        except OSError as error:
            if not prefix:
                raise SourceError(f"{current} cannot be read: {error.strerror}") from error
            left_out.unreadable[prefix.removesuffix("/")] = error.strerror or str(error)
        for entry in sorted(below, key=lambda entry: entry.name):
            (linked if entry.is_symlink() else folders).append((f"{prefix}{entry.name}/", entry.path))


def is_of_system(name: str) -> bool:
    """Whether a file or folder of that name is made and used by the system alone."""
    small = name.lower()
    return small in _SYSTEM_NAMES or small.startswith(_SYSTEM_STARTS)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "neither"]:
    """What an entry, or what it links to, is; a link that leads nowhere is a file that cannot be read."""
    try:
        if entry.is_file():
            return "file"
        dangling = entry.is_symlink() and not os.path.exists(entry.path)
        return "folder" if entry.is_dir() else "file" if dangling else "neither"
    except OSError:
        return "file"


def is_image_file(path: str) -> bool:
    """Whether the extension or, failing that, the first bytes are those of an image format."""
    if f".{path.rpartition('.')[2]}".lower() in _image_extensions():
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(32)
    except OSError:
        return False
    return any(_accepts(accept, start) for accept in _signatures()) and _has_an_image_header(path)


def _accepts(accept: Callable[[bytes], bool | str], start: bytes) -> bool:
    """Pillow's tests are made for whole files and raise on shorter ones."""
    try:
        return bool(accept(start))
    except (IndexError, struct.error):
        return False


def _has_an_image_header(path: str) -> bool:
    """Whether Pillow reads the header too: its tests of first bytes take 'P0001,...' or 'Python' for an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path).close()
    except Image.DecompressionBombError:
        return True
    except Exception as error:  # Pillow's readers raise many kinds on what is none of theirs
        if is_out_of_memory(error):
            raise
        return False
    return True


@cache
def _image_extensions() -> frozenset[str]:
    Image.init()
    known = Image.registered_extensions()
    decoded = {ext for ext, name in known.items() if name in Image.OPEN and name not in NOT_DECODED}
    return frozenset(decoded | _OTHER_IMAGES)


@cache
def _signatures() -> tuple:  # type: ignore[type-arg]  # Pillow does not name the type of its accept functions
    """Pillow's own tests of a file's first bytes, for the formats that have one."""
    Image.init()
    return tuple(accept for name, (_, accept) in Image.OPEN.items() if accept is not None and name not in NOT_DECODED)


def _from_list(file: Path, reporter: Reporter) -> ImageSource:
    disk = Disk(file.parent)
    names: set[bytes] = set()
    missing: list[str] = []
    for line in _listed(file, disk):
        found = disk.find(line)
        if found is None:
            missing.append(line.strip())
        names.add(name_to_bytes(line if found is None else found))
    if missing and len(missing) == len(names):
        raise SourceError(
            f"no line of {file} leads to a file ({_such_as(missing, len(missing))}): list paths as they are seen from "
            f"{file.parent}, or whole ones"
        )
    if missing:
        reporter.warning(
            f"{len(missing):,} of the {len(names):,} paths in {file.name} lead to no file: "
            f"{_such_as(missing, len(missing))}"
        )
    return ImageSource(file, file.parent, Names(sorted(names)), 0)


def _listed(file: Path, disk: Disk) -> list[str]:
    """The different paths in a list, as they stand there."""
    is_table = file.suffix.lower() == ".csv"
    try:
        text = read_text(file)
        rows = rows_of(text, _LIST_COLUMNS, disk.has) if is_table else [[line] for line in lines_of(text)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{file} cannot be read as a list of images: {error}") from error
    if any("\0" in cell or len(cell) > _MAX_LISTED for row in rows for cell in row):
        raise SourceError(f"{file} is not a list of images: a line is too long, or not text in UTF-8")
    column = 0
    if is_table and rows:
        header = [column_name(cell) for cell in rows[0]]
        named = [header.index(name) for name in _LIST_COLUMNS if name in header]
        if named:
            column, rows = named[0], rows[1:]
    return list(dict.fromkeys(row[column].strip("\r\n") for row in rows if len(row) > column and row[column].strip()))
