"""A ready-made experiment on CIFAR-10: an autoencoder learns from images alone, and a head on it learns the classes.

A fifth of each class is kept aside to test. Of bird, deer and truck half of the others are dropped, so that the classes
are of unequal size; 22 % of what is left is held out to choose the head by, and is what the autoencoder is tested on.
The autoencoder `cifar` is trained on the rest, a part of which (num_validation_samples) chooses its epoch, its encoder
is frozen, and a convolutional head on it is trained on the rest, shifted, rotated, zoomed and mirrored.
Published for it is a test accuracy of 0.71, after 50 epochs of the autoencoder and 100 of the classifier.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fext.data.groups import group_images
from fext.data.labels import Division, Labelled, divide, label_images
from fext.data.source import ImageSource, find_images
from fext.errors import CheckpointError, ClassifierError, SourceError, TooFewImagesError
from fext.jobs.choosing import WHERE_TO_GET_IMAGES
from fext.jobs.classification import ClassifyResult, Task, file_checksums
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.train_head import train_head
from fext.reporting import Reporter
from fext.settings import Settings, change_settings
from fext.store import classifiers
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

PUBLISHED_ACCURACY = 0.71
EPOCHS = 2  # of the autoencoder: two and a half minutes on one core

_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.22
_HALVED = ("bird", "deer", "truck")
_LEAST_PER_CLASS = 10
# What the experiment fixes, and what makes it quick; others are the user's.
_AUTOENCODER = {
    "architecture": "cifar",
    "picture_shape": (32, 32, 3),
    "split": "random",
    "batch_size": 128,
    "inference_batch_size": 256,
    "learning_rate": 0.002,
    "lr_schedule": "one_cycle",
    "views_weight": 0.0,
    "warmup_epochs": 0.0,
    "optimizer": "adamw",
    "cache_images": True,
}


@dataclass(frozen=True)
class _Images:
    """The images of the folder that take part, and the places of those to test on and of the others."""

    source: ImageSource
    labelled: Labelled
    test: NDArray[np.int64]
    others: NDArray[np.int64]


def cifar10(
    workspace: Workspace, settings: Settings, images: Path, name: str, epochs: int, reporter: Reporter
) -> ClassifyResult:
    """Train the autoencoder training/checkpoints/<name> for `epochs`, and the classifier training/classifiers/<name>.

    `images` holds a folder for each class; how a head is trained is in the settings. What was begun goes on: the same
    command starts again where it stopped. Raises SourceError where there are no class folders, CheckpointError and
    ClassifierError where the name is taken by something else.
    """
    started = time.perf_counter()
    if (workspace.classifiers / name / classifiers.DESCRIPTION).is_file():
        raise ClassifierError(f"there is already a classifier {name}: choose another name (--name)")
    settings = change_settings(settings, **_AUTOENCODER, epochs=epochs)
    found = _images_of(settings, images, reporter)
    folder = _autoencoder(workspace, settings, found, name, reporter)
    task = _task(folder, found)
    return train_head(workspace, settings, task, name, name, started, reporter)


def _images_of(settings: Settings, images: Path, reporter: Reporter) -> _Images:
    source = find_images(images, reporter)
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    try:
        labelled = label_images(source.names)
    except TooFewImagesError as error:
        raise TooFewImagesError(
            f"the recipe needs a folder for each class in {images}, two or more, of {_LEAST_PER_CLASS} images each"
        ) from error
    counts = np.bincount(labelled.codes[labelled.places])
    if counts.min() < _LEAST_PER_CLASS:
        few = labelled.classes[int(counts.argmin())]
        raise SourceError(
            f"the recipe needs {_LEAST_PER_CLASS} images of each class, and {few} has {counts.min()} in {images}"
        )
    missing = [label for label in _HALVED if label not in labelled.classes]
    if missing:
        reporter.warning(f"the recipe drops half of {', '.join(_HALVED)}, and there is no {', no '.join(missing)}")
    others, _, test = divide(labelled, _contents(source, reporter), _TEST_SHARE, 0.0, settings.split_seed)
    random = np.random.default_rng(settings.split_seed)
    kept = [_kept(others[labelled.codes[others] == code], label, random) for code, label in enumerate(labelled.classes)]
    return _Images(source, labelled, test, np.sort(np.concatenate(kept)))


def _contents(source: ImageSource, reporter: Reporter) -> NDArray[np.int64]:
    """A number for each image that files of the same bytes share."""
    checksums = file_checksums(source, np.arange(len(source)), reporter)
    texts = np.array([checksums[place] or f"unreadable {place}" for place in range(len(source))])
    numbers: NDArray[np.int64] = np.unique(texts, return_inverse=True)[1].astype(np.int64)
    return numbers


def _kept(places: NDArray[np.int64], label: str, random: np.random.Generator) -> NDArray[np.int64]:
    """Half of some classes, all of the others."""
    return random.permutation(places)[: len(places) // 2] if label in _HALVED else places


def _autoencoder(workspace: Workspace, settings: Settings, images: _Images, name: str, reporter: Reporter) -> Path:
    """The checkpoint of that name, trained to its end."""
    folder = workspace.checkpoints / name
    only = images.source.names.select(images.others.tolist())
    if not folder.exists():
        num_test = round(_VALIDATION_SHARE * len(only))
        settings = change_settings(settings, num_train_samples=len(only) - num_test, num_test_samples=num_test)
        pretrain(workspace, settings, images.source.location, name, reporter, only)
        return folder
    checkpoint = load_checkpoint(folder)
    if not _is_of_these(set(only), checkpoint.split().train, checkpoint.plan.architecture):
        raise CheckpointError(f"the checkpoint {name} is of another experiment: choose another name (--name)")
    if not checkpoint.summary["finished"]:
        resume(settings, folder, None, reporter)
    return folder


def _is_of_these(only: set[str], train: tuple[str, ...], architecture: str) -> bool:
    return architecture == _AUTOENCODER["architecture"] and only.issuperset(train)


def _task(folder: Path, images: _Images) -> Task:
    """The head learns from the images that the autoencoder was made with, and is chosen by those it was tested on."""
    checkpoint = load_checkpoint(folder)
    place_of = {name: place for place, name in enumerate(images.source.names)}
    split = checkpoint.split()
    train, validation = (
        np.array(sorted(place_of[name] for name in side), np.int64)
        for side in (split.train + split.validation, split.test)
    )
    division = Division(train, validation, images.test)
    groups = group_images(images.source.names, "none")  # its images are of different things
    return Task(checkpoint, images.source, images.labelled, division, "folders", groups)
