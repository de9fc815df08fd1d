"""The sprite sheet that TensorBoard's projector cuts its thumbnails from."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fext.pictures.plain import as_picture

THUMBNAIL_SIDE = 64
MAX_SPRITE_SIDE = 8192  # what TensorBoard takes


def thumbnail(image: NDArray[np.float32]) -> Image.Image:
    """An image (H, W, C) in [0, 1] as a small square, its proportions kept, black around it."""
    return small_square(as_picture(image))


def small_square(picture: Image.Image) -> Image.Image:
    """A picture as a small square, its proportions kept, black around it."""
    return ImageOps.pad(picture.convert("RGB"), (THUMBNAIL_SIDE, THUMBNAIL_SIDE), color="black")


def sprite_sheet(thumbnails: Sequence[Image.Image]) -> Image.Image:
    """Thumbnails row by row in a square sheet; ValueError where they are more than fit into what TensorBoard takes."""
    columns = max(1, math.ceil(math.sqrt(len(thumbnails))))
    side = columns * THUMBNAIL_SIDE
    if side > MAX_SPRITE_SIDE:
        raise ValueError(f"{len(thumbnails)} thumbnails do not fit into one sheet")
    sheet = Image.new("RGB", (side, side))
    for number, picture in enumerate(thumbnails):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * THUMBNAIL_SIDE, row * THUMBNAIL_SIDE))
    return sheet
