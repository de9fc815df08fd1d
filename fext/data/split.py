"""Which images a model trains on, by which its epoch is chosen, and which it is tested on.

A pure function of names, contents and seed.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fext.data.names import Names, name_to_bytes
from fext.errors import TooFewImagesError

# What a side keeps at least of its images where near copies stay together: of pictures that all look alike, such as the
# frames of a film, one group can hold most. The validation images are few, and groups fit among them less well.
_ENOUGH, _ENOUGH_FOR_VALIDATION = 0.9, 0.5
TRAIN_FOLDER, VALIDATION_FOLDER, TEST_FOLDER = "train/", "validation/", "test/"
SIDES: tuple[Literal["train"], Literal["validation"], Literal["test"]] = ("train", "validation", "test")

ChosenBy = Literal["validation", "test"]


@dataclass(frozen=True)
class Split:
    """Names of the train, the validation and the test images, each sorted by bytes.

    Earlier FeXT took no validation images, and chose the epoch that is kept by the test images.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def chosen_by(self) -> ChosenBy:
        """The side that the epoch is chosen by."""
        return "validation" if self.validation else "test"

    @property
    def choosing(self) -> tuple[str, ...]:
        """The images that the epoch is chosen by."""
        return self.validation or self.test

    def names(self) -> tuple[str, ...]:
        """All of them: train, validation, test."""
        return self.train + self.validation + self.test

    def sides(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each side with its images."""
        yield from zip(SIDES, (self.train, self.validation, self.test), strict=True)


def chosen_by(columns: Container[str]) -> ChosenBy:
    """The side that an epoch was chosen by, as the columns of its history tell."""
    return "validation" if "validation_loss" in columns else "test"


def sampling_order(names: Sequence[str], seed: int) -> Names:
    """The names in the order in which pretraining asks for them."""
    order = np.random.default_rng(seed).permutation(len(names))
    return Names.of(names[position] for position in order.tolist())


def split_images(
    names: Sequence[str],
    checksums: NDArray[Any],
    num_train: int,
    num_test: int,
    validation_share: float,
    copies: Sequence[Sequence[int]] = (),
) -> Split:
    """Divide images, given in sampling order with a checksum each, into train, validation and test.

    num_train are for training and validation together; validation_share of them, but at least one, are for validation.
    Images of equal checksum stay on one side, and so do those of each group of near copies, given as their places; but
    where a side would have less than nine tenths (validation: half) of the images that it has without these groups, the
    largest of them is taken apart, then the next one. Where there are fewer images than num_train + num_test, all are
    used in the same proportion. Raises TooFewImagesError where one side would be empty.
    """
    names, checksums = names[: num_train + num_test], checksums[: num_train + num_test]
    num_contents = len(np.unique(checksums))
    if num_contents < len(SIDES):
        raise TooFewImagesError(
            f"pretraining needs at least 3 different images, one to train on, one to choose the epoch by and one to "
            f"test on; here are {len(names)} images with {num_contents} different contents"
        )
    if len(names) < num_train + num_test:
        num_test = round(len(names) * num_test / (num_train + num_test))
    is_test = _divide(checksums, copies, min(max(1, num_test), len(names) - 2), num_left=2)
    is_validation = _of_the_train_side(~is_test, checksums, copies, validation_share)
    sides = (~is_test & ~is_validation, is_validation, is_test)
    return Split(*(_sorted(compress(names, side.tolist())) for side in sides))


@dataclass(frozen=True)
class FolderSplit:
    """The user's own folders as a split, and the images left out, each with where the image is that it is a copy of."""

    split: Split
    exact: Mapping[str, str]
    near: Mapping[str, str]


def split_by_folder(
    names: Sequence[str],
    checksums: NDArray[Any],
    num_each: tuple[int, int, int],
    validation_share: float,
    copies: Sequence[Sequence[int]] = (),
) -> FolderSplit:
    """Divide images that come by folder, num_each of train, validation and test in this order.

    Without validation images validation_share of the train images, but at least one, are taken for that. A train or
    validation image that is byte for byte a test image is left out, and so is one in a group of near copies with a test
    image, the groups given as places; likewise a train image that is a copy of a validation image. Where that would
    leave less than nine tenths of a side, the group that costs most stays, then the next one. Raises TooFewImagesError
    where one side is empty.
    """
    ends = np.cumsum(num_each).tolist()
    train, validation, test = (set(range(end - count, end)) for end, count in zip(ends, num_each, strict=True))
    exact: dict[int, str] = {}
    near: dict[int, str] = {}
    for side, other, folder in (
        (train, test, TEST_FOLDER),
        (validation, test, TEST_FOLDER),
        (train, validation, VALIDATION_FOLDER),
    ):
        same, alike = _copies_of(side, other, checksums, copies)
        exact |= dict.fromkeys(same, folder)
        near |= dict.fromkeys(alike, folder)
        side -= same | alike
    if not num_each[1]:
        is_train = np.isin(np.arange(len(names)), list(train))
        if len(np.unique(checksums[is_train])) > 1:
            is_validation = _of_the_train_side(is_train, checksums, copies, validation_share)
            validation = set(np.flatnonzero(is_validation).tolist())
            train -= validation
    if not (train and validation and test):
        raise TooFewImagesError(
            f"pretraining needs images in the folders train and test that are not the same, and of those in train (or "
            f"in a folder validation) some to choose the epoch by; here are {len(train)} to train on, "
            f"{len(validation)} to choose by and {len(test)} to test on, and {len(exact)} more that are in another of "
            f"these folders, too"
        )
    split = Split(*(_sorted(names[place] for place in side) for side in (train, validation, test)))
    return FolderSplit(split, *({names[place]: folder for place, folder in found.items()} for found in (exact, near)))


def num_across(copies: Sequence[Sequence[int]], names: Sequence[str], split: Split) -> int:
    """How many images belong to groups of copies that are on several sides."""
    sides = [set(images) for _, images in split.sides()]
    count = 0
    for group in copies:
        on_each = [sum(names[place] in side for place in group) for side in sides]
        count += sum(on_each) if sum(map(bool, on_each)) > 1 else 0
    return count


def _copies_of(
    side: set[int], other: set[int], checksums: NDArray[Any], copies: Sequence[Sequence[int]]
) -> tuple[set[int], set[int]]:
    """The places of a side that are exact copies, and those that are near copies, of images of another side."""
    places = np.array(sorted(side), np.intp)
    is_same = np.isin(checksums[places], checksums[sorted(other)]) if other else np.zeros(len(places), bool)
    exact = set(places[is_same].tolist())
    num_kept = len(side) - len(exact)
    near: set[int] = set()
    across = (side.intersection(group) - exact for group in copies if not other.isdisjoint(group))
    for group in sorted(across, key=len):
        if not _is_most_of(num_kept - len(near | group), num_kept):
            break
        near |= group
    return exact, near


def _of_the_train_side(
    is_train: NDArray[np.bool_], checksums: NDArray[Any], copies: Sequence[Sequence[int]], share: float
) -> NDArray[np.bool_]:
    """Which of the images for training, of at least two contents, are for validation: a share, but at least one."""
    places = np.flatnonzero(is_train)
    place_among = np.cumsum(is_train) - 1
    groups = ([int(place_among[place]) for place in group if is_train[place]] for group in copies)
    count = min(max(1, round(share * len(places))), len(places) - 1)
    is_validation = np.zeros(len(is_train), bool)
    together = [group for group in groups if len(group) > 1]
    is_validation[places] = _divide(checksums[places], together, count, num_left=1, enough=_ENOUGH_FOR_VALIDATION)
    return is_validation


def _divide(
    checksums: NDArray[Any], copies: Sequence[Sequence[int]], count: int, *, num_left: int, enough: float = _ENOUGH
) -> NDArray[np.bool_]:
    """Which images are taken so that there are some `count` of them, and num_left contents at least are left."""
    _, first, content = np.unique(checksums, return_index=True, return_inverse=True)
    contents = first[content]  # of each image the first of the same content
    apart = _fill(contents, count, num_left)
    together = sorted(copies, key=len)
    while together:
        leaders = np.arange(len(contents))
        for group in together:
            members = contents[list(group)]
            leaders[members] = members.min()
        is_taken = _fill(leaders[contents], count, num_left)
        are_enough = is_taken.sum() >= enough * apart.sum() and _is_most_of((~is_taken).sum(), (~apart).sum())
        if are_enough and len(np.unique(contents[~is_taken])) >= num_left:
            return is_taken
        together.pop()
    return apart


def _fill(groups: NDArray[np.intp], count: int, num_left: int) -> NDArray[np.bool_]:
    """Which images are taken where groups, each known by its first image, are taken in order while they fit."""
    leaders, sizes = np.unique(groups, return_counts=True)
    chosen = np.zeros(len(leaders), bool)
    left, num_groups = count, len(leaders) - num_left
    for number, size in enumerate(sizes.tolist()):
        if size <= left and num_groups > 0:
            chosen[number] = True
            left, num_groups = left - size, num_groups - 1
    if not chosen.any():  # every group is larger than the side should be: the smallest one goes there
        chosen[np.argmin(sizes)] = True
    return chosen[np.searchsorted(leaders, groups)]


def _is_most_of(count: int, before: int) -> bool:
    return count >= _ENOUGH * before


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=name_to_bytes))
