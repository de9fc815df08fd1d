"""Dividing points into clusters, and judging what came of it. All on one thread, so that the same comes of the same."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fext.compute.components import some_places

NOISE = -1
MOST_BY_DENSITY = 10_000  # points that HDBSCAN is given: its time grows with their square
MOST_JUDGED = 5_000  # points that a silhouette is computed of, for the same reason
_MOST_TRIED_ON = 2_000
_FEW = 10_000  # points of which k-means takes all in each step
_BLOCK = 4096
_MEGABYTES = 64  # of distances at a time
_COUNTS = (*range(2, 11), *range(12, 21, 2), *range(25, 51, 5))

Points = NDArray[np.float32]
Clusters = NDArray[np.int32]


class Agreement(NamedTuple):
    """How far clusters say the same as labels: normalized mutual information (0 to 1) and adjusted Rand index (0 by
    chance, 1 at most) by sklearn, and purity, the share of images with the most frequent label of their cluster."""

    nmi: float
    ari: float
    purity: float


def k_means(points: Points, count: int, seed: int) -> Clusters:
    """The cluster (N,) of each point (N, K), numbered by size, the largest 0; fewer where fewer points differ.

    By sklearn's KMeans, the best of four starts; of more than 10,000 points by its MiniBatchKMeans (Sculley, 2010),
    which holds a few thousand of them in memory at a time.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it says that fewer points differ
        if len(points) <= _FEW:
            found = KMeans(count, n_init=4, random_state=seed).fit(points)
        else:
            found = MiniBatchKMeans(count, batch_size=_BLOCK, n_init=3, random_state=seed).fit(points)
    return _by_size(found.labels_)


def density_clusters(points: Points, min_size: int, seed: int, advance: Callable[[int], object]) -> Clusters:
    """The cluster of each point by sklearn's HDBSCAN (Campello et al., 2013), numbered by size; NOISE where in none.

    There are at least min_size points. Of more than 10,000 so many, drawn by the seed, are divided; all others take the
    cluster of the nearest of these. `advance` is told how many are done.
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    places = some_places(len(points), MOST_BY_DENSITY, seed)
    fitted = np.array(points[places])
    clusters = np.empty(len(points), np.int32)
    with threadpool_limits(1):
        found = clusters[places] = HDBSCAN(min_size, copy=True).fit_predict(fitted)
        advance(len(places))
        nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(fitted)
        others = np.setdiff1d(np.arange(len(points)), places, assume_unique=True)
        for start in range(0, len(others), _BLOCK):
            some = others[start : start + _BLOCK]
            clusters[some] = found[nearest.kneighbors(points[some], return_distance=False)[:, 0]]
            advance(len(some))
    return _by_size(clusters)


def counts_to_try(points: Points, seed: int) -> list[int]:
    """Numbers of clusters that a silhouette can judge."""
    sample = points[some_places(len(points), _MOST_TRIED_ON, seed)]
    num_different = len(np.unique(sample.round(5), axis=0))
    return [count for count in _COUNTS if count < min(num_different + 1, len(sample))]


def silhouettes_by_count(
    points: Points, counts: Sequence[int], seed: int, advance: Callable[[], object]
) -> dict[int, float]:
    """The mean silhouette of so many clusters, for each number; of at most 2,000 points, drawn by the seed."""
    sample = np.array(points[some_places(len(points), _MOST_TRIED_ON, seed)])
    found = {}
    for count in counts:
        found[count] = float(np.nanmean(silhouettes(sample, k_means(sample, count, seed), seed)))
        advance()
    return found


def silhouettes(points: Points, clusters: Clusters, seed: int) -> NDArray[np.float64]:
    """The silhouette (N,) of each point that is in a cluster (Rousseeuw, 1987, by sklearn), from -1 to 1.

    1 where it lies far nearer to its own cluster than to the next one, below 0 where another one is nearer. Of more
    than 5,000 points only so many, drawn by the seed, have one; the others, and all where there are not two clusters,
    NaN.
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_samples
    from threadpoolctl import threadpool_limits

    values = np.full(len(points), np.nan)
    clustered = np.flatnonzero(clusters != NOISE)
    places = clustered[some_places(len(clustered), MOST_JUDGED, seed)]
    num_clusters = len(np.unique(clusters[places]))
    if 2 <= num_clusters < len(places):
        with threadpool_limits(1), config_context(working_memory=_MEGABYTES):
            values[places] = silhouette_samples(points[places], clusters[places])
    return values


