"""The processes that torchrun starts: who this one is, a few words between them, and sums of tensors.

An extraction needs words alone, at its start and its end, so that a slow process holds up nobody. Training together
adds up numbers at each step (sharing_tensors).
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, ReduceOp, Store
from torch.distributed.rendezvous import rendezvous

from fext.errors import ProcessGroupError

_SECONDS_BETWEEN_LOOKS = 0.2
_ATTEMPT = "TORCHELASTIC_RESTART_COUNT"  # how torchrun tells how often it has started the processes again
# How gloo and nccl say that another process is gone.
_GONE = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "remote process")


@dataclass(frozen=True)
class Processes:
    """This process among `count`, and where they leave words for each other; alone, there is no such place.

    `lasting` is where words outlive a restart of all processes by torchrun.
    """

    rank: int = 0
    count: int = 1
    store: Store | None = None
    lasting: Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks; the only one of a run is."""
        return self.rank == 0

    def tell(self, key: str, text: str) -> None:
        """Leave a word for the others."""
        if self.store is not None:
            with _lost_contact():
                self.store.set(key, text)

    def hear(self, key: str, waiting: Callable[[], None]) -> str:
        """Wait for a word, calling `waiting` a few times a second. Raises ProcessGroupError where contact is lost."""
        assert self.store is not None
        with _lost_contact():
            while not self.store.check([key]):
                waiting()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            return bytes(self.store.get(key)).decode()

    def add(self, key: str, count: int) -> int:
        """Add to a number that all share; returns what it is now."""
        if self.store is None:
            return count
        with _lost_contact():
            return int(self.store.add(key, count))

    def remember(self, key: str, text: str) -> None:
        """Leave a word for these processes as torchrun may start them again."""
        if self.lasting is not None:
            with _lost_contact():
                self.lasting.set(key, text)

    def recall(self, key: str) -> str | None:
        """What was left by processes that ended before torchrun started these; None where these are the first."""
        if self.lasting is None or os.environ.get(_ATTEMPT, "0") == "0":
            return None
        with _lost_contact():
            return bytes(self.lasting.get(key)).decode() if self.lasting.check([key]) else None

    @contextmanager
    def sharing_tensors(self, device: torch.device) -> Iterator[None]:
        """Make sums possible, over nccl between GPUs, else over gloo.

        Raises ProcessGroupError where a process that the others wait for has ended.
        """
        if self.count == 1:
            yield
            return
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            with _lost_contact():
                distributed.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.count)
            with keeping_contact():
                yield
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of what each process gives; the same bits in each."""
        return self._reduced(values, ReduceOp.SUM)

    def least(self, values: torch.Tensor) -> torch.Tensor:
        """The least of what the processes give, value by value."""
        return self._reduced(values, ReduceOp.MIN)

    def greatest(self, values: torch.Tensor) -> torch.Tensor:
        """The greatest of what the processes give, value by value."""
        return self._reduced(values, ReduceOp.MAX)

    def _reduced(self, values: torch.Tensor, operation: ReduceOp.RedOpType) -> torch.Tensor:
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values, operation)
        return values


def join_processes() -> Processes:
    """This process alone, or as one of those that torchrun started."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    with _lost_contact():
        store, rank, count = next(rendezvous("env://"))
        attempt = os.environ.get(_ATTEMPT, "0")
        lasting = store.underlying_store if isinstance(store, PrefixStore) else store
        return Processes(rank, count, PrefixStore(f"fext {attempt}", store), PrefixStore("fext", lasting))


_LOST = (
    "another process of this run has ended, or torchrun did not start this one: what was finished is kept; start the "
    "same extraction again, or resume the same training, to go on"
)


@contextmanager
def keeping_contact() -> Iterator[None]:
    """Raise ProcessGroupError where a sum fails because another process is gone."""
    try:
        yield
    except RuntimeError as error:
        is_gone = isinstance(error, distributed.DistNetworkError | distributed.DistStoreError)
        if not is_gone and not any(words in str(error).lower() for words in _GONE):
            raise
        raise ProcessGroupError(_LOST) from error


@contextmanager
def _lost_contact() -> Iterator[None]:
    try:
        yield
    except (distributed.DistError, ValueError) as error:
        raise ProcessGroupError(_LOST) from error
