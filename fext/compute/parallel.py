"""Training one model in several processes: gradients and batch statistics are those of the whole batch.

Each process computes its part of a batch. torch's DistributedDataParallel adds up the gradients while they are
computed (Li et al., 'PyTorch Distributed', 2020); batch normalization sees all parts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from fext.compute.processes import Processes, keeping_contact
from fext.data.dataset import Batch
from fext.errors import ProcessGroupError, ReaderDiedError, TrainingError
from fext.reporting import StopRequested


class UnreadableImageError(TrainingError):
    """An image of the split can no longer be used; the job, which knows its name, words the message."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


class Agreement:
    """What processes settle before each batch, so that none computes one that another cannot."""

    def __init__(self, processes: Processes, device: torch.device) -> None:
        self.processes = processes
        self._device = device
        self._stop_is_wanted = False

    def ask_to_stop(self) -> None:
        """Let all processes stop before the next batch."""
        self._stop_is_wanted = True

    def each(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, int]]:
        """The batches, each with how many images of it all processes together compute.

        Raises, in all processes before the same batch, StopRequested where one was asked to stop; UnreadableImageError
        in a process that has an image that can no longer be read, ReaderDiedError in one whose readers have died, and
        ProcessGroupError in the others. What was computed before then belongs together.
        """
        upcoming = iter(batches)
        while True:
            try:
                batch = next(upcoming, None)
            except ReaderDiedError:
                self._settle(0, fails=True)
                raise
            if batch is None:
                return
            num_computed, any_fails, any_stops = self._settle(len(batch.images), fails=bool(batch.rejected))
            if batch.rejected:
                raise UnreadableImageError(batch.rejected[0].position, batch.rejected[0].reason)
            if any_fails:
                raise ProcessGroupError("another process of this run cannot go on, and says why")
            if any_stops:
                raise StopRequested
            yield batch, num_computed

    def _settle(self, num_images: int, *, fails: bool) -> tuple[int, int, int]:
        if self.processes.count == 1:
            return num_images, fails, self._stop_is_wanted
        counts = torch.tensor([num_images, fails, self._stop_is_wanted], device=self._device)
        with keeping_contact():
            num_computed, num_failing, num_stopping = self.processes.sum(counts).tolist()
        return num_computed, num_failing, num_stopping


def in_sum(forward: Callable[..., Any], *, is_last: bool) -> AbstractContextManager[object]:
    """Gradients are added up over the processes with the last part of a batch, not with those before it."""
    module = getattr(forward, "_orig_mod", forward)  # of what torch.compile wraps
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not is_last else nullcontext()


def in_parallel(module: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """The module, adding up gradients with those of the other processes; its batch normalizations are exchanged.

    Alone, it is the module itself. Its weights must be the same in all processes, and it stays in training mode.
    """
    if processes.count == 1:
        return module
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(module, device_ids=[device], forward_sync_buffers=False)
    _exchange_batch_normalization(module, processes)
    return DistributedDataParallel(module, forward_sync_buffers=False)


def _exchange_batch_normalization(module: nn.Module, processes: Processes) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SharedBatchNorm2d(child, processes))
        else:
            _exchange_batch_normalization(child, processes)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over what all processes see, in place of one whose weights it takes over.

    torch's SyncBatchNorm is for GPUs; this is for any device. In evaluation mode both are the one they replace.
    """

    def __init__(self, replaced: nn.BatchNorm2d, processes: Processes) -> None:
        super().__init__(replaced.num_features, replaced.eps, replaced.momentum)
        self.load_state_dict(replaced.state_dict())
        self.weight, self.bias = replaced.weight, replaced.bias  # the very ones that the optimizer knows
        self.running_mean, self.running_var = replaced.running_mean, replaced.running_var
        self.num_batches_tracked = replaced.num_batches_tracked
        self.processes = Processes(processes.rank, processes.count)  # without a store: a model can be copied

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        count, mean, variance = self._statistics(images.detach())
        self._take_note(count, mean, variance)
        normalized: torch.Tensor = _Normalize.apply(
            images, self.weight, self.bias, mean, variance, self.eps, count, self.processes
        )
        return normalized

    def _statistics(self, images: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
        """How many values each channel has in all processes, their mean and their variance, float32.

        Added up in float64, in which the squares of means that are large leave the variance its digits.
        """
        here = images[:, 0].numel()
        variance, mean = (part.double() for part in torch.var_mean(images.float(), dim=(0, 2, 3), correction=0))
        sums = torch.stack([mean * here, (variance + mean**2) * here])
        sums = self.processes.sum(torch.cat([sums, sums.new_full((2, 1), here)], dim=1))
        count = round(sums[0, -1].item())
        mean, square = sums[:, :-1] / count
        return count, mean.float(), (square - mean**2).clamp_min(0).float()

    @torch.no_grad()
    def _take_note(self, count: int, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        self.num_batches_tracked.add_(1)


class _Normalize(Function):
    """Normalization by given statistics, with the gradient of batch normalization (Ioffe and Szegedy, 2015).

    Forward and most of backward are torch's for fixed statistics; what flows through mean and variance, which depend on
    every image of all processes, is taken from that gradient afterwards.
    """

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:
        images, weight, bias, mean, variance, eps, ctx.count, ctx.processes = given
        ctx.eps = eps
        ctx.save_for_backward(images, weight, mean, variance)
        return functional.batch_norm(images, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight, mean, variance = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], images, weight, mean, variance, mean, scale, False, ctx.eps, [True, True, True]
        )
        sums = ctx.processes.sum(torch.stack([of_weight, of_bias])) / ctx.count
        slope = weight * scale**2 * sums[0]
        offset = weight * scale * sums[1] - slope * mean
        # Two numbers that may all but cancel: in float32, whatever the precision of the images.
        through = images.float() * slope[:, None, None] + offset[:, None, None]
        return direct - through.to(images.dtype), of_weight, of_bias, None, None, None, None, None
