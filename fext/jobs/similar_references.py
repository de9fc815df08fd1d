"""What the features of a model are worth in finding images of the same label, beside other encoders of the same images.

Each encoder's rows are normalized and searched in the same way for the same images: the share of the nearest that have
the label of the image (precision at K) is compared image by image.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fext.compute.normalization import Normalization
from fext.compute.vector_index import QUERIES_AT_A_TIME, Metric, Rows, set_num_threads
from fext.data.groups import group_images
from fext.data.labels import are_labels, folder_labels, label_chance
from fext.errors import ExtractionError
from fext.jobs.features import MODEL, UNTRAINED, grid_of, open_features, open_references
from fext.jobs.indexing import make_index, normalized_rows, refuse_too_large, without_own
from fext.jobs.normalizing import Row, normalization_of
from fext.jobs.similar import FOLDER, label_precision
from fext.model.intervals import Groups, Interval, mean_interval
from fext.model.verdict import Verdict, judge, share
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.workspace import Workspace

_NUM_JUDGED = 2000  # images whose nearest are looked at, evenly chosen
_OF_THE_NEAREST = share("{} % of the nearest images have the label of the image")
_HEADER = (
    "encoder", "precision", "low", "high", "above_untrained", "above_low", "above_high", "below_model", "below_low",
    "below_high",
)  # fmt: skip


@dataclass(frozen=True)
class EncoderPrecision:
    """Of an encoder the precision with its interval, and by how much it is above that of the untrained model and below
    that of the trained one, image by image (None for these themselves)."""

    encoder: str
    precision: Interval
    above_untrained: Interval | None
    below_model: Interval | None


@dataclass(frozen=True)
class ReferencesResult:
    """The precision at `count` of each encoder, the model first; `chance` is that of images drawn at random.

    `verdict` says whether training helped.
    """

    encoders: tuple[EncoderPrecision, ...]
    verdict: Verdict
    count: int
    chance: float
    num_images: int
    num_labels: int
    groups: str
    table: Path


def compare_precision(
    workspace: Workspace, settings: Settings, folder: Path, count: int, reporter: Reporter
) -> ReferencesResult:
    """Precision at `count` of the model, the untrained one, the linear map and the pixels; similar/precision.csv.

    Raises ExtractionError where the folders of the images are no labels, CheckpointError where the model is gone,
    SourceError where the images are.
    """
    set_num_threads(settings)
    with open_features(folder, settings.explore_grid, reporter) as features:
        _refuse_without_labels(folder, folder_labels(features.images).codes)
        with open_references(workspace, settings, features, reporter) as references:
            places = references.places
            names = features.images.select(places.tolist())
            codes = folder_labels(names).codes
            _refuse_without_labels(folder, codes)
            count = min(count, len(codes) - 1)
            encoders = {MODEL: _placed(settings, features.rows, features.grid, places)}
            for name, rows in references.rows.items():
                encoders[name] = _placed(settings, rows, grid_of(name, features.grid), np.arange(len(rows)))
            found = {
                name: _precision(rows, codes, count, features.grid, settings.similarity, reporter)
                for name, rows in encoders.items()
            }
    table = folder / FOLDER / "precision.csv"
    groups = group_images(names, settings.interval_groups).of(_judged(len(names)))
    results = tuple(_result(name, found, groups.codes) for name in found)
    files.write_csv(table, _HEADER, map(_row, results))
    return ReferencesResult(
        encoders=results,
        verdict=judge(
            _OF_THE_NEAREST,
            results[0].precision,
            {one.encoder: one.below_model for one in results if one.below_model is not None},
        ),
        count=count,
        chance=label_chance(codes),
        num_images=len(codes),
        num_labels=len(np.unique(codes)),
        groups=groups.sentence(),
        table=table,
    )


@dataclass(frozen=True)
class _Placed:
    """Some of the rows of an array, which may be mapped from a file, and how they are normalized."""

    rows: Rows
    places: NDArray[np.int64]
    normalization: Normalization | None

    @property
    def num_values(self) -> int:
        """Of a row that is compared."""
        return self.rows.shape[1] if self.normalization is None else self.normalization.num_values

    def at(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """As RowsAt, normalized."""
        rows = ((place, self.rows[self.places[place]]) for place in places.tolist())
        return normalized_rows(rows, self.rows.shape[1], self.normalization)


def _placed(settings: Settings, rows: Rows, grid: int, places: NDArray[np.int64]) -> _Placed:
    return _Placed(rows, places, normalization_of(settings, rows, grid, places))


def _refuse_without_labels(folder: Path, codes: NDArray[np.int32]) -> None:
    if not are_labels(codes.tolist()):
        raise ExtractionError(
            f"the folders of the images of {folder.name} are no labels (two or more folders, with two or more images "
            f"each on average): there is nothing to judge encoders by"
        )


def _precision(
    rows: _Placed, codes: NDArray[np.int32], count: int, grid: int, metric: Metric, reporter: Reporter
) -> NDArray[np.float64]:
    num_rows, num_values = len(rows.places), rows.num_values
    refuse_too_large(num_rows, num_values, grid)
    index, _ = make_index(num_rows, num_values, metric, rows.at, reporter)
    judged = _judged(num_rows)
    shares = []
    with reporter.progress("comparing encoders", len(judged)) as progress:
        for start in range(0, len(judged), QUERIES_AT_A_TIME):
            own = judged[start : start + QUERIES_AT_A_TIME]
            found = index.search(np.stack([row for _, row in rows.at(own)]), count + 1)
            shares.append(label_precision(without_own(own, found.ids, found.scores).ids, codes[own], codes))
            progress.advance(len(own))
    return np.concatenate(shares).astype(np.float64)


def _judged(num_rows: int) -> NDArray[np.int64]:
    """The places of the images whose nearest are looked at."""
    places: NDArray[np.int64] = np.linspace(0, num_rows - 1, min(num_rows, _NUM_JUDGED)).round().astype(np.int64)
    return places


def _result(name: str, found: Mapping[str, NDArray[np.float64]], groups: Groups) -> EncoderPrecision:
    values = found[name]
    above = None if name == UNTRAINED else mean_interval(values - found[UNTRAINED], groups)
    below = None if name == MODEL else mean_interval(found[MODEL] - values, groups)
    return EncoderPrecision(name, mean_interval(values, groups), above, below)


def _row(result: EncoderPrecision) -> list[object]:
    return [
        result.encoder,
        *_cells(result.precision),
        *_cells(result.above_untrained),
        *_cells(result.below_model),
    ]


def _cells(interval: Interval | None) -> list[str]:
    return ["" if value is None else f"{value:.6f}" for value in interval or (None, None, None)]
