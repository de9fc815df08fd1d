"""What is odd about kinds of files: camera raw, words about a picture that keep Pillow from it, and true reasons."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from fext.data import tiff
from fext.data.tiff import Directory, Tiff
from fext.errors import ImageRejected

# Extensions of camera raw; what is laid out as TIFF may show Pillow a thumbnail.
CAMERA_RAW_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq", "kdc", "mef", "mos", "mrw", "nef",
        "nrw", "orf", "pef", "ptx", "raf", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
    )
)  # fmt: skip
_CAMERA_RAW = "camera raw: develop it first, to PNG, TIFF or JPEG"
_RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
_RAW_BRANDS = (b"crx ",)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# What only camera raw has (ExifTool's tables of tags, DNG 1.7): what pixels mean, how they are compressed, a version.
_RAW_PIXELS = {32803, 34892}
_RAW_COMPRESSIONS = {32767, 32769, 32770, 32772, 32867, 34713, 65000, 65535}
_RAW_TAGS = {33424, 34310, 50459, 50706, 50740}  # Kodak, Leaf, Hasselblad, DNG and Sony

_PNG_START, _JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Markers of JPEG: a frame; what may be left out (all applications but JFIF, EXIF and Adobe's colours, and comments).
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_WORDS = {*range(0xE2, 0xEE), 0xEF, 0xFE}
_JPEG_LINES = b"\xff\xdc\0\4"
# Of what a PNG may leave out, this is about its pixels; of the rest, one whose checksum is wrong has to be known to be
# words: a damaged name could hide a part of the picture.
_PNG_PIXELS = b"tRNS"
_PNG_WORDS = set(
    b"acTL bKGD cHRM cICP caBX cLLI dSIG eXIf fcTL fdAT gAMA gIFg gIFx hIST iCCP iTXt mDCV oFFs pCAL pHYs sBIT sCAL "
    b"sPLT sRGB sTER tEXt tIME zTXt".split()
)
_PNG_ORIENTED_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_TIFF_WORDS = {
    269, 270, 271, 272, 274, 282, 283, 285, 296, 305, 306, 315, 316, 700, 32932, 33432, 33723, 34377, 34665, 34675,
    34853, 37724, 40965,
}  # fmt: skip
_AVIF_EXIF = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
# Formats whose first bytes leave no doubt: what their readers say against a file is the reason.
_CERTAIN = (
    "PNG", "JPEG", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000", "PSD", "DDS", "ICNS", "QOI", "FITS", "EPS", "BMP",
)  # fmt: skip
# Formats that Pillow names but cannot decode by itself (its stubs), or that are not pictures.
NOT_DECODED = frozenset(("BUFR", "GRIB", "HDF5", "MPEG", "WMF"))


def refuse_camera_raw(data: bytes, extension: str) -> None:
    """Raise ImageRejected for camera raw, which Pillow takes for a TIFF that is no more than its thumbnail.

    Told by what it is made of; by its extension, too, where it is laid out as TIFF.
    """
    if data.startswith(_RAW_STARTS) or _brand(data) in _RAW_BRANDS:
        raise ImageRejected(_CAMERA_RAW)
    file = Tiff.of(data)
    if file is None:
        return
    first = file.first()
    if extension.lower() in CAMERA_RAW_EXTENSIONS or data[8:10] == b"CR" or data[8:12] in (b"IIII", b"MMMM"):
        raise ImageRejected(_CAMERA_RAW)
    if first is None:
        return
    if _RAW_TAGS & first.entries.keys() or any(_is_raw(file, directory) for directory in file.all_directories()):
        raise ImageRejected(_CAMERA_RAW)
    if file.number(first, tiff.NEW_SUBFILE_TYPE, 0) & 1 and tiff.SUB_DIRECTORIES in first.entries:
        raise ImageRejected("its first page is a thumbnail, its picture is where Pillow does not look: save it anew")


def _is_raw(file: Tiff, directory: Directory) -> bool:
    return (
        file.number(directory, tiff.PHOTOMETRIC, 0) in _RAW_PIXELS
        or file.number(directory, tiff.COMPRESSION, 1) in _RAW_COMPRESSIONS
    )


def _brand(data: bytes) -> bytes:
    """What a file of the ISO base media format says it is, such as HEIC, AVIF and Canon's CR3."""
    return data[8:12] if data[4:8] == b"ftyp" else b""


# ---------------------------------------------------------------- the picture without what is said about it


class Mended(NamedTuple):
    """A file with the same picture that Pillow opens, and whether what was left out may have said how it was held."""

    data: bytes
    lost_orientation: bool = False


def mended(data: bytes) -> Mended | None:
    """The file without words about its picture, or with its height where Pillow looks for it.

    None where there is nothing to mend.
    """
    if data.startswith(_PNG_START):
        changed = _png_without_words(data)
    elif data.startswith(_JPEG_START):
        changed = Mended(_jpeg_without_words(data))
    elif _brand(data).startswith(b"avi"):
        changed = Mended(_AVIF_EXIF.sub(rb"\1free", data))  # an AVIF says outside of EXIF how it is turned
    else:
        return None
    return None if changed.data == data else changed


