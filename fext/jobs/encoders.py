"""Did training help? The encoder of a model beside untrained, linear and ImageNet ones and the pixels, judged alike.

Each is judged by what a linear map can read out of its latent (PSNR on test images; not of pixels, which are no latent)
and, where folders are labels, by how often the nearest train images have the label of a test image.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from fext.jobs.features import LINEAR_MAP, MODEL, PIXELS, UNTRAINED, shrunken_pixels
from fext.jobs.scoring import Evaluation, pooled
from fext.jobs.starting import model_before_training
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.intervals import Groups, Interval, mean_interval, paired_share_interval, share_interval
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
    """How an encoder does on test images: the PSNR of its linear readout and its gain over the untrained encoder's, and
    the share of labels that neighbours have right with the model's gain over it (None where folders are no labels)."""

    encoder: str
    readout_psnr: float | None
    gain_over_untrained: Interval | None
    effective_rank: float | None
    label_accuracy: Interval | None
    model_minus: Interval | None  # in label accuracy; None of the model itself


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
    """An encoder, and what is known of it so far; pixels have no readout and no statistics."""

    encode: Encode
    readout: LinearReadout | None
    latent: LatentStatistics | None
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
    judged[PIXELS] = _Judged(shrunken_pixels, None, None)
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
                    if encoder.readout is not None:
                        encoder.readout.finish()
    return _result(judged, labels, groups.codes[judged_places])


def _encoders(evaluation: Evaluation, linear_map: LinearMap) -> dict[str, Encode]:
    encoders: dict[str, Encode] = {
        MODEL: _by(evaluation, evaluation.checkpoint.model.encoder),
        UNTRAINED: _by(
            evaluation, model_before_training(evaluation.checkpoint, linear_map, evaluation.reporter).encoder
        ),
        LINEAR_MAP: linear_map.encode,
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
    if encoder.readout is None or encoder.latent is None:
        encoder.features[subset].extend(latent.flatten(1).numpy())
        return
    encoder.features[subset].extend(pooled(latent))
    if subset == "train":
        encoder.readout.learn(latent, images)
        return
    encoder.latent.add(latent)
    encoder.psnr += peak_signal_to_noise(mean_squared_error(encoder.readout.reconstruct(latent), images)).tolist()


def _result(judged: dict[str, _Judged], labels: dict[str, list[str]], groups: Groups) -> EncoderComparison:
    has_labels = are_labels(labels["train"]) and set(labels["test"]) & set(labels["train"])
    is_right = {name: _is_right(encoder, labels) for name, encoder in judged.items()} if has_labels else {}
    scores = [_scores(name, judged, is_right, groups) for name in judged if has_labels or name != PIXELS]
    commonest = Counter(labels["train"]).most_common(1)[0][0]
    chance = labels["test"].count(commonest) / len(labels["test"])
    return EncoderComparison(
        encoders=scores,
        num_train=len(labels["train"]),
        num_test=len(labels["test"]),
        num_labels=len(set(labels["train"])) if has_labels else 0,
        label_chance=chance if has_labels else None,
    )


def _scores(
    name: str, judged: Mapping[str, _Judged], is_right: Mapping[str, NDArray[np.bool_]], groups: Groups
) -> EncoderScores:
    encoder, untrained = judged[name], np.array(judged[UNTRAINED].psnr)
    has_gain = encoder.readout is not None and name != UNTRAINED
    return EncoderScores(
        encoder=name,
        readout_psnr=float(np.mean(encoder.psnr)) if encoder.psnr else None,
        gain_over_untrained=mean_interval(np.array(encoder.psnr) - untrained, groups) if has_gain else None,
        effective_rank=encoder.latent.summarize().effective_rank if encoder.latent is not None else None,
        label_accuracy=share_interval(is_right[name], groups) if is_right else None,
        model_minus=(
            paired_share_interval(is_right[MODEL], is_right[name], groups) if is_right and name != MODEL else None
        ),
    )


def _is_right(encoder: _Judged, labels: dict[str, list[str]]) -> NDArray[np.bool_]:
    """Whether the nearest train images by cosine have a test image's label (sklearn's KNeighborsClassifier)."""
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = min(_NUM_NEIGHBOURS, len(labels["train"]))
    classifier = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
    classifier.fit(np.array(encoder.features["train"]), labels["train"])
    told: NDArray[np.bool_] = classifier.predict(np.array(encoder.features["test"])) == np.array(labels["test"])
    return told


def _some(names: Names, count: int) -> Names:
    """At most so many, evenly spaced."""
    return names.select(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int).tolist())
