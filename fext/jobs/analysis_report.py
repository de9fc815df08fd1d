"""What the pages of an analysis show: images and numbers gathered, pages written."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fext.data.thumbnails import make_thumbnail
from fext.jobs.findings import Outlier, compare_sides, likeness
from fext.jobs.view import facts_of_file
from fext.pictures import dataset_report as pages
from fext.pictures.dataset_report import DatasetReport, dataset_report
from fext.pictures.page import Html, Item, file_uri
from fext.pictures.viewer import MAX_IMAGES, Viewed, told_of_limit, viewer
from fext.store import files

if TYPE_CHECKING:
    from fext.jobs.analyze import Found

_LARGER_SIDE = 480  # pixels of what a click on a thumbnail shows


def write_pages(folder: Path, found: "Found") -> None:
    """Write report.html and viewer.html."""
    files.write_text_chunks(folder / "report.html", dataset_report(_gather(found)))
    files.write_text_chunks(folder / "viewer.html", _viewer(found))


def _gather(found: "Found") -> DatasetReport:
    dataset = found.dataset
    mean, spread = dataset.mean_and_spread()
    has_both = all((found.sides == side).any() for side in ("train", "test"))
    odd = ((finding.image, (finding.kind, finding.detail)) for finding in found.findings if "copy" not in finding.kind)
    far = (
        (outlier.image, (f"{pages.TITLES[outlier.measure]}: {outlier.value:.4g}",))
        for outlier in _farthest(found.outliers)
    )
    return DatasetReport(
        source=str(found.source.location),
        num_found=len(found.source),
        num_not_images=found.source.num_not_images,
        num_across=found.num_across,
        names=found.names,
        sides=found.sides,
        measures=found.measures,
        sizes=np.asarray(dataset.sizes).reshape(-1, 2).astype(np.int64),
        kinds=dataset.kinds,
        histogram=dataset.histogram,
        mean=mean,
        spread=spread,
        findings=list(islice(found.findings, pages.NUM_ROWS)),
        num_findings=found.num_findings(),
        rejected=dataset.rejected,
        outliers=found.outliers,
        distances=compare_sides(found.measures, found.sides) if has_both else [],
        num_groups=len(found.groups),
        odd=list(islice(_items(found, odd), pages.NUM_SHOWN)),
        groups=[list(_items(found, _members(found, group))) for group in found.groups[: pages.NUM_GROUPS]],
        farthest=list(islice(_items(found, far), pages.NUM_FARTHEST)),
    )


def _members(found: "Found", group: Iterable[int]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(image, what it is to the first and how large) of the first members of a group of copies."""
    first, *others = islice(group, pages.NUM_IN_GROUP)
    for place in (first, *others):
        width, height = found.dataset.sizes[2 * place : 2 * place + 2]
        side = str(found.sides[place])
        yield (
            found.names[place],
            (likeness(first, place, found.dataset.checksums), f"{width} × {height}", *([side] if side else [])),
        )


def _farthest(outliers: Iterable[Outlier]) -> Iterator[Outlier]:
    """The farthest image of each measure, then the second of each, and so on; each image once."""
    places: dict[str, int] = {}
    ranked = []
    for outlier in outliers:
        place = places[outlier.measure] = places.get(outlier.measure, -1) + 1
        ranked.append((place, outlier))
    seen = set()
    for _, outlier in sorted(ranked, key=lambda pair: pair[0]):
        if outlier.image not in seen:
            seen.add(outlier.image)
            yield outlier


def _items(found: "Found", images: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[Item]:
    """Pictures for a gallery of those images that can be shown."""
    for name, lines in images:
        picture = found.picture(name)
        if picture is not None:
            larger = make_thumbnail(found.source.path(name), _LARGER_SIDE)
            yield Item(name, lines, file_uri(picture.thumbnail), file_uri(larger.data) if larger.data else "")


def _viewer(found: "Found") -> Iterator[Html]:
    names = found.source.names[:MAX_IMAGES]
    introduction = f"The images of {found.source.location}.{told_of_limit(len(names), len(found.source))}"
    return viewer("Images", introduction, names, _viewed(found, names))


def _viewed(found: "Found", names: Iterable[str]) -> Iterator[Viewed]:
    """Each image with its facts, its side of the split and what was found of it."""
    good = dict(zip(found.dataset.places[:MAX_IMAGES], range(MAX_IMAGES), strict=False))
    odd = {finding.image: f"{finding.kind}: {finding.detail}" for finding in found.odd_pictures()}
    first_of = found.first_of_copies()
    for number, name in enumerate(names):
        analysis = found.analysis(name)
        if analysis.picture is None:
            yield Viewed((), b"", analysis.reason)
            continue
        lines = [*facts_of_file(analysis.picture.header, analysis.state.size)]
        if (place := good.get(number)) is not None:
            lines += _found_of(found, place, int(first_of[place]))
        lines += [odd[name]] if name in odd else []
        yield Viewed(lines, analysis.picture.thumbnail)


def _found_of(found: "Found", place: int, first: int) -> Iterator[str]:
    """On which side of the split a good image is, and what it is a copy of; `first` is -1 where it is none."""
    if side := str(found.sides[place]):
        yield side
    if first >= 0:
        yield f"{likeness(first, place, found.dataset.checksums)} copy: of {found.names[first]}"
