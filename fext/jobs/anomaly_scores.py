"""What an anomaly is judged by: views of an image, what is normal in each, and how far an image is from it.

A view is a map of vectors, such as the latent. Of the normal images are kept one Gaussian of the vectors of a view and
a sample of them, so that memory does not grow with the number of images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fext.compute.device import Computation
from fext.compute.inference import encode, reconstruct
from fext.jobs.starting import model_before_training
from fext.model.anomalies import (
    PositionGaussian,
    VectorSample,
    coreset,
    early_stages,
    local_contrast,
    nearest_distances,
    pixel_patches,
    places_of_map,
    seen_places,
    smoothed,
    strangest_place,
)
from fext.model.linear_map import LinearMap
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint

UNTRAINED, LINEAR_MAP = "untrained", "linear_map"
IN_COMBINED = (
    "reconstruction_local", "latent_image", "latent_gaussian", "latent_patches", "early_gaussian", "early_patches",
    "pixels_gaussian", "pixels_patches",
)  # fmt: skip
_SHRINKAGE = 0.1  # keeps the directions that hardly vary, noise among them, from having the last word
_SAMPLE_SIZE = 10_000  # vectors of a view that its bank is chosen from; as many whole images are kept
_PATCH_SHRINK, _PATCH_SIDE, _PATCH_STRIDE = 2, 8, 2  # patches of 16x16 pixels at half the resolution, 4 apart
_CONTRAST_SHARE = 32  # the height of a picture by the sigma of its local contrast
_FEWEST_POSITIONS = 16  # of which a median can be told

Maps = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Reconstruct = Callable[[torch.Tensor], torch.Tensor]
Distances = tuple[torch.Tensor, torch.Tensor]  # (N, rows, columns), and bool of the same shape: which positions count


@dataclass
class _View:
    """Images (N, C, H, W) and what of them is seen (N, 1, H, W) to maps of vectors, and what is normal among these."""

    name: str
    maps: Maps
    gaussian: PositionGaussian
    sample: VectorSample
    images: VectorSample | None  # of each normal image the mean over its positions
    bank: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    image_bank: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def learn(self, images: torch.Tensor, seen: torch.Tensor) -> None:
        vectors, counts = self._vectors(images, seen)
        for image, places in zip(vectors, counts, strict=True):
            self.gaussian.learn(image[places])
            self.sample.add(image[places])
        if self.images is not None:
            self.images.add(_means(vectors, counts))

    def finish(self, bank_size: int) -> None:
        self.gaussian.finish(_SHRINKAGE)
        self.bank = coreset(self.gaussian.whiten(self.sample.vectors()), bank_size)
        if self.images is not None:
            self.image_bank = self.gaussian.whiten(self.images.vectors())

    def judge(self, images: torch.Tensor, seen: torch.Tensor) -> tuple[dict[str, Distances], dict[str, torch.Tensor]]:
        """By score the distances of the positions, and those (N,) of whole images to the nearest normal one."""
        vectors, counts = self._vectors(images, seen)
        flat = vectors.reshape(-1, vectors.shape[3])
        found = {
            "gaussian": self.gaussian.distances(flat),
            "patches": nearest_distances(self.gaussian.whiten(flat), self.bank),
        }
        places = {
            f"{self.name}_{score}": (smoothed(distances.view(counts.shape)), counts)
            for score, distances in found.items()
        }
        if self.images is None:
            return places, {}
        means = self.gaussian.whiten(_means(vectors, counts))
        return places, {f"{self.name}_image": nearest_distances(means, self.image_bank)}

    def _vectors(self, images: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.maps(images, seen)
        return maps.permute(0, 2, 3, 1), places_of_map(seen, maps.shape[2], maps.shape[3])


def _means(vectors: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(N, C) mean of the vectors (N, rows, columns, C) of each image that count."""
    weights = counts[..., None].to(vectors.dtype)
    return (vectors * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))


@dataclass
class Judgement:
    """What is judged of some images: numbers (N,) by score, and distances by the scores that say where."""

    scores: dict[str, NDArray[np.float64]]
    places: dict[str, Distances]


