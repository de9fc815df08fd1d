"""Rows of features as CSV text: FeXT's writer beside pandas, on the same real features; the bits must come back."""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fext.store.tables import Columns, CsvWriter


def write_with_fext(folder: Path, names: list[str], features: NDArray[np.float32]) -> Path:
    writer = CsvWriter(folder, Columns(features.shape[1], False))
    writer.begin()
    for name, row in zip(names, features, strict=True):
        writer.add(name, row)
    writer.close()
    return folder / "features.csv"


def write_with_pandas(folder: Path, names: list[str], features: NDArray[np.float32]) -> Path:
    table = pd.DataFrame(features, columns=[f"feature_{number}" for number in range(features.shape[1])])
    table.insert(0, "image", names)
    table.to_csv(folder / "pandas.csv", index=False)
    return folder / "pandas.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path, help="features.npy of an extraction")
    parser.add_argument("--rows", type=int, default=256)
    words = parser.parse_args()
    features = np.array(np.load(words.features, mmap_mode="r")[: words.rows])
    names = [f"folder/image_{number:06}.jpg" for number in range(len(features))]
    rates: dict[str, list[float]] = {"FeXT": [], "pandas": []}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(3):
            for who, write in (("FeXT", write_with_fext), ("pandas", write_with_pandas)):
                began = time.perf_counter()
                path = write(Path(name), names, features)
                rates[who].append(len(features) / (time.perf_counter() - began))
                print(f"{who}: {rates[who][-1]:.1f} rows/s, {path.stat().st_size / 1e6:.1f} MB", flush=True)
        read = pd.read_csv(Path(name) / "features.csv", index_col="image").to_numpy(dtype=np.float32)
    same = read.tobytes() == features.tobytes()
    medians = {who: float(np.median(values)) for who, values in rates.items()}
    print(f"{features.shape}: {medians['FeXT'] / medians['pandas']:.1f} times pandas; the same bits come back: {same}")


if __name__ == "__main__":
    main()
