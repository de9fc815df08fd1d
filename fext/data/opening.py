"""Opening an image file's bytes with Pillow: one picture, what its numbers mean and how to set it upright."""

import io
from typing import NamedTuple

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

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
_PLANAR, _UNCOMPRESSED, _YCBCR, _BLACK_IS_ZERO = 2, 1, 6, 1


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
            _unpack_by_libtiff(image)
            image.load()
    except (ImageRejected, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageRejected(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise ImageRejected(formats.why_not_opened(data, extension)) from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise ImageRejected(formats.why_not_decoded(error, file_format)) from error
    return image


# ---------------------------------------------------------------- TIFF


def _open_tiff(file: Tiff) -> Opened:
    """Open a TIFF as it lies: newer versions of Pillow would set it upright, if not in every respect."""
    first = file.first()
    if first is None or not first.is_whole:
        raise ImageRejected("damaged or not decodable: the directory of the TIFF is cut off")
    samples = Samples.of(file, first)
    orientation = orientation_of(file.data, file.content(first, tiff.XMP))
    if _lacks_parts(file, first):
        raise ImageRejected("truncated: the TIFF has not all parts of its picture")
    if _is_packed_ycbcr(file, first):
        raise ImageRejected("a TIFF with fewer colours than pixels and no compression, which Pillow does not read")
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


def _is_packed_ycbcr(file: Tiff, first: Directory) -> bool:
    subsampling = file.numbers(first, tiff.CHROMA_SUBSAMPLING) or (2, 2)
    return (
        file.number(first, tiff.PHOTOMETRIC, 0) == _YCBCR
        and file.number(first, tiff.COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
        and file.number(first, tiff.SAMPLES_PER_PIXEL, 1) == 3
        and subsampling[:2] != (1, 1)
    )


def _unpack_by_libtiff(image: Image.Image) -> None:
    """Pillow's own way takes uncompressed planes of 16 bits for planes of 8."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.use_load_libtiff or not image.tile:
        return
    bits = image.tag_v2.get(tiff.BITS, (1,))
    if image.tag_v2.get(tiff.PLANAR_CONFIGURATION) != _PLANAR or len(bits) < 2 or max(bits) != 16:
        return
    rawmode = f"{image.mode};16N"
    image.use_load_libtiff = True
    image.tile = [
        image.tile[0]._replace(
            codec_name="libtiff", extents=(0, 0, *image.size), offset=0, args=(rawmode, False, image.tag_v2.offset)
        )
    ]
