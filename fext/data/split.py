"""Which images a model trains on and which it is tested on: a pure function of names, contents and seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fext.data.names import name_to_bytes
from fext.errors import TooFewImagesError

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


def split_images(images: Sequence[tuple[str, str]], num_train: int, num_test: int) -> Split:
    """Divide (name, checksum) pairs, in sampling order, into train and test.

    Images of equal checksum stay on one side. Where there are fewer images than num_train + num_test, all are used
    in the same proportion. Raises TooFewImagesError where one side would be empty.
    """
    images = images[: num_train + num_test]
    groups: dict[str, list[str]] = {}
    for name, checksum in images:
        groups.setdefault(checksum, []).append(name)
    if len(groups) < 2:
        raise TooFewImagesError(
            f"pretraining needs at least 2 different images, one to train on and one to test on; here are "
            f"{len(images)} images with {len(groups)} different contents"
        )
    if len(images) < num_train + num_test:
        num_test = round(len(images) * num_test / (num_train + num_test))
    num_test = min(max(1, num_test), len(images) - 1)
    return _divide(list(groups.values()), num_test)


def split_by_folder(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> tuple[Split, tuple[str, ...]]:
    """The (name, checksum) pairs of the user's own train and test folders as a split, and the train images left out.

    A train image that is byte for byte a test image is left out. Raises TooFewImagesError where one side is empty.
    """
    contents = {sha256 for _, sha256 in test}
    copies = tuple(sorted((name for name, sha256 in train if sha256 in contents), key=name_to_bytes))
    kept = [name for name, sha256 in train if sha256 not in contents]
    if not kept or not test:
        raise TooFewImagesError(
            f"pretraining needs images in both folders, train and test, that are not the same; here are {len(kept)} "
            f"for train ({len(copies)} more are also in test) and {len(test)} for test"
        )
    names = sorted((name for name, _ in test), key=name_to_bytes)
    return Split(tuple(sorted(kept, key=name_to_bytes)), tuple(names)), copies


def _divide(groups: list[list[str]], num_test: int) -> Split:
    train: list[str] = []
    test: list[str] = []
    for group in groups:
        side = test if len(test) + len(group) <= num_test else train
        side.extend(group)
    if not test:  # every group is larger than the test side should be: the smallest one goes there
        smallest = min(groups, key=len)
        test, train = smallest, [name for name in train if name not in set(smallest)]
    return Split(tuple(sorted(train, key=name_to_bytes)), tuple(sorted(test, key=name_to_bytes)))
