"""What the explorations have in common: the words that name features, and the extraction they lead to."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import questionary

from fext.errors import UsageError
from fext.screen import actions
from fext.screen.actions import Screen
from fext.screen.questions import ask

if TYPE_CHECKING:
    from fext.settings import Settings

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_features(command: argparse.ArgumentParser) -> None:
    """Words that name an extraction, or the images and the checkpoint to make one of."""
    command.add_argument("extraction", nargs="?", metavar="EXTRACTION", help="name or path (default: the only one)")
    command.add_argument("--images", type=Path, metavar="SOURCE", help="extract from this folder or list first")
    command.add_argument("--checkpoint", metavar="NAME", help="what to extract with (default: the only one)")


def add_references(command: argparse.ArgumentParser) -> None:
    """The word that asks for other encoders beside the model."""
    command.add_argument(
        "--references",
        action="store_true",
        help="do the same with the features of the untrained model, a linear map and the pixels, and show what the "
        "trained ones are worth",
    )


def extraction_of(screen: Screen, settings: "Settings", words: argparse.Namespace) -> Path:
    """The folder of the extraction that the words name; it is made or brought up to date where they name images."""
    if words.images is None and words.checkpoint is None:
        return screen.workspace.find_extraction(words.extraction)
    if words.extraction is not None:
        raise UsageError("name an extraction, or give --images and --checkpoint to make one: not both")
    checkpoint = screen.workspace.find_checkpoint(words.checkpoint)
    folder = actions.run_extract(screen, settings, checkpoint, words.images, None)
    if folder is None:
        raise UsageError("features are explored in one process: start it without torchrun")
    return folder


def wants_references() -> bool:
    """Whether the user wants other encoders beside the model."""
    return bool(
        ask(
            questionary.confirm(
                "The same with the untrained model, a linear map and the pixels, to see what the features are worth?",
                default=False,
            )
        )
    )


def tell_of_missing_pictures(screen: Screen, count: int) -> None:
    """Say that a page is without so many pictures."""
    if count:
        what = "1 image" if count == 1 else f"{count:,} images"
        screen.reporter.message(f"{what} cannot be read now: the page says why")
