"""Indexes kept beside an extraction, with the checksums of the rows that they were made of.

Of one there are three files: FAISS's own, the checksums, and a JSON that comes last and has the checksums of the two. A
file that is not what was written is never given to FAISS.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fext.compute.vector_index import Metric, VectorIndex, faiss_version
from fext.errors import FextError
from fext.store import files

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
    index_sha256: str
    rows_sha256: str


def index_files(folder: Path, metric: Metric, grid: int) -> tuple[Path, Path, Path]:
    """The index, the checksums of its rows and the description, of an extraction in a folder."""
    name = f"{metric}_grid_{grid}"
    return tuple(folder / FOLDER / f"{name}{ending}" for ending in (".faiss", ".rows", ".json"))  # type: ignore[return-value]


def load_index(folder: Path, metric: Metric, grid: int, num_values: int) -> KeptIndex | None:
    """The index that is kept; None where there is none for this version of FAISS.

    Raises ValueError where there is one that cannot be relied on.
    """
    index_file, rows_file, description_file = index_files(folder, metric, grid)
    if not description_file.is_file():
        return None
    try:
        described = _Description.model_validate(files.read_json(description_file))
        if described.made_by != faiss_version():
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


def save_index(folder: Path, metric: Metric, grid: int, kept: KeptIndex) -> None:
    """Keep an index in place of the one before; raises FextError where the disk is full."""
    index_file, rows_file, description_file = index_files(folder, metric, grid)
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


def forget_index(folder: Path, metric: Metric, grid: int) -> None:
    """Remove what is kept of an index, as far as that can be done."""
    for path in reversed(index_files(folder, metric, grid)):
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
