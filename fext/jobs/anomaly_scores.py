"""What an anomaly is judged by: views of an image, what is normal in each, and how far an image is from it.

A view is a map of vectors, such as the latent. Of the normal images are kept one Gaussian of the vectors of a view and
a sample of them, so that memory does not grow with the number of images.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from fext.compute.device import Computation
from fext.compute.inference import encode, reconstruct
from fext.data.images import decode_within, read_file
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

MODEL, PIXELS, UNTRAINED, LINEAR_MAP = "model", "pixels", "untrained", "linear_map"
_ENCODER_VIEWS = ("latent", "early")
_KEPT_VARIANCE = 0.93  # in the directions beyond is noise, which would have the last word
_SAMPLE_SIZE = 10_000  # vectors of a view that its bank is chosen from; as many whole images are kept
_FEWEST_POSITIONS = 16  # of which a median can be told
_MARGIN_SHARE = 32  # the height of a picture by the pixels at its edge that are no part of a position that counts


class Positions(NamedTuple):
    """Of an image: vectors (rows, columns, C) or distances (rows, columns), and bool (rows, columns): which count."""

    values: torch.Tensor
    counts: torch.Tensor


Look = Callable[[torch.Tensor, torch.Tensor, Sequence[Path]], list[Positions]]
Reconstruct = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class _View:
    """A way to look at images (N, C, H, W), what of them is seen (N, 1, H, W) and their files; what is normal in it."""

    name: str
    look: Look
    gaussian: PositionGaussian
    sample: VectorSample
    images: VectorSample | None  # of each normal image the mean over its positions
    bank: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    image_bank: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def learn(self, images: torch.Tensor, seen: torch.Tensor, paths: Sequence[Path]) -> None:
        for looked_at in self.look(images, seen, paths):
            vectors = looked_at.values[looked_at.counts]
            self.gaussian.learn(vectors)
            self.sample.add(vectors)
            if self.images is not None:
                self.images.add(vectors.mean(dim=0, keepdim=True))

    def finish(self, bank_size: int) -> None:
        self.gaussian.finish(_KEPT_VARIANCE)
        self.bank = coreset(self.gaussian.whiten(self.sample.vectors()), bank_size)
        if self.images is not None:
            self.image_bank = self.gaussian.whiten(self.images.vectors())

    def judge(self, images: torch.Tensor, seen: torch.Tensor, paths: Sequence[Path]) -> list["_Judged"]:
        return [self._judge(looked_at) for looked_at in self.look(images, seen, paths)]

    def _judge(self, looked_at: Positions) -> "_Judged":
        """The distances of positions by score, and that of the whole image to the nearest normal one."""
        vectors, counts = looked_at
        white = self.gaussian.whiten(vectors.flatten(0, 1))
        found = {"gaussian": white.square().mean(dim=1), "patches": nearest_distances(white, self.bank)}
        places = {
            f"{self.name}_{score}": Positions(smoothed(distances.view(1, *counts.shape))[0], counts)
            for score, distances in found.items()
        }
        if self.images is None:
            return _Judged({}, places)
        mean = self.gaussian.whiten(vectors[counts].mean(dim=0, keepdim=True))
        return _Judged({f"{self.name}_image": float(nearest_distances(mean, self.image_bank))}, places)


@dataclass
class _Judged:
    """What is judged of an image: numbers by score, and distances by the scores that say where."""

    scores: dict[str, float]
    places: dict[str, Positions]


class Judge:
    """Learns what is normal from normal images, then judges any."""

    def __init__(
        self, views: Sequence[_View], reconstructions: Mapping[str, Reconstruct], settings: Settings, is_padded: bool
    ) -> None:
        self._views, self._reconstructions = views, reconstructions
        self._bank_size, self._relative = settings.anomaly_bank, settings.anomaly_relative
        self._is_padded = is_padded

    def learn(self, images: torch.Tensor, paths: Sequence[Path]) -> None:
        """Take a batch (N, C, H, W), and the files it comes from, for normal."""
        seen = self._seen(images)
        for view in self._views:
            view.learn(images, seen, paths)

    def finish(self) -> None:
        """Make the banks; call once, after the last batch."""
        for view in self._views:
            view.finish(self._bank_size)

    def judge(self, images: torch.Tensor, paths: Sequence[Path]) -> list[_Judged]:
        """Judge each image of a batch (N, C, H, W), and the files it comes from."""
        seen = self._seen(images)
        parts = [
            _judge_reconstruction(name, images, made(images), seen) for name, made in self._reconstructions.items()
        ]
        parts += [view.judge(images, seen, paths) for view in self._views]
        judged = []
        for of_image in zip(*parts, strict=True):
            places = {name: positions for part in of_image for name, positions in part.places.items()}
            scores = {name: score for part in of_image for name, score in part.scores.items()}
            strangest = {name: self._strangest(positions) for name, positions in places.items()}
            judged.append(_Judged(scores | strangest, places))
        return judged

    def relative_to_image(self, positions: Positions) -> torch.Tensor:
        """(rows, columns) distances of an image, as multiples of their median where the setting asks for that."""
        distances, counts = positions
        if not self._relative or int(counts.sum()) < _FEWEST_POSITIONS:
            return distances
        return distances / (distances[counts].median() + 1e-12)

    def _strangest(self, positions: Positions) -> float:
        values = positions.values[positions.counts].double().numpy()
        return strangest_place(values, relative=self._relative and len(values) >= _FEWEST_POSITIONS)

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        return seen_places(images) if self._is_padded else torch.ones_like(images[:, :1])


def encoder_scores(names: Iterable[str], encoder: str) -> list[str]:
    """Those of the scores that come of what an encoder makes of images, or, of PIXELS, of these themselves."""
    if encoder == PIXELS:
        return [name for name in names if name.startswith(f"{PIXELS}_")]
    prefix = "" if encoder == MODEL else f"{encoder}_"
    return [name for name in names if name.startswith(tuple(f"{prefix}{view}_" for view in _ENCODER_VIEWS))]


def _judge_reconstruction(name: str, images: torch.Tensor, made: torch.Tensor, seen: torch.Tensor) -> list[_Judged]:
    """Squared errors, their means, and their means over some pixels around each: 9 a side of 256."""
    errors = (images - made).square().mean(dim=1)
    around = smoothed(errors, images.shape[2] // 64 * 2 + 1)
    counts = places_of_map(seen, images.shape[2], images.shape[3])
    return [
        _Judged({f"{name}_mean": float(error[places].mean())}, {f"{name}_local": Positions(near, places)})
        for error, near, places in zip(errors, around, counts, strict=True)
    ]


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
    views = [making.pixels(), *making.encoder_views("", checkpoint.model.encoder)]
    batch_size = settings.inference_batch_size
    reconstructions: dict[str, Reconstruct] = {
        "reconstruction": lambda images: reconstruct(checkpoint.model, images, computation, batch_size=batch_size)
    }
    if references:
        untrained = model_before_training(checkpoint, linear_map, reporter).encoder
        computation.place(untrained)
        views += making.encoder_views(f"{UNTRAINED}_", untrained)
        if linear_map is not None:
            views.append(making.latent(f"{LINEAR_MAP}_latent", linear_map.encode))
            reconstructions[f"{LINEAR_MAP}_reconstruction"] = linear_map.reconstruct
    return Judge(views, reconstructions, settings, checkpoint.preprocessing.resize_mode == "pad")


@dataclass(frozen=True)
class _Making:
    """Makes views that know nothing yet."""

    checkpoint: Checkpoint
    settings: Settings
    computation: Computation

    def encoder_views(self, prefix: str, encoder: nn.Module) -> list[_View]:
        """The latent and, where there are such, early stages."""
        views = [self.latent(f"{prefix}latent", self._encoding(encoder))]
        plan = self.checkpoint.plan
        blank = self.computation.to_device(self._blank())
        stages = early_stages(encoder, blank, plan.picture_shape[0] // plan.latent_shape[0])
        if stages is not None:
            encode_early = self._encoding(stages)
            margin = plan.picture_shape[0] // _MARGIN_SHARE
            channels = encode_early(self._blank()).shape[1]
            look = partial(_look_at_maps, lambda images: _each_with_its_neighbours(encode_early(images)), margin)
            views.append(self._view(f"{prefix}early", look, channels, whole=False))
        return views

    def latent(self, name: str, encode_images: Reconstruct) -> _View:
        """A latent, in which whole images are compared, too."""
        channels = encode_images(self._blank()).shape[1]
        return self._view(name, partial(_look_at_maps, encode_images, 0), channels, whole=True)

    def pixels(self) -> _View:
        """Patches of the files' own pixels."""
        height, _, channels = self.checkpoint.plan.picture_shape
        look = OwnPixels(height, channels)
        return self._view(PIXELS, look, look.num_values, whole=False)

    def _view(self, name: str, look: Look, num_channels: int, *, whole: bool) -> _View:
        seed = self.settings.seed
        sample = VectorSample(_SAMPLE_SIZE, seed)
        return _View(
            name, look, PositionGaussian(num_channels), sample, VectorSample(_SAMPLE_SIZE, seed) if whole else None
        )

    def _blank(self) -> torch.Tensor:
        height, width, channels = self.checkpoint.plan.picture_shape
        return torch.zeros(1, channels, height, width)

    def _encoding(self, encoder: nn.Module) -> Reconstruct:
        batch_size = self.settings.inference_batch_size
        return lambda images: encode(encoder, images, self.computation, batch_size=batch_size)


