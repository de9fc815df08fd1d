"""Agreement of two views of an image: an objective that asks the latent for what a picture shows, without labels."""

import torch
from torch import nn
from torch.nn import functional

from fext.model.plans import Plan, has_linear_path
from fext.settings import Settings

_WIDTH, _DIMENSIONS = 256, 64  # of the projection
_AUTO_WEIGHT = 0.1
_TEMPERATURE = 0.2  # of cosines: the lower, the more the nearest of the others count


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
    """The weight of the agreement of views in training; 0 of a model whose channels describe a picture untrained."""
    if has_linear_path(settings.architecture, settings.linear_shortcut):
        return 0.0
    return _AUTO_WEIGHT if settings.views_weight == "auto" else settings.views_weight


def disagreement(projections: torch.Tensor) -> torch.Tensor:
    """How hard it is to find each projection's other view among all others: (2N, D) to a number from 0.

    The first N are of images, the others of another view of each. The cross-entropy over cosines of Chen et al., 'A
    simple framework for contrastive learning of visual representations', 2020: telling images apart is what keeps
    projections from all becoming the same. One image alone has no others, and gives 0.
    """
    directions = functional.normalize(projections)
    likeness = (directions @ directions.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    others = torch.arange(len(projections), device=projections.device).roll(len(projections) // 2)
    return functional.cross_entropy(likeness, others)
