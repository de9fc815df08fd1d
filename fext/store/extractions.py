"""The folder of an extraction: going on, doing what is new and putting the table together are one thing.

What has been done is a number of runs, each sorted by name: the finished table, where there is one, and the parts that
processes have written since. For each image found now the newest run that knows it counts. Where that speaks of the
file as it still is, the row is kept; all else is encoded into a new part. Then the runs are merged into a new table,
which takes the place of the old one when all of it is on the disk.

Where rows are to be computed in another way than before, and all of them, neither the table nor earlier parts count.
"""

import csv
import hashlib
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fext.data.images import NO_FILE, FileState
from fext.data.names import Names, name_to_bytes, readable
from fext.data.source import ImageSource
from fext.data.unchanged import Remembered, look_again
from fext.errors import ExtractionError, FextError
from fext.reporting import Reporter, counting
from fext.store import files
from fext.store.parts import (
    NOT_FINITE,
    REJECTED,
    SEEN,
    WRITTEN,
    Done,
    PartWriter,
    Record,
    RowSource,
    find_parts,
    newest,
    next_start,
    part_files,
    read_part,
)
from fext.store.tables import FORMATS, Columns, TableWriter, make_writer, open_table, table_files

MANIFEST = "manifest.json"
IMAGES_FILE, REJECTED_FILE = "images.csv", "rejected.csv"
IMAGES_COLUMNS = ("image", "status", *FileState._fields, "sha256", "row_sha256")
_COLUMNS_AT_FIRST = ["image", "status", "size", "modified", "row_sha256"]  # of the first extractions
_UNFINISHED, _DESCRIPTION, _DRAFT, _READY = "unfinished", "extraction.json", "draft", "ready"

FORMAT_VERSION = 2

_SEEN_RANK = 999_999  # the part that holds in which state files were seen is that of no process

Description = dict[str, Any]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Checkpoint(_Part):
    name: str
    sha256: str
    folder: str


class ComputedBy(_Part):
    """How rows are computed: all that their bits depend on, beside the model and the file."""

    device: str
    precision: Literal["float32", "bfloat16", "float16"]
    convolutions: Literal["direct", "winograd"] = "direct"  # the first extractions say nothing of it
    engine: Literal["torch", "openvino"]
    engine_version: str
    decoders: str
    batch_shape: Annotated[list[Positive], Field(min_length=4, max_length=4)]
    threads_per_batch: Literal[1, "any", "not told"] = "not told"  # nor of this; on a GPU it says nothing


class _Described(_Part):
    """What a description must hold to be relied on; somebody may have edited it."""

    format_version: Literal[2]
    checkpoint: _Checkpoint
    source: str
    feature_grid: Literal[8, 4, 2, 1]
    feature_stages: Literal["last", "all"] = "last"  # the first extractions say nothing of it
    num_features: Positive
    reconstruction_error: bool
    computed_by: ComputedBy


class _Start(_Part):
    """The way in which everything is computed from that start on."""

    start: Count
    computed_by: ComputedBy


class _Begun(_Described):
    """What is written while there is something unfinished; what was done before anew_from does not count."""

    starts: list[_Start] = []
    anew_from: Count = 0


class _Way(_Part):
    """One of several ways in which rows were made, and how many; None where that is not known any more."""

    computed_by: ComputedBy
    rows: Count | None


class _Counts(_Part):
    found: Count
    written: Count
    rejected: Count


class _Manifest(_Described):
    formats: Annotated[list[Literal["csv", "npy", "parquet"]], Field(min_length=1)]
    counts: _Counts
    images_sha256: str = ""  # the first extractions say nothing of it
    ways: list[_Way] = []  # where there are several, the newest last


