"""Prediction: the images of a folder or list are told apart by a trained classifier."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fext.compute.engines import make_engine
from fext.compute.head_training import EncoderAndHead, head_probabilities
from fext.compute.row_classifiers import row_classifier_from
from fext.data.names import Names, readable
from fext.data.source import ImageSource, find_images, known_images
from fext.errors import ClassifierError, SourceError, UsageError, is_out_of_memory
from fext.jobs.choosing import refuse_vanished
from fext.jobs.extraction import Extraction, checkpoint_of, own_extraction, remade_extraction
from fext.jobs.features import PIXELS, averaged
from fext.jobs.streams import stream_for
from fext.model.classifier import ClassifierHead, map_shapes
from fext.model.intervals import Interval
from fext.pictures.classification_report import percent
from fext.reporting import Reporter
from fext.settings import Settings, change_settings
from fext.store import files
from fext.store.classifiers import Classifier, load_classifier
from fext.store.workspace import Workspace

Shares = NDArray[np.float32]

_PIXELS_UNKNOWN = (
    "Whether pixels would do as well is not known: explore classify --references says so of probe and knn."
)
_WHAT_IT_MEANS = (
    "probabilities differ in their last digits, and an image that is nearly as probable of another class may get it"
)


@dataclass(frozen=True)
class PredictResult:
    """The files written; num_found = images told + num_rejected, and how many were told to be of each class.

    `known_of_it` says in sentences how good the classifier was on its test images.
    """

    name: str
    known_of_it: Sequence[str]
    file: Path
    rejected_file: Path
    summary_file: Path
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

    The rejected images stand with their reasons in a CSV beside it, and in a JSON file how they were told: computed as
    what the classifier was trained on or, where this machine cannot, what differs. Raises ClassifierError,
    CheckpointError where the model is gone or is another one, SourceError where there are no images, UsageError where
    the file exists.
    """
    started = time.perf_counter()
    classifier = load_classifier(classifier_folder)
    file = _new_file(classifier, images, output)
    source = find_images(images, reporter)
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: name a folder of images, or a list, with --images")
    extraction, difference = _as_trained(workspace, settings, classifier)
    reporter.message(f"labelling {len(source)} images with {classifier.name}, {extraction.describe()}")
    if difference:
        reporter.warning(f"not computed as what {classifier.name} was trained on ({difference}): {_WHAT_IT_MEANS}")
    telling = _Telling(source, extraction, classifier, reporter)
    header = ["image", "label", "probability", *(f"probability_{name}" for name in classifier.classes)]
    files.write_csv(file, header, telling.rows())
    rejected_file = file.with_name(f"{file.stem}_rejected.csv")
    files.write_csv(rejected_file, ("image", "reason"), telling.rejected)
    summary_file = file.with_name(f"{file.stem}_summary.json")
    counts = {name: telling.counts[name] for name in classifier.classes}
    files.write_json(summary_file, _summary(classifier, extraction, difference, source, counts))
    return PredictResult(
        name=classifier.name,
        known_of_it=_known_of(classifier),
        file=file,
        rejected_file=rejected_file,
        summary_file=summary_file,
        num_found=len(source),
        num_rejected=len(telling.rejected),
        num_not_images=source.num_not_images,
        counts=counts,
        seconds=time.perf_counter() - started,
    )


def _as_trained(workspace: Workspace, settings: Settings, classifier: Classifier) -> tuple[Extraction, str]:
    """An extraction that encodes as what the classifier was trained on was, and what differs from that here."""
    said, what = classifier.description, f"the classifier {classifier.name}"
    shape = {
        "feature_grid": said["grids"][0] if said["grids"] else 1,
        "feature_stages": said.get("stages") or "last",
        "reconstruction_error": False,
    }
    if said.get("computed_by") is None:
        checkpoint = checkpoint_of(workspace, said, what)
        own = change_settings(settings, **shape, inference_engine="torch")
        nowhere = known_images(Path(said["source"]), Names([]))
        extraction = own_extraction(classifier.folder, own, checkpoint, nowhere)
        return extraction, "it is of an earlier version, which does not say how that was computed"
    return remade_extraction(workspace, settings, classifier.folder, {**said, **shape}, what)


