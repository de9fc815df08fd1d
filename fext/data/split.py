"""Which images a model trains on and which it is tested on: a pure function of names, contents and seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fext.data.source import sort_key
from fext.errors import TooFewImagesError


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


def _divide(groups: list[list[str]], num_test: int) -> Split:
    train: list[str] = []
    test: list[str] = []
    for group in groups:
        side = test if len(test) + len(group) <= num_test else train
        side.extend(group)
    if not test:  # every group is larger than the test side should be: the smallest one goes there
        smallest = min(groups, key=len)
        test, train = smallest, [name for name in train if name not in set(smallest)]
    return Split(tuple(sorted(train, key=sort_key)), tuple(sorted(test, key=sort_key)))
