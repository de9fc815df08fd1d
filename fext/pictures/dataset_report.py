"""The report page of an image dataset: what is in it, what a person should look at, and what to do about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from fext.data.split import SIDES
from fext.data.statistics import MEASURES
from fext.data.thumbnails import as_webp
from fext.pictures.figures import GREY, TEST_COLOUR, TRAIN_COLOUR
from fext.pictures.page import (
    Html,
    Item,
    Section,
    bullets,
    colour_key,
    columns,
    facts,
    gallery,
    group,
    page,
    paragraph,
    picture,
    plot,
    plot_text,
    table,
)

NUM_SHOWN, NUM_GROUPS, NUM_IN_GROUP, NUM_FARTHEST = 200, 60, 12, 42
NUM_ROWS = 1000
_NUM_POINTS = 2000
_BINS = 40
_BANDS = (("red", "#d62728"), ("green", "#2ca02c"), ("blue", "#1f77b4"))
_MEAN_SIDE = 320  # pixels at which the mean picture is shown
_RATIOS = {1 / 4: "≤1:4", 1 / 2: "1:2", 3 / 4: "3:4", 1: "1:1", 4 / 3: "4:3", 2: "2:1", 4: "≥4:1"}
TITLES = {measure.name: measure.title for measure in MEASURES}
_WHAT_TO_DO = {
    "damaged": "Training and extraction leave out what cannot be decoded; replace it, or delete it.",
    "exact copy": "Such a file has the bytes of another one and counts double in training; keep one of each group.",
    "near copy": "Resized or recompressed, it counts double too; compare the pictures below.",
    "nearly black": "There is nothing to learn from such a picture.",
    "nearly white": "There is nothing to learn from such a picture.",
    "nearly uniform": "Of one colour: there is nothing to learn from such a picture.",
    "unread orientation": "It may lie on its side: turn it in another program and save it.",
}


_Row = TypeVar("_Row")


@dataclass(frozen=True)
class DatasetReport:
    """All that the page tells.

    `names`, `sides` (train, test or ''), the values of `measures` and `sizes` (N, 2: width, height) belong to the good
    images; `histogram` (3, 256) counts levels; `mean` and `spread` are (H, W, 3) in [0, 1]. `findings` are (image,
    finding, detail), `rejected` (image, reason), `outliers` (image, measure, value, low, high), `distances` (measure,
    train mean, test mean, Kolmogorov-Smirnov, p-value, Wasserstein). Items have the pictures of the first ones alone.
    """

    source: str
    num_found: int
    num_not_images: int
    num_across: int
    names: Sequence[str]
    sides: NDArray[np.str_]
    measures: Mapping[str, NDArray[np.floating]]
    sizes: NDArray[np.int64]
    kinds: Mapping[tuple[str, str], int]
    histogram: NDArray[np.int64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    findings: Sequence[tuple[str, str, str]]
    num_findings: Mapping[str, int]
    rejected: Sequence[tuple[str, str]]
    outliers: Sequence[tuple[str, str, float, float, float]]
    distances: Sequence[tuple[str, float, float, float, float, float]]
    num_groups: int
    odd: Sequence[Item]
    groups: Sequence[Sequence[Item]]
    farthest: Sequence[Item]


def dataset_report(report: DatasetReport) -> Iterator[Html]:
    """The page, piece by piece."""
    sections = [
        Section("In short", "", _facts(report), bullets(_in_short(report))),
        _to_look_at(report),
        _copies(report),
        _rejected(report),
        _outliers(report),
        _sizes_and_formats(report),
        _intensity(report),
        _measures(report),
        *([_train_and_test(report)] if report.distances else []),
    ]
    introduction = (
        f"What the analysis found in {report.source}. The tables in full stand in the CSV files beside this page."
    )
    return page("Image dataset", introduction, sections)


# ---------------------------------------------------------------- what was found


def _facts(report: DatasetReport) -> Html:
    pairs: list[tuple[str, object]] = [
        ("images found", report.num_found),
        ("good", len(report.names)),
        ("rejected", len(report.rejected)),
        ("other files", report.num_not_images),
    ]
    if (report.sides != "").any():
        pairs += [(f"{side} images", int((report.sides == side).sum())) for side in SIDES]
    return facts(pairs)


def _in_short(report: DatasetReport) -> Iterator[Html]:
    said = Html("<b>{}: {:,}.</b> {}")
    counts = {finding: report.num_findings.get(finding, 0) for finding in _WHAT_TO_DO}
    for finding, what in _WHAT_TO_DO.items():
        if counts[finding]:
            yield said.format(finding.capitalize(), counts[finding], what)
    if report.num_across:
        what = "Each has images on several sides of the split, and scores on the test images would be too kind."
        yield said.format("Groups of copies on several sides", report.num_across, what)
    if not any(counts.values()):
        yield Html("No copies, no damaged, black, white or uniform pictures: nothing needs to be done.")
    if report.outliers:
        num_images = len({image for image, *_ in report.outliers})
        yield said.format("Images with a value far out of the usual", num_images, "Most are fine; look at a few below.")


def _to_look_at(report: DatasetReport) -> Section:
    if not report.findings:
        return Section("Images to look at", "None: nothing odd was found.")
    note = _first_of(len(report.findings), sum(report.num_findings.values()), "findings.csv")
    num_odd = sum(count for kind, count in report.num_findings.items() if "copy" not in kind and kind != "damaged")
    left_out = _left_out(len(report.odd), num_odd, "odd pictures", "findings.csv")
    listed = table(["image", "finding", "detail"], report.findings, f"Findings{note}")
    return Section("Images to look at", "", *([gallery(report.odd)] if report.odd else []), left_out, listed)


def _copies(report: DatasetReport) -> Section:
    if not report.groups:
        return Section("Copies", "None: no two images are alike.")
    groups = columns(group(f"Group {number}", gallery(items)) for number, items in enumerate(report.groups, start=1))
    text = (
        "Exact copies have the bytes of the first of their group; near ones look like it, and may be resized or "
        "recompressed. Nothing was deleted."
    )
    return Section("Copies", text, groups, _left_out(len(report.groups), report.num_groups, "groups", "duplicates.csv"))


def _rejected(report: DatasetReport) -> Section:
    if not report.rejected:
        return Section("Rejected files", "None: every image can be decoded.")
    rows, note = _limited(report.rejected, "rejected.csv")
    return Section("Rejected files", "", table(["image", "reason"], rows, f"Files and why they cannot be used{note}"))


def _outliers(report: DatasetReport) -> Section:
    if not report.outliers:
        return Section("Outliers", "None: no value is far out of the usual.")
    shown, note = _limited(report.outliers, "outliers.csv")
    rows = [(image, TITLES[measure], value, low, high) for image, measure, value, low, high in shown]
    text = (
        "Values more than three interquartile ranges beyond the quartiles of all images. "
        "Shown are the farthest of each measure."
    )
    header = ["image", "measure", "value", "usual from", "usual to"]
    return Section(
        "Outliers", text, gallery(report.farthest), table(header, rows, f"Values far out of the usual{note}")
    )


def _limited(rows: Sequence[_Row], file: str) -> tuple[Sequence[_Row], str]:
    """The rows that a table may hold, and what its caption says of the others."""
    return rows[:NUM_ROWS], _first_of(min(NUM_ROWS, len(rows)), len(rows), file)


def _first_of(num_shown: int, count: int, file: str) -> str:
    return f": the first {num_shown:,} of {count:,}; all are in {file}" if num_shown < count else ""


def _left_out(num_shown: int, count: int, what: str, file: str) -> Html:
    return paragraph(f"{num_shown:,} of {count:,} {what} are shown; {file} names all." if num_shown < count else "")


# ---------------------------------------------------------------- what the images are like


def _sizes_and_formats(report: DatasetReport) -> Section:
    places = np.unique(np.linspace(0, len(report.names) - 1, min(_NUM_POINTS, len(report.names))).astype(int))
    note = f"{len(places):,} of {len(report.names):,} images, evenly chosen" if len(places) < len(report.names) else ""
    by_number = sorted(report.kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    formats = table(
        ["format", "mode", "images"], [(*kind, count) for kind, count in by_number], "Formats and colour modes"
    )
    sizes = plot(_sizes_figure(report, places), "Widths and heights of the images", note, title="Width and height")
    ratios = plot(_ratios_figure(report.sizes), "Histogram of width divided by height", title="Proportions")
    return Section("Sizes and formats", "", columns([sizes, ratios]), formats)


def _sizes_figure(report: DatasetReport, places: NDArray[np.int64]) -> go.Figure:
    widths, heights = report.sizes[places].T
    marks = go.Scatter(
        x=widths,
        y=heights,
        mode="markers",
        marker={"size": 6, "opacity": 0.6, "color": TRAIN_COLOUR},
        text=[plot_text(report.names[place]) for place in places.tolist()],
        hovertemplate="%{text}<br>%{x} × %{y} pixels<extra></extra>",
    )
    figure = go.Figure(marks)
    figure.update_xaxes(type="log", title="width, pixels", **_log_ticks(widths))
    figure.update_yaxes(type="log", title="height, pixels", **_log_ticks(heights))
    return figure


def _log_ticks(values: NDArray[np.int64]) -> dict[str, object]:
    """Plain numbers at an axis of sizes, wide enough for some of them, even where all sizes are the same."""
    low, high = float(values.min()) / 1.25, float(values.max()) * 1.25
    ticks = [step * 10**power for power in range(6) for step in (1, 2, 3, 5, 7) if low <= step * 10**power <= high]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if str(tick)[0] in "125"]
    return {"range": np.log10([low, high]).tolist(), "tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}


def _ratios_figure(sizes: NDArray[np.int64]) -> go.Figure:
    edges = np.geomspace(1 / 4, 4, _BINS)
    counts, _ = np.histogram(np.clip(sizes[:, 0] / sizes[:, 1], edges[0], edges[-1]), edges)
    # On a logarithmic axis of its own, for plotly cannot draw bars of equal width on one.
    places = np.log2(edges)
    figure = go.Figure(
        go.Bar(
            x=(places[1:] + places[:-1]) / 2,
            y=counts,
            width=np.diff(places),
            marker={"color": TRAIN_COLOUR, "line": {"width": 0}},
            customdata=np.stack([edges[:-1], edges[1:]], axis=1),
            hovertemplate="%{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y} images<extra></extra>",
        )
    )
    ticks = np.log2(list(_RATIOS)).tolist()
    figure.update_xaxes(title="width : height", tickvals=ticks, ticktext=list(_RATIOS.values()), range=[-2.1, 2.1])
    figure.update_yaxes(title="images")
    return figure


def _intensity(report: DatasetReport) -> Section:
    histogram = plot(
        _intensity_figure(report.histogram),
        "Shares of the 256 levels of red, green and blue",
        "Share of all pixels at each level of red, green and blue, 0 dark to 255 bright.",
        title="Intensities",
    )
    levels = np.rint(np.clip(report.mean, 0, 1) * 255).astype(np.uint8)
    large = Image.fromarray(levels).resize((_MEAN_SIDE, _MEAN_SIDE), Image.Resampling.BICUBIC)
    mean = picture(
        as_webp(large), "The mean of all images", f"Mean of {len(report.names):,} images", title="Mean picture"
    )
    spread = plot(
        _spread_figure(report.spread.mean(axis=2)),
        "Standard deviation of each pixel over all images",
        "Standard deviation of each pixel over all images",
        title="Spread",
    )
    return Section("Intensities and mean picture", "", histogram, columns([mean, spread]))


def _intensity_figure(histogram: NDArray[np.int64]) -> go.Figure:
    shares = histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)
    figure = go.Figure()
    for (name, colour), share in zip(_BANDS, shares, strict=True):
        line = {"color": colour, "width": 1.5, "shape": "hvh"}
        hover = f"{name} %{{x}}: %{{y:.3%}}<extra></extra>"
        figure.add_scatter(x=np.arange(len(share)), y=share, name=name, mode="lines", line=line, hovertemplate=hover)
    # One level, such as white paper, may hold most pixels: the rest is to be seen all the same.
    top = min(float(shares.max()), 3 * float(np.quantile(shares, 0.98))) or 1.0
    figure.update_yaxes(title="share of pixels", range=[0, 1.05 * top], tickformat=".1%")
    figure.update_xaxes(title="level", range=[0, 255], dtick=32)
    figure.update_layout(hovermode="x")
    return figure


def _spread_figure(spread: NDArray[np.float64]) -> go.Figure:
    hover = "row %{y}, column %{x}: %{z:.3f}<extra></extra>"
    bar = {
        "thickness": 12,
        "outlinewidth": 0,
        "orientation": "h",
        "y": -0.02,
        "yanchor": "top",
        "len": 0.6,
        "nticks": 5,
    }
    figure = go.Figure(go.Heatmap(z=spread, colorscale="Viridis", zmin=0, colorbar=bar, hovertemplate=hover))
    figure.update_yaxes(autorange="reversed", visible=False, scaleanchor="x", constrain="domain")
    figure.update_xaxes(visible=False, constrain="domain")
    return figure


# ---------------------------------------------------------------- measures


def _measures(report: DatasetReport) -> Section:
    series = {"train": TRAIN_COLOUR, "test": TEST_COLOUR} if (report.sides != "").any() else {"": GREY}
    plots = columns(
        plot(
            _measure_figure(report.measures[measure.name], report.sides, series),
            f"Histogram of {measure.title}",
            measure.meaning,
            height=180,
            title=measure.title,
        )
        for measure in MEASURES
    )
    text = (
        "The share of images with each value. The few far ones are counted at the ends: between these lie 99 % of all."
    )
    return Section("Measures", text, *([colour_key(series)] if len(series) > 1 else []), plots)


def _measure_figure(values: NDArray[np.floating], sides: NDArray[np.str_], series: Mapping[str, str]) -> go.Figure:
    low, high = np.percentile(values, (0.5, 99.5))  # a few far ones would squeeze the others into one bar
    edges = np.linspace(low, high if high > low else low + 1e-6, _BINS)
    figure = go.Figure()
    for side, colour in series.items():
        counts, _ = np.histogram(np.clip(values[sides == side], edges[0], edges[-1]), edges)
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts / max(counts.sum(), 1),
            width=np.diff(edges),
            name=side,
            opacity=0.7,
            marker={"color": colour, "line": {"width": 0}},
            customdata=np.stack([edges[:-1], edges[1:], counts], axis=1),
            hovertemplate="%{customdata[0]:.4g} to %{customdata[1]:.4g}<br>%{y:.1%}, %{customdata[2]} "
            f"{side} images<extra></extra>",
        )
    figure.update_layout(barmode="overlay", showlegend=False, margin={"t": 4, "b": 24})
    figure.update_xaxes(nticks=6)
    figure.update_yaxes(tickformat=".0%", nticks=4, rangemode="tozero")
    return figure


def _train_and_test(report: DatasetReport) -> Section:
    rows = [(TITLES[measure], *values) for measure, *values in report.distances]
    header = ["measure", "train mean", "test mean", "Kolmogorov-Smirnov", "p-value", "Wasserstein"]
    text = (
        "Whether the test images are like the train images: the Kolmogorov-Smirnov distance is 0 where a measure is "
        "distributed alike and 1 where nothing overlaps; a p-value below 0.001 can hardly be chance; the Wasserstein "
        "distance is in standard deviations of all images."
    )
    return Section("Train and test", text, table(header, rows, "Distances between train and test images"))
