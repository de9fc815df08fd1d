"""The split: which images a model trains on, by which its epoch is chosen, and which it is tested on."""

from collections.abc import Sequence

import numpy as np
import pytest

from fext.data.split import FolderSplit, Split, num_across, sampling_order, split_by_folder, split_images
from fext.errors import TooFewImagesError

Groups = Sequence[Sequence[int]]
NAMES = [f"{number:03}.png" for number in range(100)]


def images(names: Sequence[str]) -> list[tuple[str, str]]:
    """(name, checksum) pairs of images that all differ."""
    return [(name, f"checksum of {name}") for name in names]


def split_pairs(pairs: list[tuple[str, str]], num_train: int, num_test: int, copies: Groups = ()) -> Split:
    """The split of (name, checksum) pairs."""
    names, checksums = zip(*pairs, strict=True) if pairs else ((), ())
    return split_images(names, np.array(checksums, "U"), num_train, num_test, 0.1, copies)


def split_folders(
    train: list[tuple[str, str]],
    test: list[tuple[str, str]],
    copies: Groups,
    validation: Sequence[tuple[str, str]] = (),
) -> FolderSplit:
    """The split of (name, checksum) pairs in two or three folders; copies are places of train, validation, test."""
    names, checksums = zip(*train, *validation, *test, strict=True)
    return split_by_folder(names, np.array(checksums), (len(train), len(validation), len(test)), 0.1, copies)


def sizes(split: Split) -> tuple[int, int, int]:
    """How many images are on each side."""
    return len(split.train), len(split.validation), len(split.test)


def assert_no_content_on_two_sides(split: Split, content: dict[str, str]) -> None:
    """No two sides have an image in common, nor one of the same content."""
    sides = [{content[name] for name in names} for _, names in split.sides()]
    assert len(set.union(*sides)) == sum(map(len, sides))
    assert all(sides)


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


@pytest.mark.parametrize(
    ("num_train", "num_test", "expected"),
    [(60, 40, (54, 6, 40)), (30, 10, (27, 3, 10)), (2, 1, (1, 1, 1)), (99, 1, (89, 10, 1)), (2, 98, (1, 1, 98))],
)
def test_where_there_are_enough_images_all_sides_have_exactly_the_asked_number(
    num_train: int, num_test: int, expected: tuple[int, int, int]
) -> None:
    split = split_pairs(images(sampling_order(NAMES, 7)), num_train, num_test)
    assert sizes(split) == expected
    assert len(set(split.names())) == num_train + num_test
    assert set(split.names()) <= set(NAMES)


@pytest.mark.parametrize(("share", "expected"), [(0.1, 8), (0.5, 40), (0.001, 1), (0.9999, 79)])
def test_validation_images_are_a_share_of_those_for_training_and_leave_the_test_images_as_they_are(
    share: float, expected: int
) -> None:
    names = sampling_order(NAMES, 7)
    checksums = np.array(list(names))
    split = split_images(names, checksums, 80, 20, share)
    assert sizes(split) == (80 - expected, expected, 20)
    assert split.test == split_images(names, checksums, 80, 20, 0.25).test


@pytest.mark.parametrize(
    ("num_train", "num_test", "expected_test"), [(8000, 2000, 20), (300, 100, 25), (5000, 5000, 50), (10**6, 1, 1)]
)
def test_where_there_are_fewer_all_are_used_in_the_asked_proportion(
    num_train: int, num_test: int, expected_test: int
) -> None:
    split = split_pairs(images(NAMES), num_train, num_test)
    assert len(split.test) == expected_test
    assert len(split.validation) == round((100 - expected_test) / 10)
    assert sorted(split.names()) == NAMES


def test_even_three_images_fill_all_sides() -> None:
    for num_train, num_test in ((8000, 2000), (2, 8000), (2, 1)):
        assert sizes(split_pairs(images(["a", "b", "c"]), num_train, num_test)) == (1, 1, 1)


def test_each_side_is_sorted_by_bytes() -> None:
    split = split_pairs(images(["é", "b", "B", "a/b", "a.b", "z"]), 4, 2)
    for _, side in split.sides():
        assert list(side) == sorted(side, key=lambda name: name.encode())


@pytest.mark.parametrize("num_contents", [3, 4, 7, 30])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_identical_images_never_sit_on_two_sides(num_contents: int, seed: int) -> None:
    content = {name: str(position % num_contents) for position, name in enumerate(NAMES)}
    split = split_pairs([(name, content[name]) for name in sampling_order(NAMES, seed)], 80, 20)
    assert sorted(split.names()) == NAMES
    assert_no_content_on_two_sides(split, content)


def test_where_one_content_is_nearly_all_there_is_the_others_fill_the_other_sides() -> None:
    content = dict.fromkeys(NAMES, "same") | {NAMES[40]: "one", NAMES[60]: "other"}
    for copies in ((), [[40, 60]], [[0, 40]]):
        split = split_pairs([(name, content[name]) for name in NAMES], 80, 20, copies)
        assert sizes(split) == (98, 1, 1)
        assert_no_content_on_two_sides(split, content)


