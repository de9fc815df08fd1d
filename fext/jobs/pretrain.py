"""Pretraining: images of a folder become a checkpoint; an interrupted run goes on, a finished one is extended.

The state of a run is kept at every epoch's end, every few minutes within an epoch, and when the user stops.
"""

import datetime
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fext.compute.device import (
    check_jit_backend,
    free_memory,
    keeping_freed_memory,
    num_local_processes,
    prepare_computation,
    refuse_unfit_to_share,
)
from fext.compute.feature_scores import feature_scores, some_to_score
from fext.compute.memory import lowering
from fext.compute.optimization import learning_rate_at, make_average, make_optimizer
from fext.compute.parallel import Agreement, compiled, in_parallel
from fext.compute.processes import Processes, join_processes
from fext.compute.training import (
    EpochScores,
    Step,
    Totals,
    Trainer,
    add_scores,
    less_to_train,
    train_epoch,
    validation_epoch,
)
from fext.data.dataset import ImageCache, ImageStream, Shard
from fext.data.images import Preprocessing
from fext.data.names import Names
from fext.data.source import ImageSource, find_images, known_images
from fext.data.split import ChosenBy
from fext.errors import (
    NOT_ENOUGH_MEMORY,
    DeviceError,
    OutOfMemoryError,
    ProcessGroupError,
    ReaderDiedError,
    TrackingError,
    UnreadableImageError,
)
from fext.jobs.choosing import choose_split, say_split
from fext.jobs.diagnosis import Outlook, hints
from fext.jobs.feature_words import fall_of_features, in_words
from fext.jobs.forecast import readable_size
from fext.jobs.pictures import draw_graph, reconstruction_pairs
from fext.jobs.starting import (
    TrainImages,
    learns_start,
    plan_of,
    refuse_contradictions,
    refuse_larger_than_memory,
    refuse_single_values,
    say_unused,
    start_model,
)
from fext.jobs.tracking import Tracking, track_latents, tracking
from fext.jobs.training_state import (
    NO_CHANGES,
    Run,
    State,
    keep_epoch,
    mend,
    publish,
    restore,
    save_epoch,
    save_resume,
    trained,
)
from fext.model.disturbed import Disturbances, disturbed
from fext.model.heads import build_heads
from fext.pictures.figures import history_figure, pairs_figure
from fext.pictures.summary import model_summary
from fext.reporting import Progress, Reporter, SilentReporter, StopRequested, counted
from fext.settings import Settings, change_settings
from fext.store import checkpoints, files
from fext.store.locks import locked, remove_abandoned
from fext.store.workspace import Workspace

SECONDS_BETWEEN_SAVES = 180.0
_BEGUN, _READY = "run begun", "run ready"  # what processes tell each other: the folder of the run
_NUM_PICTURES = 12
_LESS_TO_BEGIN = (
    "nothing is lost; set batch_size, picture_shape or num_processors lower, choose a smaller architecture, or close "
    "other programs, and start again"
)


@dataclass(frozen=True)
class PretrainResult:
    """What a run came to.

    `chosen_by` says by which images the epoch was chosen, and `chosen_psnr` is that of these; test_psnr that of the
    kept weights on the test images, None where none of these can be read any more. `features` says in words what the
    kept weights make of images, compared with what they began with.
    """

    name: str
    folder: Path
    num_train: int
    num_validation: int
    num_test: int
    num_rejected: int
    epochs: int
    best_epoch: int
    train_psnr: float
    chosen_by: ChosenBy
    chosen_psnr: float
    test_psnr: float | None
    best_loss: float
    seconds: float
    seconds_of_epochs: float
    images_per_second: float
    stopped_early: bool
    features: str
    hints: tuple[str, ...]


@lowering(_LESS_TO_BEGIN)
@keeping_freed_memory()
def pretrain(
    workspace: Workspace,
    settings: Settings,
    images: Path,
    name: str | None,
    reporter: Reporter,
    only: Names | None = None,
) -> PretrainResult | None:
    """Train a new model on the images of a folder or list, or only on these of them, and write its checkpoint.

    Under torchrun the processes train one model together: the first one begins the run and alone writes and has a
    result, the others join it. Started again by torchrun, they go on with it. Raises SourceError, TooFewImagesError,
    ModelError, DeviceError, CheckpointError (the name is taken), TrainingError, OutOfMemoryError, and ProcessGroupError
    where another process has ended.
    """
    processes = join_processes()
    if not processes.is_first:
        _join(processes, settings, reporter)
        return None
    if begun := processes.recall(_BEGUN):
        return _go_on(processes, settings, Path(begun), None, reporter)
    started = time.perf_counter()
    run, rejected = _new_run(workspace, settings, images, name, reporter, only, processes)
    state = State()
    remove_abandoned(workspace.checkpoints)
    with locked(run.folder):
        _begin(run, state, rejected)
        _call_others(run)
        return _train(run, state, len(rejected), started)


