"""The index of an extraction: made once, kept beside it, and brought up to date with it.

A row is known by its checksum. What stands in images.csv and not in the index is read from the table and added, what
the index has and images.csv has not is taken out; no other row is read again. That costs a pass over the new rows,
where making an index anew costs one over all of them and, for an approximate one, learning its lists. The rows in it
are normalized as the settings say; an index of rows that were normalized in another way is made anew.
"""

from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fext.compute.device import free_memory
from fext.compute.normalization import Normalization, described
from fext.compute.vector_index import (
    NO_ID,
    QUERIES_AT_A_TIME,
    Found,
    Ids,
    Metric,
    Probes,
    Rows,
    VectorIndex,
    is_exact,
    num_bytes,
    num_to_learn_from,
    set_num_threads,
)
from fext.data.names import Names, name_to_bytes
from fext.data.source import ImageSource, known_images
from fext.errors import ExtractionError
from fext.jobs.features import averaged, checksum_bytes, tell_of_damaged, without_rows
from fext.jobs.normalizing import Row, RowsAt, kept_normalization
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import extractions
from fext.store.extractions import Description
from fext.store.kept_indexes import (
    CHECKSUM_BYTES,
    NO_ROW,
    KeptIndex,
    KeptNormalization,
    forget_index,
    load_index,
    save_index,
)
from fext.store.parts import WRITTEN
from fext.store.tables import Columns

_NUM_PROBES, _NUM_PROBED = 100, 10
_NUM_EQUALLY_NEAR, _DIGITS = 16, 6
_BLOCK_BYTES, _MAX_BLOCK_ROWS = 2**25, 4096


