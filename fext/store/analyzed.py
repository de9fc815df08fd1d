"""What the analysis found of image files, so that it goes on where it stopped and looks only at what is new."""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fext.data.analysis import MADE_BY, Analysis, Picture
from fext.data.images import ImageHeader, file_state
from fext.data.statistics import NUM_LEVELS, PictureStatistics
from fext.store.index import RememberedFiles

_ANALYZED = (
    "sha256", "reason", "format", "mode", "width", "height", "note", "statistics", "histogram", "perceptual_hash",
    "small", "thumbnail",
)  # fmt: skip


class AnalyzedImages:
    """The memory in data/validation/analyzed_images.sqlite of what the analysis found of each file."""

    def __init__(self, file: Path, by_contents: bool = False) -> None:
        self._files = RememberedFiles(file, "analyzed_images", _ANALYZED, MADE_BY, by_contents)

    def knows(self, paths: Iterable[Path]) -> Iterator[bool]:
        """Of each file, in order, whether what was found of it holds; quicker than `recall` for many."""
        return self._files.knows(paths)

    def recall(self, path: Path) -> Analysis | None:
        """What was found of a file that has not changed since."""
        row = self._files.recall(path)
        if row is None:
            return None
        sha256, reason, image_format, mode, width, height, note, values, histogram, *looks = row
        state = file_state(path)
        if reason:
            return Analysis(state, sha256, reason, None)
        counts = np.frombuffer(zlib.decompress(histogram), np.int64).reshape(3, NUM_LEVELS)
        statistics = PictureStatistics(tuple(np.frombuffer(values, np.float64).tolist()), counts)
        header = ImageHeader(image_format, mode, width, height, note)
        return Analysis(state, sha256, "", Picture(header, statistics, *looks))

    def small(self, path: Path) -> bytes | None:
        """The small picture of a file that has not changed since."""
        row = self._files.recall(path, "small")
        return row[0] if row else None

    def remember(self, found: Iterable[tuple[Path, Analysis]]) -> None:
        """Keep what was found of files in the state in which they were read."""
        self._files.remember((path, analysis.state, _as_row(analysis)) for path, analysis in found)

    def forget_vanished(self, folder: Path) -> None:
        """Drop what was found of files below a folder that are no longer there."""
        self._files.forget_vanished(folder)

    def close(self) -> None:
        """Close the file; what was remembered is in it."""
        self._files.close()


def _as_row(analysis: Analysis) -> tuple[Any, ...]:
    picture = analysis.picture
    if picture is None:
        return (analysis.sha256, analysis.reason, *(None,) * (len(_ANALYZED) - 2))
    values = np.asarray(picture.statistics.values, np.float64).tobytes()
    histogram = zlib.compress(picture.statistics.histogram.tobytes(), level=1)
    looks = (picture.perceptual_hash, picture.small, picture.thumbnail)
    return (analysis.sha256, "", *picture.header, values, histogram, *looks)
