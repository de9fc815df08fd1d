"""The split: which images a model trains on and which it is tested on."""

import pytest

from fext.data.split import sampling_order, split_images
from fext.errors import TooFewImagesError

NAMES = [f"{number:03}.png" for number in range(100)]


def images(names: list[str]) -> list[tuple[str, str]]:
    """(name, checksum) pairs of images that all differ."""
    return [(name, f"checksum of {name}") for name in names]


def test_the_sampling_order_holds_every_name_once_and_is_fixed_by_the_seed() -> None:
    order = sampling_order(NAMES, seed=1)
    assert sorted(order) == NAMES
    assert order == sampling_order(NAMES, seed=1)
    assert order != sampling_order(NAMES, seed=2)
    assert order != NAMES


def test_a_seed_gives_the_same_order_on_every_machine_and_in_every_version() -> None:
    assert sampling_order(list("abcdefgh"), seed=42) == list("dechgbfa")


def test_the_same_images_are_split_the_same_and_another_seed_splits_them_otherwise() -> None:
    first, again, other = (split_images(images(sampling_order(NAMES, seed)), 60, 40) for seed in (1, 1, 2))
    assert first == again
    assert set(first.test) != set(other.test)


@pytest.mark.parametrize(("num_train", "num_test"), [(60, 40), (30, 10), (1, 1), (99, 1), (1, 99)])
def test_where_there_are_enough_images_both_sides_have_exactly_the_asked_number(num_train: int, num_test: int) -> None:
    split = split_images(images(sampling_order(NAMES, 7)), num_train, num_test)
    assert (len(split.train), len(split.test)) == (num_train, num_test)
    assert not set(split.train) & set(split.test)
    assert set(split.train) | set(split.test) <= set(NAMES)


@pytest.mark.parametrize(
    ("num_train", "num_test", "expected_test"), [(8000, 2000, 20), (300, 100, 25), (5000, 5000, 50), (10**6, 1, 1)]
)
def test_where_there_are_fewer_all_are_used_in_the_asked_proportion(
    num_train: int, num_test: int, expected_test: int
) -> None:
    split = split_images(images(NAMES), num_train, num_test)
    assert len(split.test) == expected_test
    assert sorted(split.train + split.test) == NAMES


def test_even_two_images_fill_both_sides() -> None:
    for num_train, num_test in ((8000, 2000), (1, 8000), (1, 1)):
        split = split_images(images(["a", "b"]), num_train, num_test)
        assert (len(split.train), len(split.test)) == (1, 1)


def test_each_side_is_sorted_by_bytes() -> None:
    split = split_images(images(["é", "b", "B", "a/b", "a.b", "z"]), 4, 2)
    for side in (split.train, split.test):
        assert list(side) == sorted(side, key=lambda name: name.encode())


@pytest.mark.parametrize("num_contents", [2, 3, 7, 30])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_identical_images_never_sit_on_both_sides(num_contents: int, seed: int) -> None:
    content = {name: str(position % num_contents) for position, name in enumerate(NAMES)}
    split = split_images([(name, content[name]) for name in sampling_order(NAMES, seed)], 80, 20)
    assert split.train
    assert split.test
    assert sorted(split.train + split.test) == NAMES
    assert not {content[name] for name in split.train} & {content[name] for name in split.test}


def test_copies_do_not_keep_the_test_side_from_its_size_where_single_images_can_fill_it() -> None:
    copies = [(f"copy{number}", "same") for number in range(50)]
    split = split_images(copies + images(NAMES[:50]), 80, 20)
    assert (len(split.train), len(split.test)) == (80, 20)


@pytest.mark.parametrize("contents", [[], ["a"], ["a", "a"], ["a"] * 10])
def test_fewer_than_two_different_images_are_refused(contents: list[str]) -> None:
    pairs = [(f"{position}.png", content) for position, content in enumerate(contents)]
    with pytest.raises(TooFewImagesError, match="at least 2 different images"):
        split_images(pairs, 8, 2)
