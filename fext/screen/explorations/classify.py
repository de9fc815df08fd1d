"""Telling images apart by their labels: a classifier is trained on an extraction, and judged."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import questionary
from questionary import Choice

from fext.data.spelling import given_path
from fext.screen.actions import Screen, duration
from fext.screen.console import show_facts, show_path, show_table
from fext.screen.explorations.common import (
    add_features,
    add_references,
    chosen_extraction,
    named_extraction,
    path_word,
    wants_references,
)
from fext.screen.questions import ask, path_question

if TYPE_CHECKING:
    from fext.jobs.classification import ClassifyResult
    from fext.jobs.classify import Method
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

TITLE = "Classify: train a classifier on labelled images"

_METHODS = {
    "probe": "a linear probe on the features: what a linear classifier can read out of them",
    "knn": "the labels of the nearest images",
    "head": "a convolutional head on the frozen encoder, trained on the images themselves",
}
_MOST_CLASSES = 30


def add_command(explorations: "Commands") -> argparse.ArgumentParser:
    """`explore classify`."""
    command = explorations.add_parser("classify", help="train a classifier on labelled images, and judge it")
    add_features(command)
    command.add_argument(
        "--labels",
        type=path_word,
        metavar="CSV",
        help="table of image and label (default: their folders)",
    )
    command.add_argument(
        "--method", choices=tuple(_METHODS), default="probe", help="linear probe, nearest images, or a head"
    )
    command.add_argument("--name", help="name of the classifier (default: extraction and method)")
    add_references(command)
    command.set_defaults(run=_from_words)
    return command


def from_menu(screen: Screen) -> None:
    """The entry of the menu."""
    settings, folder = chosen_extraction(screen)
    choices = [Choice(f"{name}: {what}", value=name) for name, what in _METHODS.items()]
    method = ask(questionary.select("Which method?", choices=choices))
    table = "Table with the columns image and label (Enter: the folders are the labels):"
    file = str(ask(path_question(table, optional=True)))
    labels = given_path(file) if file.strip() else None
    references = method != "head" and wants_references()
    screen.reporter.message(f"Train a classifier ({method}) on the images of {folder.name} and test it on others")
    _run(screen, settings, folder, labels, method, None, references)


def _from_words(screen: Screen, words: argparse.Namespace) -> None:
    settings, folder = named_extraction(screen, words)
    _run(screen, settings, folder, words.labels, words.method, words.name, words.references)


def _run(
    screen: Screen,
    settings: "Settings",
    folder: Path,
    labels: Path | None,
    method: "Method",
    name: str | None,
    references: bool,
) -> None:
    from fext.jobs.classify import classify

    result = classify(screen.workspace, settings, folder, labels, method, name, screen.reporter, references=references)
    show_classifier(screen, result)


def show_classifier(screen: Screen, result: "ClassifyResult") -> None:
    """What came of training a classifier."""
    from fext.pictures.classification_report import percent, verdicts

    scores = result.scores
    sides = f"{result.num_train:,} to train on, {result.num_validation:,} to choose by, {result.num_test:,} to test on"
    facts = [
        ("images", sides),
        ("accuracy", percent(scores.accuracy)),
        ("balanced accuracy", f"{scores.balanced_accuracy:.1%}"),
        ("time", duration(result.seconds)),
    ]
    show_facts(screen.console, f"Classifier {result.name} ({result.method})", facts)
    rows = [
        [one.name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", f"{one.num_images:,}"]
        for one in scores.classes
        if one.num_images
    ]
    header = ["class", "precision", "recall", "F1", "test images"]
    show_table(screen.console, "Class by class", header, rows[:_MOST_CLASSES])
    if len(rows) > _MOST_CLASSES:
        screen.reporter.message(f"{len(rows) - _MOST_CLASSES} more classes are in the report")
    if result.references:
        by_name = {"model": scores.accuracy, **result.references}
        rows = [[name.replace("_", " "), percent(one), result.verdict.above(name)] for name, one in by_name.items()]
        header = ["features of", "accuracy", "model less this"]
        show_table(screen.console, "The same with other encoders", header, rows)
    for sentence in (*result.verdict.sentences, verdicts(scores)[0]):
        screen.reporter.message(sentence)
    screen.reporter.message(result.groups)
    show_path(screen.console, "report", result.folder / "report.html", screen.workspace.root)
    show_path(screen.console, "classifier", result.folder, screen.workspace.root)
