"""An autoencoder as it is trained: what it sees and what it hands on are disturbed, so that it learns more.

In evaluation mode nothing is disturbed. What is drawn comes from torch's random state, which whoever trains seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from fext.model.autoencoder import Autoencoder
from fext.model.component_errors import ComponentErrors
from fext.model.heads import Heads
from fext.model.linear_path import LinearPathEncoder
from fext.settings import LossName

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


class Outcome(NamedTuple):
    """What a model in training makes of images: reconstructions, and the latent as the encoder made it.

    `turns` is what a rotation head makes of the latent, `projections` (2N, D) what a views head makes of the latents of
    the images and then of their other views. Where there are `component_errors`, the reconstructions have no
    gradient: that of their squared error is that of these.
    """

    reconstructions: torch.Tensor
    latent: torch.Tensor
    turns: torch.Tensor | None = None
    projections: torch.Tensor | None = None
    component_errors: torch.Tensor | None = None


class DisturbedAutoencoder(nn.Module):
    """Wraps an autoencoder for training, with heads that are thrown away after it."""

    def __init__(self, autoencoder: Autoencoder, disturbances: Disturbances, heads: Heads | None = None) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.disturbances = disturbances
        self.heads = heads or Heads()

    def forward(self, images: torch.Tensor, views: torch.Tensor | None = None) -> Outcome:
        """Images (N, C, H, W) and, for a views head, another view of each; the images alone are reconstructed."""
        seen = images if views is None else torch.cat([images, views])
        latents = self.autoencoder.encoder(self._disturb_input(seen))
        latent = latents if views is None else latents[: len(images)]
        reconstructions = self.autoencoder.decoder(self._disturb_latent(latent))
        projections = self.heads.views(latents) if views is not None and self.heads.views is not None else None
        return Outcome(reconstructions, latent, self._turns(latent), projections)

    def _turns(self, latent: torch.Tensor) -> torch.Tensor | None:
        return self.heads.rotation(latent) if self.heads.rotation is not None else None

    def _disturb_input(self, images: torch.Tensor) -> torch.Tensor:
        asked = self.disturbances
        if self.training and asked.input_masking:
            images = mask_patches(images, asked.input_masking)
        return add_noise(images, asked.input_noise) if self.training and asked.input_noise else images

    def _disturb_latent(self, latent: torch.Tensor) -> torch.Tensor:
        asked = self.disturbances
        if self.training and asked.latent_noise:
            encoder = self.autoencoder.encoder
            units = encoder.units() if isinstance(encoder, LinearPathEncoder) else 1.0
            latent = add_noise(latent, asked.latent_noise * units)
        return keep_first_channels(latent) if self.training and asked.ordered_latent else latent


class DisturbedLinearPath(DisturbedAutoencoder):
    """The same for a model with a linear path that is trained for the squared error alone, in fewer products."""

    def __init__(self, autoencoder: Autoencoder, disturbances: Disturbances, heads: Heads | None = None) -> None:
        super().__init__(autoencoder, disturbances, heads)
        self._errors = ComponentErrors(autoencoder)

    def forward(self, images: torch.Tensor, _views: torch.Tensor | None = None) -> Outcome:
        errors, seen = self._errors, self._disturb_input(images)
        wanted = errors.components(images)
        latent = errors.latent(wanted if seen is images else errors.components(seen), seen)
        made = errors.decoded(self._disturb_latent(latent))
        return Outcome(errors.reconstructions(made), latent, self._turns(latent), None, errors.of(made, wanted))


def disturbed(
    autoencoder: Autoencoder,
    disturbances: Disturbances,
    heads: Heads,
    loss: LossName | Mapping[LossName, float],
) -> DisturbedAutoencoder:
    """The autoencoder as it is trained for a loss; it lies where it is trained."""
    in_components = loss == "mse" and isinstance(autoencoder.encoder, LinearPathEncoder)
    kind = DisturbedLinearPath if in_components else DisturbedAutoencoder
    return kind(autoencoder, disturbances, heads)


def add_noise(values: torch.Tensor, deviation: float | torch.Tensor) -> torch.Tensor:
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
