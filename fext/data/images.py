"""One image file -> one array: the only place that decodes, and the only preprocessing there is.

Training, evaluation and extraction all call `load_image`; nothing else opens an image. What is odd about kinds of files
lies beside it, in opening, formats, tiff, orientation and colours.
"""

import hashlib
import os
import re
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from fext.data.colours import visible
from fext.data.formats import why_not_decoded
from fext.data.opening import JPEG, Opened, open_picture
from fext.data.orientation import Orientation
from fext.errors import NOT_ENOUGH_MEMORY, ImageRejected, TooLittleMemory, is_out_of_memory

# A file is read whole; pictures within the pixel limit stay below this even where they are stored plainly.
MAX_BYTES = 2**31
# Times of files tick: every 20 ms at most, every 2 s where they are whole seconds.
_TICK, _TICK_OF_SECONDS, _SECOND = 20_000_000, 2_000_000_000, 1_000_000_000

# What is looked at of a picture is brought to this many pixels on its longer side; what a copy is known by, to these.
MAX_SIDE, SMALL_SIDE = 1024, 32

# What decides whether and how a file is decoded; its own number is raised where pixels of any kind of file change.
DECODERS = f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}, decoding 2"

# A JPEG decoded at a reduced scale keeps at least this many times the pixels asked for, so that the resampling
# that follows has the last word: the difference from full decoding stays below what JPEG itself loses.
_JPEG_GAP = 2

# What divides a JPEG into its parts: a byte FF and neither a stuffed zero, a restart, a start nor a fill byte.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_END = 0xD9
# What libjpeg says when it makes up a part of the picture; what else it warns of (odd headers of some cameras) costs
# the picture nothing. So do a few bytes left over behind a scan; many show that the scan was not understood.
_MADE_UP = ("premature end", "bad huffman code", "bad arithmetic code", "instead of rst")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x(?:c4|d9|da)")
_MAX_LEFT_OVER = 16


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model; stored in the checkpoint and used from there ever after."""

    height: int
    width: int
    channels: int
    resize_mode: Literal["stretch", "crop", "pad"]
    resample: Literal["bilinear"] = "bilinear"
    scaling: Literal["0..1"] = "0..1"
    version: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what it makes."""
        return self.height, self.width, self.channels


class FileState(NamedTuple):
    """What the system tells of a file: its size in bytes, in nanoseconds since 1970 when its contents were modified and
    when anything of it was changed (on Windows: when it was made), and its inode. 0 is what nobody told."""

    size: int
    modified: int
    changed: int = 0
    inode: int = 0


NO_FILE = FileState(0, 0)


class ImageHeader(NamedTuple):
    """What an image file says of itself: Pillow's names of its format and colour mode, its size upright in pixels; and
    what there is to tell of that, such as an orientation that cannot be read."""

    format: str
    mode: str
    width: int
    height: int
    note: str = ""


def file_state(path: Path | str) -> FileState:
    """The state of a file now; NO_FILE where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return NO_FILE
    return _state(status)


def _state(status: os.stat_result) -> FileState:
    return FileState(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def load_image(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Decode and preprocess one image file.

    Returns (height, width, channels) float32 in [0, 1]. Raises ImageRejected with the reason.
    """
    return preprocess(read_file(path)[0], preprocessing, path.suffix)


