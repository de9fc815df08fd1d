"""The formats of a table of features: a writer and a reader of rows for each.

A writer takes rows in sorted order of images and holds no more than a group of them; a reader gives them back to the
bit. What a table holds is decided elsewhere.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import orjson

from fext.data.names import name_from_bytes, name_to_bytes
from fext.store import files
from fext.store.parts import PlainRows, Row, RowSource

if TYPE_CHECKING:
    import pyarrow

FEATURES_CSV, FEATURES_PARQUET, FEATURES_NPY = "features.csv", "features.parquet", "features.npy"
NAMES_FILE, ERRORS_NPY = "features_names.csv", "reconstruction_error.npy"
FORMATS = ("npy", "parquet", "csv")  # the quickest to read first
ERROR_COLUMN = "reconstruction_error"
_ROW_GROUP_BYTES = 8 * 2**20
_MAX_NAME_BYTES = 2**18  # no name is longer, quoted and with line ends; a stray quote does not swallow a table
_CSV_NAME = re.compile(rb'(?:"((?:[^"]|"")*)"|([^",\r\n]*)),')


@dataclass(frozen=True)
class Columns:
    """What a row holds: features and, where has_error, the error of the reconstruction behind them."""

    num_features: int
    has_error: bool

    @property
    def num_values(self) -> int:
        """The length of a row."""
        return self.num_features + self.has_error


class TableWriter(Protocol):
    """Writes one table: `begin` comes first, `close` completes it on the disk, `abandon` lets go of what is open."""

    def begin(self) -> None:
        """Write what comes before the rows."""

    def add(self, image: str, row: Row) -> None:
        """Write the row of an image, which comes behind the one before by the bytes of its name."""

    def close(self) -> None:
        """Write what comes behind the rows; the files are whole and on the disk afterwards."""

    def abandon(self) -> None:
        """Let go of files that are not to be completed; raises nothing."""


def make_writer(name: str, folder: Path, columns: Columns) -> TableWriter:
    """The writer of a format, for a new table in a folder."""
    writers: dict[str, Callable[[Path, Columns], TableWriter]] = {
        "csv": CsvWriter,
        "parquet": ParquetWriter,
        "npy": NpyWriter,
    }
    return writers[name](folder, columns)


def table_files(name: str, columns: Columns) -> tuple[str, ...]:
    """The files that a table in a format consists of; the first holds the features."""
    npy = (FEATURES_NPY, NAMES_FILE, *[ERRORS_NPY] * columns.has_error)
    return {"csv": (FEATURES_CSV,), "parquet": (FEATURES_PARQUET,), "npy": npy}[name]


def open_table(name: str, folder: Path, columns: Columns) -> RowSource:
    """The rows of a table in a format; raises OSError or ValueError where it is not there or not what it should be."""
    readers: dict[str, Callable[[Path, Columns], RowSource]] = {"csv": CsvRows, "parquet": ParquetRows, "npy": NpyRows}
    return readers[name](folder / table_files(name, columns)[0], columns)


def read_rows(name: str, folder: Path, columns: Columns) -> Iterator[tuple[str, Row | None]]:
    """(image, row) of a table as it stands; no row where it is not written as it should be.

    Raises OSError or ValueError where the table is not there or not what it should be.
    """
    readers = {"csv": _read_csv, "parquet": _read_parquet, "npy": _read_npy}
    return readers[name](folder, columns)


class CsvWriter:
    """features.csv: a header, then one row per image."""

    def __init__(self, folder: Path, columns: Columns) -> None:
        self._columns = columns
        self._stream = (folder / FEATURES_CSV).open("wb")

    def begin(self) -> None:
        """Write the header."""
        self._stream.write(csv_header(self._columns))

    def add(self, image: str, row: Row) -> None:
        """Write a line."""
        self._stream.write(csv_row(image, row))

    def close(self) -> None:
        """Bring the file onto the disk."""
        files.close_on_disk(self._stream)

    def abandon(self) -> None:
        """Let go of the file as it stands."""
        files.let_go(self._stream)


def csv_header(columns: Columns) -> bytes:
    """The first line of features.csv."""
    names = ["image", *(f"feature_{number}" for number in range(columns.num_features))]
    return (",".join(names + [ERROR_COLUMN] * columns.has_error) + "\n").encode()


def csv_row(image: str, row: Row) -> bytes:
    """One row of features.csv.

    orjson prints each float32 in its shortest form that reads back to the same bits, some forty times as fast as
    Python; it prints what is not finite as null, which is why such features must have been rejected before.
    """
    values = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    name = files.csv_line([image]).encode()
    return name[:-1] + b"," + values[1:-1] + b"\n"


class CsvRows:
    """Reads features.csv row by row."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._columns = columns
        self._stream = path.open("rb")
        if self._stream.readline() != csv_header(columns):
            self._stream.close()
            raise ValueError(f"{path} has another header")
        self.lines = csv_lines(self._stream)
        self._line = b""
        self._name: bytes | None = b""

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def row(self, number: int, image: str) -> Row | None:
        """The row of an image; rows before it are passed over by their names, so that a lost one costs no other."""
        wanted = name_to_bytes(image)
        while self._name is not None and self._name < wanted:
            self._line = next(self.lines, b"")
            match = _CSV_NAME.match(self._line)
            self._name = csv_name(match) if match else (wanted if self._line else None)
        if self._name != wanted or (match := _CSV_NAME.match(self._line)) is None:
            return None
        return parse_csv_values(self._line[match.end() :], self._columns)


