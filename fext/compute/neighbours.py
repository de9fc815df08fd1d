"""The nearest rows of each row of a table, exactly, a block of rows against another at a time."""

from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAX_BLOCK_ROWS, _MAX_BLOCK_BYTES = 2048, 256 * 2**20


class Neighbours(NamedTuple):
    """Of each row its nearest others, the nearest first: their places and their cosine similarities, (N, K)."""

    places: NDArray[np.int32]
    similarities: NDArray[np.float32]


def of_length_one(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row scaled to the length 1, so that a product of two is their cosine similarity; zeros stay zeros."""
    length = float(np.linalg.norm(row.astype(np.float64)))
    return row / np.float32(length) if length else row


def num_block_pairs(num_rows: int, num_values: int) -> int:
    """How often find_neighbours tells of its progress."""
    num_blocks = len(_blocks(num_rows, num_values))
    return num_blocks * (num_blocks + 1) // 2


def find_neighbours(rows: NDArray[np.float32], count: int, advance: Callable[[], None]) -> Neighbours:
    """The `count` nearest others of each row by cosine similarity; fewer where there are no more.

    `rows` (N, D) are of length 1 and may be mapped from a file: two blocks of at most 256 MB are in memory at a time.
    Of equally near ones the first comes first. `advance` is called after each pair of blocks.
    """
    num_rows = len(rows)
    count = max(0, min(count, num_rows - 1))
    found = Neighbours(np.zeros((num_rows, count), np.int32), np.full((num_rows, count), -np.inf, np.float32))
    for one, other in combinations_with_replacement(_blocks(*rows.shape), 2):
        similar = rows[one] @ rows[other].T
        if one == other:
            np.fill_diagonal(similar, -np.inf)  # a row is no neighbour of itself
        else:
            _take(found, other, one, similar.T)
        _take(found, one, other, similar)
        advance()
    return found


def _blocks(num_rows: int, num_values: int) -> list[slice]:
    size = max(1, min(_MAX_BLOCK_ROWS, _MAX_BLOCK_BYTES // (4 * num_values)))
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _take(found: Neighbours, rows: slice, others: slice, similar: NDArray[np.float32]) -> None:
    """Keep the nearest of those found before and of a block of others."""
    count = found.places.shape[1]
    new = np.broadcast_to(np.arange(others.start, others.stop, dtype=np.int32), similar.shape)
    places = np.concatenate([found.places[rows], new], axis=1)
    similarities = np.concatenate([found.similarities[rows], similar], axis=1)
    nearest = np.argpartition(-similarities, count - 1, axis=1)[:, :count] if count else places[:, :0]
    places, similarities = (np.take_along_axis(values, nearest, axis=1) for values in (places, similarities))
    order = np.lexsort((places, -similarities), axis=1)
    found.places[rows] = np.take_along_axis(places, order, axis=1)
    found.similarities[rows] = np.take_along_axis(similarities, order, axis=1)
