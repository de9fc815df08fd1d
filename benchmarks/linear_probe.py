"""What features are worth to a linear classifier: accuracy of a ridge classifier on an extraction, by folder names.

The class of an image is the folder it lies in. Half of the images, drawn with a fixed seed, teach the classifier, the
other half is scored. Beside the features stand the pixels of the same images, made 8 times smaller.

    python benchmarks/linear_probe.py inference/EXTRACTION FOLDER
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fext.data.images import Preprocessing, load_image

_PENALTIES = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
_PIXEL_SIDE = 8


def accuracy(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Of the half that is scored, with the penalty that does best on a fifth of the half that teaches."""
    order = np.random.default_rng(0).permutation(len(labels))
    taught, scored = np.array_split(order, 2)
    fifth = len(taught) // 5
    best = max(
        _PENALTIES, key=lambda penalty: _fit_and_score(features, labels, taught[fifth:], taught[:fifth], penalty)
    )
    return _fit_and_score(features, labels, taught, scored, best)


def _fit_and_score(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    taught: NDArray[np.int64],
    scored: NDArray[np.int64],
    penalty: float,
) -> float:
    values = torch.from_numpy(features).double()
    mean, deviation = values[taught].mean(dim=0), values[taught].std(dim=0) + 1e-6
    values = torch.nn.functional.pad((values - mean) / deviation, (0, 1), value=1.0)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels)).double() * 2 - 1
    known = values[taught]
    if known.shape[0] < known.shape[1]:  # the smaller of two systems that give the same weights
        system = known @ known.T + penalty * torch.eye(len(known), dtype=torch.float64)
        weights = known.T @ torch.linalg.solve(system, targets[taught])
    else:
        system = known.T @ known + penalty * torch.eye(known.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(system, known.T @ targets[taught])
    guesses = (values[scored] @ weights).argmax(dim=1).numpy()
    return float((guesses == labels[scored]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extraction", type=Path, help="an extraction with features.npy")
    parser.add_argument("images", type=Path, help="its source: a folder of folders, one for each class")
    words = parser.parse_args()
    with (words.extraction / "features_names.csv").open(encoding="utf-8", newline="") as stream:
        names = [row["image"] for row in csv.DictReader(stream)]
    classes = sorted({Path(name).parent.as_posix() for name in names})
    labels = np.array([classes.index(Path(name).parent.as_posix()) for name in names])
    preprocessing = Preprocessing(_PIXEL_SIDE, _PIXEL_SIDE, 3, resize_mode="stretch")
    pixels = np.stack([load_image(words.images / name, preprocessing).ravel() for name in names])
    print(f"{len(names)} images, {len(classes)} classes")
    print(f"{words.extraction.name}: {accuracy(np.load(words.extraction / 'features.npy'), labels):.3f}")
    print(f"pixels: {accuracy(pixels, labels):.3f}")


if __name__ == "__main__":
    main()