def read_file(path: Path) -> tuple[bytes, FileState]:
    """The bytes of an image file, and the state it had while they were read.

    Raises ImageRejected where there is nothing to read, or where something else was writing to it.
    """
    try:
        path.as_posix().encode()
        data, before, after = _read(path)
    except UnicodeEncodeError as error:
        raise ImageRejected("its name is not UTF-8: give the file another name") from error
    except ValueError as error:
        raise ImageRejected("no file can have this name") from error
    except FileNotFoundError as error:
        raise ImageRejected("the file is not there") from error
    except OSError as error:
        raise ImageRejected(f"the file cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise TooLittleMemory(f"{NOT_ENOUGH_MEMORY} to read it") from error
    if before != after or len(data) != after.size:
        raise ImageRejected("the file changed while it was read: start again when it is complete")
    return data, after


def _read(path: Path) -> tuple[bytes, FileState, FileState]:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe or device might never end
        raise ImageRejected("the file cannot be read: it is a pipe or a device")
    with path.open("rb") as stream:
        _let_a_tick_pass(os.fstat(stream.fileno()))
        before = os.fstat(stream.fileno())
        if before.st_size > MAX_BYTES:
            raise ImageRejected(f"{before.st_size / 1e9:.1f} GB are more than the limit of {MAX_BYTES / 1e9:.1f} GB")
        data = stream.read()
        after = os.fstat(stream.fileno())
    return data, _state(before), _state(after)


def _let_a_tick_pass(status: os.stat_result) -> None:
    """Wait, where a file was changed a moment ago, until another change would bear another time."""
    now = time.time_ns()
    ticks = ((at, _TICK if at % _SECOND else _TICK_OF_SECONDS) for at in (status.st_mtime_ns, status.st_ctime_ns))
    waits = [at + tick - now for at, tick in ticks if abs(now - at) < tick]
    if waits:
        time.sleep(max(waits) / _SECOND)


def checksum(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def preprocess(data: bytes, preprocessing: Preprocessing, extension: str = "") -> NDArray[np.float32]:
    """Decode an image file's bytes and bring them to the shape and range of a model's input.

    EXIF orientation is applied; grey, palette, CMYK, LAB and 16-bit images become RGB (16 bits as value / 65,535),
    alpha is laid over white; of animations and multi-page files the first frame counts. Colour profiles are not
    applied. Resampling is Pillow's antialiased bilinear filter. The file's extension tells camera raw from TIFF.
    Returns (height, width, channels) float32 in [0, 1]. Raises ImageRejected with the reason.
    """
    return preprocess_and_tell(data, preprocessing, extension)[0]


def preprocess_and_tell(
    data: bytes, preprocessing: Preprocessing, extension: str = ""
) -> tuple[NDArray[np.float32], str]:
    """As `preprocess`; returns, too, what there is to tell of a good image, such as an orientation that cannot be
    read, or ''."""
    with _rejecting():
        opened = open_picture(data, extension)
        return np.ascontiguousarray(_resized(_decode(opened, preprocessing), preprocessing)), opened.orientation.note


def decode_within(
    data: bytes, max_side: int, extension: str = ""
) -> tuple[ImageHeader, NDArray[np.float32], NDArray[np.uint8]]:
    """Decode an image file's bytes as `preprocess` does, in its own shape: one whose longer side exceeds max_side
    pixels is brought to that, others keep every pixel.

    Returns the header, (height, width, 3) float32 in [0, 1] and the small picture of `decode_small`. Raises
    ImageRejected with the reason.
    """
    with _rejecting():
        header, decoded, shape = _decode_within(data, max_side, extension)
        return header, np.ascontiguousarray(_resized(decoded, shape)), _small(decoded)


def decode_small(data: bytes, max_side: int, extension: str = "") -> NDArray[np.uint8]:
    """Decode an image file's bytes as `decode_within` does, for the sake of a small picture of the whole alone.

    Returns (32, 32) grey levels, stretched to that by Pillow's Lanczos filter. Raises ImageRejected with the reason.
    """
    with _rejecting():
        _, decoded, _ = _decode_within(data, max_side, extension)
        return _small(decoded)


def _decode_within(data: bytes, max_side: int, extension: str) -> tuple[ImageHeader, "_Decoded", Preprocessing]:
    """The header, the decoded picture and the shape it is to have."""
    opened = open_picture(data, extension)
    image, orientation = opened.image, opened.orientation
    width, height = image.size[::-1] if orientation.is_sideways else image.size
    header = ImageHeader(image.format or "", image.mode, width, height, orientation.note)
    scale = min(1.0, max_side / max(width, height))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    shape = Preprocessing(height, width, 3, "stretch")
    return header, _decode(opened, shape), shape


@contextmanager
def _rejecting() -> Iterator[None]:
    """Turn whatever is raised on a damaged file into ImageRejected."""
    with _SILENCE:
        try:
            yield
        except ImageRejected:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            if is_out_of_memory(error):
                raise TooLittleMemory(f"{NOT_ENOUGH_MEMORY} to decode it") from error
            raise ImageRejected(why_not_decoded(error)) from error


class _Silence:
    """No warnings while any thread decodes: Python has one state of them for all threads, which each would put back
    under the others.

    Pillow warns of odd metadata and large pictures; what matters of that is decided elsewhere.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._num_inside == 0:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._warnings.__exit__(None, None, None)


_SILENCE = _Silence()


@dataclass(frozen=True)
class _Decoded:
    """A decoded picture as it lies in its file: what part of it is picture, its full size, how to set it upright."""

    image: Image.Image
    box: tuple[float, float, float, float]
    full_size: tuple[int, int]
    orientation: Orientation

    def upright(self, image: Image.Image) -> Image.Image:
        """An image of it as it lies, set upright."""
        reversal = self.orientation.reversal
        return image if reversal is None else image.transpose(reversal)


def _decode(opened: Opened, preprocessing: Preprocessing) -> _Decoded:
    """The picture as one RGB image of 8 bits, or as a float plane in [0, 1] for 16 bits."""
    with opened.image as image:
        picture, full_size = image, image.size
        box: tuple[float, float, float, float] = (0, 0, *full_size)
        if image.format in JPEG:
            if not _jpeg_has_its_end(opened.data):
                raise ImageRejected("truncated: the JPEG does not reach its end")
            box = _reduced_scale(image, preprocessing, opened.orientation.is_sideways)
            picture = _decode_jpeg(image, opened.data)
        return _Decoded(visible(picture, opened.samples), box, full_size, opened.orientation)


def _jpeg_has_its_end(data: bytes) -> bool:
    """Whether an end follows the scans: zeros that fill a broken-off download decode as grey without a word."""
    position = 0
    while marker := _JPEG_MARKER.search(data, position):
        if marker[0][1] == _JPEG_END:
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return False


def _decode_jpeg(image: Image.Image, data: bytes) -> Image.Image:
    """The picture at the size that `image` was drafted to.

    Pillow's decoder says nothing of data that libjpeg had to make up; simplejpeg, the same libjpeg-turbo with the same
    pixels, says it, and takes two thirds of the time.
    """
    colours = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}.get(image.mode)
    if colours is None:
        return _decoded_by_pillow(image)
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, min_height=image.height, min_width=image.width)
    except ValueError as error:
        if _tells_of_damage(str(error).lower()):
            raise
        return _decoded_by_pillow(image)
    if image.mode == "CMYK" or pixels.shape[:2] != (image.height, image.width):
        return _decoded_by_pillow(image)  # it knows in which way round a program stores its inks
    return Image.fromarray(pixels[:, :, 0] if image.mode == "L" else pixels)


def _decoded_by_pillow(image: Image.Image) -> Image.Image:
    image.load()
    return image


def _tells_of_damage(warning: str) -> bool:
    left_over = _LEFT_OVER.search(warning)
    if left_over:
        return int(left_over[1]) > _MAX_LEFT_OVER
    return any(words in warning for words in _MADE_UP)


def _reduced_scale(
    image: Image.Image, preprocessing: Preprocessing, sideways: bool
) -> tuple[float, float, float, float]:
    """Let the JPEG decoder skip detail that resampling would throw away; the box is where the picture then lies.

    A side that the scale does not divide is rounded up by the decoder: the box leaves out what was added.
    """
    width, height = preprocessing.width, preprocessing.height
    if sideways:
        width, height = height, width
    choose = max if preprocessing.resize_mode == "pad" else min
    scale = choose(image.width / width, image.height / height)
    full: tuple[float, float, float, float] = (0, 0, *image.size)
    if scale <= _JPEG_GAP:
        return full
    needed = (max(1, int(image.width / scale * _JPEG_GAP)), max(1, int(image.height / scale * _JPEG_GAP)))
    drafted = image.draft(None, needed)
    return drafted[1] if drafted else full


def _resized(decoded: _Decoded, preprocessing: Preprocessing) -> NDArray[np.float32]:
    image = _fit(decoded, preprocessing)
    if image.mode == "F":
        grey = np.clip(np.asarray(image, dtype=np.float32), 0, 1)[:, :, None]
        return np.repeat(grey, preprocessing.channels, axis=2)
    if preprocessing.channels == 1:
        image = image.convert("L")
    return from_bytes(np.asarray(image)).reshape(preprocessing.shape)


def from_bytes(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """0 to 255 as float32 in [0, 1]."""
    scaled: NDArray[np.float32] = np.divide(pixels, np.float32(255), dtype=np.float32)
    return scaled


def _small(decoded: _Decoded) -> NDArray[np.uint8]:
    size = (SMALL_SIDE, SMALL_SIDE)
    image = decoded.image.resize(size, Image.Resampling.LANCZOS, box=decoded.box, reducing_gap=3)
    upright = decoded.upright(image)
    if upright.mode == "F":
        return to_bytes(np.clip(np.asarray(upright, dtype=np.float32), 0, 1))
    return np.asarray(upright.convert("L"))


def to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values in [0, 1] as the nearest of 0 to 255."""
    levels: NDArray[np.uint8] = np.rint(values * np.float32(255)).astype(np.uint8)
    return levels


def _fit(decoded: _Decoded, preprocessing: Preprocessing) -> Image.Image:
    """Resize as the picture lies in its file, then set the small picture upright: the same and less to turn."""
    size = (preprocessing.width, preprocessing.height)
    left, top, right, bottom = decoded.box
    width, height = decoded.full_size
    lying = size[::-1] if decoded.orientation.is_sideways else size
    if preprocessing.resize_mode == "crop":
        scale = min(width / lying[0], height / lying[1])
        cut_x = (right - left) * (1 - lying[0] * scale / width) / 2
        cut_y = (bottom - top) * (1 - lying[1] * scale / height) / 2
        left, top, right, bottom = left + cut_x, top + cut_y, right - cut_x, bottom - cut_y
    if preprocessing.resize_mode == "pad":
        scale = min(lying[0] / width, lying[1] / height)
        lying = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = decoded.image.resize(lying, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return _padded(decoded.upright(image), size)


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    canvas = Image.new(image.mode, size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas
