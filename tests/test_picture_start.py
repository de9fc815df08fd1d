"""A plain model starts from its training images: its features before the first step, and where its start is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said, same_tensors
from torch import nn

from fext.jobs.pretrain import pretrain, resume
from fext.jobs.starting import model_before_training
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.picture_start import num_pictures_to_start_from, start_from_pictures
from fext.model.plans import CustomStages, Plan, Stage, make_plan
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
QUIET = SilentReporter()
CUSTOM = CustomStages(
    filters=(8, 16), layers_per_block=(2,), kernel_size=(5, 3), strides=(2, 1), pooling=("avg", "max"),
    activation="elu", last_activation="linear", normalization=False, embedding=(30, 10),
)  # fmt: skip


def narrow_vgg16(*, normalization: bool) -> Plan:
    """The thirteen convolutions of VGG16, an eighth as wide."""
    stages = tuple(Stage(widths) for widths in ((8,) * 2, (16,) * 2, (32,) * 3, (64,) * 3, (64,) * 3))
    return Plan("vgg16", (32, 32, 3), "plain", normalization, stages, 64)


def textures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of waves in one of eight directions, under any light, and the direction of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 8
    light, contrast, phase = torch.rand(3, count, 1, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angles = torch.pi / 8 * labels[:, None, None, None]
    ways = rows * angles.cos() + columns * angles.sin()
    waves = (1.2 * ways + 6.3 * phase).sin() * (0.05 + 0.1 * contrast)
    noise = 0.002 * torch.randn(count, 3, 32, 32, generator=generator)
    return (0.2 + 0.6 * light + waves + noise).clamp(0, 1), labels


def started(plan: Plan, seed: int = 0) -> Autoencoder:
    model = build_autoencoder(plan, seed)
    start_from_pictures(model, list(torch.split(textures(40, 1)[0], 16)), seed)
    return model.eval()


@torch.inference_mode()
def share_told_by_the_nearest(model: Autoencoder) -> float:
    """How often the nearest of 60 pictures, each channel standardized, shows the same as one of 60 others."""
    taught, labels = textures(60, 2)
    asked, truth = textures(60, 3)
    known, wanted = (model.encoder(x).mean(dim=(2, 3)) for x in (taught, asked))
    mean, deviation = known.mean(dim=0), known.std(dim=0) + 1e-6
    known, wanted = (nn.functional.normalize((x - mean) / deviation) for x in (known, wanted))
    return float((labels[(wanted @ known.T).argmax(dim=1)] == truth).float().mean())


@pytest.mark.parametrize("normalization", [False, True])
def test_features_tell_more_before_the_first_step_than_those_of_random_weights(normalization: bool) -> None:
    plan = narrow_vgg16(normalization=normalization)
    assert share_told_by_the_nearest(started(plan)) > share_told_by_the_nearest(build_autoencoder(plan, 0).eval()) + 0.1


@pytest.mark.parametrize(
    "plan",
    [narrow_vgg16(normalization=False), make_plan("custom", (32, 32, 3), custom=CUSTOM)],
    ids=["vgg16", "custom with fully connected layers"],
)
@torch.inference_mode()
def test_each_unit_of_each_layer_varies_alike_and_the_mean_colour_comes_out(plan: Plan) -> None:
    model, maps = started(plan), textures(40, 1)[0]
    for layer in (*model.encoder.children(), *list(model.decoder.children())[:-2]):
        maps = layer(maps)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert maps.transpose(0, 1).flatten(1).var(dim=1, correction=0).allclose(torch.ones(1), atol=0.02)
    pictures = textures(40, 1)[0]
    assert model(pictures).mean(dim=(0, 2, 3)).allclose(pictures.mean(dim=(0, 2, 3)), atol=0.05)


def test_normalized_layers_begin_with_the_statistics_of_the_images() -> None:
    model, pictures = started(narrow_vgg16(normalization=True)), textures(40, 1)[0]
    with torch.inference_mode():
        evaluated = model(pictures)
        assert evaluated.allclose(model.train()(pictures), atol=0.01)


def test_the_same_pictures_and_seed_give_the_same_weights() -> None:
    plan = narrow_vgg16(normalization=False)
    states = [started(plan, seed).state_dict() for seed in (0, 0, 1)]
    same, other = (all(torch.equal(states[0][name], state[name]) for name in state) for state in states[1:])
    assert same
    assert not other


def test_of_pictures_of_one_colour_or_of_none_a_model_starts_with_finite_weights() -> None:
    for batches in ([torch.full((4, 3, 32, 32), 0.5)], []):
        model = build_autoencoder(narrow_vgg16(normalization=False), 0)
        start_from_pictures(model, batches, 0)
        assert all(weight.isfinite().all() for weight in model.state_dict().values())


def test_the_larger_the_maps_the_fewer_pictures_are_looked_at() -> None:
    numbers = [num_pictures_to_start_from(make_plan("vgg16", (side, side, 3))) for side in (32, 256, 4096)]
    assert numbers == [256, 16, 1]


# ---------------------------------------------------------------- runs


def test_the_start_is_kept_with_the_run_for_its_verdict(workspace: Workspace, tiny: Tiny, no_pictures: None) -> None:
    settings = tiny(architecture="cifar", picture_shape=(32, 32, 3), epochs=2, checkpoint_every=2)
    whole = pretrain(workspace, settings, workspace.images, "whole", QUIET).folder
    pretrain(workspace, settings.model_copy(update={"epochs": 1}), workspace.images, "extended", QUIET)
    resume(settings, workspace.checkpoints / "extended", 2, QUIET)
    assert same_tensors(whole, workspace.checkpoints / "extended")

    said = Said()
    epoch = next((whole / "epochs").iterdir())
    starts = [model_before_training(load_checkpoint(folder), None, said).encoder for folder in (whole, epoch)]
    assert not said.lines
    drawn = build_autoencoder(load_checkpoint(whole).plan, settings.seed).encoder
    first, kept, at_random = (next(encoder.parameters()) for encoder in (*starts, drawn))
    assert torch.equal(first, kept)
    assert not torch.equal(first, at_random)

    (whole / "encoder_start.safetensors").unlink()
    lost = model_before_training(load_checkpoint(whole), None, said).encoder
    assert torch.equal(next(lost.parameters()), at_random)
    assert "before training is taken at random weights" in said.lines[0]


def test_random_weights_are_those_of_the_seed_and_nothing_is_kept_of_them(
    workspace: Workspace, tiny: Tiny, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fext.jobs import pretrain as pretraining

    monkeypatch.setattr(pretraining, "_train", lambda run, *_: run)
    settings = tiny(architecture="cifar", picture_shape=(32, 32, 3), encoder_weights="none")
    run: Any = pretrain(workspace, settings, workspace.images, "model", QUIET)
    expected = build_autoencoder(run.model.plan, settings.seed).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in run.model.state_dict().items())
    assert not Path(run.folder / "encoder_start.safetensors").exists()
