"""Views of an image: how they differ, that an encoder learns to know them again, and how that is measured and told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Acting, Said, history_without_times, read_history, same_tensors
from torch import nn

from fext.compute.device import prepare_computation
from fext.compute.feature_scores import feature_scores
from fext.compute.optimization import make_optimizer
from fext.compute.training import Inputs, Totals, Trainer, train_epoch
from fext.compute.variation import ViewChanges, view_of
from fext.data.dataset import Batch, FileRead
from fext.data.images import NO_FILE
from fext.jobs.feature_words import fall_of_features, in_words
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.starting import say_unused
from fext.jobs.training_state import trained
from fext.model.autoencoder import build_autoencoder
from fext.model.disturbed import Disturbances, DisturbedAutoencoder
from fext.model.heads import build_heads
from fext.model.plans import Plan, Stage, make_plan
from fext.model.views import disagreement, weight_of_views
from fext.reporting import SilentReporter, StopRequested
from fext.settings import Settings, settings_from_json
from fext.store.checkpoints import load_checkpoint, load_resume
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
ALL_CHANGES = ViewChanges(crop=0.3, mirrored=True, light=0.4)
PLAN = Plan("vgg16", (16, 16, 3), "plain", True, (Stage((8,)), Stage((16,))), 16)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_pictures_of_the_same_shape_that_differ(channels: int) -> None:
    images = torch.rand(8, channels, 20, 12).contiguous(memory_format=torch.channels_last)
    views = view_of(images, ALL_CHANGES)
    assert views.shape == images.shape
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert views.min() >= 0
    assert views.max() <= 1
    assert (views - images).abs().mean(dim=(1, 2, 3)).min() > 0.01


def test_what_views_are_to_keep_they_keep() -> None:
    images = torch.rand(16, 3, 12, 12)
    assert torch.equal(view_of(images, ViewChanges(crop=1, mirrored=False, light=0)), images)
    mirrored = view_of(images, ViewChanges(crop=1, mirrored=True, light=0))
    kinds = [torch.allclose(made, image, atol=1e-5) for made, image in zip(mirrored, images, strict=True)]
    assert 0 < sum(kinds) < 16
    for made, image, is_same in zip(mirrored, images, kinds, strict=True):
        assert is_same or torch.allclose(made, image.flip(2), atol=1e-5)
    one_colour = torch.full((4, 3, 12, 12), 0.5)
    torch.testing.assert_close(view_of(one_colour, ViewChanges(crop=0.3, mirrored=True, light=0)), one_colour)


@pytest.mark.parametrize("changes", [{"views_crop": 0.9}, {"views_mirrored": False}, {"views_light": 0.0}], ids=str)
def test_each_setting_of_views_changes_what_is_seen(tiny: Tiny, changes: dict[str, Any]) -> None:
    seen = []
    for settings in (tiny(views_weight=0.1), tiny(views_weight=0.1, **changes)):
        torch.manual_seed(0)
        seen.append(trainer_for(settings).inputs(torch.ones(8, 3, 16, 16).cumsum(3) / 16).views)
    assert seen[0] is not None
    assert seen[1] is not None
    assert not torch.allclose(seen[0], seen[1])


def test_views_agree_where_each_is_nearest_to_its_own() -> None:
    projections = torch.randn(8, 32)
    own, mistaken = (torch.cat([projections, other]) for other in (projections, projections.roll(1, 0)))
    assert disagreement(own) < 0.5 < 3 < disagreement(mistaken)


def test_one_image_alone_has_nothing_to_be_told_from() -> None:
    projections = torch.randn(2, 32, requires_grad=True)
    disagreement(projections).backward()
    assert projections.grad is not None
    assert torch.equal(projections.grad, torch.zeros(2, 32))


def stop() -> None:
    raise StopRequested


def trainer_for(settings: Settings) -> Trainer:
    computation = prepare_computation(settings)
    model, heads = build_autoencoder(PLAN, 0), build_heads(PLAN, settings)
    optimizer = make_optimizer(trained(model, heads, computation), settings, computation)
    return Trainer(DisturbedAutoencoder(model, Disturbances(), heads), model, optimizer, None, settings, computation)


def stripes(count: int) -> torch.Tensor:
    """Pictures of stripes of their own width, slope and colours."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    slopes, widths = 6 * torch.rand(count, 1, 1), 0.2 + torch.rand(count, 1, 1)
    waves = torch.sin(widths * (rows * slopes.cos() + columns * slopes.sin()))[:, None]
    return (0.5 + 0.4 * waves * torch.rand(count, 3, 1, 1)).clamp(0, 1)


