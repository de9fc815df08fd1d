"""Analysis of an image dataset: every image measured once, copies and odd ones named, train beside test."""

import hashlib
import io
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fext.data.analysis import MADE_BY, Analysis, Picture, analyze_file
from fext.data.duplicates import group_copies, hashes_from_bytes, small_pictures
from fext.data.names import Names, name_to_bytes
from fext.data.readers import map_in_processes, num_processes
from fext.data.source import ImageSource, find_images
from fext.data.split import SIDES, Split
from fext.data.statistics import MEASURES, NUM_LEVELS
from fext.errors import FextError, SettingsError, SourceError
from fext.jobs.analysis_report import write_pages
from fext.jobs.choosing import WHERE_TO_GET_IMAGES, choose_split, refuse_missing
from fext.jobs.findings import Finding, Outlier, compare_sides, find_odd_pictures, find_outliers, likeness, summarize
from fext.pictures.dataset_figures import (
    Shown,
    intensity_figure,
    mean_and_spread_figure,
    measures_figure,
    sheet_figure,
    sizes_figure,
)
from fext.reporting import Reporter, SilentReporter, counting
from fext.settings import Settings
from fext.store import files
from fext.store.analyzed import AnalyzedImages
from fext.store.index import CheckedImage, CheckedImages
from fext.store.workspace import Workspace

_SECONDS_BETWEEN_SAVES = 1.0
_MEAN_SIDE = 64  # pixels of the mean image
_NUM_SHOWN = 24
_FILES = (
    "images.csv", "rejected.csv", "duplicates.csv", "findings.csv", "outliers.csv", "train_test.csv",
    "intensity.png", "mean_and_spread.png", "sizes.png", "measures.png", "findings.png",
    "report.html", "viewer.html", "summary.json",
)  # fmt: skip


@dataclass(frozen=True)
class AnalysisResult:
    """How many images were found, looked at now, kept from before, good; what was found, by kind; where it stands."""

    folder: Path
    num_found: int
    num_new: int
    num_good: int
    num_rejected: int
    num_not_images: int
    findings: Mapping[str, int]
    num_outliers: int
    has_changed: bool
    seconds: float
    images_per_second: float


