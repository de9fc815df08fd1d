"""Pretraining: images of a folder become a checkpoint; an interrupted run goes on, a finished one is extended."""

import datetime
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fext.compute.device import Computation, check_jit_backend, prepare_computation
from fext.compute.training import (
    EpochScores,
    RejectedInTrainingError,
    learning_rate_at,
    make_optimizer,
    test_epoch,
    train_epoch,
)
from fext.data.dataset import ImageStream
from fext.data.images import Preprocessing
from fext.data.source import ImageSource, find_images
from fext.data.split import Split, split_images
from fext.errors import CheckpointError, TrainingError
from fext.jobs.choosing import choose_images, say_split
from fext.jobs.pictures import draw_graph, reconstruction_pairs
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.plans import make_plan
from fext.pictures.figures import history_figure, pairs_figure
from fext.pictures.summary import model_summary
from fext.reporting import Progress, Reporter
from fext.settings import Settings, change_settings, setting_infos, settings_from_json
from fext.store import checkpoints, files
from fext.store.checkpoints import FORMAT_VERSION, History
from fext.store.tracking import SilentTracker, TensorBoardTracker, Tracker
from fext.store.workspace import Workspace

_NUM_PICTURES = 12
_NUM_TRACKED_PICTURES = 6


@dataclass(frozen=True)
class PretrainResult:
    """What a run came to."""

    name: str
    folder: Path
    num_train: int
    num_test: int
    num_rejected: int
    epochs: int
    best_epoch: int
    train_psnr: float
    test_psnr: float
    best_test_loss: float
    seconds: float
    images_per_second: float
    stopped_early: bool


@dataclass
class _State:
    """What changes from epoch to epoch, and is kept in resume.pt."""

    history: History = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    reference_loss: float = math.inf  # the loss that early stopping waits to see beaten
    num_stalled: int = 0


@dataclass(frozen=True)
class _Run:
    """The parts of one run."""

    folder: Path
    settings: Settings
    preprocessing: Preprocessing
    source: ImageSource
    split: Split
    computation: Computation
    model: Autoencoder
    optimizer: torch.optim.Optimizer
    reporter: Reporter


def pretrain(
    workspace: Workspace, settings: Settings, images: Path, name: str | None, reporter: Reporter
) -> PretrainResult:
    """Train a new model on the images of a folder or list and write its checkpoint.

    Raises SourceError, TooFewImagesError, DeviceError, CheckpointError (the name is taken) and TrainingError.
    """
    check_jit_backend(settings)
    computation = prepare_computation(settings)
    plan = make_plan(settings.architecture, settings.picture_shape)
    preprocessing = Preprocessing(*settings.picture_shape, resize_mode=settings.resize_mode)
    folder = workspace.new_checkpoint(name or _made_up_name(workspace, settings.architecture))
    source = find_images(images)
    chosen = choose_images(workspace, settings, source, preprocessing, computation.num_processors, reporter)
    split = split_images(chosen.images, settings.num_train_samples, settings.num_test_samples)
    say_split(split, settings, source, reporter)
    model = build_autoencoder(plan, settings.seed)
    computation.place(model)
    optimizer = make_optimizer(model, settings, computation)
    run = _Run(folder, settings, preprocessing, source, split, computation, model, optimizer, reporter)
    checkpoints.start_checkpoint(folder, settings, split)
    _describe_model(run)
    state = _State()
    _save(run, state, with_weights=True, finished=False)  # a run killed in its first epoch can be resumed, too
    return _train(run, state, chosen.num_rejected)


