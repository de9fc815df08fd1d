"""Losses: each is what its source says, lowest where the reconstruction is the image, and mixed as the settings say."""

from typing import get_args

import numpy as np
import pytest
import torch

from fext.model.autoencoder import Sigmoid
from fext.model.losses import LOSSES, make_loss
from fext.model.scores import reconstruction_scores
from fext.settings import LossName


def pictures(count: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, 32, 40, generator=torch.Generator().manual_seed(seed))


def test_every_loss_of_the_settings_is_there() -> None:
    assert set(LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_number_for_each_image_and_lowest_for_a_perfect_copy(name: str) -> None:
    images = pictures(3)
    copies, negatives = LOSSES[name](images, images), LOSSES[name](1 - images, images)
    assert copies.shape == (3,)
    assert (negatives > copies).all()
    assert torch.allclose(LOSSES[name](images[1:2], images[1:2]), copies[1:2], atol=1e-6)  # whatever its neighbours


@pytest.mark.parametrize("name", ["mse", "mae", "ssim"])
def test_the_loss_of_a_perfect_copy_is_zero(name: str) -> None:
    images = pictures(3, channels=1)
    assert LOSSES[name](images, images).abs().max() < 1e-5


def test_cross_entropy_is_that_of_its_formula_and_finite_where_a_reconstruction_is_certain_and_wrong() -> None:
    images, made = pictures(2, seed=1), pictures(2, seed=2)
    y, p = images.double().numpy(), made.double().numpy()
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=(1, 2, 3))
    assert LOSSES["bce"](made, images).numpy() == pytest.approx(expected, rel=1e-5)
    assert LOSSES["bce"](torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)).isfinite().all()
    assert LOSSES["bce"](torch.full((1, 1, 8, 8), 1.2), torch.ones(1, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [-12.0, -7.0, 0.5, 7.0, 12.0])
def test_what_is_certain_and_wrong_is_still_learned_from(logit: float, precision: torch.dtype) -> None:
    """The gradient with respect to what goes into the sigmoid is what comes out of it, less what is right."""
    values = torch.full((1, 1, 4, 4), logit, dtype=precision, requires_grad=True)
    for target in (0.0, 1.0):
        loss = LOSSES["bce"](Sigmoid()(values), torch.full((1, 1, 4, 4), target))
        (gradient,) = torch.autograd.grad(loss.sum() * 16, values)
        expected = torch.sigmoid(torch.tensor(logit)) - target
        assert gradient.float().mean().item() == pytest.approx(expected.item(), rel=0.1, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_ssim_loss_is_one_less_the_ssim_of_scikit_image(channels: int) -> None:
    images = pictures(2, channels, seed=1)
    made = 0.7 * images + 0.3 * pictures(2, channels, seed=2)
    similarity = [
        reconstruction_scores(image.permute(1, 2, 0).numpy(), other.permute(1, 2, 0).numpy()).ssim
        for image, other in zip(images, made, strict=True)
    ]
    assert LOSSES["ssim"](made, images).numpy() == pytest.approx(1 - np.array(similarity), abs=1e-5)


def test_a_mixture_is_the_weighted_sum_of_its_losses() -> None:
    images, made = pictures(4, seed=1), pictures(4, seed=2)
    expected = 0.8 * LOSSES["mse"](made, images) + 0.2 * LOSSES["ssim"](made, images)
    assert torch.allclose(make_loss({"mse": 0.8, "ssim": 0.2})(made, images), expected)
    assert torch.equal(make_loss("mae")(made, images), LOSSES["mae"](made, images))


@pytest.mark.parametrize("loss", [*LOSSES, {"mae": 0.5, "ssim": 0.5}], ids=str)
def test_a_step_against_the_gradient_lowers_the_loss(loss: str | dict[str, float]) -> None:
    images = pictures(2)
    made = pictures(2, seed=3).requires_grad_()
    before = make_loss(loss)(made, images).sum()
    (gradient,) = torch.autograd.grad(before, made)
    after = make_loss(loss)(made - 1e-3 * gradient / gradient.abs().max(), images).sum()
    assert after < before
