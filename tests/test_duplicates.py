"""Copies among pictures: every pair of near hashes is found, and groups hold together."""

from itertools import combinations

import numpy as np

from fext.data.duplicates import MAX_DISTANCE, group_copies, near_pairs


def always(_one: int, _other: int) -> bool:
    return True


def never(_one: int, _other: int) -> bool:
    return False


def test_every_pair_within_the_distance_is_found_and_no_other() -> None:
    random = np.random.default_rng(1)
    some = random.integers(0, 2**63, 60, dtype=np.uint64)
    flips = [
        sum(1 << int(bit) for bit in random.choice(64, count, replace=False)) for count in range(1, 13) for _ in "ab"
    ]
    hashes = np.concatenate([some, some[: len(flips)] ^ np.array(flips, np.uint64)])
    expected = {
        (one, other)
        for one, other in combinations(range(len(hashes)), 2)
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= MAX_DISTANCE
    }
    assert len(expected) >= 2 * MAX_DISTANCE
    assert set(near_pairs(hashes)) == expected


def test_equal_bytes_are_copies_whatever_they_look_like() -> None:
    hashes = np.array([0, 2**64 - 1, 0], np.uint64)
    assert group_copies(["a", "b", "a"], hashes, never) == [[0, 2]]


def test_near_hashes_are_copies_only_where_the_pictures_look_alike() -> None:
    hashes = np.array([0, 1, 2**64 - 1], np.uint64)
    assert group_copies(["a", "b", "c"], hashes, always) == [[0, 1]]
    assert group_copies(["a", "b", "c"], hashes, never) == []


def test_a_copy_of_a_copy_is_in_the_same_group() -> None:
    hashes = np.array([0b1111_1111_1111, 0b1111_1111, 0], np.uint64)  # 0 and 2 differ in twelve bits
    assert group_copies(["a", "b", "c"], hashes, always) == [[0, 1, 2]]


def test_no_pictures_are_no_copies() -> None:
    assert group_copies([], np.array([], np.uint64), always) == []
