"""An autoencoder as it is trained: what it sees and what it hands on are disturbed, so that it learns more.

In evaluation mode nothing is disturbed. What is drawn comes from torch's random state, which whoever trains seeds.
"""

from dataclasses import dataclass

import torch
from torch import nn

from fext.model.autoencoder import Autoencoder
from fext.model.pretext import RotationHead

MASKED_PATCH = 16  # pixels; the side of the patches that input_masking hides, as in He et al., 2022


@dataclass(frozen=True)
class Disturbances:
    """How strongly each disturbance acts; 0 and False leave it out.

    input_noise and latent_noise are standard deviations, input_masking is the share of patches that are hidden.
    """

    input_noise: float = 0.0
    input_masking: float = 0.0
    latent_noise: float = 0.0
    ordered_latent: bool = False


class DisturbedAutoencoder(nn.Module):
    """Wraps an autoencoder for training; (N, C, H, W) to the reconstructions and the latent as the encoder made it.

    With a rotation head, what that makes of the latent comes third; else there is nothing there.
    """

    def __init__(
        self, autoencoder: Autoencoder, disturbances: Disturbances, rotation_head: RotationHead | None = None
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.disturbances = disturbances
        self.rotation_head = rotation_head

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        latent = self.autoencoder.encoder(self._disturb_input(images))
        turns = self.rotation_head(latent) if self.rotation_head is not None else None
        return self.autoencoder.decoder(self._disturb_latent(latent)), latent, turns

    def _disturb_input(self, images: torch.Tensor) -> torch.Tensor:
        asked = self.disturbances
        if self.training and asked.input_masking:
            images = mask_patches(images, asked.input_masking)
        return add_noise(images, asked.input_noise) if self.training and asked.input_noise else images

    def _disturb_latent(self, latent: torch.Tensor) -> torch.Tensor:
        asked = self.disturbances
        if self.training and asked.latent_noise:
            latent = add_noise(latent, asked.latent_noise)
        return keep_first_channels(latent) if self.training and asked.ordered_latent else latent


def add_noise(values: torch.Tensor, deviation: float) -> torch.Tensor:
    """Gaussian noise added: of the input, Vincent et al., 'Extracting and composing robust features', 2008; of the
    latent, Poole et al., 'Analyzing noise in autoencoders and deep networks', 2014.
    """
    return values + deviation * torch.randn_like(values)


def mask_patches(images: torch.Tensor, share: float) -> torch.Tensor:
    """Fill a share of the square patches of each image (N, C, H, W) with the image's mean colour.

    After Pathak et al., 'Context encoders', 2016; patches as in He et al., 'Masked autoencoders', 2022.
    """
    count, _, height, width = images.shape
    rows, columns = -(-height // MASKED_PATCH), -(-width // MASKED_PATCH)
    wanted = share * rows * columns
    # Where that is no whole number, one more is hidden in so many of the images that the share is right on the whole.
    num_hidden = int(wanted) + (torch.rand(count, 1, device=images.device) < wanted % 1)
    order = torch.rand(count, rows * columns, device=images.device).argsort(dim=1)
    hidden = (order < num_hidden).reshape(count, 1, rows, columns)
    hidden = hidden.repeat_interleave(MASKED_PATCH, 2).repeat_interleave(MASKED_PATCH, 3)[:, :, :height, :width]
    return torch.where(hidden, images.mean(dim=(2, 3), keepdim=True), images)


def keep_first_channels(latent: torch.Tensor) -> torch.Tensor:
    """Keep the first k channels of each image's latent (N, C, H, W), k drawn from 1 to C, and put 0 for the others.

    The first channels then learn to carry most. After Rippel et al., 'Learning ordered representations with nested
    dropout', 2014, with k uniform.
    """
    count, channels = latent.shape[:2]
    kept = torch.randint(1, channels + 1, (count, 1), device=latent.device)
    mask = torch.arange(channels, device=latent.device) < kept
    return latent * mask[:, :, None, None]
