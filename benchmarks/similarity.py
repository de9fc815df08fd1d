"""The index by which similar images are found, on as many rows as are asked for: time, recall, memory.

Rows are made of the features of an extraction, averaged to one position, again and again with a little noise, and are
never all in memory here. Prints one JSON line; the peak is that of the whole process. An answer is one query at a time,
after the index was written and read again; recall at 10 is against comparing with every row.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fext.compute.vector_index import Probes, faiss_version, set_num_threads
from fext.jobs.features import averaged
from fext.jobs.indexing import Row, in_blocks, make_index
from fext.reporting import SilentReporter
from fext.settings import load_settings
from fext.store import extractions
from fext.store.kept_indexes import KeptIndex, index_files, load_index, save_index
from fext.store.tables import Columns

NUM_QUERIES, NUM_NEAREST = 200, 10
ROWS_PER_SEED = 1000


class NoisyRows:
    """Real rows repeated with noise, made anew each time they are asked for."""

    def __init__(self, features: NDArray[np.float32], noise: float) -> None:
        self.features, self.deviation = features, noise * float(features.std())

    def at(self, places: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        for number in np.unique(places // ROWS_PER_SEED).tolist():
            shape = ROWS_PER_SEED, self.features.shape[1]
            noise = np.random.default_rng([1, number]).standard_normal(shape, np.float32)
            for place in places[places // ROWS_PER_SEED == number].tolist():
                clean = self.features[place % len(self.features)]
                yield place, clean + np.float32(self.deviation) * noise[place % ROWS_PER_SEED]


def read_features(folder: Path) -> NDArray[np.float32]:
    """The rows of an extraction averaged to one position."""
    manifest = extractions.read_finished(folder)
    columns, grid = Columns(manifest["num_features"], manifest["reconstruction_error"]), manifest["feature_grid"]
    rows = (done.row() for done in extractions.read_table(folder, columns))
    return np.stack([averaged(row[: columns.num_features], grid, 1) for row in rows if row is not None])


def measure(rows: NoisyRows, num_rows: int, folder: Path) -> dict[str, object]:
    num_values = rows.features.shape[1]
    began = time.perf_counter()
    index, recall_told = make_index(num_rows, num_values, "cosine", rows.at, SilentReporter())
    building = time.perf_counter() - began
    checksums = np.full(num_rows, b"\xff" * 32)
    save_index(folder, "cosine", 1, KeptIndex(index, checksums, num_rows, recall_told), None)
    del index
    began = time.perf_counter()
    kept = load_index(folder, "cosine", 1, num_values, None)
    reading = time.perf_counter() - began
    assert kept is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    some = np.linspace(0, num_rows - 1, NUM_QUERIES).astype(np.int64) // 7 * 7 % num_rows
    some = np.unique(some)
    queries = np.stack([row for _, row in rows.at(some)])
    kept.index.search(queries[:1], NUM_NEAREST)
    milliseconds = []
    for query in queries:
        began = time.perf_counter()
        kept.index.search(query[None], NUM_NEAREST)
        milliseconds.append(1000 * (time.perf_counter() - began))
    probes = Probes(some, queries, NUM_NEAREST, "cosine")
    for ids, block in in_blocks(rows.at(np.arange(num_rows)), num_values):
        probes.see(ids, block)
    return {
        "rows": num_rows,
        "values": num_values,
        "approximate": not kept.index.is_exact,
        "build_seconds": round(building, 1),
        "read_seconds": round(reading, 2),
        "query_ms_median": round(float(np.median(milliseconds)), 2),
        "query_ms_worst": round(max(milliseconds), 2),
        "recall_at_10": round(probes.recall(kept.index), 4),
        "recall_told": recall_told,
        "index_mb": round(index_files(folder, "cosine", 1)[0].stat().st_size / 1e6),
        "peak_mb": round(peak / 1e6),
        "made_by": faiss_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extraction", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--noise", type=float, default=0.1, help="in standard deviations of the features")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    words = parser.parse_args()
    set_num_threads(load_settings(Path("configurations.py"), words.overrides))
    rows = NoisyRows(read_features(words.extraction), words.noise)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(rows, words.rows, Path(name))))


if __name__ == "__main__":
    main()
