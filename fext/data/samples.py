"""Sample images that everyone has: tiles cut from photographs inside the scikit-image package.

Only photographs that their authors gave to the public domain or under CC0 are used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_TILE = 256
# A tile that is nearly of one brightness, such as the black corners around a retina, teaches nothing.
_MIN_SPREAD = 4.0


@dataclass(frozen=True)
class Photograph:
    """One photograph of scikit-image's data folder and whose it is."""

    file: str
    subject: str
    author: str
    licence: str


PHOTOGRAPHS = (
    Photograph("astronaut.png", "Eileen Collins, astronaut", "NASA", "public domain"),
    Photograph("brick.png", "brick wall", "CC0Textures (Bricks25)", "CC0"),
    Photograph("camera.png", "photographer with a camera", "Lav Varshney", "CC0"),
    Photograph("chelsea.png", "Chelsea the cat", "Stefan van der Walt", "CC0"),
    Photograph("clock_motion.png", "wall clock, motion blurred", "Stefan van der Walt", "public domain"),
    Photograph("coffee.png", "coffee cup", "Rachel Michetti", "CC0"),
    Photograph("grass.png", "grass", "linolafett (DeviantArt)", "CC0"),
    Photograph("gravel.png", "gravel", "CC0Textures (Gravel04)", "CC0"),
    Photograph("hubble_deep_field.jpg", "Hubble eXtreme Deep Field", "NASA", "public domain"),
    Photograph("retina.jpg", "retina of a human eye", "Mikael Haggstrom", "CC0"),
    Photograph("rocket.jpg", "launch of a Falcon 9 rocket", "SpaceX", "public domain"),
)


def sample_tiles() -> Iterator[tuple[str, Image.Image]]:
    """(file name, tile) for every tile of about 256x256 pixels, none overlapping another."""
    for photograph in PHOTOGRAPHS:
        with Image.open(_photograph_folder() / photograph.file) as image:
            image.load()
        stem = Path(photograph.file).stem
        for row, column, tile in _tiles(image):
            yield f"{stem}_{row}_{column}.png", tile


def sources_text() -> str:
    """Where each photograph comes from and under which licence."""
    lines = ["The tiles in this folder are cut from photographs that the scikit-image package carries.", ""]
    lines += [f"{photo.file}: {photo.subject}; {photo.author}; {photo.licence}" for photo in PHOTOGRAPHS]
    return "\n".join(lines) + "\n"


def _photograph_folder() -> Path:
    import skimage.data

    return Path(skimage.data.__file__).parent


def _tiles(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    rows, columns = round(image.height / _TILE), round(image.width / _TILE)
    for row in range(rows):
        for column in range(columns):
            left, right = image.width * column // columns, image.width * (column + 1) // columns
            top, bottom = image.height * row // rows, image.height * (row + 1) // rows
            tile = image.crop((left, top, right, bottom))
            if _spread(tile) >= _MIN_SPREAD:
                yield row, column, tile


def _spread(tile: Image.Image) -> float:
    from PIL import ImageStat

    return float(ImageStat.Stat(tile.convert("L")).stddev[0])
