"""All that is to be known of one image file, from reading and decoding it once."""

import importlib.metadata
from pathlib import Path
from typing import NamedTuple

from PIL import Image

import fext
from fext.data.duplicates import HASHED_BY, perceptual_hash
from fext.data.images import (
    DECODERS,
    MAX_SIDE,
    NO_FILE,
    FileState,
    ImageHeader,
    checksum,
    decode_within,
    read_file,
    to_bytes,
)
from fext.data.statistics import STATISTICS_VERSION, PictureStatistics, picture_statistics
from fext.data.thumbnails import shrunken
from fext.errors import ImageRejected, TooLittleMemory

# What decides what is found of a file.
_SKIMAGE = f"scikit-image {importlib.metadata.version('scikit-image')}"
MADE_BY = f"{DECODERS}, {_SKIMAGE}, {HASHED_BY}, statistics {STATISTICS_VERSION}, FeXT {fext.__version__}"
THUMBNAIL_SIDE = 128


class Picture(NamedTuple):
    """What was found of a good image; as bytes its perceptual hash (8), small grey picture (32 * 32) and thumbnail (a
    WebP file)."""

    header: ImageHeader
    statistics: PictureStatistics
    perceptual_hash: bytes
    small: bytes
    thumbnail: bytes


class Analysis(NamedTuple):
    """What was found of a file in a certain state: a picture, or the reason to reject it."""

    state: FileState
    sha256: str
    reason: str
    picture: Picture | None


def analyze_file(path: Path) -> Analysis:
    """Read, decode and measure one image file; one that cannot be used has a reason and no picture."""
    state, sha256 = NO_FILE, ""
    try:
        data, state = read_file(path)
        sha256 = checksum(data)
        header, pixels, small = decode_within(data, MAX_SIDE, path.suffix)
    except TooLittleMemory as error:
        return Analysis(NO_FILE, "", str(error), None)
    except ImageRejected as error:
        return Analysis(state, sha256, str(error), None)
    levels = to_bytes(pixels)
    statistics = picture_statistics(pixels, levels)
    thumbnail = shrunken(Image.fromarray(levels), THUMBNAIL_SIDE)
    return Analysis(state, sha256, "", Picture(header, statistics, perceptual_hash(small), small.tobytes(), thumbnail))
