"""What training lowers: one number for each image of a batch (N, C, H, W) in [0, 1], or a weighted sum of such."""

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from fext.model.scores import mean_absolute_error, mean_squared_error
from fext.settings import LossName

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Where a reconstruction is certain and wrong, its cross-entropy would be infinite, and so would the gradient.
_SMALLEST_PROBABILITY = 1e-6
_WINDOW_SIGMA, _WINDOW_RADIUS = 1.5, 5  # of SSIM, as in Wang et al. and in evaluation
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2  # keep its quotients finite where an image is dark or even


def binary_cross_entropy(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(N,) mean cross-entropy in nats, each value taken for the probability of white.

    After Vincent et al., 'Stacked denoising autoencoders', 2010. Of a perfect copy it is the images' own entropy, which
    is not 0.
    """
    nearest = reconstructions.detach().clamp(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    probabilities = nearest + (reconstructions - reconstructions.detach())  # a clamp would stop the gradient
    return functional.binary_cross_entropy(probabilities, images, reduction="none").flatten(1).mean(dim=1)


def structural_dissimilarity(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(N,) 1 - SSIM: 0 for a perfect copy, up to 2.

    SSIM is that of Wang et al., 'Image quality assessment: from error visibility to structural similarity', 2004, where
    its window lies whole in the image, as in evaluation. Nothing is padded: on a GPU the gradient of a mirrored border
    would differ from one time to the next.
    """
    window = _window(images).expand(images.shape[1], 1, -1, -1)
    products = reconstructions * reconstructions, images * images, reconstructions * images
    seen = functional.conv2d(torch.cat([reconstructions, images, *products]), window, groups=images.shape[1])
    mean, wanted_mean, square, wanted_square, product = torch.chunk(seen, 5)
    squared, wanted_squared, means = mean**2, wanted_mean**2, mean * wanted_mean
    variances = (square - squared).clamp(min=0) + (wanted_square - wanted_squared).clamp(min=0)
    similar = (2 * means + _LUMINANCE) * (2 * (product - means) + _CONTRAST)
    similarities = similar / ((squared + wanted_squared + _LUMINANCE) * (variances + _CONTRAST))
    return 1 - similarities.flatten(1).mean(dim=1)


def _window(images: torch.Tensor) -> torch.Tensor:
    """(1, 1, 11, 11), adding up to 1."""
    distances = torch.arange(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1, dtype=images.dtype, device=images.device)
    side = torch.exp(-((distances / _WINDOW_SIGMA) ** 2) / 2)
    side = side / side.sum()
    return (side[:, None] * side)[None, None]


LOSSES: Mapping[LossName, Loss] = {
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
    "bce": binary_cross_entropy,
    "ssim": structural_dissimilarity,
}


def make_loss(loss: LossName | Mapping[LossName, float]) -> Loss:
    """The loss of that name, or the sum of several, each times its weight: {'mse': 0.8, 'ssim': 0.2}."""
    if isinstance(loss, str):
        return LOSSES[loss]
    weights = dict(loss)

    def mixture(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        terms = [weight * LOSSES[name](reconstructions, images) for name, weight in weights.items()]
        return torch.stack(terms).sum(dim=0)

    return mixture
