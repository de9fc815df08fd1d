"""What is normal, learned from the vectors at the positions of feature maps, and how far others are from it.

A map is (N, C, rows, columns). Memory is a covariance and a sample of vectors, whatever the number of images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fext.model.moments import Moments
from fext.model.stages import found_by_stages

_TOP_SHARE = 0.01  # of the positions: the strangest place of an image counts, not its mean
_LEAST_CONTRAST = 0.02  # of the grey levels 0..1: below it there is noise, which is not to be blown up
_LEAST_VARIANCE = 1e-6  # of the mean variance, where a channel never varies
_CHUNK = 4096  # vectors compared at a time
_STAGES = (4, 8)  # maps that many times smaller than the picture still show small things
_LATEST_STAGE = max(_STAGES)


class PositionGaussian:
    """One Gaussian for the vectors at all positions; far from it by Mahalanobis distance is anomalous.

    Defard et al., 'PaDiM', 2021, have one for each position; objects that stand elsewhere in each image want one for
    all.
    """

    def __init__(self, num_channels: int) -> None:
        self._moments = Moments(num_channels)
        self._mean = torch.empty(0)
        self._whitening = torch.empty(0)

    def learn(self, vectors: torch.Tensor) -> None:
        """Add vectors (N, C)."""
        self._moments.add(vectors.double())

    def finish(self, kept_variance: float = 1.0) -> None:
        """Compute the whitening; call once, after the last vectors.

        Only the leading directions are kept that hold so much of the variance: in the others is noise, which grows in
        the same measure when all are scaled to variance 1.
        """
        variances, directions = torch.linalg.eigh(self._moments.covariance())
        variances, directions = variances.flip(0).clamp_min(0), directions.flip(1)
        typical = float(variances.mean()) or 1.0  # channels that never vary
        shares = variances.cumsum(0) / (typical * len(variances))
        num_kept = 1 + int((shares < kept_variance - 1e-9).sum())
        self._mean = self._moments.mean.float()
        deviations = variances.clamp_min(_LEAST_VARIANCE * typical).sqrt()
        self._whitening = (directions / deviations)[:, :num_kept].float()

    def whiten(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (N, C) to (N, kept), where normal ones have covariance 1: lengths are Mahalanobis distances."""
        return (vectors - self._mean) @ self._whitening


class VectorSample:
    """A fair sample of the vectors of a stream, of at most `size`, by a seed (Vitter's reservoir, 1985)."""

    def __init__(self, size: int, seed: int) -> None:
        self.num_seen = 0
        self._size = size
        self._random = np.random.default_rng(seed)
        self._kept: torch.Tensor | None = None

    def add(self, vectors: torch.Tensor) -> None:
        """Add vectors (N, C)."""
        if self._kept is None:
            self._kept = torch.zeros(self._size, vectors.shape[1])
        room = max(0, min(self._size - self.num_seen, len(vectors)))
        self._kept[self.num_seen : self.num_seen + room] = vectors[:room]
        ranks = np.arange(self.num_seen + room, self.num_seen + len(vectors))
        places = self._random.integers(0, ranks + 1) if len(ranks) else ranks
        taken = np.flatnonzero(places < self._size)
        if len(taken):  # of those that fall on one place the last one stays, as if they came one by one
            last = {int(places[number]): int(number) for number in taken}
            self._kept[list(last)] = vectors[room:][list(last.values())]
        self.num_seen += len(vectors)

    def vectors(self) -> torch.Tensor:
        """(N, C), at most `size`."""
        assert self._kept is not None
        return self._kept[: min(self.num_seen, self._size)]


def coreset(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """The `size` of the vectors (N, C) that cover them best: each next one is the farthest from those before.

    The greedy k-center of PatchCore (Roth et al., 'Towards total recall in industrial anomaly detection', 2022).
    """
    if len(vectors) <= size:
        return vectors
    chosen = [0]
    nearest = (vectors - vectors[0]).square().sum(dim=1)
    for _ in range(size - 1):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (vectors - vectors[chosen[-1]]).square().sum(dim=1))
    return vectors[chosen]


