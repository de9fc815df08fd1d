"""The subcommands: the jobs of the menu, without a terminal."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fext.errors import SettingsError
from fext.screen import actions
from fext.screen.actions import Screen
from fext.screen.explorations import EXPLORATIONS, recipe
from fext.screen.explorations.common import path_word

if TYPE_CHECKING:
    from fext.screen.explorations.common import Commands
    from fext.settings import Settings

_OF_A_MODEL = ("model", "custom")  # categories of settings


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options and help."""
    parser = argparse.ArgumentParser(
        prog="featext.py",
        description="FeXT turns a folder of images into features. Without a command the menu opens.",
    )
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    with_settings = [*_add_training(commands), *_add_extraction_commands(commands), *_add_explorations(commands)]
    _add_files(commands)
    settings = commands.add_parser("settings", help="show the settings in force and the device")
    settings.set_defaults(run=_settings)
    tensorboard = commands.add_parser("tensorboard", help="open TensorBoard on the checkpoints until Ctrl-C")
    tensorboard.add_argument(
        "extraction", nargs="?", metavar="EXTRACTION", help="open it on the map of this extraction instead"
    )
    tensorboard.set_defaults(run=_tensorboard)
    for command in (*with_settings, settings):
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            dest="overrides",
            help="use another value for a setting of configurations.py; may be given more than once",
        )
    return parser


def _add_training(commands: "Commands") -> list[argparse.ArgumentParser]:
    """What leads to a checkpoint and judges it."""
    analyze = commands.add_parser("analyze", help="measure every image; name copies, damaged and odd ones")
    _add_images(analyze, "FOLDER", "folder or list of images (default: data/images)")
    analyze.set_defaults(run=_analyze)

    pretrain = commands.add_parser("pretrain", help="train an autoencoder on a folder of images")
    pretrain.add_argument("--name", help="name of the new checkpoint (default: architecture and time)")
    _add_images(pretrain, "FOLDER", "folder or list of images (default: data/images)")
    pretrain.set_defaults(run=_pretrain)

    resume = commands.add_parser("resume", help="go on with an interrupted run, or extend a finished one")
    _add_checkpoint(resume)
    resume.add_argument("--epochs", type=int, metavar="N", help="new total of epochs")
    resume.set_defaults(run=_resume)

    evaluate = commands.add_parser("evaluate", help="score a checkpoint, or hold several against each other")
    evaluate.add_argument(
        "checkpoints",
        nargs="*",
        metavar="CHECKPOINT",
        help="name or path (default: the only one); two or more are compared",
    )
    _add_images(evaluate, "FOLDER", "score the images of this folder or list instead")
    evaluate.set_defaults(run=_evaluate)
    return [analyze, pretrain, resume, evaluate]


def _add_extraction_commands(commands: "Commands") -> list[argparse.ArgumentParser]:
    """What makes features and pictures with a checkpoint, and proves them."""
    extract = commands.add_parser("extract", help="write the features of every image; goes on where it stopped")
    _add_checkpoint(extract)
    _add_images(
        extract,
        "SOURCE",
        "folder or list of images (default: inference/images where it holds images, else data/images)",
    )
    extract.add_argument("--name", help="name of the extraction (default: checkpoint and source)")
    extract.add_argument(
        "--ways",
        choices=("stop", "anew", "mixed"),
        default="stop",
        help="where rows were computed in another way than here (another version, processor or precision): stop, "
        "encode all anew, or go on with rows of both ways (default: stop)",
    )
    extract.set_defaults(run=_extract)

    verify = commands.add_parser("verify", help="prove that an extraction is whole and belongs to model and images")
    verify.add_argument("extraction", nargs="?", metavar="EXTRACTION", help="name or path (default: the only one)")
    verify.add_argument("--all", action="store_true", dest="everything", help="compute every row again, not a sample")
    verify.set_defaults(run=_verify)

    reconstruct = commands.add_parser("reconstruct", help="write what a model makes of images as pictures")
    _add_checkpoint(reconstruct)
    _add_images(reconstruct, "SOURCE", "folder or list of images", required=True)
    reconstruct.add_argument("--output", type=Path, metavar="FOLDER", required=True, help="a new or empty folder")
    reconstruct.set_defaults(run=_reconstruct)
    return [extract, verify, reconstruct]


def _add_explorations(commands: "Commands") -> list[argparse.ArgumentParser]:
    explore = commands.add_parser("explore", help="use the features of an extraction")
    kinds = explore.add_subparsers(title="explorations", dest="exploration", metavar="WHAT", required=True)
    return [*(exploration.add_command(kinds) for exploration in EXPLORATIONS), recipe.add_command(commands)]


