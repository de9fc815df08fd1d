"""Optimizers, schedules, clipping, accumulation and averages: each does what its source says."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from fext.compute.device import Precision, prepare_computation
from fext.compute.optimization import learning_rate_at, make_average, make_optimizer, restore_optimizer
from fext.compute.training import Inputs, Totals, Trainer, channel_ranges, train_epoch
from fext.data.dataset import Batch, FileRead
from fext.data.images import NO_FILE
from fext.errors import TrainingError
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.disturbed import Disturbances, DisturbedAutoencoder
from fext.model.plans import Plan, Stage
from fext.settings import Settings

Tiny = Callable[..., Settings]
OPTIMIZERS = ["adamw", "adam", "sgd", "adadelta"]
SCHEDULES = ["constant", "linear", "cosine", "one_cycle"]
NUM_STEPS = 40


def small_autoencoder(normalization: bool = False) -> Autoencoder:
    return build_autoencoder(Plan("vgg16", (32, 32, 3), "plain", normalization, (Stage((4,)), Stage((8,))), 8), seed=0)


def trainer_of(settings: Settings, model: Autoencoder, precision: Precision = "float32") -> Trainer:
    computation = replace(prepare_computation(settings), precision=precision)
    computation.place(model)
    average = make_average(model, settings.ema_decay) if settings.ema_decay else None
    optimizer = make_optimizer(model, settings, computation)
    forward = DisturbedAutoencoder(model, Disturbances()).train()
    return Trainer(forward, model, optimizer, average, settings, computation, computation.make_scaler())


def weights_of(trainer: Trainer) -> torch.Tensor:
    """All weights of the model in one row."""
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def images(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- schedules


def rates(settings: Settings) -> list[float]:
    return [learning_rate_at(settings, step / NUM_STEPS) for step in range(NUM_STEPS + 1)]


def rates_of(scheduler: type[torch.optim.lr_scheduler.LRScheduler], **options: Any) -> list[float]:
    """What a schedule of torch gives over NUM_STEPS steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    schedule = scheduler(optimizer, **options)
    found = [schedule.get_last_lr()[0]]
    for _ in range(NUM_STEPS):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


def test_cosine_is_that_of_torch(tiny: Tiny) -> None:
    expected = rates_of(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=NUM_STEPS, eta_min=0.0001)
    assert rates(tiny(learning_rate=0.01, lr_schedule="cosine")) == pytest.approx(expected)


@pytest.mark.parametrize(("warmup_epochs", "rise"), [(0.0, 0.3), (2.0, 0.2)])
def test_one_cycle_is_that_of_torch(tiny: Tiny, warmup_epochs: float, rise: float) -> None:
    expected = rates_of(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=0.01,
        total_steps=NUM_STEPS + 1,  # torch counts the points of the curve, FeXT the steps between them
        pct_start=(rise * NUM_STEPS + 1) / (NUM_STEPS + 1),
        cycle_momentum=False,
    )
    settings = tiny(learning_rate=0.01, lr_schedule="one_cycle", epochs=10, warmup_epochs=warmup_epochs)
    assert rates(settings) == pytest.approx(expected)


