"""Classification: an extraction and labels become a classifier, judged on images that it did not learn from."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fext.compute.device import prepare_computation
from fext.compute.normalization import described
from fext.compute.row_classifiers import (
    RowClassifier,
    Rows,
    choose_probe,
    class_weights,
    each_probabilities,
    nearest_labels,
)
from fext.data.groups import group_images
from fext.data.labels import Division, Labelled, divide, divide_by_folder, label_images, read_labels
from fext.errors import UsageError
from fext.jobs.classification import ClassifyResult, Task, Told, Trained, keep, notes_on, place_for
from fext.jobs.extraction import checkpoint_of, stages_of
from fext.jobs.features import Features, References, grid_of, open_features, open_references
from fext.jobs.normalizing import normalization_of
from fext.jobs.train_head import train_head
from fext.model.intervals import Interval, paired_share_interval, share_interval
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.locks import locked
from fext.store.workspace import Workspace

Method = Literal["probe", "knn", "head"]
METHODS: tuple[Method, ...] = ("probe", "knn", "head")


def classify(
    workspace: Workspace,
    settings: Settings,
    extraction: Path,
    labels_file: Path | None,
    method: Method,
    name: str | None,
    reporter: Reporter,
    *,
    references: bool = False,
) -> ClassifyResult:
    """Train a classifier on the images of a finished extraction and write it to training/classifiers/<name>/.

    Labels are the folders of the images, or those of a CSV file. Raises ExtractionError, SourceError where there are
    no classes to tell, CheckpointError where the model is gone, ClassifierError where the name is taken.
    """
    started = time.perf_counter()
    if references and method == "head":
        raise UsageError("--references goes with the methods probe and knn: leave it, or choose another --method")
    with open_features(extraction, settings.explore_grid, reporter) as features:
        task = _task(workspace, settings, features, labels_file)
        if method == "head":
            return train_head(workspace, settings, task, name, f"{extraction.name}_head", started, reporter)
        folder = place_for(workspace, name, f"{extraction.name}_{method}")
        with locked(folder):
            trained = _train(workspace, settings, features, task, method, references, reporter)
            return keep(workspace, settings, task, folder, trained, started, reporter)


def _task(workspace: Workspace, settings: Settings, features: Features, labels_file: Path | None) -> Task:
    checkpoint = checkpoint_of(workspace, features.manifest)
    labels = None if labels_file is None else read_labels(labels_file)
    labelled = label_images(features.images, labels)
    contents = _contents(features.rows)
    division = _divide(settings, features, labelled, contents)
    groups = group_images(features.images, settings.interval_groups, contents)
    labels_from = "folders" if labels_file is None else str(labels_file)
    return Task(checkpoint, features.source, labelled, division, labels_from, groups)


def _divide(settings: Settings, features: Features, labelled: Labelled, contents: NDArray[np.int64]) -> Division:
    if settings.split == "folders":
        return divide_by_folder(labelled, features.images, contents, settings.validation_share, settings.split_seed)
    return divide(labelled, contents, settings.test_share, settings.validation_share, settings.split_seed)


def _contents(rows: Rows) -> NDArray[np.int64]:
    """A number for each row that rows of the same bytes share."""
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.fromiter((int.from_bytes(digest, "little", signed=True) for digest in digests), np.int64, len(rows))


def _train(
    workspace: Workspace,
    settings: Settings,
    features: Features,
    task: Task,
    method: Method,
    references: bool,
    reporter: Reporter,
) -> Trained:
    for note in (notes := notes_on(workspace, task, reporter)):
        reporter.message(note)
    prepare_computation(settings)  # the number of threads
    fit = _Fit(settings, task, method, reporter)
    classifier, found = fit.on(features.rows, features.grid, task.division)
    told = Told()
    for start, shares in each_probabilities(classifier, features.rows, task.division.test):
        told.add(task.division.test[start : start + len(shares)].tolist(), shares)
    others: Mapping[str, Interval] = {}
    model_minus: Mapping[str, Interval] = {}
    if references:
        with open_references(
            workspace, settings, features, reporter, learn_from=task.division.train.tolist()
        ) as reference:
            others, model_minus = _reference_scores(fit, reference, features.grid, task.division, told)
    description = {
        "grids": [features.manifest["feature_grid"], features.grid],
        "stages": stages_of(features.manifest),
        "computed_by": features.manifest["computed_by"],
        "ways": features.manifest.get("ways", []),
        "found": found,
    }
    return Trained(method, classifier.tensors(), description, told, [], notes, others, model_minus)


class _Fit:
    """Makes classifiers of one method from the rows of any encoder."""

    def __init__(self, settings: Settings, task: Task, method: Method, reporter: Reporter) -> None:
        self.task, self._settings, self._method, self._reporter = task, settings, method, reporter

    def on(self, rows: Rows, grid: int, division: Division, places: NDArray[np.int64] | None = None) -> "Found":
        """The classifier, and what was found on the way; `places` are those of the rows, where they are not all."""
        settings, labelled = self._settings, self.task.labelled
        of_row = labelled.codes if places is None else labelled.codes[places]
        train, validation = ((side, of_row[side]) for side in (division.train, division.validation))
        num_classes, count = len(labelled.classes), settings.num_neighbours
        if self._method == "knn":
            is_wanted = settings.similarity_normalization == "auto"
            normalization = normalization_of(settings, rows, grid, division.train)
            nearest = nearest_labels(rows, *train, num_classes, count, normalization)
            return nearest, {
                "nearest_images": count,
                "compared": described(normalization, grid, wanted=is_wanted),
            }
        weights = class_weights(train[1], num_classes, balanced=settings.balance_classes)
        with self._reporter.progress("training a linear probe", 0) as progress:
            probe, strength = choose_probe(rows, train, validation, weights, progress.advance)
        return probe, {"regularization": strength}


Found = tuple[RowClassifier, dict[str, float | str]]


def _reference_scores(
    fit: _Fit, references: References, grid: int, division: Division, by_model: Told
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """The accuracy of the same method on the rows of other encoders, on the same images, and by how much the model's is
    above it on these."""
    sides = Division(*(np.flatnonzero(np.isin(references.places, side)) for side in division))
    places = references.places[sides.test]
    groups, codes = fit.task.groups.codes[places], fit.task.codes(places)
    code_by_model = dict(zip(by_model.places, by_model.codes, strict=True))
    model_is_right = np.array([code_by_model[place] for place in places.tolist()]) == codes
    scores, model_minus = {}, {}
    for name, rows in references.rows.items():
        classifier, _ = fit.on(rows, grid_of(name, grid), sides, references.places)
        told = [shares.argmax(axis=1) for _, shares in each_probabilities(classifier, rows, sides.test)]
        is_right = np.concatenate(told) == codes
        scores[name] = share_interval(is_right, groups)
        model_minus[name] = paired_share_interval(model_is_right, is_right, groups)
    return scores, model_minus
