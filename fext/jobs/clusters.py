"""Clusters of the images of an extraction: which belong together by their features, and how well that fits labels."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fext.compute import clustering
from fext.compute.clustering import NOISE, Agreement, Clusters, Points
from fext.compute.normalization import Normalization
from fext.data.groups import group_images
from fext.data.labels import Labelled, labels_of
from fext.errors import ExtractionError, SourceError, UsageError
from fext.jobs.features import MODEL, Features, grid_of, open_features, open_references
from fext.jobs.normalizing import normalization_of, normalization_of_features
from fext.jobs.points import all_equal, open_points, told_of_points
from fext.jobs.thumbnails import thumbnails
from fext.model.intervals import left_out_interval
from fext.model.verdict import Verdict, Yardstick, judge
from fext.pictures.clusters_report import ClusterShown, ClustersReport, LabelTable, clusters_report, verdicts
from fext.pictures.page import Item, file_uri
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.workspace import Workspace

FOLDER, TABLE, SUMMARY = "clusters", "clusters.csv", "summary.json"
_COLUMNS = ("image", "cluster", "distance", "silhouette", "label")
_NUM_SEEDS = 5  # that other encoders are judged by
_NUM_BLOCKS = 30  # of images, each of which is left out once to tell how sure a difference is
_LIKE_FOLDERS = Yardstick("NMI {} of clusters and folders", "NMI")
_NUM_SHOWN, _NUM_TYPICAL, _NUM_OUTLYING, _NUM_ALONE = 60, 6, 4, 24


@dataclass(frozen=True)
class ClustersResult:
    """What was found and written, and what to say of it."""

    name: str
    folder: Path
    summary: dict[str, Any]
    verdicts: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class _Found:
    """Of each image its cluster, its distance to the mean of that and its silhouette, NaN where it has none.

    Of the clusters their sizes, and the silhouettes by number that theirs was chosen by, none where it was given.
    """

    clusters: Clusters
    sizes: list[int]
    distances: NDArray[np.float32]
    silhouettes: NDArray[np.float64]
    curve: dict[int, float]

    @property
    def silhouette(self) -> float | None:
        known = self.silhouettes[np.isfinite(self.silhouettes)]
        return float(known.mean()) if len(known) else None


@dataclass(frozen=True)
class _Way:
    """How to cluster: `count` is the number of clusters for k-means, 'auto' where it is to be suggested."""

    method: Literal["kmeans", "hdbscan"]
    count: Literal["auto"] | int
    min_size: int
    seed: int


@dataclass(frozen=True)
class _Task:
    """What to cluster, how, and who is told."""

    workspace: Workspace
    settings: Settings
    features: Features
    normalization: Normalization | None
    labelled: Labelled | None
    way: _Way
    reporter: Reporter


def cluster(
    workspace: Workspace,
    settings: Settings,
    folder: Path,
    reporter: Reporter,
    count: int | None = None,
    references: bool = False,
) -> ClustersResult:
    """Divide the images of a finished extraction into clusters, and write them to its folder 'clusters'.

    `count` goes before settings.num_clusters. With `references` the same is done with the features of the untrained
    model, a linear map and the pixels. Raises UsageError where that many clusters cannot be made, ExtractionError where
    there is no finished table, too few images are in it or all rows are equal, and as open_references does.
    """
    started = time.perf_counter()
    way = _way(settings, count)
    with open_features(folder, settings.explore_grid, reporter) as features:
        _refuse_too_few(features, way)
        normalization = normalization_of_features(settings, features, reporter)
        task = _Task(workspace, settings, features, normalization, labels_of(features.images), way, reporter)
        with open_points(folder, features.rows, task.normalization, way.seed, reporter) as points:
            if points is None:
                raise all_equal(folder)
            found = _find(task, points)
            _tell(task, found)
            compared = _compare(task, points, found) if references else None
        summary = _summary(task, found, compared)
        _write(task, found, summary)
    return ClustersResult(folder.name, folder / FOLDER, summary, verdicts(summary), time.perf_counter() - started)


def _way(settings: Settings, count: int | None) -> _Way:
    if count is not None and settings.cluster_method == "hdbscan":
        raise UsageError("hdbscan finds the number of clusters itself: leave --count away, or cluster by kmeans")
    if count is not None and count < 2:
        raise UsageError(f"--count {count}: two clusters at least")
    chosen: Literal["auto"] | int = count or settings.num_clusters
    return _Way(settings.cluster_method, chosen, settings.min_cluster_size, settings.seed)


def _refuse_too_few(features: Features, way: _Way) -> None:
    num_images = len(features.images)
    if way.method == "hdbscan" and num_images < max(3, way.min_size):
        raise ExtractionError(
            f"{num_images} images are fewer than hdbscan takes for one cluster: lower min_cluster_size"
        )
    if way.method == "kmeans" and num_images < (3 if way.count == "auto" else 2):
        few = "one image is" if num_images == 1 else "two images are"
        raise ExtractionError(f"{features.folder.name}: {few} too few to be divided: extract from more images")
    if way.method == "kmeans" and way.count != "auto" and way.count > num_images:
        raise UsageError(f"{way.count} clusters cannot be made of {num_images} images: ask for fewer")


def _find(task: _Task, points: Points) -> _Found:
    clusters, curve = _divide(task, points)
    silhouettes = clustering.silhouettes(points, clusters, task.way.seed)
    sizes = [int(size) for size in np.bincount(clusters[clusters != NOISE])]
    return _Found(clusters, sizes, clustering.centre_distances(points, clusters), silhouettes, curve)


def _divide(task: _Task, points: Points) -> tuple[Clusters, dict[int, float]]:
    """The clusters, and the silhouettes that their number was chosen by."""
    way, reporter = task.way, task.reporter
    if way.method == "hdbscan":
        with reporter.progress("clusters", len(points)) as progress:
            return clustering.density_clusters(points, way.min_size, way.seed, progress.advance), {}
    if way.count != "auto":
        return clustering.k_means(points, way.count, way.seed), {}
    counts = clustering.counts_to_try(points, way.seed)
    with reporter.progress("numbers of clusters", len(counts)) as progress:
        curve = clustering.silhouettes_by_count(points, counts, way.seed, progress.advance)
    # Of very many rows that are nearly all equal, those that were tried on may be so.
    best = max(curve, key=lambda count: (curve[count], -count), default=2)
    return clustering.k_means(points, best, way.seed), curve


def _tell(task: _Task, found: _Found) -> None:
    way, num_images = task.way, len(found.clusters)
    if way.method == "hdbscan" and num_images > clustering.MOST_BY_DENSITY:
        task.reporter.message(
            f"hdbscan divides {clustering.MOST_BY_DENSITY:,} of the images; each of the other "
            f"{num_images - clustering.MOST_BY_DENSITY:,} takes the cluster of the nearest of these"
        )
    if not found.sizes:
        task.reporter.warning(
            f"hdbscan finds no cluster: no {way.min_size} images lie closer together than the others; lower "
            f"min_cluster_size, or take kmeans"
        )
    if way.count != "auto" and way.method == "kmeans" and len(found.sizes) < way.count:
        task.reporter.warning(f"only {len(found.sizes)} clusters, not {way.count}: no more of the images differ")


# ---------------------------------------------------------------- other encoders


def _compare(task: _Task, points: Points, found: _Found) -> dict[str, Any]:
    """The same clustering by each encoder, of those images that all of them can see; k-means makes as many clusters."""
    features, reporter = task.features, task.reporter
    with open_references(task.workspace, task.settings, features, reporter) as references:
        places = references.places
        if len(places) < (len(found.sizes) if task.way.method == "kmeans" else task.way.min_size):
            raise SourceError(f"only {len(places)} of the images can be read now: too few to compare other features by")
        without: dict[str, NDArray[np.float64]] = {}
        compared = {}
        compared[MODEL], without[MODEL] = _judged(task, found, points, places, np.arange(len(features.images)))
        for name, rows in references.rows.items():
            own = normalization_of(task.settings, rows, grid_of(name, features.grid), np.arange(len(rows)))
            with open_points(features.folder, rows, own, task.way.seed, reporter) as of_rows:
                if of_rows is None:
                    reporter.warning(f"{name.replace('_', ' ')}: all images have equal features, it is left out")
                else:
                    compared[name], without[name] = _judged(task, found, of_rows, np.arange(len(places)), places)
    result = {"num_images": len(places), "num_seeds": _num_seeds(task.way), "encoders": compared}
    if task.labelled is not None and len(compared) > 1:
        result["verdict"] = _verdict(compared, without).to_dict()
    return result


def _verdict(compared: Mapping[str, Any], without: Mapping[str, NDArray[np.float64]]) -> Verdict:
    nmi = {name: row["nmi"] for name, row in compared.items()}
    model = nmi[MODEL]
    model_minus = {
        name: left_out_interval(
            model["mean"] - other["mean"],
            without[MODEL] - without[name],
            sum(one["variance_of_mean"] for one in (model, other)),
        )
        for name, other in nmi.items()
        if name != MODEL
    }
    own = left_out_interval(model["mean"], without[MODEL], model["variance_of_mean"])
    return judge(_LIKE_FOLDERS, own, model_minus)


def _num_seeds(way: _Way) -> int:
    return _NUM_SEEDS if way.method == "kmeans" else 1


def _judged(
    task: _Task, found: _Found, points: Points, judged_by: NDArray[np.int64], images: NDArray[np.int64]
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Mean, least and greatest over several seeds of what clusters of some points are worth, and what the mean NMI is
    without each block of images.

    `judged_by` are the places of points that are scored, `images` the images that the points stand for.
    """
    way, scored = task.way, images[judged_by]
    rows, without = [], []
    blocks = _blocks(task, scored)
    with task.reporter.progress("clusters to compare", _num_seeds(way)) as progress:
        for seed in range(way.seed, way.seed + _num_seeds(way)):
            if way.method == "kmeans":
                clusters = clustering.k_means(points, len(found.sizes), seed)
            else:
                clusters = clustering.density_clusters(points, way.min_size, seed, lambda count: None)
            row = {"num_clusters": float(clusters.max() + 1)}
            silhouettes = clustering.silhouettes(points, clusters, seed)
            if np.isfinite(silhouettes).any():
                row["silhouette"] = float(np.nanmean(silhouettes))
            row["like_the_models"] = clustering.agreement(found.clusters[scored] + 1, clusters[judged_by]).ari
            if task.labelled is not None:
                codes = task.labelled.codes[scored]
                row |= clustering.agreement(codes, clusters[judged_by])._asdict()
                without.append(clustering.nmi_without_each(codes, clusters[judged_by], blocks))
            rows.append(row)
            progress.advance()
    judged = {name: _spread([row[name] for row in rows]) for name in rows[0] if all(name in row for row in rows)}
    return judged, np.mean(without, axis=0) if without else np.empty(0)


