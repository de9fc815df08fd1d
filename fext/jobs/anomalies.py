"""Finding the images that are unlike the normal ones that a model was trained on, and where in them."""

import os
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.compute.device import Computation, prepare_computation
from fext.data.dataset import Batch, ImageStream
from fext.data.names import Names
from fext.data.source import ImageSource, find_images, known_images
from fext.data.split import SIDES
from fext.errors import SourceError
from fext.jobs.anomaly_output import Search, folder_of, write_search
from fext.jobs.anomaly_scores import Judge, make_judge
from fext.jobs.choosing import refuse_vanished
from fext.jobs.linear import learn_linear_map
from fext.jobs.recognition import Checksums, checksums_by_side, recognize
from fext.jobs.streams import stream_for
from fext.model.linear_map import LinearMap
from fext.pictures.anomalies_report import verdicts
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.workspace import Workspace

_NUM_NAMED = 8


@dataclass(frozen=True)
class AnomaliesResult:
    """What was found: `summary` is what summary.json holds, `verdicts` say it in sentences."""

    name: str
    folder: Path
    summary: Mapping[str, Any]
    verdicts: Sequence[str]
    seconds: float


def find_anomalies(
    workspace: Workspace,
    settings: Settings,
    checkpoint_folder: Path,
    images: Path,
    normal: str,
    reporter: Reporter,
    *,
    references: bool,
) -> AnomaliesResult:
    """Score the images of a folder by how unlike they are to the train images of a checkpoint, and write what is found.

    What the checkpoint was trained on is normal, its own test images set the threshold, and no train image is scored,
    known by its content wherever it lies.
    Where there are folders in `images`, the one named `normal` holds normal images, all others anomalous ones. Raises
    CheckpointError, SourceError and DeviceError.
    """
    started = time.perf_counter()
    computation = prepare_computation(settings)
    checkpoint = load_checkpoint(checkpoint_folder)
    source = find_images(images, reporter)
    has_labels = _has_labels(source, normal)
    subsets = recognize(workspace, checkpoint, source, reporter)
    task = _Task(checkpoint, settings, computation, reporter, _normal_images(checkpoint, source, subsets))
    chosen = _choose(task, source, subsets)
    _say_chosen(task, chosen)
    search = _searched(task, source, chosen, normal if has_labels else None, references=references)
    folder = workspace.anomalies_folder(checkpoint.name, source.location)
    summary = write_search(search, folder, reporter)
    return AnomaliesResult(folder.name, folder, summary, verdicts(summary), time.perf_counter() - started)


@dataclass(frozen=True)
class _Normal:
    """The images that say what is normal: those learned from, and those held back from training, which set the scale.

    A file that has another checksum than `checksums` says is not one of them any more.
    """

    source: ImageSource
    train: Names
    held_back: Names
    checksums: Mapping[str, Checksums | None]


@dataclass(frozen=True)
class _Task:
    """The parts of one search for anomalies."""

    checkpoint: Checkpoint
    settings: Settings
    computation: Computation
    reporter: Reporter
    normal: _Normal

    def stream(self, source: ImageSource, names: Names, side: str = "") -> ImageStream:
        """The named images, those of a side of the checkpoint's split where its name is given."""
        checksums = self.normal.checksums[side] if side else None
        batch_size = self.settings.inference_batch_size
        return stream_for(self.checkpoint, source, names, batch_size, self.computation, checksums)

    def batches(self, source: ImageSource, names: Names, what: str, side: str = "") -> Iterator[Batch]:
        """The named images, with progress; raises SourceError where their folder is gone."""
        with self.reporter.progress(what, len(names)) as progress:
            for batch in self.stream(source, names, side).epoch():
                refuse_vanished(source, names, batch)
                for file in batch.rejected:
                    self.reporter.warning(f"rejected: {names[file.position]} ({file.reason})")
                yield batch
                progress.advance(batch.num_files)


# ---------------------------------------------------------------- which images


def _has_labels(source: ImageSource, normal: str) -> bool:
    """Whether folders say what images are; raises SourceError where there are folders, but none of normal images."""
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: name a folder of images to search (--images)")
    folders = {folder_of(name) for name in source.names} - {""}
    if folders and normal not in folders:
        named = ", ".join(sorted(folders)[:_NUM_NAMED])
        raise SourceError(
            f"{source.location} has folders ({named}), but no images in one named '{normal}': name the folder of "
            f"normal images (--normal), or a folder to search that has none in it"
        )
    return bool(folders)


