"""Copies among pictures: exact ones by the bytes of their files, near ones by perceptual hash and then by sight."""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fext.data.images import SMALL_SIDE

# What decides which pictures are near copies.
HASHED_BY = f"imagehash {importlib.metadata.version('imagehash')}"

HASH_BITS = 64
# Of 64 bits those that a resized or recompressed copy may differ in; two different photographs differ in some 32.
MAX_DISTANCE = 8
# Two small pictures are alike where their grey levels go together and are nearly equal, both on a scale from 0 to 1.
MIN_CORRELATION, MAX_DIFFERENCE = 0.97, 0.08
# Two pictures can differ in at most MAX_DISTANCE bits only if one of so many parts of their hashes is the same.
_NUM_BANDS = MAX_DISTANCE + 1
_BLOCK = 512  # pictures that are compared with as many others at a time

Block = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]


def perceptual_hash(small: NDArray[np.uint8]) -> bytes:
    """imagehash.phash of a small grey picture: signs of its 8x8 lowest frequencies beside their median, 8 bytes."""
    return np.packbits(imagehash.phash(Image.fromarray(small)).hash).tobytes()


def hashes_from_bytes(data: bytes | bytearray) -> NDArray[np.uint64]:
    """Hashes of 8 bytes each, one behind the other, as numbers."""
    return np.frombuffer(data, ">u8").astype(np.uint64)


def small_pictures(pictures: Sequence[bytes | None]) -> NDArray[np.uint8]:
    """Small pictures as rows; one that is not known is plain, and like no other."""
    plain = bytes(SMALL_SIDE**2)
    return np.frombuffer(b"".join(picture or plain for picture in pictures), np.uint8).reshape(-1, SMALL_SIDE**2)


def look_alike(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the small pictures (N, 32 * 32) and (M, 32 * 32) look alike: (N, M); a plain one is like no other.

    All sums are of whole numbers that the floating point numbers hold exactly: what is found of two pictures does not
    depend on which others they are compared with.
    """
    one, other = (pictures.astype(np.float32) - 128 for pictures in (left, right))  # 1,024 products are at most 2**24
    products = (one @ other.T).astype(np.float64)
    size = left.shape[1]
    (sums, squares), (other_sums, other_squares) = (
        (pictures.sum(axis=1, dtype=np.float64), (pictures**2).sum(axis=1, dtype=np.float64))
        for pictures in (one, other)
    )
    variances = np.outer(squares - sums**2 / size, other_squares - other_sums**2 / size)
    covariances = products - np.outer(sums, other_sums) / size
    differences = (squares[:, None] + other_squares - 2 * products) / size
    go_together = (variances > 0) & (covariances >= MIN_CORRELATION * np.sqrt(variances))
    are_equal = differences <= (MAX_DIFFERENCE * 255) ** 2
    found: NDArray[np.bool_] = go_together & are_equal
    return found


def near_blocks(hashes: NDArray[np.uint64]) -> Iterator[Block]:
    """Some places and others, (N,) and (M,), and which of their hashes differ in at most MAX_DISTANCE bits, (N, M).

    Each pair of different places comes once.
    """
    edges = np.linspace(0, HASH_BITS, _NUM_BANDS + 1).astype(int).tolist()
    bands = [np.uint64((2 ** (high - low) - 1) << low) for low, high in pairwise(edges)]
    for number, band in enumerate(bands):
        order = np.argsort(hashes & band, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(hashes[order] & band)) + 1):
            yield from _near_within(hashes, places, bands[:number])


def _near_within(
    hashes: NDArray[np.uint64], places: NDArray[np.intp], bands_before: Sequence[np.uint64]
) -> Iterator[Block]:
    for row in range(0, len(places), _BLOCK):
        for column in range(row, len(places), _BLOCK):
            rows, columns = places[row : row + _BLOCK], places[column : column + _BLOCK]
            differences = hashes[rows, None] ^ hashes[None, columns]
            near = np.bitwise_count(differences) <= MAX_DISTANCE
            if row == column:
                near = np.triu(near, 1)
            for band in bands_before:  # what is the same in one of these has come with it
                if near.any():
                    near &= differences & band != 0
            if near.any():
                yield rows, columns, near


def group_copies(
    checksums: NDArray[Any],
    hashes: NDArray[np.uint64],
    pictures_of: Callable[[NDArray[np.intp]], NDArray[np.uint8]],
) -> list[list[int]]:
    """Groups of two or more pictures that are copies of one another, each sorted, in the order of their first.

    Of each picture there is a checksum, the same for the same bytes, and a perceptual hash; where hashes are near, the
    small pictures that `pictures_of` gives for some places, (N, 32 * 32) grey levels, decide. A copy of a copy is in
    the same group.
    """
    _, first, content = np.unique(checksums, return_index=True, return_inverse=True)
    groups = _Groups(first[content])
    for rows, columns, near in near_blocks(hashes):
        is_open = near & (groups.leaders(rows)[:, None] != groups.leaders(columns))
        if is_open.any():
            row, column = np.flatnonzero(is_open.any(axis=1)), np.flatnonzero(is_open.any(axis=0))
            rows, columns, is_open = rows[row], columns[column], is_open[np.ix_(row, column)]
            one, other = np.nonzero(is_open & look_alike(pictures_of(rows), pictures_of(columns)))
            groups.join(rows[one], columns[other])
    return groups.of_several()


class _Groups:
    """Which places belong together: each knows one before it, and the first of a group itself."""

    def __init__(self, before: NDArray[np.intp]) -> None:
        self._before = before

    def leaders(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """The first of the group of each place."""
        found = self._before[places]
        while not np.array_equal(found, further := self._before[found]):
            self._before[places] = found = further
        return found

    def join(self, one: NDArray[np.intp], other: NDArray[np.intp]) -> None:
        """Join pairs of places, of which there may be many more than groups."""
        while one.size:
            first, second = self.leaders(one), self.leaders(other)
            is_open = first != second
            one, other = np.minimum(first, second)[is_open], np.maximum(first, second)[is_open]
            np.minimum.at(self._before, other, one)

    def of_several(self) -> list[list[int]]:
        leaders = self.leaders(np.arange(len(self._before)))
        order = np.argsort(leaders, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(leaders[order])) + 1)
        return [group.tolist() for group in groups if len(group) > 1]
