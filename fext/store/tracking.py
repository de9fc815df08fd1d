"""TensorBoard event files of one run; a silent twin where use_tensorboard is off."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from fext.errors import FextError


class Tracker(Protocol):
    """What pretraining records as it goes."""

    def scalars(self, values: dict[str, float], step: int) -> None: ...

    def pictures(self, title: str, images: torch.Tensor, step: int) -> None: ...

    def graph(self, model: nn.Module, images: torch.Tensor) -> None: ...

    def close(self) -> None: ...


class SilentTracker:
    """Records nothing."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        pass

    def pictures(self, title: str, images: torch.Tensor, step: int) -> None:
        pass

    def graph(self, model: nn.Module, images: torch.Tensor) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    """Writes event files; a resumed run hides what was recorded after the epoch it goes on from.

    Raises FextError where they cannot be written.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with self._writing():
            self._writer = SummaryWriter(str(folder), purge_step=first_step if first_step > 1 else None)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Scalars named 'group/name'."""
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def pictures(self, title: str, images: torch.Tensor, step: int) -> None:
        """One sheet (C, H, W) in [0, 1]."""
        with self._writing():
            self._writer.add_image(title, images, step)
            self._writer.flush()

    def graph(self, model: nn.Module, images: torch.Tensor) -> None:
        """The computation graph, traced on a batch."""
        with warnings.catch_warnings(), self._writing():
            warnings.simplefilter("ignore")  # tracing warns of its own deprecation
            self._writer.add_graph(model, images)
            self._writer.flush()

    def close(self) -> None:
        with suppress(FextError), self._writing():  # everything was flushed before, or that it failed was told
            self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The writer works in a thread of its own, which would print what is raised here again."""
        hook = threading.excepthook
        threading.excepthook = lambda _: None
        try:
            yield
        except OSError as error:
            raise FextError(f"{self._folder} cannot be written: {error.strerror or error}") from error
        finally:
            threading.excepthook = hook
