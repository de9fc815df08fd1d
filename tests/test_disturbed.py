"""Disturbances: what training hides from the model, what it leaves, and that evaluation sees no disturbance."""

import pytest
import torch

from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.disturbed import (
    MASKED_PATCH,
    Disturbances,
    DisturbedAutoencoder,
    add_noise,
    keep_first_channels,
    mask_patches,
)
from fext.model.plans import Plan, Stage

EVERY = Disturbances(input_noise=0.1, input_masking=0.5, latent_noise=0.1, ordered_latent=True)


@pytest.fixture
def autoencoder() -> Autoencoder:
    plan = Plan("redux", (64, 64, 3), "residual", True, (Stage((4,)), Stage((8,))), 8)
    return build_autoencoder(plan, seed=0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_nothing_is_disturbed_in_evaluation(autoencoder: Autoencoder) -> None:
    images = torch.rand(2, 3, 64, 64)
    model = DisturbedAutoencoder(autoencoder, EVERY).eval()
    outcome = model(images)
    assert outcome.turns is None
    assert torch.equal(outcome.latent, autoencoder.encoder(images))
    assert torch.equal(outcome.reconstructions, autoencoder.decoder(outcome.latent))


def test_without_disturbances_training_is_that_of_the_autoencoder(autoencoder: Autoencoder) -> None:
    images = torch.rand(2, 3, 64, 64)
    outcome = DisturbedAutoencoder(autoencoder, Disturbances()).train()(images)
    assert torch.equal(outcome.latent, autoencoder.encoder(images))
    assert torch.equal(outcome.reconstructions, autoencoder.decoder(outcome.latent))


@pytest.mark.parametrize(
    "disturbances",
    [
        Disturbances(input_noise=0.1),
        Disturbances(input_masking=0.5),
        Disturbances(latent_noise=0.1),
        Disturbances(ordered_latent=True),
    ],
    ids=str,
)
def test_each_disturbance_changes_what_training_sees_anew_each_time(
    autoencoder: Autoencoder, disturbances: Disturbances
) -> None:
    images = torch.rand(4, 3, 64, 64)
    model = DisturbedAutoencoder(autoencoder, disturbances).train()
    first, second = (model(images).reconstructions for _ in range(2))
    assert not torch.allclose(first, autoencoder(images), atol=1e-4)
    assert not torch.equal(first, second)


def test_noise_has_the_deviation_asked_for() -> None:
    changed = add_noise(torch.zeros(8, 3, 64, 64), 0.25)
    assert changed.mean().item() == pytest.approx(0, abs=0.01)
    assert changed.std().item() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_masked_image_has_that_share_of_whole_patches_under_its_mean_colour(share: float) -> None:
    images = torch.rand(3, 3, 64, 128)
    masked = mask_patches(images, share)
    for image, shown in zip(images, masked, strict=True):
        mean = image.mean(dim=(1, 2))
        patches = shown.unfold(1, MASKED_PATCH, MASKED_PATCH).unfold(2, MASKED_PATCH, MASKED_PATCH)
        originals = image.unfold(1, MASKED_PATCH, MASKED_PATCH).unfold(2, MASKED_PATCH, MASKED_PATCH)
        hidden = (patches == mean[:, None, None, None, None]).all(dim=0).flatten(2).all(dim=2)
        left = (patches == originals).all(dim=0).flatten(2).all(dim=2)
        assert torch.equal(hidden, ~left)
        assert hidden.float().mean().item() == share
    assert not torch.equal(masked[0] == images[0], masked[1] == images[1])  # each image by itself


def test_in_small_pictures_the_share_is_right_on_the_whole() -> None:
    images = torch.rand(4000, 1, 32, 32)  # four patches each
    hidden = (mask_patches(images, 0.1) != images).float().mean().item()
    assert hidden == pytest.approx(0.1, abs=0.01)


def test_a_picture_that_is_no_multiple_of_a_patch_is_masked_to_its_edge() -> None:
    images = torch.rand(2, 1, 40, 24)
    masked = mask_patches(images, 1 - 1e-9)
    assert masked.shape == images.shape
    assert torch.allclose(masked, images.mean(dim=(2, 3), keepdim=True).expand_as(images))


def test_an_ordered_latent_keeps_the_first_channels_and_every_number_of_them_is_drawn() -> None:
    latent = torch.rand(4000, 5, 2, 2) + 1
    kept = keep_first_channels(latent)
    counts = (kept != 0).flatten(2).all(dim=2).sum(dim=1)
    for image, shown, count in zip(latent, kept, counts, strict=True):
        assert torch.equal(shown[:count], image[:count])
        assert not shown[count:].any()
    shares = torch.bincount(counts, minlength=6)[1:] / len(latent)
    assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.03)
