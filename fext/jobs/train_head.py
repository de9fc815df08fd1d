"""A convolutional head is trained on the images themselves, on an encoder that is frozen, or trained further after.

The state is kept after each epoch, so that a run that was stopped or killed goes on when it is started again.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fext.compute.device import Computation, free_memory, keeping_freed_memory, prepare_computation
from fext.compute.head_training import (
    EncoderAndHead,
    HeadTrainer,
    Phase,
    head_probabilities,
    make_head_trainer,
    set_whitenings,
)
from fext.compute.memory import lowering
from fext.compute.optimization import learning_rate_at
from fext.compute.row_classifiers import class_weights
from fext.data.dataset import Batch, ImageCache, ImageStream
from fext.errors import ClassifierError, SourceError
from fext.jobs.choosing import refuse_vanished
from fext.jobs.classification import (
    ClassifyResult,
    History,
    Task,
    Told,
    Trained,
    file_checksums,
    keep,
    notes_on,
    place_for,
)
from fext.jobs.extraction import way_to_compute
from fext.model.classifier import ClassifierHead, map_shapes
from fext.reporting import Progress, Reporter, StopRequested
from fext.settings import Settings
from fext.store import classifiers
from fext.store.locks import locked
from fext.store.workspace import Workspace

# What decides what a head becomes: with other values it is another one.
_SHAPING = (
    "head_stages", "head_width", "head_epochs", "head_batch_size", "head_learning_rate", "head_augmentation",
    "head_patience", "finetune_epochs", "balance_classes", "seed",
)  # fmt: skip

_ENOUGH_TO_WHITEN = 2000  # images
_LESS_TO_TRAIN = (
    "the epochs that were finished are kept; close other programs or set num_processors lower and start again to go "
    "on, or set head_batch_size lower, with which it begins anew"
)


@dataclass
class _State:
    """How far training has come; the best weights are those of the epoch that told the validation images best."""

    history: History
    best: dict[str, torch.Tensor]
    best_epoch: int
    frozen_accuracy: float | None  # on the test images, before the encoder is trained further
    scaler: dict[str, Any] = field(default_factory=dict)  # of float16; empty where there is none

    def rows(self, phase: Phase) -> History:
        return [row for row in self.history if row["phase"] == phase]


@dataclass(frozen=True)
class _Run:
    """The parts of one run; `streams` are those of the train, validation and test images."""

    folder: Path
    identity: str
    settings: Settings
    task: Task
    computation: Computation
    way: dict[str, Any]
    model: EncoderAndHead
    weights: torch.Tensor
    streams: tuple[ImageStream, ImageStream, ImageStream]
    reporter: Reporter

    def codes(self, side: int, batch: Batch) -> NDArray[np.int32]:
        """Of the images of a batch."""
        return self.task.codes(self.places(side, batch))

    def places(self, side: int, batch: Batch) -> NDArray[np.int64]:
        places: NDArray[np.int64] = self.task.division[side][[file.position for file in batch.files]]
        return places


@lowering(_LESS_TO_TRAIN)
@keeping_freed_memory()
def train_head(
    workspace: Workspace,
    settings: Settings,
    task: Task,
    name: str | None,
    base: str,
    started: float,
    reporter: Reporter,
) -> ClassifyResult:
    """Train a head, or go on with one, and write it to training/classifiers/<name>/ (`base` where it has no name).

    Raises SourceError where the images are gone, TrainingError where the loss is not finite.
    """
    for note in (notes := notes_on(workspace, task, reporter)):
        reporter.message(note)
    identity = _identity(settings, task)
    folder = place_for(workspace, name, base, identity)
    with locked(folder, ClassifierError(f"{folder.name} is being trained by another process")):
        run = _make_run(folder, identity, settings, task, reporter)
        state = _train(run)
        run.model.load_state_dict(state.best)
        told = _tell(run)
        return keep(workspace, settings, task, folder, _trained(run, state, told, notes), started, reporter)


def _identity(settings: Settings, task: Task) -> str:
    """What tells this run from others: the model, the images with their labels and sides, the settings."""
    digest = hashlib.sha256(task.checkpoint.sha256.encode())
    for places in task.division:
        for place in places.tolist():
            words = f"{task.source.names[place]}\0{task.labelled.classes[task.labelled.codes[place]]}\0"
            digest.update(words.encode("utf-8", "surrogateescape"))
        digest.update(b"\1")
    digest.update(json.dumps([getattr(settings, name) for name in _SHAPING]).encode())
    return digest.hexdigest()


def _make_run(folder: Path, identity: str, settings: Settings, task: Task, reporter: Reporter) -> _Run:
    computation = prepare_computation(settings, for_training=True)
    num_classes, picture_shape = len(task.labelled.classes), task.checkpoint.plan.picture_shape
    encoder = task.checkpoint.model.encoder.eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        head = ClassifierHead(
            map_shapes(encoder, picture_shape, settings.head_stages), num_classes, settings.head_width
        )
    model = EncoderAndHead(encoder, head, settings.head_stages)
    computation.place(model)
    weights = class_weights(task.codes(task.division.train), num_classes, balanced=settings.balance_classes)
    streams = _streams(settings, task, computation, reporter)
    way = way_to_compute(task.checkpoint, computation, "torch", settings.head_batch_size, "any")
    return _Run(folder, identity, settings, task, computation, way, model, weights, streams, reporter)


def _streams(
    settings: Settings, task: Task, computation: Computation, reporter: Reporter
) -> tuple[ImageStream, ImageStream, ImageStream]:
    size = ImageCache.size(sum(map(len, task.division)), task.checkpoint.preprocessing.shape)
    is_cached = settings.cache_images and size <= free_memory(shared=computation.num_processors > 1) // 2
    checksums = file_checksums(task.source, np.concatenate(list(task.division)), reporter) if is_cached else None

    def stream(
        places: NDArray[np.int64], shuffle_seed: int | None = None, beside: ImageStream | None = None
    ) -> ImageStream:
        return ImageStream(
            task.source.root,
            task.source.names.select(places.tolist()),
            task.checkpoint.preprocessing,
            batch_size=settings.head_batch_size,
            num_processors=computation.num_processors,
            shuffle_seed=shuffle_seed,
            checksums=None if checksums is None else [checksums[place] for place in places.tolist()],
            cache=None if checksums is None else ImageCache(len(places), task.checkpoint.preprocessing.shape),
            pin_memory=computation.device.type == "cuda",
            as_bytes=computation.device.type == "cuda",
            beside=beside,
        )

    train, validation, test = task.division
    first = stream(train, settings.seed)
    return first, stream(validation, beside=first), stream(test, beside=first)


def _train(run: _Run) -> _State:
    """All epochs that are still to be done, first of the head alone, then with the encoder."""
    settings = run.settings
    state, optimizer_state = _begin(run)
    phases: list[tuple[Phase, int]] = [("frozen", settings.head_epochs), ("finetuned", settings.finetune_epochs)]
    num_images = len(run.task.division.train) + len(run.task.division.validation)
    total = num_images * (settings.head_epochs + settings.finetune_epochs - len(state.history))
    run.reporter.message(f"training a head on {run.computation.describe()}, on {len(run.task.division.train):,} images")
    with _telling_what_is_kept(run, state), run.reporter.progress("training", total) as progress:
        for phase, epochs in phases:
            rows = state.rows(phase)
            if _is_over(settings, rows, epochs):
                continue
            if phase == "finetuned" and not rows:
                _begin_finetuning(run, state)
            trainer = make_head_trainer(run.model, settings, run.weights, run.computation, phase)
            if rows and optimizer_state:
                trainer.optimizer.load_state_dict(_optimizer_from(optimizer_state, trainer))
                if state.scaler and trainer.scaler.is_enabled():
                    trainer.scaler.load_state_dict(state.scaler)
            while not _is_over(settings, rows, epochs):
                rows.append(_one_epoch(run, trainer, state, phase, len(rows), epochs, progress))
            optimizer_state = {}
    return state


def _begin(run: _Run) -> tuple[_State, dict[str, torch.Tensor]]:
    """The state to go on from, and the optimizer's; weights are put into the model."""
    stored = classifiers.load_state(run.folder)
    if stored is None or stored[1].get("identity") != run.identity:
        some = islice(run.streams[0].epoch(), -(-_ENOUGH_TO_WHITEN // run.settings.head_batch_size))
        set_whitenings(run.model, (batch.images for batch in some if batch.files), run.computation)
        return _State([], {}, 0, None), {}
    tensors, words = stored
    parts = {
        part: {name.removeprefix(f"{part}."): one for name, one in tensors.items() if name.startswith(f"{part}.")}
        for part in ("model", "best", "optimizer")
    }
    run.model.load_state_dict(parts["model"])
    state = _State(
        words["history"], parts["best"], words["best_epoch"], words["frozen_accuracy"], words.get("scaler", {})
    )
    run.reporter.message(f"{run.folder.name}: going on after epoch {len(state.history)}")
    return state, parts["optimizer"]


def _begin_finetuning(run: _Run, state: _State) -> None:
    """From the best weights so far; what they tell rightly is noted, to be shown beside what comes."""
    run.model.load_state_dict(state.best)
    told = _tell(run)
    codes = run.task.codes(np.array(told.places, np.int64))
    state.frozen_accuracy = float((codes == np.array(told.codes)).mean())
    run.reporter.message(f"with the encoder frozen {state.frozen_accuracy:.1%} of the test images are told rightly")


def _is_over(settings: Settings, rows: History, epochs: int) -> bool:
    if len(rows) >= epochs or not settings.head_patience:
        return len(rows) >= epochs
    scores = [score for row in rows if (score := _score(row)) is not None]
    return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= settings.head_patience


def _score(row: dict[str, Any]) -> tuple[float, float] | None:
    """What epochs are chosen by, the higher the better: accuracy, then loss; None without validation images."""
    accuracy, loss = row["validation_accuracy"], row["validation_loss"]
    return None if accuracy is None else (accuracy, -loss)


def _one_epoch(
    run: _Run, trainer: HeadTrainer, state: _State, phase: Phase, number: int, epochs: int, progress: Progress
) -> dict[str, Any]:
    began = time.perf_counter()
    epoch = len(state.history)
    run.model.set_phase(phase)
    title = f"epoch {number + 1}/{epochs}" + (" with the encoder" if phase == "finetuned" else "")
    sums, count, stream = torch.zeros(2), 0, run.streams[0]
    for place, batch in enumerate(stream.epoch(epoch)):
        _refuse_vanished(run, 0, batch)
        if len(batch.files) > 1:  # the normalization of small maps wants more than one
            codes = torch.from_numpy(run.codes(0, batch)).long()
            sums += trainer.step(batch.images, codes, (epoch, place), (number + (place + 0.5) / len(stream)) / epochs)
            count += len(batch.files)
        progress.advance(batch.num_files, title)
    if not count:
        raise SourceError(f"no image in {run.task.source.location} can be read any more: there is nothing to train on")
    row = {
        "epoch": epoch + 1,
        "phase": phase,
        "learning_rate": learning_rate_at(trainer.settings, (number + 1 - 0.5 / len(stream)) / epochs),
        "train_loss": float(sums[0]) / count,
        "train_accuracy": float(sums[1]) / count,
        **_validated(run, progress),
        "seconds": round(time.perf_counter() - began, 3),
    }
    _note(run, trainer, state, row)
    return row


def _validated(run: _Run, progress: Progress) -> dict[str, float | None]:
    """Loss and accuracy on the validation images; None where there are none."""
    loss, right, count = 0.0, 0, 0
    for batch, shares in _each(run, 1, progress, mirrored=False):
        codes = run.codes(1, batch)
        right += int((shares.argmax(dim=1).numpy() == codes).sum())
        loss -= float(shares[torch.arange(len(codes)), torch.from_numpy(codes).long()].clamp(min=1e-12).log().sum())
        count += len(codes)
    if not count:
        return {"validation_loss": None, "validation_accuracy": None}
    return {"validation_loss": loss / count, "validation_accuracy": right / count}


def _each(run: _Run, side: int, progress: Progress, *, mirrored: bool) -> Iterator[tuple[Batch, torch.Tensor]]:
    for batch in run.streams[side].epoch():
        _refuse_vanished(run, side, batch)
        if batch.files:
            yield (
                batch,
                head_probabilities(
                    run.model,
                    batch.images,
                    run.computation,
                    batch_size=run.settings.head_batch_size,
                    mirrored=mirrored,
                ),
            )
        progress.advance(batch.num_files)


def _tell(run: _Run) -> Told:
    """The test images; those that cannot be read any more are counted."""
    told = Told()
    count = len(run.task.division.test)
    with run.reporter.progress("testing", count) as progress:
        for batch, shares in _each(run, 2, progress, mirrored=run.settings.head_augmentation):
            told.add(run.places(2, batch).tolist(), shares.numpy())
    if not told.places:
        raise SourceError(f"none of the {count} test images can be read any more: bring them back and start again")
    if lost := count - len(told.places):
        run.reporter.warning(f"{lost} of the {count} test images cannot be read any more: they are left out")
    return told


def _refuse_vanished(run: _Run, side: int, batch: Batch) -> None:
    if batch.rejected:
        refuse_vanished(run.task.source, _SideNames(run.task, side), batch)


def _note(run: _Run, trainer: HeadTrainer, state: _State, row: dict[str, Any]) -> None:
    """Add the epoch to the history, keep its weights where they are the best, and write all of it."""
    state.history.append(row)
    best = _score(state.history[state.best_epoch - 1]) if state.best_epoch else None
    score = _score(row)
    is_best = score is None or best is None or score > best
    if is_best:
        state.best = {name: one.detach().cpu().clone() for name, one in run.model.state_dict().items()}
        state.best_epoch = row["epoch"]
    tensors = {f"model.{name}": one for name, one in run.model.state_dict().items()}
    tensors |= {f"best.{name}": one for name, one in state.best.items()}
    for number, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": one for name, one in moments.items()}
    words = {
        "identity": run.identity,
        "history": state.history,
        "best_epoch": state.best_epoch,
        "frozen_accuracy": state.frozen_accuracy,
        "scaler": trainer.scaler.state_dict(),
    }
    classifiers.save_state(run.folder, tensors, words)
    rightly = "" if score is None else f"; {score[0]:.1%} of the validation images told rightly"
    run.reporter.message(
        f"epoch {row['epoch']}: train loss {row['train_loss']:.4f}{rightly}{', best' if is_best else ''}"
    )


def _optimizer_from(stored: dict[str, torch.Tensor], trainer: HeadTrainer) -> dict[str, Any]:
    """A state that the optimizer of the trainer can take up; moments lie in memory as their weights do."""
    weights = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, one in stored.items():
        number, _, kind = name.partition(".")
        weight = weights[int(number)]
        laid_out = torch.empty_like(weight).copy_(one) if one.shape == weight.shape else one
        moments.setdefault(int(number), {})[kind] = laid_out.detach()
    return {"state": moments, "param_groups": trainer.optimizer.state_dict()["param_groups"]}


class _SideNames(Sequence[str]):
    """The names of one side by their number in its stream."""

    def __init__(self, task: Task, side: int) -> None:
        self._names, self._places = task.source.names, task.division[side]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        return self._names[int(self._places[number])]


@contextmanager
def _telling_what_is_kept(run: _Run, state: _State) -> Iterator[None]:
    """Say, where training is stopped, what is kept."""
    try:
        yield
    except StopRequested:
        if state.history:
            kept = f"{run.folder.name} is kept as it stood after epoch {len(state.history)}"
            run.reporter.message(f"{kept}: the same command goes on with it")
        raise


def _trained(run: _Run, state: _State, told: Told, notes: Sequence[str]) -> Trained:
    settings = run.settings
    is_finetuned = any(row["phase"] == "finetuned" and row["epoch"] == state.best_epoch for row in state.history)
    kept = {name: one for name, one in state.best.items() if name.startswith("head.") or is_finetuned}
    found: dict[str, Any] = {
        "epochs": len(state.history),
        "best_epoch": state.best_epoch,
        "encoder": "trained further with the labels (fine-tuned)" if is_finetuned else "frozen",
        "stages": settings.head_stages,
    }
    if state.frozen_accuracy is not None:
        found["test_accuracy_with_the_encoder_frozen"] = state.frozen_accuracy
    description = {
        "head": {
            "stages": settings.head_stages,
            "width": settings.head_width,
            "finetuned": is_finetuned,
            "mirrored": settings.head_augmentation,
        },
        "computed_by": run.way,
        "found": found,
    }
    return Trained("head", kept, description, told, state.history, notes)
