"""Thumbnails of image files: those of the analysis where it knows the file as it is, else decoded now."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from fext.data.analysis import THUMBNAIL_SIDE
from fext.data.readers import map_in_processes, num_processes
from fext.data.thumbnails import Thumbnail, make_thumbnail
from fext.settings import Settings
from fext.store.analyzed import AnalyzedImages
from fext.store.workspace import Workspace


def thumbnails(workspace: Workspace, settings: Settings, paths: Sequence[Path]) -> Iterator[Thumbnail]:
    """One for each of the files, in order; of one that cannot be read now, the reason."""
    memory = AnalyzedImages(workspace.analyzed_images, settings.check_contents)
    with closing(memory):
        unknown = [path for path, is_known in zip(paths, memory.knows(paths), strict=True) if not is_known]
        decode = partial(make_thumbnail, side=THUMBNAIL_SIDE)
        num_processors = num_processes(settings.num_processors)
        decoded = map_in_processes(decode, unknown, max(1, min(num_processors, len(unknown))))
        due = iter(unknown)
        next_unknown = next(due, None)
        for path in paths:
            if path == next_unknown:
                thumbnail, next_unknown = next(decoded), next(due, None)
                yield thumbnail
            else:
                yield _recalled(memory, path)


def _recalled(memory: AnalyzedImages, path: Path) -> Thumbnail:
    analysis = memory.recall(path)
    if analysis is None:  # it has changed a moment ago
        return make_thumbnail(path, THUMBNAIL_SIDE)
    if analysis.picture is None:
        return Thumbnail(None, b"", analysis.reason)
    return Thumbnail(analysis.picture.header, analysis.picture.thumbnail, "")
