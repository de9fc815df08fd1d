"""Looking through the images of an extraction, each with those nearest to it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fext.screen.actions import Screen, duration
from fext.screen.console import show_path
from fext.screen.explorations.common import add_exploration, chosen_extraction, tell_of_missing_pictures

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "View the images, each with its nearest"


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore view`."""
    return add_exploration(
        explorations, "view", "write a page of its images, to search, each with its nearest others", _run
    )


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings, folder = chosen_extraction(screen)
    screen.reporter.message(f"Write a page of the images of {folder.name}, each with those that are nearest to it")
    _run(screen, settings, folder)


def _run(screen: Screen, settings: "Settings", folder: Path) -> None:
    from fext.jobs.view import view

    result = view(screen.workspace, settings, folder, screen.reporter)
    if result.num_shown < result.num_images:
        screen.reporter.warning(f"a page shows up to {result.num_shown:,} images: the first of {result.num_images:,}")
    tell_of_missing_pictures(screen, result.num_without_picture)
    screen.console.print(f"{result.num_shown:,} images of {result.name} in {duration(result.seconds)}")
    show_path(screen.console, "viewer", result.file, screen.workspace.root)
