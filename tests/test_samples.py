"""The sample images: enough of them, of enough photographs, free to use."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from fext.data.samples import PHOTOGRAPHS, sample_tiles, sources_text

SKIMAGE_DATA = Path(skimage.data.__file__).parent


@pytest.fixture(scope="module")
def tiles() -> dict[str, Image.Image]:
    """Every sample tile by its file name."""
    named = list(sample_tiles())
    assert len(dict(named)) == len(named), "two tiles of one name"
    return dict(named)


def test_there_are_at_least_sixty_tiles_of_at_least_ten_photographs(tiles: dict[str, Image.Image]) -> None:
    of_photograph = Counter(name.rsplit("_", 2)[0] for name in tiles)
    assert len(tiles) >= 60
    assert len(of_photograph) >= 10
    assert set(of_photograph) == {Path(photograph.file).stem for photograph in PHOTOGRAPHS}


def test_a_tile_is_about_256_pixels_wide_and_high(tiles: dict[str, Image.Image]) -> None:
    sides = [side for tile in tiles.values() for side in tile.size]
    assert min(sides) >= 192
    assert max(sides) <= 320
    assert 240 <= np.mean(sides) <= 272


def test_no_tile_overlaps_another(tiles: dict[str, Image.Image]) -> None:
    for photograph in PHOTOGRAPHS:
        with Image.open(SKIMAGE_DATA / photograph.file) as image:
            pixels = np.asarray(image)
        times_covered = np.zeros(pixels.shape[:2], dtype=int)
        for name, tile in tiles.items():
            stem, row, column = name.removesuffix(".png").rsplit("_", 2)
            if stem == Path(photograph.file).stem:
                top, left = find_tile(pixels, np.asarray(tile), int(row), int(column))
                times_covered[top : top + tile.height, left : left + tile.width] += 1
        assert times_covered.max() == 1, photograph.file


def find_tile(pixels: NDArray[np.uint8], tile: NDArray[np.uint8], row: int, column: int) -> tuple[int, int]:
    """Top and left of the tile in its photograph, within some pixels of where its name puts it."""
    height, width = tile.shape[:2]
    for top in range(max(0, row * height - 8), row * height + 9):
        for left in range(max(0, column * width - 8), column * width + 9):
            first_row = pixels[top, left : left + width]
            if np.array_equal(first_row, tile[0]) and np.array_equal(
                pixels[top : top + height, left : left + width], tile
            ):
                return top, left
    raise AssertionError("the tile is not cut from the photograph")


def test_no_tile_is_blank_or_a_copy_of_another(tiles: dict[str, Image.Image]) -> None:
    assert len({tile.tobytes() for tile in tiles.values()}) == len(tiles)
    assert all(np.asarray(tile).std() > 3 for tile in tiles.values())


def test_every_photograph_names_its_author_and_a_licence_that_lets_anyone_use_it() -> None:
    text = sources_text()
    for photograph in PHOTOGRAPHS:
        assert photograph.author
        assert photograph.licence in {"public domain", "CC0"}
        line = next(line for line in text.splitlines() if line.startswith(f"{photograph.file}: "))
        assert photograph.author in line
        assert photograph.licence in line
