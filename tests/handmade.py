"""Extractions made by hand: rows that are chosen, and an image file for each."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fext.data.images import file_state
from fext.store import files
from fext.store.extractions import IMAGES_COLUMNS
from fext.store.parts import row_checksum
from fext.store.tables import Columns, make_writer
from fext.store.workspace import Workspace


def write_table(space: Workspace, rows: Mapping[str, Sequence[float]]) -> Path:
    """A finished extraction 'table' of data/images; names go to features. Each image has a colour of its own."""
    folder = space.inference / "table"
    folder.mkdir(parents=True)
    records = []
    num_features = len(next(iter(rows.values()), [0]))
    writer = make_writer("npy", folder, Columns(num_features, False))
    writer.begin()
    for number, name in enumerate(sorted(rows)):
        path = space.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 37 % 256, number * 91 % 256, 120)).save(path, "PNG")
        row = np.array(rows[name], np.float32)
        records.append((name, "written", *file_state(path), row_checksum(row)))
        writer.add(name, row)
    writer.close()
    files.write_csv(folder / "images.csv", IMAGES_COLUMNS, records)
    files.write_csv(folder / "rejected.csv", ("image", "reason"), [])
    files.write_json(folder / "manifest.json", _manifest(space.images, num_features, len(rows)))
    return folder


def _manifest(source: Path, num_features: int, count: int) -> dict[str, object]:
    return {
        "format_version": 2,
        "checkpoint": {"name": "model", "sha256": "0", "folder": "nowhere"},
        "source": str(source),
        "feature_grid": 1,
        "num_features": num_features,
        "reconstruction_error": False,
        "computed_by": {
            "device": "CPU",
            "precision": "float32",
            "engine": "torch",
            "engine_version": "",
            "decoders": "",
            "batch_shape": [1, 3, 32, 32],
        },
        "formats": ["npy"],
        "counts": {"found": count, "written": count, "rejected": 0},
    }


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