class Judge:
    """Learns what is normal from normal images, then judges any."""

    def __init__(
        self, views: Sequence[_View], reconstructions: Mapping[str, Reconstruct], settings: Settings, is_padded: bool
    ) -> None:
        self._views, self._reconstructions = views, reconstructions
        self._bank_size, self._relative = settings.anomaly_bank, settings.anomaly_relative
        self._is_padded = is_padded

    def learn(self, images: torch.Tensor) -> None:
        """Take a batch (N, C, H, W) for normal."""
        seen = self._seen(images)
        for view in self._views:
            view.learn(images, seen)

    def finish(self) -> None:
        """Make the banks; call once, after the last batch."""
        for view in self._views:
            view.finish(self._bank_size)

    def judge(self, images: torch.Tensor) -> Judgement:
        """Judge a batch (N, C, H, W)."""
        seen = self._seen(images)
        judged = Judgement({}, {})
        for name, made in self._reconstructions.items():
            self._judge_reconstruction(judged, name, images, made(images), seen)
        for view in self._views:
            places, whole = view.judge(images, seen)
            judged.places |= places
            judged.scores |= {name: values.double().numpy() for name, values in whole.items()}
        for name, (distances, counts) in judged.places.items():
            judged.scores[name] = np.array([self._strangest(*image) for image in zip(distances, counts, strict=True)])
        return judged

    def relative_to_image(self, distances: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """(rows, columns) distances of one image, as multiples of their median where the setting asks for that."""
        if not self._relative or int(counts.sum()) < _FEWEST_POSITIONS:
            return distances
        return distances / (distances[counts].median() + 1e-12)

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        return seen_places(images) if self._is_padded else torch.ones_like(images[:, :1])

    def _strangest(self, distances: torch.Tensor, counts: torch.Tensor) -> float:
        values = distances[counts].double().numpy()
        return strangest_place(values, relative=self._relative and len(values) >= _FEWEST_POSITIONS)

    def _judge_reconstruction(
        self, judged: Judgement, name: str, images: torch.Tensor, made: torch.Tensor, seen: torch.Tensor
    ) -> None:
        errors = (images - made).square().mean(dim=1)
        within = places_of_map(seen, images.shape[2], images.shape[3])
        judged.scores[f"{name}_mean"] = _means(errors[..., None], within)[:, 0].double().numpy()
        judged.places[f"{name}_local"] = smoothed(errors, _error_size(images.shape[2])), within


def _error_size(height: int) -> int:
    """Pixels on a side over which reconstruction errors are averaged: 9 of 256, always an odd number."""
    return height // 64 * 2 + 1


def make_judge(
    checkpoint: Checkpoint,
    settings: Settings,
    computation: Computation,
    linear_map: LinearMap | None,
    reporter: Reporter,
    *,
    references: bool,
) -> Judge:
    """A judge by the model of a checkpoint and by pixels; beside them by the references that are asked for.

    The names of the scores of these begin with untrained_ and, where there is one, linear_map_.
    """
    making = _Making(checkpoint, settings, computation)
    computation.place(checkpoint.model)
    views = [making.view("pixels", _patches), *making.encoder_views("", checkpoint.model.encoder)]
    batch_size = settings.inference_batch_size
    reconstructions: dict[str, Reconstruct] = {
        "reconstruction": lambda images: reconstruct(checkpoint.model, images, computation, batch_size=batch_size)
    }
    if references:
        untrained = model_before_training(checkpoint, linear_map, reporter).encoder
        computation.place(untrained)
        views += making.encoder_views(f"{UNTRAINED}_", untrained)
        if linear_map is not None:
            encode_linearly = linear_map.encode
            views.append(making.view(f"{LINEAR_MAP}_latent", lambda images, _: encode_linearly(images), whole=True))
            reconstructions[f"{LINEAR_MAP}_reconstruction"] = linear_map.reconstruct
    return Judge(views, reconstructions, settings, checkpoint.preprocessing.resize_mode == "pad")


@dataclass(frozen=True)
class _Making:
    checkpoint: Checkpoint
    settings: Settings
    computation: Computation

    def encoder_views(self, prefix: str, encoder: nn.Module) -> list[_View]:
        """The latent and, where there are such, early stages."""
        views = [self.view(f"{prefix}latent", partial(self._encoded, encoder), whole=True)]
        plan = self.checkpoint.plan
        factor = plan.picture_shape[0] // plan.latent_shape[0]
        stages = early_stages(encoder, self.computation.to_device(self._blank()), factor)
        if stages is not None:
            views.append(self.view(f"{prefix}early", partial(self._smoothly_encoded, stages)))
        return views

    def view(self, name: str, maps: Maps, *, whole: bool = False) -> _View:
        """A view that knows nothing yet; `whole` images are compared in it, too."""
        blank = self._blank()
        num_channels = maps(blank, torch.ones_like(blank[:, :1])).shape[1]
        seed = self.settings.seed
        return _View(
            name,
            maps,
            PositionGaussian(num_channels),
            VectorSample(_SAMPLE_SIZE, seed),
            VectorSample(_SAMPLE_SIZE, seed) if whole else None,
        )

    def _blank(self) -> torch.Tensor:
        height, width, channels = self.checkpoint.plan.picture_shape
        return torch.zeros(1, channels, height, width)

    def _encoded(self, encoder: nn.Module, images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return encode(encoder, images, self.computation, batch_size=self.settings.inference_batch_size)

    def _smoothly_encoded(self, stages: nn.Module, images: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Each position with those around it, as PatchCore has them."""
        maps = self._encoded(stages, images, seen)
        return smoothed(maps.flatten(0, 1)).view(maps.shape)


def _patches(images: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Patches of local contrast: what is left of pixels without the lighting."""
    contrast = local_contrast(images, seen, max(1.0, images.shape[2] / _CONTRAST_SHARE))
    return pixel_patches(contrast, _PATCH_SHRINK, _PATCH_SIDE, _PATCH_STRIDE)
