"""Near copies among the images of an extraction: found by their features, looked at, grouped, and never touched.

Rows that are equal belong together at once. Of each other row the nearest are sought in an index, which takes memory
for a few pairs of each row and not for all pairs; those that are near enough become groups.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.compute.near_groups import near_groups
from fext.compute.normalization import features_of
from fext.compute.vector_index import NO_ID, QUERIES_AT_A_TIME, Ids, VectorIndex, set_num_threads
from fext.data.near_copies import correlation_when_aligned
from fext.errors import ExtractionError
from fext.jobs.copy_calibration import CopyCalibration, calibrate
from fext.jobs.features import without_rows
from fext.jobs.indexing import StoredRows, make_index, open_index, refuse_too_large, stored_rows
from fext.jobs.normalizing import Row
from fext.jobs.small_pictures import SmallPictures, small_pictures_of
from fext.jobs.thumbnails import thumbnails
from fext.jobs.view import facts_of_file
from fext.pictures.near_copies_report import NUM_GROUPS, NUM_IN_GROUP, CopyGroups, near_copies_page
from fext.pictures.page import Item, file_uri
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.workspace import Workspace

FOLDER = "duplicates"
COLUMNS = ("group", "image", "likeness", "similarity", "correlation", "file_size")
FIRST, EXACT, NEAR, GONE = "first", "exact", "near", "gone"
_NUM_NEAREST = 8  # of each row; a larger group grows from link to link
_ROUNDING = 1e-6  # by so much the cosine of two rows of one direction may be below 1

Places = NDArray[np.int64]


@dataclass(frozen=True)
class NearCopiesResult:
    """The groups found, and where they are written.

    num_exact and num_near count copies beside the first of each group, num_gone those whose files cannot be read now.
    `threshold` is the least similarity of two near copies; num_copied is how many images were copied to find it, None
    where it was chosen. `recall` is None where the search was exact.
    """

    name: str
    num_images: int
    num_groups: int
    num_exact: int
    num_near: int
    num_gone: int
    threshold: float
    num_copied: int | None
    recall: float | None
    table: Path
    page: Path
    seconds: float


def find_near_copies(workspace: Workspace, settings: Settings, folder: Path, reporter: Reporter) -> NearCopiesResult:
    """Write the groups of near copies of a finished extraction, as duplicates/duplicates.csv and a page.

    With duplicate_similarity = 'auto' rows are compared as `calibrate` found, and two that come near are copies where
    their small pictures, aligned, go together too; with a number, where the cosine of their rows is that or more.
    Raises ExtractionError where the extraction is not finished or has one image alone; for 'auto' CheckpointError where
    the model is gone, SourceError where the images are.
    """
    started = time.perf_counter()
    set_num_threads(settings)
    space = _space(workspace, settings, folder, reporter)
    stored = space.stored
    links = _near_pairs(space, reporter)
    rank = _largest_first(stored.file_sizes)
    with ExitStack() as stack:

        def look_at(places: Places) -> SmallPictures:
            return stack.enter_context(small_pictures_of(workspace, settings, stored.source, places, reporter))

        if space.calibration is not None:
            pictures = look_at(np.union1d(links.pairs.ravel(), space.with_equals()))
            links = _looked_at(links, pictures, space.calibration.correlation, reporter)
            groups = near_groups(
                links.pairs, links.similarities, rank, _near_and_alike(space, pictures, space.calibration.correlation)
            )
        else:
            groups = near_groups(links.pairs, links.similarities, rank, space.near)
            grouped = [place for group in groups for place in group]
            pictures = look_at(space.all_equal(np.union1d(np.array(grouped, np.int64), space.with_equals())))
        members = [_members(group, space, pictures) for group in _with_equal_rows(groups, space, rank)]
    members.sort(key=lambda group: group[0].place)
    return _written(workspace, settings, space, members, started)


# ---------------------------------------------------------------- where rows are compared


@dataclass(frozen=True)
class _Space:
    """An index of rows, each different row once, and from which cosine on two of them are near.

    `ids` (N,) are those of the images in the index, NO_ID where a row is damaged; `first_of` says of each image which
    is the first that has its row.
    """

    stored: StoredRows
    index: VectorIndex
    ids: Ids
    first_of: Places
    threshold: float
    recall: float | None
    calibration: CopyCalibration | None

    @property
    def num_images(self) -> int:
        """Those whose row, or an equal one, can be read."""
        return int((self.ids[self.first_of] != NO_ID).sum())

    def different(self) -> Places:
        """The images that are compared: one of each row."""
        is_first = self.first_of == np.arange(len(self.ids))
        return np.flatnonzero(is_first & (self.ids != NO_ID))

    def with_equals(self) -> Places:
        """The images whose row another one has too."""
        return np.flatnonzero(np.bincount(self.first_of, minlength=len(self.ids))[self.first_of] > 1)

    def all_equal(self, places: Places) -> Places:
        """All images with the rows of these, sorted."""
        return np.flatnonzero(np.isin(self.first_of, self.first_of[places]))

    def similarities(self, one: int, others: Places) -> NDArray[np.float32]:
        """The cosine of a row with others."""
        cosines: NDArray[np.float32] = self.index.rows(self.ids[others]) @ self.index.rows(self.ids[[one]])[0]
        return cosines

    def near(self, one: int, others: Places) -> NDArray[np.bool_]:
        """Which of the others are near."""
        return self.similarities(one, others) >= self.threshold - _ROUNDING


def _space(workspace: Workspace, settings: Settings, folder: Path, reporter: Reporter) -> _Space:
    if settings.duplicate_similarity == "auto":
        return _calibrated_space(workspace, settings, folder, reporter)
    indexed = open_index(folder, settings, "cosine", reporter, as_they_are=True)
    _refuse_one_image(indexed.stored)
    first_of = _first_of_equal(indexed.stored)
    threshold = settings.duplicate_similarity
    return _Space(indexed.stored, indexed.index, indexed.ids, first_of, threshold, indexed.recall, None)


def _calibrated_space(workspace: Workspace, settings: Settings, folder: Path, reporter: Reporter) -> _Space:
    stored = stored_rows(folder, settings, reporter)
    _refuse_one_image(stored)
    calibration = calibrate(workspace, settings, stored, reporter)
    first_of = _first_of_equal(stored)
    ids = np.full(len(stored.images), NO_ID, np.int64)

    def rows_at(places: Places) -> Iterator[tuple[int, Row]]:
        for place, row in stored.rows(places[first_of[places] == places]):
            ids[place] = place
            yield place, calibration.weighted(row)

    num_rows, num_values = len(ids), stored.table.num_values
    refuse_too_large(num_rows, num_values, stored.table.grid)
    index, recall = make_index(num_rows, num_values, "cosine", rows_at, reporter)
    stored.without_damaged(ids[first_of] != NO_ID)  # tells of them
    return _Space(stored, index, ids, first_of, calibration.threshold, recall, calibration)


def _refuse_one_image(stored: StoredRows) -> None:
    if not len(stored.images):
        raise without_rows(stored.table.folder, stored.table.manifest)
    if len(stored.images) == 1:
        raise ExtractionError(
            f"{stored.table.folder.name} has one image and nothing to compare it with: extract from more images"
        )


def _first_of_equal(stored: StoredRows) -> Places:
    _, first, content = np.unique(stored.checksums, return_index=True, return_inverse=True)
    return first[content].astype(np.int64)


# ---------------------------------------------------------------- pairs


@dataclass(frozen=True)
class _Links:
    """Pairs of places (P, 2), the smaller one first, and their similarities (P,)."""

    pairs: Places
    similarities: NDArray[np.float32]


def _near_pairs(space: _Space, reporter: Reporter) -> _Links:
    """Each different row with those of its nearest that are near enough."""
    places = space.different()
    among = np.zeros(int(space.ids.max()) + 1, bool)
    among[space.ids[places]] = True
    place_of = np.full(len(among), NO_ID, np.int64)
    place_of[space.ids[places]] = places
    pairs, similarities = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    least = space.threshold - _ROUNDING
    with reporter.progress("finding near copies", len(places)) as progress:
        for start in range(0, len(places), QUERIES_AT_A_TIME):
            own = places[start : start + QUERIES_AT_A_TIME]
            found = space.index.search(space.index.rows(space.ids[own]), _NUM_NEAREST + 1, among)
            is_near = (found.ids != NO_ID) & (found.scores >= least) & (found.ids != space.ids[own][:, None])
            query, _ = np.nonzero(is_near)
            pairs.append(np.sort(np.stack([own[query], place_of[found.ids[is_near]]], axis=1), axis=1))
            similarities.append(found.scores[is_near])
            progress.advance(len(own))
    different, which = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return _Links(different, np.concatenate(similarities)[which])


def _looked_at(links: _Links, pictures: SmallPictures, least: float, reporter: Reporter) -> _Links:
    """Those pairs whose pictures are alike."""
    are_alike = np.zeros(len(links.pairs), bool)
    with reporter.progress("comparing pictures", len(links.pairs)) as progress:
        for number, (one, other) in enumerate(links.pairs.tolist()):
            are_alike[number] = (_correlation(pictures, one, other) or 0.0) >= least
            progress.advance()
    num_unseen = sum(not checksum for checksum in pictures.checksums)
    if num_unseen:
        what, them = ("1 image", "it") if num_unseen == 1 else (f"{num_unseen:,} images", "them")
        reporter.warning(f"{what} cannot be read now: copies that are not exact are not told of {them}")
    return _Links(links.pairs[are_alike], links.similarities[are_alike])


def _near_and_alike(space: _Space, pictures: SmallPictures, least: float) -> Callable[[int, Places], NDArray[np.bool_]]:
    def are(one: int, others: Places) -> NDArray[np.bool_]:
        near = space.near(one, others)
        for number in np.flatnonzero(near).tolist():
            near[number] = (_correlation(pictures, one, int(others[number])) or 0.0) >= least
        return near

    return are


def _correlation(pictures: SmallPictures, one: int, other: int) -> float | None:
    """None where one of the two cannot be seen."""
    left, right = pictures.picture(one), pictures.picture(other)
    return correlation_when_aligned(left, right) if left is not None and right is not None else None


# ---------------------------------------------------------------- groups


@dataclass(frozen=True)
class _Member:
    """An image of a group: what it is to the first, and how near it is; the correlation of a near copy's picture."""

    place: int
    likeness: str
    similarity: float
    correlation: float | None


