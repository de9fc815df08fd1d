"""Reconstruction: every image of a source as the model gives it back, as a picture."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fext.compute.device import Computation, keeping_freed_memory, prepare_computation
from fext.compute.inference import reconstruct as reconstruct_batch
from fext.compute.memory import LESS_TO_EVALUATE, lowering
from fext.data.dataset import Batch, ImageStream
from fext.data.source import ImageSource, find_images
from fext.errors import SourceError, UsageError
from fext.jobs.choosing import WHERE_TO_GET_IMAGES, refuse_vanished
from fext.jobs.streams import stream_for
from fext.pictures.plain import as_picture
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import Checkpoint, load_checkpoint


@dataclass(frozen=True)
class ReconstructionResult:
    """What came of it; num_found = num_written + num_rejected."""

    folder: Path
    num_found: int
    num_written: int
    num_rejected: int
    seconds: float


@lowering(LESS_TO_EVALUATE)
@keeping_freed_memory()
def reconstruct(
    settings: Settings, checkpoint_folder: Path, images: Path, output: Path, reporter: Reporter
) -> ReconstructionResult:
    """Write each image's reconstruction as PNG under its own name and '.png', and rejected.csv.

    The folder is new or empty. Raises CheckpointError, SourceError, DeviceError, UsageError, and FextError where the
    disk is full.
    """
    started = time.perf_counter()
    _refuse_filled(output)
    checkpoint = load_checkpoint(checkpoint_folder)
    source = find_images(images, reporter)
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    computation = prepare_computation(settings)
    computation.place(checkpoint.model)
    task = _Task(checkpoint, settings, computation, source, output)
    rejected: list[tuple[str, str]] = []
    with reporter.progress("reconstructing", len(source)) as progress:
        for batch in task.stream().epoch():
            refuse_vanished(source, source.names, batch)
            rejected += task.write(batch)
            progress.advance(batch.num_files)
    files.write_csv(output / "rejected.csv", ("image", "reason"), rejected)
    return ReconstructionResult(
        folder=output,
        num_found=len(source),
        num_written=len(source) - len(rejected),
        num_rejected=len(rejected),
        seconds=time.perf_counter() - started,
    )


def _refuse_filled(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"{output} is not an empty folder: nothing is overwritten; name another with --output")


@dataclass(frozen=True)
class _Task:
    """The parts of one reconstruction."""

    checkpoint: Checkpoint
    settings: Settings
    computation: Computation
    source: ImageSource
    output: Path

    def stream(self) -> ImageStream:
        return stream_for(
            self.checkpoint, self.source, self.source.names, self.settings.inference_batch_size, self.computation
        )

    def write(self, batch: Batch) -> list[tuple[str, str]]:
        """Write the reconstructions of a batch; gives what is rejected of it, with the reasons."""
        rejected: list[tuple[str, str]] = []
        for file, picture in zip(batch.files, self._reconstructions(batch), strict=True):
            name = self.source.names[file.position]
            path = self.output / _relative(f"{name}.png")
            if path.exists():
                rejected.append((name, "another image of the list was written to the same place"))
            else:
                files.write_picture(path, as_picture(picture.permute(1, 2, 0).numpy()))
        return rejected + [(self.source.names[file.position], file.reason) for file in batch.rejected]

    def _reconstructions(self, batch: Batch) -> Sequence[torch.Tensor]:
        if not batch.files:
            return ()
        size = self.settings.inference_batch_size
        return tuple(reconstruct_batch(self.checkpoint.model, batch.images, self.computation, batch_size=size))


def _relative(name: str) -> Path:
    """A name as a path that stays below a folder: a list may hold absolute ones, or go up."""
    return Path(*(part for part in Path(name).parts if part not in ("..", Path(name).anchor)))