def resume(settings: Settings, folder: Path, epochs: int | None, reporter: Reporter) -> PretrainResult:
    """Go on with an interrupted run, or extend a finished one to a new total of epochs.

    The checkpoint's own settings are used, but those of the machine (category 'advanced') are today's. Raises
    CheckpointError where there is nothing to go on with.
    """
    state = checkpoints.load_resume(folder)
    settings = _settings_to_resume(settings, folder, epochs, state)
    check_jit_backend(settings)
    computation = prepare_computation(settings)
    checkpoint = checkpoints.load_checkpoint(folder)
    model = checkpoint.model
    computation.place(model)
    optimizer = make_optimizer(model, settings, computation)
    progress = _restore(state, model, optimizer, folder)
    split = checkpoint.split()
    location = Path(checkpoint.source)
    source = ImageSource(location, location if location.is_dir() else location.parent, split.train + split.test, 0)
    run = _Run(folder, settings, checkpoint.preprocessing, source, split, computation, model, optimizer, reporter)
    checkpoints.save_settings(folder, settings)
    reporter.message(f"{folder.name}: going on after epoch {len(progress.history)} to epoch {settings.epochs}")
    return _train(run, progress, 0)


def _made_up_name(workspace: Workspace, architecture: str) -> str:
    moment = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name, number = f"{architecture}_{moment}", 1
    while (workspace.checkpoints / name).exists():
        number += 1
        name = f"{architecture}_{moment}_{number}"
    return name


def _settings_to_resume(today: Settings, folder: Path, epochs: int | None, state: dict[str, Any]) -> Settings:
    path = folder / "configurations.json"
    try:
        stored = settings_from_json(path.read_text(encoding="utf-8"), f"{folder.name}/configurations.json")
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder.name} is incomplete: configurations.json is missing") from error
    done = len(state["history"])
    if state["finished"] if epochs is None else epochs <= done:
        raise CheckpointError(
            f"{folder.name} is finished with {done} epochs: to extend it, give a total above {done} (--epochs)"
        )
    machine = {info.name: getattr(today, info.name) for info in setting_infos() if info.category == "advanced"}
    return change_settings(stored, epochs=epochs or stored.epochs, **machine)


def _restore(state: dict[str, Any], model: Autoencoder, optimizer: torch.optim.Optimizer, folder: Path) -> _State:
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        restored = _State(
            state["history"], state["best_epoch"], state["best_loss"], state["reference_loss"], state["num_stalled"]
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'resume.pt'} does not fit its checkpoint: it cannot be resumed") from error
    if state["finished"]:
        restored.num_stalled = 0  # extended on purpose: early stopping starts to count anew
    return restored


def _describe_model(run: _Run) -> None:
    shape = run.preprocessing.shape
    files.write_text(run.folder / "model_summary.txt", model_summary(run.model, shape))
    if run.settings.generate_model_graph:
        draw_graph(run.folder, run.model, shape, run.reporter)


def _train(run: _Run, state: _State, num_rejected: int) -> PretrainResult:
    settings, computation = run.settings, run.computation
    started = time.perf_counter()
    run.reporter.message(f"training {settings.architecture} on {computation.describe()}")
    tracker = _make_tracker(run, len(state.history) + 1)
    forward: Any = torch.compile(run.model, backend=settings.jit_backend) if settings.jit_compile else run.model
    train_stream, test_stream = _streams(run)
    num_per_epoch = len(run.split.train) + len(run.split.test)
    total = num_per_epoch * (settings.epochs - len(state.history))
    try:
        with run.reporter.progress("training", total) as progress:
            while len(state.history) < settings.epochs and not _stopped_early(settings, state):
                row = _one_epoch(run, forward, train_stream, test_stream, len(state.history), progress)
                _keep(run, state, row)
                _track(run, tracker, row, len(state.history))
                run.reporter.message(_epoch_line(row, settings, state))
    finally:
        tracker.close()
    if _stopped_early(settings, state):
        run.reporter.message(f"stopped early: the test loss has not fallen for {state.num_stalled} epochs")
    _draw_pictures(run, state)
    _save(run, state, with_weights=False, finished=True)
    return _result(run, state, num_rejected, time.perf_counter() - started)


def _stopped_early(settings: Settings, state: _State) -> bool:
    return 0 < settings.early_stopping_patience <= state.num_stalled and len(state.history) < settings.epochs


