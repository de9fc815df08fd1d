"""The maps of an encoder's stages: as many as the plan says, and the latent last."""

from dataclasses import replace

import pytest
import torch

from fext.model.autoencoder import build_autoencoder
from fext.model.plans import CustomStages, Plan, make_plan
from fext.model.stages import StagedEncoder, found_by_stages, stage_channels

CUSTOM = CustomStages(
    filters=(4, 8), layers_per_block=(1, 2), kernel_size=(3,), strides=(2, 1), pooling=("no", "avg"), activation="elu",
    last_activation="sigmoid", normalization=False, embedding=(10,),
)  # fmt: skip
PLANS = {
    "vgg16_bn": make_plan("vgg16_bn", (32, 32, 3)),
    "vgg16": make_plan("vgg16", (32, 32, 3), latent_channels=7, dropout_rate=0.1),
    "redux": make_plan("redux", (64, 32, 3), dropout_rate=0.1),
    "medium": make_plan("medium", (32, 32, 1), latent_channels=7),
    "patch": make_plan("redux", (64, 32, 3), latent_channels=7, linear_shortcut=True),
    "cifar": make_plan("cifar", (32, 32, 3)),
    "custom": make_plan("custom", (16, 16, 3), custom=CUSTOM),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_stage_hands_its_map_on_and_the_last_is_the_latent(plan: Plan) -> None:
    model = build_autoencoder(plan, 0).eval()
    height, width, channels = plan.picture_shape
    images = torch.rand(2, channels, height, width)
    with torch.inference_mode():
        maps = StagedEncoder(model)(images)
        latent = model.encoder(images)
    assert [stage.shape[1] for stage in maps] == stage_channels(plan)
    assert torch.equal(maps[-1], latent)
    sizes = [stage.shape[2] for stage in maps]
    assert sizes == sorted(sizes, reverse=True)


def test_what_a_stage_hands_on_is_after_its_pooling() -> None:
    model = build_autoencoder(PLANS["cifar"], 0).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        first, second, last = StagedEncoder(model)(images)
    assert (first.shape, second.shape, last.shape) == ((2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 8, 8))


def test_what_a_stage_found_is_before_its_pooling_and_a_stage_of_the_size_of_the_latent_is_the_latent() -> None:
    model = build_autoencoder(PLANS["cifar"], 0).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        first, second, last = found_by_stages(model.encoder, images)
        handed_on = StagedEncoder(model)(images)
    assert (first.shape, second.shape, last.shape) == ((2, 32, 32, 32), (2, 64, 16, 16), (2, 128, 8, 8))
    pool = torch.nn.functional.max_pool2d
    assert torch.equal(pool(first, 2), handed_on[0])
    assert torch.equal(pool(second, 2), handed_on[1])
    assert torch.equal(last, handed_on[2])


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_stages_find_one_map_of_each_size_and_the_last_is_the_latent(plan: Plan) -> None:
    encoder = build_autoencoder(plan, 0).eval().encoder
    height, width, channels = plan.picture_shape
    images = torch.rand(2, channels, height, width)
    with torch.inference_mode():
        maps = list(found_by_stages(encoder, images))
        assert torch.equal(maps[-1], encoder(images))
    sizes = [tuple(found.shape[2:]) for found in maps]
    assert sizes == sorted(set(sizes), reverse=True)


def test_the_map_before_fully_connected_layers_is_found_though_it_has_the_size_of_the_latent() -> None:
    plan = make_plan("custom", (16, 16, 3), custom=replace(CUSTOM, strides=(4, 2)))
    encoder = build_autoencoder(plan, 0).eval().encoder
    with torch.inference_mode():
        maps = list(found_by_stages(encoder, torch.rand(2, 3, 16, 16)))
    assert [found.shape[1:] for found in maps] == [(4, 4, 4), (8, 2, 2), (8, 1, 1), (10, 1, 1)]


def test_stages_that_are_not_asked_for_are_not_computed() -> None:
    encoder = build_autoencoder(PLANS["vgg16"], 0).eval().encoder
    computed: list[int] = []
    for number, layer in enumerate(encoder.children()):
        layer.register_forward_hook(lambda *_, number=number: computed.append(number))
    with torch.inference_mode():
        found = next(found_by_stages(encoder, torch.rand(1, 3, 32, 32)))
    assert found.shape == (1, 64, 32, 32)
    assert computed == [0, 1, 2, 3, 4]  # two activated convolutions and the pooling
