"""Reconstructing batches with a trained model, always in one batch shape.

The last, smaller batch is filled up with black images whose results are dropped: a result then never depends on how
many images stood beside it.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from fext.compute.device import Computation
from fext.model.autoencoder import Autoencoder
from fext.model.stages import StagedEncoder


@torch.inference_mode()
def reconstruct(model: nn.Module, images: torch.Tensor, computation: Computation, *, batch_size: int) -> torch.Tensor:
    """The reconstructions (N, C, H, W) float32 in [0, 1], on the CPU, of up to batch_size images."""
    with computation.autocast():
        result: torch.Tensor = model(computation.to_device(filled_up(images, batch_size)))
    return result[: len(images)].float().clamp(0, 1).cpu()


@torch.inference_mode()
def encode_and_reconstruct(
    model: Autoencoder, images: torch.Tensor, computation: Computation, *, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents (N, C, rows, columns) and the reconstructions (N, C, H, W) in [0, 1] of up to batch_size images.

    Both float32 on the CPU.
    """
    with computation.autocast():
        latent: torch.Tensor = model.encoder(computation.to_device(filled_up(images, batch_size)))
        result: torch.Tensor = model.decoder(latent)
    return latent[: len(images)].float().cpu(), result[: len(images)].float().clamp(0, 1).cpu()


@torch.inference_mode()
def encode(encoder: nn.Module, images: torch.Tensor, computation: Computation, *, batch_size: int) -> torch.Tensor:
    """The latents (N, C, rows, columns), float32 on the CPU, of up to batch_size images."""
    with computation.autocast():
        latent: torch.Tensor = encoder(computation.to_device(filled_up(images, batch_size)))
    return latent[: len(images)].float().cpu()


@torch.inference_mode()
def encode_stages(
    encoder: StagedEncoder, images: torch.Tensor, computation: Computation, *, batch_size: int
) -> list[torch.Tensor]:
    """The map of each stage (N, C, rows, columns), the latent last, float32 on the CPU, of up to batch_size images."""
    with computation.autocast():
        maps = encoder(computation.to_device(filled_up(images, batch_size)))
    return [map_[: len(images)].float().cpu() for map_ in maps]


@torch.inference_mode()
def reconstruct_from_first(
    model: Autoencoder, images: torch.Tensor, computation: Computation, *, batch_size: int, counts: Sequence[int]
) -> list[torch.Tensor]:
    """The reconstructions of up to batch_size images from the first so many channels of the latent, the others at 0.

    One tensor (N, C, H, W) float32 in [0, 1], on the CPU, for each of the counts.
    """
    made = []
    with computation.autocast():
        latent = model.encoder(computation.to_device(filled_up(images, batch_size)))
        for count in counts:
            kept = latent.clone()
            kept[:, count:] = 0
            made.append(model.decoder(kept)[: len(images)].float().clamp(0, 1).cpu())
    return made


def filled_up(images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """(N, C, H, W) brought to (batch_size, C, H, W) with black images."""
    missing = batch_size - len(images)
    return functional.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images
