"""The processes that torchrun starts: who this one is, and a few words between them.

They share no tensors and wait for each other only at the start and at the end, so a slow one holds up nobody.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fext.errors import ProcessGroupError

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Processes:
    """This process among `count`, and where they leave words for each other; alone, there is no such place."""

    rank: int = 0
    count: int = 1
    store: Store | None = None

    @property
    def is_first(self) -> bool:
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


def join_processes() -> Processes:
    """This process alone, or as one of those that torchrun started."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    with _lost_contact():
        store, rank, count = next(rendezvous("env://"))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return Processes(rank, count, PrefixStore(f"fext {attempt}", store))


@contextmanager
def _lost_contact() -> Iterator[None]:
    try:
        yield
    except (distributed.DistError, ValueError) as error:
        raise ProcessGroupError(
            "another process of this run has ended, or torchrun did not start this one: what was finished is kept; "
            "start the same command again to go on"
        ) from error
