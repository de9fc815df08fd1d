"""Extraction: every image of a source becomes one row of features, or one line that says why not."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fext
from fext.compute.device import Computation, prepare_computation
from fext.compute.inference import encode, flatten_latent
from fext.data.dataset import Batch, FileRead, ImageStream
from fext.data.source import ImageSource, find_images
from fext.errors import ExtractionError, SourceError
from fext.jobs.choosing import WHERE_TO_GET_IMAGES, refuse_vanished
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.features import FeatureTable
from fext.store.workspace import Workspace

FORMAT_VERSION = 1
FLATTEN_ORDER = "row, column, channel"
NOT_FINITE = "its features are not finite"
_ENOUGH_TO_JUDGE = 32  # images after which a model that gives mostly features that are not finite is given up
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


@dataclass(frozen=True)
class _Extraction:
    """The parts of one extraction; grid None is the latent as it is."""

    checkpoint: Checkpoint
    source: ImageSource
    settings: Settings
    computation: Computation
    grid: int | None
    num_features: int
    reporter: Reporter


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
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    target = workspace.new_extraction(name or workspace.free_extraction_name(checkpoint.name, source.location))
    computation = prepare_computation(settings)
    computation.place(checkpoint.model)
    extraction = _Extraction(checkpoint, source, settings, computation, grid, num_features, reporter)
    reporter.message(
        f"extracting {len(source)} images x {num_features:,} features with {checkpoint.name}, "
        f"{computation.describe()}: about {_gigabytes(len(source), num_features)} of CSV"
    )
    with FeatureTable(target, num_features) as table:
        table.begin()
        num_written = _write_rows(extraction, table)
        table.finish()
        seconds = time.perf_counter() - started
        table.certify(_manifest(extraction, num_written, seconds))
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
    raise SourceError(
        f"there are no images in {workspace.inference_images} nor in {workspace.images}: {WHERE_TO_GET_IMAGES}"
    )


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


def _write_rows(extraction: _Extraction, table: FeatureTable) -> int:
    """Encode and write every image in the order of the source; returns how many rows."""
    source, num_written, num_not_finite = extraction.source, 0, 0
    with extraction.reporter.progress("extracting", len(source)) as progress:
        for batch in _stream(extraction).epoch():
            refuse_vanished(source, source.names, batch)
            for file, features in _encoded(extraction, batch):
                name = source.names[file.position]
                if features is None:
                    num_not_finite += not file.reason
                    table.reject(name, file.reason or NOT_FINITE, file.state)
                    extraction.reporter.warning(f"rejected: {name} ({file.reason or NOT_FINITE})")
                else:
                    num_written += 1
                    table.add(name, features, file.state)
            if num_written + num_not_finite >= min(_ENOUGH_TO_JUDGE, len(source)):
                _refuse_mostly_not_finite(extraction, num_written, num_not_finite)
            progress.advance(batch.num_files)
    return num_written


def _refuse_mostly_not_finite(extraction: _Extraction, num_written: int, num_not_finite: int) -> None:
    if num_not_finite > num_written:
        raise ExtractionError(
            f"the features of {num_not_finite} of {num_written + num_not_finite} images are not finite: the model "
            f"{extraction.checkpoint.name} is of no use; train it with a lower learning_rate, or try "
            f"use_mixed_precision = False"
        )


def _stream(extraction: _Extraction) -> ImageStream:
    source, computation = extraction.source, extraction.computation
    return ImageStream(
        source.root,
        source.names,
        extraction.checkpoint.preprocessing,
        batch_size=extraction.settings.inference_batch_size,
        num_processors=computation.num_processors,
        pin_memory=computation.device.type == "cuda",
    )


def _encoded(extraction: _Extraction, batch: Batch) -> list[tuple[FileRead, NDArray[np.float32] | None]]:
    """Each file of a batch with its features, in order of position; None where it has none, or none that are finite."""
    found: list[tuple[FileRead, NDArray[np.float32] | None]] = [(file, None) for file in batch.rejected]
    if len(batch.images):
        latent = encode(
            extraction.checkpoint.model.encoder,
            batch.images,
            extraction.computation,
            batch_size=extraction.settings.inference_batch_size,
            grid=extraction.grid,
        )
        for file, features in zip(batch.files, flatten_latent(latent), strict=True):
            found.append((file, features if np.isfinite(features).all() else None))
    return sorted(found, key=lambda item: item[0].position)


def _manifest(extraction: _Extraction, num_written: int, seconds: float) -> dict[str, Any]:
    checkpoint, source = extraction.checkpoint, extraction.source
    settings, computation = extraction.settings, extraction.computation
    height, width, channels = checkpoint.preprocessing.shape
    return {
        "format_version": FORMAT_VERSION,
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "source": str(source.location.absolute()),
        "preprocessing": asdict(checkpoint.preprocessing),
        "feature_grid": settings.feature_grid,
        "flatten_order": FLATTEN_ORDER,
        "num_features": extraction.num_features,
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
