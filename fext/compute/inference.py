"""Encoding and reconstructing batches with a trained model, always in one batch shape.

The last, smaller batch is filled up with black images whose results are dropped: a row of features then never depends
on how many images stood beside it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fext.compute.device import Computation


@torch.inference_mode()
def encode(
    encoder: nn.Module, images: torch.Tensor, computation: Computation, *, batch_size: int, grid: int | None = None
) -> torch.Tensor:
    """The latent of up to batch_size images.

    Takes (N, C, H, W) float32 in [0, 1], gives (N, channels, rows, columns) float32 on the CPU; averaged to grid x
    grid positions where a grid is given.
    """
    latent = _in_one_shape(encoder, images, computation, batch_size)
    if grid is not None:
        latent = functional.adaptive_avg_pool2d(latent, grid)
    return latent.cpu()


@torch.inference_mode()
def reconstruct(model: nn.Module, images: torch.Tensor, computation: Computation, *, batch_size: int) -> torch.Tensor:
    """The reconstructions (N, C, H, W) float32 in [0, 1], on the CPU, of up to batch_size images."""
    return _in_one_shape(model, images, computation, batch_size).clamp(0, 1).cpu()


def flatten_latent(latent: torch.Tensor) -> NDArray[np.float32]:
    """(N, channels, rows, columns) to (N, rows * columns * channels), in row, column, channel order."""
    return np.ascontiguousarray(latent.permute(0, 2, 3, 1).flatten(1).numpy())


def _in_one_shape(module: nn.Module, images: torch.Tensor, computation: Computation, batch_size: int) -> torch.Tensor:
    count = len(images)
    if count < batch_size:
        images = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, batch_size - count))
    with computation.autocast():
        result: torch.Tensor = module(computation.to_device(images))
    return result[:count].float()
