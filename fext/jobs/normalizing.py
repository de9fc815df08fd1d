"""The normalization of the rows of an extraction: learned once, kept beside it, the same for all that compares them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fext.compute.normalization import FEWEST_ROWS, Normalization, Rows, learn_normalization, places_to_learn_from
from fext.jobs.features import Features
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.kept_indexes import (
    KeptNormalization,
    forget_normalization,
    load_normalization,
    save_normalization,
)

Row = NDArray[np.float32]
# Rows at some places, in ascending order, each with its place; one that cannot be read is left out.
RowsAt = Callable[[NDArray[np.int64]], Iterator[tuple[int, Row]]]


def kept_normalization(
    folder: Path,
    grid: int,
    num_values: int,
    checksums: NDArray[np.bytes_],
    rows_at: RowsAt,
    reporter: Reporter,
) -> KeptNormalization | None:
    """How the rows (D,) of an extraction with these checksums are to be compared; None: as they are.

    One that is kept is used as long as most of the rows that it was learned from are there and it was learned for about
    as many; so what is found stays comparable while images come and go.
    """
    if len(checksums) < FEWEST_ROWS:
        return None
    keys = _keys(checksums)
    try:
        kept = load_normalization(folder, grid, num_values)
    except ValueError as error:
        reporter.message(f"the normalization of {folder.name} cannot be relied on and is learned anew ({error})")
        kept = None
    if kept is not None and _holds(kept, keys):
        return kept
    forget_normalization(folder, grid)
    places, rows = _read(places_to_learn_from(len(keys), num_values), num_values, rows_at)
    normalization = learn_normalization(rows, grid)
    if normalization is None:
        return None
    return save_normalization(folder, grid, KeptNormalization(normalization, keys[places], len(keys)))


def normalization_of_features(settings: Settings, features: Features, reporter: Reporter) -> Normalization | None:
    """kept_normalization of features that are open; None with similarity_normalization = 'none'."""
    if settings.similarity_normalization == "none":
        return None
    num_values, folder = features.rows.shape[1], features.folder
    kept = kept_normalization(folder, features.grid, num_values, features.checksums, features.rows_at, reporter)
    return None if kept is None else kept.normalization


def normalization_of(settings: Settings, rows: Rows, grid: int, places: NDArray[np.int64]) -> Normalization | None:
    """That of the rows of any encoder, of so fine a grid, at some places, which is not kept; None: as they are."""
    if settings.similarity_normalization == "none":
        return None
    return learn_normalization(np.array(rows[places[places_to_learn_from(len(places), rows.shape[1])]]), grid)


def _keys(checksums: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """The first 8 bytes of each checksum."""
    return np.frombuffer(checksums.tobytes(), "<i8")[:: checksums.itemsize // 8].astype(np.int64)


def _holds(kept: KeptNormalization, keys: NDArray[np.int64]) -> bool:
    if not 2 * kept.num_rows / 3 <= len(keys) <= 3 * kept.num_rows / 2:
        return False
    return 3 * int(np.isin(kept.learned_from, keys).sum()) >= 2 * len(kept.learned_from)


def _read(places: NDArray[np.int64], num_values: int, rows_at: RowsAt) -> tuple[NDArray[np.int64], Rows]:
    """The rows that can be read at some places, and these."""
    found, rows, count = np.empty(len(places), np.int64), np.empty((len(places), num_values), np.float32), 0
    if len(places):
        for place, row in rows_at(places):
            found[count], rows[count] = place, row
            count += 1
    return found[:count], rows[:count]
