"""Which images belong together, so that an interval must not count each of them: tiles, shots of one thing, copies.

Names say so where images are numbered under one name, as in astronaut_0_1 and astronaut_0_2 or pump (1) and pump (2).
A date or a counter of a camera says nothing, nor does a number behind the name of the folder, which may be a label.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fext.data.labels import label_of

Way = Literal["auto", "folders", "none"]
By = Literal["names", "copies", "folders", "none"]
Codes = NDArray[np.int64]

_NUMBER = re.compile(r"[ _.\-]*\(?\d+\)?$")  # as in 'cat12', 'cat-12' and 'cat (12)'
_DATE = re.compile(r"(?<!\d)(19|20)\d\d[ _.\-]?(0[1-9]|1[0-2])[ _.\-]?([012]\d|3[01])")
_TILE = re.compile(r"^(.*[^\d_\- ])[_\- ](\d{1,3})[_\- ](\d{1,3})$")
_COUNTERS = frozenset(
    ("", "img", "image", "images", "dsc", "dscn", "dscf", "p", "pic", "pict", "picture", "pxl", "photo", "scan",
     "screenshot", "file", "sample", "untitled")
)  # fmt: skip
# Fewer groups of tiles, or of numbered images, or larger ones are rather classes, cohorts or cameras.
_FEWEST_TILED, _FEWEST_NUMBERED, _LARGEST_NUMBERED = 5, 10, 50
_LEAST_OF_GRID = 0.25  # of the tiles that rows and columns would have; of dates there are fewer days


@dataclass(frozen=True)
class ImageGroups:
    """The group of each image (N,), images in none each with a group of its own, and what says so."""

    codes: Codes
    by: By

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(np.unique(self.codes))

    def of(self, places: NDArray[np.bool_] | NDArray[np.int64]) -> "ImageGroups":
        """Those of some of the images."""
        return ImageGroups(self.codes[places], self.by)

    def to_dict(self) -> dict[str, object]:
        """As JSON can hold it."""
        return {"by": self.by, "num_groups": self.count}

    def sentence(self) -> str:
        """What intervals take for independent."""
        if self.by == "none" or self.count == len(self.codes):
            return "Intervals take the images for independent of each other."
        why = {"names": "their names say", "copies": "they are copies", "folders": "they lie in one folder"}[self.by]
        return (
            f"Intervals count {self.count:,} groups, not {len(self.codes):,} images, for images belong together where "
            f"{why}{' or they are copies' if self.by == 'names' else ''}."
        )


def group_images(names: Sequence[str], way: Way, contents: NDArray[np.int64] | None = None) -> ImageGroups:
    """Groups of images by their names or folders; equal `contents` (N,) make copies, which belong together."""
    if way == "none":
        return ImageGroups(np.arange(len(names)), "none")
    if way == "folders":
        return ImageGroups(_numbers(label_of(name) for name in names), "folders")
    codes = _tiled(names)
    codes = _numbered(names) if codes is None else codes
    by: By = "none" if codes is None else "names"
    codes = np.arange(len(names)) if codes is None else codes
    if contents is not None and len(np.unique(contents)) < len(names):
        codes, by = _joined(codes, contents), "copies" if by == "none" else by
    return ImageGroups(codes, by)


def effective_number(codes: Codes) -> float:
    """How many groups of equal size weigh as much in a mean: N^2 over the sum of squared sizes.

    Carter, Schnepel and Steigerwald, 'Asymptotic behavior of a t-test robust to cluster heterogeneity', 2017.
    """
    sizes = np.unique(codes, return_counts=True)[1]
    return float(len(codes) ** 2 / np.square(sizes, dtype=np.float64).sum())


def _tiled(names: Sequence[str]) -> Codes | None:
    """By the names before row and column; None where few are tiles, or they are no grids."""

    def tiles() -> Iterator[re.Match[str] | None]:
        stems = (PurePosixPath(name).stem for name in names)
        return (None if _DATE.search(stem) else _TILE.match(stem) for stem in stems)

    cells: dict[str, set[tuple[str, str]]] = {}
    for tile in tiles():
        if tile is not None:
            cells.setdefault(tile[1], set()).add((tile[2], tile[3]))
    whole = sum(len({row for row, _ in one}) * len({column for _, column in one}) for one in cells.values())
    if not cells or sum(map(len, cells.values())) < _LEAST_OF_GRID * whole:
        return None
    codes = _numbers(tile and tile[1] for tile in tiles())
    return _that_say_more(codes, names, _FEWEST_TILED)


def _numbered(names: Sequence[str]) -> Codes | None:
    """By the names before a number; None where that would be few or large groups."""
    codes = _numbers(_before_number(name) for name in names)
    sizes = np.unique(codes, return_counts=True)[1]
    if not len(sizes) or sizes[sizes > 1].sum() > _LARGEST_NUMBERED * (sizes > 1).sum():
        return None
    return _that_say_more(codes, names, _FEWEST_NUMBERED)


def _before_number(name: str) -> str | None:
    """Folder and name before the number that ends it; None where that says nothing."""
    stem = PurePosixPath(name).stem
    base = _NUMBER.sub("", stem)
    words = base.strip(" _.-").casefold()
    is_counter = words in _COUNTERS or not any(map(str.isalpha, words))
    says_nothing = base == stem or is_counter or _DATE.search(stem) is not None
    return None if says_nothing else f"{label_of(name)}/{base}"


def _that_say_more(codes: Codes, names: Sequence[str], fewest: int) -> Codes | None:
    """The groups, where there are enough of them, and not all of one or those of the folders, which may be labels."""
    _, group, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    grouped = sizes[group] > 1
    if not grouped.any() or effective_number(codes) < fewest:
        return None
    folders = _numbers(label_of(name) for name in names)[grouped]
    num_pairs = np.unique(np.stack([folders, codes[grouped]]), axis=1).shape[1]
    are_folders = num_pairs == len(np.unique(folders)) == len(np.unique(codes[grouped]))
    return None if are_folders else codes


def _joined(codes: Codes, contents: NDArray[np.int64]) -> Codes:
    """Groups that share a content become one."""
    _, one = np.unique(codes, return_inverse=True)
    _, other = np.unique(contents, return_inverse=True)
    size = int(one.max()) + 1
    links = sparse.coo_matrix((np.ones(len(one)), (one, size + other)), shape=(size + int(other.max()) + 1,) * 2)
    found: Codes = sparse.csgraph.connected_components(links, directed=False)[1][one].astype(np.int64)
    return found


def _numbers(keys: Iterable[str | None]) -> Codes:
    """A number for each different key, and one of its own for each None."""
    known: dict[str, int] = {}
    codes = (-place if key is None else known.setdefault(key, len(known)) for place, key in enumerate(keys, start=1))
    return np.fromiter(codes, np.int64)
