"""Did training help? The encoder of a model beside untrained, linear and ImageNet ones, judged alike.

Each is judged by what a linear map can read out of its latent (PSNR on test images) and, where folders are labels, by
how often the nearest train images have the label of a test image.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fext.compute.inference import encode
from fext.data.groups import group_images
from fext.data.labels import are_labels, label_of
from fext.data.names import Names
from fext.errors import ModelError
from fext.jobs.choosing import refuse_vanished
from fext.jobs.scoring import Evaluation, pooled
from fext.jobs.starting import model_before_training
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.intervals import Groups, Interval, mean_interval
from fext.model.latent_statistics import LatentStatistics
from fext.model.linear_map import LinearMap
from fext.model.linear_readout import LinearReadout
from fext.model.plans import make_plan
from fext.model.scores import mean_squared_error, peak_signal_to_noise
from fext.store.pretrained import has_imagenet_weights, imagenet_encoder_weights

_NUM_TRAIN, _NUM_TEST = 300, 150  # images: 19,200 vectors of a latent of 8x8 to learn 512 weights from
_NUM_NEIGHBOURS = 5
_IMAGENET = "vgg16"

Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class EncoderScores:
    """How an encoder does on test images: the PSNR of its linear readout, its gain over the untrained encoder's with
    their interval, and the share of labels that neighbours have right (None where folders are no labels)."""

    encoder: str
    readout_psnr: float
    gain_over_untrained: Interval | None
    effective_rank: float
    label_accuracy: float | None


@dataclass(frozen=True)
class EncoderComparison:
    """The encoders, the model's own first; how many images they were judged by, and what guessing would get right."""

    encoders: Sequence[EncoderScores]
    num_train: int
    num_test: int
    num_labels: int
    label_chance: float | None


@dataclass
class _Judged:
    """An encoder, and what is known of it so far."""

    encode: Encode
    readout: LinearReadout
    latent: LatentStatistics
    features: dict[str, list[NDArray[np.float32]]] = field(default_factory=lambda: {"train": [], "test": []})
    psnr: list[float] = field(default_factory=list)


def compare_encoders(evaluation: Evaluation, linear_map: LinearMap) -> EncoderComparison | None:
    """Judge the encoders by some of the train and test (else new) images; None where there are too few of these.

    Raises SourceError where the folder of the images is gone.
    """
    train, test = (
        _some(evaluation.of_subset("train"), _NUM_TRAIN),
        _some(evaluation.of_subset("test", "new"), _NUM_TEST),
    )
    if len(train) < 2 or len(test) < 2:
        return None
    judged = {name: _judged(evaluation, encoder) for name, encoder in _encoders(evaluation, linear_map).items()}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    groups = group_images(test, evaluation.settings.interval_groups)
    judged_places: list[int] = []
    with evaluation.reporter.progress("comparing encoders", len(train) + len(test)) as progress:
        for subset, names in (("train", train), ("test", test)):
            for batch in evaluation.stream(names).epoch():
                refuse_vanished(evaluation.source, names, batch)
                labels[subset] += [label_of(names[file.position]) for file in batch.files]
                judged_places += [file.position for file in batch.files] if subset == "test" else []
                for encoder in judged.values():
                    _see(encoder, batch.images, subset)
                progress.advance(batch.num_files)
            if not labels[subset]:
                return None
            if subset == "train":
                for encoder in judged.values():
                    encoder.readout.finish()
    return _result(judged, labels, groups.codes[judged_places])


def _encoders(evaluation: Evaluation, linear_map: LinearMap) -> dict[str, Encode]:
    encoders: dict[str, Encode] = {
        "model": _by(evaluation, evaluation.checkpoint.model.encoder),
        "untrained": _by(
            evaluation, model_before_training(evaluation.checkpoint, linear_map, evaluation.reporter).encoder
        ),
        "linear_map": linear_map.encode,
    }
    if (imagenet := _imagenet_encoder(evaluation)) is not None:
        encoders["imagenet_vgg16"] = _by(evaluation, imagenet.encoder)
    return encoders


