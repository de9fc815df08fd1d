"""Features to explore: those of a finished extraction, and what other encoders make of the same images.

What a model has learned shows beside the features of the same model before training, of a linear map to a latent of
equal size, and of the pixels themselves.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fext.compute.device import Computation, prepare_computation
from fext.compute.engines import RowShape, feature_rows
from fext.compute.inference import encode_stages
from fext.data.dataset import ImageStream
from fext.data.names import Names, name_to_bytes
from fext.data.source import ImageSource, known_images
from fext.errors import ExtractionError, SourceError
from fext.jobs.choosing import refuse_vanished
from fext.jobs.extraction import checkpoint_of, stages_of
from fext.jobs.linear import learn_linear_map
from fext.jobs.starting import model_before_training
from fext.jobs.streams import stream_for
from fext.model.linear_map import LinearMap
from fext.model.stages import StagedEncoder
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import extractions
from fext.store.checkpoints import Checkpoint
from fext.store.extractions import Description
from fext.store.kept_indexes import CHECKSUM_BYTES
from fext.store.parts import WRITTEN
from fext.store.scratch import ScratchRows, scratch_rows
from fext.store.tables import Columns
from fext.store.workspace import Workspace

MODEL, UNTRAINED, LINEAR_MAP, PIXELS = "model", "untrained", "linear_map", "pixels"
_PIXELS_SIDE = 32
_CHECKSUM = re.compile("[0-9a-f]{64}")
_ENOUGH_TO_LEARN_FROM = 2000  # images for the linear map, evenly spaced

Rows = NDArray[np.float32]
Encode = Callable[[torch.Tensor], list[torch.Tensor]]


@dataclass(frozen=True)
class Features:
    """The images of a finished extraction that have features, and a row (D,) of them for each, not to be changed.

    A row is the latent averaged to grid x grid positions, in row, column, channel order. Of each there is the SHA-256
    that the table has; `checksum` is the same as long as the images that have rows, and these, are the same.
    """

    folder: Path
    manifest: Description
    source: ImageSource
    rows: Rows
    checksums: NDArray[np.bytes_]
    grid: int
    num_rejected: int
    checksum: str

    @property
    def images(self) -> Names:
        """Their names, in the order of the rows."""
        return self.source.names

    def rows_at(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Rows]]:
        """The rows (D,) at some places, each with its place."""
        return ((place, self.rows[place]) for place in places.tolist())


@dataclass(frozen=True)
class References:
    """What other encoders make of the images: rows by encoder, in the order of `places`.

    `places` are those images whose files can still be read.
    """

    places: NDArray[np.int64]
    rows: Mapping[str, Rows]


@contextmanager
def open_features(folder: Path, grid: int, reporter: Reporter) -> Iterator[Features]:
    """The features of a finished extraction, at most grid x grid positions of each; many of them stay on the disk.

    Raises ExtractionError where the extraction is not finished, or has no row that can be read.
    """
    manifest = extractions.read_finished(folder)
    columns = Columns(manifest["num_features"], manifest["reconstruction_error"])
    extracted_grid = manifest["feature_grid"]
    grid = min(grid, extracted_grid)
    num_values = columns.num_features // extracted_grid**2 * grid**2
    names: list[str] = []
    num_rejected = num_damaged = 0
    digest, checksums = hashlib.sha256(), bytearray()
    with scratch_rows(folder, manifest["counts"]["written"], num_values) as scratch:
        table = extractions.read_table(folder, columns)
        with closing(table), reporter.progress("reading features", manifest["counts"]["found"]) as progress:
            for done in table:
                row = done.row() if done.record.status == WRITTEN else None
                if row is not None:
                    names.append(done.record.image)
                    digest.update(name_to_bytes(f"{done.record.image}\0{done.record.row_sha256}\0"))
                    checksums += checksum_bytes(done.record.row_sha256)
                    scratch.add(averaged(row[: columns.num_features], extracted_grid, grid))
                elif done.record.status == WRITTEN:
                    num_damaged += 1
                else:
                    num_rejected += 1
                progress.advance()
        if not names:
            raise without_rows(folder, manifest)
        tell_of_damaged(folder, num_damaged, reporter)
        source = known_images(Path(manifest["source"]), Names.of(names))
        of_rows = np.frombuffer(bytes(checksums), f"S{CHECKSUM_BYTES}")
        yield Features(folder, manifest, source, scratch.rows(), of_rows, grid, num_rejected, digest.hexdigest())


def checksum_bytes(checksum: str) -> bytes:
    """A checksum as bytes; of what is none, something that no row has."""
    return bytes.fromhex(checksum) if _CHECKSUM.fullmatch(checksum) else hashlib.sha256(checksum.encode()).digest()


def without_rows(folder: Path, manifest: Description) -> ExtractionError:
    """What to raise where an extraction has no row that can be read."""
    if manifest["counts"]["written"]:
        return ExtractionError(f"{folder.name} has no rows that can be read: extract again to bring the table back")
    return ExtractionError(f"{folder.name} has no image with features: its {extractions.REJECTED_FILE} says why")


def tell_of_damaged(folder: Path, num_damaged: int, reporter: Reporter) -> None:
    """Say how many rows of an extraction are left out because they are damaged."""
    if num_damaged:
        what = f"1 row of {folder.name} is" if num_damaged == 1 else f"{num_damaged} rows of {folder.name} are"
        reporter.warning(f"{what} damaged and left out: verify it, or extract again")


def averaged(row: Rows, grid: int, new_grid: int) -> Rows:
    """A row of grid x grid positions averaged to new_grid x new_grid, which divides it."""
    if grid == new_grid:
        return row
    size = grid // new_grid
    positions = row.reshape(new_grid, size, new_grid, size, -1)
    means: Rows = positions.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
    return means.ravel()


@contextmanager
def open_references(
    workspace: Workspace,
    settings: Settings,
    features: Features,
    reporter: Reporter,
    learn_from: Sequence[int] | None = None,
) -> Iterator[References]:
    """Encode the images with other encoders, averaged to the same grid as the features; many rows stay on the disk.

    The linear map learns from the images at the places of learn_from (all by default), of many from some. Pixels are
    those of the preprocessed image brought to 32x32. Raises CheckpointError where the model of the extraction is gone,
    SourceError where its images are.
    """
    checkpoint = checkpoint_of(workspace, features.manifest)
    all_stages = stages_of(features.manifest) == "all"
    computation = prepare_computation(settings)
    encoders = _Encoders(checkpoint, settings, computation, features.source, all_stages, reporter)
    learning = np.arange(len(features.images)) if learn_from is None else np.asarray(learn_from)
    by_name = encoders.make(features.images.select(_some(learning).tolist()))
    with ExitStack() as stack:
        scratch = {
            name: stack.enter_context(
                scratch_rows(features.folder, len(features.images), _width(name, by_name, checkpoint, features.grid))
            )
            for name in by_name
        }
        places = encoders.encode_all(features, by_name, scratch)
        yield References(np.array(places, np.int64), {name: rows.rows() for name, rows in scratch.items()})


def _some(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most as many as the linear map needs, evenly spaced."""
    count = min(len(places), _ENOUGH_TO_LEARN_FROM)
    some: NDArray[np.int64] = places[np.linspace(0, len(places) - 1, count).round().astype(int)]
    return some


