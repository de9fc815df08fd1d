"""What the explorations have in common: the words that name features, and the extraction they lead to."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import questionary

from fext.data.spelling import given_path
from fext.errors import UsageError
from fext.screen import actions
from fext.screen.actions import Screen
from fext.screen.questions import ask, choose_extraction

if TYPE_CHECKING:
    from fext.settings import Settings

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    Run = Callable[[Screen, Settings, Path], None]


def add_exploration(explorations: "Commands", name: str, what: str, run: "Run") -> argparse.ArgumentParser:
    """A subcommand that is told of an extraction and of nothing else; `run` is given its folder."""

    def from_words(screen: Screen, words: argparse.Namespace) -> None:
        run(screen, *named_extraction(screen, words))

    command = explorations.add_parser(name, help=what)
    add_features(command)
    command.set_defaults(run=from_words)
    return command


def add_features(command: argparse.ArgumentParser) -> None:
    """Words that name an extraction, or the images and the checkpoint to make one of."""
    command.add_argument("extraction", nargs="?", metavar="EXTRACTION", help="name or path (default: the only one)")
    command.add_argument("--images", type=path_word, metavar="SOURCE", help="extract from this folder or list first")
    command.add_argument("--checkpoint", metavar="NAME", help="what to extract with (default: the only one)")


def path_word(text: str) -> Path:
    """A path on the command line, with what the shell left in it; raises ArgumentTypeError where it is empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return given_path(text)


def add_references(command: argparse.ArgumentParser) -> None:
    """The word that asks for other encoders beside the model."""
    command.add_argument(
        "--references",
        action="store_true",
        help="do the same with the features of the untrained model, a linear map and the pixels, and show what the "
        "trained ones are worth",
    )


def named_extraction(screen: Screen, words: argparse.Namespace) -> tuple["Settings", Path]:
    """The settings, and the folder of the extraction that the words name.

    It is made or brought up to date where they name images. Raises UsageError for words that do not go together, and
    what an extraction raises.
    """
    settings = screen.settings(words.overrides)
    return settings, _extraction_of(screen, settings, words)


def chosen_extraction(screen: Screen) -> tuple["Settings", Path]:
    """The settings, and the folder of the extraction that the user chooses in the menu."""
    return screen.settings(), choose_extraction(screen)


def _extraction_of(screen: Screen, settings: "Settings", words: argparse.Namespace) -> Path:
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
