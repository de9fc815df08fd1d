"""The label of an image: the folder it is in, or what a CSV file says of it; and which images are for what."""

import csv
from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fext.data.listing import column_name, read_text, rows_of
from fext.data.names import readable
from fext.data.spelling import bare, match
from fext.data.split import TEST_FOLDER, TRAIN_FOLDER, VALIDATION_FOLDER
from fext.errors import SourceError, TooFewImagesError

_MIN_PER_LABEL = 2
_SHOWN, _FEW, _MAX_SHOWN = 5, 2, 60
_COLUMNS = ("image", "label")

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Images with labels: `codes` (N,) tells of each image the place of its label in `classes`, -1 where it has none.

    num_elsewhere labels of a file are of images that are not among these; `elsewhere` are the first of their names.
    """

    classes: tuple[str, ...]
    codes: NDArray[np.int32]
    num_elsewhere: int = 0
    elsewhere: tuple[str, ...] = ()

    @property
    def places(self) -> Places:
        """Of the images that have a label."""
        return np.flatnonzero(self.codes >= 0).astype(np.int64)

    @property
    def num_without(self) -> int:
        """How many images have no label."""
        return int((self.codes < 0).sum())


class Division(NamedTuple):
    """The places of the images to train on, to choose by, and to test on; each in order."""

    train: Places
    validation: Places
    test: Places


def label_of(name: str) -> str:
    """The folder that an image is in, as in 'cat' of 'cat/1.jpg' and of 'train/cat/1.jpg'; '' at the top."""
    for side in (TRAIN_FOLDER, VALIDATION_FOLDER, TEST_FOLDER):
        name = name.removeprefix(side)
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder


def are_labels(labels: Sequence[Hashable]) -> bool:
    """Whether such labels divide images into classes: at least two, of at least two images each on average."""
    different = set(labels)
    return len(different) >= 2 and len(labels) >= _MIN_PER_LABEL * len(different)


def folder_labels(names: Iterable[str]) -> Labelled:
    """The images with their folders for labels, the top one ('') among them, whether these divide them or not."""
    numbers: dict[str, int] = {}
    codes = array("i", (numbers.setdefault(label_of(name), len(numbers)) for name in names))
    return _with_classes(numbers, np.array(codes, np.int32))


def labels_of(names: Iterable[str]) -> Labelled | None:
    """As folder_labels; None where the folders do not divide the images into classes."""
    labelled = folder_labels(names)
    return labelled if are_labels(labelled.codes.tolist()) else None


def label_chance(codes: NDArray[np.int32]) -> float:
    """How likely another image, drawn at random, has the label of an image: the mean over two or more images."""
    counts = np.bincount(codes).astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(codes) * (len(codes) - 1)))


def read_labels(file: Path) -> dict[str, str]:
    """The label of each image that a CSV with the columns image and label names.

    Columns may be set apart by ';' or a tab, too. An empty label is none. Raises SourceError where the file cannot be
    read, or gives an image two labels.
    """
    try:
        rows = rows_of(read_text(file), _COLUMNS, strict=True)
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} cannot be read as a table of labels: save it as text in UTF-8") from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(
            f"{file} cannot be read as a table of labels ({reason}): name a CSV with the columns image and label"
        ) from error
    header = [column_name(cell) for cell in rows[0]] if rows else []
    if not {*_COLUMNS} <= {*header}:
        first = readable(", ".join(rows[0])[:_MAX_SHOWN]) if rows else ""
        raise SourceError(f"{file} has no columns image and label: its first line has to name them, and is {first!r}")
    image, label = (header.index(column) for column in _COLUMNS)
    labels: dict[str, str] = {}
    for row in rows[1:]:
        if len(row) > max(image, label) and row[image] and (told := bare(row[label])):
            _add(labels, row[image], told, file)
    return labels


def _add(labels: dict[str, str], name: str, label: str, where: object) -> None:
    if labels.setdefault(name, label) != label:
        raise SourceError(f"{where} gives {name} two labels, {labels[name]} and {label}: leave one")


def label_images(names: Sequence[str], labels: Mapping[str, str] | None = None) -> Labelled:
    """The images with the labels given, else with those of their folders.

    What labels are given for names images as `match` finds them. Raises TooFewImagesError where they are not at least
    two classes, one of them with two images to learn and test by, and SourceError where an image has two labels.
    """
    given, elsewhere = _given(names, labels) if labels is not None else ({}, [])
    by_label: dict[str, int] = {}
    codes = np.full(len(names), -1, np.int32)
    for place, name in enumerate(names):
        label = label_of(name) if labels is None else given.get(name, "")
        if label:
            codes[place] = by_label.setdefault(label, len(by_label))
    labelled = replace(_with_classes(by_label, codes), num_elsewhere=len(elsewhere), elsewhere=tuple(elsewhere[:_FEW]))
    if labels and not given:
        raise TooFewImagesError(
            f"images are told apart by two classes or more, and here none has a label: name images in the table as "
            f"the extraction does (the table has {_such_as(elsewhere)}, the extraction {_such_as(names)})"
        )
    _refuse_too_few(labelled, given=labels is not None)
    return labelled


def _given(names: Sequence[str], labels: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The label of each image that the labels are given for, and what else they are given for."""
    given: dict[str, str] = {}
    meant = match(names, labels)
    for text, name in meant.items():
        _add(given, name, labels[text], "the table of labels")
    return given, [text for text in labels if text not in meant]