def _largest_first(sizes: NDArray[np.int64]) -> Places:
    """How soon each image comes: the largest file first, of equal ones the first by name."""
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    rank = np.empty(len(sizes), np.int64)
    rank[order] = np.arange(len(sizes))
    return rank


def _with_equal_rows(groups: list[list[int]], space: _Space, rank: Places) -> Iterator[list[int]]:
    """The groups with all images that have the rows of theirs, and those of equal rows alone; each with its first."""
    equals: dict[int, list[int]] = {}
    for place in space.with_equals().tolist():
        equals.setdefault(int(space.first_of[place]), []).append(place)
    for group in groups:
        first, *others = (equals.pop(place, [place]) for place in group)
        yield sorted(first, key=lambda place: rank[place]) + [place for several in others for place in several]
    for several in equals.values():
        yield sorted(several, key=lambda place: rank[place])


def _members(group: list[int], space: _Space, pictures: SmallPictures) -> list[_Member]:
    """The first, then the others from the most similar on."""
    first, *others = group
    rows = space.first_of[others]
    similarities = np.ones(len(others), np.float32)
    has_other_row = rows != space.first_of[first]
    if has_other_row.any():
        similarities[has_other_row] = space.similarities(int(space.first_of[first]), rows[has_other_row])
    members = [
        _member(first, place, float(similarity), pictures)
        for place, similarity in zip(others, similarities, strict=True)
    ]
    members.sort(key=lambda member: (-member.similarity, member.place))
    return [_Member(first, FIRST if pictures.checksum(first) else GONE, 1.0, None), *members]


