"""The split: which images a model trains on and which it is tested on."""

from collections.abc import Sequence

import numpy as np
import pytest

from fext.data.split import Split, num_across, sampling_order, split_by_folder, split_images
from fext.errors import TooFewImagesError

Groups = Sequence[Sequence[int]]
NAMES = [f"{number:03}.png" for number in range(100)]


def images(names: Sequence[str]) -> list[tuple[str, str]]:
    """(name, checksum) pairs of images that all differ."""
    return [(name, f"checksum of {name}") for name in names]


def split_pairs(pairs: list[tuple[str, str]], num_train: int, num_test: int, copies: Groups = ()) -> Split:
    """The split of (name, checksum) pairs."""
    names, checksums = zip(*pairs, strict=True) if pairs else ((), ())
    return split_images(names, np.array(checksums, "U"), num_train, num_test, copies)


def split_folders(
    train: list[tuple[str, str]], test: list[tuple[str, str]], copies: Groups
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    """The split of (name, checksum) pairs in two folders."""
    names, checksums = zip(*train, *test, strict=True)
    return split_by_folder(names, np.array(checksums), len(train), copies)


def test_the_sampling_order_holds_every_name_once_and_is_fixed_by_the_seed() -> None:
    order = sampling_order(NAMES, seed=1)
    assert sorted(order) == NAMES
    assert order == sampling_order(NAMES, seed=1)
    assert order != sampling_order(NAMES, seed=2)
    assert order != NAMES


def test_a_seed_gives_the_same_order_on_every_machine_and_in_every_version() -> None:
    assert sampling_order(list("abcdefgh"), seed=42) == list("dechgbfa")


def test_the_same_images_are_split_the_same_and_another_seed_splits_them_otherwise() -> None:
    first, again, other = (split_pairs(images(sampling_order(NAMES, seed)), 60, 40) for seed in (1, 1, 2))
    assert first == again
    assert set(first.test) != set(other.test)


@pytest.mark.parametrize(("num_train", "num_test"), [(60, 40), (30, 10), (1, 1), (99, 1), (1, 99)])
def test_where_there_are_enough_images_both_sides_have_exactly_the_asked_number(num_train: int, num_test: int) -> None:
    split = split_pairs(images(sampling_order(NAMES, 7)), num_train, num_test)
    assert (len(split.train), len(split.test)) == (num_train, num_test)
    assert not set(split.train) & set(split.test)
    assert set(split.train) | set(split.test) <= set(NAMES)


@pytest.mark.parametrize(
    ("num_train", "num_test", "expected_test"), [(8000, 2000, 20), (300, 100, 25), (5000, 5000, 50), (10**6, 1, 1)]
)
def test_where_there_are_fewer_all_are_used_in_the_asked_proportion(
    num_train: int, num_test: int, expected_test: int
) -> None:
    split = split_pairs(images(NAMES), num_train, num_test)
    assert len(split.test) == expected_test
    assert sorted(split.train + split.test) == NAMES


def test_even_two_images_fill_both_sides() -> None:
    for num_train, num_test in ((8000, 2000), (1, 8000), (1, 1)):
        split = split_pairs(images(["a", "b"]), num_train, num_test)
        assert (len(split.train), len(split.test)) == (1, 1)


def test_each_side_is_sorted_by_bytes() -> None:
    split = split_pairs(images(["é", "b", "B", "a/b", "a.b", "z"]), 4, 2)
    for side in (split.train, split.test):
        assert list(side) == sorted(side, key=lambda name: name.encode())


@pytest.mark.parametrize("num_contents", [2, 3, 7, 30])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_identical_images_never_sit_on_both_sides(num_contents: int, seed: int) -> None:
    content = {name: str(position % num_contents) for position, name in enumerate(NAMES)}
    split = split_pairs([(name, content[name]) for name in sampling_order(NAMES, seed)], 80, 20)
    assert split.train
    assert split.test
    assert sorted(split.train + split.test) == NAMES
    assert not {content[name] for name in split.train} & {content[name] for name in split.test}


def test_copies_do_not_keep_the_test_side_from_its_size_where_single_images_can_fill_it() -> None:
    copies = [(f"copy{number}", "same") for number in range(50)]
    split = split_pairs(copies + images(NAMES[:50]), 80, 20)
    assert (len(split.train), len(split.test)) == (80, 20)


@pytest.mark.parametrize("contents", [[], ["a"], ["a", "a"], ["a"] * 10])
def test_fewer_than_two_different_images_are_refused(contents: list[str]) -> None:
    pairs = [(f"{position}.png", content) for position, content in enumerate(contents)]
    with pytest.raises(TooFewImagesError, match="at least 2 different images"):
        split_pairs(pairs, 8, 2)


# --- near copies


def pairs_of(names: Sequence[str], size: int, count: int) -> list[list[int]]:
    """The first `count` groups of so many images, which lie far apart in the order."""
    step = len(names) // size
    return [[first + step * number for number in range(size)] for first in range(count)]


@pytest.mark.parametrize(("size", "count"), [(2, 1), (2, 50), (3, 33), (7, 10), (20, 3), (50, 1), (80, 1)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_near_copies_stay_on_one_side_and_cost_no_side_more_than_a_tenth(size: int, count: int, seed: int) -> None:
    order = sampling_order(NAMES, seed)
    copies = pairs_of(order, size, count)
    split = split_pairs(images(order), 80, 20, copies)
    assert num_across(copies, order, split) == 0
    assert sorted(split.train + split.test) == NAMES
    assert 18 <= len(split.test) <= 28
    assert split == split_pairs(images(order), 80, 20, copies)


def test_without_near_copies_the_split_is_what_it_was() -> None:
    order = images(sampling_order(NAMES, 4))
    assert split_pairs(order, 80, 20, [[3]]) == split_pairs(order, 80, 20)


def test_where_one_group_holds_nearly_all_it_alone_is_taken_apart() -> None:
    order = sampling_order(NAMES, 5)
    film = list(range(90))
    copies = [film, [90, 95], [91, 96], [92, 97]]
    split = split_pairs(images(order), 80, 20, copies)
    assert len(split.test) == 20
    assert num_across([film], order, split) == 90
    assert num_across(copies[1:], order, split) == 0


def test_identical_images_stay_together_where_their_near_copies_cannot() -> None:
    order = sampling_order(NAMES, 6)
    content = {name: str(place // 2) for place, name in enumerate(order)}
    everything = [list(range(100))]
    split = split_pairs([(name, content[name]) for name in order], 80, 20, everything)
    assert (len(split.train), len(split.test)) == (80, 20)
    assert not {content[name] for name in split.train} & {content[name] for name in split.test}


def test_two_near_copies_alone_are_one_to_train_and_one_to_test_on() -> None:
    split = split_pairs(images(["a", "b"]), 8, 2, [[0, 1]])
    assert (len(split.train), len(split.test)) == (1, 1)


def test_a_train_image_that_is_a_copy_of_a_test_image_is_left_out() -> None:
    train, test = images(NAMES[:50]), images(NAMES[50:70])
    train[7] = ("same", test[3][1])
    copies = [[7, 53], [1, 2], [4, 5, 60], [51, 52]]
    split, exact, near = split_folders(train, test, copies)
    assert exact == ("same",)
    assert near == (NAMES[4], NAMES[5])
    assert set(split.train) == {name for name, _ in train} - {"same", NAMES[4], NAMES[5]}
    assert split.test == tuple(NAMES[50:70])


def test_where_too_many_train_images_are_near_copies_of_test_images_the_largest_groups_stay() -> None:
    copies = [[*range(20), 50], [20, 21, 51], [22, 52]]
    split, exact, near = split_folders(images(NAMES[:50]), images(NAMES[50:70]), copies)
    assert (exact, near) == ((), (NAMES[20], NAMES[21], NAMES[22]))
    assert len(split.train) == 47
    assert num_across(copies, NAMES, split) == 21
