"""Ready-made experiments, from images to a classifier in one go."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fext.data.spelling import given_path
from fext.screen.actions import Screen
from fext.screen.explorations.classify import show_classifier
from fext.screen.explorations.common import path_word
from fext.screen.questions import ask, path_question

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Recipe: the CIFAR-10 experiment, from images to a classifier"


def add_command(commands: "Commands") -> argparse.ArgumentParser:
    """`recipe`, a command of its own."""
    command = commands.add_parser("recipe", help="a ready-made experiment: CIFAR-10, from images to a classifier")
    command.add_argument("recipe", choices=("cifar10",), help="which experiment")
    command.add_argument(
        "--images", type=path_word, metavar="FOLDER", required=True, help="folder with one for each class"
    )
    command.add_argument("--name", default="cifar10", help="name of checkpoint and classifier (default: cifar10)")
    command.add_argument("--epochs", type=int, metavar="N", help="epochs of the autoencoder (default: a few)")
    command.set_defaults(run=_from_words)
    return command


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    images = given_path(ask(path_question("Folder that holds a folder for each class:")))
    _run(screen, screen.settings(), images, "cifar10", None)


def _from_words(screen: Screen, words: argparse.Namespace) -> None:
    _run(screen, screen.settings(words.overrides), words.images, words.name, words.epochs)


def _run(screen: Screen, settings: "Settings", images: Path, name: str, epochs: int | None) -> None:
    from fext.jobs.recipe import EPOCHS, PUBLISHED_ACCURACY, cifar10

    result = cifar10(screen.workspace, settings, images, name, EPOCHS if epochs is None else epochs, screen.reporter)
    show_classifier(screen, result)
    screen.reporter.message(f"published for this experiment: {PUBLISHED_ACCURACY:.2f} test accuracy")
    if result.scores.accuracy.mean < PUBLISHED_ACCURACY:
        screen.reporter.warning("this run is below it: more head_epochs, or other images, may be why")
