"""The model: plans, the autoencoders built from them, scores, and the linear map beside which they are put."""

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from fext.errors import ModelError
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.blocks import UpsampledConvolution
from fext.model.linear_map import LinearMap
from fext.model.plans import Plan, make_plan
from fext.model.scores import (
    MAX_PSNR,
    mean_absolute_error,
    mean_squared_error,
    peak_signal_to_noise,
    reconstruction_scores,
)

FIRST_FIELDS = ("architecture", "picture_shape", "block", "normalization", "stages")
ARCHITECTURES = ("vgg16_bn", "vgg16", "redux", "medium", "large")  # each has a latent of 8x8x512


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random pictures (N, C, H, W) in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def model_for(architecture: str, picture_shape: tuple[int, int, int], seed: int = 0) -> Autoencoder:
    """An untrained model in evaluation mode."""
    return build_autoencoder(make_plan(architecture, picture_shape), seed).eval()


def convolutions(module: nn.Module) -> list[tuple[int, int]]:
    """(input, output) channels of every convolution, in order."""
    return [(layer.in_channels, layer.out_channels) for layer in module.modules() if isinstance(layer, nn.Conv2d)]


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_a_256_pixel_picture_a_latent_of_8_by_8_by_512(architecture: str) -> None:
    plan = make_plan(architecture, (256, 256, 3))
    assert plan.architecture == architecture
    assert plan.latent_shape == (8, 8, 512)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(256, 256, 3), (32, 64, 1)])
def test_a_plan_comes_back_from_json_as_it_was(architecture: str, shape: tuple[int, int, int]) -> None:
    plan = make_plan(architecture, shape)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(100, 100), (256, 250), (16, 16), (48, 32), (0, 0), (-32, 32)])
def test_a_size_that_cannot_be_halved_often_enough_is_refused_with_what_is_possible(
    architecture: str, size: tuple[int, int]
) -> None:
    with pytest.raises(ModelError) as caught:
        make_plan(architecture, (*size, 3))
    message = str(caught.value)
    assert architecture in message
    assert "multiples of 32" in message
    assert f"{size[0]}x{size[1]}" in message


def test_an_unknown_architecture_is_refused_by_its_name() -> None:
    with pytest.raises(ModelError, match="vgg99"):
        make_plan("vgg99", (256, 256, 3))


@pytest.mark.parametrize(
    "damage",
    [
        {"stages": []},
        {"stages": [{"widths": []}]},
        {"stages": [{"widths": [0]}, {"widths": [512]}]},
        {"stages": [{"widths": ["many"]}]},
        {"stages": [{"widths": [8], "pooling": "mean"}]},
        {"stages": [{"widths": [8], "kernel_size": 4}]},
        {"stages": [{"widths": [8], "depth": 4}]},
        {"stages": 5},
        {"stages": None},
        {"picture_shape": [256, 256]},
        {"picture_shape": [250, 256, 3]},
        {"picture_shape": [256, 256, 0]},
        {"picture_shape": [math.inf, 256, 3]},
        {"picture_shape": [math.nan, 256, 3]},
        {"picture_shape": None},
        {"block": "transformer"},
        {"block": None},
        {"block": "plain", "latent_channels": 100},
        {"block": "patch"},
        {"block": "patch", "components": 512, "stages": []},
        {"block": "patch", "components": 512, "stages": [{"widths": [8], "stride": 32}]},
        {"latent_channels": 0},
        {"latent_channels": 1.5},
        {"components": -1},
        {"dropout_rate": 1.0},
        {"dropout_rate": "much"},
        {"activation": "swish"},
        {"last_activation": None},
        {"embedding": [10]},
        {"embedding": None},
        {"normalization": "no"},
        {"normalization": None},
        {"attention": True},
    ],
    ids=str,
)
def test_a_damaged_plan_is_refused(damage: dict[str, Any]) -> None:
    plan = json.loads(json.dumps(make_plan("redux", (256, 256, 3)).to_dict()))
    with pytest.raises(ModelError):
        Plan.from_dict(plan | damage)


