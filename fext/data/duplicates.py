"""Copies among pictures: exact ones by the bytes of their files, near ones by perceptual hash and then by sight."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
# Of 64 bits those that a resized or recompressed copy may differ in; two different photographs differ in some 32.
MAX_DISTANCE = 8
# Two pictures can differ in at most MAX_DISTANCE bits only if one of so many parts of their hashes is the same.
_NUM_BANDS = MAX_DISTANCE + 1
_BLOCK = 2048  # hashes that are compared with one another at a time


def near_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """The places (i, j), i < j, of hashes that differ in at most MAX_DISTANCE bits; a pair may come more than once."""
    edges = np.linspace(0, HASH_BITS, _NUM_BANDS + 1).astype(int)
    for low, high in pairwise(edges.tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(band, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            yield from _near_within(hashes, places)


def _near_within(hashes: NDArray[np.uint64], places: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    for row in range(0, len(places), _BLOCK):
        for column in range(row, len(places), _BLOCK):
            rows, columns = places[row : row + _BLOCK], places[column : column + _BLOCK]
            distances = np.bitwise_count(hashes[rows, None] ^ hashes[None, columns])
            for one, other in zip(*np.nonzero(distances <= MAX_DISTANCE), strict=True):
                if rows[one] < columns[other]:
                    yield int(rows[one]), int(columns[other])


def group_copies(
    checksums: Sequence[str], hashes: NDArray[np.uint64], look_alike: Callable[[int, int], bool]
) -> list[list[int]]:
    """Groups of two or more pictures that are copies of one another, each sorted, in the order of their first.

    `hashes` are perceptual ones, one for each picture; where they are near, `look_alike` has the last word.
    """
    leaders = list(range(len(checksums)))

    def leader(place: int) -> int:
        while leaders[place] != place:
            leaders[place] = leaders[leaders[place]]
            place = leaders[place]
        return place

    def join(one: int, other: int) -> None:
        first, second = sorted((leader(one), leader(other)))
        leaders[second] = first

    seen: dict[str, int] = {}
    for place, checksum in enumerate(checksums):
        join(seen.setdefault(checksum, place), place)
    for one, other in near_pairs(hashes):
        if leader(one) != leader(other) and look_alike(one, other):
            join(one, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(checksums)):
        groups.setdefault(leader(place), []).append(place)
    return [group for group in groups.values() if len(group) > 1]
