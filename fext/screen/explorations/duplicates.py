"""Finding near copies by their features."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fext.screen.actions import Screen, duration
from fext.screen.console import show_facts, show_path
from fext.screen.explorations.common import add_exploration, chosen_extraction

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Find near copies"


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore duplicates`."""
    return add_exploration(explorations, "duplicates", "find groups of near copies; nothing is deleted", _run)


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings, folder = chosen_extraction(screen)
    screen.reporter.message(f"Find near copies among the images of {folder.name}; nothing is deleted")
    _run(screen, settings, folder)


def _run(screen: Screen, settings: "Settings", folder: Path) -> None:
    from fext.jobs.near_copies import find_near_copies

    result = find_near_copies(screen.workspace, settings, folder, screen.reporter)
    how = "chosen" if result.num_copied is None else f"found with copies of {result.num_copied} images"
    facts = [
        ("images", f"{result.num_images:,}"),
        ("groups", f"{result.num_groups:,}"),
        ("copies beside the first", f"{result.num_exact:,} exact, {result.num_near:,} near"),
        ("least similarity", f"{result.threshold:.4f}, {how}"),
        ("time", duration(result.seconds)),
    ]
    if result.num_gone:
        facts.insert(3, ("gone by now", f"{result.num_gone:,} beside the first"))
    if result.recall is not None:
        facts.insert(1, ("search", f"approximate: {result.recall:.1%} of the ten nearest are found"))
    show_facts(screen.console, f"Near copies in {result.name}", facts)
    show_path(screen.console, "table", result.table, screen.workspace.root)
    show_path(screen.console, "page", result.page, screen.workspace.root)