def _by(evaluation: Evaluation, encoder: torch.nn.Module) -> Encode:
    evaluation.computation.place(encoder)
    batch_size = evaluation.settings.inference_batch_size
    return lambda images: encode(encoder, images, evaluation.computation, batch_size=batch_size)


def _imagenet_encoder(evaluation: Evaluation) -> Autoencoder | None:
    """VGG16's feature stack trained on ImageNet, for images that it can see, where its weights can be had."""
    wanted = evaluation.settings.imagenet_reference
    height, width, channels = evaluation.checkpoint.plan.picture_shape
    if channels != 3 or height % 32 or width % 32 or wanted is False:
        return None
    if wanted == "auto" and not has_imagenet_weights(_IMAGENET):
        return None
    try:
        weights = imagenet_encoder_weights(_IMAGENET, "imagenet_reference = True", "set imagenet_reference to 'auto'")
    except ModelError as error:
        evaluation.reporter.warning(f"evaluating without the ImageNet encoder: {error}")
        return None
    model = build_autoencoder(make_plan(_IMAGENET, (height, width, channels)), 0).eval()
    model.encoder.load_state_dict(weights)
    return model


def _judged(evaluation: Evaluation, encoder: Encode) -> _Judged:
    shape = evaluation.checkpoint.plan.picture_shape
    height, width, channels = shape
    latent = encoder(torch.zeros(1, channels, height, width))
    _, latent_channels, rows, columns = latent.shape
    return _Judged(encoder, LinearReadout(shape, (rows, columns, latent_channels)), LatentStatistics(latent_channels))


def _see(encoder: _Judged, images: torch.Tensor, subset: str) -> None:
    """Learn from a batch of train images, or be judged by one of test images."""
    if not len(images):
        return
    latent = encoder.encode(images)
    encoder.features[subset].extend(pooled(latent))
    if subset == "train":
        encoder.readout.learn(latent, images)
        return
    encoder.latent.add(latent)
    encoder.psnr += peak_signal_to_noise(mean_squared_error(encoder.readout.reconstruct(latent), images)).tolist()


def _result(judged: dict[str, _Judged], labels: dict[str, list[str]], groups: Groups) -> EncoderComparison:
    has_labels = are_labels(labels["train"]) and set(labels["test"]) & set(labels["train"])
    untrained = np.array(judged["untrained"].psnr)
    scores = [
        EncoderScores(
            encoder=name,
            readout_psnr=float(np.mean(encoder.psnr)),
            gain_over_untrained=(
                None if name == "untrained" else mean_interval(np.array(encoder.psnr) - untrained, groups)
            ),
            effective_rank=encoder.latent.summarize().effective_rank,
            label_accuracy=_label_accuracy(encoder, labels) if has_labels else None,
        )
        for name, encoder in judged.items()
    ]
    commonest = Counter(labels["train"]).most_common(1)[0][0]
    chance = labels["test"].count(commonest) / len(labels["test"])
    return EncoderComparison(
        encoders=scores,
        num_train=len(labels["train"]),
        num_test=len(labels["test"]),
        num_labels=len(set(labels["train"])) if has_labels else 0,
        label_chance=chance if has_labels else None,
    )


def _label_accuracy(encoder: _Judged, labels: dict[str, list[str]]) -> float:
    """How often the nearest train images by cosine have a test image's label (sklearn's KNeighborsClassifier)."""
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = min(_NUM_NEIGHBOURS, len(labels["train"]))
    classifier = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
    classifier.fit(np.array(encoder.features["train"]), labels["train"])
    return float(classifier.score(np.array(encoder.features["test"]), labels["test"]))


def _some(names: Names, count: int) -> Names:
    """At most so many, evenly spaced."""
    return names.select(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int).tolist())
