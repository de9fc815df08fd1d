"""The passes over the data: one epoch of training, one epoch of testing, and the optimizer and schedule they use."""

import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import nn

from fext.compute.device import Computation
from fext.data.dataset import Batch
from fext.errors import TrainingError
from fext.model.scores import LOSSES, mean_absolute_error, mean_squared_error, peak_signal_to_noise
from fext.settings import Settings

_COSINE_FLOOR = 0.01  # the share of learning_rate that a cosine schedule ends at


@dataclass(frozen=True)
class EpochScores:
    """Means over the images of one pass; psnr in dB."""

    loss: float
    mse: float
    mae: float
    psnr: float
    num_images: int


def make_optimizer(model: nn.Module, settings: Settings, computation: Computation) -> torch.optim.Optimizer:
    """The optimizer of the settings over all weights of the model, updating them in one fused pass where it can."""
    kinds: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[settings.optimizer](
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=computation.device.type in ("cpu", "cuda"),
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, stored: dict[str, Any], *, begun: bool) -> None:
    """Load a stored state into an optimizer of the same settings, which has made steps where it has `begun`.

    Raises ValueError or KeyError where it does not fit: torch itself would take moments of any shape, and fail, or
    worse, in the middle of a step.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments, fresh = stored["state"], optimizer.state_dict()["param_groups"]
    groups = [{**group, "lr": new["lr"]} for group, new in zip(stored["param_groups"], fresh, strict=True)]
    if groups != fresh or sorted(moments) != (list(range(len(weights))) if begun else []):
        raise ValueError("the state of another optimizer")
    for number, weight in enumerate(weights if begun else []):
        shapes = {name: tensor.shape for name, tensor in moments[number].items()}
        if shapes != {"step": torch.Size([]), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}:
            raise ValueError("moments that do not fit the weights")
    optimizer.load_state_dict(stored)


def learning_rate_at(settings: Settings, progress: float) -> float:
    """The learning rate when `progress` of all epochs is done, from 0 to 1: a function without a state to keep.

    The cosine is that of Loshchilov and Hutter, 'SGDR', 2017, without restarts.
    """
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.learning_rate * (_COSINE_FLOOR + (1 - _COSINE_FLOOR) * fall)


@dataclass
class Totals:
    """How far a pass over the images has come: what was added up, batch by batch.

    Plain numbers, so that a pass can be stored in its middle and go on from there to the same end.
    """

    num_batches: int = 0
    num_images: int = 0
    loss: float = 0.0
    mse: float = 0.0
    mae: float = 0.0
    psnr: float = 0.0

    def add(self, losses: torch.Tensor, reconstructions: torch.Tensor, images: torch.Tensor) -> None:
        """Add a batch; `losses` is the loss of each of its images."""
        squared = mean_squared_error(reconstructions, images)
        absolute = mean_absolute_error(reconstructions, images)
        values = torch.stack([losses, squared, absolute, peak_signal_to_noise(squared)])
        loss, mse, mae, psnr = values.sum(dim=1).tolist()
        self.num_batches, self.num_images = self.num_batches + 1, self.num_images + len(images)
        self.loss, self.mse, self.mae, self.psnr = self.loss + loss, self.mse + mse, self.mae + mae, self.psnr + psnr

    def scores(self) -> EpochScores:
        """The means over the images so far."""
        _, count, *sums = astuple(self)
        loss, mse, mae, psnr = (value / count for value in sums)
        return EpochScores(loss, mse, mae, psnr, self.num_images)


def train_epoch(
    model: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    totals: Totals,
    settings: Settings,
    computation: Computation,
    *,
    epoch: int,
    num_batches: int,
    on_batch: Callable[[int, float], None],
) -> None:
    """Train on the batches of epoch `epoch` (from 0) that `totals` does not hold yet, and add them to it.

    `num_batches` is that of the whole epoch. `on_batch` hears the number of images and the mean loss of each batch,
    at a moment when weights, optimizer and totals belong together; so they do where UnreadableImageError is raised.
    Raises TrainingError where the loss or a gradient is not finite, before that changes the weights.
    """
    for batch in batches:
        _refuse_rejected(batch)
        progress = (epoch + totals.num_batches / num_batches) / settings.epochs
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(settings, progress)
        images = computation.to_device(batch.images)
        with computation.autocast():
            reconstructions = model(images)
        reconstructions = reconstructions.float()
        losses = LOSSES[settings.loss](reconstructions, images)
        loss = losses.mean()
        _refuse_not_finite("loss", loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _refuse_not_finite("gradient", _gradient_norm(optimizer))
        optimizer.step()
        totals.add(losses.detach(), reconstructions.detach(), images)
        on_batch(len(images), loss.item())


def _gradient_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    gradients = [weight.grad for group in optimizer.param_groups for weight in group["params"]]
    return torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])


def _refuse_not_finite(what: str, value: torch.Tensor) -> None:
    number = value.item()
    if not math.isfinite(number):
        raise TrainingError(
            f"the {what} is {number}: training stops with the last good state kept; a lower learning_rate, or "
            f"use_mixed_precision = False, may help"
        )


@torch.inference_mode()
def test_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    totals: Totals,
    settings: Settings,
    computation: Computation,
    on_batch: Callable[[int, float], None],
) -> None:
    """Add to `totals` the batches it does not hold yet, reconstructed by a model in evaluation mode.

    Raises UnreadableImageError where an image can no longer be read, TrainingError where the loss is not finite.
    """
    for batch in batches:
        _refuse_rejected(batch)
        images = computation.to_device(batch.images)
        with computation.autocast():
            reconstructions = model(images)
        reconstructions = reconstructions.float()
        losses = LOSSES[settings.loss](reconstructions, images)
        _refuse_not_finite("test loss", losses.mean())
        totals.add(losses, reconstructions, images)
        on_batch(len(images), float("nan"))


def _refuse_rejected(batch: Batch) -> None:
    if batch.rejected:
        raise UnreadableImageError(batch.rejected[0].position, batch.rejected[0].reason)


class UnreadableImageError(TrainingError):
    """An image of the split can no longer be used; the job, which knows its name, words the message."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason
