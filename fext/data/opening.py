"""Opening an image file's bytes with Pillow: one picture, what its numbers mean and how to set it upright."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from fext.data import formats, tiff
from fext.data.colours import Samples
from fext.data.orientation import UNREADABLE, Orientation, orientation_of, words_of
from fext.data.tiff import Directory, Tiff
from fext.errors import ImageRejected

# Pillow's own limit against decompression bombs, made ours so that it does not depend on Pillow's version.
MAX_PIXELS = 178_956_970
# Many cameras put a preview behind the picture; Pillow calls such a JPEG by the name of that format.
JPEG = {"JPEG", "MPO"}

_PNG_BITS_AT = 24
_BLACK_IS_ZERO, _RGB, _CMYK, _YCBCR = 1, 2, 5, 6  # what the samples of a TIFF mean
_UNCOMPRESSED, _PLANAR = 1, 2


class Opened(NamedTuple):
    """A picture as it lies in its file, a JPEG not yet decoded, and the bytes that Pillow was given for it."""

    image: Image.Image
    data: bytes
    samples: Samples
    orientation: Orientation


def open_picture(data: bytes, extension: str = "") -> Opened:
    """Open a file's first picture, and decode it unless it is a JPEG.

    Words about it that Pillow would stumble over are left out. The extension tells camera raw from TIFF. Raises
    ImageRejected with the reason, MemoryError.
    """
    if not data:
        raise ImageRejected("the file is empty")
    formats.refuse_camera_raw(data, extension)
    file = Tiff.of(data)
    if file is not None:
        return _open_tiff(file)
    try:
        return _opened(data, extension)
    except ImageRejected:
        mended = formats.mended(data)
        if mended is None:
            raise
        opened = _opened(mended.data, extension)
        return opened._replace(orientation=Orientation(None, UNREADABLE)) if mended.lost_orientation else opened


def _opened(data: bytes, extension: str) -> Opened:
    image = _load(data, extension)
    samples = Samples(data[_PNG_BITS_AT]) if image.format == "PNG" else Samples()
    orientation = orientation_of(*words_of(image))
    if image.format == "AVIF":  # it says outside of EXIF how it is turned; Pillow has put that into EXIF
        orientation = Orientation(orientation.reversal)
    return Opened(image, data, samples, orientation)


def _load(data: bytes, extension: str = "") -> Image.Image:
    """Open and, unless it is a JPEG, decode."""
    file_format = ""
    try:
        image = Image.open(io.BytesIO(data))
        file_format = image.format or ""
        if image.width * image.height > MAX_PIXELS:
            raise ImageRejected(f"{image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS:,} pixels")
        if file_format not in JPEG:
            image.load()
    except (ImageRejected, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageRejected(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise ImageRejected(formats.why_not_opened(data, extension)) from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        said = "" if file_format else formats.what_the_reader_says(data)
        raise ImageRejected(said or formats.why_not_decoded(error, file_format)) from error
    return image


# ---------------------------------------------------------------- TIFF


def _open_tiff(file: Tiff) -> Opened:
    """Open a TIFF as it lies: Pillow, to which its orientation is not told, would set it upright at times."""
    first = file.first()
    if first is None or not first.is_whole:
        raise ImageRejected("damaged or not decodable: the directory of the TIFF is cut off")
    if _lacks_parts(file, first):
        raise ImageRejected("truncated: the TIFF has not all parts of its picture")
    samples = Samples.of(file, first)
    orientation = orientation_of(file.data, file.content(first, tiff.XMP))
    is_uncompressed = file.number(first, tiff.COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
    if is_uncompressed and file.number(first, tiff.PHOTOMETRIC, 0) == _YCBCR:
        return Opened(_ycbcr(file, first), file.data, samples, orientation)
    if is_uncompressed and file.number(first, tiff.PLANAR_CONFIGURATION, 1) == _PLANAR and samples.bits == 16:
        return Opened(_planes_of_sixteen_bits(file, first), file.data, samples, orientation)
    if orientation == Orientation(None) and not samples.is_negative:
        try:
            return Opened(_load(file.data), file.data, samples, orientation)
        except ImageRejected:
            bare = formats.tiff_without_words(file)
            if bare == file.data:
                raise
    else:
        bare = formats.tiff_without_words(file, _BLACK_IS_ZERO if samples.is_negative else None)
    return Opened(_load(bare), bare, samples, orientation)


def _lacks_parts(file: Tiff, first: Directory) -> bool:
    """Whether strips or tiles do not cover the picture: Pillow would leave the rest black."""
    width, height = file.number(first, tiff.WIDTH, 0), file.number(first, tiff.HEIGHT, 0)
    is_planar = file.number(first, tiff.PLANAR_CONFIGURATION, 1) == _PLANAR
    num_planes = file.number(first, tiff.SAMPLES_PER_PIXEL, 1) if is_planar else 1
    if tiff.STRIPS in first.entries:
        rows = file.number(first, tiff.ROWS_PER_STRIP, height)
        needed = -(-height // rows) * num_planes if rows > 0 else 1
        return first.entries[tiff.STRIPS].length < needed
    if tiff.TILES in first.entries:
        size = file.number(first, tiff.TILE_WIDTH, 0), file.number(first, tiff.TILE_HEIGHT, 0)
        needed = -(-width // size[0]) * -(-height // size[1]) * num_planes if min(size) > 0 else 1
        return first.entries[tiff.TILES].length < needed
    return False


def _ycbcr(file: Tiff, first: Directory) -> Image.Image:
    """Uncompressed YCbCr, which Pillow before 13 takes for RGB: it is told so, and the numbers are given their name."""
    subsampling = file.numbers(first, tiff.CHROMA_SUBSAMPLING) or (2, 2)
    if file.number(first, tiff.SAMPLES_PER_PIXEL, 1) != 3 or subsampling[:2] != (1, 1):
        raise ImageRejected("a TIFF with fewer colours than pixels and no compression, which Pillow does not read")
    image = _load(formats.tiff_without_words(file, _RGB))
    named = Image.frombytes("YCbCr", image.size, image.tobytes())
    named.format = image.format
    return named


def _planes_of_sixteen_bits(file: Tiff, first: Directory) -> Image.Image:
    """Uncompressed colours of 16 bits, plane by plane, as 8 bits: Pillow takes the planes for ones of 8 bits."""
    width, height = file.number(first, tiff.WIDTH, 0), file.number(first, tiff.HEIGHT, 0)
    kind = file.number(first, tiff.PHOTOMETRIC, 0), file.number(first, tiff.SAMPLES_PER_PIXEL, 1)
    mode = {(_RGB, 3): "RGB", (_CMYK, 4): "CMYK"}.get(kind)
    if mode is None or tiff.STRIPS not in first.entries:
        raise ImageRejected("a TIFF with planes of 16 bits, which Pillow does not read: save it with 8 bits")
    if width * height > MAX_PIXELS:
        raise ImageRejected(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,} pixels")
    places, lengths = file.every_number(first, tiff.STRIPS), file.every_number(first, tiff.STRIP_LENGTHS)
    pixels = b"".join(file.data[place : place + length] for place, length in zip(places, lengths, strict=False))
    if len(pixels) != 2 * width * height * kind[1]:
        raise ImageRejected("truncated: the TIFF has not all parts of its picture")
    planes = np.frombuffer(pixels, f"{file.byte_order}u2").reshape(kind[1], height, width) >> 8
    image = Image.frombytes(mode, (width, height), planes.astype(np.uint8).transpose(1, 2, 0).tobytes())
    image.format = "TIFF"
    return image
