"""The page of clusters: what is in each, how their number was chosen, and how they stand to labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fext.model.verdict import NO_REFERENCES
from fext.pictures.figures import GREY, TEST_COLOUR, TRAIN_COLOUR
from fext.pictures.page import Block, Html, Item, Section, bullets, facts, gallery, group, page, paragraph, plot, table

_SCORES = {"nmi": "NMI", "ari": "ARI", "purity": "purity"}
_MOST_COLUMNS, _MOST_ROWS = 20, 100
_NUM_TOP_LABELS = 3
_NO_STRUCTURE = 0.25  # a silhouette below which Kaufman and Rousseeuw see none
_ENCODERS = {"model": "the model", "untrained": "before training", "linear_map": "linear map", "pixels": "pixels"}


@dataclass(frozen=True)
class ClusterShown:
    """A cluster (-1: images in none), how many images it has, and some that are typical of it or lie far out."""

    number: int
    size: int
    typical: Sequence[Item]
    outlying: Sequence[Item]


@dataclass(frozen=True)
class LabelTable:
    """How many images have each label (rows) and lie in each cluster (columns; -1: in none)."""

    names: Sequence[str]
    numbers: Sequence[int]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class ClustersReport:
    """All that the page tells; `summary` is what summary.json has."""

    summary: Mapping[str, Any]
    clusters: Sequence[ClusterShown]
    labels: LabelTable | None


def clusters_report(report: ClustersReport) -> Iterator[Html]:
    """The page, piece by piece."""
    summary = report.summary
    how = "k-means" if summary["method"] == "kmeans" else "HDBSCAN"
    introduction = (
        f"The images of the extraction {summary['extraction']}, divided by {how} by what {summary['checkpoint']} makes "
        f"of them. The cluster of each image stands in clusters.csv beside this page."
    )
    sections = [
        Section("In short", "", facts(_facts(summary)), bullets(verdicts(summary))),
        *([_number(summary)] if summary["silhouette_by_count"] else []),
        *([_sizes(summary)] if summary["sizes"] else []),
        *([_references(summary)] if summary["references"] else []),
        *([_labels(report.labels)] if report.labels is not None else []),
        _clusters(report),
    ]
    return page(f"Clusters of {summary['extraction']}", introduction, sections)


def verdicts(summary: Mapping[str, Any]) -> list[str]:
    """What was found, in sentences."""
    said = [*_does_it_help(summary)] if summary["references"] else []
    if not summary["sizes"]:
        said.append("There are no clusters: no images lie closer together than the others.")
    elif summary["num_alone"]:
        said.append(f"{summary['num_alone']:,} of {summary['num_images']:,} images lie in no cluster.")
    if curve := summary["silhouette_by_count"]:
        best = max(curve, key=curve.__getitem__)
        said.append(
            f"Of {len(curve)} numbers of clusters, 2 to {max(map(int, curve))}, {best} has the highest silhouette: "
            f"{curve[best]:.3f}."
        )
        if curve[best] < _NO_STRUCTURE:
            said.append(
                f"Below {_NO_STRUCTURE} no number of clusters stands out: images shade into each other (Kaufman and "
                f"Rousseeuw, 1990)."
            )
        if int(best) == 2:
            said.append("Two tell the images apart by their greatest difference alone: for finer groups give --count.")
        if int(best) == max(map(int, curve)):
            said.append("It is the largest that was tried: more may fit better, give --count.")
    if scores := summary["labels"]:
        said.append(
            f"Beside the {summary['num_labels']} folders: NMI {scores['nmi']:.3f} (1 where clusters and folders are "
            f"the same; many small clusters raise it by chance), ARI {scores['ari']:.3f} (0 by chance, 1 at most), "
            f"purity {scores['purity']:.3f}."
        )
    if scores and not summary["references"]:
        said.append(NO_REFERENCES)
    return said


def _does_it_help(summary: Mapping[str, Any]) -> Sequence[str]:
    if not summary["labels"]:
        return ["Whether the model's features make better clusters than others cannot be told without labels."]
    if "verdict" not in summary["references"]:
        return ["There is nothing to compare the model's features with."]
    sentences: Sequence[str] = summary["references"]["verdict"]["sentences"]
    return sentences


def reference_table(
    summary: Mapping[str, Any], *, with_ranges: bool = True
) -> tuple[list[str], list[list[float | str]]]:
    """Head and rows of a table: how clusters by each encoder fare; a cell has the mean, one beside it the range."""
    encoders = summary["references"]["encoders"]
    scores = {name: title for name, title in _SCORES.items() if name in encoders["model"]}
    header = ["features", "clusters"]
    for title in scores.values():
        header += [title, "range"] if with_ranges else [title]
    rows: list[list[float | str]] = []
    for name, judged in encoders.items():
        row: list[float | str] = [_ENCODERS[name], f"{judged['num_clusters']['mean']:.4g}"]
        for score in scores:
            row.append(judged[score]["mean"])
            if with_ranges:
                row.append(f"{judged[score]['least']:.3f} to {judged[score]['greatest']:.3f}")
        rows.append(
            [*row, judged["silhouette"]["mean"] if "silhouette" in judged else "", judged["like_the_models"]["mean"]]
        )
    return [*header, "silhouette", "like the model's"], rows


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [("images", summary["num_images"]), ("clusters", summary["num_clusters"])]
    if summary["num_alone"]:
        pairs.append(("in none", summary["num_alone"]))
    if summary["silhouette"] is not None:
        pairs.append(("silhouette", summary["silhouette"]))
    return pairs + [(title, summary["labels"][name]) for name, title in _SCORES.items() if summary["labels"]]


def _number(summary: Mapping[str, Any]) -> Section:
    curve = {int(count): value for count, value in summary["silhouette_by_count"].items()}
    figure = go.Figure(
        go.Scatter(
            x=list(curve),
            y=list(curve.values()),
            mode="lines+markers",
            line={"color": TRAIN_COLOUR},
            hovertemplate="%{x} clusters: %{y:.3f}<extra></extra>",
        )
    )
    best = max(curve, key=curve.__getitem__)
    figure.add_vline(x=best, line={"color": TEST_COLOUR, "dash": "dot", "width": 1})
    figure.update_xaxes(title="number of clusters", type="log", tickvals=[2, 3, 5, 10, 20, 30, 50])
    figure.update_yaxes(title="silhouette")
    text = (
        f"The mean silhouette tells how much nearer an image is to its own cluster than to the next one: 1 at best, 0 "
        f"where clusters touch. It is highest with {best} clusters. A flat curve says that no number stands out."
    )
    return Section("How many clusters", text, plot(figure, "Silhouette by the number of clusters"))


def _sizes(summary: Mapping[str, Any]) -> Section:
    sizes = summary["sizes"]
    figure = go.Figure(
        go.Bar(
            x=list(range(len(sizes))),
            y=sizes,
            marker={"color": TRAIN_COLOUR},
            hovertemplate="%{x}: %{y}<extra></extra>",
        )
    )
    if summary["num_alone"]:
        figure.add_bar(
            x=[-1], y=[summary["num_alone"]], marker={"color": GREY}, hovertemplate="in none: %{y}<extra></extra>"
        )
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="cluster", tickformat="d")
    figure.update_yaxes(title="images")
    text = "Clusters are numbered by size, the largest 0." + (" -1 stands for none." if summary["num_alone"] else "")
    return Section("Sizes", text, plot(figure, "Images in each cluster", height=240))


def _references(summary: Mapping[str, Any]) -> Section:
    compared = summary["references"]
    several = f"Mean and range of {compared['num_seeds']} runs with other seeds. " if compared["num_seeds"] > 1 else ""
    text = (
        f"The same clustering of {compared['num_images']:,} images by other features, prepared alike. {several}"
        f"Silhouettes of different features are measured in different spaces: they tell how clear clusters are, not "
        f"how right. The verdict's interval, of the difference in NMI, is over images and runs. 'Like the model's' is "
        f"the ARI of the clusters with those of the model on the whole page."
    )
    return Section("Does the model help?", text, table(*reference_table(summary), "Clusters by other features"))


def _labels(labels: LabelTable) -> Section:
    blocks: list[Block] = [table(["cluster", "images", "most frequent label", "share", "also"], _mixed(labels), "")]
    if len(labels.numbers) <= _MOST_COLUMNS:
        largest = np.argsort(-labels.counts.sum(axis=1), kind="stable")[:_MOST_ROWS]
        rows = [(_label(labels.names[row]), *labels.counts[row].tolist()) for row in np.sort(largest)]
        note = f"The {_MOST_ROWS} largest of {len(labels.names):,} labels" if len(labels.names) > _MOST_ROWS else ""
        header = ["label", *("none" if number < 0 else str(number) for number in labels.numbers)]
        blocks.append(table(header, rows, note or "Images by label and cluster"))
    else:
        blocks.append(paragraph("How many images of each label lie in each cluster stands in labels.csv."))
    return Section("Clusters and folders", "The label of an image is the folder that it lies in.", *blocks)


def _mixed(labels: LabelTable) -> Iterator[tuple[object, ...]]:
    for column, number in enumerate(labels.numbers):
        counts = labels.counts[:, column]
        most, *others = np.argsort(-counts, kind="stable")[:_NUM_TOP_LABELS]
        also = ", ".join(f"{_label(labels.names[place])} ({counts[place]})" for place in others if counts[place])
        size = int(counts.sum())
        yield number, size, _label(labels.names[most]), float(counts[most] / size), also


def _label(name: str) -> str:
    return name or "(no folder)"


def _clusters(report: ClustersReport) -> Section:
    num_clusters = report.summary["num_clusters"]
    shown = sum(cluster.number >= 0 for cluster in report.clusters)
    first = f" Shown are the {shown} largest of {num_clusters:,}." if shown < num_clusters else ""
    text = (
        "Of each cluster the images nearest to its centre, and those farthest from it. Distances, 0 to about 2, are "
        f"those between {report.summary['compared']}.{first}"
    )
    return Section("The clusters", text, _groups(report.clusters))


def _groups(clusters: Sequence[ClusterShown]) -> Iterator[Html]:
    for cluster in clusters:
        if cluster.number < 0:
            yield group(f"In no cluster: {cluster.size:,} images, some of them", gallery(cluster.typical))
            continue
        parts = [gallery(cluster.typical)]
        if cluster.outlying:
            parts += [paragraph("Farthest out:"), gallery(cluster.outlying)]
        yield group(f"Cluster {cluster.number}: {cluster.size:,} images", *parts)
