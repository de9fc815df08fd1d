"""The pass of an evaluation over its images: every score, where the errors lie, what the latent looks like."""

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fext.compute.device import Computation
from fext.compute.inference import encode_and_reconstruct
from fext.data.dataset import Batch, ImageStream
from fext.data.names import Names
from fext.data.readers import num_usable_cores
from fext.data.source import ImageSource
from fext.data.split import SIDES
from fext.jobs.choosing import refuse_vanished
from fext.jobs.recognition import NEW
from fext.jobs.streams import stream_for
from fext.model.latent_statistics import LatentStatistics
from fext.model.linear_map import LinearMap
from fext.model.scores import Comparison, Scores, compare, reconstruction_scores
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint

SUBSETS = (*SIDES, NEW)
METHODS = ("model", "linear_map", "mean_image")
_MOST_SAMPLED = 1000  # images whose features stay in memory for neighbours and maps
_SAMPLE_GRID = 2  # positions a side that those are averaged to
_THUMBNAIL_SIDE = 96


@dataclass(frozen=True)
class Evaluation:
    """The parts of one evaluation; `subsets` says of each image, in the order of `names`, where it stands."""

    checkpoint: Checkpoint
    source: ImageSource
    names: Names
    subsets: NDArray[np.str_]
    settings: Settings
    computation: Computation
    reporter: Reporter

    def stream(self, names: Sequence[str]) -> ImageStream:
        """The named images, preprocessed as the checkpoint says."""
        return stream_for(self.checkpoint, self.source, names, self.settings.inference_batch_size, self.computation)

    def of_subset(self, *subsets: str) -> Names:
        """The names of the images that stand there."""
        return self.names.select(np.flatnonzero(np.isin(self.subsets, subsets)).tolist())


@dataclass(frozen=True)
class Sample:
    """Some of the images, evenly spaced: their features, averaged over the latent's quarters, and thumbnails."""

    names: list[str]
    subsets: NDArray[np.str_]
    features: NDArray[np.float32]  # (images, values)
    thumbnails: NDArray[np.uint8]  # (images, side, side, 3)


@dataclass(frozen=True)
class Scored:
    """What the pass has found of the images that could be read, a row for each in `scores[method]`, as Scores has it.

    The maps are means over the images of a subset: (H, W) of absolute error and of SSIM.
    """

    names: Names
    subsets: NDArray[np.str_]
    scores: Mapping[str, NDArray[np.float64]]
    rejected: Sequence[tuple[str, str]]
    error_maps: Mapping[str, NDArray[np.float64]]
    ssim_maps: Mapping[str, NDArray[np.float64]]
    latent: LatentStatistics
    sample: Sample
    images_per_second: float

    def values(self, method: str, score: str, subset: str) -> NDArray[np.float64]:
        """One score of the images of a subset, in order."""
        chosen: NDArray[np.float64] = self.scores[method][self.subsets == subset, Scores._fields.index(score)]
        return chosen

    def found_subsets(self) -> list[str]:
        """Those with images, in the order train, validation, test, new."""
        return [subset for subset in SUBSETS if (self.subsets == subset).any()]


@dataclass
class _Gathered:
    """Scored, while it grows: some hundred bytes an image."""

    evaluation: Evaluation
    places: "array[int]" = field(default_factory=lambda: array("L"))
    scores: "dict[str, array[float]]" = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    error_maps: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    ssim_maps: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    sampled: list[tuple[int, NDArray[np.float32], NDArray[np.uint8]]] = field(default_factory=list)

    def add(self, place: int, comparison: Comparison, others: Mapping[str, Scores]) -> None:
        subset = str(self.evaluation.subsets[place])
        self.places.append(place)
        for method, scores in {"model": comparison.scores, **others}.items():
            self.scores.setdefault(method, array("d")).extend(scores)
        for maps, found in ((self.error_maps, comparison.error_map), (self.ssim_maps, comparison.ssim_map)):
            maps[subset] = maps.get(subset, 0.0) + found.astype(np.float64)

    def finish(self, latent: LatentStatistics, images_per_second: float) -> Scored:
        places = np.asarray(self.places, dtype=np.int64)
        subsets = self.evaluation.subsets[places]
        counts = {subset: int((subsets == subset).sum()) for subset in self.error_maps}
        return Scored(
            names=self.evaluation.names.select(places.tolist()),
            subsets=subsets,
            scores={
                method: np.asarray(values).reshape(-1, len(Scores._fields)) for method, values in self.scores.items()
            },
            rejected=self.rejected,
            error_maps={subset: total / counts[subset] for subset, total in self.error_maps.items()},
            ssim_maps={subset: total / counts[subset] for subset, total in self.ssim_maps.items()},
            latent=latent,
            sample=self._sample(),
            images_per_second=images_per_second,
        )

    def _sample(self) -> Sample:
        places = [place for place, _, _ in self.sampled]
        return Sample(
            names=[self.evaluation.names[place] for place in places],
            subsets=self.evaluation.subsets[places],
            features=np.array([features for _, features, _ in self.sampled]),
            thumbnails=np.array([thumbnail for _, _, thumbnail in self.sampled]),
        )