def _new_run(
    workspace: Workspace,
    settings: Settings,
    images: Path,
    name: str | None,
    reporter: Reporter,
    only: Names | None,
    processes: Processes,
) -> tuple[Run, list[tuple[str, str]]]:
    """The parts of a run of which nothing is written yet, and the images rejected in choosing its own, with reasons."""
    check_jit_backend(settings)
    refuse_contradictions(settings)
    computation = prepare_computation(settings, for_training=True)
    refuse_unfit_to_share(settings, computation, processes.count)
    plan = plan_of(settings)
    refuse_larger_than_memory(plan, settings, computation)
    say_unused(settings, reporter)
    preprocessing = Preprocessing(*settings.picture_shape, resize_mode=settings.resize_mode)
    folder = workspace.new_checkpoint(name or _made_up_name(workspace, settings.architecture))
    source = _source(workspace, images, only, reporter)
    # What a run takes its images for has to be true from the start: each is compared whenever it is read.
    chosen = choose_split(workspace, change_settings(settings, check_contents=True), source, reporter)
    say_split(chosen.split, settings, source, reporter)
    refuse_single_values(plan, settings, len(chosen.split.train))
    train_images = TrainImages(source, chosen.split.train, preprocessing, computation.num_processors, reporter)
    model = start_model(plan, settings, train_images)
    heads = build_heads(plan, settings)
    computation.place(model)
    optimizer = make_optimizer(trained(model, heads, computation), settings, computation)
    average = make_average(model, settings.ema_decay) if settings.ema_decay else None
    run = Run(
        folder, settings, preprocessing, source, chosen.split, chosen.checksums(), computation, model, heads,
        optimizer, average, computation.make_scaler(), reporter, processes,
    )  # fmt: skip
    return run, chosen.rejected


def _source(workspace: Workspace, images: Path, only: Names | None, reporter: Reporter) -> ImageSource:
    """The images to choose from; none where the user's own folder is not made yet."""
    is_missing = images == workspace.images and not images.exists()
    source = ImageSource(images, images, Names([]), 0) if is_missing else find_images(images, reporter)
    return source if only is None else known_images(images, only)


@lowering(_LESS_TO_BEGIN)
@keeping_freed_memory()
def resume(
    settings: Settings,
    folder: Path,
    epochs: int | None,
    reporter: Reporter,
    changes: Mapping[str, int] = NO_CHANGES,
) -> PretrainResult | None:
    """Go on with an interrupted run, or extend a finished one to a new total of epochs; under torchrun like pretrain.

    The checkpoint's own settings are used, but those of the machine (category 'advanced') are today's. `changes` are
    other values for those of CHANGEABLE, with which memory suffices. Raises CheckpointError where there is nothing to
    go on with, SettingsError where a change cannot be.
    """
    processes = join_processes()
    if not processes.is_first:
        _join(processes, settings, reporter)
        return None
    # What torchrun starts again may have been extended before.
    if processes.recall(_BEGUN):
        return _go_on(processes, settings, folder, None, reporter)
    return _go_on(processes, settings, folder, epochs, reporter, changes)


def _go_on(
    processes: Processes,
    settings: Settings,
    folder: Path,
    epochs: int | None,
    reporter: Reporter,
    changes: Mapping[str, int] = NO_CHANGES,
) -> PretrainResult:
    """Go on with the run in a folder, and let the other processes join."""
    started = time.perf_counter()
    with locked(folder):
        stored = checkpoints.load_resume(folder)
        run, state = restore(settings, folder, epochs, stored, reporter, processes, changes)
        checkpoints.save_settings(folder, run.settings)
        mend(run, state)
        reporter.message(f"{folder.name}: going on after {state.how_far()}")
        _call_others(run)
        return _train(run, state, 0, started)


