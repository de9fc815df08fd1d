"""How rows of features are made comparable: one way for all that goes by how similar images are.

Of each value the signed square root (Perronnin et al., 'Improving the Fisher kernel', 2010; of SIFT Arandjelovic and
Zisserman, 'Three things everyone should know', 2012), which keeps a few large ones from deciding alone; each row scaled
to the length 1; its first principal components, each divided by its standard deviation to the power of 0.75, so that
what all images share counts for less (Jegou and Chum, 'Negative evidences and co-occurrences in image retrieval', 2012;
whole whitening has the power 1). What comes out is compared by cosine.

Features of a grid say what is where. The same is done with their mean over the grid, which says what is in the image
wherever it is, and the similarity is the mean of both, that of the grid counted twice (spatial pyramid matching:
Lazebnik, Schmid and Ponce, 2006). `benchmarks/README.md` has the measurements.

That helps where few components hold nearly all: of the convolutional features measured those that are kept held 98 % or
more of the variance. Where features are uncorrelated by themselves, as those of a linear map to its principal
components are (34 to 53 %), the others hold most of what there is to compare: such rows are better left as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

NUM_COMPONENTS = 128
_WHITENING = 0.75  # the power of its deviation that a component is divided by
_WEIGHTS = (2.0, 1.0)  # of the features of a grid and of their mean, in the similarity
# A component for every four rows: of 64 rows these served better than 8, 32 or 63 of them. Of fewer than 64 rows no
# number served much better than the rows as they are.
FEWEST_ROWS, _ROWS_PER_COMPONENT = 64, 4
_FEWEST_COMPONENTS, _LEAST_SHARE = 4, 0.7  # of one component a cosine leaves the sign alone
_MOST_LEARNED_FROM, _MOST_BYTES = 10_000, 128 * 2**20
_NEGLIGIBLE = 1e-5  # of a row of the length 1: rounding alone makes such differences

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """What rows (D,) become: less `mean` (D,), times `directions` (K, D), after square root and scaling."""

    mean: Rows
    directions: Rows

    def of(self, rows: Rows) -> NDArray[np.floating]:
        """Rows (N, K) of length 1 for rows (N, D); zeros for one that is the mean.

        In float64, so that a row becomes the same whatever stands beside it.
        """
        centred = _rooted(rows, np.float64) - self.mean
        centred[np.linalg.norm(centred, axis=1) < _NEGLIGIBLE] = 0
        return _scaled(centred @ self.directions.T.astype(np.float64))


@dataclass(frozen=True)
class Normalization:
    """What rows become: those of a grid as they are and averaged over it, those of one position as they are."""

    levels: tuple[Level, ...]

    @property
    def row_length(self) -> int:
        """D, of a row that is to be normalized."""
        return len(self.levels[0].mean)

    @property
    def num_values(self) -> int:
        """K, of a row that is normalized."""
        return sum(len(level.directions) for level in self.levels)

    def of(self, rows: Rows) -> Rows:
        """Rows (N, K) whose cosine is to be compared, for rows (N, D)."""
        parts = [
            level.of(_averaged(rows, len(level.mean))) * weight**0.5
            for level, weight in zip(self.levels, _WEIGHTS, strict=False)
        ]
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it is made of."""
        arrays = {
            name: array
            for names, level in zip(_NAMES, self.levels, strict=False)
            for name, array in zip(names, (level.mean, level.directions), strict=True)
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


_NAMES = (("mean", "directions"), ("mean_of_averages", "directions_of_averages"))


def normalization_from(tensors: Mapping[str, torch.Tensor]) -> Normalization:
    """The one that these tensors are of; raises KeyError or ValueError where they are of none."""
    count = len(_NAMES) if _NAMES[1][0] in tensors else 1
    return Normalization(tuple(_level_from(*(tensors[name].numpy() for name in names)) for names in _NAMES[:count]))


def _level_from(mean: Rows, directions: Rows) -> Level:
    if directions.ndim != 2 or mean.shape != directions.shape[1:] or {mean.dtype, directions.dtype} != {mean.dtype}:
        raise ValueError("it is no normalization")
    return Level(mean, directions)


def described(normalization: Normalization | None, grid: int, *, wanted: bool = True) -> str:
    """In words what rows of features are compared as; where a normalization was wanted, why there is none."""
    features = features_of(grid)
    if normalization is None:
        why = " (too few, or too little correlated, to be normalized)" if wanted else ""
        return f"{features}, as they are{why}"
    averaged = " and their mean" if len(normalization.levels) > 1 else ""
    components = f"{normalization.num_values} partially whitened principal components"
    return f"{features}{averaged}, as signed square roots on {components}"


def features_of(grid: int) -> str:
    """In words what rows are of."""
    return "features" if grid == 1 else f"features of a {grid}×{grid} grid"


def places_to_learn_from(count: int, num_values: int) -> NDArray[np.int64]:
    """Which of so many rows (D,) are enough: at most 10,000 and 128 MB, evenly spaced; none where there are too few."""
    if count < FEWEST_ROWS:
        return np.empty(0, np.int64)
    most = max(FEWEST_ROWS, min(count, _MOST_LEARNED_FROM, _MOST_BYTES // (4 * num_values)))
    places: NDArray[np.int64] = np.linspace(0, count - 1, most).round().astype(np.int64)
    return places


def learn_normalization(rows: Rows, grid: int) -> Normalization | None:
    """Up to 128 components of each level, by sklearn's PCA, of rows (N, D) of grid x grid positions.

    None of fewer than 64, of such as hardly differ, and where the components hold less than 0.7 of the variance.
    The same rows teach the same: on one thread, from a fixed seed.
    """
    if len(rows) < FEWEST_ROWS:
        return None
    levels = []
    for averaged in (rows, _averaged(rows, rows.shape[1] // grid**2)) if grid > 1 else (rows,):
        if (level := _learn_level(averaged)) is None:
            break
        levels.append(level)
    return Normalization(tuple(levels)) if levels else None


def _learn_level(rows: Rows) -> Level | None:
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    rooted = _rooted(rows, np.float32)
    count = min(NUM_COMPONENTS, len(rows) // _ROWS_PER_COMPONENT, rows.shape[1])
    if not np.ptp(rooted, axis=0).any():
        return None
    with threadpool_limits(1):
        analysis = PCA(count, svd_solver="randomized", random_state=0, copy=False).fit(rooted)
    deviations = np.sqrt(analysis.explained_variance_)
    count = int((deviations > _NEGLIGIBLE).sum())
    if count < _FEWEST_COMPONENTS or analysis.explained_variance_ratio_.sum() < _LEAST_SHARE:
        return None
    directions = analysis.components_[:count] / deviations[:count, None] ** _WHITENING
    return Level(analysis.mean_.astype(np.float32), directions.astype(np.float32))


def of_length_one(rows: Rows) -> Rows:
    """Rows scaled to the length 1; zeros stay zeros."""
    scaled: Rows = _scaled(rows).astype(np.float32)
    return scaled


def _scaled(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.floating] = np.divide(rows, np.where(lengths > 0, lengths, 1))
    return scaled


def _averaged(rows: Rows, num_values: int) -> Rows:
    """Rows (N, D) averaged over their positions, each of which has so many values."""
    if rows.shape[1] == num_values:
        return rows
    means: Rows = rows.reshape(len(rows), -1, num_values).mean(axis=1, dtype=np.float64).astype(np.float32)
    return means


def _rooted(rows: Rows, dtype: type[np.floating]) -> NDArray[np.floating]:
    """The signed square roots of rows, each row of the length 1; zeros stay zeros."""
    rooted = np.sqrt(np.abs(rows, dtype=dtype))
    np.copysign(rooted, rows, out=rooted)
    lengths = np.sqrt(np.square(rooted, dtype=np.float64).sum(axis=1, keepdims=True))
    scaled: NDArray[np.floating] = np.divide(rooted, np.where(lengths > 0, lengths, 1), out=rooted, casting="same_kind")
    return scaled
