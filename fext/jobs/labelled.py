"""The labels of many images, as numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fext.data.labels import are_labels, label_of


@dataclass(frozen=True)
class Labelled:
    """The labels there are, sorted, and of each image (N,) the place of its own among them."""

    names: Sequence[str]
    codes: NDArray[np.int32]


def labels_of(images: Iterable[str]) -> Labelled | None:
    """What the folders that images lie in say of them; None where they do not divide images into classes."""
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(label_of(image), len(numbers)) for image in images), np.int32)
    found = list(numbers)
    if not are_labels([found[code] for code in codes]):
        return None
    names = sorted(numbers)
    place = np.array([names.index(label) for label in found], np.int32)
    return Labelled(names, place[codes])
