"""What a picture shows: channels that tell textures apart where components cannot, learned without labels or steps."""

import dataclasses

import pytest
import torch

from fext.errors import ModelError
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.disturbed import Disturbances, DisturbedAutoencoder
from fext.model.linear_map import LinearMap
from fext.model.linear_path import LinearPathDecoder, LinearPathEncoder, start_at_components
from fext.model.patch_responses import PatchLearner, PatchResponses
from fext.model.plans import PatchScale, Plan, Stage, make_plan

SHAPE = (64, 64, 1)


def small_plan(picture_channels: int = 4) -> Plan:
    stage = Stage((16,), stride=32, pooling="no")
    patches = (PatchScale(1, 2, 12), PatchScale(2, 1, 12))
    return Plan("redux", SHAPE, "patch", True, (stage,), picture_channels + 48, 64, patches=patches)


def stripes(count: int, *, upright: bool, seed: int) -> torch.Tensor:
    """(count, 1, 64, 64) waves across or upright, each beginning elsewhere, with another light and contrast."""
    generator = torch.Generator().manual_seed(seed)
    begin, light, contrast = torch.rand(3, count, 1, 1, 1, generator=generator)
    waves = torch.sin(torch.arange(64.0) * 0.9 + 6.3 * begin)
    pictures = 0.5 + 0.2 * (light - 0.5) + (0.1 + 0.2 * contrast) * waves
    pictures = pictures.expand(count, 1, 64, 64) + 0.02 * torch.rand(count, 1, 64, 64, generator=generator)
    return pictures if upright else pictures.transpose(2, 3)


def learned(images: torch.Tensor, *, seed: int = 0, batch_size: int = 8) -> PatchResponses:
    responses = PatchResponses(small_plan())
    learner = PatchLearner(responses, len(images), seed)
    for batch in images.split(batch_size):
        learner.learn(batch)
    learner.finish()
    responses.scale_to(images.split(batch_size))
    return responses


def both_kinds(count: int, seed: int) -> torch.Tensor:
    return torch.cat([stripes(count, upright=upright, seed=seed) for upright in (True, False)])


def share_with_neighbour_of_its_kind(features: torch.Tensor) -> float:
    """How often the nearest by cosine is of the same half."""
    similar = torch.nn.functional.normalize(features.flatten(1)) @ torch.nn.functional.normalize(features.flatten(1)).T
    nearest = similar.fill_diagonal_(-2).argmax(dim=1)
    half = len(features) // 2
    return float(((nearest < half) == (torch.arange(len(features)) < half)).float().mean())


def test_a_256x256_picture_has_the_same_latent_and_a_quarter_of_its_channels_carry_it() -> None:
    plan = make_plan("redux", (256, 256, 3), linear_shortcut=True)
    assert plan.latent_shape == (8, 8, 512)
    assert (plan.picture_channels, plan.shown_channels) == (128, 384)
    assert [scale.reduction for scale in plan.patches] == [1, 2, 4, 8]


