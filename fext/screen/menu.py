"""The menu: questions, and the jobs they lead to; it loops until the user leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import questionary
from questionary import Choice

from fext.errors import FextError, OtherWayError
from fext.reporting import counted
from fext.screen import actions
from fext.screen.actions import Screen
from fext.screen.explorations import MENU
from fext.screen.guard import LeftQuestion, guarded
from fext.screen.questions import ask, choose_checkpoint, choose_checkpoints, choose_run, choose_source, shown

if TYPE_CHECKING:
    from fext.jobs.tensorboard import TensorBoardServer
    from fext.settings import Settings

TITLE = "FeXT: features from images"

_WAYS = [
    Choice("not at all: leave the table as it is", value="stop"),
    Choice("encode all images anew; the table stays until the new one is whole", value="anew"),
    Choice("with rows of both ways, which differ by rounding", value="mixed"),
]


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
                number = ask(questionary.select(TITLE, choices=choices, instruction="(arrow keys, Enter)"))
                action = entries[number][1]
                if action is None:
                    return
                guarded(self._screen, entries[number][0], action)
                self._screen.console.print()
        except LeftQuestion:
            return
        finally:
            if self._tensorboard is not None:
                self._tensorboard.close()

    def _analyze(self) -> None:
        settings = self._screen.settings()
        images = self._images_of_data()
        self._say(f"Analyze the images of {shown(images, self._screen)}; only new and changed ones are looked at")
        actions.run_analyze(self._screen, settings, images)

    def _pretrain(self) -> None:
        settings = self._screen.settings()
        images = self._images_of_data()
        epochs, count = counted(settings.epochs, "epoch"), counted(settings.num_train_samples, "image")
        self._say(
            f"Pretrain {settings.architecture} for {epochs} on up to {count} of {shown(images, self._screen)} "
            f"(batches of {settings.batch_size}, {settings.loss_name}, {settings.optimizer}, learning rate "
            f"{settings.learning_rate}, {settings.lr_schedule})"
        )
        name = ask(
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
        if not ask(questionary.confirm("Use sample images (tiles of public-domain photographs) instead?")):
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
        folder = choose_run(self._screen)
        done, total, finished = run_progress(folder)
        if not finished:
            self._say(f"Go on with {folder.name} after epoch {done} of {total}")
            actions.run_resume(self._screen, settings, folder, None, _taking_less(settings, folder))
            return
        self._say(f"{folder.name} is finished with {done} epochs; a new total extends it")
        answer = ask(questionary.text("New total of epochs:", validate=lambda text: _above(text, done)))
        actions.run_resume(self._screen, settings, folder, int(answer), _taking_less(settings, folder))

    def _evaluate(self) -> None:
        settings = self._screen.settings()
        folders = choose_checkpoints(self._screen)
        if len(folders) == 1:
            self._say(f"Evaluate {folders[0].name} on its own train, validation and test images")
            actions.run_evaluate(self._screen, settings, folders[0], None)
            return
        names = ", ".join(folder.name for folder in folders)
        self._say(f"Compare {names} on the test images that they have in common; those not yet evaluated are first")
        actions.run_compare(self._screen, settings, folders, None)

    def _extract(self) -> None:
        settings = self._screen.settings()
        folder = choose_checkpoint(self._screen)
        images = choose_source(self._screen)
        grid = settings.feature_grid
        self._say(
            f"Extract features ({grid}x{grid} positions) with {folder.name} from {shown(images, self._screen)} "
            f"(batches of {settings.inference_batch_size})"
        )
        try:
            actions.run_extract(self._screen, settings, folder, images, None)
        except OtherWayError as error:
            self._screen.reporter.warning(error.what)
            ways = ask(questionary.select("How shall it go on?", choices=_WAYS))
            if ways == "stop":
                raise LeftQuestion from error
            actions.run_extract(self._screen, settings, folder, images, None, ways)

    def _explore(self) -> None:
        chosen = ask(
            questionary.select(
                "What shall the features be used for?",
                choices=[Choice(exploration.TITLE, value=exploration) for exploration in MENU],
            )
        )
        chosen.from_menu(self._screen)

    def _open_tensorboard(self) -> None:
        from fext.jobs.tensorboard import TensorBoardServer

        if self._tensorboard is not None and self._tensorboard.is_running():
            if ask(questionary.confirm(f"TensorBoard is open at {self._tensorboard.address}. Close it?")):
                self._tensorboard.close()
                self._tensorboard = None
            return
        folder = self._folder_for_tensorboard()
        self._say(f"Starting TensorBoard on {shown(folder, self._screen)}")
        self._tensorboard = TensorBoardServer(folder)
        self._say(f"TensorBoard is open at {self._tensorboard.address} until you close it here or leave the menu")

    def _folder_for_tensorboard(self) -> Path:
        """The checkpoints, or the map of an extraction, where there is any."""
        workspace = self._screen.workspace
        maps = workspace.map_names()
        if not maps:
            return workspace.checkpoints
        choices = [Choice("training runs", value=""), *(Choice(f"map of {name}", value=name) for name in maps)]
        name = ask(questionary.select("TensorBoard of what?", choices=choices))
        return workspace.find_map(name) if name else workspace.checkpoints

    def _settings(self) -> None:
        settings: Settings = self._screen.settings()
        actions.run_settings(self._screen, settings)

    def _say(self, text: str) -> None:
        self._screen.reporter.message(text)


def _taking_less(settings: "Settings", folder: Path) -> dict[str, int]:
    """What configurations.py has otherwise than a run began with, and takes less memory, where the user wants that."""
    from fext.settings import CHANGEABLE
    from fext.store.checkpoints import load_settings_of

    trained = load_settings_of(folder)
    less: dict[str, int] = {}
    for name in CHANGEABLE:
        now, before = int(getattr(settings, name)), int(getattr(trained, name))
        if now > before if name == "gradient_accumulation" else now < before:
            less[name] = now
    words = ", ".join(f"{name} = {value} ({folder.name} has {getattr(trained, name)})" for name, value in less.items())
    question = f"configurations.py has {words}, which takes less memory: go on so?"
    return less if less and ask(questionary.confirm(question, default=False)) else {}


def _above(text: str, done: int) -> bool | str:
    good = text.strip().isdigit() and int(text) > done
    return True if good else f"a whole number above {done}"