@pytest.mark.parametrize("architecture", ["vgg16_bn", "redux"])
def test_the_plan_of_a_first_checkpoint_is_read_as_it_was_meant(architecture: str) -> None:
    plan = make_plan(architecture, (256, 256, 3))
    first = {name: value for name, value in plan.to_dict().items() if name in FIRST_FIELDS}
    first["stages"] = [list(stage.widths) for stage in plan.stages]
    assert Plan.from_dict(json.loads(json.dumps(first))) == plan


@pytest.mark.parametrize("field", ["architecture", "picture_shape", "block", "normalization", "stages"])
def test_a_plan_that_lacks_a_field_is_refused(field: str) -> None:
    plan = make_plan("redux", (256, 256, 3)).to_dict()
    with pytest.raises(ModelError, match=field):
        Plan.from_dict({name: value for name, value in plan.items() if name != field})


# ---------------------------------------------------------------- autoencoders


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_256_pixel_picture_is_encoded_to_512_channels_of_8_by_8_and_reconstructed(architecture: str) -> None:
    model = model_for(architecture, (256, 256, 3))
    with torch.inference_mode():
        latent = model.encoder(pictures(1, 3, 256, 256))
        reconstruction = model.decoder(latent)
    assert latent.shape == (1, 512, 8, 8)
    assert reconstruction.shape == (1, 3, 256, 256)
    assert reconstruction.dtype == torch.float32
    assert reconstruction.min() >= 0
    assert reconstruction.max() <= 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_sizes_and_grey_pictures_work(architecture: str) -> None:
    model = model_for(architecture, (64, 96, 1))
    images = pictures(2, 1, 64, 96)
    with torch.inference_mode():
        reconstructions = model(images)
        assert model.encoder(images).shape == (2, 512, 2, 3)
    assert reconstructions.shape == images.shape
    assert reconstructions.min() >= 0
    assert reconstructions.max() <= 1


@pytest.mark.parametrize("architecture", ["vgg16", "vgg16_bn"])
def test_the_feature_weights_of_torchvision_load_one_to_one_and_give_the_same_features(architecture: str) -> None:
    reference = getattr(torchvision.models, architecture)(weights=None, init_weights=False).features.eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight, module.bias, module.running_mean, module.running_var):
                    assert values is not None
                    values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    encoder = model_for(architecture, (64, 64, 3)).encoder
    encoder.load_state_dict(reference.state_dict(), strict=True)
    with torch.inference_mode():
        images = pictures(2, 3, 64, 64)
        features = encoder(images)
        assert torch.equal(features, reference(images))
    assert features.std() > 0


@pytest.mark.parametrize("architecture", ["vgg16", "vgg16_bn"])
def test_a_vgg16_has_thirteen_convolutions_and_a_decoder_that_mirrors_them(architecture: str) -> None:
    model = model_for(architecture, (32, 32, 3))
    encoding, decoding = convolutions(model.encoder), convolutions(model.decoder)
    assert len(encoding) == 13
    assert decoding == [(outputs, inputs) for inputs, outputs in reversed(encoding)]


def test_an_upsampled_convolution_is_the_convolution_of_the_upsampled_image_and_so_are_its_gradients() -> None:
    layer = UpsampledConvolution(5, 4).double()
    small = pictures(2, 5, 6, 7).double().requires_grad_()
    shown = torch.nn.functional.interpolate(small, scale_factor=2, mode="nearest")
    expected = torch.nn.functional.conv2d(shown, layer.weight, layer.bias, padding=1)
    direction = pictures(*expected.shape, seed=1).double()
    inputs = (small, layer.weight, layer.bias)
    torch.testing.assert_close(layer(small), expected)
    for gradient, wanted in zip(
        torch.autograd.grad(layer(small), inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("architecture", ["vgg16", "redux"])
def test_the_seed_fixes_the_weights(architecture: str) -> None:
    first, again, other = (model_for(architecture, (32, 32, 3), seed).state_dict() for seed in (5, 5, 6))
    assert first.keys() == again.keys()
    assert all(torch.equal(values, again[name]) for name, values in first.items())
    assert any(not torch.equal(values, other[name]) for name, values in first.items())


def test_building_leaves_the_random_state_of_torch_as_it_was() -> None:
    before = torch.get_rng_state()
    build_autoencoder(make_plan("redux", (32, 32, 3)), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", ["vgg16_bn", "redux"])
def test_an_image_is_encoded_the_same_whatever_its_neighbours(architecture: str) -> None:
    model = model_for(architecture, (32, 32, 3))
    images = pictures(4, 3, 32, 32)
    with torch.inference_mode():
        together, alone = model.encoder(images), model.encoder(images[2:3])
    assert torch.allclose(alone[0], together[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["vgg16_bn", "redux"])
def test_the_loss_reaches_every_layer(architecture: str) -> None:
    model = build_autoencoder(make_plan(architecture, (32, 32, 3)), seed=0)
    images = pictures(2, 3, 32, 32)
    mean_squared_error(model(images), images).mean().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


# ---------------------------------------------------------------- scores


def test_the_errors_of_a_batch_are_means_over_each_image() -> None:
    images = torch.zeros(2, 3, 4, 4)
    reconstructions = images.clone()
    reconstructions[0] = 0.5
    reconstructions[1, :, 0] = 1  # a quarter of the pixels
    assert mean_squared_error(reconstructions, images).tolist() == [0.25, 0.25]
    assert mean_absolute_error(reconstructions, images).tolist() == [0.5, 0.25]


def test_psnr_is_ten_decibels_for_each_tenth_of_the_squared_error() -> None:
    squared_errors = torch.tensor([1.0, 0.1, 0.01, 0.001, 0.0])
    assert peak_signal_to_noise(squared_errors).tolist() == pytest.approx([0, 10, 20, 30, MAX_PSNR], abs=1e-4)


def flat(value: float, channels: int = 3) -> NDArray[np.float32]:
    """A picture (H, W, C) all of one value."""
    return np.full((32, 48, channels), value, dtype=np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_scores_of_two_flat_pictures_are_those_of_the_formulas(channels: int) -> None:
    scores = reconstruction_scores(flat(0.5, channels), flat(0.6, channels))
    assert scores.mse == pytest.approx(0.01, rel=1e-5)
    assert scores.mae == pytest.approx(0.1, rel=1e-5)
    assert scores.psnr == pytest.approx(20, abs=1e-4)
    # Without variance only the comparison of brightness is left of SSIM, with C1 = 0.01 squared.
    assert scores.ssim == pytest.approx((2 * 0.5 * 0.6 + 0.0001) / (0.5**2 + 0.6**2 + 0.0001), abs=1e-4)


def test_a_perfect_copy_has_no_error_and_the_best_scores() -> None:
    image = pictures(32, 32, 3).numpy()
    scores = reconstruction_scores(image, image.copy())
    assert (scores.mse, scores.mae, scores.psnr) == (0, 0, MAX_PSNR)
    assert scores.ssim == pytest.approx(1)


def test_black_for_white_has_the_greatest_error() -> None:
    scores = reconstruction_scores(flat(1), flat(0))
    assert (scores.mse, scores.mae, scores.psnr) == (1, 1, 0)
    assert scores.ssim == pytest.approx(0, abs=1e-3)


def test_ssim_is_that_of_wang_and_others_worked_out_pixel_by_pixel() -> None:
    image = pictures(18, 17, 1, seed=1).numpy()
    reconstruction = (0.7 * image + 0.3 * pictures(18, 17, 1, seed=2).numpy()).astype(np.float32)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row in range(18 - 10):
        for column in range(17 - 10):
            x, y = (array[row : row + 11, column : column + 11, 0] for array in (image, reconstruction))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            variances = (window * x**2).sum() - mean_x**2 + (window * y**2).sum() - mean_y**2
            covariance = (window * x * y).sum() - mean_x * mean_y
            brightness = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
            values.append(brightness * (2 * covariance + 0.03**2) / (variances + 0.03**2))
    assert reconstruction_scores(image, reconstruction).ssim == pytest.approx(np.mean(values), abs=1e-5)


# ---------------------------------------------------------------- the linear map


def learned(num_components: int, *batches: torch.Tensor) -> LinearMap:
    """A linear map of 4x4 blocks to that many components, learned on the batches."""
    _, channels, height, width = batches[0].shape
    linear_map = LinearMap((height, width, channels), (height // 4, width // 4, num_components))
    for batch in batches:
        linear_map.learn(batch)
    linear_map.finish()
    return linear_map


def correlated(count: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Pictures whose neighbouring pixels are alike, as in photographs."""
    coarse = pictures(count, channels, 8, 8, seed=seed)
    return nn.functional.interpolate(coarse, (32, 32), mode="bilinear") * 0.9 + 0.1 * pictures(
        count, channels, 32, 32, seed=seed + 1
    )


def principal_components(train: torch.Tensor, images: torch.Tensor, num_components: int) -> NDArray[np.float64]:
    """The reconstruction of 4x4 blocks from their principal components, by numpy's singular values."""

    def blocks(array: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(
            [
                picture[:, row : row + 4, column : column + 4].ravel()
                for picture in array
                for row in range(0, array.shape[2], 4)
                for column in range(0, array.shape[3], 4)
            ]
        )

    mean = blocks(train.double().numpy()).mean(axis=0)
    directions = np.linalg.svd(blocks(train.double().numpy()) - mean, full_matrices=False)[2][:num_components]
    rebuilt = iter((blocks(images.double().numpy()) - mean) @ directions.T @ directions + mean)
    result = np.empty(images.shape)
    for picture in result:
        for row in range(0, images.shape[2], 4):
            for column in range(0, images.shape[3], 4):
                picture[:, row : row + 4, column : column + 4] = next(rebuilt).reshape(-1, 4, 4)
    return np.clip(result, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_with_as_many_components_as_a_block_has_values_the_map_copies(channels: int) -> None:
    images = correlated(8, channels)
    copies = learned(16 * channels, images[:4]).reconstruct(images)
    assert copies.shape == images.shape
    assert torch.allclose(copies, images, atol=1e-4)


def test_more_components_than_a_block_has_values_change_nothing() -> None:
    images = correlated(4, channels=1)
    assert torch.equal(learned(512, images).reconstruct(images), learned(16, images).reconstruct(images))


@pytest.mark.parametrize("num_components", [1, 5, 12])
def test_the_map_is_the_principal_component_analysis_of_numpy(num_components: int) -> None:
    train, others = correlated(10, seed=1), correlated(3, seed=5)
    expected = principal_components(train, others, num_components)
    reconstructions = learned(num_components, train).reconstruct(others)
    assert np.abs(reconstructions.numpy() - expected).max() <= 1e-3
    assert reconstructions.dtype == torch.float32
    assert reconstructions.min() >= 0
    assert reconstructions.max() <= 1


def test_the_batches_in_which_images_come_do_not_matter() -> None:
    images = correlated(9)
    at_once = learned(6, images).reconstruct(images)
    in_parts = learned(6, images[:1], images[1:6], images[6:]).reconstruct(images)
    assert torch.allclose(at_once, in_parts, atol=1e-4)
    one_by_one = torch.cat([learned(6, images).reconstruct(images[i : i + 1]) for i in range(9)])
    assert torch.allclose(at_once, one_by_one, atol=1e-5)


def test_the_error_falls_with_every_further_component() -> None:
    images = correlated(6, channels=1)
    maps = [learned(num_components, images) for num_components in (1, 2, 4, 8, 16)]
    errors = [float(mean_squared_error(each.reconstruct(images), images).mean()) for each in maps]
    assert all(more < fewer for fewer, more in pairwise(errors))
    assert errors[-1] < 1e-8


def test_the_mean_image_is_the_mean_of_all_train_images() -> None:
    images = correlated(7)
    assert torch.allclose(learned(2, images[:3], images[3:]).mean_image(), images.mean(dim=0), atol=1e-6)
