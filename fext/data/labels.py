"""The label of an image, where the folders that images lie in say what they show."""

from array import array
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fext.data.split import TEST_FOLDER, TRAIN_FOLDER

_MIN_PER_LABEL = 2


def label_of(name: str) -> str:
    """The folder that an image is in, as in 'cat' of 'cat/1.jpg' and of 'train/cat/1.jpg'; '' at the top."""
    for side in (TRAIN_FOLDER, TEST_FOLDER):
        name = name.removeprefix(side)
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def are_labels(labels: Sequence[Hashable]) -> bool:
    """Whether such labels divide images into classes: at least two, of at least two images each on average."""
    different = set(labels)
    return len(different) >= 2 and len(labels) >= _MIN_PER_LABEL * len(different)


def label_codes(names: Iterable[str]) -> NDArray[np.int32]:
    """The label of each image as a number, the same for the same label: four bytes for an image."""
    numbers: dict[str, int] = {}
    return np.array(array("i", (numbers.setdefault(label_of(name), len(numbers)) for name in names)), np.int32)


def label_chance(codes: NDArray[np.int32]) -> float:
    """How likely another image, drawn at random, has the label of an image: the mean over two or more images."""
    counts = np.bincount(codes).astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(codes) * (len(codes) - 1)))
