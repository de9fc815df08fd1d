"""Copies among pictures: every pair of near hashes is found, near copies look alike, and groups hold together."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from fext.data.duplicates import MAX_DIFFERENCE, MAX_DISTANCE, MIN_CORRELATION, group_copies, look_alike, near_blocks

Pictures = NDArray[np.uint8]


def all_alike(count: int) -> Callable[[NDArray[np.intp]], Pictures]:
    """Of some places small pictures that are one and the same."""
    picture = np.random.default_rng(0).integers(0, 256, 1024, dtype=np.uint8)
    return lambda places: np.tile(picture, (count, 1))[places]


def all_different(count: int) -> Callable[[NDArray[np.intp]], Pictures]:
    """Of some places small pictures of which no two look alike."""
    pictures = np.random.default_rng(0).integers(0, 256, (count, 1024), dtype=np.uint8)
    return lambda places: pictures[places]


def test_every_pair_within_the_distance_is_found_once_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fext.data.duplicates._BLOCK", 4)
    random = np.random.default_rng(1)
    some = random.integers(0, 2**63, 60, dtype=np.uint64)
    flips = [
        sum(1 << int(bit) for bit in random.choice(64, count, replace=False)) for count in range(1, 13) for _ in "ab"
    ]
    hashes = np.concatenate([some, some[: len(flips)] ^ np.array(flips, np.uint64), some[:3]])
    expected = [
        (one, other)
        for one, other in combinations(range(len(hashes)), 2)
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= MAX_DISTANCE
    ]
    assert len(expected) >= 2 * MAX_DISTANCE
    blocks = [(rows, columns, *np.nonzero(near)) for rows, columns, near in near_blocks(hashes)]
    found = [
        (int(rows[row]), int(columns[column]))
        for rows, columns, some, others in blocks
        for row, column in zip(some, others, strict=True)
    ]
    assert sorted((min(pair), max(pair)) for pair in found) == expected


def test_pictures_look_alike_where_they_correlate_and_are_nearly_equal() -> None:
    random = np.random.default_rng(2)
    base = random.integers(30, 226, 1024)
    noisy = [np.clip(base + random.normal(0, spread, 1024), 0, 255) for spread in (2, 8, 12, 14, 20, 40)]
    shifted = [np.clip(base + shift, 0, 255) for shift in (5, 15, 19, 22, 30)]
    pictures = np.rint([base, 255 - base, base / 2, np.full(1024, 90), *noisy, *shifted]).astype(np.uint8)
    expected = np.zeros((len(pictures), len(pictures)), bool)
    for one, other in np.ndindex(expected.shape):
        left, right = pictures[one] / 255, pictures[other] / 255
        if np.ptp(left) > 0 and np.ptp(right) > 0:
            is_near = np.sqrt(np.mean((left - right) ** 2)) <= MAX_DIFFERENCE
            expected[one, other] = np.corrcoef(left, right)[0, 1] >= MIN_CORRELATION and is_near
    assert 4 < expected[0].sum() < len(pictures) - 4
    assert np.array_equal(look_alike(pictures, pictures), expected)


def test_a_plain_picture_is_like_no_other() -> None:
    plain = np.full((2, 1024), 7, np.uint8)
    assert not look_alike(plain, plain).any()


def test_equal_bytes_are_copies_whatever_they_look_like() -> None:
    hashes = np.array([0, 2**64 - 1, 0], np.uint64)
    assert group_copies(np.array(["a", "b", "a"]), hashes, all_different(3)) == [[0, 2]]


def test_near_hashes_are_copies_only_where_the_pictures_look_alike() -> None:
    hashes = np.array([0, 1, 2**64 - 1], np.uint64)
    assert group_copies(np.array(["a", "b", "c"]), hashes, all_alike(3)) == [[0, 1]]
    assert group_copies(np.array(["a", "b", "c"]), hashes, all_different(3)) == []


def test_a_copy_of_a_copy_is_in_the_same_group() -> None:
    hashes = np.array([0b1111_1111_1111, 0b1111_1111, 0], np.uint64)  # 0 and 2 differ in twelve bits
    assert group_copies(np.array(["a", "b", "c"]), hashes, all_alike(3)) == [[0, 1, 2]]


def test_a_long_chain_of_copies_in_any_order_is_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fext.data.duplicates._BLOCK", 8)
    steps = [sum(1 << bit for bit in range(start, start + 8)) for start in range(0, 64, 8)]
    hashes = np.array([sum(steps[:count]) for count in range(9)] * 5, np.uint64)
    order = np.random.default_rng(0).permutation(len(hashes))
    groups = group_copies(order, hashes[order], all_alike(len(hashes)))
    assert groups == [list(range(len(hashes)))]


def test_no_pictures_are_no_copies() -> None:
    assert group_copies(np.array([], "S64"), np.array([], np.uint64), all_alike(0)) == []
