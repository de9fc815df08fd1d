"""Figures for checkpoints and evaluations: numbers and arrays in, matplotlib figures out; nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from fext.data.split import chosen_by

TRAIN_COLOUR, TEST_COLOUR, GREY = "#4c78a8", "#e4572e", "#777777"
COLUMNS = 6
MOST_ERROR = 0.25  # the brightest of the error maps
_POINTS, _GAP = 72, 0.08  # to an inch; between pictures, in inches
_MOST_NUMBERED, _MOST_NAMED = 30, 60  # classes whose confusion is written in numbers, and with their names


@dataclass(frozen=True)
class Pair:
    """An original and its reconstruction, (H, W, C) float32 in [0, 1], with a caption."""

    name: str
    caption: str
    original: NDArray[np.float32]
    reconstruction: NDArray[np.float32]


class Tiles:
    """Pictures in rows and columns of a figure, each under its caption; places are in inches.

    All are in one axes: matplotlib takes long to make many.
    """

    def __init__(self, figure: Figure, rows: int, columns: int, *, below: float, lines: int, fontsize: float) -> None:
        """Rows and columns share what is `below` the title, which has room for so many lines of a caption each."""
        self.width, self.height = figure.get_size_inches()
        self.below, self.fontsize = below, fontsize
        self.columns, self.row_height = columns, (self.height - below) / rows
        self.caption_height = lines * fontsize * 1.35 / _POINTS
        self.axes = figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, self.width), ylim=(self.height, 0))

    def show(self, row: int, column: int, image: NDArray[Any], caption: str, **options: Any) -> None:
        """Draw an image (H, W) or (H, W, C) as large as its place is; options are those of matplotlib's imshow."""
        room = self.width / self.columns - _GAP, self.row_height - self.caption_height - _GAP
        scale = min(room[0] / image.shape[1], room[1] / image.shape[0])
        middle = (column + 0.5) * self.width / self.columns
        left, right = middle - scale * image.shape[1] / 2, middle + scale * image.shape[1] / 2
        top = self.below + row * self.row_height + self.caption_height
        extent = (left, right, top + scale * image.shape[0], top)
        self.axes.imshow(image, extent=extent, aspect="auto", **options)
        self.axes.text(middle, top - 0.03, caption, fontsize=self.fontsize, ha="center", va="bottom", parse_math=False)


def history_figure(history: Sequence[Mapping[str, float]], loss_name: str) -> Figure:
    """Loss, PSNR and learning rate by epoch; the best epoch marked."""
    figure = Figure(figsize=(12, 3.8), dpi=110, layout="constrained")
    losses, psnr, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    side = chosen_by(history[0])
    best = min(history, key=lambda row: row[f"{side}_loss"])
    _curves(losses, epochs, history, "loss", f"loss ({loss_name})")
    losses.set_yscale("log")
    _label_within_decades(losses)
    losses.axvline(best["epoch"], color=GREY, linestyle=":", linewidth=1)
    losses.set_title(f"best {side} loss {best[f'{side}_loss']:.5f} in epoch {best['epoch']:.0f}", fontsize=10)
    _curves(psnr, epochs, history, "psnr", "PSNR (dB), higher is better")
    rate.plot(epochs, [row["learning_rate"] for row in history], color=GREY, marker="o", markersize=3)
    rate.set_ylabel("learning rate of the epoch's last batch")
    rate.set_ylim(bottom=0)
    for axes in (losses, psnr, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _label_within_decades(axes: Axes) -> None:
    """Label a logarithmic axis that spans little more than a decade between its powers of ten, too."""
    low, high = axes.get_ylim()
    if high < 30 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)) if high > 3 * low else MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _curves(
    axes: Axes, epochs: Sequence[float], history: Sequence[Mapping[str, float]], value: str, label: str
) -> None:
    for subset, colour in (("train", TRAIN_COLOUR), (chosen_by(history[0]), TEST_COLOUR)):
        points = [row[f"{subset}_{value}"] for row in history]
        label_of = "train, as trained on" if subset == "train" else subset
        axes.plot(epochs, points, color=colour, label=label_of, marker="o", markersize=3)
    axes.set_ylabel(label)
    axes.legend(frameon=False)


