"""Finding the images nearest to a picture, or to each image."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fext.errors import UsageError
from fext.screen.actions import Screen, duration
from fext.screen.console import show_path, show_table
from fext.screen.explorations.common import (
    add_features,
    add_references,
    chosen_extraction,
    named_extraction,
    wants_references,
)
from fext.screen.questions import ask, path_question

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Find similar images"
_COUNT, _MAX_COUNT = 10, 1000


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore similar`."""
    command = explorations.add_parser("similar", help="find the images nearest to a picture, or to each image")
    add_features(command)
    command.add_argument(
        "--picture",
        metavar="FILE",
        help="an image of the extraction, or any picture (default: find the nearest of each image)",
    )
    command.add_argument("--count", type=int, default=_COUNT, metavar="K", help=f"how many to find (default: {_COUNT})")
    add_references(command)
    command.set_defaults(run=_from_words)
    return command


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings, folder = chosen_extraction(screen)
    question = path_question("Picture to search for (Enter: find the nearest of each image):", optional=True)
    picture = str(ask(question))
    if picture.strip():
        screen.reporter.message(f"Find the {_COUNT} images of {folder.name} that are nearest to {picture.strip()}")
        _find_similar(screen, settings, folder, picture, _COUNT)
        return
    references = wants_references()
    screen.reporter.message(f"Find the {_COUNT} nearest of each image of {folder.name}")
    _find_all(screen, settings, folder, _COUNT, references)


def _from_words(screen: Screen, words: argparse.Namespace) -> None:
    if not 1 <= words.count <= _MAX_COUNT:
        raise UsageError(f"--count {words.count}: give a whole number from 1 to {_MAX_COUNT:,}")
    if words.picture is not None and words.references:
        raise UsageError("--references compares the nearest of all images: leave --picture out")
    settings, folder = named_extraction(screen, words)
    if words.picture is not None:
        _find_similar(screen, settings, folder, words.picture, words.count)
    else:
        _find_all(screen, settings, folder, words.count, words.references)


def _find_similar(screen: Screen, settings: "Settings", folder: Path, picture: str, count: int) -> None:
    from fext.jobs.similar import find_similar

    result = find_similar(screen.workspace, settings, folder, picture, count, screen.reporter)
    rows = [[image, f"{score:.4f}"] for image, score in result.nearest]
    show_table(screen.console, f"Nearest to {result.query}", ["image", result.score_name], rows)
    _tell_of_search(screen, len(result.nearest), count, result.recall)
    screen.reporter.message(f"compared: {result.compared}")
    screen.console.print(f"among {result.num_images:,} images of {result.name} in {duration(result.seconds)}")
    show_path(screen.console, "table", result.table, screen.workspace.root)
    show_path(screen.console, "page", result.page, screen.workspace.root)


def _find_all(screen: Screen, settings: "Settings", folder: Path, count: int, references: bool) -> None:
    from fext.jobs.similar import find_all_neighbours
    from fext.model.verdict import NO_REFERENCES

    result = find_all_neighbours(folder, settings, count, screen.reporter)
    screen.console.print(
        f"the {result.count} nearest of each of {result.num_images:,} images in {duration(result.seconds)}"
    )
    screen.reporter.message(f"compared: {result.compared}")
    _tell_of_search(screen, result.count, count, result.recall)
    if result.precision is not None:
        screen.console.print(
            f"of the nearest {result.precision.text(digits=3, signed=False)} have the label of the image (its folder); "
            f"by chance it would be {result.chance:.3f}"
        )
        screen.reporter.message(result.groups)
        if not references:
            screen.reporter.message(NO_REFERENCES)
    show_path(screen.console, "table", result.table, screen.workspace.root)
    if references:
        _compare(screen, settings, folder, count)


def _compare(screen: Screen, settings: "Settings", folder: Path, count: int) -> None:
    from fext.jobs.similar_references import compare_precision

    result = compare_precision(screen.workspace, settings, folder, count, screen.reporter)
    rows = [
        [
            encoder.encoder.replace("_", " "),
            encoder.precision.text(digits=3, signed=False),
            result.verdict.above(encoder.encoder),
        ]
        for encoder in result.encoders
    ]
    title = (
        f"Precision at {result.count}: {result.num_images:,} images with {result.num_labels:,} labels, by chance "
        f"{result.chance:.3f}"
    )
    show_table(screen.console, title, ["features", "precision", "model less this"], rows)
    for sentence in (*result.verdict.sentences, result.groups):
        screen.reporter.message(sentence)
    show_path(screen.console, "table", result.table, screen.workspace.root)


def _tell_of_search(screen: Screen, num_found: int, count: int, recall: float | None) -> None:
    if num_found < count:
        there = "there is 1" if num_found == 1 else f"there are {num_found:,}"
        screen.reporter.message(f"{there} to find, fewer than the {count:,} asked for")
    if recall is not None:
        screen.reporter.message(
            f"the search is approximate: of the ten nearest it finds {recall:.1%}, as measured when the index was made"
        )