def test_an_encoder_learns_to_know_images_again_by_another_view(tiny: Tiny) -> None:
    images, found = stripes(48), []
    for weight in (0.0, 0.3):
        changes: dict[str, Any] = {"views_weight": weight, "learning_rate": 0.003}
        settings = tiny(epochs=12, batch_size=16, picture_shape=(16, 16, 3), **changes)
        trainer = trainer_for(settings)
        for epoch in range(settings.epochs):
            batches = [
                Batch(part, [FileRead(number, NO_FILE) for number in range(16)], []) for part in images.split(16)
            ]
            train_epoch(trainer, batches, Totals(), epoch=epoch, num_images=48, on_batch=lambda step: None)
        encoder = trainer.model.eval().encoder
        found.append(feature_scores(encoder, [stripes(64)], settings, trainer.computation).recognized)
    plain, with_views = found
    assert with_views > plain + 0.1


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"gradient_accumulation": 3}], ids=str)
def test_parts_of_one_image_are_trained_on(tiny: Tiny, changes: dict[str, int]) -> None:
    trainer = trainer_for(tiny(picture_shape=(16, 16, 3), views_weight=1.0, **changes))
    computed = trainer.step(trainer.inputs(stripes(1)))
    assert computed.norm is not None
    assert trainer.step(Inputs(stripes(4), views=stripes(4))).losses.shape == (4,)


