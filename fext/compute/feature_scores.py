"""How good features are, without labels: do two views of an image stay together, and how many directions are in use?"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from fext.compute.device import Computation
from fext.compute.drawing import drawing_from, seed_of
from fext.compute.memory import lowering
from fext.compute.training import less_to_train
from fext.compute.variation import view_changes, view_of
from fext.model.latent_statistics import effective_rank
from fext.settings import Settings

_MOST = 256  # images: enough to tell, and soon done
_VIEWS = 4  # the random stream of the seed that these views draw from
_NEGLIGIBLE = 1e-7  # a share of the spread that is rounding


class FeatureScores(NamedTuple):
    """What an encoder makes of some images, each by the mean of each latent channel.

    `recognized` is the share of images, from 0 to 1, whose other view is nearer to them than to all other images, each
    channel brought to the same spread. `effective_rank` is how many directions the images differ in, from 1 (Garrido et
    al., 'RankMe', 2023, here of the covariance, as in an evaluation); 0 where they do not differ.
    """

    recognized: float
    effective_rank: float


def some_to_score(names: tuple[str, ...]) -> tuple[str, ...]:
    """At most 256 of them, evenly spaced."""
    return names[:: -(-len(names) // _MOST)]


@torch.inference_mode()
def feature_scores(
    encoder: nn.Module, batches: Iterable[torch.Tensor], settings: Settings, computation: Computation
) -> FeatureScores:
    """The scores of an encoder in evaluation mode on batches (N, C, H, W); the same views each time, of this seed."""
    advice = less_to_train(settings, evaluating=True)
    with drawing_from(seed_of(settings.seed, _VIEWS), computation.device), lowering(advice):
        pairs = [_vectors(encoder, computation.to_device(batch), settings, computation) for batch in batches]
    if not pairs:
        return FeatureScores(0.0, 0.0)
    images, views = (torch.cat(vectors).double() for vectors in zip(*pairs, strict=True))
    spread = images.std(dim=0, correction=0)
    varying = spread > _NEGLIGIBLE * images.abs().amax(dim=0)
    if not varying.any():
        return FeatureScores(0.0, 0.0)
    recognized = _recognized(images[:, varying] / spread[varying], views[:, varying] / spread[varying])
    return FeatureScores(recognized, effective_rank(torch.linalg.svdvals(images - images.mean(dim=0)).square()))


def _vectors(
    encoder: nn.Module, images: torch.Tensor, settings: Settings, computation: Computation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of each latent channel (N, C) of images and of another view of each, on the CPU."""
    views = view_of(images, view_changes(settings))
    with computation.autocast():
        latents = [encoder(images), encoder(views)]
    images_mean, views_mean = (latent.float().mean(dim=(2, 3)).cpu() for latent in latents)
    return images_mean, views_mean


def _recognized(images: torch.Tensor, views: torch.Tensor) -> float:
    """The share of views (N, C) whose nearest image is their own."""
    nearest = torch.cdist(views, images, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    return float((nearest == torch.arange(len(images))).double().mean())
