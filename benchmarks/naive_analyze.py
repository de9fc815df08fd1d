"""What one writes in an hour to measure the images of a folder: the yardstick for FeXT's analysis.

A function for each group of measures, each of which opens the image; one process; a pandas table at the end. The
measures are those of FeXT, from the same libraries.
"""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage import color, feature, filters, measure, restoration

from benchmarks.naive_train import find_images

MAX_SIDE = 1024
# Local binary patterns: the neighbours around a pixel, and of each of the 256 patterns its number of ones where there
# are at most two changes around it, else 9.
NEIGHBOURS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1
UNIFORM = np.where((np.roll(BITS, 1, axis=1) != BITS).sum(axis=1) <= 2, BITS.sum(axis=1), 9)


def open_picture(path: Path) -> Image.Image:
    """The picture in RGB, its longer side at most MAX_SIDE pixels."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return picture


def open_rgb(path: Path) -> NDArray[np.float64]:
    return np.asarray(open_picture(path)) / 255


def open_grey(path: Path) -> NDArray[np.float64]:
    grey: NDArray[np.float64] = color.rgb2gray(open_rgb(path))
    return grey


def file_facts(path: Path) -> dict[str, object]:
    with Image.open(path) as image:
        facts = {"format": image.format, "mode": image.mode, "width": image.width, "height": image.height}
    return {**facts, "file_size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def brightness(path: Path) -> dict[str, object]:
    grey = open_grey(path)
    low, high = grey.min(), grey.max()
    moments = {"mean": grey.mean(), "median": np.median(grey), "std": grey.std()}
    return {**moments, "min": low, "max": high, "range": high - low}


def exposure(path: Path) -> dict[str, object]:
    grey = open_grey(path)
    shares = {"underexposed": np.mean(grey < 0.05), "overexposed": np.mean(grey > 0.95)}
    return {**shares, "midtones": np.mean((grey >= 0.25) & (grey <= 0.75))}


def noise(path: Path) -> dict[str, object]:
    grey = open_grey(path)
    sigma = restoration.estimate_sigma(grey)
    return {"noise_std": sigma, "noise_ratio": sigma / grey.std()}


def entropy(path: Path) -> dict[str, object]:
    return {"entropy": measure.shannon_entropy((open_grey(path) * 255).round().astype(np.uint8))}


def sharpness(path: Path) -> dict[str, object]:
    grey = open_grey(path)
    energy = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1])[None])
    return {
        "laplacian_variance": ndimage.laplace(grey).var(),
        "tenengrad": (filters.sobel_h(grey) ** 2 + filters.sobel_v(grey) ** 2).mean(),
        "high_frequency": energy[frequency > 0.25].sum() / energy.sum(),
    }


def colour(path: Path) -> dict[str, object]:
    picture = open_rgb(path)
    red, green, blue = np.moveaxis(picture * 255, 2, 0)
    one, other = red - green, (red + green) / 2 - blue
    colourfulness = np.hypot(one.std(), other.std()) + 0.3 * np.hypot(one.mean(), other.mean())
    return {"colourfulness": colourfulness, "saturation": color.rgb2hsv(picture)[:, :, 1].mean()}


def edges(path: Path) -> dict[str, object]:
    grey = open_grey(path)
    return {"edge_density": feature.canny(grey).mean(), "gradient": filters.sobel(grey).mean()}


def texture(path: Path) -> dict[str, object]:
    levels = (open_grey(path) * 255).round().astype(np.uint8)
    height, width = levels.shape
    padded = np.pad(levels, 1, mode="edge")
    patterns = np.zeros_like(levels)
    for bit, (row, column) in enumerate(NEIGHBOURS):
        patterns |= (padded[row : row + height, column : column + width] >= levels).astype(np.uint8) << bit
    kinds = UNIFORM[patterns]
    shares = np.bincount(kinds.ravel()) / kinds.size
    return {"lbp_energy": (shares**2).sum(), "lbp_entropy": measure.shannon_entropy(kinds)}


def looks(path: Path) -> dict[str, object]:
    return {"perceptual_hash": str(imagehash.phash(open_picture(path)))}


GROUPS: tuple[Callable[[Path], dict[str, object]], ...] = (
    file_facts, brightness, exposure, noise, entropy, sharpness, colour, edges, texture, looks,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the images of a folder, the plain way.")
    parser.add_argument("images_folder", type=Path, help="folder of images, searched with its subfolders")
    parser.add_argument("output_csv", type=Path, help="the table to write")
    arguments = parser.parse_args()
    rows = []
    for path in find_images(arguments.images_folder, None):
        row: dict[str, object] = {"image": path.relative_to(arguments.images_folder).as_posix()}
        for group in GROUPS:
            row |= group(path)
        rows.append(row)
    pd.DataFrame(rows).to_csv(arguments.output_csv, index=False)


if __name__ == "__main__":
    main()
