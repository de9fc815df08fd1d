"""The passes over the data: one epoch of training, one epoch of testing, and the optimizer and schedule they use."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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


def learning_rate_at(settings: Settings, progress: float) -> float:
    """The learning rate when `progress` of all epochs is done, from 0 to 1: a function without a state to keep.

    The cosine is that of Loshchilov and Hutter, 'SGDR', 2017, without restarts.
    """
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.learning_rate * (_COSINE_FLOOR + (1 - _COSINE_FLOOR) * fall)


class _Totals:
    """Adds up per-image values on the device, in double precision, so that batches need not be waited for."""

    def __init__(self, loss_name: str) -> None:
        self._loss = LOSSES[loss_name]
        self._rows: list[torch.Tensor] = []

    def add(self, reconstructions: torch.Tensor, images: torch.Tensor) -> None:
        squared = mean_squared_error(reconstructions, images)
        values = torch.stack(
            [
                self._loss(reconstructions, images),
                squared,
                mean_absolute_error(reconstructions, images),
                peak_signal_to_noise(squared),
            ]
        )
        self._rows.append(torch.cat([values.sum(dim=1), values.new_tensor([len(images)])]))

    def scores(self) -> EpochScores:
        *sums, count = torch.stack(self._rows).cpu().double().sum(dim=0).tolist()
        loss, mse, mae, psnr = (value / count for value in sums)
        return EpochScores(loss, mse, mae, psnr, int(count))


def train_epoch(
    model: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    settings: Settings,
    computation: Computation,
    *,
    epoch: int,
    num_batches: int,
    on_batch: Callable[[int, float], None],
) -> EpochScores:
    """Train on every batch of epoch `epoch` (from 0) and return the mean scores seen on the way.

    `on_batch` hears the number of images and the loss of each batch. Raises TrainingError where the loss is not
    finite, before that batch changes the weights, or where an image can no longer be read.
    """
    loss_of = LOSSES[settings.loss]
    totals = _Totals(settings.loss)
    for number, batch in enumerate(batches):
        _refuse_rejected(batch)
        progress = (epoch + number / num_batches) / settings.epochs
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(settings, progress)
        images = computation.to_device(batch.images)
        with computation.autocast():
            reconstructions = model(images)
        reconstructions = reconstructions.float()
        loss = loss_of(reconstructions, images).mean()
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of epoch {epoch + 1} is {value}: training stops with the last good epoch kept; "
                f"a lower learning_rate, or use_mixed_precision = False, may help"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        totals.add(reconstructions.detach(), images)
        on_batch(len(images), value)
    return totals.scores()


@torch.inference_mode()
def test_epoch(
    model: nn.Module,
    batches: Iterable[Batch],
    settings: Settings,
    computation: Computation,
    on_batch: Callable[[int, float], None],
) -> EpochScores:
    """Mean scores of a model in evaluation mode; raises TrainingError where an image can no longer be read."""
    totals = _Totals(settings.loss)
    for batch in batches:
        _refuse_rejected(batch)
        images = computation.to_device(batch.images)
        with computation.autocast():
            reconstructions = model(images)
        totals.add(reconstructions.float(), images)
        on_batch(len(images), float("nan"))
    scores = totals.scores()
    if not math.isfinite(scores.loss):
        raise TrainingError(f"the test loss is {scores.loss}: training stops with the last good epoch kept")
    return scores


def _refuse_rejected(batch: Batch) -> None:
    if batch.rejected:
        position, reason = batch.rejected[0]
        raise RejectedInTrainingError(position, reason)


class RejectedInTrainingError(TrainingError):
    """An image of the split can no longer be read; the job knows its name."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"image {position} can no longer be read: {reason}")
        self.position = position
        self.reason = reason
