"""The linear path: a model with it starts as the linear map that evaluation puts beside it, and only gets better.

The gradient of its squared error is told from components.
"""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from fext.compute.device import prepare_computation
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.component_errors import ComponentErrors
from fext.model.disturbed import Disturbances, DisturbedAutoencoder, DisturbedLinearPath, disturbed
from fext.model.heads import Heads
from fext.model.linear_map import LinearMap, to_blocks, to_images
from fext.model.linear_path import LinearPathDecoder, LinearPathEncoder, start_at_components
from fext.model.losses import make_loss
from fext.model.plans import Plan, Stage
from fext.settings import Settings


def photographs(count: int, channels: int = 1, size: tuple[int, int] = (64, 96), seed: int = 0) -> torch.Tensor:
    """Pictures whose neighbouring pixels are alike."""
    coarse = torch.rand(count, channels, 6, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return 0.9 * smooth + 0.1 * torch.rand(smooth.shape, generator=torch.Generator().manual_seed(seed + 1))


def plan_for(picture_shape: tuple[int, int, int], latent_channels: int) -> Plan:
    """A plan with small branches. Most pictures here are grey, for their components are soon found."""
    stage = Stage((16, 16), stride=32, pooling="no")
    return Plan("redux", picture_shape, "patch", True, (stage,), latent_channels, max(latent_channels, 128))


@functools.cache  # it takes seconds to find
def map_of(size: int, channels: int) -> LinearMap:
    """The linear map of the pictures that models start at, with so many latent channels."""
    linear_map = LinearMap((64, 96, channels), (2, 3, size))
    linear_map.learn(photographs(40, channels))
    linear_map.finish()
    return linear_map


def model_at_start(latent_channels: int, channels: int = 1) -> tuple[Autoencoder, torch.Tensor]:
    """A model that starts at the components of its images, and the images."""
    plan = plan_for((64, 96, channels), latent_channels)
    model = build_autoencoder(plan, seed=0)
    assert isinstance(model.encoder, LinearPathEncoder)
    assert isinstance(model.decoder, LinearPathDecoder)
    start_at_components(model.encoder, model.decoder, map_of(plan.components, channels))
    return model.eval(), photographs(40, channels)


@pytest.mark.parametrize(("latent_channels", "channels"), [(5, 1), (64, 1), (128, 3)])
def test_an_untrained_model_reconstructs_as_the_linear_map_of_equal_latent_size(
    latent_channels: int, channels: int
) -> None:
    model, images = model_at_start(latent_channels, channels)
    with torch.inference_mode():
        made = model(images)
    expected = map_of(latent_channels, channels).reconstruct(images)
    assert torch.allclose(made.clamp(0, 1), expected, atol=1e-3)


def test_the_latent_starts_with_mean_0_and_variance_1_the_first_channel_carrying_most() -> None:
    model, images = model_at_start(16)
    with torch.inference_mode():
        latent = model.encoder(images)
        errors = []
        for channel in range(3):
            without = latent.clone()
            without[:, channel] = 0
            errors.append((model.decoder(without) - images).square().mean().item())
    values = latent.permute(1, 0, 2, 3).flatten(1)
    assert torch.allclose(values.mean(dim=1), torch.zeros(16), atol=1e-3)
    assert torch.allclose(values.std(dim=1, correction=0), torch.ones(16), atol=1e-2)
    assert errors == sorted(errors, reverse=True)


def test_directions_that_do_not_vary_are_not_blown_up() -> None:
    plan = plan_for((32, 32, 1), 128)
    model = build_autoencoder(plan, seed=0).eval()
    linear_map = LinearMap((32, 32, 1), (1, 1, plan.components))
    linear_map.learn(torch.full((4, 1, 32, 32), 0.5))
    linear_map.finish()
    assert isinstance(model.encoder, LinearPathEncoder)
    assert isinstance(model.decoder, LinearPathDecoder)
    start_at_components(model.encoder, model.decoder, linear_map)
    with torch.inference_mode():
        assert model.encoder(photographs(2, size=(32, 32))).abs().max() < 2000
        assert torch.allclose(model(torch.full((1, 1, 32, 32), 0.5)), torch.tensor(0.5), atol=1e-4)


def test_more_latent_channels_than_a_square_has_values_are_left_to_the_branch() -> None:
    plan = plan_for((32, 32, 1), 1100)
    model = build_autoencoder(plan, seed=0).eval()
    images = photographs(4, 1, (32, 32))
    linear_map = LinearMap((32, 32, 1), (1, 1, plan.components))
    linear_map.learn(images)
    linear_map.finish()
    assert isinstance(model.encoder, LinearPathEncoder)
    assert isinstance(model.decoder, LinearPathDecoder)
    start_at_components(model.encoder, model.decoder, linear_map)
    with torch.inference_mode():
        assert not model.encoder(images)[:, 1024:].any()
        assert torch.allclose(model(images), images, atol=1e-3)


def test_the_path_stays_as_it_is_and_the_branches_learn() -> None:
    model, images = model_at_start(8)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for _ in range(40):
        loss = (model(images) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name, value in model.state_dict().items():
        same = torch.equal(value, before[name])
        assert same if ".linear." in name else True
        assert not same if name.endswith("branch.0.weight") else True


def test_the_path_computes_in_float32_under_autocast() -> None:
    model, images = model_at_start(32)
    with torch.inference_mode():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            made = model(images)
    assert made.dtype == torch.float32
    assert (made - expected).abs().max() < 1e-4  # the branches are at zero: nothing else may differ


@pytest.mark.parametrize("block", [(4, 4), (8, 2)])
def test_blocks_put_together_again_are_the_images(block: tuple[int, int]) -> None:
    images = torch.rand(2, 3, 16, 8)
    blocks = to_blocks(images, block)
    assert blocks.shape == (2, 16 // block[0], 8 // block[1], 3 * block[0] * block[1])
    assert torch.equal(
        blocks[1, 0, 1].reshape(*block, 3), images[1, :, : block[0], block[1] : 2 * block[1]].permute(1, 2, 0)
    )
    assert torch.equal(to_images(blocks, block), images)


def test_bfloat16_changes_little_of_a_trained_branch() -> None:
    settings = Settings(use_mixed_precision=True, training_device="CPU")
    model, images = model_at_start(64)
    for module in (model.encoder, model.decoder):
        last = module.branch[-1]  # type: ignore[index,union-attr]
        torch.nn.init.normal_(last.weight, std=0.02)  # type: ignore[union-attr,arg-type]
    computation = prepare_computation(settings)
    with torch.inference_mode():
        expected = model.encoder(images).flatten(1)
        with computation.autocast():
            made = model.encoder(images).float().flatten(1)
    assert torch.cosine_similarity(made, expected).min() > 0.999


def with_branches(latent_channels: int, channels: int = 1) -> tuple[Autoencoder, torch.Tensor]:
    """A model whose branches say something, and images of which it has not seen all there is."""
    model = model_at_start(latent_channels, channels)[0]
    generator = torch.Generator().manual_seed(0)
    for module in (model.encoder, model.decoder):
        assert isinstance(module, LinearPathEncoder | LinearPathDecoder)
        assert isinstance(module.branch[-1], nn.Conv2d)
        nn.init.normal_(module.branch[-1].weight, std=0.02, generator=generator)
    return model, photographs(6, channels, seed=7)


def reconstructions_and_gradient(
    kind: type[DisturbedAutoencoder], model: Autoencoder, images: torch.Tensor, asked: Disturbances, precision: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the mean squared error, by a model in training."""
    torch.manual_seed(3)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        outcome = kind(model, asked).train()(images)
    errors = outcome.component_errors
    if errors is None:
        errors = make_loss("mse")(outcome.reconstructions.float(), images)
    errors.sum().backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return outcome.reconstructions.detach(), gradient


@pytest.mark.parametrize(
    "asked",
    [
        Disturbances(),
        Disturbances(input_noise=0.1),
        Disturbances(input_masking=0.5),
        Disturbances(latent_noise=0.1),
        Disturbances(ordered_latent=True),
    ],
    ids=str,
)
@pytest.mark.parametrize(("latent_channels", "channels"), [(5, 1), (64, 3), (1100, 1)])
def test_components_tell_the_gradient_of_the_squared_error_and_the_reconstructions(
    latent_channels: int, channels: int, asked: Disturbances
) -> None:
    model, images = with_branches(latent_channels, channels)
    (expected, expected_gradient), (made, gradient) = (
        reconstructions_and_gradient(kind, model, images, asked, "float32")
        for kind in (DisturbedAutoencoder, DisturbedLinearPath)
    )
    assert torch.allclose(made, expected, atol=1e-4)
    assert (gradient - expected_gradient).norm() < 1e-3 * expected_gradient.norm()


def test_bfloat16_changes_little_of_what_components_tell() -> None:
    model, images = with_branches(64, 3)
    expected, expected_gradient = reconstructions_and_gradient(
        DisturbedAutoencoder, model, images, Disturbances(), "float32"
    )
    made, gradient = reconstructions_and_gradient(DisturbedLinearPath, model, images, Disturbances(), "bfloat16")
    assert made.dtype == torch.float32
    assert (made - expected).square().mean() < 1e-6
    assert torch.cosine_similarity(gradient, expected_gradient, dim=0) > 0.999


def test_components_of_bright_images_are_computed_in_bfloat16_with_a_millionth_of_squared_error() -> None:
    model, images = with_branches(64, 3)
    bright = 0.7 + 0.3 * images
    assert isinstance(model.encoder, LinearPathEncoder)
    assert isinstance(model.decoder, LinearPathDecoder)
    exact, _ = model.encoder.stages(bright)
    with torch.autocast("cpu", torch.bfloat16):
        made = ComponentErrors(model).components(bright)
    deviations = model.decoder.linear.weight.norm(dim=0)[:, None, None]
    assert made.dtype == torch.float32
    assert ((made - exact) * deviations).square().sum() / bright.numel() < 1e-6


@pytest.mark.parametrize("loss", ["mae", "ssim", {"mse": 0.8, "mae": 0.2}], ids=str)
def test_other_losses_have_the_gradient_of_pictures(loss: Any) -> None:
    model, images = with_branches(5)
    outcome = disturbed(model, Disturbances(), Heads(), loss).eval()(images)
    assert outcome.component_errors is None
    assert torch.equal(outcome.reconstructions, model(images))


def test_the_squared_error_of_a_model_without_linear_path_has_the_gradient_of_pictures() -> None:
    model = build_autoencoder(Plan("vgg16", (32, 32, 3), "plain", False, (Stage((4,)), Stage((8,))), 8), seed=0)
    outcome = disturbed(model, Disturbances(), Heads(), "mse")(torch.rand(2, 3, 32, 32))
    assert outcome.component_errors is None
    assert outcome.reconstructions.requires_grad
