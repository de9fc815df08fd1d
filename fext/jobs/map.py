"""The map of an extraction: its images on a plane, those with like features near each other."""

import io
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fext.compute import layouts
from fext.data.labels import labels_of
from fext.data.names import Names
from fext.data.thumbnails import Thumbnail
from fext.errors import ExtractionError, FextError
from fext.jobs import clusters
from fext.jobs.features import Features, open_features
from fext.jobs.normalizing import normalization_of_features
from fext.jobs.points import all_equal, open_points, told_of_points
from fext.jobs.thumbnails import thumbnails
from fext.pictures.map import MAX_IMAGES, Groups, by_frequency, map_page
from fext.pictures.sprite import THUMBNAIL_SIDE, small_square, sprite_sheet
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.projector import Embedding, write_projector
from fext.store.workspace import MAP_FOLDER, Workspace

_TSNE, _PCA = "t-SNE", "principal components"
_FOLDER_GROUP, _CLUSTER_GROUP = "folder", "cluster"
_COLUMNS = ("image", "tsne_x", "tsne_y", "pca_x", "pca_y")
_BLOCK = 10_000
_NONE = "none"


@dataclass(frozen=True)
class MapResult:
    """What was written for an extraction, how many of its images are shown, and how many of these have no picture."""

    name: str
    folder: Path
    num_images: int
    num_shown: int
    num_without_picture: int
    page_bytes: int
    seconds: float


@dataclass(frozen=True)
class _Shown:
    """The images that the page shows: places among all of the extraction, names, points (N, K), layouts and groups."""

    places: NDArray[np.int64]
    names: Names
    points: NDArray[np.float32]
    layouts: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, Groups]


def lay_out(workspace: Workspace, settings: Settings, folder: Path, reporter: Reporter) -> MapResult:
    """Lay the images of a finished extraction out, and write the map to its folder 'map'.

    Every image has its place by principal components; up to 5,000 of them, evenly spaced, have one by t-SNE, and are on
    the page and in TensorBoard's projector. Raises ExtractionError where there is no finished table, one image
    alone, or all rows are equal.
    """
    started = time.perf_counter()
    with open_features(folder, settings.explore_grid, reporter) as features:
        num_images = len(features.images)
        if num_images < 2:
            raise ExtractionError(
                f"{folder.name} has one image alone: a map takes at least two: extract from more images"
            )
        normalization = normalization_of_features(settings, features, reporter)
        with open_points(folder, features.rows, normalization, settings.seed, reporter) as points:
            if points is None:
                raise all_equal(folder)
            shown = _shown(features, points, settings.seed, reporter)
            _write_table(folder / MAP_FOLDER / "map.csv", features.images, points, shown)
        pictures = _pictures(workspace, settings, features, shown, reporter)
        write_projector(folder / MAP_FOLDER, _embedding(folder.name, shown, pictures))
        file = folder / MAP_FOLDER / "map.html"
        introduction = _introduction(features, told_of_points(normalization, features.grid), shown)
        page = map_page(f"Map of {folder.name}", introduction, shown.names, shown.layouts, shown.groups, pictures)
        files.write_text_chunks(file, page)
    return MapResult(
        name=folder.name,
        folder=folder / MAP_FOLDER,
        num_images=num_images,
        num_shown=len(shown.places),
        num_without_picture=sum(not picture.data for picture in pictures),
        page_bytes=file.stat().st_size,
        seconds=time.perf_counter() - started,
    )


def _shown(features: Features, points: NDArray[np.float32], seed: int, reporter: Reporter) -> _Shown:
    count = min(len(points), MAX_IMAGES)
    places = np.linspace(0, len(points) - 1, count).round().astype(np.int64)
    some = np.array(points[places])
    found = {}
    if count >= layouts.FEWEST and some.shape[1] >= 2:
        with reporter.progress("t-SNE", count) as progress:
            found[_TSNE] = layouts.tsne(some, seed)
            progress.advance(count)
    found[_PCA] = _plane(some)
    names = features.images.select(places.tolist())
    return _Shown(places, names, some, found, _groups(features, places, names, reporter))