def test_without_views_gradients_are_those_of_the_autoencoder_to_the_bit() -> None:
    images = torch.rand(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    plan = make_plan("redux", (64, 64, 3), latent_channels=16)
    model = build_autoencoder(plan, 0).to(memory_format=torch.channels_last)
    gradients = []
    for forward in (model, lambda images: DisturbedAutoencoder(model, Disturbances())(images).reconstructions):
        model.zero_grad()
        (forward(images) - images).square().mean().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    assert all(map(torch.equal, *gradients))


class Nothing(nn.Module):
    """An encoder that has collapsed."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.new_ones(len(images), 4, 2, 2)


class MeanColour(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3), keepdim=True)


def test_images_are_known_again_where_their_features_leave_out_what_views_differ_in(tiny: Tiny) -> None:
    images = torch.rand(20, 3, 1, 1).expand(20, 3, 16, 16) * 0.9
    computation = prepare_computation(tiny())

    def scores(encoder: nn.Module, light: float) -> tuple[float, float]:
        return feature_scores(encoder, images.split(8), tiny(views_light=light), computation)

    recognized, rank = scores(MeanColour(), 0.0)
    assert recognized == 1
    assert 2 < rank <= 3
    assert scores(MeanColour(), 1.0)[0] < 0.8
    assert scores(Nothing(), 0.0) == (0, 0)


@pytest.mark.usefixtures("small_model", "no_pictures")
def test_a_run_stopped_within_an_epoch_sees_views_as_one_left_alone_and_records_what_features_are_worth(
    workspace: Workspace, tiny: Tiny
) -> None:
    settings = tiny(views_weight=0.5, epochs=2, gradient_accumulation=2, ema_decay=0.5)
    whole = pretrain(workspace, settings, workspace.images, "whole", SilentReporter()).folder
    halves = workspace.checkpoints / "halves"
    with pytest.raises(StopRequested):
        pretrain(workspace, settings, workspace.images, "halves", Acting(4, stop))
    assert load_resume(halves)["train"]["num_images"] == 4
    resume(tiny(), halves, None, SilentReporter())
    assert history_without_times(whole) == history_without_times(halves)
    assert same_tensors(whole, halves)
    states = [load_resume(folder) for folder in (whole, halves)]
    heads = [state["views_head"] for state in states]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert states[0]["features_at_start"] == states[1]["features_at_start"]
    summary = load_checkpoint(whole).summary
    assert summary["effective_rank_at_start"] == states[0]["features_at_start"]["effective_rank"]
    assert all(0 <= row["recognized"] <= 1 and row["effective_rank"] >= 0 for row in read_history(whole))
    assert not any("head" in name for name in load_checkpoint(whole).model.state_dict())


@pytest.mark.usefixtures("small_model", "no_pictures")
def test_without_weight_no_view_is_drawn(workspace: Workspace, tiny: Tiny) -> None:
    def run(name: str, **changes: Any) -> Path:
        settings = tiny(views_weight=0.0, latent_noise=0.1, **changes)
        return pretrain(workspace, settings, workspace.images, name, SilentReporter()).folder

    one, other = run("one"), run("other", views_crop=0.1, views_light=0.9)
    assert same_tensors(one, other)
    assert load_resume(one)["views_head"] is None


@pytest.mark.usefixtures("small_model", "no_pictures")
def test_a_run_that_knew_no_views_goes_on_without_them(workspace: Workspace, tiny: Tiny) -> None:
    folder = pretrain(workspace, tiny(views_weight=0.0), workspace.images, "old", SilentReporter()).folder
    stored = torch.load(folder / "resume.pt", weights_only=True)
    for name in ("views_head", "features_at_start"):
        del stored[name]
    for name in ("recognized", "effective_rank"):
        del stored["history"][0][name]
    torch.save(stored, folder / "resume.pt")
    settings = json.loads((folder / "configurations.json").read_text())
    del settings["views_weight"]
    (folder / "configurations.json").write_text(json.dumps(settings))
    result = resume(tiny(), folder, 2, SilentReporter())
    assert result is not None
    assert load_resume(folder)["views_head"] is None
    assert [row["effective_rank"] >= 0 for row in read_history(folder)] == [False, True]


def test_views_have_a_weight_where_there_is_something_to_train(tiny: Tiny) -> None:
    assert weight_of_views(tiny(views_weight="auto", linear_shortcut=False)) > 0
    assert weight_of_views(tiny(views_weight="auto", linear_shortcut=True)) == 0
    assert weight_of_views(tiny(architecture="cifar", linear_shortcut=True, views_weight=0.5)) == 0.5
    assert weight_of_views(settings_from_json("{}", "a run of earlier FeXT")) == 0


def test_a_weight_that_can_do_nothing_is_named(tiny: Tiny) -> None:
    def said(**changes: Any) -> list[str]:
        reporter = Said()
        say_unused(tiny(**changes), reporter)
        return [text for text in reporter.lines if "views_weight" in text]

    assert said(linear_shortcut=True, views_weight=0.5)
    assert said(views_weight=0.5, batch_size=4, gradient_accumulation=4)
    assert not said(linear_shortcut=True)
    assert not said(views_weight=0.5, batch_size=4, gradient_accumulation=2)


def test_features_that_fell_by_more_than_chance_are_told(tiny: Tiny) -> None:
    low, high = ({"recognized": share, "effective_rank": 8.0} for share in (0.3, 0.6))
    (line,) = fall_of_features(high, low, 100, tiny())
    assert "30% of the images that the epoch is chosen by are known again from another view, 60% before" in line
    assert "views_weight" in line
    assert "views_weight" not in fall_of_features(high, low, 100, tiny(linear_shortcut=True))[0]
    for before, after, count in ((low, high, 100), (high, low, 4), ({}, low, 100), (high, {}, 100)):
        assert not fall_of_features(before, after, count, tiny())
    words = in_words(high, low, "100 validation images")
    assert words.startswith("of 100 validation images 30% (before training 60%) are known again")
