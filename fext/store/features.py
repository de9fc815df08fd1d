"""The table of features: streamed to the disk row by row in sorted order, moved into place when it is whole.

Every row's checksum stands in images.csv; the manifest is written last and says that the table is done.
"""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from fext.data.images import FileState
from fext.errors import ExtractionError
from fext.store import files


@dataclass(frozen=True)
class ImageRecord:
    """What images.csv says of one image: its status, its file when it was read, the checksum of its row."""

    image: str
    status: str  # written or rejected
    state: FileState
    row_sha256: str
    reason: str


class FeatureTable:
    """Writes features.csv, images.csv, rejected.csv and manifest.json of one extraction.

    `begin` comes first, and then the rows in sorted order of names. Use as a context manager: what was begun and not
    finished stays under its temporary names and is never taken for a whole table.
    """

    def __init__(self, folder: Path, num_features: int) -> None:
        self.folder = folder
        self._num_features = num_features
        self._partial = folder / "features.csv.partial"
        self._records: list[ImageRecord] = []
        try:
            folder.mkdir(parents=True)
            self._stream: IO[bytes] = self._partial.open("wb")
        except OSError as error:
            raise ExtractionError(f"{folder} cannot be written: {error.strerror}") from error

    def __enter__(self) -> "FeatureTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is still in the buffer of a full disk
            self._stream.close()

    def begin(self) -> None:
        """Write the header."""
        names = ["image", *(f"feature_{number}" for number in range(self._num_features))]
        self._write(",".join(names).encode() + b"\n")

    def add(self, image: str, features: NDArray[np.float32], state: FileState) -> None:
        """Write one row; `features` is a contiguous vector of finite float32."""
        assert features.shape == (self._num_features,)
        row = csv_row(image, features)
        self._write(row)
        self._records.append(ImageRecord(image, "written", state, hashlib.sha256(row).hexdigest(), ""))

    def reject(self, image: str, reason: str, state: FileState) -> None:
        """Record that an image has no row, and why."""
        self._records.append(ImageRecord(image, "rejected", state, "", reason))

    def finish(self) -> None:
        """Put the whole table in place, on the disk and under its own names; `certify` must follow."""
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._partial.replace(self.folder / "features.csv")
        except OSError as error:
            raise self._full(error) from error
        written = [(record.image, record.status, *record.state, record.row_sha256) for record in self._records]
        files.write_csv(self.folder / "images.csv", ("image", "status", "size", "modified", "row_sha256"), written)
        rejected = [(record.image, record.reason) for record in self._records if record.status == "rejected"]
        files.write_csv(self.folder / "rejected.csv", ("image", "reason"), rejected)

    def certify(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, which says that the table is whole and how it was made."""
        files.write_json(self.folder / "manifest.json", manifest)

    def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> ExtractionError:
        return ExtractionError(f"{self._partial} cannot be written: {error.strerror or error}")


def csv_row(image: str, features: NDArray[np.float32]) -> bytes:
    """One row of features.csv.

    orjson prints each float32 in its shortest form that reads back to the same bits, some forty times as fast as
    Python; it prints what is not finite as null, which is why such features must have been rejected before.
    """
    values = orjson.dumps(features, option=orjson.OPT_SERIALIZE_NUMPY)
    name = files.csv_line([image]).encode()
    return name[:-1] + b"," + values[1:-1] + b"\n"
