"""Finding the images that are unlike the normal ones that a model was trained on."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import questionary

from fext.data.spelling import given_path
from fext.screen.actions import Screen, duration, say_unfinished
from fext.screen.console import show_path, show_table
from fext.screen.explorations.common import path_word
from fext.screen.questions import ask, choose_checkpoint, path_question, shown

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Find anomalies: images unlike the normal ones of the training"
_NORMAL = "normal"


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore anomalies`."""
    command = explorations.add_parser(
        "anomalies", help="find images that are unlike those that a checkpoint was trained on, and where in them"
    )
    command.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="name or path (default: the only one)")
    command.add_argument("--images", type=path_word, metavar="FOLDER", required=True, help="folder or list to search")
    command.add_argument(
        "--normal",
        default=_NORMAL,
        metavar="NAME",
        help="the folder in it that holds normal images; all others are anomalous (default: normal)",
    )
    command.add_argument(
        "--references",
        action="store_true",
        help="do the same with the encoder before training and a linear map, and show what training is worth",
    )
    command.set_defaults(run=_from_words)
    return command


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings = screen.settings()
    checkpoint = choose_checkpoint(screen)
    images = given_path(ask(path_question("Folder to search:")))
    normal = str(ask(questionary.text("The folder in it with normal images, if there is one:", default=_NORMAL)))
    references = bool(
        ask(questionary.confirm("The same with the untrained encoder and a linear map beside it?", default=False))
    )
    screen.reporter.message(f"Find what in {shown(images, screen)} is unlike the images {checkpoint.name} has learned")
    _run(screen, settings, checkpoint, images, normal.strip() or _NORMAL, references)


def _from_words(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    checkpoint = screen.workspace.find_checkpoint(words.checkpoint)
    _run(screen, settings, checkpoint, words.images, words.normal, words.references)


def _run(screen: Screen, settings: "Settings", checkpoint: Path, images: Path, normal: str, references: bool) -> None:
    from fext.jobs.anomalies import find_anomalies

    say_unfinished(screen, checkpoint)
    result = find_anomalies(
        screen.workspace, settings, checkpoint, images, normal, screen.reporter, references=references
    )
    if "scores" in result.summary:
        rows = [
            [name, f"{score['auroc']:.3f}", f"{score['average_precision']:.3f}", f"{score['best_f1']:.3f}"]
            for name, score in result.summary["scores"].items()
        ]
        show_table(screen.console, "Anomalous against normal", ["score", "AUROC", "average precision", "best F1"], rows)
    for verdict in result.verdicts:
        screen.reporter.message(verdict)
    rejected = f", {result.summary['num_rejected']} rejected" if result.summary["num_rejected"] else ""
    screen.console.print(f"{result.summary['num_scored']:,} images in {duration(result.seconds)}{rejected}")
    show_path(screen.console, "report", result.folder / "report.html", screen.workspace.root)
    show_path(screen.console, "table", result.folder / "anomalies.csv", screen.workspace.root)