def tiff_without_words(file: Tiff, photometric: int | None = None) -> bytes:
    """A TIFF's first page without words; its pixels are said to mean something else where that is given."""
    return file.changed(_TIFF_WORDS, photometric)


def _png_without_words(data: bytes) -> Mended:
    kept, lost_orientation = [data[:8]], False
    for kind, content_at, end in _png_chunks(data):
        is_optional = bool(kind[0] & 0x20) and kind != _PNG_PIXELS
        is_good = zlib.crc32(data[content_at - 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if not is_optional or (kind == b"eXIf" and is_good) or not (is_good or kind in _PNG_WORDS):
            kept.append(data[content_at - 8 : end])
        else:
            lost_orientation |= kind == b"eXIf" or data.startswith(_PNG_ORIENTED_TEXTS, content_at)
    return Mended(b"".join(kept), lost_orientation)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, where its content begins and where the chunk ends; the end of the picture is the last."""
    at, kind = 8, b""
    while kind != b"IEND" and at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, min(at + 12 + length, len(data))
        at += 12 + length


def _jpeg_without_words(data: bytes) -> bytes:
    """A JPEG without profiles, comments and the like; those that say how it was held, and its colours, are kept.

    It may say its number of lines behind the first scan (DNL, ITU-T T.81 B.2.5); libjpeg wants it in front.
    """
    kept, end = [data[:2]], 2
    for marker, at, end in _jpeg_segments(data):
        segment = data[at:end]
        said_at = data.find(_JPEG_LINES, end) + len(_JPEG_LINES)
        if marker in _JPEG_FRAMES and segment[5:7] == b"\0\0" and end < said_at <= len(data) - 2:
            segment = segment[:5] + data[said_at : said_at + 2] + segment[7:]
        if marker not in _JPEG_WORDS:
            kept.append(segment)
    return b"".join([*kept, data[end:]])


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment up to the frame's, where it begins and ends."""
    at, marker = 2, 0
    while marker not in _JPEG_FRAMES and data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        end = at + 1 if marker == 0xFF else min(at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"), len(data))
        yield marker, at, end
        at = end


def _jpeg_lacks_height(data: bytes) -> bool:
    heights = (data[at + 5 : at + 7] for marker, at, _ in _jpeg_segments(data) if marker in _JPEG_FRAMES)
    return next(heights, b"") == b"\0\0"


# ---------------------------------------------------------------- reasons


def why_not_opened(data: bytes, extension: str = "") -> str:
    """Why Pillow does not open a file, as far as its first bytes and its name tell."""
    if _brand(data) in _HEIF_BRANDS:
        return "HEIC or HEIF, which Pillow does not open: save it as JPEG or PNG"
    said = what_the_reader_says(data)
    if not said and extension.lower() in CAMERA_RAW_EXTENSIONS:
        return _CAMERA_RAW
    return said or "not an image in a format that Pillow opens"


def what_the_reader_says(data: bytes) -> str:
    """What Pillow's own reader has against a file; '' where no format is sure to be its own."""
    if data.startswith(_JPEG_START) and _jpeg_lacks_height(data):
        return "the JPEG does not say how high it is"
    for name in _CERTAIN:
        reader, accepts = Image.OPEN.get(name, (None, None))
        accepted = accepts(data[:16]) if accepts else False
        if isinstance(accepted, str):
            return accepted
        if accepted and reader:
            try:
                reader(io.BytesIO(data), "")
            except Exception as error:  # Pillow's readers raise many kinds
                return _odd_tiff(data) or f"damaged or not decodable: {_in_words(error)}"
    return ""


def _odd_tiff(data: bytes) -> str:
    """Of which kind a TIFF is that Pillow does not know; '' where that is not the trouble."""
    if data.startswith(b"MM\0+"):
        return "a BigTIFF in big-endian byte order, which Pillow does not open: save it anew"
    file = Tiff.of(data)
    first = file.first() if file else None
    if file is None or first is None or not {tiff.WIDTH, tiff.HEIGHT} <= first.entries.keys():
        return ""
    bits = "/".join(map(str, file.numbers(first, tiff.BITS)[:8])) or "1"
    facts = {
        "photometric interpretation": file.number(first, tiff.PHOTOMETRIC, 0),
        "compression": file.number(first, tiff.COMPRESSION, 1),
        "sample format": file.number(first, tiff.SAMPLE_FORMAT, 1),
    }
    return (
        f"a TIFF of a kind that Pillow does not open ({bits} bits, {', '.join(f'{k} {v}' for k, v in facts.items())})"
    )


def why_not_decoded(error: Exception, file_format: str = "") -> str:
    """Why the picture of an opened file cannot be had."""
    text = _in_words(error)
    if "Ghostscript" in text:
        return "EPS is drawn by Ghostscript, which is not installed here: save it as PNG"
    if file_format in NOT_DECODED:
        return f"{file_format}, which Pillow finds but cannot decode: save it as PNG or TIFF"
    return f"damaged or not decodable: {text}"


def _in_words(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
