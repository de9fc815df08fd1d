"""What the latent holds together: nearest neighbours, and the images laid out on two maps of it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fext.compute import layouts
from fext.jobs.scoring import Sample

_NUM_QUERIES, _NUM_NEIGHBOURS = 6, 5
_COMPONENTS = 50


class Neighbour(NamedTuple):
    """The place in the sample of an image, and the cosine of its features with those of the one asked for."""

    place: int
    similarity: float


class Neighbourhood(NamedTuple):
    """An image of the sample and those nearest to it, the nearest first."""

    place: int
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class LatentMaps:
    """The sample on the plane of its two largest principal components and by t-SNE, each (images, 2)."""

    pca: NDArray[np.float64]
    tsne: NDArray[np.float64]
    pca_share: float  # of the variance


def find_neighbours(sample: Sample) -> list[Neighbourhood]:
    """Some images that the model was not trained on (else any), each with its nearest (sklearn's NearestNeighbors)."""
    from sklearn.neighbors import NearestNeighbors

    if len(sample.names) < 2:
        return []
    queries = np.flatnonzero(sample.subsets != "train")
    queries = queries if len(queries) else np.arange(len(sample.names))
    queries = queries[:: -(-len(queries) // _NUM_QUERIES)]
    index = NearestNeighbors(metric="cosine", algorithm="brute").fit(sample.features)
    distances, places = index.kneighbors(sample.features[queries], min(_NUM_NEIGHBOURS + 1, len(sample.names)))
    return [
        Neighbourhood(
            int(query),
            tuple(
                Neighbour(int(place), 1 - float(distance))
                for place, distance in zip(found, far, strict=True)
                if place != query
            )[:_NUM_NEIGHBOURS],
        )
        for query, found, far in zip(queries, places, distances, strict=True)
    ]


def lay_out(sample: Sample, seed: int) -> LatentMaps | None:
    """Both maps, None where there are too few images.

    Principal components by sklearn's PCA; t-SNE of at most 50 of them.
    """
    from sklearn.decomposition import PCA

    count = len(sample.names)
    if count < layouts.FEWEST or np.ptp(sample.features, axis=0).max() == 0:
        return None
    analysis = PCA(min(_COMPONENTS, count, sample.features.shape[1]), svd_solver="full")
    components = analysis.fit_transform(sample.features.astype(np.float64))
    if components.shape[1] < 2:
        return None
    share = float(analysis.explained_variance_ratio_[:2].sum())
    return LatentMaps(components[:, :2], layouts.tsne(components, seed), share)
