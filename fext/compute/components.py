"""Few numbers in place of many: rows of features that are not normalized, brought to their principal components.

Rows are compared by where they point from the mean row: the mean is subtracted, each row scaled to the length 1, and
the result laid on its first 50 principal components. So prepared, 60 clusters of tiles cut from 60 photographs (8 of
each) tell the photographs best, with the features of a trained model: mutual information (NMI) of 0.60, against 0.44
for the rows as they are, 0.53 for rows of length 1, 0.52 and 0.36 for the components of the rows as they are and with
standardized columns. Untrained features fare best so, too (0.58), and pixels nearly (0.53, at best 0.55); those of a
linear map alone do better as they are (0.56) than so (0.53). That model is built around a linear map; with one of
convolutions alone all of these ways lie between 0.59 and 0.61.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fext.compute.normalization import features_of

NUM_COMPONENTS = 50
_MOST_LEARNED_FROM, _MOST_BYTES = 10_000, 256 * 2**20
_BLOCK_BYTES = 32 * 2**20
_NEGLIGIBLE = 1e-6  # of the usual length of a row: rounding alone makes such differences

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """What rows (N, D) become: the mean (D,), directions (K, D), and the length below which a row counts as the mean
    itself."""

    mean: NDArray[np.float64]
    directions: Rows
    shortest: float

    @property
    def num_values(self) -> int:
        """K, of a row on them."""
        return len(self.directions)

    def of(self, rows: Rows) -> Rows:
        """A block of rows as (N, K)."""
        points: Rows = _directed(rows, self.mean, self.shortest) @ self.directions.T
        return points


def learn_components(rows: Rows, seed: int, count: int = NUM_COMPONENTS) -> Components | None:
    """The first principal components of the directions of rows (N, D), by sklearn's PCA; None where all are equal.

    They are learned from at most 10,000 rows and 256 MB, drawn by the seed.
    """
    from sklearn.decomposition import PCA

    most = max(2, min(_MOST_LEARNED_FROM, _MOST_BYTES // (4 * rows.shape[1])))
    learned = rows[some_places(len(rows), most, seed)]
    mean = learned.mean(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(learned, axis=1).astype(np.float64)
    shortest = max(_NEGLIGIBLE * float(np.sqrt(np.mean(lengths**2))), float(np.finfo(np.float32).tiny))
    directed = _directed(learned, mean, shortest)
    if not directed.any():
        return None
    count = min(count, *directed.shape)
    analysis = PCA(count, svd_solver="randomized", random_state=seed).fit(directed)
    return Components(mean, analysis.components_.astype(np.float32), shortest)


def in_blocks(rows: Rows) -> Iterator[Rows]:
    """Rows of a table that may be larger than memory, some at a time."""
    size = max(1, _BLOCK_BYTES // (8 * rows.shape[1]))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def described_components(grid: int) -> str:
    """In words what rows are brought to."""
    return f"{features_of(grid)}, as directions from the mean on their first {NUM_COMPONENTS} principal components"


def some_places(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """All places, or so many of them drawn by the seed, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _directed(rows: Rows, mean: NDArray[np.float64], shortest: float) -> Rows:
    """Rows less the mean, of length 1; zeros where they are the mean."""
    centred = rows - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directed = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > shortest)
    narrow: Rows = directed.astype(np.float32)
    return narrow
