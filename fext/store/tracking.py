"""TensorBoard event files of one run.

Curves have one of two axes: the steps of a run, where a tag begins with STEPS, or its epochs. What a run that goes on
had recorded after the point it goes on from is left out, on both.
"""

import io
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from fext.errors import TrackingError

STEPS = "step/"
_HYPERPARAMETERS = "_hparams_/"  # how TensorBoard's tags for these begin
_EVENT_FILES = "events.out.tfevents.*"
_SECONDS_BETWEEN_WRITES = 10.0


class Histogram(NamedTuple):
    """How many values lie between `edges`, of which there is one more than counts."""

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


class _Point(NamedTuple):
    values: Mapping[str, float]
    step: int
    moment: float


class TensorBoardTracker:
    """Writes event files into a folder, for a run that has so many epochs and steps behind it.

    Raises TrackingError where they cannot be written.
    """

    def __init__(self, folder: Path, num_epochs: int, num_steps: int) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._waiting: list[_Point] = []
        self._written = time.monotonic()
        self.has_graph = False
        with self._writing():
            old = sorted(folder.glob(_EVENT_FILES))
            # A file that starts at step 0 takes the place of all before it, for a TensorBoard that has read them.
            self._writer = SummaryWriter(str(folder), purge_step=0)
            self._carry_over(old, num_epochs, num_steps)

    def step(self, values: Mapping[str, float], step: int) -> None:
        """Scalars of a step; they are written every few seconds, so that no step waits for the disk."""
        self._waiting.append(_Point({STEPS + name: value for name, value in values.items()}, step, time.time()))
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._writing():
            for point in self._waiting:
                for name, value in point.values.items():
                    self._writer.add_scalar(name, value, point.step, point.moment)
            self._waiting.clear()
        self._written = time.monotonic()

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Scalars of an epoch, named 'name' or 'group/name'."""
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch)

    def histograms(self, values: Mapping[str, Histogram], epoch: int) -> None:
        """Histograms of an epoch, named like scalars; one without values is left out."""
        with self._writing():
            for name, (counts, edges) in values.items():
                used = np.flatnonzero(counts)
                if len(used):
                    first, last = used[0], used[-1] + 1
                    self._add_histogram(name, counts[first:last], edges[first : last + 1], epoch)

    def _add_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], epoch: int) -> None:
        middles = (edges[1:] + edges[:-1]) / 2
        self._writer.add_histogram_raw(
            name,
            min=float(edges[0]),
            max=float(edges[-1]),
            num=int(counts.sum()),
            sum=float(counts @ middles),
            sum_squares=float(counts @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=epoch,
        )

    def picture(self, title: str, picture: Image.Image, epoch: int) -> None:
        """A picture of an epoch, as a JPEG of little loss: a PNG takes five times the space, and as much more time."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        stream = io.BytesIO()
        picture.save(stream, format="JPEG", quality=90, subsampling=0)
        image = Summary.Image(
            width=picture.width,
            height=picture.height,
            colorspace=len(picture.getbands()),
            encoded_image_string=stream.getvalue(),
        )
        with self._writing():
            self._file_writer.add_summary(Summary(value=[Summary.Value(tag=title, image=image)]), epoch)

    def graph(self, model: nn.Module, images: torch.Tensor) -> None:
        """The computation graph, traced on a batch."""
        with warnings.catch_warnings(), self._writing():
            warnings.simplefilter("ignore")  # tracing warns of its own deprecation
            self._writer.add_graph(model, images)

    def hyperparameters(self, name: str, values: Mapping[str, bool | int | float | str]) -> None:
        """What the run of that name is made with; TensorBoard puts the last value of each scalar beside it."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        with self._writing():
            self._file_writer.add_summary(hparams_pb(dict(values), trial_id=name))

    def finish(self) -> None:
        """Note that the run has come to its end."""
        from torch.utils.tensorboard.summary import hparams

        with self._writing():
            self._file_writer.add_summary(hparams({}, {})[2])  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what waits and close the file; that this fails was told before, or concerns the last points alone."""
        with suppress(TrackingError):
            self.flush()
        with suppress(OSError), _quiet_threads():
            self._writer.close()

    @property
    def _file_writer(self) -> Any:
        return self._writer.file_writer

    def _carry_over(self, old: Sequence[Path], num_epochs: int, num_steps: int) -> None:
        """Copy what holds from older files into the new one, and empty them.

        One of a process that was killed may end in the middle of an event. They are removed a sitting later: a
        TensorBoard that was reading one would wait for it for ever. Where one cannot be emptied, because a program
        has it open, the new one takes its place all the same.
        """
        selection = _Selection(num_epochs, num_steps)
        for event in (event for path in old for event in _events(path)):
            if selection.takes(event):
                self._file_writer.event_writer.add_event(event)
        self.has_graph = selection.has_graph
        self._writer.flush()
        for path in set(self._folder.glob(_EVENT_FILES)) - set(old):
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        for path in old:
            with suppress(OSError):
                if path.stat().st_size:
                    os.truncate(path, 0)
                else:
                    path.unlink()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Have it on its way to the disk when the block ends, or say that it is not."""
        try:
            with _quiet_threads():
                yield
                self._writer.flush()
        except OSError as error:
            raise TrackingError(f"{self._folder} cannot be written: {error.strerror or error}") from error


class _Selection:
    """What stays of a run's events: those of its epochs and steps, each once."""

    def __init__(self, num_epochs: int, num_steps: int) -> None:
        self._num_epochs, self._num_steps = num_epochs, num_steps
        self._last_steps: dict[str, int] = {}
        self._graphs: set[str] = set()

    @property
    def has_graph(self) -> bool:
        return bool(self._graphs)

    def takes(self, event: Any) -> bool:
        """Whether an event stays; of one with summaries, those that stay are left in it."""
        kind = event.WhichOneof("what")
        if kind in ("graph_def", "tagged_run_metadata"):  # the graph has two parts
            is_new = kind not in self._graphs
            self._graphs.add(kind)
            return is_new
        kept = [value for value in event.summary.value if self._takes_value(value.tag, event.step)]
        del event.summary.value[:]
        event.summary.value.extend(kept)
        return bool(kept)

    def _takes_value(self, tag: str, step: int) -> bool:
        limit = self._num_steps if tag.startswith(STEPS) else self._num_epochs
        if tag.startswith(_HYPERPARAMETERS) or not self._last_steps.get(tag, -1) < step <= limit:
            return False
        self._last_steps[tag] = step
        return True


def _events(path: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    yield from LegacyEventFileLoader(str(path)).Load()


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """The writer works in a thread of its own, which would print what is raised in it; it is raised here again."""
    hook = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        yield
    finally:
        threading.excepthook = hook