def score_images(evaluation: Evaluation, linear_map: LinearMap | None) -> Scored:
    """Reconstruct and score every image once, in order. Raises SourceError where the folder of the images is gone."""
    names, reporter = evaluation.names, evaluation.reporter
    gathered = _Gathered(evaluation)
    latent_statistics = LatentStatistics(evaluation.checkpoint.plan.latent_channels)
    step = -(-len(names) // _MOST_SAMPLED)
    started = time.perf_counter()
    with reporter.progress("evaluating", len(names)) as progress:
        for batch in evaluation.stream(names).epoch():
            refuse_vanished(evaluation.source, names, batch)
            for file in batch.rejected:
                gathered.rejected.append((names[file.position], file.reason))
                reporter.warning(f"rejected: {names[file.position]} ({file.reason})")
            if len(batch.images):
                latent, made = _reconstruct(evaluation, linear_map, batch)
                latent_statistics.add(latent)
                for place, comparison, others in _scores(batch, made):
                    gathered.add(place, comparison, others)
                gathered.sampled += _sampled(batch, latent, step)
            progress.advance(batch.num_files)
    return gathered.finish(latent_statistics, len(gathered.places) / (time.perf_counter() - started))


def _reconstruct(
    evaluation: Evaluation, linear_map: LinearMap | None, batch: Batch
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The latents, and the reconstructions by method."""
    latent, reconstructions = encode_and_reconstruct(
        evaluation.checkpoint.model,
        batch.images,
        evaluation.computation,
        batch_size=evaluation.settings.inference_batch_size,
    )
    made = {"model": reconstructions}
    if linear_map is not None:
        num_channels = evaluation.checkpoint.plan.picture_channels
        made["linear_map"] = linear_map.reconstruct(batch.images, num_channels)
        made["mean_image"] = linear_map.mean_image().expand_as(batch.images)
    return latent, made


def _scores(batch: Batch, made: Mapping[str, torch.Tensor]) -> Iterator[tuple[int, Comparison, dict[str, Scores]]]:
    originals = _channels_last(batch.images)
    arrays = {method: _channels_last(images) for method, images in made.items()}

    def score(number: int) -> tuple[int, Comparison, dict[str, Scores]]:
        others = {
            method: reconstruction_scores(originals[number], images[number])
            for method, images in arrays.items()
            if method != "model"
        }
        return batch.files[number].position, compare(originals[number], arrays["model"][number]), others

    # SSIM takes longer than the model itself; its filters run outside Python's lock, so threads share the work.
    with ThreadPoolExecutor(num_usable_cores()) as pool:
        yield from pool.map(score, range(len(batch.files)))


def _channels_last(images: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _sampled(
    batch: Batch, latent: torch.Tensor, step: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.uint8]]]:
    """Place, features and thumbnail of every step-th image."""
    features = pooled(latent)
    for number, file in enumerate(batch.files):
        if file.position % step == 0:
            # A copy, for a part of the batch's features would keep all of them in memory.
            yield file.position, features[number].copy(), thumbnail(batch.images[number])


def pooled(latent: torch.Tensor) -> NDArray[np.float32]:
    """(N, values): the latents averaged over their quarters, each image's values in height, width, channel order."""
    sides = (min(_SAMPLE_GRID, latent.shape[2]), min(_SAMPLE_GRID, latent.shape[3]))
    features: NDArray[np.float32] = functional.adaptive_avg_pool2d(latent, sides).permute(0, 2, 3, 1).flatten(1).numpy()
    return features


def thumbnail(image: torch.Tensor) -> NDArray[np.uint8]:
    """(C, H, W) in [0, 1] made small: (side, side, 3) of 8 bits."""
    small = functional.interpolate(
        image[None], (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), mode="bilinear", antialias=True, align_corners=False
    )[0]
    pixels = (small.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    array: NDArray[np.uint8] = pixels.permute(1, 2, 0).contiguous().numpy()
    return array
