"""Telling how an image was turned: the images, the answers, and an encoder that learns from them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import history_without_times, same_tensors

from fext.compute.device import prepare_computation
from fext.compute.optimization import make_optimizer
from fext.compute.training import Totals, Trainer, train_epoch
from fext.data.dataset import Batch, FileRead
from fext.data.images import NO_FILE
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.training_state import trained
from fext.model.autoencoder import build_autoencoder
from fext.model.disturbed import Disturbances, DisturbedAutoencoder
from fext.model.heads import build_heads
from fext.model.plans import Plan, Stage
from fext.model.pretext import turned
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint, load_resume
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_images_are_turned_by_what_is_said() -> None:
    images = torch.rand(64, 3, 8, 8)
    result, turns = turned(images)
    assert set(turns.tolist()) == {0, 1, 2, 3}
    for image, made, turn in zip(images, result, turns.tolist(), strict=True):
        assert torch.equal(made, torch.rot90(image, turn, dims=(1, 2)))


def test_pictures_that_are_not_square_stay_upright_or_stand_on_their_head() -> None:
    images = torch.rand(16, 3, 8, 4)
    result, turns = turned(images)
    assert result.shape == images.shape
    for image, made, turn in zip(images, result, turns.tolist(), strict=True):
        assert torch.equal(made, image.flip(1, 2) if turn else image)
    assert set(turns.tolist()) == {0, 1}


def gradients(count: int) -> torch.Tensor:
    """Pictures that are dark above and bright below: how they are turned can be seen."""
    rows = torch.linspace(0, 1, 16)[:, None].expand(16, 16)
    return (rows + 0.05 * torch.rand(count, 3, 16, 16)).clamp(0, 1)


def test_an_encoder_learns_to_tell_the_turn(tiny: Tiny) -> None:
    plan = Plan("vgg16", (16, 16, 3), "plain", True, (Stage((8,)), Stage((16,))), 16)
    settings = tiny(rotation_weight=1.0, epochs=60, batch_size=16, learning_rate=0.01, picture_shape=(16, 16, 3))
    computation = prepare_computation(settings)
    model, heads = build_autoencoder(plan, 0), build_heads(plan, settings)
    optimizer = make_optimizer(trained(model, heads, computation), settings, computation)
    trainer = Trainer(DisturbedAutoencoder(model, Disturbances(), heads), model, optimizer, None, settings, computation)
    for epoch in range(settings.epochs):
        batch = Batch(gradients(16), [FileRead(number, NO_FILE) for number in range(16)], [])
        train_epoch(trainer, [batch], Totals(), epoch=epoch, num_images=16, on_batch=lambda step: None)
    images, turns = turned(gradients(32))
    with torch.inference_mode():
        assert heads.rotation is not None
        told = heads.rotation(model.eval().encoder(images)).argmax(dim=1)
    assert (told == turns).float().mean() > 0.9


@pytest.mark.usefixtures("small_model", "no_pictures")
def test_a_resumed_run_tells_turns_as_one_left_alone(workspace: Workspace, tiny: Tiny) -> None:
    def run(name: str, epochs: int) -> Path:
        settings = tiny(rotation_weight=0.1, epochs=epochs)
        return pretrain(workspace, settings, workspace.images, name, SilentReporter()).folder

    whole, halves = run("whole", 2), run("halves", 1)
    resume(tiny(), halves, 2, SilentReporter())
    assert history_without_times(whole) == history_without_times(halves)
    assert same_tensors(whole, halves)
    heads = [load_resume(folder)["rotation_head"] for folder in (whole, halves)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


@pytest.mark.usefixtures("small_model", "no_pictures")
def test_the_head_is_no_part_of_the_checkpoint(workspace: Workspace, tiny: Tiny) -> None:
    settings = tiny(rotation_weight=0.1)
    folder = pretrain(workspace, settings, workspace.images, "model", SilentReporter()).folder
    assert not any("rotation" in name for name in load_checkpoint(folder).model.state_dict())