def nearest_distances(vectors: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """(N,) Euclidean distance of each vector (N, C) to the nearest of the bank (M, C)."""
    parts = [torch.cdist(chunk, bank).amin(dim=1) for chunk in torch.split(vectors, _CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0)


def seen_places(images: torch.Tensor) -> torch.Tensor:
    """(N, 1, H, W) of 1 where a padded picture (N, C, H, W) shows its image, 0 in the black bands around it."""
    bright = images.amax(dim=1, keepdim=True) > 0
    rows, columns = bright.any(dim=3, keepdim=True), bright.any(dim=2, keepdim=True)
    return (_between_ends(rows, 2) & _between_ends(columns, 3)).to(images.dtype)


def _between_ends(marked: torch.Tensor, dim: int) -> torch.Tensor:
    before = marked.int().cummax(dim=dim).values
    after = marked.flip(dim).int().cummax(dim=dim).values.flip(dim)
    return (before * after).bool()


def places_of_map(seen: torch.Tensor, rows: int, columns: int, margin: int = 0) -> torch.Tensor:
    """(N, rows, columns) bool: positions that stand for what is seen, at least `margin` pixels within its edge.

    What is computed nearer to the edge tells of the edge. Where nothing is left the margin goes, then all positions
    count.
    """
    if margin:
        outside = functional.pad(1 - seen, (margin,) * 4, value=1.0)
        for kernel_size in ((2 * margin + 1, 1), (1, 2 * margin + 1)):  # one after the other is many times as fast
            outside = functional.max_pool2d(outside, kernel_size, stride=1)
        within = _covered(1 - outside, rows, columns)
        return torch.where(within.flatten(1).any(dim=1)[:, None, None], within, places_of_map(seen, rows, columns))
    covered = _covered(seen, rows, columns)
    return covered | ~covered.flatten(1).any(dim=1)[:, None, None]


def _covered(seen: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return functional.adaptive_avg_pool2d(seen, (rows, columns))[:, 0] > 0.999


def local_contrast(images: torch.Tensor, seen: torch.Tensor, sigma: float) -> torch.Tensor:
    """(N, C, H, W) less its local mean, by its local deviation, both Gaussian-weighted: lighting goes, texture stays.

    0 where nothing is seen. Jarrett et al., 'What is the best multi-stage architecture', 2009.
    """
    weight = _blurred(seen, sigma).clamp_min(1e-6)
    centred = (images - _blurred(images * seen, sigma) / weight) * seen
    deviation = (_blurred(centred.square(), sigma) / weight).clamp_min(0).sqrt()
    return centred / (deviation + _LEAST_CONTRAST)


def _blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = int(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=images.dtype) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    across = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    down = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    blurred = functional.conv2d(images, across, padding=(0, radius), groups=channels)
    return functional.conv2d(blurred, down, padding=(radius, 0), groups=channels)


def pixel_patches(contrast: torch.Tensor, shrink: int, side: int) -> torch.Tensor:
    """(N, C * side * side, rows, columns): patches of side x side pixels of pictures made `shrink` times smaller."""
    small = functional.avg_pool2d(contrast, min(shrink, *contrast.shape[2:]))
    padded = functional.pad(small, ((side - 1) // 2, side // 2, (side - 1) // 2, side // 2), mode="replicate")
    return functional.unfold(padded, side).view(len(contrast), -1, small.shape[2], small.shape[3])


class EarlyStages(nn.Module):
    """What some stages of an encoder found, before their pooling, on the grid of the last of these.

    (N, C, H, W) to (N, C1 + C2, rows, columns). A stage is named by how many times smaller than the picture its maps
    are. Early ones see small things: PatchCore takes the second and third of a ResNet.
    """

    def __init__(self, encoder: nn.Module, factors: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.factors = encoder, sorted(factors)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The maps side by side, averaged to one grid."""
        maps = _found_by_factor(self.encoder, images, self.factors[-1])
        rows, columns = maps[self.factors[-1]].shape[2:]
        found = [functional.adaptive_avg_pool2d(maps[factor].float(), (rows, columns)) for factor in self.factors]
        return torch.cat(found, dim=1)


def early_stages(encoder: nn.Module, picture: torch.Tensor, latent_factor: int) -> EarlyStages | None:
    """The stages of an encoder before its latent that see small things; None where it has no such.

    `picture` (1, C, H, W) is any that the encoder takes.
    """
    with torch.inference_mode():
        found = _found_by_factor(encoder, picture, _LATEST_STAGE)
    factors = [factor for factor in _STAGES if factor in found and factor < latent_factor]
    return EarlyStages(encoder, factors) if factors else None


def _found_by_factor(encoder: nn.Module, images: torch.Tensor, last_factor: int) -> dict[int, torch.Tensor]:
    """What stages found, by how many times smaller it is than the picture; later stages are not computed."""
    maps: dict[int, torch.Tensor] = {}
    for found in found_by_stages(encoder, images):
        maps[images.shape[2] // found.shape[2]] = found
        if max(maps) >= last_factor:
            break
    return maps


def smoothed(maps: torch.Tensor, size: int = 3) -> torch.Tensor:
    """(N, rows, columns): each position the mean of the size x size ones around it, an odd number."""
    return functional.avg_pool2d(maps[:, None], size, 1, size // 2, count_include_pad=False)[:, 0]


def strangest_place(distances: NDArray[np.float64], *, relative: bool) -> float:
    """The mean of the highest hundredth of an image's distances (P,); relative to their median where asked for."""
    count = max(1, round(len(distances) * _TOP_SHARE))
    highest = float(np.partition(distances, len(distances) - count)[-count:].mean())
    return highest / (float(np.median(distances)) + 1e-12) if relative else highest