def _make_tracker(run: _Run, first_step: int) -> Tracker:
    if not run.settings.use_tensorboard:
        return SilentTracker()
    tracker = TensorBoardTracker(run.folder / "tensorboard", first_step)
    if first_step == 1:
        height, width, channels = run.preprocessing.shape
        run.model.eval()
        tracker.graph(run.model, torch.zeros(1, channels, height, width, device=run.computation.device))
    return tracker


def _streams(run: _Run) -> tuple[ImageStream, ImageStream]:
    settings, computation = run.settings, run.computation

    def stream(names: tuple[str, ...], batch_size: int, **seeds: int | None) -> ImageStream:
        return ImageStream(
            [run.source.path(name) for name in names],
            run.preprocessing,
            batch_size=batch_size,
            num_processors=computation.num_processors,
            pin_memory=computation.device.type == "cuda",
            **seeds,
        )

    augmentation_seed = settings.seed if settings.augmentation else None
    train = stream(
        run.split.train, settings.batch_size, shuffle_seed=settings.seed, augmentation_seed=augmentation_seed
    )
    return train, stream(run.split.test, settings.inference_batch_size)


def _one_epoch(
    run: _Run, forward: Any, train_stream: ImageStream, test_stream: ImageStream, epoch: int, progress: Progress
) -> dict[str, float]:
    """Train and test once; the epoch's row of history.csv."""
    title = f"epoch {epoch + 1}/{run.settings.epochs}"

    def on_batch(count: int, loss: float) -> None:
        progress.advance(count, f"{title}, testing" if math.isnan(loss) else f"{title}, loss {loss:.5f}")

    started = time.perf_counter()
    with _naming_images(run, run.split.train):
        run.model.train()
        train = train_epoch(
            forward,
            run.optimizer,
            train_stream.epoch(epoch),
            run.settings,
            run.computation,
            epoch=epoch,
            num_batches=len(train_stream),
            on_batch=on_batch,
        )
    train_seconds = time.perf_counter() - started
    with _naming_images(run, run.split.test):
        run.model.eval()
        test = test_epoch(run.model, test_stream.epoch(), run.settings, run.computation, on_batch)
    seconds = time.perf_counter() - started
    return _row(run.settings, epoch, train, test, seconds, train.num_images / train_seconds)


@contextmanager
def _naming_images(run: _Run, names: Sequence[str]) -> Iterator[None]:
    """Turn the position of an image that can no longer be read into its name."""
    try:
        yield
    except RejectedInTrainingError as error:
        raise TrainingError(
            f"{names[error.position]} can no longer be used ({error.reason}): put it back and resume "
            f"{run.folder.name}; every finished epoch is kept"
        ) from error


def _row(
    settings: Settings, epoch: int, train: EpochScores, test: EpochScores, seconds: float, rate: float
) -> dict[str, float]:
    return {
        "epoch": epoch + 1,
        "learning_rate": learning_rate_at(settings, (epoch + 1) / settings.epochs),
        "train_loss": train.loss,
        "test_loss": test.loss,
        "train_mse": train.mse,
        "test_mse": test.mse,
        "train_mae": train.mae,
        "test_mae": test.mae,
        "train_psnr": train.psnr,
        "test_psnr": test.psnr,
        "seconds": round(seconds, 3),
        "images_per_second": round(rate, 3),
    }


def _keep(run: _Run, state: _State, row: dict[str, float]) -> None:
    """Save the epoch that just ended."""
    settings = run.settings
    state.history.append(row)
    epoch, loss = len(state.history), row["test_loss"]
    if loss < state.reference_loss - settings.early_stopping_delta:
        state.reference_loss, state.num_stalled = loss, 0
    else:
        state.num_stalled += 1
    is_best = loss < state.best_loss
    if is_best:
        state.best_epoch, state.best_loss = epoch, loss
    _save(run, state, with_weights=is_best, finished=False)


