"""The passes over the data: one epoch of training and one of validation."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from fext.compute.device import Computation
from fext.compute.drawing import drawing_from, seed_of
from fext.compute.memory import lowering
from fext.compute.optimization import learning_rate_at
from fext.compute.parallel import Agreement, in_sum
from fext.compute.processes import Processes
from fext.compute.variation import view_changes, view_of
from fext.data.dataset import Batch
from fext.errors import TrainingError
from fext.model.autoencoder import Autoencoder
from fext.model.disturbed import Outcome
from fext.model.losses import make_loss
from fext.model.pretext import turned
from fext.model.scores import mean_absolute_error, mean_squared_error, peak_signal_to_noise
from fext.model.views import disagreement, weight_of_views
from fext.settings import Settings

_DISTURBANCE = 2  # the random stream of the seed that disturbances and dropout draw from

# Between these, latent values are counted: each bin a tenth wider than the one before, to both sides of 0.
_EDGES = [0.001 * 1.1**power for power in range(146)]
LATENT_EDGES = (*(-edge for edge in reversed(_EDGES)), 0.0, *_EDGES)
_NUM_COUNTED_VALUES = 65536  # of a batch, evenly spread: more would show nothing else


class Inputs(NamedTuple):
    """What a step is computed of: images (N, C, H, W), how they were turned (N,), and another view of each.

    There are no turns and no views where the settings do not ask for them.
    """

    images: torch.Tensor
    turns: torch.Tensor | None = None
    views: torch.Tensor | None = None

    def parts(self, count: int) -> Iterator["Inputs"]:
        """So many parts, as equal as can be, one after the other."""
        nothing = [None] * count
        turns, views = (nothing if part is None else part.tensor_split(count) for part in self[1:])
        return map(Inputs, self.images.tensor_split(count), turns, views)


class Computed(NamedTuple):
    """What a step computed of its batch: losses (N,), reconstructions, and what `batch_sums` gives for all processes.

    There is no norm of the gradient where float16 did not hold it.
    """

    losses: torch.Tensor
    reconstructions: torch.Tensor
    sums: list[float]
    norm: float | None


class Step(NamedTuple):
    """What one step of training came to: `loss` is the mean over its images.

    There is no norm of the gradient where float16 did not hold it.
    """

    num_images: int
    loss: float
    learning_rate: float
    gradient_norm: float | None


@dataclass(frozen=True)
class EpochScores:
    """Means over the images of one pass; psnr in dB."""

    loss: float
    mse: float
    mae: float
    psnr: float
    num_images: int


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
    gradient_norm: float = 0.0  # of each step, added up
    num_steps: int = 0  # batches that changed the weights
    waiting_seconds: float = 0.0  # for images
    latent_low: list[float] = field(default_factory=list)  # the least and the greatest value of each latent channel
    latent_high: list[float] = field(default_factory=list)
    num_latent_values: int = 0  # of each channel
    latent_counts: list[int] = field(default_factory=list)  # below, between and above LATENT_EDGES

    def add(self, num_images: int, sums: Sequence[float], num_computed: int) -> float:
        """Add a batch of so many images, with what batch_sums gives for all that were computed; gives its mean loss.

        More are computed than there are where each of several processes has the whole of a small batch.
        """
        loss, mse, mae, psnr = (value * (num_images / num_computed) for value in sums)
        self.num_batches, self.num_images = self.num_batches + 1, self.num_images + num_images
        self.loss, self.mse, self.mae, self.psnr = self.loss + loss, self.mse + mse, self.mae + mae, self.psnr + psnr
        return float(loss / num_images)

    def add_latent(self, low: list[float], high: list[float], num_values: int) -> None:
        """Take note of the range of each channel of a latent, and of how many values it has in each."""
        self.latent_low = [min(pair) for pair in zip(self.latent_low or low, low, strict=True)]
        self.latent_high = [max(pair) for pair in zip(self.latent_high or high, high, strict=True)]
        self.num_latent_values += num_values

    def add_latent_counts(self, counts: list[int]) -> None:
        """Add what count_values gives for a latent."""
        self.latent_counts = [sum(pair) for pair in zip(self.latent_counts or [0] * len(counts), counts, strict=True)]

    def scores(self) -> EpochScores:
        """The means over the images so far."""
        loss, mse, mae, psnr = (value / self.num_images for value in (self.loss, self.mse, self.mae, self.psnr))
        return EpochScores(loss, mse, mae, psnr, self.num_images)

    def dead_channels(self) -> float:
        """The share of latent channels that had one and the same value for every image and position; 0 of one alone."""
        if self.num_latent_values < 2:
            return 0.0
        ranges = zip(self.latent_low, self.latent_high, strict=True)
        return sum(low == high for low, high in ranges) / len(self.latent_low)


def batch_sums(losses: torch.Tensor, reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Loss, MSE, MAE and PSNR, each added up over the images; `losses` is the loss of each.

    Scores are those of the clipped reconstructions.
    """
    shown = reconstructions.clamp(0, 1)
    squared = mean_squared_error(shown, images)
    absolute = mean_absolute_error(shown, images)
    return torch.stack([losses, squared, absolute, peak_signal_to_noise(squared)]).sum(dim=1)