def _call_others(run: Run) -> None:
    """Let the other processes join; should torchrun start all of them again, it is this run that goes on."""
    words = {"folder": str(run.folder.absolute()), "computes": _computes(run)}
    run.processes.remember(_BEGUN, words["folder"])
    run.processes.tell(_READY, json.dumps(words))


def _computes(run: Run) -> str:
    return f"on {run.computation.device.type} in {run.computation.precision}"


def _join(processes: Processes, settings: Settings, reporter: Reporter) -> None:
    """Train with the first process, which has begun a run or brought it back; what it wrote tells all about it."""
    with reporter.progress("waiting for the first process", 0) as progress:
        words = json.loads(processes.hear(_READY, lambda: progress.advance(0)))
    folder = Path(words["folder"])
    stored = checkpoints.load_resume(folder)
    run, state = restore(settings, folder, None, stored, SilentReporter(), processes)
    if _computes(run) != words["computes"]:
        raise DeviceError(
            f"the first process computes {words['computes']}, process {processes.rank} would do so "
            f"{_computes(run)}: set training_device and use_mixed_precision to what all of them have"
        )
    _train(replace(run, reporter=reporter), state, 0, time.perf_counter())


def _begin(run: Run, state: State, rejected: Sequence[tuple[str, str]]) -> None:
    """Write the checkpoint of epoch 0, whole or not at all: a run killed in its first epoch can be resumed, too."""
    with files.new_folder(run.folder) as draft:
        beginning = replace(run, folder=draft)
        checkpoints.start_checkpoint(draft, run.settings, run.split, run.checksums)
        if learns_start(run.model.plan, run.settings):
            checkpoints.save_encoder_start(draft, run.model)
        files.write_csv(draft / "rejected.csv", ("image", "reason"), rejected)
        files.write_text(draft / "model_summary.txt", model_summary(run.model, run.preprocessing.shape))
        if run.settings.generate_model_graph:
            draw_graph(draft, run.model, run.preprocessing.shape, run.reporter)
        save_epoch(beginning, state, is_best=True)


def _made_up_name(workspace: Workspace, architecture: str) -> str:
    moment = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    name, number = f"{architecture}_{moment}", 1
    while (workspace.checkpoints / name).exists():
        number += 1
        name = f"{architecture}_{moment}_{number}"
    return name


def _train(run: Run, state: State, num_rejected: int, started: float) -> PretrainResult:
    with lowering(less_to_train(run.settings)):
        return _train_to_the_end(run, state, num_rejected, started)


def _train_to_the_end(run: Run, state: State, num_rejected: int, started: float) -> PretrainResult:
    settings, computation = run.settings, run.computation
    run.reporter.message(f"training {settings.architecture} on {computation.describe()}")
    with run.processes.sharing_tensors(computation.device):
        _train_epochs(run, state)
    if _stopped_early(settings, state):
        by = f" by early_stopping_delta = {delta}" if (delta := settings.early_stopping_delta) else ""
        run.reporter.message(
            f"stopped early: the {run.split.chosen_by} loss has not fallen{by} for "
            f"{counted(state.num_stalled, 'epoch')}"
        )
    test_scores = None
    if run.processes.is_first:
        test_scores = _score_test_images(run)
        _draw_pictures(run, state)
        track_latents(run, state)
        publish(run, state, is_best=False, finished=True, test_scores=test_scores)
    return _result(run, state, test_scores, num_rejected, time.perf_counter() - started)


def _train_epochs(run: Run, state: State) -> None:
    settings = run.settings
    trainer = _make_trainer(run)
    streams = _streams(run)
    num_per_epoch = len(run.split.train) + len(run.split.choosing)
    total = max(0, num_per_epoch * (settings.epochs - len(state.history)) - state.num_images)
    with tracking(run, state) as tracked, run.reporter.progress("training", total) as progress:
        watch = _Watch(run, state, trainer.agreement, tracked, progress, Outlook(total, settings, run.reporter))
        with _keeping_what_is_done(run, state):
            _score_start(run, state)
        while len(state.history) < settings.epochs and not _stopped_early(settings, state):
            with _keeping_what_is_done(run, state):
                row = _one_epoch(run, state, trainer, streams, watch)
            is_best = _note(run, state, row)
            try:
                tracked.epoch()  # before it is kept: what a killed run goes on from, TensorBoard has seen
            finally:
                _keep(run, state, is_best=is_best)
            run.reporter.message(_epoch_line(run, state, row))
        tracked.finish()


