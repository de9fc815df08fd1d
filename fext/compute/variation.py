"""Random variations of the images of a batch, for a classifier to see each image a little differently every time."""

import math

import torch
from torch.nn import functional

_SHIFT, _ROTATION, _ZOOM = 0.12, 12.0, 0.12  # shares of the side, degrees


def vary(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images left to right and shift each; rotate and zoom half; (N, C, H, W) to the same shape.

    One resampling does it all; what comes in at the edges is the image's own mirror. It blurs what it rotates, so the
    other half moves by whole pixels and stays as sharp as images that are to be told. `generator` is of the CPU.
    """
    count, _, height, width = images.shape

    def between(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit

    turns = (torch.rand(count, generator=generator) < 0.5).float()
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    angle, scale = turns * between(math.radians(_ROTATION)), 1 + turns * between(_ZOOM)
    # The grid runs from -1 to 1, a pixel is 2 / side of it.
    right, down = ((between(_SHIFT) * side).round() * 2 / side for side in (width, height))
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
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    return varied.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