def _save(run: _Run, state: _State, *, with_weights: bool, finished: bool) -> None:
    """Bring the checkpoint up to date, resume.pt last."""
    location = str(run.source.location.absolute())
    summary = _summary(run, state, finished)
    if with_weights:
        checkpoints.save_model(run.folder, run.model)
    checkpoints.save_description(run.folder, run.model.plan, run.preprocessing, location, summary)
    checkpoints.save_history(run.folder, state.history)
    resume_state = {
        "format_version": FORMAT_VERSION,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": state.history,
        "best_epoch": state.best_epoch,
        "best_loss": state.best_loss,
        "reference_loss": state.reference_loss,
        "num_stalled": state.num_stalled,
        "finished": finished,
    }
    checkpoints.save_resume(run.folder, resume_state)


def _summary(run: _Run, state: _State, finished: bool) -> dict[str, Any]:
    best = state.history[state.best_epoch - 1] if state.history else {}
    return {
        "epochs": len(state.history),
        "finished": finished,
        "best_epoch": state.best_epoch,
        "loss": run.settings.loss,
        **{name: best.get(name) for name in ("train_loss", "test_loss", "train_psnr", "test_psnr")},
        "num_train_images": len(run.split.train),
        "num_test_images": len(run.split.test),
        "device": run.computation.device.type,
        "precision": run.computation.precision,
    }


def _track(run: _Run, tracker: Tracker, row: dict[str, float], epoch: int) -> None:
    names = ("loss", "mse", "mae", "psnr")
    values = {f"{name}/{subset}": row[f"{subset}_{name}"] for name in names for subset in ("train", "test")}
    values["learning_rate"] = row["learning_rate"]
    values["images_per_second"] = row["images_per_second"]
    tracker.scalars(values, epoch)
    if not isinstance(tracker, SilentTracker):
        names_shown = run.split.test[:_NUM_TRACKED_PICTURES]
        pairs = reconstruction_pairs(run.model, run.source, names_shown, run.preprocessing, run.computation)
        sheet = [torch.cat([torch.from_numpy(p.original), torch.from_numpy(p.reconstruction)]) for p in pairs]
        if sheet:
            tracker.pictures("test images above their reconstructions", torch.cat(sheet, dim=1).permute(2, 0, 1), epoch)


def _epoch_line(row: dict[str, float], settings: Settings, state: _State) -> str:
    best = ", best" if state.best_epoch == row["epoch"] else ""
    return (
        f"epoch {row['epoch']}/{settings.epochs}: test {row['test_psnr']:.2f} dB, loss {row['test_loss']:.5f}; "
        f"train {row['train_psnr']:.2f} dB; {row['images_per_second']:.1f} images/s{best}"
    )


def _draw_pictures(run: _Run, state: _State) -> None:
    """Draw the pictures of the finished run, with the weights of its best epoch."""
    files.write_figure(run.folder / "history.png", history_figure(state.history, run.settings.loss))
    model = checkpoints.load_checkpoint(run.folder).model
    run.computation.place(model)
    for subset, names in (("train", run.split.train), ("test", run.split.test)):
        shown = names[:: max(1, len(names) // _NUM_PICTURES)][:_NUM_PICTURES]
        pairs = reconstruction_pairs(model, run.source, shown, run.preprocessing, run.computation)
        title = f"{run.folder.name}: {subset} images above their reconstructions (epoch {state.best_epoch})"
        files.write_figure(run.folder / f"reconstructions_{subset}.png", pairs_figure(title, pairs))


def _result(run: _Run, state: _State, num_rejected: int, seconds: float) -> PretrainResult:
    best = state.history[state.best_epoch - 1]
    rates = [row["images_per_second"] for row in state.history]
    return PretrainResult(
        name=run.folder.name,
        folder=run.folder,
        num_train=len(run.split.train),
        num_test=len(run.split.test),
        num_rejected=num_rejected,
        epochs=len(state.history),
        best_epoch=state.best_epoch,
        train_psnr=best["train_psnr"],
        test_psnr=best["test_psnr"],
        best_test_loss=state.best_loss,
        seconds=seconds,
        images_per_second=sum(rates) / len(rates),
        stopped_early=_stopped_early(run.settings, state),
    )
