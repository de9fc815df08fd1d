"""What the menu and the commands have in common: start a job, show its result.

Jobs are imported when they start, not before: torch takes seconds to load and the menu must be there at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fext.screen.console import ConsoleReporter, show_facts, show_path, show_settings, show_table, shown_path
from fext.store.workspace import Workspace

if TYPE_CHECKING:
    from fext.jobs.export import Format
    from fext.jobs.extraction import Ways
    from fext.jobs.pretrain import PretrainResult
    from fext.settings import Settings


@dataclass(frozen=True)
class Screen:
    """Where to print, and the folders to work in; of the processes that torchrun starts, the first one speaks."""

    console: Console
    workspace: Workspace
    is_first: bool = True

    @property
    def reporter(self) -> ConsoleReporter:
        """A new one on the console; in a process that is not the first it shows warnings alone."""
        return ConsoleReporter(self.console, only_warnings=not self.is_first)

    def settings(self, overrides: Sequence[str] = ()) -> "Settings":
        """configurations.py as it is at this moment."""
        from fext.settings import load_settings

        return load_settings(self.workspace.configurations, overrides)


def run_analyze(screen: Screen, settings: "Settings", images: Path) -> None:
    """Measure the images of a folder or list, and show what was found."""
    from fext.jobs.analyze import analyze
    from fext.pictures.viewer import MAX_IMAGES

    result = analyze(screen.workspace, settings, images, screen.reporter)
    looked_at = f"{result.num_new} now ({result.images_per_second:.1f} images/s)" if result.num_new else "none anew"
    found = [f"{count} {kind}" for kind, count in result.findings.items() if count]
    facts = [
        ("images found", f"{result.num_found}, {result.num_not_images} other files"),
        ("looked at", f"{looked_at}, {result.num_found - result.num_new} known from before"),
        ("good", f"{result.num_good}" + (f", {result.num_rejected} rejected" if result.num_rejected else "")),
        (
            "to look at",
            ", ".join(found) if found else "nothing: no copies, no damaged, black, white or uniform pictures",
        ),
        ("outliers", f"{result.num_outliers} values far out of the usual"),
        ("time", duration(result.seconds)),
    ]
    show_facts(screen.console, f"Analysis of {shown_path(images, screen.workspace.root)}", facts)
    if not result.has_changed:
        screen.reporter.message("nothing has changed since the last analysis: what stands there is kept")
    show_path(screen.console, "tables and pictures", result.folder, screen.workspace.root)
    if result.num_found > MAX_IMAGES:
        screen.reporter.message(f"the viewer shows the first {MAX_IMAGES:,} of {result.num_found:,} images")
    for name in ("report", "viewer"):
        show_path(screen.console, name, result.folder / f"{name}.html", screen.workspace.root)


def run_pretrain(screen: Screen, settings: "Settings", images: Path, name: str | None) -> None:
    """Train a new checkpoint on the images, and show how it went; without a name it is made up."""
    from fext.jobs.pretrain import pretrain

    _show_training(screen, pretrain(screen.workspace, settings, images, name, screen.reporter))


def run_resume(
    screen: Screen, settings: "Settings", folder: Path, epochs: int | None, changes: Mapping[str, int]
) -> None:
    """Go on with a checkpoint, up to a new total of epochs where one is given, and show how it went."""
    from fext.jobs.pretrain import resume

    _show_training(screen, resume(settings, folder, epochs, screen.reporter, changes))


def run_evaluate(screen: Screen, settings: "Settings", folder: Path, images: Path | None) -> None:
    """Score a checkpoint on the images of its split, or on others, and show scores and verdicts."""
    from fext.jobs.evaluate import evaluate
    from fext.pictures.evaluation_report import verdicts

    say_unfinished(screen, folder)
    result = evaluate(screen.workspace, settings, folder, images, screen.reporter)
    rows = []
    for subset, found in result.summary["subsets"].items():
        for method in ("model", "linear_map", "mean_image"):
            if method in found:
                mean = {score: found[method][score]["mean"] for score in ("psnr", "ssim", "mse", "mae")}
                scores = [f"{mean['psnr']:.2f}", f"{mean['ssim']:.3f}", f"{mean['mse']:.5f}", f"{mean['mae']:.4f}"]
                rows.append([f"{subset} ({found['num_images']})", method.replace("_", " "), *scores])
    header = ["images", "method", "PSNR dB", "SSIM", "MSE", "MAE"]
    show_table(screen.console, f"Evaluation of {result.name}", header, rows)
    if kept := result.summary.get("kept_channels"):
        rows = [[str(count), f"{psnr:.2f}"] for count, psnr in kept.items()]
        show_table(screen.console, "Reconstructed from the first channels alone", ["channels kept", "PSNR dB"], rows)
    for verdict in verdicts(result.summary):
        screen.reporter.message(verdict)
    screen.reporter.message(result.summary["interval_groups"]["sentence"])
    rejected = f", {result.num_rejected} rejected" if result.num_rejected else ""
    screen.console.print(
        f"{result.num_images} images in {duration(result.seconds)}, "
        f"{result.images_per_second:.1f} images/s{rejected}; means over images"
    )
    show_path(screen.console, "report", result.folder / "report.html", screen.workspace.root)
    show_path(screen.console, "pictures and scores", result.folder, screen.workspace.root)
    show_path(screen.console, "all models", result.scores_file, screen.workspace.root)


def run_compare(screen: Screen, settings: "Settings", folders: Sequence[Path], images: Path | None) -> None:
    """Score several checkpoints on the same images, and show how far each is behind the best."""
    from fext.jobs.compare import compare_checkpoints

    for folder in folders:
        say_unfinished(screen, folder)
    result = compare_checkpoints(screen.workspace, settings, folders, images, screen.reporter)
    rows = [
        [
            checkpoint.name,
            f"{checkpoint.psnr.mean:.2f}",
            "the best" if checkpoint.psnr_minus_best is None else checkpoint.psnr_minus_best.text(),
            f"{checkpoint.ssim.mean:.3f}",
        ]
        for checkpoint in result.comparison.checkpoints
    ]
    header = ["checkpoint", "PSNR dB", "less the best", "SSIM"]
    show_table(screen.console, f"Side by side on {len(result.comparison.names)} images", header, rows)
    for verdict in result.verdicts:
        screen.reporter.message(verdict)
    screen.reporter.message(result.comparison.groups)
    show_path(screen.console, "table", result.table, screen.workspace.root)
    show_path(screen.console, "report", result.report, screen.workspace.root)


def run_extract(
    screen: Screen,
    settings: "Settings",
    folder: Path,
    images: Path | None,
    name: str | None,
    ways: "Ways" = "stop",
) -> Path | None:
    """Extract; gives the folder of the extraction, none in a process that is not the first."""
    from fext.jobs.extract import extract

    say_unfinished(screen, folder)
    result = extract(screen.workspace, settings, folder, images, name, screen.reporter, ways)
    if result is None:  # one of several processes, and not the first
        return None
    looked_at = result.num_found - result.num_kept
    facts = [
        ("images found", f"{result.num_found}"),
        ("rows", f"{result.num_written} of {result.num_features:,} features"),
        ("rejected", f"{result.num_rejected}" + (" (see rejected.csv)" if result.num_rejected else "")),
        ("other files", f"{result.num_not_images} that are not images"),
    ]
    if result.num_kept or result.num_removed:
        again = f", {result.num_tried_again} tried again" if result.num_tried_again else ""
        unproven = f", {result.num_unproven} without a checksum" if result.num_unproven else ""
        changes = f"{result.num_new} new, {result.num_changed} changed{unproven}{again}, {result.num_removed} removed"
        facts.append(("since before", f"{result.num_kept} kept, {changes}"))
    rate = f", {looked_at} images at {result.images_per_second:.1f} images/s" if looked_at else ""
    facts.append(("time", f"{duration(result.seconds)}{rate}"))
    show_facts(screen.console, f"Extraction {result.name}", facts)
    for file in result.files:
        show_path(screen.console, "features", result.folder / file, screen.workspace.root)
    return result.folder


def run_verify(screen: Screen, settings: "Settings", folder: Path, everything: bool) -> None:
    """Prove an extraction, its sample or `everything`; raises ExtractionError where it is not whole."""
    from fext.errors import ExtractionError
    from fext.jobs.verify import verify

    result = verify(screen.workspace, settings, folder, everything, screen.reporter)
    for note in result.notes:
        screen.reporter.message(note)
    for problem in result.problems:
        screen.reporter.warning(problem)
    if result.num_problems:
        more = result.num_problems - len(result.problems)
        others = f", {more} more than are named above" if more else ""
        problems = "1 problem" if result.num_problems == 1 else f"{result.num_problems} problems"
        raise ExtractionError(f"{result.name} is not whole: {problems}{others}")
    screen.console.print(
        f"{result.name} is whole: its {result.num_rows} rows are what was written ({', '.join(result.formats)}), and "
        f"{result.num_recomputed} of them, computed again, are what its checkpoint makes of the images "
        f"({duration(result.seconds)})"
    )


def run_reconstruct(screen: Screen, settings: "Settings", folder: Path, images: Path, output: Path) -> None:
    """Write what the checkpoint makes of each image to a new or empty folder."""
    from fext.jobs.reconstruct import reconstruct

    say_unfinished(screen, folder)
    result = reconstruct(settings, folder, images, output, screen.reporter)
    screen.console.print(
        f"{result.num_written} of {result.num_found} images reconstructed in {duration(result.seconds)}, "
        f"{result.num_rejected} rejected"
    )
    show_path(screen.console, "written to", result.folder, screen.workspace.root)


def run_export(screen: Screen, folder: Path, file_format: "Format", output: Path) -> None:
    """Write the encoder of a checkpoint to a new file."""
    from fext.jobs.export import export

    say_unfinished(screen, folder)
    show_path(screen.console, "encoder", export(folder, file_format, output), screen.workspace.root)


def run_catalogue(screen: Screen) -> None:
    """Write the catalogue anew, and show how many rows each table has."""
    from fext.store.catalogue import write_catalogue

    result = write_catalogue(screen.workspace)
    for problem in result.problems:
        screen.reporter.warning(f"left out: {problem}")
    rows = [(table.replace("_", " "), f"{count:,} rows") for table, count in result.num_rows.items()]
    show_facts(screen.console, "Catalogue", rows or [("nothing yet", "no analysis, no checkpoint, no extraction")])
    show_path(screen.console, "written to", result.file, screen.workspace.root)


def run_samples(screen: Screen, folder: Path) -> None:
    """Write the sample images to a folder."""
    from fext.store.samples import write_samples

    count = write_samples(folder)
    screen.console.print(f"{count} sample images, cut from public-domain and CC0 photographs (see SOURCES.md)")
    show_path(screen.console, "written to", folder, screen.workspace.root)


def run_settings(screen: Screen, settings: "Settings") -> None:
    """Show every setting in force, where it differs from its default, and what was found of the machine."""
    from fext.settings import CATEGORIES, setting_infos

    sections = []
    for category, title in CATEGORIES.items():
        rows = []
        for info in setting_infos():
            if info.category == category:
                value = getattr(settings, info.name)
                rows.append((info.name, repr(value), repr(info.default) if value != info.default else ""))
        sections.append((title, rows))
    show_settings(screen.console, sections)
    show_facts(screen.console, "This machine", _machine_facts(settings))


def _machine_facts(settings: "Settings") -> list[tuple[str, str]]:
    import importlib.metadata
    import platform

    import torch

    import fext
    from fext.compute.device import find_machine, prepare_computation
    from fext.errors import FextError

    machine = find_machine()
    try:
        computation = prepare_computation(settings)
        in_force = f"{computation.describe()}, {torch.get_num_threads()} threads"
        readers = "the main process" if computation.num_processors == 1 else f"{computation.num_processors} processes"
    except FextError as error:
        in_force, readers = str(error), "-"
    return [
        ("computes on", in_force),
        ("images read by", readers),
        ("processor", f"{machine.processor}, {machine.num_cores} cores"),
        ("GPUs", ", ".join(machine.gpus) or ("Apple GPU (MPS)" if machine.has_mps else "none that torch can use")),
        (
            "bfloat16",
            "fast on this processor" if machine.fast_bfloat16 else "not faster than float32 on this processor",
        ),
        ("versions", f"FeXT {fext.__version__}, Python {platform.python_version()}, torch {torch.__version__}"),
        ("", f"torchvision {importlib.metadata.version('torchvision')}"),
    ]


def say_unfinished(screen: Screen, folder: Path) -> None:
    """Warn where a checkpoint that is to be used has not been trained to its end."""
    from fext.store.runs import run_progress

    done, total, finished = run_progress(folder)
    if screen.is_first and not finished:
        how_far = f"{done} of {total} epochs" if done else "not one epoch: its weights are those it started with"
        screen.reporter.warning(f"{folder.name} is not trained to its end ({how_far}); resume it to go on")


def _show_training(screen: Screen, result: "PretrainResult | None") -> None:
    if result is None:  # one of several processes, and not the first
        return
    early = ", stopped early" if result.stopped_early else ""
    sides = f"{result.num_train} train, {result.num_validation} validation, {result.num_test} test"
    facts = [
        ("images", f"{sides}, {result.num_rejected} rejected"),
        ("epochs", f"{result.epochs}{early}; the best is {result.best_epoch}, and its weights are kept"),
        ("PSNR", _scores_of(result)),
        ("features", result.features),
        ("time", f"{_time_of(result)}, {result.images_per_second:.1f} images/s while training"),
    ]
    show_facts(screen.console, f"Checkpoint {result.name}", facts)
    for hint in result.hints:
        screen.reporter.message(hint)
    show_path(screen.console, "written to", result.folder, screen.workspace.root)


def _scores_of(result: "PretrainResult") -> str:
    chosen = f"{result.chosen_psnr:.2f} dB on {result.chosen_by} images, which chose the epoch"
    tested = [] if result.test_psnr is None else [f"{result.test_psnr:.2f} dB on test images"]
    trained = f"{result.train_psnr:.2f} dB on train images as they were trained on (best epoch)"
    return "; ".join([*(tested if result.chosen_by == "validation" else []), chosen, trained])


def _time_of(result: "PretrainResult") -> str:
    """The time since the job was started; beside it that of all epochs, where some were trained before."""
    if result.seconds_of_epochs <= result.seconds:
        return duration(result.seconds)
    return f"{duration(result.seconds)} now, {duration(result.seconds_of_epochs)} for all epochs"


def duration(seconds: float) -> str:
    """Seconds as people say them: '9.3 s', '2 min 5 s', '1 h 20 min'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
