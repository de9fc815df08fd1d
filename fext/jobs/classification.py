"""What every way to make a classifier has in common: images with their sides, where it goes, what is told of it.

The images of an autoencoder's own training may be on any side of a classifier: it never saw a label.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.data.groups import ImageGroups
from fext.data.labels import Division, Labelled, small_classes
from fext.data.names import readable
from fext.data.source import ImageSource
from fext.errors import ClassifierError
from fext.jobs.recognition import file_digest, recognize
from fext.jobs.thumbnails import thumbnails
from fext.model.classification_scores import ClassificationScores, classification_scores
from fext.model.intervals import Interval
from fext.model.verdict import NO_REFERENCES, Verdict, judge, share
from fext.pictures.classification_report import ClassificationReport, Mistake, classification_page
from fext.pictures.figures import confusion_figure, head_history_figure
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import classifiers, files
from fext.store.checkpoints import Checkpoint
from fext.store.workspace import Workspace, checked_name

NUM_MISTAKES = 60
TOLD_RIGHTLY = share("{} % of test images told rightly")
_NONE_FOR_A_HEAD = f"{NO_REFERENCES} They go with the methods probe and knn."

History = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """The images of a source with their labels, sides and groups, and the checkpoint whose encoder is used."""

    checkpoint: Checkpoint
    source: ImageSource
    labelled: Labelled
    division: Division
    labels_from: str
    groups: ImageGroups

    def codes(self, places: NDArray[np.int64]) -> NDArray[np.int32]:
        """The code of the label of the images at these places, in their order; -1 where there is none."""
        return self.labelled.codes[places]


@dataclass
class Told:
    """What a classifier makes of the test images that could be read: their places, codes told, and how sure it was."""

    places: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    def add(self, places: Sequence[int], shares: NDArray[np.float32]) -> None:
        """Take note of some images with the probability of each class, (N, num_classes)."""
        self.places += places
        self.codes += shares.argmax(axis=1).tolist()
        self.probabilities += shares.max(axis=1).tolist()


@dataclass(frozen=True)
class Trained:
    """A classifier to be kept: what it is made of and how it came about."""

    method: str
    tensors: classifiers.Tensors
    description: Mapping[str, Any]
    told: Told
    history: History
    notes: Sequence[str]
    references: Mapping[str, Interval] = field(default_factory=dict)
    model_minus: Mapping[str, Interval] = field(default_factory=dict)  # each reference, on the images of both


@dataclass(frozen=True)
class ClassifyResult:
    """What came of it: the scores on the test images, and those of other encoders where they were asked for.

    `verdict` says whether training helped.

    `groups` is a sentence on what their intervals take for independent.
    """

    name: str
    folder: Path
    method: str
    scores: ClassificationScores
    references: Mapping[str, Interval]
    verdict: Verdict
    num_train: int
    num_validation: int
    num_test: int
    groups: str
    notes: tuple[str, ...]
    seconds: float


def notes_on(workspace: Workspace, task: Task, reporter: Reporter) -> list[str]:
    """What is to be known of the labels and the sides; raises CheckpointError where the autoencoder's are gone."""
    labelled = task.labelled
    notes = [_autoencoder_saw(workspace, task, reporter)]
    if labelled.num_without:
        notes.append(f"{labelled.num_without:,} images have no label: they are left out.")
    if labelled.num_elsewhere:
        such = " and ".join(map(readable, labelled.elsewhere))
        notes.append(
            f"{labelled.num_elsewhere:,} labels of {task.labels_from} are of images that are not there, such as {such}."
        )
    if alone := small_classes(labelled):
        notes.append(f"Classes of one image, which is for training and leaves none to test: {alone}.")
    return notes


def file_checksums(source: ImageSource, places: NDArray[np.int64], reporter: Reporter) -> dict[int, str]:
    """The SHA-256 of the files at some places; '' of one that cannot be read."""
    checksums: dict[int, str] = {}
    with reporter.progress("reading files", len(places)) as progress:
        for place in places.tolist():
            digest = file_digest(source.path(source.names[place]))
            checksums[place] = digest.hex() if any(digest) else ""
            progress.advance()
    return checksums


def _autoencoder_saw(workspace: Workspace, task: Task, reporter: Reporter) -> str:
    """How many of the test images the autoencoder was trained on."""
    names = task.source.names.select(task.division.test.tolist())
    tested = ImageSource(task.source.location, task.source.root, names, 0)
    count = int((recognize(workspace, task.checkpoint, tested, reporter) == "train").sum())
    return f"The autoencoder itself was trained, without labels, on {count:,} of the {len(names):,} test images."


def place_for(workspace: Workspace, name: str | None, base: str, identity: str = "") -> Path:
    """The folder of a new classifier: of the name given, or of one made up.

    One that is unfinished is the same where its identity is. Raises ClassifierError where the name is taken.
    """
    if name is not None:
        folder = workspace.classifiers / checked_name(name)
        if (folder / classifiers.DESCRIPTION).is_file():
            raise ClassifierError(f"there is already a classifier {name}: choose another name (--name)")
        if not _is_free(folder, identity):
            raise ClassifierError(
                f"{name} was begun with other images, labels or settings: give the same to go on, or choose another "
                f"name (--name)"
            )
        return folder
    folder, number = workspace.classifiers / base, 1
    while not _is_free(folder, identity):
        number += 1
        folder = workspace.classifiers / f"{base}_{number}"
    return folder


def _is_free(folder: Path, identity: str) -> bool:
    """Whether there is no classifier, finished or begun, but the same one."""
    if (folder / classifiers.DESCRIPTION).is_file():
        return False
    state = classifiers.load_state(folder)
    return state is None or state[1].get("identity") == identity


