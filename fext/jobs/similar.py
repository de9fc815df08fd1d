"""The images nearest to a picture, and those nearest to each image of an extraction."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fext.compute.vector_index import NO_ID, Rows
from fext.data.groups import group_images
from fext.data.images import read_file
from fext.data.labels import are_labels, folder_labels, label_chance
from fext.data.names import name_to_bytes
from fext.data.spelling import given_path, match
from fext.data.unchanged import state_if_same
from fext.errors import ExtractionError, ImageRejected, SourceError
from fext.jobs.indexing import IndexedExtraction, open_index
from fext.jobs.outside import OutsideEncoder
from fext.jobs.thumbnails import thumbnails
from fext.model.intervals import Interval, mean_interval
from fext.pictures.page import Item, file_uri
from fext.pictures.similar_report import SimilarImages, similar_page
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import extractions, files
from fext.store.workspace import Workspace

FOLDER = "similar"
_NUM_ON_PAGE = 200
SCORE_NAMES = {"cosine": "similarity", "euclidean": "distance"}


@dataclass(frozen=True)
class SimilarResult:
    """The images nearest to a picture, (image, score) with the nearest first, and where they are written.

    The score is a similarity by 'cosine', a distance by 'euclidean'; `compared` says in words of what. `recall` is None
    for an exact search.
    """

    name: str
    query: str
    nearest: tuple[tuple[str, float], ...]
    score_name: str
    compared: str
    recall: float | None
    num_images: int
    table: Path
    page: Path
    seconds: float


@dataclass(frozen=True)
class NeighboursResult:
    """The table of the images nearest to each image, and, where folders are labels, the precision of these.

    `precision` is the share of the nearest images that have the label of the image, the mean over images; `chance` is
    what images drawn at random have. `groups` is a sentence on what its interval takes for independent.
    """

    name: str
    num_images: int
    count: int
    compared: str
    recall: float | None
    table: Path
    precision: Interval | None
    groups: str
    chance: float | None
    seconds: float


# ---------------------------------------------------------------- one picture


@dataclass(frozen=True)
class _Query:
    """What is searched for: its row as the index has rows, the file it comes from and, of an image of the extraction,
    its place."""

    name: str
    path: Path
    row: Rows
    place: int | None


def find_similar(
    workspace: Workspace, settings: Settings, folder: Path, picture: str, count: int, reporter: Reporter
) -> SimilarResult:
    """The `count` images nearest to an image of the extraction, or to any other picture; a CSV and a page of them.

    Of another picture the row is made as the extraction's rows were. Raises ExtractionError where the extraction is not
    finished or has no other image, SourceError where there is no such picture, CheckpointError where a picture that is
    not in the extraction needs a model that is gone.
    """
    started = time.perf_counter()
    indexed = open_index(folder, settings, settings.similarity, reporter)
    query = _query(workspace, settings, indexed, picture, reporter)
    others = len(indexed.images) - (query.place is not None)
    if not others:
        raise _one_image(folder)
    nearest = _nearest(indexed, query, min(count, others))
    score_name = SCORE_NAMES[settings.similarity]
    table, page = folder / FOLDER / "nearest.csv", folder / FOLDER / "nearest.html"
    rows = ((query.name, rank, image, f"{score:.6f}") for rank, (image, score) in enumerate(nearest, start=1))
    files.write_csv(table, ("query", "rank", "image", score_name), rows)
    shown = nearest[:_NUM_ON_PAGE]
    paths = [query.path, *(indexed.source.path(image) for image, _ in shown)]
    titles = [(query.name, "searched for")]
    titles += [(image, f"{rank}: {score_name} {score:.4f}") for rank, (image, score) in enumerate(shown, start=1)]
    told = SimilarImages(
        query=query.name,
        extraction=folder.name,
        items=list(_items(workspace, settings, paths, titles)),
        num_found=len(nearest),
        num_images=len(indexed.images),
        metric=settings.similarity,
        compared=indexed.compared,
        recall=indexed.recall,
    )
    files.write_text_chunks(page, similar_page(told))
    return SimilarResult(
        name=folder.name,
        query=query.name,
        nearest=tuple(nearest),
        score_name=score_name,
        compared=indexed.compared,
        recall=indexed.recall,
        num_images=len(indexed.images),
        table=table,
        page=page,
        seconds=time.perf_counter() - started,
    )


def _one_image(folder: Path) -> ExtractionError:
    return ExtractionError(f"{folder.name} has one image and nothing to compare it with: extract from more images")


def _query(
    workspace: Workspace, settings: Settings, indexed: IndexedExtraction, picture: str, reporter: Reporter
) -> _Query:
    name = match(indexed.images, [picture]).get(picture, picture)
    place = _place(indexed, name)
    path = given_path(picture)
    if place is not None and _is_another_file(path, indexed.source.path(name)):
        reporter.warning(
            f"{picture} is searched for as the image of that name in {indexed.folder.name}, not as the file here: for "
            f"that give its whole path"
        )
    if place is None and (inside := _name_within(indexed, path)) is not None:
        name, place = inside, _place(indexed, inside)
    if place is not None:
        return _Query(name, indexed.source.path(name), indexed.rows(place, place + 1), place)
    table = indexed.stored.table
    try:
        data = read_file(path)[0]
        encoder = OutsideEncoder(workspace, settings, indexed.folder, table.manifest, reporter)
        row = next(encoder.rows([data], table.grid))
    except ImageRejected as error:
        raise _cannot_be_searched(indexed, picture, str(error)) from error
    if not np.isfinite(row).all():
        raise SourceError(f"the features of {picture} are not finite: it cannot be compared with others")
    return _Query(path.name, path, indexed.normalized(row[None]), None)


def _place(indexed: IndexedExtraction, name: str) -> int | None:
    wanted = name_to_bytes(name)
    places = (place for place, known in enumerate(indexed.images.iter_bytes()) if known == wanted)
    return next(places, None)


def _is_another_file(path: Path, image: Path) -> bool:
    """Whether there is a file, other than that of the image."""
    return os.path.isfile(path) and path.resolve() != image.resolve()


def _name_within(indexed: IndexedExtraction, path: Path) -> str | None:
    """The name of an image of the extraction whose file is given and is as it was when it was encoded."""
    try:
        name = path.resolve().relative_to(indexed.source.root.resolve()).as_posix()
    except (OSError, ValueError):
        return None
    records = (record for record in extractions.read_records(indexed.folder) if record.image == name)
    record = next(records, None)
    if record is None or state_if_same(path, record.state, record.sha256, by_contents=True) is None:
        return None
    return name


def _cannot_be_searched(indexed: IndexedExtraction, picture: str, reason: str) -> SourceError:
    for record in extractions.read_records(indexed.folder):
        if record.image == picture and record.reason:
            return SourceError(f"{picture} has no features in {indexed.folder.name}: {record.reason}")
    return SourceError(
        f"{picture} cannot be searched for: {reason}; name an image as {extractions.IMAGES_FILE} of "
        f"{indexed.folder.name} does, or give the path of a picture"
    )


def _nearest(indexed: IndexedExtraction, query: _Query, count: int) -> list[tuple[str, float]]:
    places, scores = (of_one[0].tolist() for of_one in indexed.search(query.row, count + (query.place is not None)))
    pairs = [(place, score) for place, score in zip(places, scores, strict=True) if place != NO_ID]
    others = [(indexed.images[place], score) for place, score in pairs if place != query.place]
    return others[:count]


def _items(
    workspace: Workspace, settings: Settings, paths: list[Path], titles: list[tuple[str, str]]
) -> Iterator[Item]:
    for (name, line), thumbnail in zip(titles, thumbnails(workspace, settings, paths), strict=True):
        if thumbnail.data:
            yield Item(name, (line,), file_uri(thumbnail.data))
        else:
            yield Item(name, (line, thumbnail.reason), "")


# ---------------------------------------------------------------- all images


def find_all_neighbours(folder: Path, settings: Settings, count: int, reporter: Reporter) -> NeighboursResult:
    """The `count` images nearest to each image, as similar/neighbours.csv.

    Where the folders of the images are labels, it is counted how many of the nearest have the label of the image.
    Raises ExtractionError where the extraction is not finished or has one image alone.
    """
    started = time.perf_counter()
    indexed = open_index(folder, settings, settings.similarity, reporter)
    names = indexed.images
    if len(names) < 2:
        raise _one_image(folder)
    count = min(count, len(names) - 1)
    codes = folder_labels(names).codes
    precision = np.zeros(len(names), np.float32)

    def rows() -> Iterator[tuple[str, int, str, str]]:
        for start, found in indexed.neighbours(count, reporter):
            precision[start : start + len(found.ids)] = label_precision(found.ids, codes[start:], codes)
            for place, (ids, scores) in enumerate(zip(found.ids.tolist(), found.scores.tolist(), strict=True), start):
                for rank, (other, score) in enumerate(zip(ids, scores, strict=True), start=1):
                    if other != NO_ID:
                        yield names[place], rank, names[other], f"{score:.6f}"

    table = folder / FOLDER / "neighbours.csv"
    files.write_csv(table, ("image", "rank", "neighbour", SCORE_NAMES[settings.similarity]), rows())
    has_labels = are_labels(codes.tolist())
    groups = group_images(names, settings.interval_groups)
    return NeighboursResult(
        name=folder.name,
        num_images=len(names),
        count=count,
        compared=indexed.compared,
        recall=indexed.recall,
        table=table,
        precision=mean_interval(precision.astype(np.float64), groups.codes) if has_labels else None,
        groups=groups.sentence(),
        chance=label_chance(codes) if has_labels else None,
        seconds=time.perf_counter() - started,
    )


def label_precision(ids: NDArray[np.int64], own: NDArray[np.int32], codes: NDArray[np.int32]) -> NDArray[np.float32]:
    """Of each query the share of its nearest (N, K), places in `codes`, that have its label, the
    first of `own`."""
    is_there = ids != NO_ID
    hits = (codes[ids] == own[: len(ids), None]) & is_there
    shares: NDArray[np.float32] = (hits.sum(axis=1) / np.maximum(is_there.sum(axis=1), 1)).astype(np.float32)
    return shares