def _add_files(commands: "Commands") -> None:
    """What writes files and needs no settings."""
    export = commands.add_parser("export", help="write the encoder alone, for use without FeXT")
    _add_checkpoint(export)
    export.add_argument(
        "--format", choices=("onnx", "safetensors"), required=True, dest="file_format", help="of the file"
    )
    export.add_argument("--output", type=Path, metavar="FILE", required=True, help="a new file")
    export.set_defaults(run=_export)

    catalogue = commands.add_parser("catalogue", help="put what is known of images and models into one SQLite database")
    catalogue.set_defaults(run=_catalogue)

    samples = commands.add_parser("samples", help="write sample images that everyone has")
    samples.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="where to (default: data/samples)")
    samples.set_defaults(run=_samples)


def _add_images(command: argparse.ArgumentParser, metavar: str, text: str, *, required: bool = False) -> None:
    command.add_argument("--images", type=path_word, metavar=metavar, help=text, required=required)


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="name or path (default: the only one)")


def _analyze(screen: Screen, words: argparse.Namespace) -> None:
    actions.run_analyze(screen, screen.settings(words.overrides), words.images or screen.workspace.images)


def _pretrain(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    actions.run_pretrain(screen, settings, words.images or screen.workspace.images, words.name)


def _resume(screen: Screen, words: argparse.Namespace) -> None:
    from fext.settings import CHANGEABLE, names_of

    settings = screen.settings(words.overrides)
    folder = screen.workspace.find_checkpoint(words.checkpoint)
    own = _of_categories(*_OF_A_MODEL, "data", "training", "general").difference(CHANGEABLE)
    _refuse_other_settings(settings, words, folder, own)
    changes = {name: getattr(settings, name) for name in names_of(words.overrides) if name in CHANGEABLE}
    actions.run_resume(screen, settings, folder, words.epochs, changes)


def _of_categories(*categories: str) -> set[str]:
    from fext.settings import setting_infos

    return {info.name for info in setting_infos() if info.category in categories}


def _refuse_other_settings(settings: "Settings", words: argparse.Namespace, folder: Path, own: set[str]) -> None:
    """Raise SettingsError where --set has another value for what a checkpoint brings with it: it would be ignored."""
    from fext.settings import names_of
    from fext.store.checkpoints import load_settings_of

    trained = load_settings_of(folder)
    for name in names_of(words.overrides):
        if name in own and (value := getattr(trained, name)) != getattr(settings, name):
            raise SettingsError(f"--set: {folder.name} was trained with {name} = {value!r}, and keeps it")


def _evaluate(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    folders = [screen.workspace.find_checkpoint(name) for name in words.checkpoints or [None]]
    for folder in folders:
        _refuse_other_settings(settings, words, folder, {"picture_shape", "resize_mode", *_of_categories(*_OF_A_MODEL)})
    if len(folders) == 1:
        actions.run_evaluate(screen, settings, folders[0], words.images)
    else:
        actions.run_compare(screen, settings, folders, words.images)


def _extract(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    folder = screen.workspace.find_checkpoint(words.checkpoint)
    _refuse_other_settings(settings, words, folder, {"picture_shape", "resize_mode", *_of_categories(*_OF_A_MODEL)})
    actions.run_extract(screen, settings, folder, words.images, words.name, words.ways)


def _verify(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    actions.run_verify(screen, settings, screen.workspace.find_extraction(words.extraction), words.everything)


def _reconstruct(screen: Screen, words: argparse.Namespace) -> None:
    settings = screen.settings(words.overrides)
    folder = screen.workspace.find_checkpoint(words.checkpoint)
    _refuse_other_settings(settings, words, folder, {"picture_shape", "resize_mode", *_of_categories(*_OF_A_MODEL)})
    actions.run_reconstruct(screen, settings, folder, words.images, words.output)


def _export(screen: Screen, words: argparse.Namespace) -> None:
    folder = screen.workspace.find_checkpoint(words.checkpoint)
    actions.run_export(screen, folder, words.file_format, words.output)


def _catalogue(screen: Screen, _: argparse.Namespace) -> None:
    actions.run_catalogue(screen)


def _samples(screen: Screen, words: argparse.Namespace) -> None:
    actions.run_samples(screen, words.folder or screen.workspace.samples)


def _settings(screen: Screen, words: argparse.Namespace) -> None:
    actions.run_settings(screen, screen.settings(words.overrides))


def _tensorboard(screen: Screen, words: argparse.Namespace) -> None:
    from fext.jobs.tensorboard import TensorBoardServer

    workspace = screen.workspace
    server = TensorBoardServer(
        workspace.checkpoints if words.extraction is None else workspace.find_map(words.extraction)
    )
    try:
        screen.console.print(f"TensorBoard is open at {server.address} (Ctrl-C closes it)")
        while server.is_running():
            time.sleep(0.2)
    finally:
        server.close()
