"""Means, variances and covariances keep their digits where a mean is far larger than the deviation."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fext.model.anomalies import PositionGaussian
from fext.model.latent_statistics import LatentStatistics
from fext.model.linear_map import LinearMap
from fext.model.linear_readout import LinearReadout
from fext.model.moments import Moments, merged_variance

SIZE = 5
HARD = [(0.0, 1.0), (20.0, 1e-2), (1e4, 1e-2), (-1e4, 1e-2), (1e4, 1e3)]  # mean and deviation


def vectors(mean: float, deviation: float, count: int = 3000) -> torch.Tensor:
    """(count, SIZE) float64; the values go together."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    mixing = torch.eye(SIZE, dtype=torch.float64) + 0.3
    return values @ mixing * deviation + mean


def exact_covariance(left: torch.Tensor, right: torch.Tensor) -> NDArray[np.longdouble]:
    """About the mean, in the widest numbers there are."""
    wide = [values.double().numpy().astype(np.longdouble) for values in (left, right)]
    one, other = (values - values.mean(axis=0) for values in wide)
    return one.T @ other / len(one)


def gathered(values: torch.Tensor, sizes: list[int], **how: bool) -> Moments:
    moments = Moments(values.shape[1], **how)
    for part in values.split(sizes):
        moments.add(part)
    return moments


@pytest.mark.parametrize(("mean", "deviation"), HARD)
def test_parts_in_any_order_give_what_all_give_at_once(mean: float, deviation: float) -> None:
    values = vectors(mean, deviation)
    expected = exact_covariance(values, values)
    scale = float(np.diag(expected).max())
    for sizes in ([3000], [1, 2999], [700, 1, 99, 2200]):
        for arranged in (values, values.flip(0), values[values[:, 0].argsort()]):
            moments = gathered(arranged, sizes)
            assert moments.count == 3000
            np.testing.assert_allclose(moments.covariance().numpy(), expected.astype(float), rtol=0, atol=1e-9 * scale)
            np.testing.assert_allclose(moments.mean.numpy(), values.mean(dim=0).numpy(), rtol=1e-12, atol=1e-12)
            alone = gathered(arranged, sizes, each_alone=True).covariance()
            np.testing.assert_allclose(alone.numpy(), np.diag(expected).astype(float), rtol=1e-9)


@pytest.mark.parametrize(("mean", "deviation"), HARD)
def test_vectors_in_float32_lose_no_more_than_their_own_digits(mean: float, deviation: float) -> None:
    values = vectors(mean, deviation).float()
    expected = exact_covariance(values, values).astype(float)
    found = gathered(values, [100, 2900]).covariance().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())


def test_a_part_far_from_the_first_one_is_taken_in_whole() -> None:
    values = torch.cat([torch.full((1, SIZE), 1e4), vectors(0, 1e-2).float() * 1e-3])
    expected = exact_covariance(values, values).astype(float)
    np.testing.assert_allclose(gathered(values, [1, 3000]).covariance().numpy(), expected, rtol=1e-5)


def test_vectors_with_others() -> None:
    left, right = vectors(1e4, 1e-2), vectors(20, 1e-2).flip(1)[:, :3]
    moments = Moments(SIZE, 3)
    for one, other in zip(left.split(999), right.split(999), strict=True):
        moments.add(one, other)
    np.testing.assert_allclose(moments.right_mean.numpy(), right.mean(dim=0).numpy(), rtol=1e-12)
    expected = exact_covariance(left, right).astype(float)
    np.testing.assert_allclose(moments.covariance().numpy(), expected, rtol=0, atol=1e-9 * abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_numbers_and_a_single_one_vary_by_nothing(dtype: torch.dtype) -> None:
    for count in (1, 2, 1500):
        moments = gathered(torch.full((count, 2), 1e4 / 3, dtype=dtype), [count])
        assert moments.covariance().abs().max() < 1e-15
    assert Moments(2).covariance().equal(torch.zeros(2, 2, dtype=torch.float64))


def test_the_variance_of_all_from_that_of_unequal_parts() -> None:
    values = vectors(1e4, 1e-2)
    parts = values.split([1, 1000, 1999])
    counts = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    variances, means = (
        torch.stack(both) for both in zip(*(torch.var_mean(part, 0, correction=0) for part in parts), strict=True)
    )
    for order in ([0, 1, 2], [2, 0, 1]):
        mean, variance = merged_variance(counts[order], means[order], variances[order])
        np.testing.assert_allclose(variance.numpy(), np.diag(exact_covariance(values, values)).astype(float), rtol=1e-9)
        np.testing.assert_allclose(mean.numpy(), values.mean(dim=0).numpy(), rtol=1e-12)


# ---------------------------------------------------------------- those who use it


def test_what_is_learned_of_features_does_not_depend_on_where_zero_is() -> None:
    near = vectors(0, 1).float().round(decimals=2)
    statistics, gaussians, readouts = [], [], []
    images = torch.rand(30, 1, 10, 10, generator=torch.Generator().manual_seed(2))
    for offset in (0, 1024):  # float32 holds the same values there but for their last digits
        latents = (near + offset).reshape(30, 10, 10, SIZE).permute(0, 3, 1, 2)
        statistics.append(LatentStatistics(SIZE))
        gaussians.append(PositionGaussian(SIZE))
        readouts.append(LinearReadout((10, 10, 1), (10, 10, SIZE)))
        for part, pictures in zip(latents.split(7), images.split(7), strict=True):
            statistics[-1].add(part)
            gaussians[-1].learn(part.permute(0, 2, 3, 1).flatten(0, 2))
            readouts[-1].learn(part, pictures)
        gaussians[-1].finish()
        readouts[-1].finish()
    torch.testing.assert_close(statistics[0].covariance(), statistics[1].covariance(), rtol=1e-3, atol=1e-3)
    lengths = [
        gaussian.whiten(near + offset).norm(dim=1) for gaussian, offset in zip(gaussians, (0, 1024), strict=True)
    ]
    torch.testing.assert_close(*lengths, rtol=1e-3, atol=1e-3)
    pictures = [
        readout.reconstruct((near + offset).reshape(30, 10, 10, SIZE).permute(0, 3, 1, 2))
        for readout, offset in zip(readouts, (0, 1024), strict=True)
    ]
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-3)


def test_the_linear_map_of_bright_images_that_hardly_differ_is_that_of_their_differences() -> None:
    differences = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(3)) - 0.5
    maps = []
    for offset, contrast in ((0.5, 1.0), (0.97, 2**-10)):
        maps.append(LinearMap((8, 8, 1), (2, 2, 4)))
        maps[-1].learn(offset + contrast * differences)
        maps[-1].finish()
    torch.testing.assert_close(maps[1].deviations() * 2**10, maps[0].deviations(), rtol=1e-3, atol=1e-4)
