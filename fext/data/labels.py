"""The label of an image, where the folders that images lie in say what they show."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from fext.data.split import TEST_FOLDER, TRAIN_FOLDER

_MIN_PER_LABEL = 2


def label_of(name: str) -> str:
    """The folder that an image is in, as in 'cat' of 'cat/1.jpg' and of 'train/cat/1.jpg'; '' at the top."""
    for side in (TRAIN_FOLDER, TEST_FOLDER):
        name = name.removeprefix(side)
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def are_labels(labels: Sequence[str]) -> bool:
    """Whether such labels divide images into classes: at least two, of at least two images each on average."""
    different = set(labels)
    return len(different) >= 2 and len(labels) >= _MIN_PER_LABEL * len(different)
