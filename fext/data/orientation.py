"""How a camera was held: what a file says of it, and what has to be done to its picture."""

import re
from typing import NamedTuple

from PIL import Image

from fext.data import tiff
from fext.data.tiff import Tiff

UNREADABLE = "its orientation cannot be read: taken as upright"

_REVERSALS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_REVERSALS[5], _REVERSALS[6], _REVERSALS[7], _REVERSALS[8]}
# What counts where EXIF says nothing, as Pillow has it.
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_EXIF_NAME = re.compile(rb"^(?:Exif\0\0){1,2}")


class Orientation(NamedTuple):
    """How to set a picture upright (None: it is), and what there is to tell of that."""

    reversal: Image.Transpose | None
    note: str = ""

    @property
    def is_sideways(self) -> bool:
        """Whether width and height change places."""
        return self.reversal in _SIDEWAYS


def orientation_of(exif: bytes, xmp: bytes) -> Orientation:
    """The orientation in an EXIF block or TIFF or, where that says none, in XMP; never fails."""
    value, is_said = _in_exif(exif) if exif else (None, False)
    found = _IN_XMP.search(xmp) if value is None else None
    if found:
        value, is_said = int(found[1]), True
    is_readable = value in range(1, 9) if is_said else True
    return Orientation(_REVERSALS.get(value or 1), "" if is_readable else UNREADABLE)


def _in_exif(exif: bytes) -> tuple[int | None, bool]:
    """The orientation, None where there is none that can be read; whether one may be said."""
    file = Tiff.of(_EXIF_NAME.sub(b"", exif))
    first = file.first() if file else None
    if file is None or first is None:
        return None, True
    if tiff.ORIENTATION not in first.entries:
        return None, not first.is_whole
    return (*file.numbers(first, tiff.ORIENTATION)[:1], None)[0], True


def words_of(image: Image.Image) -> tuple[bytes, bytes]:
    """The EXIF block and XMP that Pillow found in a file; empty where there is none."""
    exif = image.info.get("exif") or b""
    as_text = image.info.get("Raw profile type exif")  # of older programs: hexadecimal below three lines
    if not exif and isinstance(as_text, str):
        try:
            exif = bytes.fromhex("".join(as_text.split("\n")[3:]))
        except ValueError:
            exif = b"unreadable"
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return exif, xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