def test_linear_keeps_the_rate_for_half_of_the_run_and_falls_along_a_line(tiny: Tiny) -> None:
    found = rates(tiny(learning_rate=0.01, lr_schedule="linear"))
    assert found[: NUM_STEPS // 2 + 1] == [0.01] * (NUM_STEPS // 2 + 1)
    falls = [before - after for before, after in pairwise(found[NUM_STEPS // 2 :])]
    assert falls == pytest.approx([falls[0]] * len(falls))
    assert found[-1] == pytest.approx(0.0001)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_over_the_epochs_of_the_warm_up_and_then_follows_its_schedule(tiny: Tiny, schedule: str) -> None:
    settings = tiny(learning_rate=0.01, lr_schedule=schedule, epochs=10, warmup_epochs=2.5)
    found = rates(settings)
    assert found[:11] == pytest.approx([0.001 * step for step in range(11)])
    without = tiny(learning_rate=0.01, lr_schedule=schedule, epochs=10)
    assert found[10:] == pytest.approx([learning_rate_at(without, step / 30) for step in range(31)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_of_the_whole_run_or_more_only_rises(tiny: Tiny, schedule: str) -> None:
    found = rates(tiny(learning_rate=0.01, lr_schedule=schedule, epochs=2, warmup_epochs=5.0))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.01)


# ---------------------------------------------------------------- optimizers


def expected_after_two_steps(name: str, gradients: tuple[float, float]) -> float:
    """A weight of 1, worked out by hand with learning rate 0.1 and weight decay 0.01."""
    weight, rate, decay = 1.0, 0.1, 0.01
    first = second = 0.0
    for step, raw in enumerate(gradients, start=1):
        gradient = raw if name == "adamw" else raw + decay * weight
        if name == "sgd":
            first = gradient if step == 1 else 0.9 * first + gradient
            weight -= rate * first
        elif name == "adadelta":
            first = 0.9 * first + 0.1 * gradient**2
            change = math.sqrt(second + 1e-6) / math.sqrt(first + 1e-6) * gradient
            second = 0.9 * second + 0.1 * change**2
            weight -= rate * change
        else:
            weight -= rate * decay * weight if name == "adamw" else 0.0
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            weight -= rate * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weight


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_as_its_source_says(tiny: Tiny, name: str) -> None:
    settings = tiny(optimizer=name, learning_rate=0.1, weight_decay=0.01)
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    optimizer = make_optimizer(layer, settings, prepare_computation(settings))
    gradients = (0.5, -0.2)
    for gradient in gradients:
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    assert layer.weight.item() == pytest.approx(expected_after_two_steps(name, gradients), rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stored_state_goes_on_exactly_and_that_of_another_optimizer_is_refused(tiny: Tiny, name: str) -> None:
    settings = tiny(optimizer=name, learning_rate=0.01)
    first = trainer_of(settings, small_autoencoder())
    first.step(Inputs(images()))
    other = trainer_of(settings, small_autoencoder())
    other.model.load_state_dict(first.model.state_dict())
    stored = copy.deepcopy(first.optimizer.state_dict())  # as a file has it
    restore_optimizer(other.optimizer, settings, stored, begun=True)
    for trainer in (first, other):
        trainer.step(Inputs(images(seed=1)))
    assert torch.equal(weights_of(first), weights_of(other))
    different = {"adam": "sgd", "adamw": "sgd", "sgd": "adam", "adadelta": "adam"}[name]
    changed = tiny(optimizer=different, learning_rate=0.01)
    with pytest.raises((ValueError, KeyError)):
        restore_optimizer(
            trainer_of(changed, small_autoencoder()).optimizer, changed, first.optimizer.state_dict(), begun=True
        )


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_state_of_a_device_that_fuses_no_steps_is_gone_on_with_here(tiny: Tiny, name: str) -> None:
    settings = tiny(optimizer=name, learning_rate=0.01)
    elsewhere, here = (trainer_of(settings, small_autoencoder()) for _ in range(2))
    elsewhere.optimizer.param_groups[0]["fused"] = False  # as on an Apple GPU
    elsewhere.step(Inputs(images()))
    here.model.load_state_dict(elsewhere.model.state_dict())
    restore_optimizer(here.optimizer, settings, copy.deepcopy(elsewhere.optimizer.state_dict()), begun=True)
    assert here.optimizer.param_groups[0]["fused"] is True
    for trainer in (elsewhere, here):
        trainer.step(Inputs(images(seed=1)))
    assert torch.allclose(weights_of(elsewhere), weights_of(here), atol=1e-6)


def test_weights_that_are_not_trained_are_left_to_nobody(tiny: Tiny) -> None:
    model = small_autoencoder()
    model.encoder.requires_grad_(False)
    settings = tiny()
    optimizer = make_optimizer(model, settings, prepare_computation(settings))
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.decoder.parameters()))


# ---------------------------------------------------------------- a step


def test_a_batch_computed_in_parts_gives_the_gradient_of_the_whole(tiny: Tiny) -> None:
    whole, parts = (
        trainer_of(tiny(gradient_accumulation=count, optimizer="sgd"), small_autoencoder()) for count in (1, 3)
    )
    results = [trainer.step(Inputs(images(7))) for trainer in (whole, parts)]
    for left, right in zip(*results, strict=True):
        assert torch.allclose(torch.as_tensor(left), torch.as_tensor(right), rtol=1e-4, atol=1e-6)
    for left, right in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6)


def test_more_parts_than_images_are_one_for_each_image(tiny: Tiny) -> None:
    losses, reconstructions, *_ = trainer_of(tiny(gradient_accumulation=8), small_autoencoder()).step(Inputs(images(3)))
    assert losses.shape == (3,)
    assert reconstructions.shape == (3, 3, 32, 32)


def test_a_long_gradient_is_shortened_and_a_short_one_left(tiny: Tiny) -> None:
    changes = []
    for clip in (0.0, 1e-3, 1e3):
        trainer = trainer_of(
            tiny(optimizer="sgd", gradient_clip=clip, learning_rate=1.0, weight_decay=0), small_autoencoder()
        )
        before = weights_of(trainer).clone()
        norm = trainer.step(Inputs(images())).norm
        change = weights_of(trainer) - before
        changes.append(change.norm().item())
        assert norm > 1e-3  # told as it was before
    assert changes[0] == pytest.approx(changes[2])
    assert changes[1] == pytest.approx(1e-3, rel=1e-3)


def test_float16_gives_about_the_gradient_of_float32(tiny: Tiny) -> None:
    full, half = (trainer_of(tiny(), small_autoencoder(), precision) for precision in ("float32", "float16"))
    assert half.step(Inputs(images())).norm == pytest.approx(full.step(Inputs(images())).norm, rel=0.01)


def test_a_gradient_too_large_for_float16_changes_no_weights_and_the_next_is_scaled_less(tiny: Tiny) -> None:
    trainer = trainer_of(tiny(ema_decay=0.5, gradient_clip=1.0), small_autoencoder(), "float16")
    before = weights_of(trainer).clone()
    assert trainer.average is not None
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 2.0**40})
    assert trainer.step(Inputs(images())).norm is None
    assert torch.equal(weights_of(trainer), before)
    assert int(trainer.average.n_averaged) == 0
    assert trainer.scaler.get_scale() == 2.0**39


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_whose_first_step_was_left_out_is_restored_and_goes_on(tiny: Tiny, optimizer: str) -> None:
    trainer = trainer_of(tiny(optimizer=optimizer), small_autoencoder(), "float16")
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 2.0**40})
    assert trainer.step(Inputs(images())).norm is None
    restored = trainer_of(tiny(optimizer=optimizer), small_autoencoder(), "float16")
    restore_optimizer(restored.optimizer, restored.settings, trainer.optimizer.state_dict(), begun=False)
    for one in (trainer, restored):
        one.scaler.load_state_dict(one.scaler.state_dict() | {"scale": 1024.0})
        assert one.step(Inputs(images())).norm is not None
    assert torch.equal(weights_of(restored), weights_of(trainer))
    assert weights_of(restored).isfinite().all()


