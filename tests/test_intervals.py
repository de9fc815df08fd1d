"""Intervals of means: right where images are independent, and where they belong together in groups."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fext.data.groups import Way, group_images
from fext.model.intervals import Interval, difference_interval, mean_interval, share_interval

# ---------------------------------------------------------------- which images belong together


def numbered(form: str, names: int, each: int) -> list[str]:
    """A form such as '{0}_{1}' for so many names with so many numbers each."""
    letters = [f"{chr(97 + name % 26)}{chr(97 + name // 26)}x" for name in range(names)]
    return [form.format(letters[name], number) for name in range(names) for number in range(each)]


def tiles(names: int, rows: int = 3, columns: int = 2) -> list[str]:
    return [f"{base}_{row}_{column}.png" for base in numbered("{0}", names, 1) for row in range(rows)
            for column in range(columns)]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (tiles(8), 8),
        (["".join(("dark/" if number % 2 else "bright/", name)) for number, name in enumerate(tiles(8))], 8),
        (numbered("{0}_{1}.jpg", 12, 3), 12),
        (numbered("{0}-{1:03}.jpg", 12, 3), 12),
        (numbered("{0} ({1}).jpg", 12, 3), 12),
        (numbered("{0}{1}.jpg", 12, 3), 12),
        (numbered("folder/{0}_{1}.jpg", 12, 3), 12),
        ([f"patient_{number}_{shot}.png" for number in range(20) for shot in range(3)], 20),
        (numbered("{0}_{1}.jpg", 12, 3) + [f"IMG_{number}.jpg" for number in range(30)], 42),
    ],
)
def test_tiles_and_shots_of_one_thing_belong_together(names: list[str], count: int) -> None:
    groups = group_images(names, "auto")
    assert (groups.by, groups.count) == ("names", count)
    assert f"count {count} groups, not {len(names)} images" in groups.sentence()


@pytest.mark.parametrize(
    "names",
    [
        [f"IMG_{number:04}.JPG" for number in range(60)],
        [f"{number:05}.png" for number in range(60)],
        [f"{label}/{number:02}.png" for label in ("cat", "dog") for number in range(30)],
        [f"{label}/{label}_{number}.png" for label in numbered("{0}", 20, 1) for number in range(10)],  # CIFAR and such
        [f"{camera}_{number}.jpg" for camera in ("DSC", "pentax", "nikon") for number in range(20)],  # of few cameras
        [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(30)],
        [f"{label}_{number}.jpg" for label in numbered("{0}", 20, 1) for number in range(100)],
        [f"n{number:08}_{animal}.JPEG" for number, animal in enumerate(numbered("{0}", 60, 1))],
        [f"photo_2023_{1 + day % 12:02}_{1 + day * 7 % 28:02}.jpg" for day in range(60)],
        [f"frame_{number:06}.png" for number in range(60)],
        ["one.png"],
        [],
    ],
)
def test_counters_and_labels_do_not_make_groups(names: list[str]) -> None:
    groups = group_images(names, "auto")
    assert (groups.by, groups.count) == ("none", len(names))
    assert groups.sentence() == "Intervals take the images for independent of each other."


@pytest.mark.parametrize(
    ("way", "by", "count"), [("auto", "names", 8), ("folders", "folders", 2), ("none", "none", 48)]
)
def test_the_setting_says_what_makes_groups(way: Way, by: str, count: int) -> None:
    names = [f"train/{'left' if number < 20 else 'right'}/{name}" for number, name in enumerate(tiles(8))]
    groups = group_images(names, way)
    assert (groups.by, groups.count) == (by, count)


def test_copies_belong_together_and_join_what_names_keep_apart() -> None:
    contents = np.array([5, 6, 5, 7])
    copies = group_images(["a.png", "b.png", "c.png", "d.png"], "auto", contents)
    assert (copies.by, copies.count, copies.codes[0]) == ("copies", 3, copies.codes[2])
    names = tiles(8)
    contents = np.arange(len(names))
    contents[[0, 47]] = 0  # a tile of the first photograph and one of the last
    assert group_images(names, "auto", contents).count == 7


# ---------------------------------------------------------------- without groups


def values(seed: int, count: int = 40) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(3, 2, count)


def test_without_groups_intervals_are_those_of_scipy() -> None:
    one, other = values(1), values(2, 25)
    expected = stats.ttest_1samp(one, 0).confidence_interval(0.9)
    assert mean_interval(one, None, 0.9) == pytest.approx((one.mean(), expected.low, expected.high))
    assert mean_interval(one, np.arange(40), 0.9) == pytest.approx((one.mean(), expected.low, expected.high))
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert difference_interval(one, other)[1:] == pytest.approx((welch.low, welch.high))


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (7, 10), (993, 1000), (1, 1)])
def test_without_groups_a_share_has_wilsons_interval(right: int, count: int) -> None:
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    for groups in (None, np.arange(count)):
        found = share_interval(np.arange(count) < right, groups)
        assert found == pytest.approx((right / count, expected.low, expected.high))


# ---------------------------------------------------------------- with groups


def test_groups_of_equal_size_count_as_their_means() -> None:
    means = values(3, 12)
    repeated, groups = np.repeat(means, 5), np.repeat(np.arange(12), 5)
    assert mean_interval(repeated, groups) == pytest.approx(mean_interval(means))
    left, right = difference_interval(repeated, repeated + 1, groups, groups), difference_interval(means, means + 1)
    assert left == pytest.approx(right)
    is_right = means > 2
    grouped = share_interval(np.repeat(is_right, 5), groups)
    alone = share_interval(is_right)
    assert grouped.mean == alone.mean
    assert grouped.low == pytest.approx(alone.low, abs=0.05)
    assert grouped.high == pytest.approx(alone.high, abs=0.05)


def test_of_one_group_no_interval_can_be_told() -> None:
    one = np.zeros(10, np.int64)
    for found in (mean_interval(values(4, 10), one), share_interval(values(4, 10) > 3, one)):
        assert (found.low, found.high) == (None, None)
    assert difference_interval(values(4, 10), values(5, 10), one, one).low is None


def test_all_right_in_groups_is_as_sure_as_so_many_groups() -> None:
    grouped = share_interval(np.ones(60, bool), np.repeat(np.arange(12), 5))
    assert grouped.low is not None
    assert 0.6 < grouped.low <= share_interval(np.ones(12, bool)).low + 1e-9  # type: ignore[operator]


def covers(interval: Interval, truth: float) -> bool:
    return interval.low is not None and interval.high is not None and interval.low <= truth <= interval.high


@pytest.mark.parametrize("sizes", [np.full(20, 8), np.tile([2, 4, 8, 18], 5)], ids=["equal", "unequal"])
def test_of_tiles_of_photographs_nineteen_of_twenty_intervals_hold_the_truth(sizes: NDArray[np.int64]) -> None:
    """Half of the variance is between photographs."""
    random = np.random.default_rng(6)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    kinds = ("mean", "naive mean", "share", "naive share", "difference")
    held = dict.fromkeys(kinds, 0)
    num_tries = 600
    for _ in range(num_tries):
        scores, others = (random.normal(0, 1, len(sizes))[groups] + random.normal(0, 1, len(groups)) for _ in range(2))
        is_right = scores > -1.2
        held["mean"] += covers(mean_interval(scores, groups), 0)
        held["naive mean"] += covers(mean_interval(scores), 0)
        truth = float(stats.norm.sf(-1.2, scale=2**0.5))
        held["share"] += covers(share_interval(is_right, groups), truth)
        held["naive share"] += covers(share_interval(is_right), truth)
        held["difference"] += covers(difference_interval(scores, others, groups, groups), 0)
    share = {kind: count / num_tries for kind, count in held.items()}
    for kind in ("mean", "share", "difference"):
        assert 0.92 <= share[kind] <= 0.985, share
    assert share["naive mean"] < 0.75, share
    assert share["naive share"] < 0.85, share
