"""The dataset generator: every image once, in an order and with an augmentation that the seeds fix."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fext.compute.device import Computation
from fext.data.dataset import WHOLE, Batch, ImageCache, ImageStream, Shard, augment
from fext.data.images import Preprocessing, checksum, load_image

SHAPE = Preprocessing(32, 64, 3, "stretch")
NUM_IMAGES = 7
NOT_AN_IMAGE = "not an image in a format that Pillow opens"
DAMAGED = 3  # the position of the one that is no image


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven files, all different, one of them damaged."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    paths = [folder / f"{position}.png" for position in range(NUM_IMAGES)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(path)
    paths[DAMAGED].write_text("not an image")
    return paths


def stream(
    paths: Sequence[Path],
    *,
    batch_size: int = 3,
    num_processors: int = 1,
    shuffle_seed: int | None = None,
    augmentation_seed: int | None = None,
    cache: ImageCache | None = None,
    shard: Shard = WHOLE,
    as_bytes: bool = False,
    beside: ImageStream | None = None,
) -> ImageStream:
    """A stream of small pictures."""
    return ImageStream(
        paths[0].parent, [path.name for path in paths], SHAPE,
        batch_size=batch_size, num_processors=num_processors, shuffle_seed=shuffle_seed,
        augmentation_seed=augmentation_seed, cache=cache, shard=shard, as_bytes=as_bytes, beside=beside,
        checksums=[checksum(path.read_bytes()) for path in paths] if cache else None,
    )  # fmt: skip


def positions(batch: Batch) -> list[int]:
    """Which files the images of a batch come from."""
    return [file.position for file in batch.files]


def rejections(batch: Batch) -> list[tuple[int, str]]:
    """Which files were rejected and why."""
    return [(file.position, file.reason) for file in batch.rejected]


def assert_same(batches: Sequence[Batch], others: Sequence[Batch]) -> None:
    """The same images, to the bit, in the same batches."""
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.images, other.images)
        assert batch[1:] == other[1:]


def by_position(batches: Sequence[Batch]) -> dict[int, torch.Tensor]:
    """Each image by its position in the list of paths."""
    return {
        position: image
        for batch in batches
        for position, image in zip(positions(batch), batch.images, strict=True)
    }  # fmt: skip


def test_images_come_in_order_with_positions_and_checksums(paths: list[Path]) -> None:
    images = stream(paths)
    batches = list(images.epoch())
    assert len(images) == len(batches) == 3
    assert [positions(batch) for batch in batches] == [[0, 1, 2], [4, 5], [6]]
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert batch.images.shape == (len(positions(batch)), 3, 32, 64)
        read = [paths[position].read_bytes() for position in positions(batch)]
        assert [file.sha256 for file in batch.files] == [checksum(data) for data in read]


def test_without_seeds_an_image_is_just_what_load_image_gives(paths: list[Path]) -> None:
    for position, image in by_position(list(stream(paths).epoch())).items():
        assert np.array_equal(image.permute(1, 2, 0).numpy(), load_image(paths[position], SHAPE))


def test_a_rejected_image_is_told_with_position_and_reason_and_its_neighbours_are_unaffected(
    paths: list[Path],
) -> None:
    batches = list(stream(paths).epoch())
    assert [rejections(batch) for batch in batches] == [[], [(DAMAGED, NOT_AN_IMAGE)], []]
    good = [path for position, path in enumerate(paths) if position != DAMAGED]
    alone = by_position(list(stream(good).epoch()))
    together = by_position(batches)
    assert [torch.equal(alone[new], together[old]) for new, old in enumerate(sorted(together))] == [True] * 6


def test_a_batch_may_be_rejected_whole(paths: list[Path]) -> None:
    (batch,) = stream([paths[DAMAGED], paths[DAMAGED].with_name("missing.png")]).epoch()
    assert len(batch.images) == 0
    assert batch.files == []
    assert rejections(batch) == [(0, NOT_AN_IMAGE), (1, "the file is not there")]


def test_the_same_seeds_give_the_same_stream_and_others_another(paths: list[Path]) -> None:
    batches = list(stream(paths, shuffle_seed=1, augmentation_seed=1).epoch(2))
    assert_same(batches, list(stream(paths, shuffle_seed=1, augmentation_seed=1).epoch(2)))
    shuffled_otherwise = list(stream(paths, shuffle_seed=2, augmentation_seed=1).epoch(2))
    assert [positions(batch) for batch in batches] != [positions(batch) for batch in shuffled_otherwise]
    varied_otherwise = by_position(list(stream(paths, shuffle_seed=1, augmentation_seed=2).epoch(2)))
    assert not any(torch.equal(image, varied_otherwise[position]) for position, image in by_position(batches).items())


def test_every_epoch_shows_every_image_once_in_another_order_and_variation(paths: list[Path]) -> None:
    images = stream(paths, shuffle_seed=1, augmentation_seed=1)
    first, second = list(images.epoch(0)), list(images.epoch(1))
    for batches in (first, second):
        seen = [position for batch in batches for position in positions(batch)]
        assert sorted(seen) == [0, 1, 2, 4, 5, 6]
        assert [position for batch in batches for position, _ in rejections(batch)] == [DAMAGED]
    assert [positions(batch) for batch in first] != [positions(batch) for batch in second]
    varied_again = by_position(second)
    assert not any(torch.equal(image, varied_again[position]) for position, image in by_position(first).items())


def test_an_epoch_can_be_asked_for_again_whatever_was_read_before(paths: list[Path]) -> None:
    images = stream(paths, shuffle_seed=1, augmentation_seed=1)
    first = list(images.epoch(0))
    next(images.epoch(5))
    assert_same(list(images.epoch(0)), first)


def test_an_image_is_varied_the_same_in_batches_of_any_size_and_order(paths: list[Path]) -> None:
    one_by_one = by_position(list(stream(paths, batch_size=1, augmentation_seed=4).epoch(3)))
    shuffled = by_position(list(stream(paths, batch_size=7, shuffle_seed=8, augmentation_seed=4).epoch(3)))
    assert one_by_one.keys() == shuffled.keys()
    assert all(torch.equal(image, shuffled[position]) for position, image in one_by_one.items())


def test_two_processes_give_the_same_stream_as_one_even_after_an_epoch_broken_off(paths: list[Path]) -> None:
    in_this_process = stream(paths, shuffle_seed=1, augmentation_seed=1)
    in_two_others = stream(paths, num_processors=2, shuffle_seed=1, augmentation_seed=1)
    assert_same(list(in_two_others.epoch(0)), list(in_this_process.epoch(0)))
    next(in_two_others.epoch(1))
    assert_same(list(in_two_others.epoch(1)), list(in_this_process.epoch(1)))


def test_several_threads_give_the_same_stream_as_one(paths: list[Path]) -> None:
    images = stream(paths, shuffle_seed=1, augmentation_seed=1)
    alone = list(images.epoch(0))
    torch.set_num_threads(3)
    try:
        assert_same(list(images.epoch(0)), alone)
    finally:
        torch.set_num_threads(1)


def test_images_are_read_only_when_their_batch_is_due(tmp_path: Path) -> None:
    paths = [tmp_path / f"{position}.png" for position in range(3)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    batches = stream(paths, batch_size=1).epoch()
    next(batches)
    paths[2].unlink()
    assert positions(next(batches)) == [1]
    assert rejections(next(batches)) == [(2, "the file is not there")]


# ---------------------------------------------------------------- augmentation


def varied(image: NDArray[np.floating], seed: int) -> NDArray[np.float32]:
    """The image as augmentation with that seed makes it."""
    return augment(image.astype(np.float32), np.random.default_rng(seed))


def test_augmentation_changes_an_image_but_stays_in_range_and_shape() -> None:
    image = np.random.default_rng(0).random((64, 32, 3)).astype(np.float32)
    image[:8], image[-8:] = 0, 1
    before = image.copy()
    for seed in range(30):
        result = varied(image, seed)
        assert result.shape == image.shape
        assert result.dtype == np.float32
        assert result.min() >= 0
        assert result.max() <= 1
        assert not np.array_equal(result, image)
    assert np.array_equal(image, before)


def test_augmentation_mirrors_about_half_of_the_images() -> None:
    image = np.zeros((64, 64, 1))
    image[:, :20] = 0.5
    mirrored = [varied(image, seed)[:, 40:].mean() > varied(image, seed)[:, :24].mean() for seed in range(100)]
    assert 30 <= sum(mirrored) <= 70


def test_augmentation_moves_an_image_by_at_most_six_percent_and_draws_no_border() -> None:
    image = np.full((100, 50, 1), 0.5)
    image[50, 25] = 1
    moved = set()
    for seed in range(100):
        result = varied(image, seed)[:, :, 0]
        row, column = np.unravel_index(result.argmax(), result.shape)
        assert abs(int(row) - 50) <= 6
        assert min(abs(int(column) - 25), abs(int(column) - 24)) <= 3  # mirrored, column 25 of 50 becomes 24
        assert np.unique(result).size == 2  # all but the dot has one value still
        moved.add(int(row))
    assert len(moved) > 5


def test_augmentation_changes_brightness_and_contrast_by_at_most_ten_percent() -> None:
    flat = np.full((32, 32, 3), 0.5)
    levels = [float(varied(flat, seed).mean()) for seed in range(50)]
    assert 0.4 <= min(levels) < 0.47
    assert 0.53 < max(levels) <= 0.6
    halves = np.full((32, 32, 1), 0.4)
    halves[16:] = 0.6
    spans = [float(np.ptp(varied(halves, seed))) for seed in range(50)]
    assert 0.18 <= min(spans) + 1e-6 < 0.19
    assert 0.21 < max(spans) <= 0.22 + 1e-6


def test_grey_images_are_varied_too() -> None:
    assert varied(np.random.default_rng(0).random((32, 32, 1)), 1).shape == (32, 32, 1)


def test_each_of_several_processes_gets_a_part_of_each_batch_and_each_image_is_in_one_of_them(
    paths: list[Path],
) -> None:
    whole = list(stream(paths, batch_size=4, shuffle_seed=1).epoch(3))
    parts = [list(stream(paths, batch_size=4, shuffle_seed=1, shard=Shard(rank, 3)).epoch(3)) for rank in range(3)]
    for batch, *of_processes in zip(whole, *parts, strict=True):
        assert [position for part in of_processes for position in positions(part)] == positions(batch)
        assert max(len(part.images) for part in of_processes) <= 2


def test_a_batch_of_fewer_images_than_processes_is_given_whole_to_each(paths: list[Path]) -> None:
    good = [path for path in paths if path != paths[DAMAGED]]
    for rank in range(3):
        *_, last = stream(good, batch_size=4, shard=Shard(rank, 3)).epoch()
        assert positions(last) == [4, 5]


# ---------------------------------------------------------------- other processes


def test_streams_that_share_processes_give_what_each_gives_alone(paths: list[Path]) -> None:
    """From the place in an epoch that is asked for, bytes and floats among them, with one set of processes for all."""
    sixteen = paths[0].with_name("sixteen.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 65536, (32, 64), dtype=np.uint16)).save(sixteen)
    options = [{"shuffle_seed": 1}, {"batch_size": 2}, {"augmentation_seed": 3}]
    alone = [stream([*paths, sixteen], **one) for one in options]  # type: ignore[arg-type]
    first = stream([*paths, sixteen], num_processors=2, **options[0])  # type: ignore[arg-type]
    shared = [first, *(stream([*paths, sixteen], beside=first, **one) for one in options[1:])]  # type: ignore[arg-type]
    for epoch, first_image in ((0, 0), (1, 3)):
        for one, other in zip(alone, shared, strict=True):
            assert len(one) == len(other)
            assert_same(list(other.epoch(epoch, first_image)), list(one.epoch(epoch, first_image)))
    assert len(multiprocessing.active_children()) == 2


def test_images_cross_as_bytes_where_these_are_their_255ths_and_become_the_same_floats(paths: list[Path]) -> None:
    sixteen = paths[0].with_name("sixteen.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 65536, (32, 64), dtype=np.uint16)).save(sixteen)
    good = [path for path in paths if path != paths[DAMAGED]]
    expected = list(stream([*good, sixteen], batch_size=3).epoch())
    crossed = list(stream([*good, sixteen], batch_size=3, num_processors=2, as_bytes=True).epoch())
    assert [batch.images.dtype for batch in crossed] == [torch.uint8, torch.uint8, torch.float32]
    computation = Computation(torch.device("cpu"), "float32", 1)
    for batch, other in zip(crossed, expected, strict=True):
        placed = computation.to_device(batch.images)
        assert torch.equal(placed, other.images)
        assert placed.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_goes_on_at_any_image_with_batches_of_any_size(paths: list[Path]) -> None:
    good = [path for path in paths if path != paths[DAMAGED]]
    order = [file for batch in stream(good, shuffle_seed=1).epoch(2) for file in positions(batch)]
    for first_image, batch_size in ((0, 4), (3, 2), (4, 1), (5, 8), (6, 1)):
        images = stream(good, shuffle_seed=1, batch_size=batch_size)
        rest = [positions(batch) for batch in images.epoch(2, first_image)]
        assert [file for batch in rest for file in batch] == order[first_image:]
        assert all(len(batch) == batch_size for batch in rest[:-1])


# ---------------------------------------------------------------- images kept in memory


@pytest.mark.parametrize("num_processors", [1, 2])
def test_cached_images_are_read_once_and_are_the_same(paths: list[Path], tmp_path: Path, num_processors: int) -> None:
    files = [tmp_path / path.name for path in paths if path != paths[DAMAGED]]
    for file in files:
        file.write_bytes((paths[0].parent / file.name).read_bytes())
    expected = stream(files, shuffle_seed=1, augmentation_seed=2)
    cached = stream(
        files, shuffle_seed=1, augmentation_seed=2, num_processors=num_processors, cache=ImageCache(6, SHAPE.shape)
    )
    batches = [list(expected.epoch(epoch)) for epoch in range(2)]
    for epoch in range(2):
        for batch, other in zip(cached.epoch(epoch), batches[epoch], strict=True):
            assert torch.equal(batch.images, other.images)
            assert positions(batch) == positions(other)
        for file in files:
            file.unlink(missing_ok=True)


def test_a_sixteen_bit_image_is_not_rounded_into_the_cache() -> None:
    cache = ImageCache(2, (1, 2, 1))
    eight, sixteen = np.float32([[[0.2], [1]]]), np.float32([[[300 / 65535], [1]]])
    cache.keep(0, eight)
    cache.keep(1, sixteen)
    assert np.array_equal(cache.recall(0), np.float32(eight * 255 / 255))
    assert cache.recall(1) is None