def _width(name: str, encoders: Mapping[str, Encode], checkpoint: Checkpoint, grid: int) -> int:
    height, width, channels = checkpoint.plan.picture_shape
    return len(_rows_of(name, encoders[name](torch.zeros(1, channels, height, width)), grid)[0])


def _rows_of(name: str, maps: Sequence[torch.Tensor], grid: int) -> Rows:
    return feature_rows(RowShape(None if name == PIXELS else grid, has_error=False), maps, maps[0], None).numpy()


def grid_of(encoder: str, grid: int) -> int:
    """The grid of the rows of an encoder where those of the model have `grid`: pixels are compared place by place."""
    return 1 if encoder == PIXELS else grid


def shrunken_pixels(images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) brought to at most 32x32 pixels, each the mean of those it stands for."""
    sides = min(images.shape[2], _PIXELS_SIDE), min(images.shape[3], _PIXELS_SIDE)
    return functional.adaptive_avg_pool2d(images, sides)


@dataclass(frozen=True)
class _Encoders:
    """Makes the encoders, and encodes the images with them."""

    checkpoint: Checkpoint
    settings: Settings
    computation: Computation
    source: ImageSource
    all_stages: bool
    reporter: Reporter

    def make(self, learn_from: Names) -> dict[str, Encode]:
        """Encoders by name; images (N, C, H, W) to maps (N, channels, rows, columns): one of each stage that counts."""
        plan = self.checkpoint.plan
        encoders: dict[str, Encode] = {PIXELS: lambda images: [shrunken_pixels(images)]}
        linear_map = None
        if LinearMap.fits(plan.picture_shape, plan.latent_shape):
            learned = linear_map = self._learned(LinearMap(plan.picture_shape, plan.latent_shape), learn_from)
            encoders[LINEAR_MAP] = lambda images: [learned.encode(images)]
        else:
            self.reporter.message("each latent position stands for too many pixels for a linear map to compare with")
        untrained = StagedEncoder(model_before_training(self.checkpoint, linear_map, self.reporter))
        self.computation.place(untrained)
        first = 0 if self.all_stages else -1  # of the maps

        def encode(images: torch.Tensor) -> list[torch.Tensor]:
            batch_size = self.settings.inference_batch_size
            return encode_stages(untrained, images, self.computation, batch_size=batch_size)[first:]

        encoders[UNTRAINED] = encode
        return {name: encoders[name] for name in (UNTRAINED, LINEAR_MAP, PIXELS) if name in encoders}

    def _learned(self, linear_map: LinearMap, names: Names) -> LinearMap:
        learn_linear_map(linear_map, self.source, names, self._stream(names), self.reporter)
        if linear_map.num_images == 0:
            raise SourceError(
                f"the images in {self.source.location} cannot be read any more: there is nothing to compare"
            )
        linear_map.finish()
        return linear_map

    def encode_all(
        self, features: Features, encoders: Mapping[str, Encode], scratch: Mapping[str, ScratchRows]
    ) -> list[int]:
        """Put down the rows of each encoder; gives the places of the images that can be read."""
        places: list[int] = []
        names = features.images
        num_lost = 0
        with self.reporter.progress("encoding for comparison", len(names)) as progress:
            for batch in self._stream(names).epoch():
                refuse_vanished(self.source, names, batch)
                num_lost += len(batch.rejected)
                places += [file.position for file in batch.files]
                if batch.files:
                    for name, encoder in encoders.items():
                        for row in _rows_of(name, encoder(batch.images), features.grid):
                            scratch[name].add(row)
                progress.advance(batch.num_files)
        if num_lost:
            what, them = ("1 image", "it") if num_lost == 1 else (f"{num_lost} images", "them")
            self.reporter.warning(f"{what} cannot be read any more: the comparison is without {them}")
        return places

    def _stream(self, names: Names) -> ImageStream:
        return stream_for(self.checkpoint, self.source, names, self.settings.inference_batch_size, self.computation)
