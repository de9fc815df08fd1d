"""The menu: questions, and the jobs they lead to; it loops until the user leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import questionary
from questionary import Choice

from fext.errors import CheckpointError, ExtractionError, FextError
from fext.screen import actions
from fext.screen.actions import Screen
from fext.screen.console import shown_path
from fext.screen.guard import LeftQuestion, guarded

if TYPE_CHECKING:
    from fext.jobs.tensorboard import TensorBoardServer
    from fext.settings import Settings

TITLE = "FeXT: features from images"


class Menu:
    """The loop and its entries."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._tensorboard: TensorBoardServer | None = None

    def run(self) -> None:
        """Show the menu until 'Exit and close', Ctrl-C in the menu, or the end of input."""
        entries: list[tuple[str, Callable[[], None] | None]] = [
            ("Analyze image dataset", self._analyze),
            ("Pretrain FEXT-AutoEncoder model", self._pretrain),
            ("Resume or extend training", self._resume),
            ("Evaluate FEXT-AutoEncoder model", self._evaluate),
            ("Extract features from images", self._extract),
            ("Explore features", self._explore),
            ("Open TensorBoard", self._open_tensorboard),
            ("Settings and device", self._settings),
            ("Exit and close", None),
        ]
        choices = [Choice(title, value=number) for number, (title, _) in enumerate(entries)]
        try:
            while True:
                number = questionary.select(TITLE, choices=choices, instruction="(arrow keys, Enter)").ask()
                action = None if number is None else entries[number][1]
                if action is None:
                    return
                guarded(self._screen, entries[number][0], action)
                self._screen.console.print()
        finally:
            if self._tensorboard is not None:
                self._tensorboard.close()

    def _analyze(self) -> None:
        settings = self._screen.settings()
        images = self._images_of_data()
        self._say(f"Analyze the images of {_shown(images, self._screen)}; only new and changed ones are looked at")
        actions.run_analyze(self._screen, settings, images)

    def _pretrain(self) -> None:
        settings = self._screen.settings()
        images = self._images_of_data()
        self._say(
            f"Pretrain {settings.architecture} for {settings.epochs} epochs on up to {settings.num_train_samples} "
            f"images of {_shown(images, self._screen)} (batches of {settings.batch_size}, {settings.loss_name}, "
            f"{settings.optimizer}, learning rate {settings.learning_rate}, {settings.lr_schedule})"
        )
        name = _ask(
            questionary.text("Name of the checkpoint (Enter: from architecture and time):", validate=self._free_name)
        )
        actions.run_pretrain(self._screen, settings, images, name.strip() or None)

    def _images_of_data(self) -> Path:
        """data/images, or, where that is empty, the sample images if the user wants them."""
        from fext.data.source import find_images

        workspace = self._screen.workspace
        if workspace.images.is_dir() and find_images(workspace.images).names:
            return workspace.images
        self._say("There are no images in data/images yet: put pictures there, in any subfolders.")
        if not _ask(questionary.confirm("Use sample images (tiles of public-domain photographs) instead?")):
            raise LeftQuestion
        actions.run_samples(self._screen, workspace.samples)
        return workspace.samples

    def _free_name(self, name: str) -> bool | str:
        try:
            if name.strip():
                self._screen.workspace.new_checkpoint(name.strip())
        except FextError as error:
            return str(error)
        return True

    def _resume(self) -> None:
        from fext.store.runs import run_progress

        settings = self._screen.settings()
        folder = self._choose_checkpoint()
        done, total, finished = run_progress(folder)
        if not finished:
            self._say(f"Go on with {folder.name} after epoch {done} of {total}")
            actions.run_resume(self._screen, settings, folder, None)
            return
        self._say(f"{folder.name} is finished with {done} epochs; a new total extends it")
        answer = _ask(questionary.text("New total of epochs:", validate=lambda text: _above(text, done)))
        actions.run_resume(self._screen, settings, folder, int(answer))

    def _evaluate(self) -> None:
        settings = self._screen.settings()
        folder = self._choose_checkpoint()
        self._say(f"Evaluate {folder.name} on its own train and test images")
        actions.run_evaluate(self._screen, settings, folder, None)

    def _extract(self) -> None:
        settings = self._screen.settings()
        folder = self._choose_checkpoint()
        images = self._choose_source()
        grid = settings.feature_grid
        self._say(
            f"Extract features ({grid}x{grid} positions) with {folder.name} from {_shown(images, self._screen)} "
            f"(batches of {settings.inference_batch_size})"
        )
        actions.run_extract(self._screen, settings, folder, images, None)

    def _explore(self) -> None:
        settings = self._screen.settings()
        folder = self._choose_extraction()
        self._say(f"Write a page of the images of {folder.name}, each with those that are nearest to it")
        actions.run_view(self._screen, settings, folder)

    def _choose_extraction(self) -> Path:
        workspace = self._screen.workspace
        names = workspace.extraction_names()
        if not names:
            raise ExtractionError("there is no extraction yet: choose 'Extract features from images' first")
        if len(names) == 1:
            return workspace.inference / names[0]
        return workspace.inference / str(_ask(questionary.select("Which extraction?", choices=names)))

    def _choose_checkpoint(self) -> Path:
        names = self._screen.workspace.checkpoint_names()
        if not names:
            raise CheckpointError("there is no checkpoint yet: choose 'Pretrain FEXT-AutoEncoder model' first")
        if len(names) == 1:
            return self._screen.workspace.checkpoints / names[0]
        return self._screen.workspace.checkpoints / str(_ask(questionary.select("Which checkpoint?", choices=names)))

    def _choose_source(self) -> Path:
        from fext.data.source import find_images

        workspace = self._screen.workspace
        choices = []
        for folder in (workspace.inference_images, workspace.images, workspace.samples):
            count = len(find_images(folder)) if folder.is_dir() else 0
            if count:
                choices.append(Choice(f"{_shown(folder, self._screen)} ({count} images)", value=str(folder)))
        choices.append(Choice("another folder or list", value=""))
        answer = _ask(questionary.select("Extract from which images?", choices=choices))
        return Path(answer or _ask(questionary.path("Folder, or .txt or .csv file that lists images:"))).expanduser()

    def _open_tensorboard(self) -> None:
        from fext.jobs.tensorboard import TensorBoardServer

        if self._tensorboard is not None and self._tensorboard.is_running():
            if _ask(questionary.confirm(f"TensorBoard is open at {self._tensorboard.address}. Close it?")):
                self._tensorboard.close()
                self._tensorboard = None
            return
        self._say("Starting TensorBoard on training/checkpoints")
        self._tensorboard = TensorBoardServer(self._screen.workspace.checkpoints)
        self._say(f"TensorBoard is open at {self._tensorboard.address} until you close it here or leave the menu")

    def _settings(self) -> None:
        settings: Settings = self._screen.settings()
        actions.run_settings(self._screen, settings)

    def _say(self, text: str) -> None:
        self._screen.reporter.message(text)


def _ask(question: questionary.Question) -> Any:
    answer = question.ask()
    if answer is None:
        raise LeftQuestion
    return answer


def _above(text: str, done: int) -> bool | str:
    good = text.strip().isdigit() and int(text) > done
    return True if good else f"a whole number above {done}"


def _shown(path: Path, screen: Screen) -> str:
    return shown_path(path, screen.workspace.root)
