"""What a copy changes in the features of an image, learned from copies of some of an extraction's own images."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from fext.data.images import MAX_SIDE, decode_small, read_file
from fext.data.near_copies import MIN_CORRELATION, Small, correlation_when_aligned, disturbed_copies
from fext.errors import CheckpointError, ImageRejected, SourceError
from fext.jobs.features import without_rows
from fext.jobs.indexing import StoredRows
from fext.jobs.outside import OutsideEncoder
from fext.model.moments import Moments
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.workspace import Workspace

_NUM_SAMPLED, _NUM_FOR_SPREAD = 64, 2000
_ENOUGH_TO_DIVIDE = 8
_LOW_QUANTILE, _HIGH_QUANTILE = 0.02, 0.995
_FLOOR = 1e-3  # of the mean variance of a channel: no channel is trusted without end
_WITHOUT_MODEL = "set duplicate_similarity to a number to do without"

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class CopyCalibration:
    """How rows (D,) are to be compared: less `mean` and times `scale`, by their cosine; from `threshold` on two may be
    copies, and are where their small pictures correlate by `correlation` or more, aligned. `num_images` is how many
    were copied to find that out."""

    mean: Rows
    scale: Rows
    threshold: float
    correlation: float
    num_images: int

    def weighted(self, rows: Rows) -> Rows:
        """Rows (D,) or (N, D) as they are to be compared."""
        return (rows - self.mean) * self.scale


def calibrate(workspace: Workspace, settings: Settings, stored: StoredRows, reporter: Reporter) -> CopyCalibration:
    """Encode copies of up to 64 images (re-encoded, of half the size, brighter, without borders) and compare.

    A latent value that an invisible shift turns over, as those of fine patterns are, tells nothing of copies, however
    much it tells otherwise: for a linear latent, the plain cosine of an image and of itself without its borders was
    found to be no greater than that of two different images. So each channel is multiplied by its standard deviation
    between images over its variance between an image and its copies (after Hatch et al., 'Within-class covariance
    normalization', 2006, here of single channels). The threshold is what 98 of 100 copies reach; channels are weighed
    by half of the images and the threshold is found with the other half, where there are enough.

    How alike small pictures must be follows from the same images: 0.9, or, where all pictures look alike, such as those
    of one surface, midway between what 199 of 200 pairs of different images stay below and what 98 of 100 copies reach.

    Raises CheckpointError where the model is gone, SourceError where no image can be read any more, ExtractionError
    where no row can be.
    """
    table = stored.table
    try:
        encoder = OutsideEncoder(workspace, settings, table.folder, table.manifest, reporter)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_WITHOUT_MODEL} it") from error
    sample = _sample(stored, encoder, reporter)
    originals, copies, count = sample.rows, sample.rows_of_copies, len(sample.rows)
    num_channels = table.num_values // table.grid**2
    mean, between = _spread(stored, num_channels)
    is_weighing = (np.arange(count) % 2 == 0) | (count < _ENOUGH_TO_DIVIDE)
    is_judging = ~is_weighing | (count < _ENOUGH_TO_DIVIDE)
    differences = (copies - originals[:, None])[is_weighing].reshape(-1, num_channels)
    within = np.square(differences, dtype=np.float64).mean(axis=0)
    scale = np.tile(_weights(between, within), table.grid**2)
    similarities = _cosines((copies[is_judging] - mean) * scale, (originals[is_judging] - mean) * scale)
    threshold = max(0.0, float(np.quantile(similarities, _LOW_QUANTILE, method="lower")))
    return CopyCalibration(mean, scale, threshold, _least_correlation(sample), count)


def _weights(between: NDArray[np.float64], within: NDArray[np.float64]) -> Rows:
    floor = _FLOOR * between.mean()
    weights: Rows = (np.sqrt(between) / (within + floor if floor else 1.0)).astype(np.float32)
    return weights


@dataclass(frozen=True)
class _Sample:
    """Images that could be read, and K copies of each: rows (N, D) and (N, K, D), and small pictures."""

    rows: Rows
    rows_of_copies: Rows
    pictures: list[Small]
    pictures_of_copies: list[list[Small]]


def _sample(stored: StoredRows, encoder: OutsideEncoder, reporter: Reporter) -> _Sample:
    """Of images evenly spaced; raises SourceError where none can be read."""
    source, count = stored.source, len(stored.images)
    asked = np.unique(np.linspace(0, count - 1, min(count, _NUM_SAMPLED)).round().astype(np.int64))
    rows, rows_of_copies = [], []
    pictures: list[Small] = []
    pictures_of_copies: list[list[Small]] = []
    with reporter.progress("copying some images", len(asked)) as progress:
        for place in asked.tolist():
            with suppress(ImageRejected):  # it is gone or damaged by now: the others do
                data = read_file(source.path(source.names[place]))[0]
                copies = disturbed_copies(data)
                # The image is encoded too: it may have changed since its row was made.
                row, *others = encoder.rows([data, *copies], stored.table.grid)
                rows.append(row)
                rows_of_copies.append(others)
                pictures.append(_small(data))
                pictures_of_copies.append([_small(copy) for copy in copies])
            progress.advance()
    if not rows:
        raise SourceError(
            f"no image of {source.location} can be read any more, to learn what a copy changes: {_WITHOUT_MODEL}"
        )
    return _Sample(np.stack(rows), np.array(rows_of_copies), pictures, pictures_of_copies)


def _small(data: bytes) -> Small:
    return decode_small(data, MAX_SIDE).astype(np.float64)


def _least_correlation(sample: _Sample) -> float:
    if len(sample.pictures) < _ENOUGH_TO_DIVIDE:
        return MIN_CORRELATION
    pairs = combinations(sample.pictures, 2)
    different = [correlation_when_aligned(one, other) for one, other in pairs]
    of_copies = [
        correlation_when_aligned(picture, copy)
        for picture, copies in zip(sample.pictures, sample.pictures_of_copies, strict=True)
        for copy in copies
    ]
    midway = (np.quantile(different, _HIGH_QUANTILE) + np.quantile(of_copies, _LOW_QUANTILE)) / 2
    return max(MIN_CORRELATION, float(midway))


def _spread(stored: StoredRows, num_channels: int) -> tuple[Rows, NDArray[np.float64]]:
    """The mean row (D,), and the variance of each channel over images and positions, of some images."""
    count, num_values = len(stored.images), stored.table.num_values
    places = np.unique(np.linspace(0, count - 1, min(count, _NUM_FOR_SPREAD)).round().astype(np.int64))
    moments = Moments(num_values, each_alone=True)
    for _, row in stored.rows(places):
        moments.add(torch.tensor(row[None]))
    if not moments.count:
        raise without_rows(stored.table.folder, stored.table.manifest)
    variances: NDArray[np.float64] = moments.covariance().numpy().reshape(-1, num_channels).mean(axis=0)
    return moments.mean.float().numpy(), variances


def _cosines(copies: Rows, originals: Rows) -> NDArray[np.float64]:
    """Of each copy (N, K, D) with its original (N, D)."""
    products = np.einsum("nkd,nd->nk", copies, originals, dtype=np.float64)
    lengths = np.linalg.norm(copies, axis=2) * np.linalg.norm(originals, axis=1)[:, None]
    cosines: NDArray[np.float64] = products / np.where(lengths > 0, lengths, 1.0)
    return cosines
