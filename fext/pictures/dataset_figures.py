"""Figures of an image dataset: intensities, the mean picture, sizes, measures by subset, sheets of thumbnails."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fext.data.statistics import MEASURES
from fext.pictures.figures import COLUMNS, GREY, TEST_COLOUR, TRAIN_COLOUR, Tiles, shorten

_BANDS = (("red", "#d62728"), ("green", "#2ca02c"), ("blue", "#1f77b4"))
_MEASURES_PER_ROW = 4
_BINS = 40


class Shown(NamedTuple):
    """A thumbnail (H, W, 3) of 8 bits, with its image's name and lines that say something of it."""

    name: str
    lines: tuple[str, ...]
    thumbnail: NDArray[np.uint8]


def intensity_figure(histogram: NDArray[np.int64]) -> Figure:
    """Shares of the 256 levels in red, green and blue; `histogram` holds the counts, (3, 256)."""
    figure = Figure(figsize=(7, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    shares = histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)
    levels = np.arange(histogram.shape[1]) / (histogram.shape[1] - 1)
    for (name, colour), share in zip(_BANDS, shares, strict=True):
        axes.fill_between(levels, share, step="mid", alpha=0.15, color=colour)
        axes.step(levels, share, where="mid", color=colour, label=name, linewidth=1)
    # One level, such as white paper, may hold most pixels: the rest is to be seen all the same.
    axes.set_ylim(0, 3 * float(np.quantile(shares, 0.98)) or 1)
    axes.set_xlim(0, 1)
    axes.set_xlabel("intensity, 0 dark to 1 bright")
    axes.set_ylabel("share of pixels")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def mean_and_spread_figure(mean: NDArray[np.float64], spread: NDArray[np.float64], num_images: int) -> Figure:
    """The mean picture and the standard deviation of each of its pixels, (H, W, 3) in [0, 1]."""
    figure = Figure(figsize=(7.4, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(mean, vmin=0, vmax=1, interpolation="bilinear")
    left.set_title(f"mean of {num_images} images", fontsize=10)
    drawn = right.imshow(spread.mean(axis=2), vmin=0, cmap="viridis", interpolation="bilinear")
    right.set_title("spread (standard deviation)", fontsize=10)
    figure.colorbar(drawn, ax=right, shrink=0.85)
    for axes in (left, right):
        axes.set_axis_off()
    return figure


def sizes_figure(widths: NDArray[np.int64], heights: NDArray[np.int64]) -> Figure:
    """Widths against heights, and the aspect ratios."""
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    size, aspect = figure.subplots(1, 2)
    size.scatter(widths, heights, s=8, alpha=0.5, color=TRAIN_COLOUR, edgecolors="none")
    size.set_xscale("log")
    size.set_yscale("log")
    size.set_xlabel("width, pixels")
    size.set_ylabel("height, pixels")
    size.grid(alpha=0.25, which="both")
    ratios = np.clip(widths / heights, 1 / 4, 4)
    aspect.hist(ratios, bins=np.geomspace(1 / 4, 4, _BINS).tolist(), color=TRAIN_COLOUR)
    aspect.set_xscale("log")
    aspect.set_xticks([0.25, 0.5, 0.75, 1, 1.33, 2, 4], ["≤1:4", "1:2", "3:4", "1:1", "4:3", "2:1", "≥4:1"])
    aspect.minorticks_off()
    aspect.set_xlabel("width : height")
    aspect.set_ylabel("images")
    for axes in (size, aspect):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def measures_figure(measures: Mapping[str, NDArray[np.float32]], sides: NDArray[np.str_]) -> Figure:
    """A histogram of each measure, train beside test; all images in one where there is no split."""
    num_rows = -(-len(MEASURES) // _MEASURES_PER_ROW)
    figure = Figure(figsize=(3.1 * _MEASURES_PER_ROW, 2.1 * num_rows + 0.5), dpi=110, layout="constrained")
    grid = figure.subplots(num_rows, _MEASURES_PER_ROW, squeeze=False)
    series = [("train", TRAIN_COLOUR), ("test", TEST_COLOUR)] if (sides != "").any() else [("", GREY)]
    for axes, measure in zip(grid.flat, MEASURES, strict=False):
        values = measures[measure.name]
        low, high = np.percentile(values, (0.5, 99.5))  # a few far ones would squeeze the others into one bar
        edges = np.linspace(low, high if high > low else low + 1e-6, _BINS)
        for side, colour in series:
            counts, _ = np.histogram(np.clip(values[sides == side], edges[0], edges[-1]), edges)
            axes.stairs(counts / counts.sum(), edges, fill=True, alpha=0.55, color=colour, label=side)
        axes.set_title(measure.title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in grid.flat[len(MEASURES) :]:
        axes.set_axis_off()
    if len(series) > 1:
        grid.flat[0].legend(frameon=False, fontsize=8)
    return figure


def sheet_figure(title: str, shown: Sequence[Shown]) -> Figure:
    """Thumbnails with names and captions, six to a row."""
    num_rows = max(1, -(-len(shown) // COLUMNS))
    height = 2.5 * num_rows + 0.6
    figure = Figure(figsize=(2.3 * COLUMNS, height), dpi=110)
    figure.suptitle(title if shown else f"{title}: none", fontsize=11, y=1 - 0.1 / height, va="top")
    lines = max((1 + len(item.lines) for item in shown), default=1)
    tiles = Tiles(figure, num_rows, COLUMNS, below=0.4, lines=lines, fontsize=7)
    for number, item in enumerate(shown):
        caption = "\n".join(shorten(line, 30) for line in (item.name, *item.lines))
        tiles.show(number // COLUMNS, number % COLUMNS, item.thumbnail, caption)
    return figure
