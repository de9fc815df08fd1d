"""The maps of an encoder's stages: as many as the plan says, and the latent last."""

import pytest
import torch

from fext.model.autoencoder import build_autoencoder
from fext.model.plans import CustomStages, Plan, make_plan
from fext.model.stages import StagedEncoder, stage_channels

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
def test_each_stage_gives_its_map_and_the_last_is_the_latent(plan: Plan) -> None:
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


def test_a_stage_ends_after_its_pooling() -> None:
    model = build_autoencoder(PLANS["cifar"], 0).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        first, second, last = StagedEncoder(model)(images)
    assert (first.shape, second.shape, last.shape) == ((2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 8, 8))
