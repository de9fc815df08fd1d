"""Laying the images of an extraction out on a plane."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fext.screen.actions import Screen, duration
from fext.screen.console import show_path
from fext.screen.explorations.common import add_exploration, chosen_extraction, tell_of_missing_pictures

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Map the images, alike ones near each other"


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore map`."""
    return add_exploration(
        explorations, "map", "write a page with its images on a plane, alike ones near each other", _run
    )


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings, folder = chosen_extraction(screen)
    screen.reporter.message(f"Lay the images of {folder.name} out on a plane, those with like features near each other")
    _run(screen, settings, folder)


def _run(screen: Screen, settings: "Settings", folder: Path) -> None:
    from fext.jobs.map import lay_out

    result = lay_out(screen.workspace, settings, folder, screen.reporter)
    if result.num_shown < result.num_images:
        screen.reporter.warning(f"the page shows {result.num_shown:,} of {result.num_images:,} images, evenly spaced")
    tell_of_missing_pictures(screen, result.num_without_picture)
    size = f"{max(1, round(result.page_bytes / 1e3)):,} kB"
    screen.console.print(
        f"{result.num_shown:,} images of {result.name} in {duration(result.seconds)}; the page has {size}"
    )
    show_path(screen.console, "map", result.folder / "map.html", screen.workspace.root)
    show_path(screen.console, "places", result.folder / "map.csv", screen.workspace.root)
    screen.reporter.message(f"'tensorboard {result.name}' shows it in three dimensions, in TensorBoard's projector")
