"""What a copy changes in the features of an image, learned from copies of some of an extraction's own images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fext.data.images import read_file
from fext.data.near_copies import disturbed_copies
from fext.errors import CheckpointError, ImageRejected, SourceError
from fext.jobs.indexing import StoredRows
from fext.jobs.outside import OutsideEncoder
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.workspace import Workspace

_NUM_SAMPLED, _NUM_FOR_SPREAD = 64, 2000
_ENOUGH_TO_DIVIDE = 8
_LOW_QUANTILE = 0.02
_FLOOR = 1e-3  # of the mean variance of a channel: no channel is trusted without end
_WITHOUT_MODEL = "set duplicate_similarity to a number to do without"

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class CopyCalibration:
    """How rows (D,) are to be compared: less `mean` and times `scale`, by their cosine; from `threshold` on two may be
    copies. `num_images` is how many were copied to find that out."""

    mean: Rows
    scale: Rows
    threshold: float
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

    Raises CheckpointError where the model is gone, SourceError where no image can be read any more.
    """
    table = stored.table
    try:
        encoder = OutsideEncoder(workspace, settings, table.folder, table.manifest, reporter)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_WITHOUT_MODEL} it") from error
    places, originals, copies = _sample(stored, encoder, reporter)
    num_channels = table.num_values // table.grid**2
    mean, between = _spread(stored, num_channels)
    is_weighing = np.arange(len(places)) % 2 == 0 if len(places) >= _ENOUGH_TO_DIVIDE else np.ones(len(places), bool)
    is_judging = ~is_weighing if len(places) >= _ENOUGH_TO_DIVIDE else is_weighing
    differences = (copies - originals[:, None])[is_weighing].reshape(-1, num_channels)
    within = np.square(differences, dtype=np.float64).mean(axis=0)
    scale = np.tile(_weights(between, within), table.grid**2)
    calibration = CopyCalibration(mean, scale, 1.0, len(places))
    similarities = _cosines(calibration.weighted(copies[is_judging]), calibration.weighted(originals[is_judging]))
    threshold = float(np.quantile(similarities, _LOW_QUANTILE, method="lower"))
    return CopyCalibration(mean, scale, max(0.0, threshold), len(places))


def _weights(between: NDArray[np.float64], within: NDArray[np.float64]) -> Rows:
    floor = _FLOOR * between.mean()
    weights: Rows = (np.sqrt(between) / (within + floor if floor else 1.0)).astype(np.float32)
    return weights


def _sample(stored: StoredRows, encoder: OutsideEncoder, reporter: Reporter) -> tuple[list[int], Rows, Rows]:
    """Places of images that can be read, evenly spaced, their rows (N, D) and those of their copies (N, K, D)."""
    source, count = stored.source, len(stored.images)
    asked = np.unique(np.linspace(0, count - 1, min(count, _NUM_SAMPLED)).round().astype(np.int64))
    rows = dict(stored.rows(asked))
    places: list[int] = []
    found: list[list[Rows]] = []
    with reporter.progress("copying some images", len(rows)) as progress:
        for place in rows:
            try:
                copies = disturbed_copies(read_file(source.path(source.names[place]))[0])
                found.append(list(encoder.rows(copies, stored.table.grid)))
                places.append(place)
            except ImageRejected:
                pass  # it is gone or damaged by now: the others do
            progress.advance()
    if not places:
        raise SourceError(
            f"no image of {source.location} can be read any more, to learn what a copy changes: {_WITHOUT_MODEL}"
        )
    return places, np.stack([rows[place] for place in places]), np.array(found)


def _spread(stored: StoredRows, num_channels: int) -> tuple[Rows, NDArray[np.float64]]:
    """The mean row (D,), and the variance of each channel over images and positions, of some images."""
    count, num_values = len(stored.images), stored.table.num_values
    places = np.unique(np.linspace(0, count - 1, min(count, _NUM_FOR_SPREAD)).round().astype(np.int64))
    sums, squares, number = np.zeros(num_values), np.zeros(num_values), 0
    for _, row in stored.rows(places):
        sums += row
        squares += np.square(row, dtype=np.float64)
        number += 1
    mean = sums / number
    variances = np.maximum(squares / number - mean**2, 0)
    return mean.astype(np.float32), variances.reshape(-1, num_channels).mean(axis=0)


def _cosines(copies: Rows, originals: Rows) -> NDArray[np.float64]:
    """Of each copy (N, K, D) with its original (N, D)."""
    products = np.einsum("nkd,nd->nk", copies, originals, dtype=np.float64)
    lengths = np.linalg.norm(copies, axis=2) * np.linalg.norm(originals, axis=1)[:, None]
    cosines: NDArray[np.float64] = products / np.where(lengths > 0, lengths, 1.0)
    return cosines