@contextmanager
def _keeping_what_is_done(run: Run, state: State) -> Iterator[None]:
    """Save the batches of an epoch that is left between two of them, for whatever reason that is known."""
    try:
        yield
    except (
        StopRequested, UnreadableImageError, ReaderDiedError, OutOfMemoryError, ProcessGroupError, TrackingError
    ):  # fmt: skip
        if not run.processes.is_first:
            raise
        save_resume(run, state)
        run.reporter.message(f"{run.folder.name} is kept as it stands: {state.how_far()}; resume it to go on")
        raise


def _make_trainer(run: Run) -> Trainer:
    settings = run.settings
    disturbances = Disturbances(
        input_noise=settings.input_noise,
        input_masking=settings.input_masking,
        latent_noise=settings.latent_noise,
        ordered_latent=settings.ordered_latent,
    )
    device = run.computation.device
    model = disturbed(run.model, disturbances, run.heads, settings.loss)
    forward: Any = in_parallel(model, run.processes, device)
    if settings.jit_compile:
        forward = compiled(forward, settings.jit_backend)
    agreement = Agreement(run.processes, device)
    statistics = tuple(model.buffers())
    return Trainer(
        forward, run.model, run.optimizer, run.average, settings, run.computation, run.scaler, agreement, statistics
    )


def _stopped_early(settings: Settings, state: State) -> bool:
    return 0 < settings.early_stopping_patience <= state.num_stalled and len(state.history) < settings.epochs


def _streams(run: Run) -> tuple[ImageStream, ImageStream]:
    settings, computation = run.settings, run.computation
    is_cached = settings.cache_images and _fits_memory(run)

    def stream(names: tuple[str, ...], batch_size: int, **options: Any) -> ImageStream:
        return ImageStream(
            run.source.root,
            names,
            run.preprocessing,
            batch_size=batch_size,
            num_processors=computation.num_processors,
            checksums=[run.checksums[name] for name in names],
            cache=ImageCache(len(names), run.preprocessing.shape) if is_cached else None,
            pin_memory=computation.device.type == "cuda",
            as_bytes=computation.device.type == "cuda",
            shard=Shard(run.processes.rank, run.processes.count),
            **options,
        )

    augmentation_seed = settings.seed if settings.augmentation else None
    train = stream(
        run.split.train, settings.batch_size, shuffle_seed=settings.seed, augmentation_seed=augmentation_seed
    )
    return train, stream(run.split.choosing, settings.inference_batch_size, beside=train)


def _fits_memory(run: Run) -> bool:
    """Whether what cache_images keeps, in each process of this machine, leaves the half of the free memory free."""
    size = ImageCache.size(len(run.split.train) + len(run.split.choosing), run.preprocessing.shape)
    is_shared = run.computation.num_processors > 1
    limit = free_memory(shared=is_shared) // (2 * num_local_processes())
    if size > limit and run.processes.is_first:
        kind = "memory for processes to share (/dev/shm)" if is_shared else "memory"
        run.reporter.warning(
            f"cache_images: the decoded images would take {readable_size(size)}, and half of the {kind} that is free "
            f"is {readable_size(limit)}: they are read in each epoch"
        )
    return size <= limit


class _Watch:
    """What is done after each batch: the time is noted, the state kept every few minutes, progress told."""

    def __init__(
        self, run: Run, state: State, agreement: Agreement, tracked: Tracking, progress: Progress, outlook: Outlook
    ) -> None:
        self._run, self._state, self._progress, self._outlook = run, state, progress, outlook
        self._agreement, self._tracked = agreement, tracked
        self._began = self._saved = 0.0

    def begin_epoch(self) -> None:
        """Let time run, from where an interrupted epoch stood."""
        self._saved = time.perf_counter()
        self._began = self._saved - self._state.seconds
        self._tracked.begin_epoch()

    def on_step(self, step: Step) -> None:
        """After a batch of training."""
        self._state.train_seconds = time.perf_counter() - self._began
        self._tracked.step(step)
        self._on_batch(step.num_images, f"loss {step.loss:.5f}")

    def on_validation_batch(self, num_images: int, images: torch.Tensor, reconstructions: torch.Tensor) -> None:
        """After a batch of validation."""
        self._tracked.validation_batch(images, reconstructions)
        self._on_batch(num_images, "validating")

    def _on_batch(self, num_images: int, note: str) -> None:
        state, now = self._state, time.perf_counter()
        state.seconds = now - self._began
        if now - self._saved >= SECONDS_BETWEEN_SAVES and self._run.processes.is_first:
            self._tracked.flush()
            save_resume(self._run, state)
            self._saved = time.perf_counter()
        self._outlook.see(num_images, state.train.waiting_seconds)
        title = f"epoch {len(state.history) + 1}/{self._run.settings.epochs}"
        try:
            self._progress.advance(num_images, f"{title}, {note}")
        except StopRequested:
            if self._run.processes.count == 1:
                raise
            self._agreement.ask_to_stop()


