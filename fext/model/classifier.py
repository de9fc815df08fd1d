"""A convolutional head that tells the class of an image by what an encoder makes of it.

The head sees the latent alone, or the maps of all stages of the encoder. It walks from the largest map to the smallest,
takes in each on its way, and ends in the greatest value of each channel. Blocks as in He et al., 'Deep residual
learning', 2016, with one convolution around the shortcut.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from fext.model.stages import found_by_stages

Stages = Literal["all", "last"]
MapShape = tuple[int, int, int]  # channels, rows, columns

_MAX_SIDE, _MIN_SIDE = 16, 4  # of the maps that a head works on
_DROPOUT = 0.2
_MOMENTUM = 0.1  # of running statistics
_LEAST_VARIANCE, _DEAD = 0.01, 1e-6  # of the variance of a channel; of the deviation of the liveliest


def encoder_maps(encoder: nn.Module, images: torch.Tensor, stages: Stages) -> list[torch.Tensor]:
    """What a head sees of images (N, C, H, W): maps (N, channels, rows, columns) of at most 16 rows and columns.

    With 'all' it is what the stages found, the latent last (fext.model.stages), else the latent alone.
    """
    maps = found_by_stages(encoder, images) if stages == "all" else [encoder(images)]
    return [_shrunken(one) for one in maps]


def map_shapes(encoder: nn.Module, picture_shape: tuple[int, int, int], stages: Stages) -> list[MapShape]:
    """The shapes of encoder_maps for pictures of (height, width, channels)."""
    height, width, channels = picture_shape
    with torch.no_grad():
        maps = encoder_maps(encoder, torch.zeros(1, channels, height, width), stages)
    return [(one.shape[1], one.shape[2], one.shape[3]) for one in maps]


class ClassifierHead(nn.Module):
    """Maps of an encoder to one score (logit) for each class, (N, num_classes).

    `width` is the number of channels on a grid of 9 to 16 rows; on smaller ones there are two and four times as many.
    """

    def __init__(self, shapes: Sequence[MapShape], num_classes: int, width: int) -> None:
        super().__init__()
        self.grids, self.counts = _way(shapes)
        self.whitenings = nn.ModuleList([Whitening(channels) for channels, _, _ in shapes])
        blocks: list[nn.Module] = []
        channels, place = 0, 0
        for grid, count in zip(self.grids, self.counts, strict=True):
            inputs = channels + sum(shape[0] for shape in shapes[place : place + count])
            channels, place = width * _times_wider(grid), place + count
            blocks.append(nn.Sequential(_convolution(inputs, channels), _Residual(channels)))
        self.blocks = nn.ModuleList(blocks)
        self.classes = nn.Linear(channels, num_classes)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        remaining = [whiten(one) for whiten, one in zip(self.whitenings, maps, strict=True)]
        seen: list[torch.Tensor] = []
        for grid, count, block in zip(self.grids, self.counts, self.blocks, strict=True):
            seen = [block(torch.cat([_brought_to(one, grid) for one in seen] + remaining[:count], dim=1))]
            remaining = remaining[count:]
        greatest = seen[0].amax(dim=(2, 3))
        scores: torch.Tensor = self.classes(functional.dropout(greatest, _DROPOUT, self.training))
        return scores


class Whitening(nn.Conv2d):
    """Channels turned and scaled so that they vary alike and independently of each other; it is set, and not learned.

    What an autoencoder finds varies by orders of magnitude, and together, which is hard to learn from. As the first
    layer of Page, 'How to train your ResNet', 2018.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, kernel_size=1)
        self.requires_grad_(False)

    @torch.no_grad()
    def set_to(self, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        """Take mean (C,) and covariance (C, C) of the channels, float64; what hardly varies by itself stays small.

        A channel that does not vary at all, a dead one, is left out.
        """
        assert self.bias is not None
        deviations = covariance.diagonal().clamp(min=0).sqrt()
        inverse = torch.where(deviations > _DEAD * deviations.max(), 1 / deviations, torch.zeros_like(deviations))
        values, vectors = torch.linalg.eigh(inverse[:, None] * covariance * inverse)
        weights = (values.clamp(min=0) + _LEAST_VARIANCE).rsqrt()[:, None] * vectors.T * inverse
        self.weight.copy_(weights[:, :, None, None])
        self.bias.copy_(-weights @ mean)


class _Normalization(nn.BatchNorm2d):
    """Batch normalization whose running statistics are the plain mean over the first steps, then follow as usual.

    From few images there are few steps, after which they would still be much of what they start at, which is nothing.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and self.momentum != _MOMENTUM:  # it stays so: a GPU need not be asked at each step
            self.momentum = max(_MOMENTUM, 1 / (int(self.num_batches_tracked or 0) + 1))
        return super().forward(images)


class _Residual(nn.Module):
    """A convolution added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = _convolution(width, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = images + self.convolution(images)
        return changed


def _convolution(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False), _Normalization(width, momentum=1.0), nn.ReLU()
    )


def _way(shapes: Sequence[MapShape]) -> tuple[list[tuple[int, int]], list[int]]:
    """The grids from the first map's to a small one, and how many maps come in at each."""
    groups = [(grid, len(list(same))) for grid, same in groupby(shapes, key=lambda shape: shape[1:])]
    grids, counts = [grid for grid, _ in groups], [count for _, count in groups]
    while max(grids[-1]) > _MIN_SIDE:
        rows, columns = grids[-1]
        grids.append((-(-rows // 2), -(-columns // 2)))
        counts.append(0)
    return grids, counts


def _times_wider(grid: tuple[int, int]) -> int:
    side = max(grid)
    return 1 if side > _MAX_SIDE // 2 else 2 if side > _MIN_SIDE else 4


def _shrunken(maps: torch.Tensor) -> torch.Tensor:
    size = -(-max(maps.shape[2:]) // _MAX_SIDE)
    return functional.max_pool2d(maps, size, ceil_mode=True) if size > 1 else maps


def _brought_to(maps: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """To a grid that is smaller, or the same."""
    rows, columns = maps.shape[2:]
    if rows % grid[0] == columns % grid[1] == 0:
        return functional.max_pool2d(maps, (rows // grid[0], columns // grid[1]))
    return functional.adaptive_max_pool2d(maps, grid)  # on a GPU its gradient may differ in the last bits
