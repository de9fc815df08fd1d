"""What training lowers and what evaluation reports: per image, for batches of (N, C, H, W) in [0, 1]."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

# A perfect copy would have an infinite PSNR, which no mean and no JSON can hold.
MAX_PSNR = 120.0
_SMALLEST_MSE = 1e-12


def mean_squared_error(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(N,) mean squared difference of each image."""
    return (reconstructions - images).square().mean(dim=(1, 2, 3))  # in any order of memory, without a copy


def mean_absolute_error(reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(N,) mean absolute difference of each image."""
    return (reconstructions - images).abs().mean(dim=(1, 2, 3))


def peak_signal_to_noise(squared_errors: torch.Tensor) -> torch.Tensor:
    """(N,) PSNR in dB of (N,) mean squared errors, at most MAX_PSNR."""
    return -10 * torch.log10(squared_errors.clamp_min(_SMALLEST_MSE))


class Scores(NamedTuple):
    """Scores of one image's reconstruction; psnr in dB (MAX_PSNR for a perfect copy), ssim up to 1."""

    mse: float
    mae: float
    psnr: float
    ssim: float


class Comparison(NamedTuple):
    """Scores of one image's reconstruction, and where it is wrong: (H, W) of absolute error and of SSIM, float32."""

    scores: Scores
    error_map: NDArray[np.float32]
    ssim_map: NDArray[np.float32]


def reconstruction_scores(image: NDArray[np.float32], reconstruction: NDArray[np.float32]) -> Scores:
    """Compare (H, W, C) float32 in [0, 1] with its reconstruction.

    PSNR and SSIM are scikit-image's; SSIM with the window of Wang et al., 'Image quality assessment: from error
    visibility to structural similarity', 2004 (Gaussian, sigma 1.5), averaged over the channels.
    """
    return compare(image, reconstruction).scores


def compare(image: NDArray[np.float32], reconstruction: NDArray[np.float32]) -> Comparison:
    """reconstruction_scores, and the maps behind them, each averaged over the channels."""
    from skimage import metrics

    difference = np.abs(image - reconstruction)
    mse = float(metrics.mean_squared_error(image, reconstruction))
    mae = float(difference.mean(dtype=np.float64))
    psnr = MAX_PSNR
    if mse > _SMALLEST_MSE:
        psnr = float(metrics.peak_signal_noise_ratio(image, reconstruction, data_range=1.0))
    ssim, ssim_map = metrics.structural_similarity(
        image, reconstruction, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    return Comparison(Scores(mse, mae, psnr, float(ssim)), difference.mean(axis=2), ssim_map.mean(axis=2))
