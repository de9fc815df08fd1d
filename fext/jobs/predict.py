"""Prediction: the images of a folder or list are told apart by a trained classifier."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fext.compute.device import Computation, prepare_computation
from fext.compute.engines import RowShape, make_engine
from fext.compute.head_training import EncoderAndHead, head_probabilities
from fext.compute.row_classifiers import row_classifier_from
from fext.data.source import ImageSource, find_images
from fext.errors import ClassifierError, SourceError, UsageError, is_out_of_memory
from fext.jobs.choosing import refuse_vanished
from fext.jobs.extraction import checkpoint_of
from fext.jobs.features import averaged
from fext.jobs.streams import stream_for
from fext.model.classifier import ClassifierHead, map_shapes
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import Checkpoint
from fext.store.classifiers import Classifier, load_classifier
from fext.store.workspace import Workspace

Shares = NDArray[np.float32]


@dataclass(frozen=True)
class PredictResult:
    """The files written; num_found = images told + num_rejected, and how many were told to be of each class."""

    name: str
    file: Path
    rejected_file: Path
    num_found: int
    num_rejected: int
    num_not_images: int
    counts: dict[str, int]
    seconds: float


def predict(
    workspace: Workspace,
    settings: Settings,
    classifier_folder: Path,
    images: Path,
    output: Path | None,
    reporter: Reporter,
) -> PredictResult:
    """Write a CSV with a row for each image that can be read: its label, how probable it is, and so of each class.

    The rejected images stand with their reasons in a CSV beside it. Raises ClassifierError, CheckpointError where the
    model is gone or is another one, SourceError where there are no images, UsageError where the file exists.
    """
    started = time.perf_counter()
    classifier = load_classifier(classifier_folder)
    file = _new_file(classifier, images, output)
    source = find_images(images)
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: name a folder of images, or a list, with --images")
    checkpoint = checkpoint_of(workspace, classifier.description, f"the classifier {classifier.name}")
    computation = prepare_computation(settings)
    telling = _Telling(settings, source, checkpoint, classifier, computation, reporter)
    header = ["image", "label", "probability", *(f"probability_{name}" for name in classifier.classes)]
    files.write_csv(file, header, telling.rows())
    rejected_file = file.with_name(f"{file.stem}_rejected.csv")
    files.write_csv(rejected_file, ("image", "reason"), telling.rejected)
    return PredictResult(
        name=classifier.name,
        file=file,
        rejected_file=rejected_file,
        num_found=len(source),
        num_rejected=len(telling.rejected),
        num_not_images=source.num_not_images,
        counts={name: telling.counts[name] for name in classifier.classes},
        seconds=time.perf_counter() - started,
    )


def _new_file(classifier: Classifier, images: Path, output: Path | None) -> Path:
    if output is not None:
        if output.exists():
            raise UsageError(f"{output} exists: nothing is overwritten; name another file with --output")
        return output
    base, number = f"predictions_{images.stem or 'images'}", 1
    file = classifier.folder / f"{base}.csv"
    while file.exists():
        number += 1
        file = classifier.folder / f"{base}_{number}.csv"
    return file


@dataclass
class _Telling:
    """Goes through the images once, a batch at a time."""

    settings: Settings
    source: ImageSource
    checkpoint: Checkpoint
    classifier: Classifier
    computation: Computation
    reporter: Reporter
    rejected: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[list[object]]:
        """The lines of the table; the rejected are noted on the way."""
        names, classes, tell = self.source.names, self.classifier.classes, self._teller()
        stream = stream_for(self.checkpoint, self.source, names, self.settings.inference_batch_size, self.computation)
        with self.reporter.progress("telling images apart", len(names)) as progress:
            for batch in stream.epoch():
                refuse_vanished(self.source, names, batch)
                self.rejected += [(names[file.position], file.reason) for file in batch.rejected]
                shares = tell(batch.images) if batch.files else np.empty((0, len(classes)), np.float32)
                for file, row in zip(batch.files, shares, strict=True):
                    label = classes[int(row.argmax())]
                    self.counts[label] += 1
                    yield [names[file.position], label, f"{row.max():.6f}", *(f"{share:.6f}" for share in row)]
                progress.advance(batch.num_files)

    def _teller(self) -> "_Rows | _Maps":
        kind = _Maps if self.classifier.method == "head" else _Rows
        try:
            return kind(self.settings, self.checkpoint, self.classifier, self.computation)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            name = self.classifier.name
            raise ClassifierError(f"the classifier {name} is damaged: it does not fit its model") from error


class _Rows:
    """Tells by rows of features, made as the extraction made them."""

    def __init__(
        self, settings: Settings, checkpoint: Checkpoint, classifier: Classifier, computation: Computation
    ) -> None:
        self._extracted_grid, self._grid = classifier.description["grids"]
        all_stages = classifier.description.get("stages") == "all"
        shape = RowShape(self._extracted_grid, has_error=False, all_stages=all_stages)
        self._engine = make_engine("torch", checkpoint.model, computation, settings.inference_batch_size, shape)
        self._classifier = row_classifier_from(classifier.tensors)
        height, width, channels = checkpoint.plan.picture_shape
        self(torch.zeros(1, channels, height, width))

    def __call__(self, images: torch.Tensor) -> Shares:
        rows = self._engine.start(images)()
        return self._classifier.probabilities(
            np.stack([averaged(row, self._extracted_grid, self._grid) for row in rows])
        )


class _Maps:
    """Tells by a head on the encoder; where that was trained further, by the one that goes with it."""

    def __init__(
        self, settings: Settings, checkpoint: Checkpoint, classifier: Classifier, computation: Computation
    ) -> None:
        said = classifier.description["head"]
        encoder = checkpoint.model.encoder.eval()
        shapes = map_shapes(encoder, checkpoint.plan.picture_shape, said["stages"])
        head = ClassifierHead(shapes, len(classifier.classes), said["width"])
        self._model = EncoderAndHead(encoder, head, said["stages"])
        missing, unknown = self._model.load_state_dict(classifier.tensors, strict=False)
        if unknown or any(said["finetuned"] or name.startswith("head.") for name in missing):
            raise ValueError("not the tensors of this head")
        self._computation, self._batch_size = computation, settings.inference_batch_size
        self._mirrored = said["mirrored"]
        computation.place(self._model)

    def __call__(self, images: torch.Tensor) -> Shares:
        shares: Shares = head_probabilities(
            self._model, images, self._computation, batch_size=self._batch_size, mirrored=self._mirrored
        ).numpy()
        return shares