def csv_lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """The rows of a CSV as they stand: lines, and more than one where a quoted name holds a line end."""
    for line in stream:
        row, goes_on = line, line.startswith(b'"') and line.count(b'"') % 2
        while goes_on and len(row) < _MAX_NAME_BYTES and (following := stream.readline()):
            row += following
            goes_on = following.count(b'"') % 2 == 0
        yield row


def csv_name(match: re.Match[bytes]) -> bytes:
    """The name that a row begins with."""
    quoted, plain = match.groups()
    return bytes(plain if quoted is None else quoted.replace(b'""', b'"'))


def _read_csv(folder: Path, columns: Columns) -> Iterator[tuple[str, Row | None]]:
    with closing(CsvRows(folder / FEATURES_CSV, columns)) as table:
        for line in table.lines:
            match = _CSV_NAME.match(line)
            if match is None:
                raise ValueError("a row has no name")
            image = name_from_bytes(csv_name(match))
            row = parse_csv_values(line[match.end() :], columns)
            # Another digit may stand for the same float32: what counts is the text.
            yield image, row if row is not None and csv_row(image, row) == line else None


def parse_csv_values(text: bytes, columns: Columns) -> Row | None:
    """The values of a row of features.csv behind its name; None where they are not as many numbers as there should be.

    A number is read in double precision first; a shortest float32 then rounds to the float32 that was printed.
    """
    with suppress(ValueError, TypeError, OverflowError):
        row = np.array(orjson.loads(b"[" + text.rstrip(b"\n") + b"]"), dtype=np.float32)
        if row.shape == (columns.num_values,):
            return row
    return None


class NpyWriter:
    """features.npy: float32 (rows, features), to be mapped into memory; beside it each row's image, and its error."""

    def __init__(self, folder: Path, columns: Columns) -> None:
        self._names = (folder / NAMES_FILE).open("wb")
        self._features = _PlainWriter(folder / FEATURES_NPY, (columns.num_features,))
        self._errors = _PlainWriter(folder / ERRORS_NPY, ()) if columns.has_error else None

    def begin(self) -> None:
        """Write the header of each file, for no rows as yet."""
        self._names.write(b"image\n")
        self._features.begin()
        if self._errors is not None:
            self._errors.begin()

    def add(self, image: str, row: Row) -> None:
        """Write the name, the features and the error to their files."""
        self._names.write(files.csv_line([image]).encode())
        if self._errors is not None:
            row, error = row[:-1], row[-1:]
            self._errors.add(error)
        self._features.add(row)

    def close(self) -> None:
        """Write the number of rows into the headers, and bring the files onto the disk."""
        self._features.close()
        if self._errors is not None:
            self._errors.close()
        files.close_on_disk(self._names)

    def abandon(self) -> None:
        """Let go of the files as they stand."""
        self._features.abandon()
        if self._errors is not None:
            self._errors.abandon()
        files.let_go(self._names)


