"""The page of a classifier: how well it tells images apart, which classes it takes for which, and where it is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fext.model.classification_scores import ClassificationScores
from fext.model.intervals import Interval
from fext.model.verdict import Verdict
from fext.pictures.figures import GREY, TEST_COLOUR, TRAIN_COLOUR
from fext.pictures.page import (
    Html,
    Item,
    Section,
    bullets,
    columns,
    facts,
    file_uri,
    gallery,
    page,
    plot,
    plot_text,
    table,
)

_MOST_SHOWN = 60  # classes in the picture of the confusions
_MOST_PAIRS = 200


@dataclass(frozen=True)
class Mistake:
    """A test image that was told wrongly: what it is, what it was told to be and how sure that was; its thumbnail."""

    name: str
    label: str
    told: str
    probability: float
    thumbnail: bytes


@dataclass(frozen=True)
class ClassificationReport:
    """All that the page tells; `references` are accuracies of the same method on other encoders' features.

    `groups` is a sentence on what intervals take for independent.
    """

    name: str
    method: str
    facts: Sequence[tuple[str, object]]
    scores: ClassificationScores
    references: Mapping[str, Interval]
    verdict: Verdict
    groups: str
    notes: Sequence[str]
    history: Sequence[Mapping[str, Any]]
    mistakes: Sequence[Mistake]


def classification_page(report: ClassificationReport) -> Iterator[Html]:
    """The page in pieces, as page.page gives them."""
    introduction = (
        "All scores are of test images, which the classifier neither learned from nor was chosen by. The interval of "
        f"the accuracy is a 95 % confidence interval (Wilson's). {report.groups}"
    )
    sections = [
        Section("In short", "", bullets([*report.verdict.sentences, *verdicts(report.scores), *report.notes])),
        *([_encoders(report)] if report.references else []),
        _classes(report.scores),
        _confusions(report.scores),
        _mistakes(report.mistakes),
        *([_history(report.history)] if report.history else []),
        Section("How it was made", "", facts(report.facts)),
    ]
    return page(f"Classifier {report.name}", introduction, sections)


def verdicts(scores: ClassificationScores) -> list[str]:
    """What the scores say, in sentences."""
    said = [
        f"{percent(scores.accuracy)} of the test images are told rightly; always telling the commonest class would be "
        f"right for {scores.commonest:.1%}.",
        f"Over the classes, each counted alike, {scores.balanced_accuracy:.1%} are (balanced accuracy); the mean F1 is "
        f"{scores.macro_f1:.3f}.",
    ]
    known = [one for one in scores.classes if one.num_images]
    best, worst = max(known, key=lambda one: one.f1), min(known, key=lambda one: one.f1)
    if best.f1 > worst.f1:
        said.append(f"Best told is {best.name} (F1 {best.f1:.3f}), worst {worst.name} (F1 {worst.f1:.3f}).")
    return said


def percent(share: Interval) -> str:
    """As in '71.2% (70.3 to 72.1)'."""
    if share.low is None or share.high is None:
        return f"{share.mean:.1%}"
    return f"{share.mean:.1%} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _encoders(report: ClassificationReport) -> Section:
    by_name = {"model": report.scores.accuracy, **report.references}
    rows = [
        (name.replace("_", " "), one.mean, one.low, one.high, report.verdict.above(name))
        for name, one in by_name.items()
    ]
    figure = go.Figure(
        go.Bar(
            x=[round(one.mean, 4) for one in by_name.values()],
            y=[name.replace("_", " ") for name in by_name],
            orientation="h",
            marker={"color": [TEST_COLOUR] + [GREY] * len(report.references)},
            error_x={
                "type": "data",
                "array": [(one.high or one.mean) - one.mean for one in by_name.values()],
                "arrayminus": [one.mean - (one.low or one.mean) for one in by_name.values()],
                "color": GREY,
            },
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    text = (
        "The same method on the same images, by what other encoders make of them. Pixels are brought to 32×32. "
        "Differences, in points with their intervals, are of the same images: those that all encoders could see."
    )
    header = ["features of", "accuracy", "from", "to", "model less this"]
    return Section(
        "Beside other encoders",
        text,
        plot(figure, "Accuracy by encoder", height=240, title="Accuracy"),
        table(header, rows, "Accuracy on the test images"),
    )


def _classes(scores: ClassificationScores) -> Section:
    header = ["class", "precision", "recall", "F1", "test images"]
    rows = [
        (one.name, one.precision, one.recall, one.f1, one.num_images) if one.num_images else (one.name, "", "", "", 0)
        for one in scores.classes
    ]
    text = (
        "Precision: of the images told to be of a class, how many are. Recall: of its own images, how many are found."
    )
    return Section("Class by class", text, table(header, rows, "Scores of each class"))


def _confusions(scores: ClassificationScores) -> Section:
    names = [one.name for one in scores.classes]
    pairs = _pairs(scores, names)
    blocks: list[Html] = []
    if len(names) <= _MOST_SHOWN:
        blocks.append(
            plot(
                _heatmap(scores, names),
                "Confusion matrix: true classes in rows, told ones in columns",
                "Rows are what images are, columns what they are told to be; shades are shares of the row.",
                height=170 + 26 * len(names),
            )
        )
    if pairs:
        header = ["is", "told to be", "images", "of its test images"]
        caption = f"The commonest confusions{f', {_MOST_PAIRS} of them' if len(pairs) == _MOST_PAIRS else ''}"
        blocks.append(table(header, pairs, caption))
    return Section("What is taken for what", "" if pairs else "No test image was told wrongly.", *blocks)


def _pairs(scores: ClassificationScores, names: Sequence[str]) -> list[tuple[str, str, int, str]]:
    wrong = scores.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    pairs = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        count = int(wrong[row, column])
        if count:
            pairs.append((names[row], names[column], count, f"{count / scores.classes[row].num_images:.1%}"))
    return pairs


def _heatmap(scores: ClassificationScores, names: Sequence[str]) -> go.Figure:
    shares = scores.confusion / np.maximum(scores.confusion.sum(axis=1, keepdims=True), 1)
    shown = [plot_text(name) for name in names]
    figure = go.Figure(
        go.Heatmap(
            z=shares.round(4),
            x=shown,
            y=shown,
            text=scores.confusion,
            texttemplate="%{text}" if len(names) <= 20 else None,
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
            hovertemplate="%{y} told to be %{x}: %{text} images, %{z:.1%}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", side="bottom", automargin=True)
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    return figure


def _mistakes(mistakes: Sequence[Mistake]) -> Section:
    items = [
        Item(
            one.name,
            (f"is {one.label}", f"told to be {one.told}, {one.probability:.1%}"),
            file_uri(one.thumbnail) if one.thumbnail else "",
        )
        for one in mistakes
    ]
    text = "The test images that were told wrongly with the most confidence: odd ones, or such as have a wrong label."
    return Section("Most confident mistakes", text if items else "There is none.", *([gallery(items)] if items else []))


def _history(history: Sequence[Mapping[str, Any]]) -> Section:
    plots = [
        plot(_curve(history, value), f"{title} by epoch", title=title, height=280)
        for value, title in (("accuracy", "Share told rightly"), ("loss", "Loss"))
    ]
    text = "The loss of the train images is that of training: of varied images, with smoothed labels."
    return Section("Training", text, columns(plots))


def _curve(history: Sequence[Mapping[str, Any]], value: str) -> go.Figure:
    figure = go.Figure()
    epochs = [row["epoch"] for row in history]
    for subset, colour in (("train", TRAIN_COLOUR), ("validation", TEST_COLOUR)):
        figure.add_scatter(
            x=epochs, y=[row[f"{subset}_{value}"] for row in history], name=subset, mode="lines+markers",
            line={"color": colour}, marker={"size": 4},
        )  # fmt: skip
    num_frozen = sum(row["phase"] == "frozen" for row in history)
    if 0 < num_frozen < len(history):
        figure.add_vline(x=num_frozen + 0.5, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(title="epoch")
    return figure