def test_copies_do_not_keep_the_test_side_from_its_size_where_single_images_can_fill_it() -> None:
    copies = [(f"copy{number}", "same") for number in range(50)]
    assert sizes(split_pairs(copies + images(NAMES[:50]), 80, 20)) == (72, 8, 20)


@pytest.mark.parametrize("contents", [[], ["a"], ["a", "b"], ["a", "b", "a"], ["a"] * 10])
def test_fewer_than_three_different_images_are_refused(contents: list[str]) -> None:
    pairs = [(f"{position}.png", content) for position, content in enumerate(contents)]
    with pytest.raises(TooFewImagesError, match="at least 3 different images"):
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
    for_training = Split(split.train + split.validation, (), split.test)
    assert num_across(copies, order, for_training) == 0
    if size < 80:  # else nearly all that is for training is one group, which the validation images are a part of
        assert num_across(copies, order, split) == 0
    assert sorted(split.names()) == NAMES
    assert 18 <= len(split.test) <= 28
    assert 4 <= len(split.validation) <= 20
    assert split == split_pairs(images(order), 80, 20, copies)


def test_without_near_copies_the_split_is_what_it_was() -> None:
    order = images(sampling_order(NAMES, 4))
    assert split_pairs(order, 80, 20, [[3]]) == split_pairs(order, 80, 20)


def test_where_one_group_holds_nearly_all_it_alone_is_taken_apart() -> None:
    order = sampling_order(NAMES, 5)
    film = list(range(90))
    copies = [film, [90, 95], [91, 96], [92, 97]]
    split = split_pairs(images(order), 80, 20, copies)
    assert sizes(split) == (72, 8, 20)
    assert num_across([film], order, split) == 90
    assert num_across(copies[1:], order, split) == 0


def test_identical_images_stay_together_where_their_near_copies_cannot() -> None:
    order = sampling_order(NAMES, 6)
    content = {name: str(place // 2) for place, name in enumerate(order)}
    everything = [list(range(100))]
    split = split_pairs([(name, content[name]) for name in order], 80, 20, everything)
    assert sizes(split) == (72, 8, 20)
    assert_no_content_on_two_sides(split, content)


def test_three_near_copies_alone_are_one_on_each_side() -> None:
    for copies in ([[0, 1, 2]], [[0, 1]], [[1, 2]]):
        assert sizes(split_pairs(images(["a", "b", "c"]), 8, 2, copies)) == (1, 1, 1)


def test_a_train_image_that_is_a_copy_of_a_test_image_is_left_out() -> None:
    train, test = images(NAMES[:50]), images(NAMES[50:70])
    train[7] = ("same", test[3][1])
    copies = [[7, 53], [1, 2], [4, 5, 60], [51, 52]]
    found = split_folders(train, test, copies)
    assert found.exact == {"same": "test/"}
    assert found.near == {NAMES[4]: "test/", NAMES[5]: "test/"}
    split = found.split
    assert {*split.train, *split.validation} == {name for name, _ in train} - {"same", NAMES[4], NAMES[5]}
    assert len(split.validation) == 5
    assert split.test == tuple(NAMES[50:70])
    assert num_across(copies, [name for name, _ in train + test], split) == 0


def test_where_too_many_train_images_are_near_copies_of_test_images_the_largest_groups_stay() -> None:
    copies = [[*range(20), 50], [20, 21, 51], [22, 52]]
    found = split_folders(images(NAMES[:50]), images(NAMES[50:70]), copies)
    assert (found.exact, set(found.near)) == ({}, {NAMES[20], NAMES[21], NAMES[22]})
    assert sizes(found.split) == (42, 5, 20)
    assert num_across(copies, NAMES, found.split) >= 21


def test_a_folder_of_validation_images_is_used_and_has_no_copies_in_the_others() -> None:
    train, validation, test = images(NAMES[:50]), images(NAMES[50:60]), images(NAMES[60:80])
    train[3], validation[4], train[5] = (("a", "x"), ("b", "x"), ("c", test[0][1]))
    found = split_folders(train, test, [[7, 52], [8, 9], [57, 79]], validation)
    assert found.exact == {"a": "validation/", "c": "test/"}
    assert found.near == {NAMES[7]: "validation/", NAMES[57]: "test/"}
    assert sizes(found.split) == (47, 9, 20)


def test_folders_need_an_image_for_each_side() -> None:
    one, two, three = ([("a", "a")], [("b", "b"), ("c", "c")], [("t", "t")])
    assert sizes(split_folders(two, three, []).split) == (1, 1, 1)
    for train, validation in ((one, ()), (three * 2, one), ([("x", "a"), ("y", "a")], ())):
        with pytest.raises(TooFewImagesError, match="choose the epoch by"):
            split_folders(train, three, [], validation)
