"""Batch normalization of several processes that train together, on any device."""

from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional

from fext.compute.processes import Processes
from fext.model.moments import merged_variance


def share_normalization(module: nn.Module, processes: Processes) -> None:
    """Exchange every batch normalization within a module for one over what all processes see."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, SharedBatchNorm2d(child, processes))
        else:
            share_normalization(child, processes)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over what all processes see, in place of one whose weights it takes over.

    torch's SyncBatchNorm is for GPUs; this is for any device. In evaluation mode both are the one they replace.
    """

    def __init__(self, replaced: nn.BatchNorm2d, processes: Processes) -> None:
        super().__init__(replaced.num_features, replaced.eps, replaced.momentum)
        self.weight, self.bias = replaced.weight, replaced.bias  # the very ones that the optimizer knows
        self.running_mean, self.running_var = replaced.running_mean, replaced.running_var
        self.num_batches_tracked = replaced.num_batches_tracked
        self.processes = Processes(processes.rank, processes.count)  # without a store: a model can be copied

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) normalized by channel; in training all processes have to call it at the same time."""
        if not self.training:
            return super().forward(images)
        count, mean, variance = self._statistics(images.detach())
        self._take_note(count, mean, variance)
        normalized: torch.Tensor = _Normalize.apply(
            images, self.weight, self.bias, mean, variance, self.eps, count, self.processes
        )
        return normalized

    def _statistics(self, images: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
        """How many values each channel has in all processes, their mean and their variance, float32."""
        variance, mean = (part.double() for part in torch.var_mean(images.float(), dim=(0, 2, 3), correction=0))
        own = torch.cat([mean, variance, mean.new_tensor([images[:, 0].numel()])])
        # Each process fills a row of its own: the sum is what all of them have, to the bit.
        parts = own.new_zeros(self.processes.count, len(own))
        parts[self.processes.rank] = own
        parts = self.processes.sum(parts)
        counts, size = parts[:, -1], len(mean)
        mean, variance = merged_variance(counts, parts[:, :size], parts[:, size:-1])
        return round(counts.sum().item()), mean.float(), variance.float()

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
