"""Which images a checkpoint was trained on, chose its epoch by or was tested on: known by what their files hold.

A file that was copied, renamed or moved is the same image; one whose content is another is none of them, whatever its
name.
"""

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.data.duplicates import group_copies, hashes_from_bytes, small_pictures
from fext.data.images import checksum, read_file
from fext.data.names import Names
from fext.data.source import ImageSource, known_images
from fext.data.split import SIDES, Split
from fext.errors import ImageRejected
from fext.reporting import Reporter
from fext.store.checkpoints import Checkpoint, load_checksums
from fext.store.index import CheckedImages
from fext.store.workspace import Workspace

NEW = "new"
_NONE = -1  # in place of the number of a side
_DIGEST = 32  # bytes of a SHA-256; one of zeros stands for a file that cannot be read

Digests = NDArray[np.bytes_]


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file, 32 bytes; zeros where it cannot be read."""
    try:
        return bytes.fromhex(checksum(read_file(path)[0]))
    except ImageRejected:
        return bytes(_DIGEST)


def file_digests(source: ImageSource, places: Iterable[int], total: int, reporter: Reporter) -> bytes:
    """What file_digest gives for the images of a source at some places, one behind the other."""
    digests = bytearray()
    with reporter.progress("reading files", total) as progress:
        for place in places:
            digests += file_digest(source.path(source.names[place]))
            progress.advance()
    return bytes(digests)


@dataclass(frozen=True)
class KnownImages:
    """The contents of the images of a split, sorted, and the number of the side that each is on."""

    digests: Digests
    sides: NDArray[np.int8]

    def sides_of(self, digests: bytes) -> NDArray[np.int8]:
        """The number of the side on which an image of each content is; -1 where there is none."""
        asked = np.frombuffer(digests, f"S{_DIGEST}")
        places = np.searchsorted(self.digests, asked).clip(max=len(self.digests) - 1)
        found: NDArray[np.int8] = np.where(self.digests[places] == asked, self.sides[places], _NONE).astype(np.int8)
        return found


class Checksums(Sequence[str]):
    """The SHA-256 of images in hexadecimal, made from digests of 32 bytes as they are asked for."""

    def __init__(self, digests: bytes) -> None:
        self._digests = digests

    def __len__(self) -> int:
        return len(self._digests) // _DIGEST

    def __getitem__(self, place: Any) -> Any:
        return self._digests[_DIGEST * place : _DIGEST * (place + 1)].hex()


def checksums_by_side(checkpoint: Checkpoint) -> Mapping[str, Checksums | None]:
    """The checksums of each side of a checkpoint's split, in its order; None where an earlier FeXT left none."""
    split = checkpoint.split()
    if (digests := _digests(checkpoint, split)) is None:
        return dict.fromkeys(SIDES)
    ends = np.cumsum([len(names) * _DIGEST for _, names in split.sides()]).tolist()
    return {
        side: Checksums(digests[end - len(names) * _DIGEST : end])
        for (side, names), end in zip(split.sides(), ends, strict=True)
    }


def images_of(checkpoint: Checkpoint) -> KnownImages | None:
    """The images of a checkpoint's split by their contents; None where an earlier FeXT left no checksums."""
    split = checkpoint.split()
    if (digests := _digests(checkpoint, split)) is None:
        return None
    sides = np.repeat(np.arange(len(SIDES), dtype=np.int8), [len(names) for _, names in split.sides()])
    contents = np.frombuffer(digests, f"S{_DIGEST}")
    order = np.argsort(contents, kind="stable")
    return KnownImages(contents[order], sides[order])


def _digests(checkpoint: Checkpoint, split: Split) -> bytes | None:
    """The digests of the images of a split, in its order; None where there are none, or not as many."""
    digests = load_checksums(checkpoint.folder)
    return digests if digests is not None and len(digests) == _DIGEST * len(split.names()) else None


def recognize(
    workspace: Workspace, checkpoint: Checkpoint, source: ImageSource, reporter: Reporter
) -> NDArray[np.str_]:
    """Of each image of a source the side of the checkpoint's split that it is on, or 'new'; what was found is told.

    A near copy counts as what it is a copy of, where analyzing or choosing has seen both. Checkpoints of earlier FeXT
    without checksums know their images by their files, or where none of them is left by their names.
    """
    split = checkpoint.split()
    if (known := images_of(checkpoint)) is None:
        return _by_name(checkpoint, split, source, reporter)
    digests = file_digests(source, range(len(source)), len(source), reporter)
    sides = known.sides_of(digests)
    _say_changed(checkpoint, split, source, digests, sides, reporter)
    near = _near_copies(workspace, known, digests, sides)
    for number, side in enumerate(SIDES):
        if count := int((near == number).sum()):
            reporter.message(f"{_look(count)} of {side} images of {checkpoint.name}: counted as such")
    return _as_words(np.where(sides == _NONE, near, sides))


