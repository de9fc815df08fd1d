"""Random variations of the images of a batch, for a classifier to see each image a little differently every time."""

import math

import torch
from torch.nn import functional

_SHIFT, _ROTATION, _ZOOM = 0.12, 12.0, 0.12  # shares of the side, degrees


def vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images left to right, shift, rotate and zoom each by a little; (N, C, H, W) to the same.

    One resampling does it all; what comes in at the edges is the image's own mirror. `generator` is of the CPU.
    """
    count, _, height, width = images.shape

    def between(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    angle, scale = between(math.radians(_ROTATION)), 1 + between(_ZOOM)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    right, down = between(2 * _SHIFT), between(2 * _SHIFT)  # the grid runs from -1 to 1
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack(
        [
            torch.stack([mirror * cosine, -sine * (height / width), right], dim=1),
            torch.stack([mirror * sine * (width / height), cosine, down], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows.to(images.device), list(images.shape), align_corners=False)
    varied = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return varied.contiguous(memory_format=torch.channels_last)