@dataclass
class Plan:
    """What is to be done: positions in the names found, and how the images stand to what was done before.

    Of those kept, num_seen have another state and the same contents; num_unproven were done by an earlier version,
    which kept no checksum of their files.
    """

    todo: "array[int]" = field(default_factory=lambda: array("Q"))
    num_kept: int = 0
    num_seen: int = 0
    num_new: int = 0
    num_changed: int = 0
    num_unproven: int = 0
    num_tried_again: int = 0
    num_removed: int = 0

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to encode and no row to remove: what stands there holds."""
        return not self.todo and not self.num_removed


@dataclass
class Merged:
    """What came of merging the runs: counts, or the images whose rows turned out to be damaged.

    Of the rejected, num_not_finite are so for their features; images_sha256 is the checksum of images.csv.
    rows_of_start is as Done has it.
    """

    num_written: int = 0
    num_rejected: int = 0
    num_not_finite: int = 0
    rows_of_start: Counter[int] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)
    images_sha256: str = ""


def describe(folder: Path) -> Description | None:
    """What a folder below inference/ is an extraction of; None where it is none, or cannot be read."""
    for path in (folder / _UNFINISHED / _DESCRIPTION, folder / MANIFEST):
        with suppress(FextError, ValidationError):
            description = files.read_json(path)
            _Described.model_validate(description)
            return cast(Description, description)
    return None


def read_manifest(folder: Path) -> Description:
    """What is written of a finished extraction; raises ExtractionError where that cannot be relied on."""
    manifest = files.read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise ExtractionError(f"{folder.name} was made by another version of FeXT, which this one cannot read")
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ExtractionError(f"{folder.name}/{MANIFEST} is damaged at {where}: extract under another name") from error
    return manifest


def read_finished(folder: Path) -> Description:
    """As read_manifest; raises ExtractionError where there is no finished extraction."""
    if not is_finished(folder):
        raise ExtractionError(f"{folder.name} is not finished: start its extraction again to go on")
    return read_manifest(folder)


def is_finished(folder: Path) -> bool:
    """Whether there is a whole table."""
    return (folder / MANIFEST).is_file()


def is_stopped(folder: Path) -> bool:
    """Whether something was begun and not finished."""
    return (folder / _UNFINISHED).is_dir()


def has_nothing(folder: Path) -> bool:
    """Whether no row, nor a reason why there is none, has been written into a folder."""
    parts = (part_files(folder / _UNFINISHED, *part)[0] for part in find_parts(folder / _UNFINISHED))
    return not is_finished(folder) and not any(journal.stat().st_size for journal in parts)


def begin(folder: Path, description: Description, *, anew: bool = False) -> int:
    """Make a folder ready for work; returns the number of this start.

    What an earlier start had ready is put in place first. With `anew` nothing that was done before counts; the table
    that is there stays until the new one is whole. Raises ExtractionError where the disk cannot be written.
    """
    try:
        _put_in_place(folder)
        if not folder.exists():
            with files.new_folder(folder) as draft:
                (draft / _UNFINISHED).mkdir()
                files.write_json(draft / _UNFINISHED / _DESCRIPTION, description)
        elif has_nothing(folder):
            files.write_json(folder / _UNFINISHED / _DESCRIPTION, description)
        start = next_start(folder / _UNFINISHED)
        _describe_start(folder, description, start, anew=anew)
        return start
    except OSError as error:
        raise ExtractionError(f"{folder} cannot be written: {error.strerror or error}") from error


def _describe_start(folder: Path, description: Description, start: int, *, anew: bool) -> None:
    """Write what this start does where that is not what the one before it did: one file decides."""
    begun = _begun(folder)
    own = ComputedBy.model_validate(description["computed_by"])
    starts = [] if begun is None else begun.starts or [_Start(start=0, computed_by=begun.computed_by)]
    if starts and starts[-1].computed_by == own and not anew:
        return
    told = {
        "starts": [one.model_dump() for one in (*starts, _Start(start=start, computed_by=own))],
        "anew_from": start if anew else 0 if begun is None else begun.anew_from,
    }
    files.write_json(folder / _UNFINISHED / _DESCRIPTION, description | told)


def _begun(folder: Path) -> _Begun | None:
    with suppress(FextError, ValidationError):
        return _Begun.model_validate(files.read_json(folder / _UNFINISHED / _DESCRIPTION))
    return None


def ways_of_rows(folder: Path, merged: Merged) -> list[dict[str, Any]]:
    """In which ways the rows of a table that is being put together were computed, and how many in each, newest last."""
    found = _ways_of_kept(folder, merged.rows_of_start[0]) if merged.rows_of_start[0] else []
    begun = _begun(folder)
    for start, count in sorted(merged.rows_of_start.items()):
        if start and begun is not None:
            way = [begun.computed_by, *(one.computed_by for one in begun.starts if one.start <= start)][-1]
            same = next((one for one in found if one.computed_by == way), None)
            if same is not None:
                found.remove(same)
            known = 0 if same is None else same.rows
            found.append(_Way(computed_by=way, rows=None if known is None else known + count))
    return [way.model_dump() for way in found]


def _ways_of_kept(folder: Path, num_kept: int) -> list[_Way]:
    """Those of the rows that are kept of the table there is; of several ways it is not known which lose rows."""
    manifest = _Manifest.model_validate(read_manifest(folder))
    if len(manifest.ways) < 2:
        return [_Way(computed_by=manifest.computed_by, rows=num_kept)]
    if num_kept == manifest.counts.written:
        return manifest.ways
    return [_Way(computed_by=way.computed_by, rows=None) for way in manifest.ways]


def parts_folder(folder: Path) -> Path:
    """Where the parts are written."""
    return folder / _UNFINISHED


def plan_work(
    folder: Path,
    start: int,
    source: ImageSource,
    columns: Columns,
    by_contents: bool,
    reporter: Reporter,
) -> Plan:
    """Compare the images found with what is done.

    What is done of a file holds where its state is the same or, failing that or with `by_contents`, its checksum is.
    """
    plan = Plan()
    matched = _matched(source.names, folder, columns)
    images = (_remembered(position, done, source, by_contents) for position, done in matched)
    with (
        closing(_SeenFiles(folder / _UNFINISHED, start)) as seen,
        reporter.progress("comparing images", len(source)) as progress,
    ):
        for (position, record), state in counting(look_again(images), progress):
            if position is None:
                plan.num_removed += record is not None and record.lasts
                continue
            if record is not None and (state is not None or _stays_unseen(record, source)):
                plan.num_kept += 1
                plan.num_seen += state is not None and seen.add(record, state)
                continue
            plan.todo.append(position)
            if record is None:
                plan.num_new += 1
            elif not record.lasts:
                plan.num_tried_again += 1
            elif not record.sha256:
                plan.num_unproven += 1
            else:
                plan.num_changed += 1
    return plan


def _remembered(
    position: int | None, done: Done | None, source: ImageSource, by_contents: bool
) -> Remembered[tuple[int | None, Record | None]]:
    """An image found, by position, or one that is gone, and what is to be compared with its file."""
    record = done.record if done is not None else None
    if position is None or record is None or not record.lasts or _stays_unseen(record, source):
        return Remembered((position, record), None, NO_FILE, "")
    return Remembered((position, record), source.path(record.image), record.state, record.sha256, by_contents)


def _stays_unseen(record: Record, source: ImageSource) -> bool:
    """Whether what is done of an image stays, for its folder cannot be read now."""
    return record.lasts and source.is_unreadable(record.image)


class _SeenFiles:
    """Keeps in a part which files are the same in another state, so that their contents are not compared again."""

    def __init__(self, parts: Path, start: int) -> None:
        self._parts, self._start = parts, start
        self._writer: PartWriter | None = None

    def add(self, record: Record, state: FileState) -> bool:
        """Take a file that was looked at; gives whether its state is another."""
        if state == record.state:
            return False
        self._writer = self._writer or PartWriter(self._parts, self._start, _SEEN_RANK)
        self._writer.add([(Record(record.image, SEEN, state, sha256=record.sha256), None)])
        return True

    def close(self) -> None:
        """Bring what was taken onto the disk."""
        if self._writer is not None:
            self._writer.close()


def unreachable(folder: Path, source: ImageSource, columns: Columns) -> list[bytes]:
    """The images done before that may well be there, but lie in folders that cannot be read now."""
    if not source.unreadable:
        return []
    others = (done for position, done in _matched(source.names, folder, columns) if position is None and done)
    return [name_to_bytes(done.record.image) for done in others if _stays_unseen(done.record, source)]


def is_whole(folder: Path, columns: Columns, formats: Iterable[str], num_found: int) -> bool:
    """Whether there is a finished table of so many images in each of the formats, and nothing begun."""
    if not is_finished(folder) or read_manifest(folder)["counts"]["found"] != num_found:
        return False
    wanted = {file for name in formats for file in table_files(name, columns)}
    nothing_begun = all(rank == _SEEN_RANK for _, rank in find_parts(folder / _UNFINISHED))
    return nothing_begun and all((folder / file).is_file() for file in wanted)


def write_seen(folder: Path, names: Names, columns: Columns) -> None:
    """Put the states in which files were seen into images.csv; the rows stay as they are."""
    manifest = read_manifest(folder)
    merge(folder, names, columns, (), lambda _: None, lambda merged: manifest | {"images_sha256": merged.images_sha256})


def all_formats(folder: Path, columns: Columns, asked: Iterable[str]) -> tuple[str, ...]:
    """The formats asked for and those that the table has: none is left behind."""
    there = [name for name in FORMATS if all((folder / file).is_file() for file in table_files(name, columns))]
    return tuple(sorted({*asked, *there}))


def leave(folder: Path) -> None:
    """Remove what is of no more use; under another name first, so that a kill does not leave a half of it."""
    old = folder / f".{_UNFINISHED}.partial"
    files.remove_folder(old)
    files.replace(folder / _UNFINISHED, old)
    files.remove_folder(old)


def merge(
    folder: Path,
    names: Names,
    columns: Columns,
    formats: Sequence[str],
    advance: Callable[[int], None],
    manifest: Callable[[Merged], Mapping[str, Any]],
) -> Merged:
    """Put the table together from everything that is done, and put it in place; without formats, all but the rows.

    Where rows are damaged nothing is written, and they are named: they are to be encoded again. Raises ExtractionError
    where the disk is full; what was there is kept.
    """
    draft = folder / _UNFINISHED / _DRAFT
    files.remove_folder(draft)
    try:
        draft.mkdir(parents=True)
        merged = _write_draft(draft, folder, names, columns, formats, advance)
        if merged.damaged:
            return merged
        files.write_json(draft / MANIFEST, manifest(merged))
        files.replace(draft, draft.with_name(_READY))
        _put_in_place(folder)
    except OSError as error:
        raise ExtractionError(
            f"{folder} cannot be written: {error.strerror or error}; what was encoded is kept: make space and start "
            f"again to go on"
        ) from error
    finally:
        files.remove_folder(draft)
    return merged


def _write_draft(
    draft: Path,
    folder: Path,
    names: Names,
    columns: Columns,
    formats: Sequence[str],
    advance: Callable[[int], None],
) -> Merged:
    merged = Merged()
    with ExitStack() as stack:
        images = stack.enter_context(_list(draft / IMAGES_FILE, IMAGES_COLUMNS))
        rejected = stack.enter_context(_list(draft / REJECTED_FILE, ("image", "reason")))
        tables = [stack.enter_context(_table(name, draft, columns)) for name in formats]
        for position, done in _matched(names, folder, columns):
            if position is None:
                continue
            if done is None:
                raise ExtractionError(f"{names[position]} was not encoded: start again to go on")
            record = done.record
            images((record.image, record.status, *record.state, record.sha256, record.row_sha256))
            if record.status == REJECTED:
                merged.num_rejected += 1
                merged.num_not_finite += record.reason == NOT_FINITE
                rejected((record.image, record.reason))
            elif not tables:
                merged.num_written += 1
            elif (row := done.row()) is None:
                merged.damaged.append(record.image)
            else:
                merged.num_written += 1
                merged.rows_of_start[done.start] += 1
                for table in tables:
                    table.add(record.image, row)
            advance(1)
    merged.images_sha256 = list_checksum(draft)
    return merged


def list_checksum(folder: Path) -> str:
    """SHA-256 of images.csv."""
    with (folder / IMAGES_FILE).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _table(name: str, folder: Path, columns: Columns) -> Iterator[TableWriter]:
    """A table to fill, on the disk when the block has ended well."""
    writer = make_writer(name, folder, columns)
    try:
        writer.begin()
        yield writer
        writer.close()
    finally:
        writer.abandon()


@contextmanager
def _list(path: Path, header: Sequence[str]) -> Iterator[Callable[[Sequence[object]], object]]:
    """A CSV to write line by line, on the disk when the block has ended well."""
    with path.open("wb") as stream:
        stream.write(files.csv_line(header).encode())
        yield lambda cells: stream.write(readable(files.csv_line(cells)).encode())
        files.close_on_disk(stream)


def _put_in_place(folder: Path) -> None:
    """Move the files of a table that is ready to where they belong; after a kill in between, the rest of them."""
    ready = folder / _UNFINISHED / _READY
    if not ready.is_dir():
        return
    for path in sorted(ready.iterdir()):
        files.replace(path, folder / path.name)
    files.sync_folder(folder)
    leave(folder)


def _matched(names: Names, folder: Path, columns: Columns) -> Iterator[tuple[int | None, Done | None]]:
    """Each image found, by position, with what is newest of it; and what is known of others, with no position."""
    with ExitStack() as stack:
        runs = [stack.enter_context(closing(run)) for run in _runs(folder, columns)]
        known = newest(runs)
        name, done = next(known, (None, None))
        for position, found in enumerate(names.iter_bytes()):
            while name is not None and name < found:
                yield None, done
                name, done = next(known, (None, None))
            if name == found:
                yield position, done
                name, done = next(known, (None, None))
            else:
                yield position, None
        while name is not None:
            yield None, done
            name, done = next(known, (None, None))


def _runs(folder: Path, columns: Columns) -> list[Generator[Done, None, None]]:
    """What is done, oldest first."""
    begun, parts = _begun(folder), folder / _UNFINISHED
    first = 0 if begun is None else begun.anew_from
    table = [read_table(folder, columns)] if is_finished(folder) and not first else []
    counting = [(start, rank) for start, rank in find_parts(parts) if start >= first]
    return table + [read_part(parts, start, rank, columns.num_values) for start, rank in counting]


def read_table(folder: Path, columns: Columns) -> Generator[Done, None, None]:
    """What the finished table holds; only what was rejected where its rows are gone."""
    with closing(_open_rows(folder, columns)) as rows:
        number = -1
        for record in read_records(folder):
            number += record.status == WRITTEN
            if record.status == REJECTED or not isinstance(rows, _NoRows):
                yield Done(record, number, rows)


def read_records(folder: Path) -> Iterator[Record]:
    """images.csv with the reasons of rejected.csv; raises ExtractionError where they are damaged or disagree."""
    try:
        with (
            (folder / IMAGES_FILE).open(encoding="utf-8", newline="") as images,
            (folder / REJECTED_FILE).open(encoding="utf-8", newline="") as rejected,
        ):
            reasons = csv.DictReader(rejected, strict=True)
            for image, status, state, sha256, row_sha256 in _lines(csv.reader(images, strict=True)):
                reason = ""
                if status == REJECTED:
                    reason = _reason(next(reasons, {}), image)
                elif status != WRITTEN:
                    raise ValueError(f"an image is written or rejected, not {status!r}")
                yield Record(image, status, state, row_sha256, reason, sha256)
            if next(reasons, None) is not None:
                raise ValueError(f"{REJECTED_FILE} has more images")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ExtractionError(
            f"{folder / IMAGES_FILE} or {REJECTED_FILE} is damaged ({error}): extract under another name"
        ) from error


def _lines(rows: Iterator[list[str]]) -> Iterator[tuple[str, str, FileState, str, str]]:
    """What images.csv says of each image; earlier versions left out what is 0 or empty here."""
    header = next(rows, [])
    if header not in (list(IMAGES_COLUMNS), _COLUMNS_AT_FIRST):
        raise ValueError("its header is another")
    for row in filter(None, rows):
        if len(row) != len(header):
            raise ValueError(f"the line of {row[0]} has {len(row)} cells")
        if header == _COLUMNS_AT_FIRST:
            image, status, size, modified, row_sha256 = row
            yield image, status, FileState(int(size), int(modified)), "", row_sha256
        else:
            image, status, size, modified, changed, inode, sha256, row_sha256 = row
            yield image, status, FileState(int(size), int(modified), int(changed), int(inode)), sha256, row_sha256


def _reason(row: Mapping[str, str], image: str) -> str:
    if row.get("image") != image:
        raise ValueError(f"{image} does not stand in {REJECTED_FILE}")
    return row["reason"]


class _NoRows:
    """Stands for the rows of a table whose files are gone."""

    def close(self) -> None:
        pass

    def row(self, _number: int, _image: str) -> None:
        return None


def _open_rows(folder: Path, columns: Columns) -> RowSource:
    for name in FORMATS:
        with suppress(OSError, ValueError):
            return open_table(name, folder, columns)
    return _NoRows()


def write_blocks(folder: Path, start: int, blocks: Sequence[Names]) -> None:
    """Leave the names that each process but the first is to encode."""
    for rank, block in enumerate(blocks, start=1):
        files.write_bytes(_block_file(folder, start, rank), b"\0".join(block.iter_bytes()))


def read_block(folder: Path, start: int, rank: int) -> Names:
    """The names that a process is to encode."""
    try:
        data = _block_file(folder, start, rank).read_bytes()
    except OSError as error:
        raise ExtractionError(f"{folder} is not the same folder for every process: it has to be shared") from error
    return Names(data.split(b"\0") if data else [])


def _block_file(folder: Path, start: int, rank: int) -> Path:
    return folder / _UNFINISHED / f"block-{start:06}-{rank:06}.names"


def free_bytes(folder: Path) -> int:
    """What the disk of a folder has left."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
