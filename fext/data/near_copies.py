"""Near copies as people make them, and how alike two pictures are where one may have lost its borders."""

import io
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from fext.data.images import MAX_SIDE, SMALL_SIDE, decode_within

DISTURBANCES = ("re-encoded", "half the size", "brighter", "without its borders")
_JPEG_QUALITY, _LOW_JPEG_QUALITY = 90, 50
_SCALE, _BRIGHTER, _BORDER = 0.5, 1.1, 0.03
# Borders that a copy may have lost, on each side, as parts of the picture: all combinations are tried.
_CUTS = (0.0, 0.02, 0.04, 0.06)
# Aligned at 32x32 grey levels, copies without up to 5 % on each side were found to correlate with their originals by
# 0.93 or more, and the most alike of 500 different photographs by up to 0.78.
MIN_CORRELATION = 0.9

Small = NDArray[np.float64]


def disturbed_copies(data: bytes) -> list[bytes]:
    """A copy of an image file for each of the DISTURBANCES, as JPEG files; raises ImageRejected."""
    pixels = decode_within(data, MAX_SIDE)[1]
    picture = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    width, height = picture.size
    left, top = round(width * _BORDER), round(height * _BORDER)
    half = max(1, round(width * _SCALE)), max(1, round(height * _SCALE))
    return [
        _jpeg(picture, _LOW_JPEG_QUALITY),
        _jpeg(picture.resize(half, Image.Resampling.BICUBIC), _JPEG_QUALITY),
        _jpeg(ImageEnhance.Brightness(picture).enhance(_BRIGHTER), _JPEG_QUALITY),
        _jpeg(picture.crop((left, top, width - left, height - top)), _JPEG_QUALITY),
    ]


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def correlation_when_aligned(one: Small, other: Small) -> float:
    """How two small pictures (32, 32) of grey levels go together, from -1 to 1, where one may be a part of the other.

    The correlation of one with a part of the other, brought to the size of the whole, or the other way round: the best
    of the parts without up to 6 % on each side. A plain picture goes together with none.
    """
    return max(_best(one, other), _best(other, one))


class _Parts(NamedTuple):
    """Matrices (K, 32, 32) that take K parts of a line and bring each to the whole, and their products."""

    parts: Small
    squares: Small
    sums: Small


@cache
def _parts() -> _Parts:
    pixels = np.arange(SMALL_SIDE)
    matrices = []
    for before in _CUTS:
        for behind in _CUTS:
            place = ((pixels + 0.5) / SMALL_SIDE * (1 - before - behind) + before) * SMALL_SIDE - 0.5
            first = np.clip(np.floor(place).astype(int), 0, SMALL_SIDE - 2)
            matrix = np.zeros((SMALL_SIDE, SMALL_SIDE))
            matrix[pixels, first], matrix[pixels, first + 1] = 1 - (place - first), place - first
            matrices.append(matrix)
    parts = np.stack(matrices)
    return _Parts(parts, parts.transpose(0, 2, 1) @ parts, parts.sum(axis=1))


def _best(whole: Small, part: Small) -> float:
    """The correlation of `part` with the best of the parts of `whole`, W_i whole W_j', without making any of them.

    The sum over pixels of W_i A W_j' times B is that of W_i A times B W_j.
    """
    known, size = _parts(), SMALL_SIDE**2
    part = part - part.mean()
    whole = whole - whole.mean()
    products = (known.parts @ whole).reshape(-1, size) @ (part @ known.parts).reshape(-1, size).T
    means = known.sums @ whole @ known.sums.T / size
    squares = (known.squares @ whole).reshape(-1, size) @ (whole @ known.squares).reshape(-1, size).T
    variances = np.maximum(squares - size * means**2, 0) * np.square(part).sum()
    is_plain = variances < 1e-6
    return float(np.where(is_plain, -1.0, products / np.sqrt(np.where(is_plain, 1.0, variances))).max())