def test_a_gradient_that_no_scale_makes_finite_stops_training(tiny: Tiny) -> None:
    trainer = trainer_of(tiny(), small_autoencoder(), "float16")
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 1.0})
    for weight in trainer.model.parameters():
        weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="the gradient is"):
        trainer.step(Inputs(images()))


def gradient_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None])


def test_activity_l1_lowers_the_mean_absolute_latent_value_too_and_the_loss_told_is_that_of_the_pictures(
    tiny: Tiny,
) -> None:
    plain, weighted = (
        trainer_of(tiny(activity_l1=weight, optimizer="sgd"), small_autoencoder()) for weight in (0.0, 0.5)
    )
    reference = small_autoencoder()
    reference.encoder(images()).abs().mean().backward()
    penalty = torch.cat([weight.grad.flatten() for weight in reference.encoder.parameters() if weight.grad is not None])
    told = [trainer.step(Inputs(images())).losses for trainer in (plain, weighted)]
    assert torch.equal(*told)  # beside the loss of test images, which knows no penalty
    difference = gradient_of(weighted) - gradient_of(plain)
    assert torch.allclose(difference[: len(penalty)], 0.5 * penalty, atol=1e-6)
    assert difference[len(penalty) :].abs().max() < 1e-6


def test_an_average_holds_on_to_itself_at_first_less_and_then_as_asked() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = make_average(layer, decay=0.5)
    expected = None
    for number in range(12):
        with torch.no_grad():
            layer.weight.fill_(float(number))
        average.update_parameters(layer)
        kept = min(0.5, (1 + number) / (10 + number))
        expected = float(number) if expected is None else kept * expected + (1 - kept) * number
        assert average.module.weight.item() == pytest.approx(expected)