@pytest.mark.parametrize("side", [32, 64, 96, 128, 256, 512, 4096])
@pytest.mark.parametrize("channels", [1, 2, 7, 64, 512])
def test_pictures_of_every_size_and_latents_of_every_size_work(side: int, channels: int) -> None:
    plan = make_plan(
        "redux", (side, 2 * side if side < 4096 else side, 3), latent_channels=channels, linear_shortcut=True
    )
    assert plan.picture_channels + plan.shown_channels == channels
    if side > 128:
        return
    with torch.device("meta"):
        model = Autoencoder(plan)
        latent = model.encoder(torch.empty(1, 3, side, 2 * side))
        assert tuple(latent.shape) == (1, channels, side // 32, side // 16)
        assert tuple(model.decoder(latent).shape) == (1, 3, side, 2 * side)


def test_as_many_picture_channels_as_latent_channels_leave_all_to_the_picture() -> None:
    plan = make_plan("redux", SHAPE, linear_shortcut=True, picture_channels=512)
    assert plan.patches == ()
    assert plan.components == 1024


def test_more_picture_channels_than_there_are_channels_are_refused() -> None:
    with pytest.raises(ModelError, match="picture_channels = 9 is more than latent_channels = 8"):
        make_plan("redux", SHAPE, latent_channels=8, linear_shortcut=True, picture_channels=9)


def test_a_plan_is_read_as_it_was_written_and_one_of_an_earlier_version_is_all_picture() -> None:
    plan = small_plan()
    assert Plan.from_dict(plan.to_dict()) == plan
    earlier = make_plan("redux", SHAPE, linear_shortcut=True, picture_channels=512).to_dict()
    del earlier["patches"]
    assert Plan.from_dict(earlier).picture_channels == 512


@pytest.mark.parametrize(
    "patches",
    [(PatchScale(1, 0, 1),), (PatchScale(1, 2, -1),), (PatchScale(3, 1, 1),), (PatchScale(1, 1, 26),)],
)
def test_a_plan_whose_patches_make_no_sense_is_refused(patches: tuple[PatchScale, ...]) -> None:
    with pytest.raises(ModelError):
        Plan.from_dict(dataclasses.replace(small_plan(), patches=patches).to_dict())


def test_the_nearest_pictures_are_of_the_same_texture_wherever_it_begins_and_in_any_light() -> None:
    with torch.inference_mode():
        shown = learned(both_kinds(20, seed=1))(both_kinds(20, seed=2))
    assert share_with_neighbour_of_its_kind(shown) == 1.0


def test_light_and_contrast_count_for_little() -> None:
    images = both_kinds(20, seed=1)
    responses = learned(images)
    with torch.inference_mode():
        shown, brighter, flatter = responses(images), responses(images + 0.2), responses(0.5 * images)
    assert torch.allclose(brighter, shown, atol=1e-3)
    assert float(torch.nn.functional.cosine_similarity(flatter.flatten(1), shown.flatten(1)).min()) > 0.98


def test_channels_have_variance_1_in_the_mean_and_are_never_negative() -> None:
    images = both_kinds(20, seed=1)
    with torch.inference_mode():
        shown = learned(images)(images)
    assert float(shown.var(dim=(0, 2, 3), correction=0).mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(shown.min()) >= 0


def test_the_same_patches_are_drawn_whatever_the_batches_and_others_by_another_seed() -> None:
    images = both_kinds(10, seed=1)
    by_eight, by_three, other = (learned(images, batch_size=size, seed=seed) for size, seed in ((8, 0), (3, 0), (8, 1)))
    first, second, third = (dict(one.named_parameters())["filters.0.weight"] for one in (by_eight, by_three, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_pictures_of_one_colour_show_nothing(value: float) -> None:
    even = torch.full((9, 1, 64, 64), value)
    with torch.inference_mode():
        assert float(learned(even)(even).abs().max()) == 0
        assert float(learned(both_kinds(10, seed=1))(even).abs().max()) < 1e-3


def test_what_carries_the_picture_starts_as_the_linear_map_of_as_many_channels() -> None:
    images = both_kinds(20, seed=1)
    plan = small_plan(picture_channels=16)
    model = build_autoencoder(plan, seed=0).eval()
    assert isinstance(model.encoder, LinearPathEncoder)
    assert isinstance(model.decoder, LinearPathDecoder)
    linear_map = LinearMap(SHAPE, (2, 2, plan.components))
    linear_map.learn(images)
    linear_map.finish()
    start_at_components(model.encoder, model.decoder, linear_map)
    with torch.inference_mode():
        latent = model.encoder(images)
        assert torch.allclose(model(images).clamp(0, 1), linear_map.reconstruct(images, 16), atol=1e-4)
    variances = latent.var(dim=(0, 2, 3), correction=0)
    assert float(variances[:16].sum()) == pytest.approx(plan.shown_channels / 1024, rel=0.1)
    assert bool((variances[:15] >= variances[1:16] * 0.99).all())  # as they are in pictures, the largest first


def test_noise_on_the_latent_is_as_strong_in_channels_that_are_scaled() -> None:
    model = build_autoencoder(small_plan(), seed=0)
    assert isinstance(model.encoder, LinearPathEncoder)
    assert model.encoder.weights is not None
    model.encoder.weights.fill_(0.01)
    noisy = DisturbedAutoencoder(model, Disturbances(latent_noise=0.5))
    torch.manual_seed(0)
    changes = noisy._disturb_latent(torch.zeros(2000, 52, 1, 1)).std(dim=(0, 2, 3))
    assert changes[:4].tolist() == pytest.approx([0.005] * 4, rel=0.1)
    assert changes[4:].tolist() == pytest.approx([0.5] * 48, rel=0.1)


def test_a_linear_map_of_more_channels_than_the_path_has_components_starts_it_by_the_first_of_them() -> None:
    images = both_kinds(40, seed=1)
    plan = dataclasses.replace(small_plan(picture_channels=16), components=32)
    latents = []
    for size in (32, 64):
        model = build_autoencoder(plan, seed=0).eval()
        assert isinstance(model.encoder, LinearPathEncoder)
        assert isinstance(model.decoder, LinearPathDecoder)
        linear_map = LinearMap(SHAPE, (2, 2, size))
        linear_map.learn(images)
        linear_map.finish()
        start_at_components(model.encoder, model.decoder, linear_map)
        with torch.inference_mode():
            latents.append(model.encoder(images)[:, :16])
    assert torch.allclose(*latents, atol=1e-4)