def _blocks(task: _Task, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each of some images: at most _NUM_BLOCKS of about equal size, what belongs together in one."""
    groups = group_images(task.features.images.select(places.tolist()), task.settings.interval_groups)
    _, numbers = np.unique(groups.codes, return_inverse=True)
    order = np.random.default_rng(task.settings.seed).permutation(int(numbers.max()) + 1)
    blocks: NDArray[np.int64] = order[numbers] % _NUM_BLOCKS
    return blocks


def _spread(values: Sequence[float]) -> dict[str, float]:
    variance = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "least": min(values), "greatest": max(values), "variance_of_mean": variance}


# ---------------------------------------------------------------- what is written


def _summary(task: _Task, found: _Found, compared: dict[str, Any] | None) -> dict[str, Any]:
    features, labelled, way = task.features, task.labelled, task.way
    scores: Agreement | None = None
    if labelled is not None:
        scores = clustering.agreement(labelled.codes, found.clusters)
    return {
        "extraction": features.folder.name,
        "checkpoint": features.manifest["checkpoint"]["name"],
        "rows_sha256": features.checksum,
        "method": way.method,
        "settings": asdict(way),
        "grid": features.grid,
        "compared": told_of_points(task.normalization, features.grid),
        "num_images": len(features.images),
        "num_clusters": len(found.sizes),
        "sizes": found.sizes,
        "num_alone": int((found.clusters == NOISE).sum()),
        "silhouette": found.silhouette,
        "num_judged": int(np.isfinite(found.silhouettes).sum()),
        "silhouette_by_count": found.curve,
        "num_labels": 0 if labelled is None else len(labelled.classes),
        "labels": None if scores is None else scores._asdict(),
        "references": compared,
    }


def _write(task: _Task, found: _Found, summary: dict[str, Any]) -> None:
    folder, labelled = task.features.folder / FOLDER, task.labelled
    rows = _csv_rows(task.features, found, labelled)
    files.write_csv(folder / TABLE, _COLUMNS if labelled else _COLUMNS[:-1], rows)
    table = _labels_by_cluster(folder / "labels.csv", found, labelled)
    report = ClustersReport(summary, _shown(task, found), table)
    files.write_text_chunks(folder / "report.html", clusters_report(report))
    files.write_json(folder / SUMMARY, summary)


def _labels_by_cluster(file: Path, found: _Found, labelled: Labelled | None) -> LabelTable | None:
    """Write how many images of each label lie in each cluster; where there are no labels, nothing."""
    if labelled is None:
        files.remove_file(file)
        return None
    counts = clustering.cross_table(labelled.codes, found.clusters)
    numbers = list(range(NOISE, counts.shape[1] - 1))
    if not counts[:, 0].any():
        numbers, counts = numbers[1:], counts[:, 1:]
    rows = ((name, *row) for name, row in zip(labelled.classes, counts.tolist(), strict=True))
    files.write_csv(file, ("label", *map(str, numbers)), rows)
    return LabelTable(labelled.classes, numbers, counts)


def _csv_rows(features: Features, found: _Found, labelled: Labelled | None) -> Iterator[tuple[object, ...]]:
    for place, name in enumerate(features.images):
        row = (
            name,
            int(found.clusters[place]),
            _number(found.distances[place]),
            _number(found.silhouettes[place]),
        )
        yield (*row, labelled.classes[labelled.codes[place]]) if labelled else row


def _number(value: float) -> str:
    return f"{value:.5f}" if np.isfinite(value) else ""


def _shown(task: _Task, found: _Found) -> list[ClusterShown]:
    """The largest clusters with the pictures of their typical and outlying members, then of images that are in none."""
    chosen = _members(found)
    places = [place for typical, outlying in chosen.values() for place in (*typical, *outlying)]
    names = task.features.images.select(places)
    paths = [task.features.source.path(name) for name in names]
    items: dict[int, Item] = {}
    num_missing = 0
    with task.reporter.progress("thumbnails", len(places)) as progress:
        for place, name, thumbnail in zip(places, names, thumbnails(task.workspace, task.settings, paths), strict=True):
            uri = file_uri(thumbnail.data) if thumbnail.data else ""
            num_missing += not uri
            items[place] = Item(name, _lines(found.distances[place], thumbnail.reason), uri)
            progress.advance()
    if num_missing:
        task.reporter.warning(f"{num_missing} of the images on the page cannot be read now: it says why")
    return [
        ClusterShown(
            number,
            found.sizes[number] if number != NOISE else int((found.clusters == NOISE).sum()),
            [items[place] for place in typical],
            [items[place] for place in outlying],
        )
        for number, (typical, outlying) in chosen.items()
    ]


def _lines(distance: float, reason: str) -> list[str]:
    lines = [reason] if reason else []
    return [*lines, f"distance {distance:.3f}"] if np.isfinite(distance) else lines


def _members(found: _Found) -> dict[int, tuple[list[int], list[int]]]:
    """Of each cluster that is shown the places of those nearest to its centre and of those farthest from it."""
    order = np.lexsort((found.distances, found.clusters))
    starts = np.searchsorted(found.clusters[order], np.arange(len(found.sizes) + 1))
    chosen: dict[int, tuple[list[int], list[int]]] = {}
    for number, size in enumerate(found.sizes[:_NUM_SHOWN]):
        members = order[starts[number] : starts[number] + size]
        outlying = members[max(_NUM_TYPICAL, size - _NUM_OUTLYING) :][::-1]
        chosen[number] = members[:_NUM_TYPICAL].tolist(), outlying.tolist()
    alone = np.flatnonzero(found.clusters == NOISE)
    if len(alone):
        chosen[NOISE] = alone[:: -(-len(alone) // _NUM_ALONE)].tolist(), []
    return chosen