def _look_at_maps(
    make_maps: Reconstruct, margin: int, images: torch.Tensor, seen: torch.Tensor, _: Sequence[Path]
) -> list[Positions]:
    maps = make_maps(images)
    counts = places_of_map(seen, maps.shape[2], maps.shape[3], margin)
    return list(map(Positions, maps.permute(0, 2, 3, 1), counts))


def _each_with_its_neighbours(maps: torch.Tensor) -> torch.Tensor:
    """Maps (N, C, rows, columns) averaged over 3x3 positions, as PatchCore has them."""
    return smoothed(maps.flatten(0, 1)).view(maps.shape)


class OwnPixels:
    """Looks at the files themselves, each at its own scale: patches of local contrast.

    A picture that is brought to the size of a model has lost what is small in it, and images of other proportions
    another share of that. A file is seen up to four times as large as the model's picture.
    """

    _SIDE = 8  # pixels after shrinking: 32 of the file for a picture of 256

    def __init__(self, height: int, channels: int) -> None:
        self.num_values = channels * self._SIDE**2
        self._channels = channels
        self._most = 4 * height
        self._shrink = max(1, height // 64)
        self._sigma = max(1.0, height / 32)

    def __call__(self, _: torch.Tensor, __: torch.Tensor, paths: Sequence[Path]) -> list[Positions]:
        """The patches of each file, (rows, columns, num_values); images and maps are not looked at."""
        return [self._look_at(path) for path in paths]

    def _look_at(self, path: Path) -> Positions:
        _, pixels, _ = decode_within(read_file(path)[0], self._most, path.suffix)
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        if self._channels == 1:
            image = image.mean(dim=1, keepdim=True)
        seen = torch.ones_like(image[:, :1])
        patches = pixel_patches(local_contrast(image, seen, self._sigma), self._shrink, self._SIDE)
        margin = self._shrink * self._SIDE // 2
        counts = places_of_map(seen, patches.shape[2], patches.shape[3], margin)
        return Positions(patches[0].permute(1, 2, 0), counts[0])