def _one_epoch(
    run: Run, state: State, trainer: Trainer, streams: tuple[ImageStream, ImageStream], watch: _Watch
) -> dict[str, float]:
    """Train and validate once, or what is left of an epoch begun before; the epoch's row of history.csv."""
    train_stream, validation_stream = streams
    epoch = len(state.history)
    watch.begin_epoch()
    if state.train.num_images < len(run.split.train):
        with _naming_images(run, run.split.train):
            run.model.train()
            train_epoch(
                trainer,
                train_stream.epoch(epoch, state.train.num_images),
                state.train,
                epoch=epoch,
                num_images=len(run.split.train),
                on_batch=watch.on_step,
            )
    with _naming_images(run, run.split.choosing):
        run.judged.eval()
        validation_epoch(
            trainer,
            run.judged,
            validation_stream.epoch(0, state.validation.num_images),
            state.validation,
            num_images=len(run.split.choosing),
            on_batch=watch.on_validation_batch,
        )
    return _row(run, state) | _feature_scores(run)


def _score_start(run: Run, state: State) -> None:
    """Note how good the features are that training begins with."""
    if not state.features_at_start and not state.num_images and not state.history:
        state.features_at_start = _feature_scores(run)


def _feature_scores(run: Run) -> dict[str, float]:
    """What an epoch's row of history.csv says of the features, by some of the images that the epoch is chosen by.

    Each process scores all of them: none waits for another, and the result is that of one alone. Where one cannot be
    read the validation itself says so.
    """
    names = some_to_score(run.split.choosing)
    stream = ImageStream(
        run.source.root,
        names,
        run.preprocessing,
        batch_size=run.settings.inference_batch_size,
        num_processors=1,
        checksums=[run.checksums[name] for name in names],
    )
    run.judged.eval()
    batches = (batch.images for batch in stream.epoch() if batch.files)
    return feature_scores(run.judged.encoder, batches, run.settings, run.computation)._asdict()


@contextmanager
def _naming_images(run: Run, names: tuple[str, ...]) -> Iterator[None]:
    """Turn the position of an image that can no longer be used into its name, or into that of its folder."""
    try:
        yield
    except UnreadableImageError as error:
        name = names[error.position]
        if error.reason.startswith(NOT_ENOUGH_MEMORY):
            raise OutOfMemoryError(f"{name}: {error.reason}: {less_to_train(run.settings)}") from error
        what = name if run.source.is_there(name) else f"the folder {run.source.path(name).parent}"
        advice = f"put it back and resume {run.folder.name}, or train a new model"
        error.args = (f"{what} can no longer be used ({error.reason}): {advice}",)
        raise


def _row(run: Run, state: State) -> dict[str, float]:
    epoch = len(state.history) + 1
    train, judged = state.train.scores(), state.validation.scores()
    middle = (epoch - 0.5 / state.train.num_batches) / run.settings.epochs  # of the last batch
    side = run.split.chosen_by
    return {
        "epoch": epoch,
        "learning_rate": learning_rate_at(run.settings, middle),
        "train_loss": train.loss,
        f"{side}_loss": judged.loss,
        "train_mse": train.mse,
        f"{side}_mse": judged.mse,
        "train_mae": train.mae,
        f"{side}_mae": judged.mae,
        "train_psnr": train.psnr,
        f"{side}_psnr": judged.psnr,
        "gradient_norm": state.train.gradient_norm / max(state.train.num_steps, 1),
        "dead_channels": state.validation.dead_channels(),
        "waiting_seconds": round(state.train.waiting_seconds, 3),
        "seconds": round(state.seconds, 3),
        "images_per_second": round(train.num_images / state.train_seconds, 3),
    }


