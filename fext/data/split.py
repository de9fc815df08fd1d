"""Which images a model trains on and which it is tested on: a pure function of names, contents and seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fext.data.names import name_to_bytes
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


def sampling_order(names: Sequence[str], seed: int) -> list[str]:
    """The names in the order in which pretraining asks for them."""
    order = np.random.default_rng(seed).permutation(len(names))
    return [names[position] for position in order]


def split_images(
    images: Sequence[tuple[str, str]], num_train: int, num_test: int, copies: Sequence[Sequence[int]] = ()
) -> Split:
    """Divide (name, checksum) pairs, in sampling order, into train and test.

    Images of equal checksum stay on one side, and so do those of each group of near copies, given as places of images;
    but where a side would have less than nine tenths of the images that it has without these groups, the largest of
    them is taken apart, then the next one. Where there are fewer images than num_train + num_test, all are used in the
    same proportion. Raises TooFewImagesError where one side would be empty.
    """
    images = images[: num_train + num_test]
    contents: dict[str, list[str]] = {}
    for name, checksum in images:
        contents.setdefault(checksum, []).append(name)
    if len(contents) < 2:
        raise TooFewImagesError(
            f"pretraining needs at least 2 different images, one to train on and one to test on; here are "
            f"{len(images)} images with {len(contents)} different contents"
        )
    if len(images) < num_train + num_test:
        num_test = round(len(images) * num_test / (num_train + num_test))
    num_test = min(max(1, num_test), len(images) - 1)
    apart = _divide(list(contents.values()), num_test)
    together = sorted(copies, key=len)
    while together:
        split = _divide(_join(contents, images, together), num_test)
        if _is_most_of(split.train, apart.train) and _is_most_of(split.test, apart.test):
            return split
        together.pop()
    return apart


def split_by_folder(
    train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], copies: Sequence[Sequence[int]] = ()
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    """The (name, checksum) pairs of the user's own train and test folders as a split, and the train images left out.

    A train image that is byte for byte a test image is left out, and so is one in a group of near copies with a test
    image; the groups are places in train and, behind it, test. Where that would leave less than nine tenths, the group
    that costs most stays, then the next one. Returns the split, the exact copies and the near ones. Raises
    TooFewImagesError where one side is empty.
    """
    contents = {sha256 for _, sha256 in test}
    exact = {name for name, sha256 in train if sha256 in contents}
    kept = [name for name, _ in train if name not in exact]
    if not kept or not test:
        raise TooFewImagesError(
            f"pretraining needs images in both folders, train and test, that are not the same; here are {len(kept)} "
            f"for train ({len(exact)} more are also in test) and {len(test)} for test"
        )
    near: set[str] = set()
    across = [
        {train[place][0] for place in group if place < len(train)} - exact
        for group in copies
        if max(group) >= len(train)
    ]
    for group in sorted(across, key=len):
        if not _is_most_of(range(len(kept) - len(near | group)), kept):
            break
        near |= group
    sides = ((name for name in kept if name not in near), (name for name, _ in test))
    return Split(*map(_sorted, sides)), _sorted(exact), _sorted(near)


def num_across(copies: Sequence[Sequence[int]], names: Sequence[str], split: Split) -> int:
    """How many images of the groups of copies that are on both sides."""
    train, test = set(split.train), set(split.test)
    groups = [{names[place] for place in group} for group in copies]
    return sum(len(group & (train | test)) for group in groups if group & train and group & test)


def _join(
    contents: dict[str, list[str]], images: Sequence[tuple[str, str]], copies: Sequence[Sequence[int]]
) -> list[list[str]]:
    """Names that belong together, in the order of the first: of equal checksum, or in one group of copies."""
    leaders = {images[place][1]: images[group[0]][1] for group in copies for place in group}
    joined: dict[str, list[str]] = {}
    for checksum, names in contents.items():
        joined.setdefault(leaders.get(checksum, checksum), []).extend(names)
    return list(joined.values())


def _is_most_of(images: Sequence[object], before: Sequence[object]) -> bool:
    return len(images) >= _ENOUGH * len(before)


def _divide(groups: list[list[str]], num_test: int) -> Split:
    train: list[str] = []
    test: list[str] = []
    for group in groups:
        side = test if len(test) + len(group) <= num_test else train
        side.extend(group)
    if not test:  # every group is larger than the test side should be: the smallest one goes there
        test = min(groups, key=len)
        moved = set(test)
        train = [name for name in train if name not in moved]
    return Split(_sorted(train), _sorted(test))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=name_to_bytes))
