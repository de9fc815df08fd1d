"""Agreement of two views of an image: an objective that asks the latent for what a picture shows, without labels."""

import torch
from torch import nn
from torch.nn import functional

from fext.model.plans import Plan, has_linear_path
from fext.settings import Settings

_WIDTH, _DIMENSIONS = 256, 64  # of the projection
_AUTO_WEIGHT = 0.1
_SHARED, _LEAST_VARIANCE = 0.04, 0.0001  # the proportions of the paper: 1 to 25


class ViewsHead(nn.Module):
    """Projects latents, averaged over their positions: (N, C, rows, columns) to (N, 64).

    It takes what views must agree in off the latent itself (Chen et al., 'A simple framework for contrastive learning',
    2020), and is no part of the checkpoint.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        channels = plan.latent_shape[2]
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, _WIDTH, kernel_size=1, bias=False),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _DIMENSIONS, kernel_size=1),
        )

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        projections: torch.Tensor = self.layers(latent.mean(dim=(2, 3), keepdim=True))
        return projections.flatten(1)


def build_views_head(plan: Plan, seed: int) -> ViewsHead:
    """A head with weights drawn from `seed`, leaving torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ViewsHead(plan)


def weight_of_views(settings: Settings) -> float:
    """The weight of the agreement of views in training; 0 of a model that tells what a picture shows untrained."""
    if has_linear_path(settings.architecture, settings.linear_shortcut):
        return 0.0
    return _AUTO_WEIGHT if settings.views_weight == "auto" else settings.views_weight


def disagreement(projections: torch.Tensor) -> torch.Tensor:
    """How far views are from agreeing, and projections from telling images apart: (2N, D) to a number from 0.

    The first N are of images, the others of another view of each. Variance, invariance and covariance after Bardes et
    al., 'VICReg', 2022, over all 2N: single images can be compared, too.
    """
    first, second = projections.chunk(2)
    centred = projections - projections.mean(dim=0)
    covariance = centred.T @ centred / (len(projections) - 1)
    variance = covariance.diagonal()
    narrow = functional.relu(1 - (variance + _LEAST_VARIANCE).sqrt()).mean()
    shared = (covariance.square().sum() - variance.square().sum()) / projections.shape[1]
    return functional.mse_loss(first, second) + narrow + _SHARED * shared