def tell_sides(checkpoint: Checkpoint, subsets: NDArray[np.str_], reporter: Reporter) -> None:
    """Say how many images of a folder that the user named are those of the checkpoint's split."""
    counts = {side: int((subsets == side).sum()) for side in SIDES}
    if any(counts.values()):
        each = ", ".join(f"{count:,} {side}" for side, count in counts.items())
        num_new = len(subsets) - sum(counts.values())
        reporter.message(f"{checkpoint.name} knows images of its own here: {each}; {num_new:,} are new")


def _as_words(sides: NDArray[np.int8]) -> NDArray[np.str_]:
    return np.array([*SIDES, NEW], "U10")[sides]


def _look(count: int) -> str:
    return "1 image looks like a near copy" if count == 1 else f"{count:,} images look like near copies"


def _say_changed(
    checkpoint: Checkpoint,
    split: Split,
    source: ImageSource,
    digests: bytes,
    sides: NDArray[np.int8],
    reporter: Reporter,
) -> None:
    """Tell of the files that have the name of an image of the split, and hold another one."""
    names = set(split.names())
    is_there = np.frombuffer(digests, f"S{_DIGEST}") != b""
    changed = [
        name for name, is_new in zip(source.names, (is_there & (sides == _NONE)).tolist(), strict=True)
        if is_new and name in names
    ]  # fmt: skip
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        reporter.warning(
            f"{changed[0]}{more}: the name of an image that {checkpoint.name} was trained or tested on, but not its "
            f"content any more: new"
        )


# ---------------------------------------------------------------- near copies


def _near_copies(workspace: Workspace, known: KnownImages, digests: bytes, sides: NDArray[np.int8]) -> NDArray[np.int8]:
    """Of each new image the side of what it is a near copy of, the first there is; -1 where it is none.

    Pictures that neither choosing nor analyzing has looked at are not looked at here either.
    """
    contents = np.frombuffer(digests, f"S{_DIGEST}")
    near = np.full(len(sides), _NONE, np.int8)
    is_new = (sides == _NONE) & (contents != b"")
    if not is_new.any() or not workspace.checked_images.is_file():
        return near
    memory = CheckedImages(workspace.checked_images)
    try:
        found = _sides_by_likeness(memory, known, contents[is_new])
    finally:
        memory.close()
    for place in np.flatnonzero(is_new).tolist():
        near[place] = found.get(contents[place], _NONE)
    return near


def _sides_by_likeness(memory: CheckedImages, known: KnownImages, new: Digests) -> dict[bytes, int]:
    """Of new contents that look like images of the split the side of these: the first, where they are on several."""
    rows, digests, hashes = array("q"), bytearray(), bytearray()
    for row, sha256, perceptual_hash in memory.good_images():
        rows.append(row)
        digests += bytes.fromhex(sha256)
        hashes += perceptual_hash
    contents, sides = np.frombuffer(digests, f"S{_DIGEST}"), known.sides_of(bytes(digests))
    taken = np.flatnonzero((sides != _NONE) | np.isin(contents, new))
    contents, sides = contents[taken], sides[taken]

    def pictures_of(places: NDArray[np.intp]) -> NDArray[np.uint8]:
        return small_pictures([memory.small_of_row(rows[place]) for place in taken[places].tolist()])

    found: dict[bytes, int] = {}
    for group in group_copies(contents, hashes_from_bytes(hashes)[taken], pictures_of):
        if len(on_sides := sides[group][sides[group] != _NONE]):
            found |= dict.fromkeys(contents[group][sides[group] == _NONE].tolist(), int(on_sides.min()))
    return found


# ---------------------------------------------------------------- without checksums


def _by_name(checkpoint: Checkpoint, split: Split, source: ImageSource, reporter: Reporter) -> NDArray[np.str_]:
    """Of each image the side on which the split names this very file; its name alone, where none of these is left."""
    reporter.message(
        f"{checkpoint.name} was made by an earlier FeXT, without checksums: its images are known by their names alone"
    )
    known = {name: side for side, names in split.sides() for name in names}
    root = known_images(Path(checkpoint.source), Names([])).root
    if any(os.path.exists(root / name) for name in known):
        paths = {os.path.realpath(root / name): side for name, side in known.items()}
        return np.array([paths.get(os.path.realpath(source.path(name)), NEW) for name in source.names], "U10")
    return np.array([known.get(name, NEW) for name in source.names], "U10")