def _summary(
    classifier: Classifier, extraction: Extraction, difference: str, source: ImageSource, counts: dict[str, int]
) -> dict[str, object]:
    return {
        "classifier": classifier.name,
        "known_of_it": _known_of(classifier),
        "images": readable(str(source.location.resolve())),
        "counts": counts,
        "computed_by": extraction.computed_by(),
        "trained_on_computed_by": classifier.description.get("computed_by"),
        "computed_as_trained": not difference,
        "difference": f"{difference}: {_WHAT_IT_MEANS}" if difference else "",
    }


def _known_of(classifier: Classifier) -> list[str]:
    """How good it was on its test images, and whether pixels were as good, as far as its description says."""
    said = classifier.description
    scores, references, verdict = (said.get(name) for name in ("scores", "references", "verdict"))
    if not scores:
        return [f"How good {classifier.name} is on images it has not seen is not known."]
    count = sum(map(sum, scores["confusion"]))
    known = [f"{classifier.name} told {percent(_accuracy(scores))} of its {count:,} test images rightly."]
    if verdict and verdict["best_reference"]:
        return [*known, *verdict["sentences"]]
    if references and PIXELS in references:
        return [*known, f"With pixels in place of the model it was {percent(_accuracy(references[PIXELS]))}."]
    return [*known, _PIXELS_UNKNOWN]


def _accuracy(scores: Mapping[str, Any]) -> Interval:
    return Interval(scores["accuracy"], *scores.get("accuracy_interval", (None, None)))


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

    source: ImageSource
    extraction: Extraction
    classifier: Classifier
    reporter: Reporter
    rejected: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[list[object]]:
        """The lines of the table; the rejected are noted on the way."""
        names, classes, tell = self.source.names, self.classifier.classes, self._teller()
        way = self.extraction
        stream = stream_for(way.checkpoint, self.source, names, way.batch_size, way.computation)
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
            return kind(self.extraction, self.classifier)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            name = self.classifier.name
            raise ClassifierError(f"the classifier {name} is damaged: it does not fit its model") from error


class _Rows:
    """Tells by rows of features, made as the extraction made them."""

    def __init__(self, way: Extraction, classifier: Classifier) -> None:
        self._extracted_grid, self._grid = classifier.description["grids"]
        self._engine = make_engine(way.engine, way.checkpoint.model, way.computation, way.num_together, way.shape)
        self._classifier = row_classifier_from(classifier.tensors)
        height, width, channels = way.checkpoint.plan.picture_shape
        self(torch.zeros(1, channels, height, width))

    def __call__(self, images: torch.Tensor) -> Shares:
        rows = self._engine.start(images)()
        return self._classifier.probabilities(
            np.stack([averaged(row, self._extracted_grid, self._grid) for row in rows])
        )


class _Maps:
    """Tells by a head on the encoder; where that was trained further, by the one that goes with it."""

    def __init__(self, way: Extraction, classifier: Classifier) -> None:
        said = classifier.description["head"]
        encoder = way.checkpoint.model.encoder.eval()
        shapes = map_shapes(encoder, way.checkpoint.plan.picture_shape, said["stages"])
        head = ClassifierHead(shapes, len(classifier.classes), said["width"])
        self._model = EncoderAndHead(encoder, head, said["stages"])
        missing, unknown = self._model.load_state_dict(classifier.tensors, strict=False)
        if unknown or any(said["finetuned"] or name.startswith("head.") for name in missing):
            raise ValueError("not the tensors of this head")
        self._computation, self._batch_size = way.computation, way.batch_size
        self._mirrored = said["mirrored"]
        self._computation.place(self._model)

    def __call__(self, images: torch.Tensor) -> Shares:
        shares: Shares = head_probabilities(
            self._model, images, self._computation, batch_size=self._batch_size, mirrored=self._mirrored
        ).numpy()
        return shares