def centre_distances(points: Points, clusters: Clusters) -> NDArray[np.float32]:
    """The distance (N,) of each point to the mean of its cluster's; NaN of NOISE."""
    num_clusters = int(clusters.max(initial=NOISE)) + 1
    centres = np.zeros((num_clusters, points.shape[1]))
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(points), _BLOCK)]
    for block in blocks:
        inside = clusters[block] != NOISE
        np.add.at(centres, clusters[block][inside], points[block][inside])
    centres /= np.bincount(clusters[clusters != NOISE], minlength=num_clusters)[:, None]
    distances = np.full(len(points), np.nan, np.float32)
    for block in blocks:
        inside = clusters[block] != NOISE
        distances[block][inside] = np.linalg.norm(points[block][inside] - centres[clusters[block][inside]], axis=1)
    return distances


def agreement(labels: NDArray[np.int32], clusters: Clusters) -> Agreement:
    """How well clusters (N,) and labels (N,) agree; NOISE counts as a cluster of its own."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = cross_table(labels, clusters)
    nmi, ari = normalized_mutual_info_score(labels, clusters), adjusted_rand_score(labels, clusters)
    return Agreement(float(nmi), float(ari), float(table.max(axis=0).sum() / len(labels)))


def nmi_without_each(labels: NDArray[np.int32], clusters: Clusters, blocks: NDArray[np.int64]) -> NDArray[np.float64]:
    """The NMI of labels (N,) and clusters without the images of each block in turn; `blocks` (N,) numbers these."""
    num_columns = int(clusters.max()) + 2
    cells, inverse = np.unique(labels.astype(np.int64) * num_columns + clusters + 1, return_inverse=True)
    label_of, cluster_of = np.divmod(cells, num_columns)
    counts = np.bincount(inverse)
    values = []
    for block in range(int(blocks.max()) + 1):
        left = counts - np.bincount(inverse[blocks == block], minlength=len(counts))
        values.append(_nmi(left / left.sum(), label_of, cluster_of))
    return np.array(values)


def _nmi(shares: NDArray[np.float64], labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> float:
    """Of shares of the images, each with its label and its cluster; as in sklearn.metrics."""
    of_labels, of_clusters = np.bincount(labels, shares), np.bincount(clusters, shares)
    there = shares > 0
    expected = of_labels[labels] * of_clusters[clusters]
    shared = float((shares[there] * np.log(shares[there] / expected[there])).sum())
    entropies = sum(float(-(some[some > 0] * np.log(some[some > 0])).sum()) for some in (of_labels, of_clusters))
    return 2 * max(shared, 0.0) / entropies if entropies > 0 else 1.0


def cross_table(labels: NDArray[np.int32], clusters: Clusters) -> NDArray[np.int64]:
    """How many images have each label (rows) and lie in each cluster (columns); the first column is NOISE."""
    table = np.zeros((int(labels.max()) + 1, int(clusters.max()) + 2), np.int64)
    np.add.at(table, (labels, clusters + 1), 1)
    return table


def _by_size(clusters: NDArray[np.integer]) -> Clusters:
    """Clusters numbered anew: the largest first, of equal ones that whose first member comes first."""
    found, firsts, inverse, counts = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    sizes = np.where(found == NOISE, len(clusters) + 1, counts)  # NOISE comes first, and is given no number
    order = np.lexsort((firsts, -sizes))
    numbers = np.empty(len(found), np.int32)
    numbers[order] = np.arange(len(found)) - int(NOISE in found)
    numbered: Clusters = numbers[inverse]
    return numbered