def channel_ranges(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The least and the greatest value of each channel of (N, C, H, W)."""
    return latent.float().amin(dim=(0, 2, 3)), latent.float().amax(dim=(0, 2, 3))


def some_values(values: torch.Tensor, limit: int) -> torch.Tensor:
    """Up to `limit` of the values, evenly spread; the step is odd, so that every row and channel has its share."""
    flat = values.flatten()
    return flat[:: -(-len(flat) // limit) | 1].contiguous()


def count_values(latent: torch.Tensor) -> torch.Tensor:
    """How many values of (N, C, H, W) lie below, between and above LATENT_EDGES; int64, one more than these are."""
    values = some_values(latent, _NUM_COUNTED_VALUES).float()
    edges = torch.tensor(LATENT_EDGES, device=values.device)
    return torch.bincount(torch.bucketize(values, edges), minlength=len(edges) + 1)


@dataclass(frozen=True)
class Trainer:
    """What a step of training works with.

    `forward` gives what the model makes of images and of other views, disturbed as the settings say. `scaler` keeps the
    gradient within the range of float16 (Micikevicius et al., 'Mixed precision training', 2018).
    """

    forward: Callable[[torch.Tensor, torch.Tensor | None], Outcome]
    model: Autoencoder
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    settings: Settings
    computation: Computation
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    agreement: Agreement = field(default_factory=lambda: Agreement(Processes(), torch.device("cpu")))
    statistics: Sequence[torch.Tensor] = ()  # what the forward pass of a step changes

    def set_learning_rate(self, progress: float) -> float:
        """Set, and give, what the schedule says when `progress` of all epochs is done, from 0 to 1."""
        learning_rate = learning_rate_at(self.settings, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def inputs(self, images: torch.Tensor) -> Inputs:
        """The images, with the rotations and other views that the settings ask for, drawn at random."""
        images, turns = turned(images) if self.settings.rotation_weight else (images, None)
        views = view_of(images, view_changes(self.settings)) if weight_of_views(self.settings) else None
        return Inputs(images, turns, views)

    def step(self, inputs: Inputs, batch_size: int | None = None) -> Computed:
        """Change the weights by one batch.

        The losses are those of the reconstructions, without what else a step lowers. Of several processes, each gives
        its part of a batch, of which they have batch_size images together. It is computed in gradient_accumulation
        parts; views are compared within each part of each process. Where float16 did not hold the gradient, the weights
        stay; the next one is scaled less. Raises TrainingError where the loss or the gradient is not finite,
        OutOfMemoryError where memory ends in computing them: all is then as it was before the step.
        """
        with self._undone_where_it_fails(), lowering(less_to_train(self.settings)):
            computed = self._compute(inputs, batch_size or len(inputs.images))
        if computed.norm is not None:
            self.scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.scaler.update()
        return computed

    @contextmanager
    def _undone_where_it_fails(self) -> Iterator[None]:
        """Put back the statistics of normalizations, which a forward pass moves on before all of a step is known."""
        before = [statistic.clone() for statistic in self.statistics]
        try:
            yield
        except Exception:
            for statistic, value in zip(self.statistics, before, strict=True):
                statistic.copy_(value)
            self.optimizer.zero_grad(set_to_none=True)
            raise

    def _compute(self, inputs: Inputs, batch_size: int) -> Computed:
        """The gradient of a batch, in place, and what is told of it: read in one go, for a GPU is waited for."""
        num_parts = min(self.settings.gradient_accumulation, batch_size // self.agreement.processes.count)
        self.optimizer.zero_grad(set_to_none=True)
        parts = []
        for number, part in enumerate(inputs.parts(num_parts), start=1):
            with in_sum(self.forward, is_last=number == num_parts):
                parts.append(self._backward(part, batch_size))
        lowered, losses, reconstructions = (list(values) for values in zip(*parts, strict=True))
        whole = torch.cat(losses), torch.cat(reconstructions)
        self.scaler.unscale_(self.optimizer)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        summed = self.agreement.processes.sum(torch.cat([torch.stack(lowered), batch_sums(*whole, inputs.images)]))
        *told, length = torch.cat([summed, norm[None]]).tolist()
        for loss in told[:num_parts]:
            _refuse_not_finite("loss", loss)
        if not math.isfinite(length) and self.scaler.get_scale() > 1:
            return Computed(*whole, told[num_parts:], None)
        _refuse_not_finite("gradient", length)
        if self.settings.gradient_clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self.settings.gradient_clip, norm)
        return Computed(*whole, told[num_parts:], length)

    def _backward(self, inputs: Inputs, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with self.computation.autocast():
            outcome = self.forward(inputs.images, inputs.views)
        reconstructions = outcome.reconstructions.float()
        losses = make_loss(self.settings.loss)(reconstructions, inputs.images)
        lowered = self._lowered(losses, outcome, inputs.turns).sum() / batch_size
        # Where there are several processes, what comes out is the mean of their gradients.
        self.scaler.scale(lowered * self.agreement.processes.count).backward()  # type: ignore[no-untyped-call]
        return lowered.detach(), losses.detach(), reconstructions.detach()

    def _lowered(self, losses: torch.Tensor, outcome: Outcome, turns: torch.Tensor | None) -> torch.Tensor:
        """What a step lowers: the losses, which alone are told, and what the settings put beside them."""
        if outcome.component_errors is not None:
            losses = losses + (outcome.component_errors - outcome.component_errors.detach())  # the gradient alone
        if self.settings.activity_l1:
            losses = losses + self.settings.activity_l1 * outcome.latent.float().abs().flatten(1).mean(dim=1)
        if turns is not None and outcome.turns is not None:
            wrong = functional.cross_entropy(outcome.turns.float(), turns, reduction="none")
            losses = losses + self.settings.rotation_weight * wrong
        if outcome.projections is not None:
            losses = losses + weight_of_views(self.settings) * disagreement(outcome.projections.float())
        return losses


def train_epoch(
    trainer: Trainer,
    batches: Iterable[Batch],
    totals: Totals,
    *,
    epoch: int,
    num_images: int,
    on_batch: Callable[[Step], None],
) -> None:
    """Train on the batches of epoch `epoch` (from 0) that `totals` does not hold yet, and add them to it.

    `num_images` are in the whole epoch, in all processes. `on_batch` hears what came of each batch, at a moment when
    weights, optimizer and totals belong together; so they do where UnreadableImageError or OutOfMemoryError is raised.
    Raises TrainingError where the loss or a gradient is not finite, before that changes the weights.
    """
    size = trainer.settings.batch_size
    num_batches = -(-num_images // size)
    for batch, num_computed in trainer.agreement.each(_noting_waits(batches, totals)):
        # Of the middle of the batch: a warm-up does not waste its first one. Those before it may have been larger.
        done = (totals.num_images / size + 0.5) / num_batches
        learning_rate = trainer.set_learning_rate((epoch + done) / trainer.settings.epochs)
        with _random_stream(trainer, epoch, totals.num_batches):
            with lowering(less_to_train(trainer.settings)):
                inputs = trainer.inputs(trainer.computation.to_device(batch.images))
            computed = trainer.step(inputs, num_computed)
        batch_size = min(size, num_images - totals.num_images)
        loss = totals.add(batch_size, computed.sums, num_computed)
        if computed.norm is not None:
            totals.gradient_norm, totals.num_steps = totals.gradient_norm + computed.norm, totals.num_steps + 1
        on_batch(Step(batch_size, loss, learning_rate, computed.norm))


def less_to_train(settings: Settings, *, evaluating: bool = False) -> str:
    """What takes less memory than training, or evaluating, with these settings, for a run that is resumed."""
    size, parts, tested = settings.batch_size, settings.gradient_accumulation, settings.inference_batch_size
    if evaluating:
        ways = [f"inference_batch_size = {tested // 2}"] * (tested > 1)
    else:
        ways = [f"gradient_accumulation = {min(2 * parts, size)}"] * (parts < size)
        ways += [f"batch_size = {size // 2}"] * (size > 1)
    ways = [f"{' or '.join(ways)} (--set, or in configurations.py)"] * bool(ways)
    ways += ["without cache_images"] * settings.cache_images + ["other programs closed"]
    return f"what was done is kept; resume with {', '.join(ways)}, or begin anew with a smaller picture_shape"


def _noting_waits(batches: Iterable[Batch], totals: Totals) -> Iterator[Batch]:
    began = time.perf_counter()
    for batch in batches:
        totals.waiting_seconds += time.perf_counter() - began
        yield batch
        began = time.perf_counter()


def _random_stream(trainer: Trainer, epoch: int, number: int) -> AbstractContextManager[None]:
    """A stream that depends on seed, epoch, batch and process alone."""
    rank = trainer.agreement.processes.rank
    seed = seed_of(trainer.settings.seed, _DISTURBANCE, epoch, number, *([rank] if rank else []))
    return drawing_from(seed, trainer.computation.device)


def _refuse_not_finite(what: str, number: float) -> None:
    if not math.isfinite(number):
        raise TrainingError(
            f"the {what} is {number}: training stops with the last good state kept; use_mixed_precision = False may "
            f"help when it is resumed, else a new run with a lower learning_rate or gradient_clip = 1.0"
        )


@torch.inference_mode()
def validation_epoch(
    trainer: Trainer,
    model: Autoencoder,
    batches: Iterable[Batch],
    totals: Totals,
    *,
    num_images: int,
    on_batch: Callable[[int, torch.Tensor, torch.Tensor], None],
) -> None:
    """Add to `totals` the batches it does not hold yet, reconstructed by a model in evaluation mode.

    `on_batch` hears the number of images of each batch, those that this process has, and their reconstructions, at a
    moment when all of the batch is in `totals`.
    Raises UnreadableImageError where an image can no longer be read, TrainingError where the loss is not finite.
    """
    for batch, num_computed in trainer.agreement.each(batches):
        with lowering(less_to_train(trainer.settings, evaluating=True)):
            images = trainer.computation.to_device(batch.images)
            latent, reconstructions, losses = _judged(model, images, trainer.settings, trainer.computation)
            sums, low, high, counts = _read(trainer.agreement.processes, losses, reconstructions, images, latent)
        batch_size = min(trainer.settings.inference_batch_size, num_images - totals.num_images)
        _refuse_not_finite("validation loss", totals.add(batch_size, sums, num_computed))
        totals.add_latent(low, high, batch_size * math.prod(latent.shape[2:]))
        # Where each process has the whole of a small batch, all of them have counted it.
        totals.add_latent_counts([int(count) * batch_size // num_computed for count in counts])
        on_batch(batch_size, images, reconstructions)


@torch.inference_mode()
def add_scores(
    totals: Totals, model: Autoencoder, images: torch.Tensor, settings: Settings, computation: Computation
) -> None:
    """Add to `totals` what a model in evaluation mode, alone, makes of a batch."""
    with lowering(less_to_train(settings, evaluating=True)):
        placed = computation.to_device(images)
        _, reconstructions, losses = _judged(model, placed, settings, computation)
        sums = batch_sums(losses, reconstructions, placed).tolist()
    totals.add(len(images), sums, len(images))


def _judged(
    model: Autoencoder, images: torch.Tensor, settings: Settings, computation: Computation
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The latent, the reconstructions and the losses of a batch."""
    with computation.autocast():
        latent = model.encoder(images)
        reconstructions = model.decoder(latent)
    reconstructions = reconstructions.float()
    return latent, reconstructions, make_loss(settings.loss)(reconstructions, images)


def _read(
    processes: Processes,
    losses: torch.Tensor,
    reconstructions: torch.Tensor,
    images: torch.Tensor,
    latent: torch.Tensor,
) -> tuple[list[float], ...]:
    """Of all processes, the sums of a batch, the range of each channel of its latent, and how its values spread.

    Read in one go, for a GPU is waited for; float32 holds numbers of values that are whole up to 2**24.
    """
    low, high = channel_ranges(latent)
    told = [
        processes.sum(batch_sums(losses, reconstructions, images)),
        processes.least(low),
        processes.greatest(high),
        processes.sum(count_values(latent)).float(),
    ]
    values = torch.cat(told).tolist()
    ends = list(itertools.accumulate(map(len, told)))
    return tuple(values[start:end] for start, end in zip([0, *ends], ends, strict=False))
