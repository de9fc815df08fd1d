"""Questions that several entries of the menu ask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import questionary
from questionary import Choice

from fext.data.spelling import given_path
from fext.errors import CheckpointError, ClassifierError, ExtractionError, FextError
from fext.screen.actions import Screen
from fext.screen.console import shown_path
from fext.screen.guard import LeftQuestion


def ask(question: questionary.Question) -> Any:
    """The answer; raises LeftQuestion where the user leaves the question, or the terminal is gone."""
    try:
        answer = question.ask()
    except EOFError:
        answer = None
    if answer is None:
        raise LeftQuestion
    return answer


def path_question(question: str, *, optional: bool = False) -> questionary.Question:
    """A question for a path, which `given_path` makes of the answer; Enter alone is one where it is optional."""

    def is_answer(text: str) -> bool | str:
        return optional or bool(text.strip()) or "type or paste a path (Ctrl-C leads back to the menu)"

    return questionary.path(question, validate=is_answer)


def shown(path: Path, screen: Screen) -> str:
    """A path as it is shown: below the workspace without its root."""
    return shown_path(path, screen.workspace.root)


def choose_extraction(screen: Screen) -> Path:
    """One of the extractions; the only one is taken without asking."""
    without = ExtractionError("there is no extraction yet: choose 'Extract features from images' first")
    return screen.workspace.inference / _choose("extraction", screen.workspace.extraction_names(), without)


def choose_checkpoint(screen: Screen) -> Path:
    """One of the checkpoints; the only one is taken without asking."""
    without = CheckpointError("there is no checkpoint yet: choose 'Pretrain FEXT-AutoEncoder model' first")
    return screen.workspace.checkpoints / _choose("checkpoint", screen.workspace.checkpoint_names(), without)


def choose_run(screen: Screen) -> Path:
    """One of the checkpoints, to train it further; how far each has come stands beside it."""
    from fext.store.runs import run_progress

    def titled(name: str) -> Choice:
        try:
            done, total, finished = run_progress(screen.workspace.checkpoints / name)
        except FextError:  # it is said why when it is chosen
            return Choice(name)
        return Choice(f"{name} ({done} of {total} epochs{'' if finished else ', interrupted'})", value=name)

    names = screen.workspace.checkpoint_names()
    if len(names) < 2:
        return choose_checkpoint(screen)
    chosen = ask(questionary.select("Which checkpoint?", choices=[titled(name) for name in names]))
    return screen.workspace.checkpoints / str(chosen)


def choose_classifier(screen: Screen) -> Path:
    """One of the classifiers; the only one is taken without asking."""
    without = ClassifierError("there is no classifier yet: choose 'Classify' first")
    return screen.workspace.classifiers / _choose("classifier", screen.workspace.classifier_names(), without)


def _choose(what: str, names: Sequence[str], without: FextError) -> str:
    """One of the names; raises `without` where there is none."""
    if not names:
        raise without
    return names[0] if len(names) == 1 else str(ask(questionary.select(f"Which {what}?", choices=names)))


def choose_checkpoints(screen: Screen) -> list[Path]:
    """One checkpoint, or several to be held against each other."""
    names = screen.workspace.checkpoint_names()
    if len(names) < 2:
        return [choose_checkpoint(screen)]
    several = Choice("several, side by side", value="")
    name = str(ask(questionary.select("Which checkpoint?", choices=[*names, several])))
    if name:
        return [screen.workspace.checkpoints / name]
    chosen = ask(
        questionary.checkbox(
            "Which checkpoints? (space marks, Enter goes on)",
            choices=names,
            validate=lambda marked: len(marked) >= 2 or "mark at least two",
        )
    )
    return [screen.workspace.checkpoints / name for name in chosen]


def choose_source(screen: Screen) -> Path:
    """A folder or list of images to extract from."""
    from fext.data.source import find_images

    workspace = screen.workspace
    choices = []
    for folder in (workspace.inference_images, workspace.images, workspace.samples):
        count = len(find_images(folder)) if folder.is_dir() else 0
        if count:
            choices.append(Choice(f"{shown(folder, screen)} ({count} images)", value=str(folder)))
    choices.append(Choice("another folder or list", value=""))
    answer = ask(questionary.select("Extract from which images?", choices=choices))
    if answer:
        return Path(answer)
    return given_path(ask(path_question("Folder, or .txt or .csv file that lists images:")))
