"""Small grey pictures and checksums of image files: those remembered of unchanged files, the others decoded now."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fext.data.images import SMALL_SIDE
from fext.data.looks import look_at_file
from fext.data.readers import map_in_processes, num_processes
from fext.data.source import ImageSource
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.index import CheckedImage, CheckedImages
from fext.store.scratch import scratch_rows
from fext.store.workspace import Workspace

_BATCH_SIZE = 256  # images that are looked at between two saves, worth the start of processes


@dataclass(frozen=True)
class SmallPictures:
    """Of some places among the images of a source, sorted, the SHA-256 of the file, '' where it cannot be read now,
    and the picture."""

    places: NDArray[np.int64]
    checksums: list[str]
    _pixels: NDArray[np.float32]

    def checksum(self, place: int) -> str:
        """The SHA-256 of the file at a place, which is one of `places`; '' where it cannot be read now."""
        return self.checksums[self._number(place)]

    def picture(self, place: int) -> NDArray[np.float64] | None:
        """(32, 32) grey levels; None where the file cannot be read now."""
        number = self._number(place)
        if not self.checksums[number]:
            return None
        picture: NDArray[np.float64] = self._pixels[number].astype(np.float64)
        return picture.reshape(SMALL_SIDE, SMALL_SIDE)

    def _number(self, place: int) -> int:
        return int(np.searchsorted(self.places, place))


@contextmanager
def small_pictures_of(
    workspace: Workspace, settings: Settings, source: ImageSource, places: NDArray[np.int64], reporter: Reporter
) -> Iterator[SmallPictures]:
    """Look at the images at these places, which are sorted; many small pictures stay on the disk."""
    checksums = []
    workspace.validation.mkdir(parents=True, exist_ok=True)
    with scratch_rows(workspace.validation, len(places), SMALL_SIDE**2) as scratch:
        with reporter.progress("looking at pictures", len(places)) as progress:
            for checked in _checked(workspace, settings, source, places):
                checksums.append("" if checked.reason else checked.sha256)
                small = np.frombuffer(checked.small or bytes(SMALL_SIDE**2), np.uint8)
                scratch.add(small.astype(np.float32))
                progress.advance()
        yield SmallPictures(places, checksums, scratch.rows())


def _checked(
    workspace: Workspace, settings: Settings, source: ImageSource, places: NDArray[np.int64]
) -> Iterator[CheckedImage]:
    with closing(CheckedImages(workspace.checked_images, settings.check_contents)) as memory:
        for start in range(0, len(places), _BATCH_SIZE):
            paths = [source.path(source.names[place]) for place in places[start : start + _BATCH_SIZE].tolist()]
            known = {
                path: memory.recall(path) if holds else None
                for path, holds in zip(paths, memory.knows(paths), strict=True)
            }
            unknown = [path for path in paths if known[path] is None]
            num_processors = num_processes(settings.num_processors) if len(unknown) == _BATCH_SIZE else 1
            looks = dict(zip(unknown, map_in_processes(look_at_file, unknown, num_processors), strict=True))
            memory.remember((path, found.state, CheckedImage(*found[1:])) for path, found in looks.items())
            for path in paths:
                yield known[path] or CheckedImage(*looks[path][1:])