def test_an_average_has_statistics_too(tiny: Tiny) -> None:
    trainer = trainer_of(tiny(ema_decay=0.9), small_autoencoder(normalization=True))
    for seed in range(3):
        trainer.step(Inputs(images(seed=seed)))
    assert trainer.average is not None
    for (name, averaged), own in zip(
        trainer.average.module.state_dict().items(), trainer.model.state_dict().values(), strict=True
    ):
        assert averaged.isfinite().all()
        assert torch.equal(averaged, own) == name.endswith("num_batches_tracked")


# ---------------------------------------------------------------- an epoch


def test_what_an_epoch_draws_depends_on_seed_epoch_and_batch_alone(tiny: Tiny) -> None:
    batches = [Batch(images(4, seed), [FileRead(number, NO_FILE) for number in range(4)], []) for seed in range(3)]

    def weights_after(*, seed: int = 0, first_batch: int = 0, state: int = 0) -> torch.Tensor:
        settings = tiny(seed=seed)
        trainer = trainer_of(settings, small_autoencoder())
        assert isinstance(trainer.forward, DisturbedAutoencoder)
        trainer.forward.disturbances = Disturbances(input_noise=0.3)
        totals = Totals(num_batches=first_batch)
        torch.manual_seed(state)
        train_epoch(trainer, batches, totals, epoch=0, num_images=36, on_batch=lambda *_: None)
        return weights_of(trainer)

    assert torch.equal(weights_after(), weights_after(state=5))
    assert not torch.equal(weights_after(), weights_after(seed=1))
    assert not torch.equal(weights_after(), weights_after(first_batch=3))


def test_training_leaves_the_random_state_of_torch_as_it_was(tiny: Tiny) -> None:
    trainer = trainer_of(tiny(), small_autoencoder())
    before = torch.get_rng_state()
    batch = Batch(images(), [FileRead(number, NO_FILE) for number in range(4)], [])
    train_epoch(trainer, [batch], Totals(), epoch=0, num_images=4, on_batch=lambda *_: None)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_channel_that_never_changes_is_dead() -> None:
    totals = Totals()
    latent = torch.rand(2, 4, 3, 3)
    latent[:, 1] = 0
    latent[:, 2] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)  # the same everywhere in an image, but not in both
    for _ in range(2):
        low, high = channel_ranges(latent)
        totals.add_latent(low.tolist(), high.tolist(), num_values=18)
    assert totals.dead_channels() == 0.25
