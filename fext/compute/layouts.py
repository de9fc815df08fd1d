"""Laying out points of many dimensions on a plane."""

import numpy as np
from numpy.typing import NDArray

FEWEST = 5  # points that t-SNE can lay out
_LARGEST_PERPLEXITY = 30


def tsne(points: NDArray[np.floating], seed: int) -> NDArray[np.float64]:
    """Places (N, 2) by t-SNE (van der Maaten and Hinton, 2008; sklearn's TSNE), of at least 5 points (N, K), K >= 2.

    They start at the first two principal components. 5,000 points of 50 dimensions take half a minute on one core.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(_LARGEST_PERPLEXITY, (len(points) - 1) / 3)
    # On one thread: the sums of several come in no fixed order, and the map would be another one each time.
    with threadpool_limits(1):
        found: NDArray[np.float64] = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return found.astype(np.float64)
