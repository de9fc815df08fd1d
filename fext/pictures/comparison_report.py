"""The page that holds several checkpoints against each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fext.model.intervals import Interval
from fext.pictures.evaluation_report import shown_pixels
from fext.pictures.figures import GREY, TEST_COLOUR, Pair
from fext.pictures.page import (
    Html,
    Item,
    Section,
    bullets,
    columns,
    data_uri,
    gallery,
    group,
    page,
    plot,
    plot_text,
    table,
)

_NUM_POINTS = 2000


@dataclass(frozen=True)
class ComparedCheckpoint:
    """A checkpoint, its mean scores, and what it has more than the best one (None for that one), with intervals."""

    name: str
    architecture: str
    latent_shape: tuple[int, int, int]
    picture_shape: tuple[int, int, int]
    resize_mode: str
    epochs: object
    psnr: Interval
    ssim: Interval
    psnr_minus_best: Interval | None
    ssim_minus_best: Interval | None


@dataclass(frozen=True)
class SideBySide:
    """An image, by how much the best checkpoint is ahead of the second on it (dB), and what each makes of it."""

    name: str
    gain: float
    pairs: Mapping[str, Pair]


@dataclass(frozen=True)
class Comparison:
    """The checkpoints, the best first, and the scores of each, (N, 4): MSE, MAE, PSNR, SSIM of the named images.

    `groups` is a sentence on what their intervals take for independent.
    """

    source: str
    names: Sequence[str]
    checkpoints: Sequence[ComparedCheckpoint]
    scores: Mapping[str, NDArray[np.float64]]
    shown: Sequence[SideBySide]
    groups: str


def comparison_page(comparison: Comparison, verdicts: Sequence[str]) -> Iterator[Html]:
    """The page in pieces, as page.page gives them."""
    introduction = (
        f"On {len(comparison.names):,} images of {comparison.source} that none of these checkpoints was trained on. "
        f"Intervals are 95 % confidence intervals. Differences are those of the same images; with more than two "
        f"checkpoints their intervals are so wide that all hold together (Bonferroni). {comparison.groups}"
    )
    sections = [
        Section("In short", "", bullets(verdicts)),
        _scores(comparison),
        _image_by_image(comparison),
        _reconstructions(comparison),
    ]
    names = ", ".join(checkpoint.name for checkpoint in comparison.checkpoints)
    return page(f"Side by side: {names}", introduction, sections)


def _scores(comparison: Comparison) -> Section:
    header = [
        "checkpoint",
        "architecture",
        "latent",
        "epochs",
        "PSNR dB",
        "interval",
        "less the best",
        "SSIM",
        "interval",
    ]
    rows = [
        (
            checkpoint.name,
            checkpoint.architecture,
            "×".join(map(str, checkpoint.latent_shape)),
            checkpoint.epochs,
            checkpoint.psnr.mean,
            _ends(checkpoint.psnr, 2),
            _less_best(checkpoint.psnr_minus_best),
            checkpoint.ssim.mean,
            _ends(checkpoint.ssim, 3),
        )
        for checkpoint in comparison.checkpoints
    ]
    plots = columns(
        [
            plot(_intervals(comparison, "psnr"), "Mean PSNR with intervals", title="PSNR, dB", height=220),
            plot(
                _intervals(comparison, "psnr_minus_best"),
                "PSNR less that of the best",
                title="PSNR less that of the best, dB",
                height=220,
            ),
        ]
    )
    return Section("Scores", "", table(header, rows, "The best by PSNR first"), plots)


def _ends(interval: Interval, digits: int) -> str:
    return "" if interval.low is None else f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"


def _less_best(interval: Interval | None) -> str:
    return "" if interval is None else interval.text(digits=2)


def _intervals(comparison: Comparison, score: str) -> go.Figure:
    found = [
        (checkpoint.name, getattr(checkpoint, score))
        for checkpoint in reversed(comparison.checkpoints)
        if getattr(checkpoint, score) is not None
    ]
    means = [interval.mean for _, interval in found]
    ahead = [0 if interval.high is None else interval.high - interval.mean for _, interval in found]
    back = [0 if interval.low is None else interval.mean - interval.low for _, interval in found]
    figure = go.Figure(
        go.Scatter(
            x=means,
            y=[plot_text(name) for name, _ in found],
            error_x={"type": "data", "array": ahead, "arrayminus": back, "color": GREY},
            mode="markers",
            marker={"size": 10, "color": TEST_COLOUR},
            hovertemplate="%{y}: %{x:.3f} dB<extra></extra>",
        )
    )
    if score.endswith("best"):
        figure.add_vline(x=0, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_yaxes(type="category", automargin=True)
    return figure


def _image_by_image(comparison: Comparison) -> Section:
    best, second, *_ = comparison.checkpoints
    one, other = (comparison.scores[checkpoint.name][:, 2] for checkpoint in (best, second))
    places = np.unique(np.linspace(0, len(one) - 1, min(_NUM_POINTS, len(one))).astype(int))
    ends = [float(min(one.min(), other.min())), float(max(one.max(), other.max()))]
    figure = go.Figure()
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot", "width": 1}, hoverinfo="skip")
    figure.add_scatter(
        x=other[places].round(3),
        y=one[places].round(3),
        mode="markers",
        marker={"size": 6, "opacity": 0.6, "color": TEST_COLOUR},
        text=[plot_text(comparison.names[place]) for place in places.tolist()],
        hovertemplate="%{text}<br>%{y:.2f} against %{x:.2f} dB<extra></extra>",
    )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title=plot_text(f"PSNR of {second.name}, dB"))
    figure.update_yaxes(title=plot_text(f"PSNR of {best.name}, dB"))
    share = float(np.mean(one > other))
    text = f"{best.name} reconstructs {share:.0%} of the images better than {second.name}: those above the line."
    return Section("Image by image", text, plot(figure, "PSNR of the best two, image by image", height=420))


def _reconstructions(comparison: Comparison) -> Section:
    best, second, *_ = comparison.checkpoints
    groups = [
        group(
            f"{item.name}: {item.gain:+.2f} dB",
            gallery(
                [
                    Item("original", (), data_uri(shown_pixels(item.pairs[best.name].original))),
                    *(
                        Item(
                            checkpoint.name,
                            (item.pairs[checkpoint.name].caption,),
                            data_uri(shown_pixels(item.pairs[checkpoint.name].reconstruction)),
                        )
                        for checkpoint in comparison.checkpoints
                    ),
                ]
            ),
        )
        for item in comparison.shown
    ]
    text = f"Where {best.name} is most ahead of {second.name}, and where least, in dB PSNR."
    return Section("Reconstructions", text, *groups)