def _plane(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The first two components (N, 2); 0 for a second one that is not there."""
    plane = np.zeros((len(points), 2))
    plane[:, : min(2, points.shape[1])] = points[:, :2]
    return plane


def _groups(features: Features, places: NDArray[np.int64], names: Names, reporter: Reporter) -> dict[str, Groups]:
    """What colours can stand for: folders, where they are labels, and clusters, where they have been made."""
    groups = {}
    if (labelled := labels_of(features.images)) is not None:
        groups[_FOLDER_GROUP] = by_frequency([labelled.classes[code] for code in labelled.codes[places]])
    if any(numbers := _clusters(features, names, reporter)):
        groups[_CLUSTER_GROUP] = by_frequency(numbers)
    return groups


def _clusters(features: Features, names: Names, reporter: Reporter) -> list[str | None]:
    """The cluster of each image where `explore clusters` knows it; none where that was of an earlier table."""
    known: dict[str, str | None] = dict.fromkeys(names)
    folder = features.folder / clusters.FOLDER
    if not (folder / clusters.TABLE).is_file():
        return list(known.values())
    if not _are_of(features, folder):
        reporter.warning(
            f"the clusters of {features.folder.name} are of an earlier table and are left out: 'explore clusters' "
            f"makes them anew, then make the map again"
        )
        return list(known.values())
    with suppress(FextError, KeyError):
        for row in files.iter_csv(folder / clusters.TABLE):
            if row["image"] in known and row["cluster"] != "-1":
                known[row["image"]] = row["cluster"]
    return list(known.values())


def _are_of(features: Features, folder: Path) -> bool:
    """Whether clusters were made of these very rows; the first ones do not say so."""
    with suppress(FextError, KeyError, TypeError):
        return bool(files.read_json(folder / clusters.SUMMARY)["rows_sha256"] == features.checksum)
    return False


def _write_table(file: Path, names: Names, points: NDArray[np.float32], shown: _Shown) -> None:
    tsne = dict(zip(shown.places.tolist(), shown.layouts.get(_TSNE, np.empty((0, 2))).tolist(), strict=False))

    def cells(place: int, x: float, y: float) -> tuple[str, ...]:
        left = [f"{value:.5f}" for value in tsne[place]] if place in tsne else ["", ""]
        return (*left, f"{x:.5f}", f"{y:.5f}")

    planes = (_plane(points[start : start + _BLOCK]) for start in range(0, len(points), _BLOCK))
    pairs = (pair for plane in planes for pair in plane.tolist())
    rows = ((name, *cells(place, *pair)) for place, (name, pair) in enumerate(zip(names, pairs, strict=True)))
    files.write_csv(file, _COLUMNS, rows)


def _pictures(
    workspace: Workspace, settings: Settings, features: Features, shown: _Shown, reporter: Reporter
) -> list[Thumbnail]:
    paths = [features.source.path(name) for name in shown.names]
    pictures = []
    with reporter.progress("thumbnails", len(paths)) as progress:
        for thumbnail in thumbnails(workspace, settings, paths):
            pictures.append(thumbnail)
            progress.advance()
    return pictures


def _introduction(features: Features, compared: str, shown: _Shown) -> str:
    num_images, num_shown = len(features.images), len(shown.places)
    some = f" Shown are {num_shown:,} of {num_images:,}, evenly spaced by name." if num_shown < num_images else ""
    how = "t-SNE keeps neighbours together, but not distances between groups. " if _TSNE in shown.layouts else ""
    variances = shown.points.var(axis=0, dtype=np.float64)
    share = float(variances[:2].sum() / variances.sum()) if variances.any() else 0.0
    return (
        f"The images of the extraction {features.folder.name} by what {features.manifest['checkpoint']['name']} makes "
        f"of them: {compared}. {how}The first two principal components hold {share:.0%} of what tells the images "
        f"apart.{some}"
    )


# ---------------------------------------------------------------- TensorBoard's projector


def _embedding(name: str, shown: _Shown, pictures: Sequence[Thumbnail]) -> Embedding:
    """What TensorBoard's projector shows: the same images by the same principal components."""
    folders, numbers = (shown.groups.get(title) for title in (_FOLDER_GROUP, _CLUSTER_GROUP))
    words = [(image, _word(folders, place), _word(numbers, place)) for place, image in enumerate(shown.names)]
    return Embedding(
        f"features of {name}, principal components",
        shown.points,
        words,
        sprite_sheet([_square(picture) for picture in pictures]),
        THUMBNAIL_SIDE,
        header=("name", "label", "cluster"),
    )


def _word(groups: Groups | None, place: int) -> str:
    if groups is None or groups.of[place] < 0:
        return _NONE
    return groups.names[groups.of[place]] or _NONE


def _square(thumbnail: Thumbnail) -> Image.Image:
    if not thumbnail.data:
        return Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "grey")
    with Image.open(io.BytesIO(thumbnail.data)) as picture:
        return small_square(picture)
