"""The page of a search for anomalies: the strangest images with heat maps, and how well folders are told apart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib import colormaps
from numpy.typing import NDArray

from fext.model.detection import Curves
from fext.model.verdict import NO_REFERENCES
from fext.pictures.evaluation_report import shown_pixels
from fext.pictures.figures import GREY, TEST_COLOUR, TRAIN_COLOUR
from fext.pictures.page import (
    Html,
    Item,
    Section,
    bullets,
    columns,
    data_uri,
    gallery,
    page,
    plot,
    plot_text,
    table,
)

COMBINED = "combined"
_CHANCE = 0.5
_HOTTEST = 2.0  # times the strangest place of a normal image: the end of the colours
_COOLEST = 0.5  # below it a place is left as it is
_MOST_POINTS = 500
_GAP = 4  # pixels between an image and its heat map
_CURVE_COLOURS = (TEST_COLOUR, TRAIN_COLOUR, "#54a24b", "#b279a2")


@dataclass(frozen=True)
class Shown:
    """An image (H, W, C) in [0, 1], its combined score, and its heat map (H, W), where 1 is the strangest place that a
    normal image typically has."""

    name: str
    score: float
    is_found: bool
    image: NDArray[np.float32]
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class Report:
    """summary.json, the combined scores of the images and of held-back ones, folders, and curves by score."""

    summary: Mapping[str, Any]
    scores: NDArray[np.float64]
    held_back: NDArray[np.float64]
    labels: Sequence[str]
    normal: str | None
    curves: Mapping[str, Curves]


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """What a search has found, in sentences."""
    found, scored = summary["num_found"], summary["num_scored"]
    verdict = summary.get("verdict")
    told = [
        *(verdict["sentences"] if verdict else []),
        *_warnings(summary),
        f"{found:,} of {scored:,} images are anomalous: more unlike the train images than the threshold allows.",
    ]
    if summary["threshold_by"] == "false_alarms":
        told.append(
            f"The threshold lets at most {summary['false_alarms_asked']:.1%} of normal images pass for anomalous; it "
            f"was set by {summary['num_held_back']:,} held-back ones, of which {summary['false_alarms_held_back']:.1%} "
            f"lie above it."
        )
    else:
        told.append(
            "The threshold is where F1 is best on these very images, so other images will be told apart a little worse."
        )
    if summary["num_train_left_out"]:
        told.append(f"{summary['num_train_left_out']:,} images are not scored, for the model was trained on them.")
    if "scores" in summary:
        told.append(
            f"By their folders {summary['num_anomalous']:,} are anomalous and {summary['num_normal']:,} normal: the "
            f"combined score has an AUROC of {summary['scores'][COMBINED]['auroc']:.3f} (0.5 is chance), F1 is "
            f"{summary['f1']:.3f} at the threshold and {summary['scores'][COMBINED]['best_f1']:.3f} at the best one."
        )
        best = _best(summary, summary["scores"])
        if best != COMBINED and best not in summary["combined_of"]:
            told.append(f"Of the single scores {best} does best: {_auroc(summary, best):.3f}.")
        told.append(summary["interval_groups"]["sentence"] if verdict else NO_REFERENCES)
    return told


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    """What is wrong with the scores, where folders tell: worse than one of the parts, or than chance."""
    if "scores" not in summary:
        return []
    said, own, part = [], _auroc(summary, COMBINED), _best(summary, summary["combined_of"])
    if own < _CHANCE:
        said.append(
            f"The combined score is below chance: its AUROC is {own:.3f}, so normal images seem stranger to it than "
            f"anomalous ones. Do not rely on it here."
        )
    if _auroc(summary, part) > own:
        said.append(
            f"The combined score, with an AUROC of {own:.3f}, is below the best of its parts, {part} with "
            f"{_auroc(summary, part):.3f}: anomaly_views says what it is made of."
        )
    others = [name for name in summary["scores"] if name != COMBINED and _auroc(summary, name) < _CHANCE]
    if others:
        said.append(f"Below chance (an AUROC under {_CHANCE}) by themselves: {', '.join(others)}.")
    folders = [name for name, folder in summary["folders"].items() if folder["auroc"] < _CHANCE]
    if folders and own >= _CHANCE:
        said.append(f"The combined score is below chance for these folders: {', '.join(folders)}.")
    return said


def _best(summary: Mapping[str, Any], names: Iterable[str]) -> str:
    return max(names, key=lambda name: _auroc(summary, name))


def _auroc(summary: Mapping[str, Any], name: str) -> float:
    return float(summary["scores"][name]["auroc"])


def anomalies_page(report: Report, shown: Mapping[str, Iterable[Shown]]) -> Iterator[Html]:
    """The page in pieces, as page.page gives them."""
    summary = report.summary
    introduction = (
        f"Images of {summary['source']} by how unlike they are to the images that {summary['checkpoint']['name']} was "
        f"trained on. The combined score is the mean of {len(summary['combined_of'])} scores, each on the scale of "
        f"held-back normal images: 0 is their mean, 1 one deviation above it."
    )
    sections = [Section("In short", "", bullets(verdicts(summary)))]
    if report.curves:
        sections += [_scores(report), _curves(report)]
    sections.append(_histogram(report))
    text = (
        "Beside each image the places where it is unlike normal ones: from the strangest place that a normal image "
        "typically has half way up to twice that, dark to bright."
    )
    for number, (title, items) in enumerate(shown.items()):
        sections.append(Section(title, text if number == 0 else "", _gallery(items)))
    return page(f"Anomalies: {summary['checkpoint']['name']}", introduction, sections)


def _scores(report: Report) -> Section:
    summary = report.summary
    rows = [
        (name.replace("_", " "), score["auroc"], score["average_precision"], score["best_f1"])
        for name, score in summary["scores"].items()
    ]
    folders = [
        (name, folder["num_images"], folder["num_found"], folder["auroc"])
        for name, folder in summary["folders"].items()
    ]
    return Section(
        "Scores",
        "",
        table(["score", "AUROC", "average precision", "best F1"], rows, "How well each score tells the folders apart"),
        table(["folder", "images", "found", "AUROC"], folders, "Each folder against the normal images, combined score"),
    )


def _curves(report: Report) -> Section:
    best = sorted(report.curves, key=lambda name: -report.curves[name].auroc)
    names = list(dict.fromkeys([COMBINED, *best[:2], best[-1]]))
    roc, precision = go.Figure(), go.Figure()
    for name, colour in zip(names, _CURVE_COLOURS, strict=False):
        curve = report.curves[name]
        label = plot_text(name.replace("_", " "))
        roc.add_scatter(**_line(curve.false_alarms, curve.found, colour, label))
        precision.add_scatter(**_line(curve.recall, curve.precision, colour, label))
    for figure, across, up in (
        (roc, "normal images above the threshold", "anomalous ones above it"),
        (precision, "recall", "precision"),
    ):
        figure.update_xaxes(title=across, range=[0, 1])
        figure.update_yaxes(title=up, range=[0, 1.02])
        figure.update_layout(legend={"orientation": "h", "y": -0.3})
    return Section(
        "At every threshold",
        "The combined score, the two best ones, and the worst.",
        columns(
            [
                plot(roc, "Receiver operating characteristic", title="Receiver operating characteristic", height=380),
                plot(precision, "Precision by recall", title="Precision and recall", height=380),
            ]
        ),
    )


def _line(across: NDArray[np.float64], up: NDArray[np.float64], colour: str, label: str) -> dict[str, Any]:
    places = np.unique(np.linspace(0, len(across) - 1, min(_MOST_POINTS, len(across))).astype(int))
    return {
        "x": across[places].round(4),
        "y": up[places].round(4),
        "mode": "lines",
        "line": {"color": colour, "width": 2},
        "name": label,
        "hovertemplate": f"{label}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    }


def _histogram(report: Report) -> Section:
    labels = np.array(report.labels)
    groups = {"held back": report.held_back}
    if report.normal is None:
        groups["images"] = report.scores
    else:
        groups |= {
            "normal": report.scores[labels == report.normal],
            "anomalous": report.scores[labels != report.normal],
        }
    every = np.concatenate(list(groups.values()))
    edges = np.linspace(every.min(), every.max() + 1e-9, 41)
    figure = go.Figure()
    for (name, values), colour in zip(groups.items(), (GREY, TRAIN_COLOUR, TEST_COLOUR), strict=False):
        if len(values):
            shares = np.histogram(values, edges)[0] / len(values)
            figure.add_scatter(
                x=((edges[1:] + edges[:-1]) / 2).round(3),
                y=shares.round(4),
                mode="lines",
                line={"shape": "hvh", "color": colour, "width": 2},
                name=name,
                hovertemplate=f"{name}: %{{y:.1%}} at %{{x:.2f}}<extra></extra>",
            )
    figure.add_vline(x=report.summary["threshold"], line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(title="combined score")
    figure.update_yaxes(title="share of images", tickformat=".0%")
    text = f"The dotted line is the threshold, {report.summary['threshold']:.3g}."
    return Section("Combined score", text, plot(figure, "Histograms of the combined score", height=320))


def _gallery(items: Iterable[Shown]) -> Iterator[Html]:
    yield gallery(
        Item(
            shown.name,
            (f"{shown.score:.2f}, {'anomalous' if shown.is_found else 'normal'}",),
            picture := data_uri(beside_heat(shown.image, shown.heat)),
            picture,
        )
        for shown in items
    )


def beside_heat(image: NDArray[np.float32], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, 2 W + 4, 3): an image (H, W, C) in [0, 1], and beside it the same under its heat map (H, W)."""
    plain = shown_pixels(image)
    strength = np.clip((heat - _COOLEST) / (_HOTTEST - _COOLEST), 0, 1)
    colours = colormaps["inferno"](0.35 + 0.65 * strength)[..., :3] * 255
    share = np.minimum(strength * 3, 0.75)[..., None]
    overlaid = (plain * (1 - share) + colours * share).round().astype(np.uint8)
    gap = np.full((len(plain), _GAP, 3), 128, np.uint8)
    both: NDArray[np.uint8] = np.concatenate([plain, gap, overlaid], axis=1)
    return both
