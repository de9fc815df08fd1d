"""Which images a model trains on and which it is tested on: a pure function of names, contents and seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.data.names import Names, name_to_bytes
from fext.errors import TooFewImagesError

# What a side keeps at least of its images where near copies stay together: of pictures that all look alike, such as the
# frames of a film, one group can hold most.
_ENOUGH = 0.9
TRAIN_FOLDER, TEST_FOLDER = "train/", "test/"


@dataclass(frozen=True)
class Split:
    """Names of the train and the test images, each sorted by bytes."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def sampling_order(names: Sequence[str], seed: int) -> Names:
    """The names in the order in which pretraining asks for them."""
    order = np.random.default_rng(seed).permutation(len(names))
    return Names.of(names[position] for position in order.tolist())


def split_images(
    names: Sequence[str],
    checksums: NDArray[Any],
    num_train: int,
    num_test: int,
    copies: Sequence[Sequence[int]] = (),
) -> Split:
    """Divide images, given in sampling order with a checksum each, into train and test.

    Images of equal checksum stay on one side, and so do those of each group of near copies, given as their places; but
    where a side would have less than nine tenths of the images that it has without these groups, the largest of them is
    taken apart, then the next one. Where there are fewer images than num_train + num_test, all are used in the same
    proportion. Raises TooFewImagesError where one side would be empty.
    """
    names, checksums = names[: num_train + num_test], checksums[: num_train + num_test]
    _, first, content = np.unique(checksums, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise TooFewImagesError(
            f"pretraining needs at least 2 different images, one to train on and one to test on; here are "
            f"{len(names)} images with {len(first)} different contents"
        )
    if len(names) < num_train + num_test:
        num_test = round(len(names) * num_test / (num_train + num_test))
    num_test = min(max(1, num_test), len(names) - 1)
    is_test = _divide(first[content], copies, num_test)
    sides = (_sorted(compress(names, side.tolist())) for side in (~is_test, is_test))
    return Split(*sides)


def split_by_folder(
    names: Sequence[str], checksums: NDArray[Any], num_train: int, copies: Sequence[Sequence[int]] = ()
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    """The user's own train and test folders as a split, and the train images left out; the first num_train are train.

    A train image that is byte for byte a test image is left out, and so is one in a group of near copies with a test
    image, the groups given as places. Where that would leave less than nine tenths of the train images, the group that
    costs most stays, then the next one. Returns the split, the exact copies and the near ones. Raises
    TooFewImagesError where one side is empty.
    """
    exact = set(np.flatnonzero(np.isin(checksums[:num_train], checksums[num_train:])).tolist())
    num_kept, num_test = num_train - len(exact), len(names) - num_train
    if not num_kept or not num_test:
        raise TooFewImagesError(
            f"pretraining needs images in both folders, train and test, that are not the same; here are {num_kept} "
            f"for train ({len(exact)} more are also in test) and {num_test} for test"
        )
    near: set[int] = set()
    across = ({place for place in group if place < num_train} - exact for group in copies if max(group) >= num_train)
    for group in sorted(across, key=len):
        if not _is_most_of(num_kept - len(near | group), num_kept):
            break
        near |= group
    sides = (set(range(num_train)) - exact - near, range(num_train, len(names)), exact, near)
    train, test, same, alike = (_sorted(names[place] for place in side) for side in sides)
    return Split(train, test), same, alike


def num_across(copies: Sequence[Sequence[int]], names: Sequence[str], split: Split) -> int:
    """How many images belong to groups of copies that are on both sides."""
    train, test = set(split.train), set(split.test)
    count = 0
    for group in copies:
        on_train, on_test = (sum(names[place] in side for place in group) for side in (train, test))
        count += on_train + on_test if on_train and on_test else 0
    return count


def _divide(contents: NDArray[np.intp], copies: Sequence[Sequence[int]], num_test: int) -> NDArray[np.bool_]:
    """Which images are test images; `contents` tells of each the first of the same content."""
    apart = _fill(contents, num_test)
    together = sorted(copies, key=len)
    while together:
        leaders = np.arange(len(contents))
        for group in together:
            members = contents[list(group)]
            leaders[members] = members.min()
        is_test = _fill(leaders[contents], num_test)
        num_each, num_apart = (np.bincount(side, minlength=2).tolist() for side in (is_test, apart))
        if all(map(_is_most_of, num_each, num_apart)):
            return is_test
        together.pop()
    return apart


def _fill(groups: NDArray[np.intp], num_test: int) -> NDArray[np.bool_]:
    """Which images are test images where groups, each known by its first image, go there in order while they fit."""
    leaders, sizes = np.unique(groups, return_counts=True)
    chosen = np.zeros(len(leaders), bool)
    left = num_test
    for number, size in enumerate(sizes.tolist()):
        if size <= left:
            chosen[number] = True
            left -= size
    if not chosen.any():  # every group is larger than the test side should be: the smallest one goes there
        chosen[np.argmin(sizes)] = True
    return chosen[np.searchsorted(leaders, groups)]


def _is_most_of(count: int, before: int) -> bool:
    return count >= _ENOUGH * before


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=name_to_bytes))
