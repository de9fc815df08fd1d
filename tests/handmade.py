"""Extractions made by hand: rows that are chosen, with image files or without."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fext.data.images import FileState, checksum, file_state
from fext.store import files
from fext.store.extractions import IMAGES_COLUMNS
from fext.store.parts import row_checksum
from fext.store.tables import Columns, make_writer
from fext.store.workspace import Workspace


def write_table(space: Workspace, rows: Mapping[str, Sequence[float]]) -> Path:
    """A finished extraction 'table' of data/images. Each image has a colour of its own."""
    for number, name in enumerate(sorted(rows)):
        path = space.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 37 % 256, number * 91 % 256, 120)).save(path, "PNG")
    return write_extraction(space.inference / "table", space.images, rows)


def write_extraction(
    folder: Path,
    source: Path,
    rows: Mapping[str, Sequence[float] | None],
    formats: Sequence[str] = ("npy",),
    has_error: bool = False,
    **changes: object,
) -> Path:
    """A finished extraction of images in `source`, which need not be there; `changes` go into its manifest.

    Names go to features (and the reconstruction error behind them), those of damaged images to None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: np.array(row, np.float32) for name, row in sorted(rows.items()) if row is not None}
    num_features = len(next(iter(written.values()))) - has_error
    for kind in formats:
        writer = make_writer(kind, folder, Columns(num_features, has_error))
        writer.begin()
        for name, row in written.items():
            writer.add(name, row)
        writer.close()
    rejected = sorted(rows.keys() - written.keys())
    files.write_csv(folder / "images.csv", IMAGES_COLUMNS, [_record(source, name, written) for name in sorted(rows)])
    files.write_csv(folder / "rejected.csv", ("image", "reason"), [(name, "it was damaged") for name in rejected])
    manifest = {
        "format_version": 2,
        "checkpoint": {"name": "model", "sha256": "0", "folder": "nowhere"},
        "source": str(source),
        "feature_grid": 1,
        "num_features": num_features,
        "reconstruction_error": has_error,
        "computed_by": {
            "device": "CPU",
            "precision": "float32",
            "engine": "torch",
            "engine_version": "",
            "decoders": "",
            "batch_shape": [1, 3, 32, 32],
        },
        "formats": list(formats),
        "counts": {"found": len(rows), "written": len(written), "rejected": len(rejected)},
    }
    files.write_json(folder / "manifest.json", manifest | changes)
    return folder


def _record(source: Path, name: str, written: Mapping[str, NDArray[np.float32]]) -> tuple[object, ...]:
    """The line of an image in images.csv."""
    path = source / name
    state, sha256 = (file_state(path), checksum(path.read_bytes())) if path.exists() else (FileState(1, 1), "")
    row = ("written", row_checksum(written[name])) if name in written else ("rejected", "")
    return name, row[0], *state, sha256, row[1]


def blobs(per_blob: int = 12, folders: Sequence[str] = ("cats", "dogs", "owls")) -> dict[str, list[float]]:
    """Rows in well separated groups, one for each folder."""
    random = np.random.default_rng(5)
    centres = 10 * np.eye(len(folders), 8)
    return {
        f"{folder}/{number:02}.png": (centres[place] + random.normal(0, 0.3, 8)).tolist()
        for place, folder in enumerate(folders)
        for number in range(per_blob)
    }


def page_data(file: Path, name: str) -> Any:
    """What a script of a page finds under a name."""
    found = re.search(
        f'<script type="application/json" id="{name}">(.*?)</script>', file.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    return json.loads(found.group(1))
