"""Reconstructing batches with a trained model, always in one batch shape.

The last, smaller batch is filled up with black images whose results are dropped: a result then never depends on how
many images stood beside it.
"""

import torch
from torch import nn
from torch.nn import functional

from fext.compute.device import Computation


@torch.inference_mode()
def reconstruct(model: nn.Module, images: torch.Tensor, computation: Computation, *, batch_size: int) -> torch.Tensor:
    """The reconstructions (N, C, H, W) float32 in [0, 1], on the CPU, of up to batch_size images."""
    with computation.autocast():
        result: torch.Tensor = model(computation.to_device(filled_up(images, batch_size)))
    return result[: len(images)].float().clamp(0, 1).cpu()


def filled_up(images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """(N, C, H, W) brought to (batch_size, C, H, W) with black images."""
    missing = batch_size - len(images)
    return functional.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images
