"""One image file -> one array: the only place that decodes, and the only preprocessing there is.

Training, evaluation and extraction all call `load_image`; nothing else opens an image.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fext.errors import ImageRejected

# Pillow's own limit against decompression bombs, made ours so that it does not depend on Pillow's version.
MAX_PIXELS = 178_956_970

# A JPEG decoded at a reduced scale keeps at least this many times the pixels asked for, so that the resampling
# that follows has the last word: the difference from full decoding stays below what JPEG itself loses.
_JPEG_GAP = 2

_ORIENTATION = 0x0112
_SIXTEEN_BITS = {"I;16", "I;16L", "I;16B", "I;16N"}
_OPAQUE = {"1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"}
_WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}


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
        return self.height, self.width, self.channels


def load_image(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Decode and preprocess one image file.

    Returns (height, width, channels) float32 in [0, 1]. Raises ImageRejected with the reason.
    """
    return preprocess(read_bytes(path), preprocessing)


def read_bytes(path: Path) -> bytes:
    """The bytes of an image file; raises ImageRejected where there are none to read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageRejected("the file is not there") from error
    except OSError as error:
        raise ImageRejected(f"the file cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageRejected("the file is empty")
    return data


def checksum(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def preprocess(data: bytes, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Decode an image file's bytes and bring them to the shape and range of a model's input.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit images become RGB (16 bits as value / 65,535), alpha
    is laid over white; of animations and multi-page files the first frame counts. Colour profiles are not applied.
    Resampling is Pillow's antialiased bilinear filter. Returns (height, width, channels) float32 in [0, 1].
    Raises ImageRejected with the reason.
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and large pictures; what matters of that is decided below.
        warnings.simplefilter("ignore")
        try:
            picture = _decode(data, preprocessing)
            array = _resized(picture, preprocessing)
        except ImageRejected:
            raise
        except MemoryError as error:
            raise ImageRejected("not enough memory to decode it") from error
        except Exception as error:  # Pillow's decoders raise many kinds on damaged files
            raise ImageRejected(_reason(error)) from error
    return np.ascontiguousarray(array)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can identify"
    text = " ".join(str(error).split())
    return f"damaged or not decodable: {text or type(error).__name__}"


def _decode(data: bytes, preprocessing: Preprocessing) -> list[Image.Image]:
    """The upright picture as one RGB image of 8 bits, or as float planes in [0, 1] for 16 bits."""
    with _opened(data) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageRejected(f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,} pixels")
        if image.format == "JPEG":
            _reduce_scale(image, preprocessing)
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _planes(upright, image.format or "")


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageRejected(f"more pixels than the limit of {MAX_PIXELS:,}") from error


def _reduce_scale(image: Image.Image, preprocessing: Preprocessing) -> None:
    """Let the JPEG decoder skip detail that resampling would throw away."""
    width, height = preprocessing.width, preprocessing.height
    if image.getexif().get(_ORIENTATION, 1) >= 5:  # lies on its side: width and height will change places
        width, height = height, width
    choose = max if preprocessing.resize_mode == "pad" else min
    scale = choose(image.width / width, image.height / height)
    if scale > _JPEG_GAP:
        needed = (int(image.width / scale * _JPEG_GAP), int(image.height / scale * _JPEG_GAP))
        image.draft(None, needed)


def _planes(image: Image.Image, file_format: str) -> list[Image.Image]:
    mode = image.mode
    if mode in _SIXTEEN_BITS or (mode == "I" and file_format in {"PNG", "PPM"}):
        values = np.asarray(image).astype(np.float32) / np.float32(65535)
        return [Image.fromarray(values)]
    if mode in _WITH_ALPHA or "transparency" in image.info:
        return [_over_white(image)]
    if mode in _OPAQUE:
        return [image.convert("RGB")]
    if mode in {"I", "F"}:
        raise ImageRejected(f"its 32-bit pixels (mode {mode}) have no known range: save it with 8 or 16 bits")
    raise ImageRejected(f"colour mode {mode} cannot be made RGB: save it as RGB or grey")


def _over_white(image: Image.Image) -> Image.Image:
    picture = image.convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _resized(planes: list[Image.Image], preprocessing: Preprocessing) -> NDArray[np.float32]:
    image = _fit(planes[0], preprocessing)
    if image.mode == "F":
        grey = np.clip(np.asarray(image, dtype=np.float32), 0, 1)[:, :, None]
        return np.repeat(grey, preprocessing.channels, axis=2)
    if preprocessing.channels == 1:
        image = image.convert("L")
    array = np.asarray(image, dtype=np.float32) / np.float32(255)
    return array.reshape(preprocessing.shape)


def _fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = (preprocessing.width, preprocessing.height)
    if preprocessing.resize_mode == "stretch":
        return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    if preprocessing.resize_mode == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    return _padded(image, size)


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new(image.mode, size)
    corner = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    canvas.paste(image.resize(inner, Image.Resampling.BILINEAR), corner)
    return canvas
