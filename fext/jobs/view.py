"""The viewer of an extraction: its images to look through, and of each the nearest by their features."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fext.compute.vector_index import NO_ID, TOLD_METRICS
from fext.data.images import ImageHeader, file_state
from fext.data.names import Names
from fext.data.source import known_images
from fext.data.thumbnails import Thumbnail
from fext.jobs.indexing import IndexedExtraction, open_index
from fext.jobs.thumbnails import thumbnails
from fext.pictures.viewer import MAX_IMAGES, Neighbours, Viewed, told_of_limit, viewer
from fext.reporting import Progress, Reporter
from fext.settings import Settings
from fext.store import extractions, files
from fext.store.parts import WRITTEN, Record, Row
from fext.store.tables import Columns
from fext.store.workspace import Workspace

_NUM_NEIGHBOURS = 8


@dataclass(frozen=True)
class ViewResult:
    """The page written for an extraction, how many of its images it shows, and how many of these have no picture."""

    name: str
    file: Path
    num_images: int
    num_shown: int
    num_without_picture: int
    seconds: float


@dataclass(frozen=True)
class _Image:
    """What the extraction says of an image: its record, and the lines that are shown of it."""

    record: Record
    lines: tuple[str, ...]


def view(workspace: Workspace, settings: Settings, folder: Path, reporter: Reporter) -> ViewResult:
    """Write viewer.html into the folder of a finished extraction.

    The first 20,000 images are shown, and neighbours are sought among them, as `similar` seeks them. Raises as
    open_index does.
    """
    started = time.perf_counter()
    manifest = extractions.read_finished(folder)
    num_images = manifest["counts"]["found"]
    columns = Columns(manifest["num_features"], manifest["reconstruction_error"])
    indexed = open_index(folder, settings, settings.similarity, reporter)
    images = _read(folder, columns, min(num_images, MAX_IMAGES), reporter)
    names = [image.record.image for image in images]
    neighbours = _neighbours(indexed, names, reporter)
    introduction = (
        f"The images of the extraction {folder.name}: {manifest['num_features']:,} features of each, made by "
        f"{manifest['checkpoint']['name']} from {manifest['source']}.{told_of_limit(len(images), num_images)}"
    )
    shown = _Shown(workspace, settings, Path(manifest["source"]), images)
    with reporter.progress("thumbnails", len(images)) as progress:
        page = viewer(f"Extraction {folder.name}", introduction, names, shown.each(progress), neighbours)
        files.write_text_chunks(folder / "viewer.html", page)
    return ViewResult(
        name=folder.name,
        file=folder / "viewer.html",
        num_images=num_images,
        num_shown=len(images),
        num_without_picture=shown.num_without_picture,
        seconds=time.perf_counter() - started,
    )


def facts_of_file(header: ImageHeader, num_bytes: int) -> tuple[str, str]:
    """What is to be said of an image file in two lines."""
    return f"{header.width} × {header.height} pixels", f"{header.format} {header.mode}, {-(-num_bytes // 1000):,} kB"


def _read(folder: Path, columns: Columns, count: int, reporter: Reporter) -> list[_Image]:
    """The first images."""
    images: list[_Image] = []
    table = extractions.read_table(folder, columns)
    with closing(table), reporter.progress("reading", count) as progress:
        for done in islice(table, count):
            row = done.row() if done.record.status == WRITTEN else None
            images.append(_Image(done.record, _lines(done.record, row, columns)))
            progress.advance()
    return images


def _lines(record: Record, row: Row | None, columns: Columns) -> tuple[str, ...]:
    if record.status == WRITTEN and row is None:
        return ("its row is damaged: verify the extraction",)
    return (f"reconstruction error {row[-1]:.6f}",) if row is not None and columns.has_error else ()


def _neighbours(indexed: IndexedExtraction, names: Sequence[str], reporter: Reporter) -> Neighbours:
    """The neighbours of the images of these names; those without a row have none."""
    place_of_name = {name: place for place, name in enumerate(names)}
    place_of = [place_of_name[name] for name in islice(indexed.images, len(names)) if name in place_of_name]
    pairs: list[list[tuple[int, float]]] = [[] for _ in names]
    for start, found in indexed.neighbours(_NUM_NEIGHBOURS, reporter, len(place_of)):
        for own, (others, scores) in enumerate(zip(found.ids.tolist(), found.scores.tolist(), strict=True), start):
            near = [(place_of[other], score) for other, score in zip(others, scores, strict=True) if other != NO_ID]
            pairs[place_of[own]] = [(place, round(score, 4)) for place, score in near]
    return Neighbours(pairs, f"Nearest by {TOLD_METRICS[indexed.index.metric]} of {indexed.compared}")


class _Shown:
    """Images with their thumbnails."""

    def __init__(self, workspace: Workspace, settings: Settings, source: Path, images: Sequence[_Image]) -> None:
        root = known_images(source, Names([])).root
        self._paths = [root / image.record.image for image in images]
        self._thumbnails = thumbnails(workspace, settings, self._paths)
        self._images, self._by_contents = images, settings.check_contents
        self.num_without_picture = 0

    def each(self, progress: Progress) -> Iterator[Viewed]:
        """One after another, in order."""
        for image, path, thumbnail in zip(self._images, self._paths, self._thumbnails, strict=True):
            self.num_without_picture += not thumbnail.data
            yield _viewed(image, path, thumbnail, self._by_contents)
            progress.advance()


def _viewed(image: _Image, path: Path, thumbnail: Thumbnail, by_contents: bool) -> Viewed:
    """A rejected image has the reason of that time; where it can be read by now, both are shown."""
    if not thumbnail.data or thumbnail.header is None:
        return Viewed(image.lines, b"", image.record.reason or thumbnail.reason)
    state = file_state(path)
    rejected = (f"rejected: {image.record.reason}",) if image.record.reason else ()
    changed = () if image.record.is_of(path, by_contents) else ("changed since the extraction",)
    return Viewed((*facts_of_file(thumbnail.header, state.size), *changed, *rejected, *image.lines), thumbnail.data)
