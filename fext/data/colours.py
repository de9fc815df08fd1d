"""What the pixels of an opened picture mean: any colour mode becomes RGB of 8 bits, or a grey plane in [0, 1]."""

from typing import NamedTuple, Self

import numpy as np
from PIL import Image, ImageCms, features

from fext.data import tiff
from fext.data.tiff import Directory, Tiff
from fext.errors import ImageRejected

_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}
_MEASUREMENTS = {"FITS", "MCIDAS"}  # formats whose numbers have no white
_OPAQUE = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}
_UNSIGNED, _SIGNED = 1, 2
_WHITE_IS_ZERO = 0
_COLOUR_MAP = 320


class Samples(NamedTuple):
    """What a file says of the numbers that its pixels are: their bits and, of a TIFF, their format and colour map.

    A negative one says that white is zero, and Pillow does not turn it round.
    """

    bits: int = 8
    format: int = _UNSIGNED
    is_negative: bool = False
    has_small_colour_map: bool = False

    @classmethod
    def of(cls, file: Tiff, first: Directory) -> Self:
        """What the first page of a TIFF says."""
        bits, sample_format = file.number(first, tiff.BITS, 1), file.number(first, tiff.SAMPLE_FORMAT, _UNSIGNED)
        white_is_zero = file.number(first, tiff.PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO
        is_negative = white_is_zero and sample_format == _UNSIGNED and 8 < bits <= 16
        has_small_colour_map = 0 < max(file.numbers(first, _COLOUR_MAP), default=0) < 256
        return cls(bits, sample_format, is_negative, has_small_colour_map)


def visible(image: Image.Image, samples: Samples) -> Image.Image:
    """A loaded picture as RGB of 8 bits, or as a float plane in [0, 1] where its grey has more; alpha over white.

    Raises ImageRejected where its colours or their range are not known.
    """
    mode, file_format = image.mode, image.format or ""
    _refuse_unknown_range(mode, file_format, samples)
    if mode in _SIXTEEN_BITS or mode == "I":
        return _grey_plane(image, samples)
    if mode == "LAB":
        return _from_lab(image)
    if file_format == "TIFF" and mode == "P" and samples.has_small_colour_map:
        image = _with_small_colour_map(image)
    if mode in _WITH_ALPHA or "transparency" in image.info:
        return _over_white(image, samples)
    if mode in _OPAQUE:
        return image if mode == "RGB" else image.convert("RGB")  # converting to the same mode would copy
    raise ImageRejected(f"colour mode {mode} cannot be made RGB: save it as RGB or grey")


def _refuse_unknown_range(mode: str, file_format: str, samples: Samples) -> None:
    numbers = ""
    if file_format == "TIFF" and samples.format == _SIGNED:
        numbers = f"signed {samples.bits}-bit"
    elif mode == "F":
        numbers = "32-bit floating-point"
    elif mode == "I" and file_format not in {"PNG", "PPM"}:
        numbers = "32-bit"
    elif mode in _SIXTEEN_BITS and file_format in _MEASUREMENTS:
        numbers = "16-bit"
    if numbers:
        raise ImageRejected(f"its {numbers} pixels have no known range: save it with 8 or 16 bits without sign")


def _grey_plane(image: Image.Image, samples: Samples) -> Image.Image:
    """Of a TIFF the bits count, which may be 12; others have been brought to 16."""
    white = 2**samples.bits - 1 if image.format == "TIFF" else 65535
    values = np.asarray(image)
    grey = values.astype(np.float32) / np.float32(white)
    if samples.is_negative:
        grey = 1 - grey
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 1
    return Image.fromarray(grey)


def _from_lab(image: Image.Image) -> Image.Image:
    if not features.check("littlecms2"):
        raise ImageRejected("colour mode LAB needs a Pillow with LittleCMS: save it as RGB")
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted


def _with_small_colour_map(image: Image.Image) -> Image.Image:
    """Some programs write colour maps of 8 bits where 16 are due: Pillow would show them black."""
    image.putpalette(bytes(image.tag_v2[_COLOUR_MAP]), "RGB;L")  # type: ignore[attr-defined]
    return image


def _over_white(image: Image.Image, samples: Samples) -> Image.Image:
    transparent = image.info.get("transparency")
    if image.format == "PNG" and isinstance(transparent, int) and image.mode == "L" and samples.bits < 8:
        image.info["transparency"] = transparent * 255 // (2**samples.bits - 1)
    if image.format == "PNG" and isinstance(transparent, tuple) and samples.bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)  # as Pillow shortens the pixels
    picture = image.convert("LA") if image.mode == "La" else image
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")
