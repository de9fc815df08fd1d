"""Figures of an evaluation: where the errors lie, what the latent looks like, neighbours, maps with thumbnails."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fext.pictures.figures import GREY, TEST_COLOUR, TRAIN_COLOUR, Tiles, shorten

SUBSET_COLOURS = {"train": TRAIN_COLOUR, "validation": "#b279a2", "test": TEST_COLOUR, "new": "#54a24b"}
_MOST_NUMBERED = 10  # regions a side in which a number can be read
_MAP_PIXELS, _MARGIN = 900, 24


def regions_figure(
    error_map: NDArray[np.float64], region_errors: NDArray[np.float64], region_ssim: NDArray[np.float64], title: str
) -> Figure:
    """The mean absolute error of each pixel (H, W), and error and SSIM of each region (rows, columns)."""
    figure = Figure(figsize=(12.4, 4.1), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    pixels, errors, ssim = figure.subplots(1, 3)
    drawn = pixels.imshow(error_map, vmin=0, cmap="magma")
    figure.colorbar(drawn, ax=pixels, shrink=0.85)
    pixels.set_title("mean absolute error of each pixel", fontsize=10)
    _regions(figure, errors, region_errors, "mean absolute error of each region", "magma")
    _regions(figure, ssim, region_ssim, "SSIM of each region, higher is better", "viridis")
    for axes in (pixels, errors, ssim):
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _regions(figure: Figure, axes: Axes, values: NDArray[np.float64], title: str, colours: str) -> None:
    drawn = axes.imshow(values, cmap=colours)
    figure.colorbar(drawn, ax=axes, shrink=0.85)
    axes.set_title(title, fontsize=10)
    if max(values.shape) > _MOST_NUMBERED:
        return
    middle = (values.min() + values.max()) / 2
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < middle else "black"
        axes.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=6, color=colour)


def latent_figure(stds: Sequence[float], spectrum: Sequence[float], effective_rank: float) -> Figure:
    """The deviations of the channels, sorted, and how much of the variance the first so many components hold."""
    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    spread, variance = figure.subplots(1, 2)
    numbers = np.arange(1, len(stds) + 1)
    spread.plot(numbers, sorted(stds, reverse=True), color=TEST_COLOUR)
    if 0 < 10 * min(stds) < max(stds):
        spread.set_yscale("log")
    else:
        spread.set_ylim(bottom=0)
    spread.set_xlabel("channels, the most varying first")
    spread.set_ylabel("standard deviation")
    variance.plot(numbers, np.cumsum(spectrum), color=TRAIN_COLOUR)
    variance.axvline(effective_rank, color=GREY, linestyle=":", linewidth=1)
    variance.set_title(f"effective rank {effective_rank:.1f} of {len(stds)}", fontsize=10)
    variance.set_xlabel("principal components of the latent vectors")
    variance.set_ylabel("share of the variance")
    variance.set_ylim(0, 1.02)
    for axes in (spread, variance):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def neighbours_figure(rows: Sequence[Sequence[tuple[NDArray[np.uint8], str, str]]]) -> Figure:
    """A row for each image: itself, then its nearest, each a thumbnail, a name and a caption."""
    num_columns = max(len(row) for row in rows)
    height = 2.15 * len(rows) + 0.4
    figure = Figure(figsize=(1.75 * num_columns, height), dpi=110)
    figure.suptitle("images and their nearest in the latent (cosine)", fontsize=11, y=1 - 0.1 / height, va="top")
    tiles = Tiles(figure, len(rows), num_columns, below=0.4, lines=2, fontsize=7)
    for number, row in enumerate(rows):
        for column, (thumbnail, name, caption) in enumerate(row):
            tiles.show(number, column, thumbnail, f"{shorten(name, 24)}\n{caption}")
    return figure


def maps_figure(
    maps: Mapping[str, NDArray[np.float64]], thumbnails: NDArray[np.uint8], subsets: NDArray[np.str_]
) -> Figure:
    """Images as thumbnails at their places (images, 2) on each map, framed by the colour of their subset."""
    figure = Figure(figsize=(8.2 * len(maps), 9), dpi=110, layout="constrained")
    grid = figure.subplots(1, len(maps), squeeze=False)
    for axes, (title, points) in zip(grid[0], maps.items(), strict=True):
        axes.imshow(pasted(points, thumbnails, subsets))
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    present = [subset for subset in SUBSET_COLOURS if (subsets == subset).any()]
    figure.supxlabel(" · ".join(f"{subset} images: {_COLOUR_NAMES[subset]} frame" for subset in present), fontsize=10)
    return figure


_COLOUR_NAMES = {"train": "blue", "validation": "purple", "test": "orange", "new": "green"}


def pasted(points: NDArray[np.float64], thumbnails: NDArray[np.uint8], subsets: NDArray[np.str_]) -> NDArray[np.uint8]:
    """Thumbnails (N, side, side, 3) at their places (N, 2) on white, framed by the colour of their subset, as pixels.

    They are smaller the more there are; the first lie on top.
    """
    side = int(np.clip(_MAP_PIXELS / np.sqrt(len(points)), 24, thumbnails.shape[1]))
    pick = np.linspace(0, thumbnails.shape[1] - 1, side).round().astype(int)
    canvas = np.full((_MAP_PIXELS + 2 * _MARGIN + side, _MAP_PIXELS + 2 * _MARGIN + side, 3), 255, np.uint8)
    low, extent = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-12)
    places = ((points - low) / extent * _MAP_PIXELS).round().astype(int) + _MARGIN
    for (x, y), thumbnail, subset in reversed(list(zip(places, thumbnails, subsets, strict=True))):
        small = thumbnail[np.ix_(pick, pick)].copy()
        colour = [int(SUBSET_COLOURS[str(subset)][start : start + 2], 16) for start in (1, 3, 5)]
        small[:2], small[-2:], small[:, :2], small[:, -2:] = colour, colour, colour, colour
        top = canvas.shape[0] - side - y  # upwards, as axes go
        canvas[top : top + side, x : x + side] = small
    return canvas