def pairs_figure(title: str, pairs: Sequence[Pair], *, with_errors: bool = False) -> Figure:
    """Originals above their reconstructions, six to a row; below them, where asked for, where they differ."""
    rows_each = 3 if with_errors else 2
    num_rows = max(1, -(-len(pairs) // COLUMNS))
    num_columns = max(1, min(COLUMNS, len(pairs)))
    height = 2.375 * rows_each * num_rows + 0.4
    figure = Figure(figsize=(2.1 * num_columns + 0.4, height), dpi=110)
    figure.suptitle(title, fontsize=11, parse_math=False, y=1 - 0.12 / height, va="top")
    tiles = Tiles(figure, rows_each * num_rows, num_columns, below=0.4, lines=1, fontsize=8)
    for number, pair in enumerate(pairs):
        row, column = rows_each * (number // COLUMNS), number % COLUMNS
        tiles.show(row, column, _in_colour(pair.original), shorten(pair.name, 24), vmin=0, vmax=1)
        tiles.show(row + 1, column, _in_colour(pair.reconstruction), pair.caption, vmin=0, vmax=1)
        if with_errors:
            error = error_map(pair)
            colours = {"vmin": 0, "vmax": MOST_ERROR, "cmap": "magma"}
            tiles.show(row + 2, column, error, f"error: mean {error.mean():.3f}", **colours)
    return figure


def error_map(pair: Pair) -> NDArray[np.float32]:
    """(H, W) absolute difference, averaged over the channels."""
    error: NDArray[np.float32] = np.abs(pair.original - pair.reconstruction).mean(axis=2)
    return error


def _in_colour(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def scores_figure(psnr: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """Histograms of PSNR per subset: the model beside its yardsticks. `psnr` is subset -> method -> values."""
    figure = Figure(figsize=(5.5 * len(psnr), 3.6), dpi=110, layout="constrained")
    grid = figure.subplots(1, len(psnr), squeeze=False, sharex=True)
    colours = {"model": TEST_COLOUR, "linear_map": TRAIN_COLOUR, "mean_image": GREY}
    values = np.concatenate([points for methods in psnr.values() for points in methods.values()])
    edges = np.linspace(values.min(), values.max() + 1e-6, 40).tolist()
    for axes, (subset, methods) in zip(grid[0], psnr.items(), strict=True):
        for method, points in methods.items():
            label = f"{method.replace('_', ' ')}: mean {np.mean(points):.1f} dB"
            axes.hist(points, bins=edges, alpha=0.6, color=colours[method], label=label)
        axes.set_title(f"{subset} images ({len(methods['model'])})", fontsize=10)
        axes.set_xlabel("PSNR (dB), higher is better")
        axes.set_ylabel("images")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def kept_channels_figure(psnr: Mapping[int, float]) -> Figure:
    """PSNR by the number of channels kept."""
    figure = Figure(figsize=(5.5, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(list(psnr), list(psnr.values()), color=TEST_COLOUR, marker="o", markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(psnr), [str(count) for count in psnr])
    axes.set_xlabel("latent channels kept, from the first on")
    axes.set_ylabel("PSNR (dB), higher is better")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def shorten(name: str, length: int) -> str:
    """A file name that fits under a picture: its end says most."""
    name = " ".join(name.split())
    return name if len(name) <= length else "…" + name[-length + 1 :]


def head_history_figure(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, accuracy and learning rate of a head by epoch; a line where the encoder begins to be trained with it."""
    figure = Figure(figsize=(12, 3.8), dpi=110, layout="constrained")
    losses, right, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in history]
    for axes, value in ((losses, "loss"), (right, "accuracy")):
        for subset, colour in (("train", TRAIN_COLOUR), ("validation", TEST_COLOUR)):
            points = [np.nan if row[f"{subset}_{value}"] is None else row[f"{subset}_{value}"] for row in history]
            axes.plot(epochs, points, color=colour, label=subset, marker="o", markersize=3)
        axes.legend(frameon=False)
    losses.set_ylabel("loss (that of training with smoothed labels)")
    right.set_ylabel("share told rightly")
    rate.plot(epochs, [row["learning_rate"] for row in history], color=GREY, marker="o", markersize=3)
    rate.set_ylabel("learning rate of the epoch's last batch")
    rate.set_ylim(bottom=0)
    num_frozen = sum(row["phase"] == "frozen" for row in history)
    for axes in (losses, right, rate):
        if 0 < num_frozen < len(history):
            axes.axvline(num_frozen + 0.5, color=GREY, linestyle=":", linewidth=1)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """How many images of each class (rows) were told to be of each (columns); shades are shares of the row."""
    count = len(classes)
    side = min(24.0, 2.4 + 0.55 * count)
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    names = [shorten(name, 18) for name in classes] if count <= _MOST_NAMED else []
    axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("told to be")
    axes.set_ylabel("is")
    if count <= _MOST_NUMBERED:
        for (row, column), number in np.ndenumerate(confusion):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{number:,}", ha="center", va="center", fontsize=8, color=colour)
    return figure