def _note(run: Run, state: State, row: dict[str, float]) -> bool:
    """Add the epoch that just ended to the history; gives whether it is the best so far."""
    state.history.append(row)
    epoch, loss = len(state.history), row[f"{run.split.chosen_by}_loss"]
    if loss < state.reference_loss - run.settings.early_stopping_delta:
        state.reference_loss, state.num_stalled = loss, 0
    else:
        state.num_stalled += 1
    is_best = loss < state.best_loss
    if is_best:
        state.best_epoch, state.best_loss = epoch, loss
    return is_best


def _keep(run: Run, state: State, *, is_best: bool) -> None:
    """Save the epoch that was just noted, and begin the next one."""
    state.begin_epoch()
    if run.processes.is_first:
        keep_epoch(run, state)
        save_epoch(run, state, is_best=is_best)


def _epoch_line(run: Run, state: State, row: dict[str, float]) -> str:
    best = ", best" if state.best_epoch == row["epoch"] else ""
    side = run.split.chosen_by
    return (
        f"epoch {row['epoch']}/{run.settings.epochs}: {side} {row[f'{side}_psnr']:.2f} dB, loss "
        f"{row[f'{side}_loss']:.5f}; train {row['train_psnr']:.2f} dB; {row['images_per_second']:.1f} images/s{best}"
    )


def _score_test_images(run: Run) -> EpochScores | None:
    """The scores of the kept weights on the test images, which no epoch has seen; None where none can be read.

    An image that can no longer be read is named: the model is there, and better told by the others than not at all.
    """
    names, settings, computation = run.split.test, run.settings, run.computation
    model = checkpoints.load_checkpoint(run.folder).model
    computation.place(model)
    stream = ImageStream(
        run.source.root,
        names,
        run.preprocessing,
        batch_size=settings.inference_batch_size,
        num_processors=computation.num_processors,
        checksums=[run.checksums[name] for name in names],
        pin_memory=computation.device.type == "cuda",
    )
    totals = Totals()
    with run.reporter.progress("scoring the test images", len(names)) as progress:
        for batch in stream.epoch():
            for file in batch.rejected:
                run.reporter.warning(f"not scored: {names[file.position]} ({file.reason})")
            if batch.files:
                add_scores(totals, model, batch.images, settings, computation)
            progress.advance(batch.num_files)
    return totals.scores() if totals.num_images else None


def _draw_pictures(run: Run, state: State) -> None:
    """Draw the pictures of the finished run, with the weights of its best epoch."""
    files.write_figure(run.folder / "history.png", history_figure(state.history, run.settings.loss_name))
    model = checkpoints.load_checkpoint(run.folder).model
    run.computation.place(model)
    for subset, names in (("train", run.split.train), ("test", run.split.test)):
        shown = names[:: max(1, len(names) // _NUM_PICTURES)][:_NUM_PICTURES]
        pairs = reconstruction_pairs(model, run.source, shown, run.preprocessing, run.computation)
        title = f"{run.folder.name}: {subset} images above their reconstructions (epoch {state.best_epoch})"
        files.write_figure(run.folder / f"reconstructions_{subset}.png", pairs_figure(title, pairs))


def _result(
    run: Run, state: State, test_scores: EpochScores | None, num_rejected: int, seconds: float
) -> PretrainResult:
    best = state.history[state.best_epoch - 1]
    rates = [row["images_per_second"] for row in state.history]
    num_scored = len(some_to_score(run.split.choosing))
    return PretrainResult(
        name=run.folder.name,
        folder=run.folder,
        num_train=len(run.split.train),
        num_validation=len(run.split.validation),
        num_test=len(run.split.test),
        num_rejected=num_rejected,
        epochs=len(state.history),
        best_epoch=state.best_epoch,
        train_psnr=best["train_psnr"],
        chosen_by=run.split.chosen_by,
        chosen_psnr=best[f"{run.split.chosen_by}_psnr"],
        test_psnr=None if test_scores is None else test_scores.psnr,
        best_loss=state.best_loss,
        seconds=seconds,
        seconds_of_epochs=sum(row["seconds"] for row in state.history),
        images_per_second=sum(rates) / len(rates),
        stopped_early=_stopped_early(run.settings, state),
        features=in_words(state.features_at_start, best, f"{num_scored} {run.split.chosen_by} images"),
        hints=(
            *hints(state.history, run.settings),
            *fall_of_features(state.features_at_start, best, num_scored, run.settings),
        ),
    )
