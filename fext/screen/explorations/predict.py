"""Using a classifier: the images of a folder or list get labels."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fext.screen.actions import Screen, duration
from fext.screen.console import show_path, show_table
from fext.screen.explorations.common import path_word
from fext.screen.questions import choose_classifier, choose_source

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Predict: label images with a trained classifier"

_MOST_CLASSES = 30


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore predict`."""
    command = explorations.add_parser("predict", help="label the images of a folder or list with a trained classifier")
    command.add_argument("classifier", nargs="?", metavar="CLASSIFIER", help="name or path (default: the only one)")
    command.add_argument("--images", type=path_word, metavar="SOURCE", required=True, help="folder or list of images")
    command.add_argument("--output", type=Path, metavar="FILE", help="a new CSV file (default: beside the classifier)")
    command.set_defaults(run=_from_words)
    return command


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings = screen.settings()
    classifier = choose_classifier(screen)
    images = choose_source(screen)
    screen.reporter.message(f"Label the images of {images} with {classifier.name}")
    _run(screen, settings, classifier, images, None)


def _from_words(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    folder = screen.workspace.find_classifier(words.classifier)
    _run(screen, settings, folder, words.images, words.output)


def _run(screen: Screen, settings: "Settings", folder: Path, images: Path, output: Path | None) -> None:
    from fext.jobs.predict import predict

    result = predict(screen.workspace, settings, folder, images, output, screen.reporter)
    for sentence in result.known_of_it:
        screen.reporter.message(sentence)
    told = sorted(result.counts.items(), key=lambda pair: -pair[1])
    rows = [[name, f"{count:,}"] for name, count in told[:_MOST_CLASSES]]
    show_table(screen.console, f"Labels by {result.name}", ["label", "images"], rows)
    screen.console.print(
        f"{result.num_found - result.num_rejected:,} of {result.num_found:,} images labelled in "
        f"{duration(result.seconds)}, {result.num_rejected:,} rejected, {result.num_not_images:,} other files"
    )
    show_path(screen.console, "labels", result.file, screen.workspace.root)
    show_path(screen.console, "how", result.summary_file, screen.workspace.root)
    if result.num_rejected:
        show_path(screen.console, "rejected", result.rejected_file, screen.workspace.root)