class _PlainWriter:
    """One .npy file of float32 whose first dimension grows."""

    def __init__(self, path: Path, row_shape: tuple[int, ...]) -> None:
        self._stream = path.open("wb")
        self._row_shape = row_shape
        self._num_rows = 0

    def begin(self) -> None:
        self._write_header()

    def add(self, row: Row) -> None:
        self._num_rows += 1
        self._stream.write(row.astype("<f4", copy=False).tobytes())

    def close(self) -> None:
        self._stream.seek(0)
        self._write_header()
        files.close_on_disk(self._stream)

    def abandon(self) -> None:
        files.let_go(self._stream)

    def _write_header(self) -> None:
        """NumPy leaves room in the header for the number of rows to grow in place."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._num_rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._stream, header)


class NpyRows:
    """Reads features.npy, and the errors beside it, row by row."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._features, num_rows = _plain_rows(path, (columns.num_features,))
        self._errors = None
        self.numbers_of_rows = {num_rows}
        if columns.has_error:
            self._errors, num_errors = _plain_rows(path.with_name(ERRORS_NPY), ())
            self.numbers_of_rows.add(num_errors)

    def close(self) -> None:
        """Let go of the files."""
        self._features.close()
        if self._errors is not None:
            self._errors.close()

    def row(self, number: int, image: str) -> Row | None:
        """Features, and the error behind them, of that number; None where a file ends before they do."""
        features = self._features.row(number, image)
        if features is None or self._errors is None:
            return features
        error = self._errors.row(number, image)
        return None if error is None else np.concatenate([features, error])


def _read_npy(folder: Path, columns: Columns) -> Iterator[tuple[str, Row | None]]:
    with (
        closing(NpyRows(folder / FEATURES_NPY, columns)) as table,
        (folder / NAMES_FILE).open(encoding="utf-8", newline="") as names,
    ):
        number = -1
        for number, image in enumerate(_named(csv.DictReader(names, strict=True))):
            yield image, table.row(number, image)
        if {number + 1} != table.numbers_of_rows:
            raise ValueError(f"{NAMES_FILE} has {number + 1} images, and the arrays have another number of rows")


def _named(rows: Iterator[dict[str, str]]) -> Iterator[str]:
    try:
        for row in rows:
            yield row["image"]
    except (csv.Error, KeyError, TypeError) as error:
        raise ValueError(f"{NAMES_FILE} is damaged ({error})") from error


def _plain_rows(path: Path, row_shape: tuple[int, ...]) -> tuple[PlainRows, int]:
    with path.open("rb") as stream:
        try:
            np.lib.format.read_magic(stream)
            shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        except OSError:
            raise
        except Exception as error:  # NumPy parses the header as Python, and raises many kinds on a damaged one
            raise ValueError(f"{path} has another header") from error
        header_bytes = stream.tell()
    if shape[1:] != row_shape or in_fortran_order or dtype != np.dtype("<f4"):
        raise ValueError(f"{path} has another shape")
    return PlainRows(path, math.prod(row_shape), header_bytes), shape[0]


