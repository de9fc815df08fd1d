"""Indexes kept beside an extraction, with the checksums of the rows they were made of, and how these were normalized.

Of an index there are three files: FAISS's own, the checksums, and a JSON that comes last and has the checksums of the
two, and of the normalization of the rows. A file that is not what was written is never given to FAISS.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fext.compute.normalization import Normalization, normalization_from
from fext.compute.vector_index import Metric, VectorIndex, faiss_version
from fext.errors import FextError, is_out_of_memory
from fext.store import files
from fext.store.tensors import tensors_from_bytes, tensors_to_bytes

FOLDER = "index"
_BLOCK = 2**20
CHECKSUM_BYTES = 32
NO_ROW = bytes(CHECKSUM_BYTES)


@dataclass
class KeptIndex:
    """An index, the SHA-256 of the row of each of its ids (N,), how many rows an approximate one learned for, and which
    share of the ten nearest it then found."""

    index: VectorIndex
    checksums: NDArray[np.bytes_]
    num_learned_for: int = 0
    recall: float | None = None


@dataclass(frozen=True)
class KeptNormalization:
    """A normalization, the first 8 bytes of the SHA-256 of each row (M,) that it was learned from, and of how many rows
    these were a part; `sha256` is that of its file."""

    normalization: Normalization
    learned_from: NDArray[np.int64]
    num_rows: int
    sha256: str = ""


class _Description(BaseModel):
    model_config = ConfigDict(strict=True)

    format_version: Literal[1]
    made_by: str
    metric: Literal["cosine", "euclidean"]
    grid: int
    num_values: int
    num_rows: int
    num_learned_for: int
    recall: float | None
    normalization_sha256: str | None = None  # of rows as they are, and of the first indexes
    index_sha256: str
    rows_sha256: str


class _NormalizationDescription(BaseModel):
    model_config = ConfigDict(strict=True)

    format_version: Literal[2]  # the first ones had no mean over the grid
    num_rows: int
    sha256: str


def index_files(folder: Path, metric: Metric, grid: int, *, normalized: bool = False) -> tuple[Path, Path, Path]:
    """The index, the checksums of its rows and the description, of an extraction in a folder."""
    name = f"{metric}_grid_{grid}{'_normalized' if normalized else ''}"
    return tuple(folder / FOLDER / f"{name}{ending}" for ending in (".faiss", ".rows", ".json"))  # type: ignore[return-value]


def normalization_files(folder: Path, grid: int) -> tuple[Path, Path]:
    """The normalization of the rows of an extraction in a folder, and its description."""
    return (
        folder / FOLDER / f"normalization_grid_{grid}.safetensors",
        folder / FOLDER / f"normalization_grid_{grid}.json",
    )


def load_index(
    folder: Path, metric: Metric, grid: int, num_values: int, normalization: KeptNormalization | None
) -> KeptIndex | None:
    """The index that is kept of rows so normalized; None where there is none for this version of FAISS.

    Raises ValueError where there is one that cannot be relied on.
    """
    index_file, rows_file, description_file = index_files(folder, metric, grid, normalized=normalization is not None)
    if not description_file.is_file():
        return None
    try:
        described = _Description.model_validate(files.read_json(description_file))
        if described.made_by != faiss_version():
            return None
        if described.normalization_sha256 != (None if normalization is None else normalization.sha256):
            return None
        if (_checksum(index_file), _checksum(rows_file)) != (described.index_sha256, described.rows_sha256):
            raise ValueError("a file is not what was written")
        with index_file.open("rb") as stream:
            index = VectorIndex.read(stream.read)
        checksums = np.frombuffer(rows_file.read_bytes(), f"S{CHECKSUM_BYTES}")
    except (OSError, FextError, ValidationError) as error:
        raise ValueError(str(error)) from error
    num_rows = int((checksums != b"").sum())
    expected = (metric, grid, num_values, num_rows)
    if (described.metric, described.grid, described.num_values, described.num_rows) != expected or (
        (index.metric, index.num_values, len(index)) != (metric, num_values, num_rows)
    ):
        raise ValueError("it is of other rows")
    return KeptIndex(index, checksums, described.num_learned_for, described.recall)


def save_index(
    folder: Path, metric: Metric, grid: int, kept: KeptIndex, normalization: KeptNormalization | None
) -> None:
    """Keep an index in place of the one before; raises FextError where the disk is full."""
    index_file, rows_file, description_file = index_files(folder, metric, grid, normalized=normalization is not None)
    digests: dict[Path, str] = {}

    def hashed(path: Path, write: Callable[["_Hashing"], object]) -> Callable[[IO[bytes]], None]:
        def write_and_hash(stream: IO[bytes]) -> None:
            hashing = _Hashing(stream)
            write(hashing)
            digests[path] = hashing.sha256.hexdigest()

        return write_and_hash

    def describe(stream: IO[bytes]) -> None:
        described = _Description(
            format_version=1,
            made_by=faiss_version(),
            metric=metric,
            grid=grid,
            num_values=kept.index.num_values,
            num_rows=len(kept.index),
            num_learned_for=kept.num_learned_for,
            recall=kept.recall,
            normalization_sha256=None if normalization is None else normalization.sha256,
            index_sha256=digests[index_file],
            rows_sha256=digests[rows_file],
        )
        stream.write(files.json_text(described.model_dump()).encode())

    files.write_together(
        [
            (index_file, hashed(index_file, kept.index.write)),
            (rows_file, hashed(rows_file, lambda stream: stream.write(kept.checksums.tobytes()))),
            (description_file, describe),
        ]
    )


def forget_index(folder: Path, metric: Metric, grid: int, *, normalized: bool) -> None:
    """Remove what is kept of an index, as far as that can be done."""
    _remove(index_files(folder, metric, grid, normalized=normalized))


def load_normalization(folder: Path, grid: int, num_values: int) -> KeptNormalization | None:
    """The normalization that is kept of rows (D,); None where there is none.

    Raises ValueError where there is one that cannot be relied on.
    """
    file, description_file = normalization_files(folder, grid)
    if not description_file.is_file():
        return None
    try:
        described = _NormalizationDescription.model_validate(files.read_json(description_file))
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != described.sha256:
            raise ValueError("a file is not what was written")
        tensors = tensors_from_bytes(data)
        normalization, learned_from = normalization_from(tensors), tensors["learned_from"].numpy()
    except Exception as error:  # safetensors raises many kinds
        if is_out_of_memory(error):
            raise
        raise ValueError(str(error)) from error
    if normalization.row_length != num_values:
        raise ValueError("it is of other rows")
    return KeptNormalization(normalization, learned_from, described.num_rows, described.sha256)


def save_normalization(folder: Path, grid: int, kept: KeptNormalization) -> KeptNormalization:
    """Keep a normalization in place of the one before, and give it with its checksum; raises FextError where the disk
    is full."""
    file, description_file = normalization_files(folder, grid)
    data = tensors_to_bytes(kept.normalization.tensors() | {"learned_from": torch.from_numpy(kept.learned_from)})
    sha256 = hashlib.sha256(data).hexdigest()
    described = _NormalizationDescription(format_version=2, num_rows=kept.num_rows, sha256=sha256)
    text = files.json_text(described.model_dump()).encode()
    files.write_together(
        [(file, lambda stream: stream.write(data)), (description_file, lambda stream: stream.write(text))]
    )
    return KeptNormalization(kept.normalization, kept.learned_from, kept.num_rows, sha256)


def forget_normalization(folder: Path, grid: int) -> None:
    """Remove what is kept of a normalization, as far as that can be done, and the indexes of rows so normalized."""
    _remove(normalization_files(folder, grid))
    for metric in get_args(Metric):
        forget_index(folder, metric, grid, normalized=True)


def _remove(paths: Sequence[Path]) -> None:
    for path in reversed(paths):
        with suppress(OSError):
            path.unlink(missing_ok=True)


class _Hashing:
    """Passes on what is written, and takes its SHA-256."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._stream.write(data)


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
