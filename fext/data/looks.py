"""What has to be known of an image file to choose it: whether it can be decoded, and what copies of it are known by."""

from pathlib import Path
from typing import NamedTuple

from fext.data.duplicates import perceptual_hash
from fext.data.images import MAX_SIDE, NO_FILE, FileState, checksum, decode_small, read_file
from fext.errors import ImageRejected, TooLittleMemory


class Looks(NamedTuple):
    """A file in a certain state: its checksum, and its perceptual hash and small grey picture or why it is rejected."""

    state: FileState
    sha256: str = ""
    reason: str = ""
    perceptual_hash: bytes = b""
    small: bytes = b""


def look_at_file(path: Path) -> Looks:
    """Read and decode one image file: the same hash and small picture as the analysis finds."""
    state, sha256 = NO_FILE, ""
    try:
        data, state = read_file(path)
        sha256 = checksum(data)
        small = decode_small(data, MAX_SIDE, path.suffix)
    except TooLittleMemory as error:
        return Looks(NO_FILE, reason=str(error))
    except ImageRejected as error:
        return Looks(state, sha256, str(error))
    return Looks(state, sha256, "", perceptual_hash(small), small.tobytes())