@dataclass
class _Dataset:
    """What the good images have in common, gathered one after another; a few bytes for each stay in memory."""

    places: "array[int]" = field(default_factory=lambda: array("L"))  # among the names of the source
    digests: bytearray = field(default_factory=bytearray)  # SHA-256, 32 bytes each
    values: "array[float]" = field(default_factory=lambda: array("f"))
    sizes: "array[int]" = field(default_factory=lambda: array("L"))
    hashes: bytearray = field(default_factory=bytearray)
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, NUM_LEVELS), np.int64))
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros((_MEAN_SIDE, _MEAN_SIDE, 3)))
    total_squared: NDArray[np.float64] = field(default_factory=lambda: np.zeros((_MEAN_SIDE, _MEAN_SIDE, 3)))
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)  # how many have a format and mode
    rejected: list[tuple[str, str]] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)  # good images whose orientation cannot be read

    def add(self, place: int, sha256: str, picture: Picture) -> None:
        """Take in one good image."""
        self.places.append(place)
        self.digests += bytes.fromhex(sha256)
        self.values.extend(picture.statistics.values)
        self.sizes.extend((picture.header.width, picture.header.height))
        self.kinds[picture.header.format, picture.header.mode] += 1
        self.hashes += picture.perceptual_hash
        self.histogram += picture.statistics.histogram
        small = _thumbnail_array(picture, (_MEAN_SIDE, _MEAN_SIDE))
        self.total += small
        self.total_squared += small**2

    @property
    def checksums(self) -> NDArray[np.bytes_]:
        return np.frombuffer(self.digests, "S32")

    def measures(self) -> dict[str, NDArray[np.float32]]:
        """The values of each measure, one for each good image."""
        table = np.asarray(self.values).reshape(-1, len(MEASURES))
        return {measure.name: table[:, place] for place, measure in enumerate(MEASURES)}

    def mean_and_spread(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean picture and the standard deviation of each of its values, (64, 64, 3) in [0, 1]."""
        mean = self.total / len(self.places)
        return mean, np.sqrt(np.maximum(self.total_squared / len(self.places) - mean**2, 0))


def _thumbnail_array(picture: Picture, size: tuple[int, int]) -> NDArray[np.float64]:
    """The thumbnail stretched to (width, height): (height, width, 3) in [0, 1]."""
    return np.asarray(_thumbnail(picture).resize(size, Image.Resampling.BILINEAR), np.float64) / 255


def _thumbnail(picture: Picture) -> Image.Image:
    with Image.open(io.BytesIO(picture.thumbnail)) as image:
        return image.convert("RGB")


def analyze(workspace: Workspace, settings: Settings, images: Path, reporter: Reporter) -> AnalysisResult:
    """Measure every image of a folder or list and write data/validation/.

    Only new and changed files are decoded; stopped anywhere, it goes on there. Raises SourceError.
    """
    started = time.perf_counter()
    source = find_images(images, reporter)
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    memory = AnalyzedImages(workspace.analyzed_images, settings.check_contents)
    try:
        num_new, rate = _look_at_what_is_new(workspace, settings, source, memory, reporter)
        memory.forget_vanished(source.root)
        sides = _sides(source.names, _split(workspace, settings, source))
        dataset = _gather(source, memory, reporter)
        if not dataset.places:
            raise SourceError(
                f"none of the {len(source)} images in {source.location} can be read: {dataset.rejected[0][1]}"
            )
        summary, has_changed = _report(workspace.validation, source, memory, dataset, sides)
    finally:
        memory.close()
    return AnalysisResult(
        folder=workspace.validation,
        num_found=len(source),
        num_new=num_new,
        num_good=len(dataset.places),
        num_rejected=len(dataset.rejected),
        num_not_images=source.num_not_images,
        findings=summary["findings"],
        num_outliers=summary["num_outliers"],
        has_changed=has_changed,
        seconds=time.perf_counter() - started,
        images_per_second=rate,
    )


# ---------------------------------------------------------------- looking at images


def _look_at_what_is_new(
    workspace: Workspace, settings: Settings, source: ImageSource, memory: AnalyzedImages, reporter: Reporter
) -> tuple[int, float]:
    """Analyze the files that are not known in the state they have; returns how many, and images per second."""
    places = [place for place, is_known in enumerate(_known_now(source, memory, reporter)) if not is_known]
    new = source.names.select(places)
    if not new:
        return 0, 0.0
    num_processors = num_processes(settings.num_processors)
    reporter.message(f"{len(new)} images to look at, {len(source) - len(new)} known from before")
    checked = CheckedImages(workspace.checked_images)
    started = time.perf_counter()
    try:
        with reporter.progress("analyzing", len(new)) as progress:
            found = map_in_processes(analyze_file, map(source.path, new), min(num_processors, len(new)))
            for batch in _in_batches(zip(new, found, strict=True), progress.advance):
                refuse_missing(source, (name for name, analysis in batch if analysis.reason))
                memory.remember((source.path(name), analysis) for name, analysis in batch)
                checked.remember((source.path(name), analysis.state, _as_checked(analysis)) for name, analysis in batch)
    finally:
        checked.close()
    return len(new), len(new) / (time.perf_counter() - started)


def _known_now(source: ImageSource, memory: AnalyzedImages, reporter: Reporter) -> Iterator[bool]:
    """Of each image whether what is known of it holds."""
    with reporter.progress("comparing images", len(source)) as progress:
        yield from counting(memory.knows(map(source.path, source.names)), progress)


def _as_checked(analysis: Analysis) -> CheckedImage:
    picture = analysis.picture
    looks = (picture.perceptual_hash, picture.small) if picture else ()
    return CheckedImage(analysis.sha256, analysis.reason, *looks)


def _in_batches(
    found: Iterator[tuple[str, Analysis]], advance: Callable[[], None]
) -> Iterator[list[tuple[str, Analysis]]]:
    """What was found in the last second, so that it can be saved together; what is there is given out on a stop too."""
    batch: list[tuple[str, Analysis]] = []
    saved = time.perf_counter()
    try:
        for item in found:
            batch.append(item)
            advance()
            if time.perf_counter() - saved > _SECONDS_BETWEEN_SAVES:
                yield batch
                batch, saved = [], time.perf_counter()
    except KeyboardInterrupt:
        yield batch
        raise
    yield batch


def _gather(source: ImageSource, memory: AnalyzedImages, reporter: Reporter) -> _Dataset:
    dataset = _Dataset()
    with reporter.progress("gathering", len(source)) as progress:
        for place, name in enumerate(source.names):
            analysis = _known(source, memory, name)
            if analysis.picture is None:
                dataset.rejected.append((name, analysis.reason))
            else:
                dataset.add(place, analysis.sha256, analysis.picture)
                if analysis.picture.header.note:
                    dataset.unread.append((name, analysis.picture.header.note))
            progress.advance()
    return dataset


def _known(source: ImageSource, memory: AnalyzedImages, name: str) -> Analysis:
    """What was found of an image; one that changed since, or has no state to be known by, is looked at again."""
    return memory.recall(source.path(name)) or analyze_file(source.path(name))


# ---------------------------------------------------------------- what it comes to


@dataclass(frozen=True)
class Found:
    """The images of a source and all that was found of them; `names` and what goes by their order are the good ones."""

    source: ImageSource
    memory: AnalyzedImages
    dataset: _Dataset
    names: Names
    measures: Mapping[str, NDArray[np.float32]]
    sides: NDArray[np.str_]  # of each image: train, validation, test or none
    groups: Sequence[Sequence[int]]
    outliers: Sequence[Outlier]

    @property
    def findings(self) -> Iterator[Finding]:
        """What to look at, told anew each time: in a folder full of copies it is as much as there are images."""
        yield from (Finding(name, "damaged", reason) for name, reason in self.dataset.rejected)
        yield from _copies(self.groups, self.names, self.dataset.checksums)
        yield from self.odd_pictures()

    def odd_pictures(self) -> Iterator[Finding]:
        """Those that are nearly black, white or of one colour, or that may lie on their sides."""
        yield from find_odd_pictures(self.names, self.measures)
        yield from (Finding(name, "unread orientation", note) for name, note in self.dataset.unread)

    def num_findings(self) -> dict[str, int]:
        """How many there are of each kind."""
        counts = Counter(finding.kind for finding in self.findings)
        return {kind: counts[kind] for kind in Finding.KINDS}

    def first_of_copies(self) -> NDArray[np.int32]:
        """Of each good image the place of the first that it is a copy of; -1 where it is none, or the first itself."""
        first_of = np.full(len(self.names), -1, np.int32)
        for first, *others in self.groups:
            first_of[others] = first
        return first_of

    @property
    def num_across(self) -> int:
        """Groups of copies with images on several sides of the split."""
        return sum(len({str(self.sides[place]) for place in group} - {""}) > 1 for group in self.groups)

    def analysis(self, name: str) -> Analysis:
        """What is known of an image, good or rejected."""
        return _known(self.source, self.memory, name)

    def picture(self, name: str) -> Picture | None:
        """What the picture of an image is like; None where it was rejected."""
        return self.analysis(name).picture


def _split(workspace: Workspace, settings: Settings, source: ImageSource) -> Split | None:
    """The images that pretraining would take with these settings; None where there are too few, or it would not."""
    try:
        return choose_split(workspace, settings, source, SilentReporter()).split
    except (SourceError, SettingsError):
        return None


def _report(
    folder: Path, source: ImageSource, memory: AnalyzedImages, dataset: _Dataset, sides: NDArray[np.str_]
) -> tuple[dict[str, Any], bool]:
    """Write what the analysis comes to, unless it stands there already; returns the summary and whether it is new."""
    fingerprint = _fingerprint(source, dataset, sides)
    summary_file = folder / "summary.json"
    before = _read_summary(summary_file)
    if before.get("fingerprint") == fingerprint and all((folder / name).is_file() for name in _FILES):
        return before, False
    found = _find(source, memory, dataset, sides)
    _write_tables(folder, found)
    _draw(folder, found)
    summary = {**_summary(found), "made_by": MADE_BY, "fingerprint": fingerprint}
    files.write_json(summary_file, summary)  # the last, so that a stop before it is noticed
    return summary, True


def _read_summary(file: Path) -> dict[str, Any]:
    """The summary of the analysis before; nothing where there is none or it is damaged."""
    with suppress(FextError):
        summary = files.read_json(file)
        if isinstance(summary, dict):
            return summary
    return {}


def _find(source: ImageSource, memory: AnalyzedImages, dataset: _Dataset, sides: NDArray[np.str_]) -> Found:
    names = source.names.select(dataset.places)
    measures = dataset.measures()

    def pictures_of(places: NDArray[np.intp]) -> NDArray[np.uint8]:
        return small_pictures([memory.small(source.path(names[place])) for place in places])

    groups = group_copies(dataset.checksums, hashes_from_bytes(dataset.hashes), pictures_of)
    outliers = find_outliers(names, measures)
    return Found(source, memory, dataset, names, measures, sides[dataset.places], groups, outliers)


def _summary(found: Found) -> dict[str, Any]:
    return {
        "source": str(found.source.location),
        "num_found": len(found.source),
        "num_good": len(found.names),
        "num_rejected": len(found.dataset.rejected),
        "num_not_images": found.source.num_not_images,
        "num_of_the_system": found.source.num_system,
        "num_unreadable_folders": len(found.source.unreadable),
        **{f"num_{side}": int((found.sides == side).sum()) for side in SIDES},
        "num_copies_across_split": found.num_across,
        "findings": found.num_findings(),
        "num_outliers": len(found.outliers),
        "measures": summarize(found.measures),
    }


def _fingerprint(source: ImageSource, dataset: _Dataset, sides: NDArray[np.str_]) -> str:
    """A checksum of all that the written analysis depends on."""
    digest = hashlib.sha256(f"{MADE_BY}\n{source.location.absolute()}\n{source.num_not_images}\n".encode())
    digest.update(f"{source.num_system} {source.unreadable}\n".encode())
    digest.update(dataset.digests)
    for name in source.names.iter_bytes():
        digest.update(name + b"\n")
    for rejected, reason in dataset.rejected:
        digest.update(name_to_bytes(rejected) + b"\0" + name_to_bytes(reason) + b"\n")
    digest.update(sides.tobytes())
    return digest.hexdigest()


def _copies(groups: Sequence[Sequence[int]], names: Names, checksums: NDArray[np.bytes_]) -> Iterator[Finding]:
    for first, *others in groups:
        detail = f"of {names[first]}"
        for place in others:
            kind = "exact copy" if checksums[place] == checksums[first] else "near copy"
            yield Finding(names[place], kind, detail)


def _sides(names: Names, split: Split | None) -> NDArray[np.str_]:
    """Which side of the split each image is on; '' for none."""
    side_of = {name: side for side, images in split.sides() for name in images} if split else {}
    return np.array([side_of.get(name, "") for name in names], "U10")


# ---------------------------------------------------------------- tables and pictures


def _write_tables(folder: Path, found: Found) -> None:
    header = ["image", "subset", "format", "mode", "width", "height", "file_size", "sha256"]
    files.write_csv(folder / "images.csv", [*header, *(measure.name for measure in MEASURES)], _image_rows(found))
    files.write_csv(folder / "rejected.csv", ("image", "reason"), found.dataset.rejected)
    copies = (
        (number, found.names[place], likeness(group[0], place, found.dataset.checksums))
        for number, group in enumerate(found.groups, start=1)
        for place in group
    )
    files.write_csv(folder / "duplicates.csv", ("group", "image", "likeness"), copies)
    files.write_csv(folder / "findings.csv", ("image", "finding", "detail"), found.findings)
    files.write_csv(folder / "outliers.csv", ("image", "measure", "value", "usual_low", "usual_high"), found.outliers)
    has_both = all((found.sides == side).any() for side in ("train", "test"))
    distances = compare_sides(found.measures, found.sides) if has_both else []
    header = ["measure", "train_mean", "test_mean", "kolmogorov_smirnov", "p_value", "wasserstein"]
    files.write_csv(folder / "train_test.csv", header, distances)


def _image_rows(found: Found) -> Iterator[list[object]]:
    for name, side in zip(found.names, found.sides, strict=True):
        analysis = _known(found.source, found.memory, name)
        if analysis.picture is not None:
            header, statistics = analysis.picture.header, analysis.picture.statistics
            size = (header.width, header.height)
            facts = [name, side, header.format, header.mode, *size, analysis.state.size, analysis.sha256]
            yield [*facts, *(float(f"{value:.6g}") for value in statistics.values)]


def _draw(folder: Path, found: Found) -> None:
    dataset = found.dataset
    mean, spread = dataset.mean_and_spread()
    sizes = np.asarray(dataset.sizes).reshape(-1, 2)
    pictures = ((finding, found.picture(finding.image)) for finding in found.findings)
    shown = (
        Shown(finding.image, (finding.kind, finding.detail), np.asarray(_thumbnail(picture)))
        for finding, picture in pictures
        if picture is not None
    )
    figures = {
        "intensity.png": intensity_figure(dataset.histogram),
        "mean_and_spread.png": mean_and_spread_figure(mean, spread, len(found.names)),
        "sizes.png": sizes_figure(sizes[:, 0], sizes[:, 1]),
        "measures.png": measures_figure(found.measures, found.sides),
        "findings.png": sheet_figure("Images to look at", list(islice(shown, _NUM_SHOWN))),
    }
    for name, figure in figures.items():
        files.write_figure(folder / name, figure)
    write_pages(folder, found)