def _such_as(names: Sequence[str]) -> str:
    return " and ".join(repr(readable(name)) for name in names[:_FEW])


def _with_classes(numbers: Mapping[str, int], codes: NDArray[np.int32]) -> Labelled:
    """Images whose codes are numbers given in the order in which labels came; the classes are sorted."""
    classes = tuple(sorted(numbers))
    order = np.empty(len(classes) + 1, np.int32)
    order[-1] = -1  # of no label
    for place, label in enumerate(classes):
        order[numbers[label]] = place
    return Labelled(classes, order[codes])


def _refuse_too_few(labelled: Labelled, *, given: bool) -> None:
    count = len(labelled.places)
    if len(labelled.classes) < 2:
        how = "put each class into a folder of its own, or give --labels"
        if given:
            how = "give others another label" if labelled.classes else "name images in the table as the extraction does"
        found = f"all {count} are {labelled.classes[0]}" if labelled.classes else "none has a label"
        raise TooFewImagesError(f"images are told apart by two classes or more, and here {found}: {how}")
    if count < len(labelled.classes) + 1:
        raise TooFewImagesError(
            f"each of the {len(labelled.classes)} classes has one image: at least one needs two, to learn and to test"
        )


def divide(
    labelled: Labelled, contents: NDArray[np.int64], test_share: float, validation_share: float, seed: int
) -> Division:
    """Divide images at random, the same share of each class; images of equal `contents` (N,) stay together.

    validation_share is of those not for testing. A class of one image is for training, of two images one is for
    testing, of three or more there is at least one for each. Raises TooFewImagesError where none is left to test.
    """
    random = np.random.default_rng(seed)
    leaders = _leaders(labelled, contents)
    sides: list[list[Places]] = [[], [], []]
    for code in range(len(labelled.classes)):
        order = random.permutation(np.flatnonzero((labelled.codes == code) & (leaders == np.arange(len(leaders)))))
        num_test = _share(len(order), test_share, at_most=len(order) - 1)
        num_validation = _share(len(order) - num_test, validation_share, at_most=len(order) - num_test - 1)
        for side, part in zip((2, 1, 0), np.split(order, [num_test, num_test + num_validation]), strict=True):
            sides[side].append(part)
    division = Division(*(_with_copies(np.concatenate(side), leaders) for side in sides))
    if test_share and not len(division.test):
        raise TooFewImagesError("the images of each class are copies of one another: there is none to test with")
    return division


def divide_by_folder(
    labelled: Labelled,
    names: Sequence[str],
    contents: NDArray[np.int64],
    validation_share: float,
    seed: int,
) -> Division:
    """Divide images by the folders train, validation and test that they are in.

    Without images in validation those in train are divided further, as `divide` does. An image that has equal contents
    with one of test is left out of the others, and so is one of train that has them with one of validation. Raises
    SourceError where there are no such folders, TooFewImagesError where all of train are of one class.
    """
    has_label = labelled.codes >= 0
    in_test, in_validation, in_train = (
        np.array([name.startswith(side) for name in names]) & has_label
        for side in (TEST_FOLDER, VALIDATION_FOLDER, TRAIN_FOLDER)
    )
    in_validation &= ~np.isin(contents, contents[in_test])
    in_train &= ~np.isin(contents, contents[in_test | in_validation])
    if not in_test.any() or not in_train.any():
        raise SourceError(
            "split = 'folders', but there are no images with labels in both folders, train and test: put them there, "
            "or set split to 'random'"
        )
    if len(np.unique(labelled.codes[in_train])) < 2:
        raise TooFewImagesError("the images in the folder train are all of one class: there is nothing to tell apart")
    if in_validation.any():
        return Division(*(np.flatnonzero(side).astype(np.int64) for side in (in_train, in_validation, in_test)))
    train_alone = Labelled(labelled.classes, np.where(in_train, labelled.codes, -1).astype(np.int32))
    rest = divide(train_alone, contents, 0.0, validation_share, seed)
    return Division(rest.train, rest.validation, np.flatnonzero(in_test).astype(np.int64))


def _share(count: int, share: float, at_most: int) -> int:
    wanted = max(1, round(share * count)) if share else 0
    return max(0, min(wanted, at_most))


def _leaders(labelled: Labelled, contents: NDArray[np.int64]) -> Places:
    """Of each image the first one of equal contents that has a label; of one without label itself."""
    leaders = np.arange(len(contents))
    places = labelled.places
    _, first, inverse = np.unique(contents[places], return_index=True, return_inverse=True)
    leaders[places] = places[first[inverse]]
    return leaders


def _with_copies(chosen: Places, leaders: Places) -> Places:
    return np.flatnonzero(np.isin(leaders, chosen)).astype(np.int64)


def small_classes(labelled: Labelled) -> str:
    """The classes that have one image alone, as a list to be read; '' where there is none."""
    counts = np.bincount(labelled.codes[labelled.codes >= 0], minlength=len(labelled.classes))
    names = [name for name, count in zip(labelled.classes, counts, strict=True) if count == 1]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
