"""Means, variances and covariances of numbers that come in parts: the one way in which FeXT works them out.

A sum of squares less the square of the mean cancels where the mean is far larger than the deviation: of numbers at 20
with a deviation of 0.01, float32 leaves a variance that is 15 % off. So deviations are taken from the mean of a part,
and parts are merged by the difference of their means (Chan, Golub and LeVeque, 'Algorithms for computing the sample
variance', 1983).
"""

import torch

_CHUNK = 512  # vectors multiplied at a time: few enough that float32 keeps its digits


class Moments:
    """Count, mean and covariance of vectors (N, L); with num_right those of them with others (N, R).

    With `each_alone` the variance (L,) of each value alone, no covariance. Means are float64, and so is what is added
    up. The products within 512 vectors are float32, of deviations; of float64 vectors, or with each_alone, float64.
    """

    def __init__(self, num_left: int, num_right: int | None = None, *, each_alone: bool = False) -> None:
        shape = (num_left,) if each_alone else (num_left, num_left if num_right is None else num_right)
        self.count = 0
        self.mean = torch.zeros(num_left, dtype=torch.float64)
        self.right_mean = self.mean if num_right is None else torch.zeros(num_right, dtype=torch.float64)
        self.products = torch.zeros(shape, dtype=torch.float64)  # of deviations, summed over the vectors

    def add(self, left: torch.Tensor, right: torch.Tensor | None = None) -> None:
        """Take in vectors (N, L) on any device, and as many others (N, R) where there are such."""
        for start in range(0, len(left), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._add(left[part].cpu(), None if right is None else right[part].cpu())

    def _add(self, left: torch.Tensor, right: torch.Tensor | None) -> None:
        count = self.count + len(left)
        weight = len(left) / count
        # What the means differ by is one more vector of deviations: one product makes the whole sum.
        left_rows, self.mean = self._deviations(left, self.mean, weight)
        right_rows = left_rows
        if right is None:
            self.right_mean = self.mean
        else:
            right_rows, self.right_mean = self._deviations(right, self.right_mean, weight)
        self.products += left_rows.square().sum(dim=0) if self.products.ndim == 1 else left_rows.T @ right_rows
        self.count = count

    def _deviations(self, part: torch.Tensor, mean: torch.Tensor, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Deviations from the part's mean with the weighed one of the means below them, and the mean of all."""
        exact = part.double()
        of_part = exact.mean(dim=0)
        difference = of_part - mean
        scale = (weight * self.count) ** 0.5
        rows = torch.cat([exact - of_part, scale * difference[None]])
        is_exact = self.products.ndim == 1 or part.dtype == torch.float64
        return rows if is_exact else rows.float(), mean + weight * difference

    def covariance(self) -> torch.Tensor:
        """(L, R) float64, or (L,) variances; divided by the count, and zeros of nothing."""
        return self.products / max(1, self.count)


def merged_variance(
    counts: torch.Tensor, means: torch.Tensor, variances: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (C,) of all numbers, from those (P, C) of P parts with so many numbers each, (P,); float64."""
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(dim=0)
    return mean, (weights * (variances + (means - mean).square())).sum(dim=0)