@dataclass(frozen=True)
class Table:
    """The table of a finished extraction, averaged to a grid; places are those of the written images."""

    folder: Path
    manifest: Description
    grid: int
    reporter: Reporter

    @property
    def num_values(self) -> int:
        """Of a row."""
        return int(self.manifest["num_features"]) // int(self.manifest["feature_grid"]) ** 2 * self.grid**2

    def rows(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """As RowsAt."""
        columns = Columns(self.manifest["num_features"], self.manifest["reconstruction_error"])
        wanted = iter(places.tolist())
        due = next(wanted, None)
        table = extractions.read_table(self.folder, columns)
        with closing(table), self.reporter.progress("reading features", len(places)) as progress:
            written = (done for done in table if done.record.status == WRITTEN)
            for place, done in enumerate(written):
                if due is None:
                    return
                if place == due:
                    row = done.row()
                    if row is not None:
                        yield place, averaged(row[: columns.num_features], self.manifest["feature_grid"], self.grid)
                    due = next(wanted, None)
                    progress.advance()


@dataclass(frozen=True)
class StoredRows:
    """The images of a finished extraction that have rows, sorted, and where their rows stand.

    Of each image the SHA-256 of its row, the size of its file in bytes and its place in the table.
    """

    table: Table
    source: ImageSource
    checksums: NDArray[np.bytes_]
    file_sizes: NDArray[np.int64]
    table_places: NDArray[np.int64]

    @property
    def images(self) -> Names:
        """Their names."""
        return self.source.names

    def rows(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """As RowsAt."""
        for table_place, row in self.table.rows(self.table_places[places]):
            yield int(np.searchsorted(self.table_places, table_place)), row

    def without_damaged(self, has_row: NDArray[np.bool_]) -> "StoredRows":
        """Those that have a row that can be read, which the user is told of; raises ExtractionError where none has."""
        folder = self.table.folder
        if not has_row.any():
            raise without_rows(folder, self.table.manifest)
        if has_row.all():
            return self
        tell_of_damaged(folder, int((~has_row).sum()), self.table.reporter)
        names = self.images.select(np.flatnonzero(has_row).tolist())
        source = known_images(self.source.location, names)
        of_images = (self.checksums[has_row], self.file_sizes[has_row], self.table_places[has_row])
        return StoredRows(self.table, source, *of_images)


def stored_rows(folder: Path, settings: Settings, reporter: Reporter) -> StoredRows:
    """What a finished extraction has at settings.explore_grid; no row is read. Raises ExtractionError."""
    manifest = extractions.read_finished(folder)
    table = Table(folder, manifest, min(settings.explore_grid, manifest["feature_grid"]), reporter)
    names: list[bytes] = []
    checksums, sizes = bytearray(), array("q")
    for record in extractions.read_records(folder):
        if record.status == WRITTEN:
            names.append(name_to_bytes(record.image))
            checksums += checksum_bytes(record.row_sha256)
            sizes.append(record.state.size)
    source = known_images(Path(manifest["source"]), Names(names))
    digests = np.frombuffer(bytes(checksums), f"S{CHECKSUM_BYTES}")
    return StoredRows(table, source, digests, np.array(sizes, np.int64), np.arange(len(names)))


@dataclass(frozen=True)
class IndexedExtraction:
    """A finished extraction and its index: the images that have rows, and of each the id in the index.

    Its rows are normalized, where there is a normalization. `recall` is the share of the ten nearest that an
    approximate index finds, measured on some of its own rows; `compared` says in words what is compared.
    """

    stored: StoredRows
    index: VectorIndex
    ids: Ids
    recall: float | None
    normalization: Normalization | None
    compared: str

    @property
    def folder(self) -> Path:
        """Of the extraction; the index lies in a folder in it."""
        return self.stored.table.folder

    @property
    def source(self) -> ImageSource:
        """The images, sorted."""
        return self.stored.source

    @property
    def images(self) -> Names:
        """Their names."""
        return self.stored.images

    @cached_property
    def _place_of(self) -> Ids:
        """The place of each id, and behind them, where NO_ID points to, NO_ID."""
        place_of = np.full(int(self.ids.max()) + 2, NO_ID, np.int64)
        place_of[self.ids] = np.arange(len(self.ids))
        return place_of

    def normalized(self, rows: Rows) -> Rows:
        """Rows (N, D) from elsewhere as the index has its own, to be searched for."""
        return rows if self.normalization is None else self.normalization.of(rows)

    def search(self, queries: Rows, count: int, num_images: int | None = None) -> Found:
        """The places of the nearest images to each query (Q, K), and how near, as VectorIndex.search has ids.

        With num_images only the first so many images are looked at.

        Those that differ by rounding alone come in the order of the images. FAISS rounds by where rows stand in the
        index, so which of equal ones it finds last depends on what the index went through: some more are sought.
        """
        found = self.index.search(queries, count + _NUM_EQUALLY_NEAR, self._first(num_images))
        places = self._place_of[found.ids]
        farness = -found.scores if self.index.metric == "cosine" else found.scores
        order = np.lexsort((places, np.where(places == NO_ID, np.inf, farness).round(_DIGITS)))[:, :count]
        return Found(np.take_along_axis(places, order, axis=1), np.take_along_axis(found.scores, order, axis=1))

    def _first(self, num_images: int | None) -> NDArray[np.bool_] | None:
        """Which ids are of the first images; None where all are."""
        if num_images is None or num_images >= len(self.ids):
            return None
        among = np.zeros(int(self.ids.max()) + 1, bool)
        among[self.ids[:num_images]] = True
        return among

    def neighbours(self, count: int, reporter: Reporter, num_images: int | None = None) -> Iterator[tuple[int, Found]]:
        """The place of the first of a few images, and the places and scores of the nearest others of each of them.

        With num_images of the first so many images, among these.
        """
        num_images = len(self.images) if num_images is None else num_images
        with reporter.progress("finding neighbours", num_images) as progress:
            for start in range(0, num_images, QUERIES_AT_A_TIME):
                own = np.arange(start, min(start + QUERIES_AT_A_TIME, num_images))
                found = self.search(self.rows(start, start + len(own)), count + 1, num_images)
                yield start, without_own(own, *found)
                progress.advance(len(own))

    def rows(self, start: int, stop: int) -> Rows:
        """The rows (N, K) of images from one place to before another, as the index has them."""
        return self.index.rows(self.ids[start:stop])


def without_own(own: NDArray[np.int64], ids: NDArray[np.int64], scores: NDArray[np.float32]) -> Found:
    """Of each query's K + 1 nearest the K that are not itself; the last goes where it is not among them."""
    is_own = ids == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    shape = len(ids), ids.shape[1] - 1
    return Found(ids[~is_own].reshape(shape), scores[~is_own].reshape(shape))


@dataclass(frozen=True)
class _Wanted:
    """An index as it is to be: of which rows, normalized how, by which metric."""

    stored: StoredRows
    metric: Metric
    kept: KeptNormalization | None
    reporter: Reporter

    @property
    def normalization(self) -> Normalization | None:
        """None: rows are compared as they are."""
        return None if self.kept is None else self.kept.normalization

    @property
    def num_values(self) -> int:
        """Of a row of the index."""
        return self.stored.table.num_values if self.normalization is None else self.normalization.num_values

    def rows(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """As RowsAt, normalized."""
        return normalized_rows(self.stored.table.rows(places), self.stored.table.num_values, self.normalization)

    def load(self) -> KeptIndex | None:
        """The index that is kept, where it serves."""
        table, is_normalized = self.stored.table, self.kept is not None
        try:
            kept = load_index(table.folder, self.metric, table.grid, self.num_values, self.kept)
        except ValueError as error:
            self.reporter.message(f"the index of {table.folder.name} cannot be relied on and is made anew ({error})")
            forget_index(table.folder, self.metric, table.grid, normalized=is_normalized)
            return None
        is_worth = kept is not None and _is_worth_keeping(kept, len(self.stored.images), self.num_values)
        return kept if is_worth else None

    def save(self, kept: KeptIndex) -> None:
        """Keep an index."""
        save_index(self.stored.table.folder, self.metric, self.stored.table.grid, kept, self.kept)


def normalized_rows(
    rows: Iterator[tuple[int, Row]], num_values: int, normalization: Normalization | None
) -> Iterator[tuple[int, Row]]:
    """Rows with their places, normalized a block at a time."""
    if normalization is None:
        yield from rows
        return
    for places, block in in_blocks(rows, num_values):
        yield from zip(places.tolist(), normalization.of(block), strict=True)


def open_index(
    folder: Path, settings: Settings, metric: Metric, reporter: Reporter, *, as_they_are: bool = False
) -> IndexedExtraction:
    """The index of a finished extraction at settings.explore_grid; made or brought up to date where it is not.

    Its rows are normalized as settings.similarity_normalization says, or left `as_they_are`. Raises ExtractionError
    where the extraction is not finished, has no row that can be read, or where the index would not fit into memory.
    """
    set_num_threads(settings)
    stored = stored_rows(folder, settings, reporter)
    table, normalization = stored.table, None
    is_wanted = settings.similarity_normalization == "auto" and not as_they_are
    if is_wanted:
        normalization = kept_normalization(folder, table.grid, table.num_values, stored.checksums, table.rows, reporter)
    wanted = _Wanted(stored, metric, normalization, reporter)
    kept = wanted.load()
    kept, ids = _made(wanted) if kept is None else _updated(wanted, kept)
    has_row = ids != NO_ID
    return IndexedExtraction(
        stored=stored.without_damaged(has_row),
        index=kept.index,
        ids=ids[has_row],
        recall=kept.recall,
        normalization=wanted.normalization,
        compared=described(wanted.normalization, table.grid, wanted=is_wanted),
    )


def _is_worth_keeping(kept: KeptIndex, num_rows: int, num_values: int) -> bool:
    """Not so where another kind is right for as many rows, the lists were learned for far fewer or more, or most of its
    ids are of rows that are gone."""
    if kept.index.is_exact != is_exact(num_rows, num_values) or len(kept.checksums) > 2 * num_rows + _MAX_BLOCK_ROWS:
        return False
    return kept.index.is_exact or 2 * kept.num_learned_for / 3 <= num_rows <= 3 * kept.num_learned_for / 2


def _made(wanted: _Wanted) -> tuple[KeptIndex, Ids]:
    """A new index, which is kept, and the id of each image; NO_ID where its row is damaged."""
    checksums = wanted.stored.checksums
    is_there = np.zeros(len(checksums), bool)

    def rows_at(places: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        for place, row in wanted.rows(places):
            is_there[place] = True
            yield place, row

    refuse_too_large(len(checksums), wanted.num_values, wanted.stored.table.grid)
    index, recall = make_index(len(checksums), wanted.num_values, wanted.metric, rows_at, wanted.reporter)
    kept = KeptIndex(index, np.where(is_there, checksums, NO_ROW), len(checksums), recall)
    if is_there.any():
        wanted.save(kept)
    return kept, np.where(is_there, np.arange(len(checksums)), NO_ID)


def _updated(wanted: _Wanted, kept: KeptIndex) -> tuple[KeptIndex, Ids]:
    """The index with what is new and without what is gone, and the id of each image."""
    checksums = wanted.stored.checksums
    ids = ids_of(checksums, kept.checksums)
    is_gone = kept.checksums != NO_ROW.rstrip(b"\0")
    is_gone[ids[ids != NO_ID]] = False
    gone, new = np.flatnonzero(is_gone), np.flatnonzero(ids == NO_ID)
    num_ids = len(kept.checksums)
    kept.index.remove(gone)
    added = [np.where(is_gone, NO_ROW, kept.checksums)]
    for places, rows in in_blocks(wanted.rows(new), wanted.num_values):
        ids[places] = np.arange(num_ids, num_ids + len(places))
        kept.index.add(ids[places], rows)
        added.append(checksums[places])
        num_ids += len(places)
    if len(gone) or len(added) > 1:
        wanted.reporter.message(
            f"the index is brought up to date: {num_ids - len(kept.checksums)} added, {len(gone)} removed"
        )
        kept = KeptIndex(kept.index, np.concatenate(added), kept.num_learned_for, kept.recall)
        wanted.save(kept)
    return kept, ids


def ids_of(checksums: NDArray[np.bytes_], known: NDArray[np.bytes_]) -> Ids:
    """Of each checksum the place of the same one among the known, each of these taken once; NO_ID where there is none.

    Of equal ones the first takes the first: their rows are the same.
    """
    order, known_order = np.argsort(checksums, kind="stable"), np.argsort(known, kind="stable")
    wanted, there = checksums[order], known[known_order]
    nth = np.arange(len(wanted)) - np.searchsorted(wanted, wanted)
    match = np.searchsorted(there, wanted) + nth
    is_known = match < len(there)
    is_known[is_known] = there[match[is_known]] == wanted[is_known]
    ids = np.full(len(checksums), NO_ID, np.int64)
    ids[order[is_known]] = known_order[match[is_known]]
    return ids


def make_index(
    num_rows: int, num_values: int, metric: Metric, rows_at: RowsAt, reporter: Reporter
) -> tuple[VectorIndex, float | None]:
    """An index of rows from places 0 to num_rows, which are the ids; and, of an approximate one, the recall.

    Rows come and go a block at a time; an approximate index asks for some of them before all.
    """
    num_learning = num_to_learn_from(num_rows, num_values)
    if not num_learning:
        index, probes = VectorIndex.exact(num_values, metric), None
    else:
        sample = _sample(num_rows, num_learning, rows_at)
        reporter.message(f"{num_rows:,} images are searched approximately: learning from {len(sample[0]):,} of them")
        index = VectorIndex.approximate(sample[1], num_rows, metric)
        some = np.linspace(0, len(sample[0]) - 1, min(_NUM_PROBES, len(sample[0]))).round().astype(int)
        probes = Probes(sample[0][some], sample[1][some], _NUM_PROBED, metric)
    for ids, rows in in_blocks(rows_at(np.arange(num_rows)), num_values):
        index.add(ids, rows)
        if probes is not None:
            probes.see(ids, rows)
    return index, None if probes is None else index.choose_effort(probes)


def in_blocks(rows: Iterator[tuple[int, Row]], num_values: int) -> Iterator[tuple[Ids, Rows]]:
    """Rows by the thousand, with their places."""
    size = max(1, min(_MAX_BLOCK_ROWS, _BLOCK_BYTES // (4 * num_values)))
    places, block = np.empty(size, np.int64), np.empty((size, num_values), np.float32)
    count = 0
    for place, row in rows:
        places[count], block[count] = place, row
        count += 1
        if count == size:
            yield places.copy(), block
            count = 0
    if count:
        yield places[:count].copy(), block[:count]


def _sample(num_rows: int, count: int, rows_at: RowsAt) -> tuple[Ids, Rows]:
    """Rows at places evenly spaced."""
    places = np.linspace(0, num_rows - 1, count).round().astype(np.int64)
    found = list(rows_at(places))
    if not found:
        raise ExtractionError("there are no rows that can be read: extract again to bring the table back")
    return np.array([place for place, _ in found], np.int64), np.stack([row for _, row in found])


def refuse_too_large(num_rows: int, num_values: int, grid: int) -> None:
    """Raise ExtractionError where an index would take more memory than there is."""
    needed, free = num_bytes(num_rows, num_values), free_memory()
    if needed > free:
        advice = "set explore_grid to a smaller grid" if grid > 1 else "close other programs"
        raise ExtractionError(
            f"an index of {num_rows:,} images takes {needed / 1e9:.1f} GB of memory while it is made, and "
            f"{free / 1e9:.1f} are free: {advice}"
        )
