"""One picture in numbers: brightness, exposure, noise, sharpness, colour, edges and texture.

All are of the decoded picture, upright, with its longer side brought to at most MAX_SIDE pixels: sharpness and noise
depend on the scale, and what is seen of a large photograph at that scale is what a model can see of it at most.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pywt
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, special
from skimage import color, feature

from fext.data.images import to_bytes

# What the numbers below are made by; a higher number makes the analysis look at every image again.
STATISTICS_VERSION = 2
NUM_LEVELS = 256

_UNDER, _OVER = 0.05, 0.95
_MIDTONES = (0.25, 0.75)
# The neighbours of a pixel, (row, column) from the upper left one on, clockwise: each gives a bit of its pattern.
_NEIGHBOURS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
_MEDIAN_OF_NOISE = float(special.ndtri(0.75))  # median of the absolute values of Gaussian noise of deviation 1


@dataclass(frozen=True)
class Measure:
    """One statistic of a picture: its name in tables, its title in pictures, and what it means."""

    name: str
    title: str
    meaning: str


MEASURES = (
    Measure("mean", "mean brightness", "mean of the grey levels, 0 black to 1 white"),
    Measure("median", "median brightness", "median of the grey levels"),
    Measure("std", "contrast (standard deviation)", "standard deviation of the grey levels"),
    Measure("min", "darkest", "lowest grey level"),
    Measure("max", "brightest", "highest grey level"),
    Measure("range", "range", "highest less lowest grey level"),
    Measure("noise_std", "noise", "standard deviation of Gaussian noise, by the median of the finest wavelet details"),
    Measure("noise_ratio", "noise ratio", "noise_std divided by std; 0 where std is"),
    Measure("underexposed", "underexposed share", f"share of pixels below {_UNDER}"),
    Measure("overexposed", "overexposed share", f"share of pixels above {_OVER}"),
    Measure("midtones", "midtone share", f"share of pixels from {_MIDTONES[0]} to {_MIDTONES[1]}"),
    Measure("entropy", "entropy (bits)", "Shannon entropy of the grey levels in 256 steps, 0 to 8 bits"),
    Measure("laplacian_variance", "sharpness (Laplacian)", "variance of the Laplacian"),
    Measure("tenengrad", "sharpness (Tenengrad)", "mean squared Sobel gradient"),
    Measure(
        "high_frequency", "high-frequency share", "share of the spectrum's energy above half the Nyquist frequency"
    ),
    Measure(
        "colourfulness", "colourfulness", "Hasler and Suesstrunk's measure, 0 grey to some 110 extremely colourful"
    ),
    Measure("saturation", "saturation", "mean saturation (HSV), 0 to 1"),
    Measure("edge_density", "edge density", "share of pixels on an edge, by Canny's detector"),
    Measure("gradient", "mean gradient", "mean Sobel gradient"),
    Measure("lbp_energy", "texture energy", "sum of squares of the shares of local binary patterns; 1: all alike"),
    Measure("lbp_entropy", "texture entropy (bits)", "entropy of the shares of local binary patterns"),
)


class PictureStatistics(NamedTuple):
    """The value of each measure in the order of MEASURES, and how many pixels have each level, (3, 256) for R, G, B."""

    values: tuple[float, ...]
    histogram: NDArray[np.int64]


def picture_statistics(picture: NDArray[np.float32], pixels: NDArray[np.uint8]) -> PictureStatistics:
    """Measure one picture (H, W, 3), float32 in [0, 1], of which `pixels` are the levels from 0 to 255.

    Grey is luminance (Rec. 709, skimage.color.rgb2gray).
    """
    grey = np.ascontiguousarray(color.rgb2gray(picture), dtype=np.float32)
    levels = to_bytes(grey)
    spread = float(grey.std(dtype=np.float64)) if grey.max() > grey.min() else 0.0
    values = {
        **_brightness(grey, levels),
        "std": spread,
        **_noise(grey, spread),
        **_sharpness(grey),
        **_colour(picture),
        "edge_density": np.mean(feature.canny(grey)),  # with its own thresholds
        **_texture(levels),
    }
    histogram = np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, NUM_LEVELS)
    return PictureStatistics(tuple(float(values[measure.name]) for measure in MEASURES), histogram)


def _brightness(grey: NDArray[np.float32], levels: NDArray[np.uint8]) -> dict[str, float]:
    """NumPy's statistics of the grey levels; the entropy is that of the 8-bit levels."""
    low, high = float(grey.min()), float(grey.max())
    counts = np.bincount(levels.ravel(), minlength=NUM_LEVELS)
    return {
        "mean": grey.mean(dtype=np.float64),
        "median": _median(grey, levels, counts),
        "min": low,
        "max": high,
        "range": high - low,
        "underexposed": np.count_nonzero(grey < _UNDER) / grey.size,
        "overexposed": np.count_nonzero(grey > _OVER) / grey.size,
        "midtones": np.count_nonzero((grey >= _MIDTONES[0]) & (grey <= _MIDTONES[1])) / grey.size,
        "entropy": _entropy(counts / levels.size),
    }


