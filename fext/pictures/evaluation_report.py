"""The report page of an evaluation: how good a model is, how sure that is, where it errs, and what its latent holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from fext.data.split import chosen_by
from fext.data.thumbnails import as_webp
from fext.model.intervals import Interval
from fext.model.latent_statistics import LatentSummary
from fext.model.verdict import UNTRAINED, Verdict, Yardstick, judge, share
from fext.pictures.evaluation_figures import SUBSET_COLOURS, pasted
from fext.pictures.figures import GREY, MOST_ERROR, TEST_COLOUR, TRAIN_COLOUR, Pair, error_map
from fext.pictures.page import (
    Html,
    Item,
    Section,
    bullets,
    colour_key,
    columns,
    data_uri,
    facts,
    gallery,
    group,
    page,
    picture,
    plot,
    plot_text,
    table,
)

Summary = Mapping[str, Any]

METHOD_NAMES = {"model": "model", "linear_map": "linear map", "mean_image": "mean image"}
ENCODER_NAMES = {
    "model": "this model",
    "untrained": "the same before training",
    "linear_map": "linear map",
    "imagenet_vgg16": "VGG16 trained on ImageNet",
    "pixels": "pixels",
}
_UNSEEN = ("test", "new")
_REFERENCES = (UNTRAINED, "linear_map", "pixels")
_LABELS_OF_THE_NEAREST = share(
    "{} % of test images have the label of the nearest train images", " the features", "telling folders apart"
)
_READOUT = Yardstick("{} dB PSNR of what a linear readout gets out of the latent", "dB", 2, helps=" the features")
_METHOD_COLOURS = {"model": TEST_COLOUR, "linear_map": TRAIN_COLOUR, "mean_image": GREY}
_LABEL_COLOURS = (
    "#4c78a8", "#e4572e", "#54a24b", "#b279a2", "#eeca3b", "#9d755d", "#72b7b2", "#ff9da6", "#79706e", "#8cd17d",
)  # fmt: skip
_NUM_ROWS, _NUM_POINTS, _BINS = 1000, 2000, 40
_MOST_TICKS = 12
_MOST_CELLS = 256  # of a heat map a side
_SHOWN_SIDE = 160  # pixels of a thumbnail


@dataclass(frozen=True)
class Placed:
    """Images on a map: names, subsets, labels (the folders they are in), thumbnails (N, side, side, 3), and the places
    of each by title, (N, 2)."""

    names: Sequence[str]
    subsets: NDArray[np.str_]
    labels: Sequence[str]
    thumbnails: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class EvaluationReport:
    """All that the page tells.

    `summary` is that of summary.json. `names`, `subsets` and `scores` (by method, (N, 4): MSE, MAE, PSNR, SSIM) belong
    to the images that could be read; `error_map` is (H, W), `region_errors` and `region_ssim` (rows, columns), of the
    `shown` subset. `neighbours` holds rows of (thumbnail, name, caption), the image itself first.
    """

    summary: Summary
    training: Mapping[str, object]
    history: Sequence[Mapping[str, float]]
    names: Sequence[str]
    subsets: NDArray[np.str_]
    scores: Mapping[str, NDArray[np.float64]]
    shown: str
    pairs: Mapping[str, Sequence[Pair]]
    error_map: NDArray[np.float64]
    region_errors: NDArray[np.float64]
    region_ssim: NDArray[np.float64]
    latent: LatentSummary
    neighbours: Sequence[Sequence[tuple[NDArray[np.uint8], str, str]]]
    placed: Placed | None


def evaluation_page(report: EvaluationReport) -> Iterator[Html]:
    """The page in pieces, as page.page gives them."""
    summary = report.summary
    introduction = (
        f"{summary['architecture']}, evaluated on {summary['num_images']:,} images of {summary['source']}. Intervals "
        f"are 95 % confidence intervals of means over images. {summary['interval_groups']['sentence']}"
    )
    sections = [
        Section("In short", "", bullets(verdicts(summary))),
        _scores(report),
        _reconstructions(report),
        _regions(report),
        _every_image(report),
        _encoders(summary),
        _latent(report.latent),
        _neighbours(report),
        *([_maps(report.placed)] if report.placed else []),
        *([_kept_channels(summary["kept_channels"])] if "kept_channels" in summary else []),
        _training(report),
    ]
    return page(f"Evaluation of {summary['checkpoint']}", introduction, sections)


# ---------------------------------------------------------------- in words


def verdicts(summary: Summary) -> list[str]:
    """What the numbers say, a sentence each; first whether training helped."""
    reconstruction, features = reconstruction_verdict(summary), features_verdict(summary)
    without = "Nothing says whether training helped the features: there are too few train or test images here."
    return [
        *(reconstruction.sentences if reconstruction is not None else []),
        *(features.sentences if features is not None else [without]),
        *_how_good(summary),
        *_train_beside_test(summary),
        _of_the_latent(summary["latent"]),
        *([_of_the_rejected(summary["rejected"])] if summary["rejected"] else []),
    ]


def reconstruction_verdict(summary: Summary) -> Verdict | None:
    """PSNR of unseen images beside that of the linear map; None where there are no such images, or no map."""
    for subset in _UNSEEN:
        found = summary["subsets"].get(subset, {})
        if "model_minus_linear_map" in found:
            psnr, gain = (_interval(found[method]["psnr"]) for method in ("model", "model_minus_linear_map"))
            words = f"{{}} dB PSNR of {subset} images"
            return judge(Yardstick(words, "dB", 2, helps=" reconstruction"), psnr, {"linear_map": gain})
    return None


def features_verdict(summary: Summary) -> Verdict | None:
    """What the latent is worth beside that before training, the linear map and pixels: by labels where folders are
    such, else by the linear readout, at which the linear map is the best by its making; None where it was not judged.

    An evaluation of an earlier version, which has no intervals of labels, is judged by the readout.
    """
    if "encoders" not in summary:
        return None
    encoders = summary["encoders"]["encoders"]
    accuracy = encoders["model"].get("label_accuracy_interval")
    if accuracy is not None:
        minus = {name: encoders[name]["label_accuracy_model_minus"] for name in _REFERENCES if name in encoders}
        differences = {name: _interval(one) for name, one in minus.items()}
        return judge(_LABELS_OF_THE_NEAREST, _interval(accuracy), differences)
    readout = encoders["model"]["readout_psnr"]
    gain = _interval(encoders["model"]["gain_over_untrained"])
    return judge(_READOUT, Interval(readout, None, None), {UNTRAINED: gain})


def _how_good(summary: Summary) -> list[str]:
    found = []
    for subset in _UNSEEN:
        if subset not in summary["subsets"]:
            continue
        is_kind = subset == "test" and summary.get("epoch_chosen_by") == "test"
        scores = summary["subsets"][subset]
        psnr, ssim = (_interval(scores["model"][score]) for score in ("psnr", "ssim"))
        found.append(
            f"{subset.capitalize()} images are reconstructed at {psnr.text('dB', signed=False)} PSNR and an SSIM of "
            f"{ssim.text(digits=3, signed=False)}."
            + " The epoch was chosen on these images: their scores are kind."
            * is_kind
        )
    return found


def _train_beside_test(summary: Summary) -> list[str]:
    if "train_minus_test" not in summary:
        return []
    gap = _interval(summary["train_minus_test"]["psnr"])
    if gap.excludes_zero and gap.mean > 0:
        return [
            f"Train images come out better than test images, by {gap.text('dB')}: the model has partly learned them by "
            f"heart, or they are easier."
        ]
    if gap.excludes_zero:
        return [f"Test images come out better than train images, by {gap.negated().text('dB')}: they are easier."]
    if gap.high is None:
        return ["There are too few images to tell whether train images come out better than test images."]
    return [
        f"Between train and test images no difference can be told ({gap.text('dB')}); one of up to {gap.high:.2f} dB "
        f"cannot be ruled out."
    ]


def _of_the_latent(latent: Summary) -> str:
    dead, redundant, channels = len(latent["dead_channels"]), len(latent["redundant_channels"]), latent["num_channels"]
    rank = f"their effective rank is {latent['effective_rank']:.0f} of {channels}"
    if not dead and not redundant:
        return f"None of the {channels} latent channels is dead or redundant; {rank}."
    return f"Of the {channels} latent channels {dead} are dead and {redundant} redundant; {rank}."


def _of_the_rejected(rejected: Sequence[Mapping[str, str]]) -> str:
    first = rejected[0]
    others = f" and {len(rejected) - 1:,} others" if len(rejected) > 1 else ""
    return f"Not read, and left out: {first['image']} ({first['reason']}){others}; summary.json names all."


def _interval(value: Summary) -> Interval:
    return Interval(value["mean"], value["mean_low"], value["mean_high"])


# ---------------------------------------------------------------- scores


def _scores(report: EvaluationReport) -> Section:
    rows = [
        (
            f"{subset} ({found['num_images']:,})",
            METHOD_NAMES[method],
            found[method]["psnr"]["mean"],
            _range(found[method]["psnr"], 2),
            found[method]["psnr"]["std"],
            found[method]["ssim"]["mean"],
            _range(found[method]["ssim"], 3),
            found[method]["mse"]["mean"],
            found[method]["mae"]["mean"],
        )
        for subset, found in report.summary["subsets"].items()
        for method in METHOD_NAMES
        if method in found
    ]
    header = ["images", "method", "PSNR dB", "interval", "spread", "SSIM", "interval", "MSE", "MAE"]
    plots = columns(
        plot(
            _psnr_figure(report, subset),
            f"Histogram of PSNR of {subset} images by method",
            title=f"PSNR of {subset} images",
        )
        for subset in report.summary["subsets"]
    )
    text = (
        "The linear map is the best one of as many channels as the latent has for the picture (principal components of "
        "squares of pixels), the mean image what a model scores that has learned nothing of the single image."
    )
    return Section("Scores", text, table(header, rows, "Means over images"), colour_key(_method_colours(report)), plots)


def _method_colours(report: EvaluationReport) -> dict[str, str]:
    return {METHOD_NAMES[method]: _METHOD_COLOURS[method] for method in report.scores}


def _range(value: Summary, digits: int) -> str:
    return "" if value["mean_low"] is None else f"{value['mean_low']:.{digits}f} to {value['mean_high']:.{digits}f}"


def _psnr_figure(report: EvaluationReport, subset: str) -> go.Figure:
    psnr = {method: scores[report.subsets == subset, 2] for method, scores in report.scores.items()}
    everything = np.concatenate(list(psnr.values()))
    edges = np.linspace(everything.min(), everything.max() + 1e-6, _BINS)
    figure = go.Figure()
    for method, values in psnr.items():
        counts, _ = np.histogram(values, edges)
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=counts,
            width=edges[1] - edges[0],
            opacity=0.65,
            marker={"color": _METHOD_COLOURS[method], "line": {"width": 0}},
            hovertemplate=f"{METHOD_NAMES[method]}, %{{x:.1f}} dB: %{{y}} images<extra></extra>",
        )
    figure.update_layout(barmode="overlay", showlegend=False)
    figure.update_xaxes(title="PSNR, dB")
    figure.update_yaxes(title="images")
    return figure


def _reconstructions(report: EvaluationReport) -> Section:
    groups = [
        group(
            f"{title.capitalize()} {report.shown} images",
            gallery(Item(pair.name, (pair.caption,), *_strip(pair)) for pair in pairs),
        )
        for title, pairs in report.pairs.items()
    ]
    text = (
        f"By PSNR. A click shows the original, the reconstruction and the error, black for none, light yellow for "
        f"{MOST_ERROR:g} or more of the whole range."
    )
    return Section("Reconstructions", text, *groups)


def _strip(pair: Pair) -> tuple[str, str]:
    """The reconstruction small, and original, reconstruction and error beside each other."""
    original, reconstruction = (shown_pixels(image) for image in (pair.original, pair.reconstruction))
    error = (colormaps["magma"](np.clip(error_map(pair) / MOST_ERROR, 0, 1))[:, :, :3] * 255).round().astype(np.uint8)
    gap = np.full((original.shape[0], 4, 3), 255, np.uint8)
    step = max(1, max(original.shape[:2]) // _SHOWN_SIDE)
    strip = np.concatenate([original, gap, reconstruction, gap, error], axis=1)
    return data_uri(np.ascontiguousarray(reconstruction[::step, ::step])), data_uri(strip)


def shown_pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, C) in [0, 1] as (H, W, 3) of 8 bits."""
    coloured = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    pixels: NDArray[np.uint8] = (np.clip(coloured, 0, 1) * 255).round().astype(np.uint8)
    return pixels