def _normal_images(checkpoint: Checkpoint, source: ImageSource, subsets: NDArray[np.str_]) -> _Normal:
    """The train and test images where the checkpoint had them, else, where they were moved, those of the folder."""
    split = checkpoint.split()
    own = known_images(Path(checkpoint.source), Names.of(split.names()))
    if any(os.path.exists(own.path(name)) for name in own.names):
        return _Normal(own, Names.of(split.train), Names.of(split.test), checksums_by_side(checkpoint))
    train, test = (source.names.select(np.flatnonzero(subsets == side).tolist()) for side in ("train", "test"))
    if not train or not test:
        raise SourceError(
            f"the images that {checkpoint.name} was trained on are no longer in {checkpoint.source}: bring them back, "
            f"for they say what is normal, or search a folder that holds them"
        )
    return _Normal(source, train, test, dict.fromkeys(SIDES))


@dataclass(frozen=True)
class _Chosen:
    """The images to score, which of them set the threshold as well, and how many were left out."""

    names: Names
    is_held_back: NDArray[np.bool_]
    num_train: int


def _choose(task: _Task, source: ImageSource, subsets: NDArray[np.str_]) -> _Chosen:
    """All but those that the checkpoint was trained on."""
    kept = np.flatnonzero(subsets != "train")
    num_train = len(source.names) - len(kept)
    if not len(kept):
        raise SourceError(
            f"all {num_train} images in {source.location} are train images of {task.checkpoint.name}, and none is left "
            f"to score: name a folder with others"
        )
    return _Chosen(source.names.select(kept.tolist()), subsets[kept] == "test", num_train)


def _say_chosen(task: _Task, chosen: _Chosen) -> None:
    left_out = f"; {chosen.num_train} that it was trained on are left out" if chosen.num_train else ""
    task.reporter.message(
        f"scoring {len(chosen.names)} images with {task.checkpoint.name}, {task.computation.describe()}{left_out}"
    )


# ---------------------------------------------------------------- learning and scoring


def _searched(task: _Task, source: ImageSource, chosen: _Chosen, normal: str | None, *, references: bool) -> Search:
    """Learn what is normal, then score the held-back images and the chosen ones."""
    judge = _learned_judge(task, references)
    own = task.normal
    _, held_back, _ = _scores(task, judge, own.source, own.held_back, "scoring held-back normal images", "test")
    places, scores, rejected = _scores(task, judge, source, chosen.names, "scoring images")
    return Search(
        checkpoint=task.checkpoint,
        settings=task.settings,
        source=source,
        judge=judge,
        normal=normal,
        names=chosen.names.select(places.tolist()),
        is_held_back=chosen.is_held_back[places],
        scores=scores,
        held_back=held_back,
        rejected=rejected,
        num_train=chosen.num_train,
    )


def _learned_judge(task: _Task, references: bool) -> Judge:
    """A judge that has seen the train images of the checkpoint."""
    linear_map = _linear_map(task) if references else None
    judge = make_judge(
        task.checkpoint, task.settings, task.computation, linear_map, task.reporter, references=references
    )
    num_learned, train = 0, task.normal.train
    for batch in task.batches(task.normal.source, train, "learning what is normal", "train"):
        if batch.files:
            judge.learn(batch.images, _paths(task.normal.source, train, batch))
            num_learned += len(batch.files)
    if not num_learned:
        raise SourceError(f"none of the train images of {task.checkpoint.name} can be read any more: bring them back")
    judge.finish()
    return judge


def _linear_map(task: _Task) -> LinearMap | None:
    plan = task.checkpoint.plan
    if not LinearMap.fits(plan.picture_shape, plan.latent_shape):
        task.reporter.message("each latent position stands for too many pixels for a linear map to compare with")
        return None
    linear_map = LinearMap(plan.picture_shape, plan.latent_shape)
    normal = task.normal
    stream = task.stream(normal.source, normal.train, "train")
    learn_linear_map(linear_map, normal.source, normal.train, stream, task.reporter)
    if not linear_map.num_images:
        return None
    linear_map.finish()
    return linear_map


def _scores(
    task: _Task, judge: Judge, source: ImageSource, names: Names, what: str, side: str = ""
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]], list[tuple[str, str]]]:
    """The places of the images that can be read, their scores by name, and the others with their reasons."""
    places = array("q")
    scores: dict[str, array[float]] = {}
    rejected: list[tuple[str, str]] = []
    for batch in task.batches(source, names, what, side):
        rejected += [(names[file.position], file.reason) for file in batch.rejected]
        if batch.files:
            places.extend(file.position for file in batch.files)
            for judged in judge.judge(batch.images, _paths(source, names, batch)):
                for name, score in judged.scores.items():
                    scores.setdefault(name, array("d")).append(score)
    if not places:
        raise SourceError(
            f"none of the {len(names)} images to score in {source.location} can be read: {rejected[0][1]}"
        )
    return np.asarray(places, np.int64), {name: np.asarray(values) for name, values in scores.items()}, rejected


def _paths(source: ImageSource, names: Names, batch: Batch) -> list[Path]:
    return [source.path(names[file.position]) for file in batch.files]
