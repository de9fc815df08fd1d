"""Dividing the images of an extraction into clusters."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import questionary

from fext.screen.actions import Screen, duration
from fext.screen.console import show_facts, show_path, show_table
from fext.screen.explorations.common import (
    add_features,
    add_references,
    chosen_extraction,
    named_extraction,
    wants_references,
)
from fext.screen.questions import ask

if TYPE_CHECKING:
    from fext.jobs.clusters import ClustersResult
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Divide the images into clusters"


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore clusters`."""
    command = explorations.add_parser("clusters", help="divide its images into clusters, and show what is in each")
    add_features(command)
    command.add_argument("--count", type=int, metavar="K", help="clusters to make (default: num_clusters)")
    add_references(command)
    command.set_defaults(run=_from_words)
    return command


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings, folder = chosen_extraction(screen)
    screen.reporter.message(f"Divide the images of {folder.name} into clusters by {settings.cluster_method}")
    count = None
    if settings.cluster_method == "kmeans":
        question = questionary.text(f"How many clusters? (Enter: {settings.num_clusters})", validate=_is_count)
        count = int(answer) if (answer := ask(question).strip()) else None
    _run(screen, settings, folder, count, wants_references())


def _is_count(text: str) -> bool | str:
    good = not text.strip() or (text.strip().isdigit() and int(text) >= 2)
    return True if good else "a whole number from 2, or nothing"


def _from_words(screen: Screen, words: argparse.Namespace) -> None:
    _run(screen, *named_extraction(screen, words), words.count, words.references)


def _run(screen: Screen, settings: "Settings", folder: Path, count: int | None, references: bool) -> None:
    from fext.jobs.clusters import cluster

    result = cluster(screen.workspace, settings, folder, screen.reporter, count, references)
    show_facts(screen.console, f"Clusters of {result.name}", _facts(result))
    if result.summary["references"]:
        show_table(screen.console, "By other features", *_references(result))
    for verdict in result.verdicts:
        screen.reporter.message(verdict)
    show_path(screen.console, "report", result.folder / "report.html", screen.workspace.root)
    show_path(screen.console, "table", result.folder / "clusters.csv", screen.workspace.root)


def _facts(result: "ClustersResult") -> list[tuple[str, str]]:
    summary = result.summary
    sizes = summary["sizes"]
    alone = f", {summary['num_alone']:,} in none" if summary["num_alone"] else ""
    largest = f"; {sizes[-1]:,} to {sizes[0]:,} images in each" if sizes else ""
    facts = [
        ("images", f"{summary['num_images']:,}{alone}"),
        ("clusters", f"{summary['num_clusters']}{largest}"),
    ]
    if summary["silhouette"] is not None:
        facts.append(("silhouette", f"{summary['silhouette']:.3f}"))
    if scores := summary["labels"]:
        facts.append(
            ("beside labels", f"NMI {scores['nmi']:.3f}, ARI {scores['ari']:.3f}, purity {scores['purity']:.3f}")
        )
    return [*facts, ("time", duration(result.seconds))]


def _references(result: "ClustersResult") -> tuple[list[str], list[list[str]]]:
    from fext.pictures.clusters_report import reference_table

    header, rows = reference_table(result.summary, with_ranges=False)
    return header, [[cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row] for row in rows]
