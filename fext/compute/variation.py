"""Random variations of the images of a batch, for a classifier to see each image a little differently every time."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from fext.settings import Settings

_SHIFT, _ROTATION, _ZOOM = 0.12, 12.0, 0.12  # shares of the side, degrees
_PROPORTION = 4 / 3  # of width and height, of a view at most, before it is brought to the picture's own


@dataclass(frozen=True)
class ViewChanges:
    """In what the views of an image may differ: what features are to leave out.

    `crop` is the minimum share of the picture's area that a view shows, 1 all of it; `light` how much its brightness,
    contrast and colours change, 0 not at all.
    """

    crop: float
    mirrored: bool
    light: float


def view_changes(settings: Settings) -> ViewChanges:
    """Those that the settings say."""
    return ViewChanges(settings.views_crop, settings.views_mirrored, settings.views_light)


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
    return _resampled(images, rows)


def view_of(images: torch.Tensor, changes: ViewChanges) -> torch.Tensor:
    """Another view of each image, drawn from torch's random state of the CPU: (N, C, H, W) to the same shape.

    A part of random size and place is brought to the size of the whole, by one resampling; then light and colours vary.
    Values stay in [0, 1].
    """
    parts = _parts(len(images), changes)
    views = _resampled(images, parts) if changes.crop < 1 or changes.mirrored else images
    return _in_other_light(views, changes.light) if changes.light else views


def _parts(count: int, changes: ViewChanges) -> torch.Tensor:
    """Where each view is taken from: (N, 2, 3), on a grid that runs from -1 to 1."""
    side = _between(changes.crop, 1, count).sqrt()
    proportion = _between(-1, 1, count).mul(math.log(_PROPORTION) / 2).exp()
    proportion = proportion if changes.crop < 1 else torch.ones(count)
    width, height = (side * proportion).clamp(max=1), (side / proportion).clamp(max=1)
    right, down = _between(-1, 1, count) * (1 - width), _between(-1, 1, count) * (1 - height)
    mirror = torch.where(torch.rand(count) < 0.5 * changes.mirrored, -1.0, 1.0)
    nothing = torch.zeros(count)
    rows = [torch.stack([mirror * width, nothing, right], dim=1), torch.stack([nothing, height, down], dim=1)]
    return torch.stack(rows, dim=1)


def _in_other_light(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Brightness, contrast and colours of each image changed by factors of 1 - strength to 1 + strength."""
    count, channels = images.shape[:2]

    def factors(num: int, strength: float) -> torch.Tensor:
        return 1 + _between(-strength, strength, count, num, 1, 1).to(images.device)

    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * factors(1, strength) + mean * factors(1, strength)
    if channels > 1:
        grey = images.mean(dim=1, keepdim=True)
        images = (grey + (images - grey) * factors(1, strength)) * factors(channels, strength / 2)
    return images.clamp(0, 1)


def _between(low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape)


def _resampled(images: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Each image (N, C, H, W) as it is seen at a grid (N, 2, 3); beyond its edges is its own mirror."""
    grid = functional.affine_grid(parts.to(images.device), list(images.shape), align_corners=False)
    varied = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    return varied.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
