"""Extraction: every image of a source becomes one row of features, or one line that says why not."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fext
from fext.compute.device import Computation, prepare_computation
from fext.compute.inference import encode, flatten_latent
from fext.data.dataset import Batch, ImageStream
from fext.data.source import ImageSource, find_images
from fext.errors import ExtractionError, SourceError
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.features import FeatureTable
from fext.store.index import file_state
from fext.store.workspace import Workspace

FORMAT_VERSION = 1
FLATTEN_ORDER = "row, column, channel"
NOT_FINITE = "its features are not finite"
_BYTES_PER_VALUE = 11.5  # what a float32 and its comma take in CSV, on average


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction came to; num_found = num_written + num_rejected."""

    name: str
    folder: Path
    num_found: int
    num_written: int
    num_rejected: int
    num_not_images: int
    num_features: int
    seconds: float
    images_per_second: float


def extract(
    workspace: Workspace, settings: Settings, folder: Path, images: Path | None, name: str | None, reporter: Reporter
) -> ExtractionResult:
    """Encode every image of a folder or list with a checkpoint and write the table of features.

    Without `images`, the source is inference/images where it holds images, else data/images. Raises CheckpointError,
    SourceError, DeviceError and ExtractionError (the name is taken, or the grid does not fit the latent).
    """
    checkpoint = load_checkpoint(folder)
    grid, num_features = _grid(settings, checkpoint)
    started = time.perf_counter()
    source = find_images(images) if images is not None else default_source(workspace)
    if not source.names:
        others = f" ({source.num_not_images} other files)" if source.num_not_images else ""
        raise SourceError(f"there are no images in {source.location}{others}: put pictures there, or name a source")
    target = workspace.new_extraction(name or workspace.free_extraction_name(checkpoint.name, source.location))
    computation = prepare_computation(settings)
    computation.place(checkpoint.model)
    reporter.message(
        f"extracting {len(source)} images x {num_features:,} features with {checkpoint.name}, "
        f"{computation.describe()}: about {_gigabytes(len(source), num_features)} of CSV"
    )
    with FeatureTable(target, num_features) as table, reporter.progress("extracting", len(source)) as progress:
        num_written = 0
        for batch in _stream(source, checkpoint, settings, computation).epoch():
            num_written += _write_batch(table, batch, source, checkpoint, settings, computation, grid, reporter)
            progress.advance(len(batch.positions) + len(batch.rejected))
        table.finish()
        seconds = time.perf_counter() - started
        table.certify(_manifest(checkpoint, source, settings, computation, num_features, num_written, seconds))
    return ExtractionResult(
        name=target.name,
        folder=target,
        num_found=len(source),
        num_written=num_written,
        num_rejected=len(source) - num_written,
        num_not_images=source.num_not_images,
        num_features=num_features,
        seconds=seconds,
        images_per_second=len(source) / seconds,
    )


def default_source(workspace: Workspace) -> ImageSource:
    """inference/images where it holds images, else data/images."""
    for folder in (workspace.inference_images, workspace.images):
        if folder.is_dir():
            source = find_images(folder)
            if source.names:
                return source
    raise SourceError(f"there are no images in {workspace.inference_images} nor in {workspace.images}: put some there")


def _grid(settings: Settings, checkpoint: Checkpoint) -> tuple[int | None, int]:
    """The grid to average to (None: the latent as it is) and how many features that makes."""
    rows, columns, channels = checkpoint.plan.latent_shape
    grid = settings.feature_grid
    if rows == columns == grid:
        return None, rows * columns * channels
    if rows % grid or columns % grid:
        raise ExtractionError(
            f"feature_grid = {grid} does not fit the {rows}x{columns} latent of {checkpoint.name}: choose a grid that "
            f"divides both"
        )
    return grid, grid * grid * channels


def _gigabytes(num_images: int, num_features: int) -> str:
    size = num_images * num_features * _BYTES_PER_VALUE
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _stream(source: ImageSource, checkpoint: Checkpoint, settings: Settings, computation: Computation) -> ImageStream:
    return ImageStream(
        [source.path(name) for name in source.names],
        checkpoint.preprocessing,
        batch_size=settings.inference_batch_size,
        num_processors=computation.num_processors,
        pin_memory=computation.device.type == "cuda",
    )


def _write_batch(
    table: FeatureTable,
    batch: Batch,
    source: ImageSource,
    checkpoint: Checkpoint,
    settings: Settings,
    computation: Computation,
    grid: int | None,
    reporter: Reporter,
) -> int:
    """Write the rows and rejections of a batch in the order of the source; returns how many rows."""
    num_written = 0
    for position, row, reason in _rows(batch, checkpoint, settings, computation, grid):
        name = source.names[position]
        size, modified = file_state(source.path(name))
        if row is not None:
            table.add(name, row, size, modified)
            num_written += 1
        else:
            table.reject(name, reason, size, modified)
            reporter.warning(f"rejected: {name} ({reason})")
    return num_written


def _rows(
    batch: Batch, checkpoint: Checkpoint, settings: Settings, computation: Computation, grid: int | None
) -> Iterator[tuple[int, Any, str]]:
    """(position, features or None, reason) of each image of a batch, in order of position."""
    found: list[tuple[int, Any, str]] = [(position, None, reason) for position, reason in batch.rejected]
    if len(batch.images):
        size = settings.inference_batch_size
        latent = encode(checkpoint.model.encoder, batch.images, computation, batch_size=size, grid=grid)
        for position, row in zip(batch.positions, flatten_latent(latent), strict=True):
            finite = bool(np.isfinite(row).all())
            found.append((position, row if finite else None, "" if finite else NOT_FINITE))
    yield from sorted(found, key=lambda item: item[0])


def _manifest(
    checkpoint: Checkpoint,
    source: ImageSource,
    settings: Settings,
    computation: Computation,
    num_features: int,
    num_written: int,
    seconds: float,
) -> dict[str, Any]:
    height, width, channels = checkpoint.preprocessing.shape
    return {
        "format_version": FORMAT_VERSION,
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "source": str(source.location.absolute()),
        "preprocessing": asdict(checkpoint.preprocessing),
        "feature_grid": settings.feature_grid,
        "flatten_order": FLATTEN_ORDER,
        "num_features": num_features,
        "counts": {
            "found": len(source),
            "written": num_written,
            "rejected": len(source) - num_written,
            "not_images": source.num_not_images,
        },
        "computed_by": {
            "device": computation.describe(),
            "precision": computation.precision,
            "engine": "torch",
            "batch_shape": [settings.inference_batch_size, channels, height, width],
            "fext": fext.__version__,
            "torch": torch.__version__,
        },
        "seconds": round(seconds, 3),
        "images_per_second": round(len(source) / seconds, 3),
        "settings": settings.model_dump(mode="json"),
    }
