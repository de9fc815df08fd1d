"""What the latent of many images looks like: dead and redundant channels, effective rank, spread.

One pass over the images; its memory is the covariance of the channels, whatever the number of images.
"""

from dataclasses import dataclass

import torch

from fext.model.moments import Moments

_DEAD = 1e-4  # of the spread of a typical channel
_SAME = 0.95
_ENOUGH_VARIANCE = 0.99


@dataclass(frozen=True)
class LatentSummary:
    """Numbers of the vectors at all positions of the latents of some images.

    Dead channels hardly vary: by less than a ten-thousandth of the root mean square of all channels' deviations.
    Redundant ones go with an earlier channel: their correlation is 0.95 or more, of either sign. The effective rank is
    that of Roy and Vetterli, 'The effective rank: a measure of effective dimensionality', 2007: of the covariance,
    1 where all channels move together, their number where each moves alone and as much.
    """

    num_channels: int
    num_vectors: int
    dead_channels: tuple[int, ...]
    redundant_channels: tuple[int, ...]
    effective_rank: float
    components_for_99_percent: int
    share_of_zeros: float
    mean: float
    std: float
    channel_means: tuple[float, ...]
    channel_stds: tuple[float, ...]
    spectrum: tuple[float, ...]


class LatentStatistics:
    """Gathers latents (N, C, rows, columns), batch by batch."""

    def __init__(self, num_channels: int) -> None:
        self._num_zeros = 0
        self._moments = Moments(num_channels)

    def add(self, latent: torch.Tensor) -> None:
        """Take in a batch of latents, float32 on the CPU."""
        vectors = latent.permute(0, 2, 3, 1).flatten(0, 2)
        self._num_zeros += int((vectors == 0).sum())
        self._moments.add(vectors)

    def covariance(self) -> torch.Tensor:
        """(C, C) float64, of what was taken in."""
        return self._moments.covariance()

    def summarize(self) -> LatentSummary:
        """What was taken in, in numbers; at least one batch."""
        covariance, means, num_vectors = self.covariance(), self._moments.mean, self._moments.count
        stds = covariance.diagonal().clamp_min(0).sqrt()
        dead = stds <= _DEAD * stds.square().mean().sqrt()
        spectrum = torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
        total = float(spectrum.sum())
        shares = spectrum / total if total else spectrum
        grand_mean = float(means.mean())
        return LatentSummary(
            num_channels=len(stds),
            num_vectors=num_vectors,
            dead_channels=tuple(torch.nonzero(dead).flatten().tolist()),
            redundant_channels=_redundant(covariance, stds, dead),
            effective_rank=effective_rank(spectrum),
            components_for_99_percent=int((shares.cumsum(0) < _ENOUGH_VARIANCE).sum()) + 1 if total else 0,
            share_of_zeros=self._num_zeros / (num_vectors * len(stds)),
            mean=grand_mean,
            std=float((stds.square() + (means - grand_mean).square()).mean().sqrt()),
            channel_means=tuple(means.tolist()),
            channel_stds=tuple(stds.tolist()),
            spectrum=tuple(shares.tolist()),
        )


def effective_rank(spectrum: torch.Tensor) -> float:
    """The exponential of the entropy of the shares of a spectrum (C,), from 1 to C; 0 where there is nothing in it."""
    total = spectrum.sum()
    return float(torch.special.entr(spectrum / total).sum().exp()) if total > 0 else 0.0


def _redundant(covariance: torch.Tensor, stds: torch.Tensor, dead: torch.Tensor) -> tuple[int, ...]:
    """Live channels that go with a live one before them."""
    scale = torch.where(dead, torch.inf, stds)
    correlation = (covariance / scale[:, None] / scale).abs().tril(diagonal=-1)
    return tuple(torch.nonzero((correlation >= _SAME).any(dim=1)).flatten().tolist())