class ParquetWriter:
    """features.parquet: image, features (one list of fixed size), and the error where there is one.

    The bytes of the floats are stored apart by significance (BYTE_STREAM_SPLIT), which Zstandard then compresses best.
    """

    def __init__(self, folder: Path, columns: Columns) -> None:
        self._columns = columns
        self._schema = parquet_schema(columns)
        self._group_size = max(1, _ROW_GROUP_BYTES // (4 * columns.num_values))
        self._names: list[str] = []
        self._rows = np.empty((self._group_size, columns.num_values), dtype=np.float32)
        self._stream = (folder / FEATURES_PARQUET).open("wb")

    def begin(self) -> None:
        """Write the start of the file."""
        import pyarrow.parquet

        self._writer = pyarrow.parquet.ParquetWriter(
            self._stream,
            self._schema,
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=["features.list.element"],
            write_statistics=False,
        )

    def add(self, image: str, row: Row) -> None:
        """Keep a row; with the last one of a group the group is written."""
        self._rows[len(self._names)] = row
        self._names.append(image)
        if len(self._names) == self._group_size:
            self._write_group()

    def close(self) -> None:
        """Write the last group and the end of the file, and bring it onto the disk."""
        if self._names:
            self._write_group()
        self._writer.close()
        files.close_on_disk(self._stream)

    def abandon(self) -> None:
        """Let go of the file as it stands."""
        with suppress(Exception):  # it wants to write its end, which may be what cannot be written
            self._writer.close()
        files.let_go(self._stream)

    def _write_group(self) -> None:
        import pyarrow

        rows = self._rows[: len(self._names)]
        flat = np.ascontiguousarray(rows[:, : self._columns.num_features]).reshape(-1)
        arrays = [
            pyarrow.array(self._names, pyarrow.string()),
            pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), self._columns.num_features),
        ]
        if self._columns.has_error:
            arrays.append(pyarrow.array(np.ascontiguousarray(rows[:, -1])))
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema), row_group_size=self._group_size)
        self._names.clear()


def parquet_schema(columns: Columns) -> "pyarrow.Schema":
    """The columns of features.parquet."""
    import pyarrow

    fields = [
        pyarrow.field("image", pyarrow.string()),
        pyarrow.field("features", pyarrow.list_(pyarrow.float32(), columns.num_features)),
    ]
    return pyarrow.schema(fields + [pyarrow.field(ERROR_COLUMN, pyarrow.float32())] * columns.has_error)


class ParquetRows:
    """Reads features.parquet a few rows at a time."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import pyarrow.parquet

        self._columns = columns
        self._file = pyarrow.parquet.ParquetFile(path)
        if not self._file.schema_arrow.equals(parquet_schema(columns)):
            self._file.close()
            raise ValueError(f"{path} has other columns")
        self.rows = self._read()
        self._current: tuple[str, Row] | None = ("", np.empty(0, dtype=np.float32))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def row(self, number: int, image: str) -> Row | None:
        """The row of an image; rows before it are passed over by their names."""
        wanted = name_to_bytes(image)
        while self._current is not None and name_to_bytes(self._current[0]) < wanted:
            self._current = self._next()
        return self._current[1] if self._current is not None and self._current[0] == image else None

    def _next(self) -> tuple[str, Row] | None:
        """The row that follows; none from a group on that is damaged."""
        try:
            return next(self.rows, None)
        except (OSError, ValueError):
            self.rows = iter(())
            return None

    def _read(self) -> Iterator[tuple[str, Row]]:
        for batch in self._file.iter_batches(batch_size=max(1, _ROW_GROUP_BYTES // (16 * self._columns.num_values))):
            names = batch.column("image").to_pylist()
            rows = batch.column("features").flatten().to_numpy().reshape(len(names), -1)
            if self._columns.has_error:
                rows = np.concatenate([rows, batch.column(ERROR_COLUMN).to_numpy()[:, None]], axis=1)
            yield from zip(names, rows, strict=True)


def _read_parquet(folder: Path, columns: Columns) -> Iterator[tuple[str, Row | None]]:
    with closing(ParquetRows(folder / FEATURES_PARQUET, columns)) as table:
        yield from table.rows
