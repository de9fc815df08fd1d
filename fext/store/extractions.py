"""The folder of an extraction: going on, doing what is new and putting the table together are one thing.

What has been done is a number of runs, each sorted by name: the finished table, where there is one, and the parts that
processes have written since. For each image found now the newest run that knows it counts. Where that speaks of the
file as it still is, the row is kept; all else is encoded into a new part. Then the runs are merged into a new table,
which takes the place of the old one when all of it is on the disk.
"""

import csv
import shutil
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fext.data.images import FileState, file_state
from fext.data.names import Names, readable
from fext.data.source import ImageSource
from fext.errors import ExtractionError, FextError
from fext.store import files
from fext.store.parts import (
    NOT_FINITE,
    REJECTED,
    WRITTEN,
    Done,
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
IMAGES_COLUMNS = ("image", "status", "size", "modified", "row_sha256")
_UNFINISHED, _DESCRIPTION, _DRAFT, _READY = "unfinished", "extraction.json", "draft", "ready"

FORMAT_VERSION = 2

Description = dict[str, Any]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Checkpoint(_Part):
    name: str
    sha256: str
    folder: str


class _ComputedBy(_Part):
    device: str
    precision: Literal["float32", "bfloat16", "float16"]
    convolutions: Literal["direct", "winograd"] = "direct"  # the first extractions say nothing of it
    engine: Literal["torch", "openvino"]
    engine_version: str
    decoders: str
    batch_shape: Annotated[list[Positive], Field(min_length=4, max_length=4)]


class _Described(_Part):
    """What a description must hold to be relied on; somebody may have edited it."""

    format_version: Literal[2]
    checkpoint: _Checkpoint
    source: str
    feature_grid: Literal[8, 4, 2, 1]
    feature_stages: Literal["last", "all"] = "last"  # the first extractions say nothing of it
    num_features: Positive
    reconstruction_error: bool
    computed_by: _ComputedBy


class _Counts(_Part):
    found: Count
    written: Count
    rejected: Count


class _Manifest(_Described):
    formats: Annotated[list[Literal["csv", "npy", "parquet"]], Field(min_length=1)]
    counts: _Counts


@dataclass(frozen=True)
class Plan:
    """What is to be done: positions in the names found, and how the images stand to what was done before."""

    todo: "array[int]"
    num_kept: int
    num_new: int
    num_changed: int
    num_tried_again: int
    num_removed: int

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to encode and no row to remove: what stands there holds."""
        return not self.todo and not self.num_removed


@dataclass
class Merged:
    """What came of merging the runs: counts, or the images whose rows turned out to be damaged.

    Of the rejected, num_not_finite are so for their features.
    """

    num_written: int = 0
    num_rejected: int = 0
    num_not_finite: int = 0
    damaged: list[str] = field(default_factory=list)


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


def begin(folder: Path, description: Description) -> int:
    """Make a folder ready for work; returns the number of this start.

    What an earlier start had ready is put in place first. Raises ExtractionError where the disk cannot be written.
    """
    try:
        _put_in_place(folder)
        if not folder.exists():
            with files.new_folder(folder) as draft:
                (draft / _UNFINISHED).mkdir()
                files.write_json(draft / _UNFINISHED / _DESCRIPTION, description)
        elif has_nothing(folder) or not (folder / _UNFINISHED / _DESCRIPTION).is_file():
            files.write_json(folder / _UNFINISHED / _DESCRIPTION, description)
        return next_start(folder / _UNFINISHED)
    except OSError as error:
        raise ExtractionError(f"{folder} cannot be written: {error.strerror or error}") from error


def parts_folder(folder: Path) -> Path:
    """Where the parts are written."""
    return folder / _UNFINISHED


def plan_work(folder: Path, source: ImageSource, columns: Columns) -> Plan:
    """Compare the images found with what is done; the state of a file is looked at where something is known of it."""
    todo = array("Q")
    kept = new = changed = tried_again = removed = 0
    for position, done in _matched(source.names, folder, columns):
        if position is None:
            removed += done is not None and done.record.lasts
        elif done is None:
            new += 1
            todo.append(position)
        elif not done.record.lasts:
            tried_again += 1
            todo.append(position)
        elif file_state(source.path(done.record.image)) != done.record.state:
            changed += 1
            todo.append(position)
        else:
            kept += 1
    return Plan(todo, kept, new, changed, tried_again, removed)


def is_whole(folder: Path, columns: Columns, formats: Iterable[str], num_found: int) -> bool:
    """Whether there is a finished table of so many images in each of the formats, and nothing begun."""
    if not is_finished(folder) or read_manifest(folder)["counts"]["found"] != num_found:
        return False
    wanted = {file for name in formats for file in table_files(name, columns)}
    nothing_begun = not find_parts(folder / _UNFINISHED)
    return nothing_begun and all((folder / file).is_file() for file in wanted)


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
    """Put the table together from everything that is done, and put it in place.

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
            images((record.image, record.status, *record.state, record.row_sha256))
            if record.status == REJECTED:
                merged.num_rejected += 1
                merged.num_not_finite += record.reason == NOT_FINITE
                rejected((record.image, record.reason))
            elif (row := done.row()) is None:
                merged.damaged.append(record.image)
            else:
                merged.num_written += 1
                for table in tables:
                    table.add(record.image, row)
            advance(1)
    return merged


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
    table = [read_table(folder, columns)] if is_finished(folder) else []
    parts = folder / _UNFINISHED
    return table + [read_part(parts, start, rank, columns.num_values) for start, rank in find_parts(parts)]


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
            for row in csv.DictReader(images, strict=True):
                state = FileState(int(row["size"]), int(row["modified"]))
                reason = ""
                if row["status"] == REJECTED:
                    reason = _reason(next(reasons, {}), row["image"])
                elif row["status"] != WRITTEN:
                    raise ValueError(f"an image is written or rejected, not {row['status']!r}")
                yield Record(row["image"], row["status"], state, row["row_sha256"], reason)
            if next(reasons, None) is not None:
                raise ValueError(f"{REJECTED_FILE} has more images")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ExtractionError(
            f"{folder / IMAGES_FILE} or {REJECTED_FILE} is damaged ({error}): extract under another name"
        ) from error


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