def _median(grey: NDArray[np.float32], levels: NDArray[np.uint8], counts: NDArray[np.int64]) -> float:
    """numpy.median, exactly, of which only the pixels of the levels in the middle are sorted."""
    middle = np.array([(grey.size - 1) // 2, grey.size // 2])
    ends = counts.cumsum()
    low, high = np.searchsorted(ends, middle, side="right")
    between = np.sort(grey[(levels >= low) & (levels <= high)])
    return float(between[middle - (ends[low] - counts[low])].mean())


def _noise(grey: NDArray[np.float32], spread: float) -> dict[str, float]:
    """Donoho and Johnstone's estimate (1994), as skimage.restoration.estimate_sigma; 0 where a side is too short.

    Of the four parts of the wavelet transform only the one that the estimate is made of is worked out.
    """
    if min(grey.shape) <= 4 or spread == 0:
        return {"noise_std": 0.0, "noise_ratio": 0.0}
    _, along_rows = pywt.dwt(grey, "db2", axis=0)
    _, details = pywt.dwt(along_rows, "db2", axis=1)
    details = np.abs(details[details != 0])
    noise = float(np.median(details) / _MEDIAN_OF_NOISE) if details.size else 0.0
    return {"noise_std": noise, "noise_ratio": noise / spread}


def _sharpness(grey: NDArray[np.float32]) -> dict[str, float]:
    """Of the Laplacian and of Sobel's gradient (Tenengrad: Krotkov, 1988), and of the spectrum of scipy.fft.

    The edge is repeated, as scipy.ndimage.laplace, skimage.filters.sobel_h and sobel_v do, whose values these are.
    """
    padded = np.pad(grey, 1, mode="edge")
    above, below, left, right = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    down, across = padded[2:] - padded[:-2], padded[:, 2:] - padded[:, :-2]
    down = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    squared_gradient = (down * down + across * across) / 16
    return {
        "laplacian_variance": (above + below + left + right - 4 * grey).var(dtype=np.float64),
        "tenengrad": squared_gradient.mean(dtype=np.float64),
        "gradient": np.sqrt(squared_gradient / 2).mean(dtype=np.float64),  # as skimage.filters.sobel scales it
        "high_frequency": _high_frequency_share(grey),
    }


def _high_frequency_share(grey: NDArray[np.float32]) -> float:
    spectrum = fft.rfft2(grey - grey.mean())
    energy = spectrum.real**2 + spectrum.imag**2
    if energy.shape[1] > 1:
        twice = slice(1, -1 if grey.shape[1] % 2 == 0 else None)  # what a real picture's spectrum holds mirrored
        energy[:, twice] *= 2
    total = energy.sum(dtype=np.float64)
    if grey.max() == grey.min() or total == 0:
        return 0.0
    rows, columns = fft.fftfreq(grey.shape[0])[:, None], fft.rfftfreq(grey.shape[1])[None]
    return float(energy[rows**2 + columns**2 > 0.25**2].sum(dtype=np.float64) / total)


def _colour(picture: NDArray[np.float32]) -> dict[str, float]:
    """Colourfulness after Hasler and Suesstrunk, 'Measuring colourfulness in natural images' (2003), on their scale."""
    red, green, blue = (np.ascontiguousarray(picture[:, :, band]) for band in range(3))
    red_green = red - green
    yellow_blue = (red + green) / 2 - blue
    spread = np.hypot(red_green.std(dtype=np.float64), yellow_blue.std(dtype=np.float64))
    distance = np.hypot(red_green.mean(dtype=np.float64), yellow_blue.mean(dtype=np.float64))
    highest = np.maximum(np.maximum(red, green), blue)
    chroma = highest - np.minimum(np.minimum(red, green), blue)
    saturation = np.divide(chroma, highest, out=np.zeros_like(chroma), where=highest > 0)
    return {"colourfulness": 255 * (spread + 0.3 * distance), "saturation": saturation.mean(dtype=np.float64)}


def _texture(levels: NDArray[np.uint8]) -> dict[str, float]:
    """Shares of the uniform local binary patterns, and of all others together.

    The patterns are those of Ojala, Pietikainen and Harwood, 'A comparative study of texture measures' (1996): a bit
    for each of the eight neighbours, which tells whether it is at least as bright as the pixel. The uniform ones, of
    at most two changes around the circle, count by their number of ones (Ojala, Pietikainen and Maenpaa, 2002). Beyond
    the picture its edge is repeated.
    """
    counts = np.bincount(_local_binary_patterns(levels).ravel(), minlength=2 ** len(_NEIGHBOURS))
    shares = np.bincount(_uniform_patterns(), counts) / levels.size
    return {"lbp_energy": np.sum(shares**2), "lbp_entropy": _entropy(shares)}


def _local_binary_patterns(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = levels.shape
    padded = np.pad(levels, 1, mode="edge")
    patterns = np.zeros_like(levels)
    for bit, (row, column) in enumerate(_NEIGHBOURS):
        is_set = padded[row : row + height, column : column + width] >= levels
        patterns |= is_set.view(np.uint8) << np.uint8(bit)
    return patterns


@cache
def _uniform_patterns() -> NDArray[np.int64]:
    """Of each pattern of 8 bits its place among the uniform ones, by its number of ones; 9 for all others."""
    num_bits = len(_NEIGHBOURS)
    bits = (np.arange(2**num_bits)[:, None] >> np.arange(num_bits)) & 1
    changes = np.abs(bits - np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), num_bits + 1)


def _entropy(shares: NDArray[np.float64]) -> float:
    """Shannon entropy in bits."""
    return float(special.entr(shares).sum() / np.log(2))
