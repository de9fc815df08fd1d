"""All that is to be known of one image file, from reading and decoding it once."""

import importlib.metadata
import io
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image

import fext
from fext.data.images import (
    DECODERS,
    NO_FILE,
    FileState,
    ImageHeader,
    checksum,
    decode_within,
    read_file,
    to_bytes,
)
from fext.data.statistics import MAX_SIDE, STATISTICS_VERSION, PictureStatistics, picture_statistics
from fext.errors import ImageRejected, TooLittleMemory

# What decides what is found of a file.
_SKIMAGE = f"scikit-image {importlib.metadata.version('scikit-image')}"
MADE_BY = f"{DECODERS}, {_SKIMAGE}, statistics {STATISTICS_VERSION}, FeXT {fext.__version__}"
THUMBNAIL_SIDE = 128


class Picture(NamedTuple):
    """What was found of a good image: its perceptual hash (8 bytes) and thumbnail (a WebP file) as bytes."""

    header: ImageHeader
    statistics: PictureStatistics
    perceptual_hash: bytes
    thumbnail: bytes


class Analysis(NamedTuple):
    """What was found of a file in a certain state: a picture, or the reason to reject it."""

    state: FileState
    sha256: str
    reason: str
    picture: Picture | None


def analyze_file(path: Path) -> Analysis:
    """Read, decode and measure one image file; one that cannot be used has a reason and no picture.

    The perceptual hash is imagehash.phash: signs of the 8x8 lowest frequencies of the grey picture.
    """
    state, sha256 = NO_FILE, ""
    try:
        data, state = read_file(path)
        sha256 = checksum(data)
        header, pixels = decode_within(data, MAX_SIDE)
    except TooLittleMemory as error:
        return Analysis(NO_FILE, "", str(error), None)
    except ImageRejected as error:
        return Analysis(state, sha256, str(error), None)
    levels = to_bytes(pixels)
    shown = Image.fromarray(levels)
    bits = np.packbits(imagehash.phash(shown).hash)
    statistics = picture_statistics(pixels, levels)
    return Analysis(state, sha256, "", Picture(header, statistics, bits.tobytes(), _thumbnail(shown)))


def _thumbnail(shown: Image.Image) -> bytes:
    small = shown.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=1)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=80, method=2)  # a fifth faster than the library's own choice, 3 % larger
    return stream.getvalue()