def keep(
    workspace: Workspace,
    settings: Settings,
    task: Task,
    folder: Path,
    trained: Trained,
    started: float,
    reporter: Reporter,
) -> ClassifyResult:
    """Score a classifier on the test images and write all of it; classifier.json comes last."""
    told = trained.told
    true, codes = task.codes(np.array(told.places, np.int64)), np.array(told.codes, np.int32)
    classes = task.labelled.classes
    groups = task.groups.of(np.array(told.places, np.int64))
    scores = classification_scores(true, codes, classes, groups.codes)
    _write_tables(folder, task, told)
    if trained.history:
        files.write_json(folder / "history.json", trained.history)
        files.write_figure(folder / "history.png", head_history_figure(trained.history))
    files.write_figure(folder / "confusion.png", confusion_figure(scores.confusion, classes))
    verdict = judge(TOLD_RIGHTLY, scores.accuracy, trained.model_minus)
    if trained.method == "head":
        verdict = replace(verdict, sentences=[_NONE_FOR_A_HEAD])
    report = ClassificationReport(
        name=folder.name,
        method=trained.method,
        facts=_facts(task, trained),
        scores=scores,
        references=trained.references,
        verdict=verdict,
        groups=groups.sentence(),
        notes=trained.notes,
        history=trained.history,
        mistakes=_mistakes(workspace, settings, task, told, reporter),
    )
    files.write_text_chunks(folder / "report.html", classification_page(report))
    description = _description(settings, task, trained, scores, verdict) | {"interval_groups": groups.to_dict()}
    classifiers.save_classifier(folder, trained.tensors, description)
    division = task.division
    return ClassifyResult(
        folder.name, folder, trained.method, scores, trained.references, verdict, len(division.train),
        len(division.validation), len(told.places), groups.sentence(), tuple(trained.notes),
        time.perf_counter() - started,
    )  # fmt: skip


def _write_tables(folder: Path, task: Task, told: Told) -> None:
    names, classes, codes = task.source.names, task.labelled.classes, task.labelled.codes
    sides = ((side, place) for side, places in zip(Division._fields, task.division, strict=True) for place in places)
    files.write_csv(
        folder / "split.csv",
        ("image", "label", "subset"),
        ((names[place], classes[codes[place]], side) for side, place in sides),
    )
    rows = zip(told.places, told.codes, told.probabilities, strict=True)
    files.write_csv(
        folder / "predictions.csv",
        ("image", "label", "predicted", "probability"),
        ((names[place], classes[codes[place]], classes[code], f"{share:.4f}") for place, code, share in rows),
    )


def _mistakes(workspace: Workspace, settings: Settings, task: Task, told: Told, reporter: Reporter) -> list[Mistake]:
    """The test images that were told wrongly with the most confidence."""
    true, codes = task.codes(np.array(told.places, np.int64)), np.array(told.codes, np.int32)
    wrong = np.flatnonzero(true != codes)
    shown = wrong[np.argsort(-np.array(told.probabilities)[wrong], kind="stable")][:NUM_MISTAKES].tolist()
    names = [task.source.names[told.places[number]] for number in shown]
    classes = task.labelled.classes
    mistakes = []
    with reporter.progress("thumbnails", len(shown)) as progress:
        pictures = thumbnails(workspace, settings, [task.source.path(name) for name in names])
        for number, name, thumbnail in zip(shown, names, pictures, strict=True):
            mistakes.append(
                Mistake(name, classes[true[number]], classes[codes[number]], told.probabilities[number], thumbnail.data)
            )
            progress.advance()
    return mistakes


def _facts(task: Task, trained: Trained) -> list[tuple[str, object]]:
    division = task.division
    return [
        ("method", trained.method),
        ("encoder", task.checkpoint.name),
        ("images", str(task.source.location)),
        ("labels", task.labels_from),
        ("classes", len(task.labelled.classes)),
        ("to train on", len(division.train)),
        ("to choose by", len(division.validation)),
        ("to test on", len(trained.told.places)),
        *((key.replace("_", " "), value) for key, value in trained.description.get("found", {}).items()),
        ("computed by", _way(trained.description)),
    ]


def _way(description: Mapping[str, Any]) -> str:
    """How what it was trained on was computed; `predict` does the same."""
    way, num_ways = description["computed_by"], len(description.get("ways", []))
    several = f"; the newest of {num_ways} ways" if num_ways > 1 else ""
    return f"{way['engine']} {way['engine_version']}, {way['precision']}, {way['device']}{several}"


def _description(
    settings: Settings, task: Task, trained: Trained, scores: ClassificationScores, verdict: Verdict
) -> dict[str, Any]:
    checkpoint = task.checkpoint
    return {
        "method": trained.method,
        "classes": [readable(name) for name in task.labelled.classes],
        "checkpoint": {
            "name": checkpoint.name,
            "sha256": checkpoint.sha256,
            "folder": readable(str(checkpoint.folder.resolve())),
        },
        "preprocessing": asdict(checkpoint.preprocessing),
        "grids": None,
        "head": None,
        **trained.description,
        "source": readable(str(task.source.location.resolve())),
        "labels": task.labels_from,
        "images": dict(zip(Division._fields, map(len, task.division), strict=True)),
        "scores": scores.to_dict(),
        "references": {
            name: {"accuracy": one.mean, "accuracy_interval": [one.low, one.high]}
            for name, one in trained.references.items()
        },
        "verdict": verdict.to_dict(),
        "notes": list(trained.notes),
        "settings": settings.model_dump(mode="json"),
    }