def _regions(report: EvaluationReport) -> Section:
    text = (
        f"The mean over the {report.shown} images. A region is what one position of the latent stands for; where one "
        f"is much worse than the others, the model has a blind spot there, or the images are busiest there."
    )
    maps = (
        ("Error of each pixel", report.error_map, "Magma", "error"),
        ("Error of each region", report.region_errors, "Magma", "error"),
        ("SSIM of each region", report.region_ssim, "Viridis", "SSIM"),
    )
    plots = columns(
        plot(_heatmap(values, colours, kind), title, title=title, height=340) for title, values, colours, kind in maps
    )
    return Section("Where the errors lie", text, plots)


def _heatmap(values: NDArray[np.float64], colours: str, kind: str) -> go.Figure:
    step = -(-max(values.shape) // _MOST_CELLS)
    values = values[::step, ::step]
    hover = f"row %{{y}}, column %{{x}}: {kind} %{{z:.4f}}<extra></extra>"
    bar = {"thickness": 12, "outlinewidth": 0, "orientation": "h", "y": -0.02, "yanchor": "top", "nticks": 5}
    figure = go.Figure(
        go.Heatmap(z=values.round(5), dx=step, dy=step, colorscale=colours, colorbar=bar, hovertemplate=hover)
    )
    figure.update_yaxes(autorange="reversed", visible=False, scaleanchor="x", constrain="domain")
    figure.update_xaxes(visible=False, constrain="domain")
    return figure


def _every_image(report: EvaluationReport) -> Section:
    scores = report.scores["model"]
    order = np.argsort(scores[:, 2], kind="stable")[:_NUM_ROWS].tolist()
    rows = [(report.names[place], str(report.subsets[place]), *scores[place, [2, 3, 0, 1]].tolist()) for place in order]
    more = len(report.names) > _NUM_ROWS
    note = f": the worst {_NUM_ROWS:,} of {len(report.names):,}; all are in per_image.csv" if more else ""
    header = ["image", "subset", "PSNR dB", "SSIM", "MSE", "MAE"]
    return Section(
        "Every image",
        "",
        plot(_scatter(report), "PSNR against SSIM of each image", title="PSNR and SSIM of each image"),
        table(header, rows, f"Images by PSNR, the worst first{note}"),
    )


def _scatter(report: EvaluationReport) -> go.Figure:
    figure = go.Figure()
    for subset, colour in SUBSET_COLOURS.items():
        places = np.flatnonzero(report.subsets == subset)
        if not len(places):
            continue
        places = places[np.unique(np.linspace(0, len(places) - 1, min(_NUM_POINTS, len(places))).astype(int))]
        figure.add_scatter(
            x=report.scores["model"][places, 2].round(3),
            y=report.scores["model"][places, 3].round(4),
            mode="markers",
            name=subset,
            marker={"size": 6, "opacity": 0.6, "color": colour},
            text=[plot_text(report.names[place]) for place in places.tolist()],
            hovertemplate="%{text}<br>%{x:.2f} dB, SSIM %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="PSNR, dB")
    figure.update_yaxes(title="SSIM")
    figure.update_layout(showlegend=True)
    return figure


# ---------------------------------------------------------------- the latent


def _encoders(summary: Summary) -> Section:
    title = "Did training help?"
    if "encoders" not in summary:
        return Section(
            title,
            "Not judged: there are too few train or test images here, or each position of the latent stands for too "
            "many pixels.",
        )
    found = summary["encoders"]
    has_labels = found["num_labels"] > 0
    rows = [
        (
            ENCODER_NAMES[name],
            "" if encoder["readout_psnr"] is None else encoder["readout_psnr"],
            "" if encoder["gain_over_untrained"] is None else _interval(encoder["gain_over_untrained"]).text(),
            "" if encoder["effective_rank"] is None else encoder["effective_rank"],
            *([encoder["label_accuracy"], _label_gain(encoder)] if has_labels else []),
        )
        for name, encoder in found["encoders"].items()
    ]
    header = [
        "encoder",
        "readout PSNR dB",
        "gain over before",
        "effective rank",
        *(["labels right", "model less this"] if has_labels else []),
    ]
    text = (
        f"Encoders judged alike, on {found['num_train']:,} train and {found['num_test']:,} test images. The readout is "
        f"a linear regression from the latent back to the pixels: it shows how much of an image a latent still holds, "
        f"and the linear map is by its making the best at it. "
        + (
            f"Labels are the {found['num_labels']} folders of the images, told by the nearest train images; the "
            f"commonest label alone would be right for {found['label_chance']:.0%}."
            if has_labels
            else "Where images lie in folders by what they show, the labels of nearest neighbours are judged, too."
        )
    )
    return Section(title, text, table(header, rows, "Encoders"))


def _label_gain(encoder: Summary) -> str:
    """The model's share of labels less that of another encoder; '' where it is not known."""
    gain = encoder.get("label_accuracy_model_minus")
    return "" if gain is None else _LABELS_OF_THE_NEAREST.difference(_interval(gain), signed=True)


def _latent(latent: LatentSummary) -> Section:
    text = (
        "A dead channel hardly varies; a redundant one says what an earlier one says already. The effective rank is "
        "how many directions the latent vectors really use. channels.csv has every channel."
    )
    plots = columns(
        [
            plot(_spread(latent), "Standard deviation of each channel", title="Spread of the channels"),
            plot(_variance(latent), "Cumulative share of the variance", title="Variance by components"),
        ]
    )
    return Section("The latent", text, _latent_numbers(latent), plots)


def _latent_numbers(latent: LatentSummary) -> Html:
    return facts(
        [
            ("channels", latent.num_channels),
            ("dead", len(latent.dead_channels)),
            ("redundant", len(latent.redundant_channels)),
            ("effective rank", latent.effective_rank),
            ("components for 99 %", latent.components_for_99_percent),
            ("zeros", f"{latent.share_of_zeros:.1%}"),
            ("mean", latent.mean),
            ("standard deviation", latent.std),
        ]
    )


def _spread(latent: LatentSummary) -> go.Figure:
    stds = sorted(latent.channel_stds, reverse=True)
    figure = _line(latent.num_channels, stds, TEST_COLOUR, "%{x}: %{y:.4g}<extra></extra>")
    figure.update_xaxes(title="channels, the most varying first")
    figure.update_yaxes(title="standard deviation", rangemode="tozero")
    return figure


def _variance(latent: LatentSummary) -> go.Figure:
    shares = np.cumsum(latent.spectrum)
    figure = _line(latent.num_channels, shares, TRAIN_COLOUR, "%{x} components: %{y:.1%}<extra></extra>")
    figure.update_xaxes(title="principal components")
    figure.update_yaxes(title="share of the variance", tickformat=".0%", range=[0, 1.02])
    return figure


def _line(count: int, values: Sequence[float] | NDArray[np.float64], colour: str, hover: str) -> go.Figure:
    """A line of values by their number, from 1 to `count`."""
    numbers = np.arange(1, count + 1)
    return go.Figure(go.Scatter(x=numbers, y=values, mode="lines", line={"color": colour}, hovertemplate=hover))


def _neighbours(report: EvaluationReport) -> Section:
    text = "The nearest by the cosine of the features, averaged over the latent's quarters; neighbours.csv has them."
    groups = [
        group(row[0][1], gallery(Item(name, (caption,), data_uri(thumbnail)) for thumbnail, name, caption in row))
        for row in report.neighbours
    ]
    return Section("Nearest neighbours", text if groups else "There are too few images for neighbours.", *groups)


def _maps(placed: Placed) -> Section:
    count = len(set(placed.labels))
    by_label = 2 <= count <= len(_LABEL_COLOURS)
    kinds = list(placed.labels) if by_label else [str(subset) for subset in placed.subsets]
    colours = (
        {label or "(no folder)": colour for label, colour in zip(sorted(set(kinds)), _LABEL_COLOURS, strict=False)}
        if by_label
        else {subset: SUBSET_COLOURS[subset] for subset in SUBSET_COLOURS if subset in kinds}
    )
    kinds = [kind or "(no folder)" for kind in kinds]
    blocks = [
        group(
            title,
            plot(_map_figure(points, placed, kinds, colours), f"{title}: images by place", height=480),
            _with_thumbnails(title, points, placed),
        )
        for title, points in placed.maps.items()
    ]
    text = (
        f"{len(placed.names):,} images, by their features. What lies together is alike to the model; distances between "
        f"groups far apart mean little in t-SNE. latent_map.csv has the places."
    )
    return Section("Maps of the latent", text, colour_key(colours), columns(blocks))


def _with_thumbnails(title: str, points: NDArray[np.float64], placed: Placed) -> Html:
    canvas = pasted(points, placed.thumbnails, placed.subsets)
    return picture(as_webp(Image.fromarray(canvas)), f"{title}: images by place, as thumbnails")


def _map_figure(
    points: NDArray[np.float64], placed: Placed, kinds: Sequence[str], colours: Mapping[str, str]
) -> go.Figure:
    figure = go.Figure(
        go.Scatter(
            x=points[:, 0].round(4),
            y=points[:, 1].round(4),
            mode="markers",
            marker={"size": 7, "opacity": 0.75, "color": [colours[kind] for kind in kinds]},
            text=[plot_text(name) for name in placed.names],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(showticklabels=False, showgrid=False)
    return figure


def _kept_channels(psnr: Mapping[int, float]) -> Section:
    figure = go.Figure(
        go.Scatter(
            x=[str(count) for count in psnr],
            y=list(psnr.values()),
            mode="lines+markers",
            line={"color": TEST_COLOUR},
            hovertemplate="%{x} channels: %{y:.2f} dB<extra></extra>",
        )
    )
    figure.update_xaxes(title="latent channels kept, from the first on", type="category")
    figure.update_yaxes(title="PSNR, dB")
    text = "The latent is ordered: the first channels carry the most."
    return Section("Fewer channels", text, plot(figure, "PSNR by the number of channels kept"))


# ---------------------------------------------------------------- training


def _training(report: EvaluationReport) -> Section:
    figure = go.Figure()
    epochs = [row["epoch"] for row in report.history]
    for subset in ("train", chosen_by(report.history[0])) if report.history else ():
        figure.add_scatter(
            x=epochs,
            y=[row[f"{subset}_loss"] for row in report.history],
            mode="lines+markers",
            name=subset,
            line={"color": SUBSET_COLOURS[subset]},
            marker={"size": 4},
            hovertemplate=f"epoch %{{x}}, {subset}: %{{y:.5f}}<extra></extra>",
        )
    figure.update_xaxes(title="epoch", tick0=1, dtick=-(-len(epochs) // _MOST_TICKS) or 1)
    figure.update_yaxes(title="loss", type="log", tickformat=".3~g")
    figure.update_layout(showlegend=True)
    blocks = [plot(figure, "Loss by epoch", title="Loss by epoch")] if report.history else []
    return Section("How it was trained", "", facts(report.training.items()), *blocks)
