"""Training one model in several processes: gradients and batch statistics are those of the whole batch.

Each process computes its part of a batch. torch's DistributedDataParallel adds up the gradients while they are
computed (Li et al., 'PyTorch Distributed', 2020); batch normalization sees all parts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fext.compute.openvino_package import silence_openvino
from fext.compute.processes import Processes, keeping_contact
from fext.data.dataset import Batch
from fext.errors import ProcessGroupError, ReaderDiedError, UnreadableImageError
from fext.reporting import StopRequested


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


def compiled(module: nn.Module, backend: str | Callable[..., Any]) -> Any:
    """The module compiled by torch, whole, or in the pieces that lie between normalizations shared by processes."""
    silence_openvino()  # it may be the backend
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, len(list(module.modules())))
    return torch.compile(module, backend=backend)


def in_parallel(module: nn.Module, processes: Processes, device: torch.device) -> nn.Module:
    """The module, adding up gradients with those of the other processes; its batch normalizations are exchanged.

    Alone, it is the module itself. Its weights must be the same in all processes, and it stays in training mode.
    """
    if processes.count == 1:
        return module
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(module, device_ids=[device], forward_sync_buffers=False)
    # Loaded here alone: it brings in torch's compiler, which takes seconds.
    from fext.compute.shared_normalization import share_normalization

    share_normalization(module, processes)
    return DistributedDataParallel(module, forward_sync_buffers=False)