def _member(first: int, place: int, similarity: float, pictures: SmallPictures) -> _Member:
    checksum = pictures.checksum(place)
    if not checksum:
        return _Member(place, GONE, similarity, None)
    if checksum == pictures.checksum(first):
        return _Member(place, EXACT, similarity, None)
    return _Member(place, NEAR, similarity, _correlation(pictures, first, place))


# ---------------------------------------------------------------- what is written


def _written(
    workspace: Workspace, settings: Settings, space: _Space, groups: list[list[_Member]], started: float
) -> NearCopiesResult:
    stored, folder = space.stored, space.stored.table.folder
    table, page = folder / FOLDER / "duplicates.csv", folder / FOLDER / "duplicates.html"
    files.write_csv(table, COLUMNS, _csv_rows(groups, stored))
    kinds = Counter(member.likeness for _, *others in groups for member in others)
    num_copied = space.calibration.num_images if space.calibration is not None else None
    told = CopyGroups(
        extraction=folder.name,
        features=features_of(stored.table.grid),
        num_images=space.num_images,
        num_groups=len(groups),
        counts={kind: kinds[kind] for kind in (EXACT, NEAR, GONE)},
        groups=list(_shown(workspace, settings, stored, groups)),
        threshold=space.threshold,
        num_copied=num_copied,
        recall=space.recall,
    )
    files.write_text_chunks(page, near_copies_page(told))
    return NearCopiesResult(
        name=folder.name,
        num_images=space.num_images,
        num_groups=len(groups),
        num_exact=kinds[EXACT],
        num_near=kinds[NEAR],
        num_gone=kinds[GONE],
        threshold=space.threshold,
        num_copied=num_copied,
        recall=space.recall,
        table=table,
        page=page,
        seconds=time.perf_counter() - started,
    )


def _csv_rows(groups: list[list[_Member]], stored: StoredRows) -> Iterator[list[Any]]:
    for number, group in enumerate(groups, start=1):
        for member in group:
            correlation = "" if member.correlation is None else f"{member.correlation:.4f}"
            size = int(stored.file_sizes[member.place])
            name = stored.images[member.place]
            yield [number, name, member.likeness, f"{member.similarity:.6f}", correlation, size]


def _shown(
    workspace: Workspace, settings: Settings, stored: StoredRows, groups: list[list[_Member]]
) -> Iterator[list[Item]]:
    """The items of the first groups."""
    shown = [group[:NUM_IN_GROUP] for group in groups[:NUM_GROUPS]]
    paths = [stored.source.path(stored.images[member.place]) for group in shown for member in group]
    made = thumbnails(workspace, settings, paths)
    for group in shown:
        items = []
        for member in group:
            thumbnail = next(made)
            told = (
                member.likeness if member.likeness in (FIRST, EXACT) else f"{member.likeness}, {member.similarity:.4f}"
            )
            if thumbnail.header is None:
                items.append(Item(stored.images[member.place], (told, thumbnail.reason), ""))
            else:
                size, kind = facts_of_file(thumbnail.header, int(stored.file_sizes[member.place]))
                items.append(Item(stored.images[member.place], (told, size, kind), file_uri(thumbnail.data)))
        yield items
