"""A training run between two moments: its parts, how far it has come, and how both are kept and brought back.

resume.pt holds the whole of it and is written first; the files that others read are made from it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fext.compute.device import Computation, check_jit_backend, prepare_computation, refuse_unfit_to_share
from fext.compute.optimization import make_average, make_optimizer, restore_optimizer
from fext.compute.processes import Processes
from fext.compute.training import EpochScores, Totals
from fext.data.images import Preprocessing, checksum
from fext.data.names import Names
from fext.data.source import ImageSource
from fext.data.split import Split
from fext.errors import CheckpointError, is_out_of_memory
from fext.jobs.starting import refuse_contradictions, refuse_single_values
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.heads import Heads, build_heads
from fext.reporting import Reporter, counted
from fext.settings import Settings, change_settings, setting_infos
from fext.store import checkpoints
from fext.store.checkpoints import FEATURE_COLUMNS, Description, History, history_columns

_OF_THE_RUN = ("data", "model", "custom", "training")  # categories of settings
_HEADS = ("rotation_head", "views_head")
NO_CHANGES: Mapping[str, int] = MappingProxyType({})


@dataclass
class State:
    """How far a run has come: the epochs done, and the passes of the epoch that is under way.

    `validation` is the pass over the images that the epoch is chosen by, which in runs of earlier FeXT are test images.
    """

    weights_sha256: str = ""  # of the best epoch's model.safetensors
    history: History = field(default_factory=list)
    features_at_start: dict[str, float] = field(default_factory=dict)  # what an epoch of the history says of features
    best_epoch: int = 0
    best_loss: float = math.inf
    reference_loss: float = math.inf  # the loss that early stopping waits to see beaten
    num_stalled: int = 0
    train: Totals = field(default_factory=Totals)
    validation: Totals = field(default_factory=Totals)
    train_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def num_images(self) -> int:
        """Images done in the epoch that is under way."""
        return self.train.num_images + self.validation.num_images

    def how_far(self) -> str:
        """What is done, such as '2 epochs and 56 images of the next'."""
        done = counted(len(self.history), "epoch")
        if num_validated := self.validation.num_images:
            return f"{done} and the training of the next, which {counted(num_validated, 'image')} have judged"
        return f"{done} and {counted(self.train.num_images, 'image')} of the next" if self.train.num_images else done

    def begin_epoch(self) -> None:
        """Begin the passes of another epoch."""
        self.train, self.validation = Totals(), Totals()
        self.train_seconds = self.seconds = 0.0


@dataclass(frozen=True)
class Run:
    """The parts of one run; `checksums` holds the SHA-256 of every file of the split.

    `heads` end with training, and `average` is the running average of the model's weights, where the settings ask for
    one.
    """

    folder: Path
    settings: Settings
    preprocessing: Preprocessing
    source: ImageSource
    split: Split
    checksums: dict[str, str]
    computation: Computation
    model: Autoencoder
    heads: Heads
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    reporter: Reporter
    processes: Processes

    @property
    def judged(self) -> Autoencoder:
        """What is judged and kept: the average where there is one, else the model itself."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, Autoencoder)
        return self.average.module


def restore(
    today: Settings,
    folder: Path,
    epochs: int | None,
    stored: dict[str, Any],
    reporter: Reporter,
    processes: Processes,
    changes: Mapping[str, int] = NO_CHANGES,
) -> tuple[Run, State]:
    """The run that resume.pt holds, as it was when it was saved, but for the changes of settings.

    Raises CheckpointError where it does not fit, SettingsError where a change cannot be.
    """
    try:
        parts, state = _parts_and_state(stored)
        description = checkpoints.load_description(folder)
        finished = description.summary["finished"] is True
        settings = _settings_to_resume(today, folder, epochs, len(state.history), finished)
        settings = _changed(settings, changes, folder.name, reporter)
        check_jit_backend(settings)
        computation = prepare_computation(settings, for_training=True)
        refuse_unfit_to_share(settings, computation, processes.count)
        _warn_of_another_computation(description, computation, processes, reporter)
        run = _restored_run(folder, parts, state, description, settings, computation, reporter, processes)
        _say_what_holds(run, today)
        _check(state, run.split)
        for num_left in (len(run.split.train), len(run.split.train) - state.train.num_images) if changes else ():
            refuse_single_values(run.model.plan, settings, num_left)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, ValidationError) as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise CheckpointError(f"{folder / 'resume.pt'} does not fit its checkpoint: it cannot be resumed") from error
    had_stopped_early = 0 < settings.early_stopping_patience <= state.num_stalled
    if finished or (had_stopped_early and epochs is not None):
        state.num_stalled = 0  # extended on purpose: early stopping starts to count anew
    return run, state


def _parts_and_state(stored: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """What resume.pt holds of the parts of a run, by name, and how far it had come; nothing is left in `stored`."""
    parts = {name: stored.pop(name) for name in ("model", "optimizer", "average", "checksums")}
    parts["scaler"] = stored.pop("scaler", {})  # there was none before float16
    for name in _HEADS:
        parts[name] = stored.pop(name, None)  # nor were there these
    stored.setdefault("features_at_start", {})
    if stored.keys() != {item.name for item in fields(State)}:
        raise KeyError("resume.pt lacks something")
    return parts, TypeAdapter(State).validate_python(stored)


def _restored_run(
    folder: Path,
    parts: dict[str, Any],
    state: State,
    description: Description,
    settings: Settings,
    computation: Computation,
    reporter: Reporter,
    processes: Processes,
) -> Run:
    split = checkpoints.load_split(folder)
    names = split.names()
    model = build_autoencoder(description.plan, settings.seed)
    computation.place(model)
    model.load_state_dict(parts["model"])
    heads = _restore_heads(parts, model, settings)
    optimizer = make_optimizer(trained(model, heads, computation), settings, computation)
    begun = bool(state.history) or state.train.num_batches > 0
    average, scaler = _restore_training(parts, model, optimizer, settings, computation, begun)
    checksums = dict(zip(names, _unpacked(parts["checksums"]), strict=True))
    return Run(
        folder, settings, description.preprocessing, _source(description, names), split, checksums, computation, model,
        heads, optimizer, average, scaler, reporter, processes,
    )  # fmt: skip


def _source(description: Description, names: Sequence[str]) -> ImageSource:
    location = Path(description.source)
    root = location.parent if os.path.isfile(location) else location
    return ImageSource(location, root, Names.of(names), 0)


def trained(model: Autoencoder, heads: Heads, computation: Computation) -> nn.Module:
    """All that a step changes; the heads are moved to where the model is."""
    computation.place(heads)
    return nn.ModuleList([model, heads])


def _restore_heads(parts: dict[str, Any], model: Autoencoder, settings: Settings) -> Heads:
    heads = build_heads(model.plan, settings)
    for name, head in _by_name(heads).items():
        if head is not None:
            head.load_state_dict(parts[name] or {})
    return heads


def _by_name(heads: Heads) -> dict[str, nn.Module | None]:
    """What resume.pt calls them."""
    return dict(zip(_HEADS, (heads.rotation, heads.views), strict=True))


def _restore_training(
    parts: dict[str, Any],
    model: Autoencoder,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    computation: Computation,
    begun: bool,
) -> tuple[AveragedModel | None, torch.amp.GradScaler]:
    if parts["scaler"]:  # float16: its first steps may all have been left out
        begun = bool(parts["optimizer"]["state"])
    restore_optimizer(optimizer, settings, parts["optimizer"], begun=begun)
    average = make_average(model, settings.ema_decay) if settings.ema_decay else None
    if average is not None:
        average.load_state_dict(parts["average"])
    scaler = computation.make_scaler()
    if parts["scaler"] and scaler.is_enabled():
        scaler.load_state_dict(parts["scaler"])
    return average, scaler


def _check(state: State, split: Split) -> None:
    """Raise ValueError where a state cannot be that of a run with this split."""
    known = set(history_columns(split.chosen_by))
    always = known - {*FEATURE_COLUMNS}
    passes = [(state.train, len(split.train)), (state.validation, len(split.choosing))]
    fits = (
        all(always <= row.keys() <= known for row in state.history)
        and 0 <= state.best_epoch <= len(state.history)
        and not math.isnan(state.best_loss + state.reference_loss)
        and all(
            bool(totals.num_batches) == bool(totals.num_images)
            and 0 <= totals.num_batches <= totals.num_images <= num_images  # of batches of any size: it may change
            for totals, num_images in passes
        )
    )
    if not fits:
        raise ValueError("not the state of this run")


def mend(run: Run, state: State) -> None:
    """Bring the files that are made from resume.pt up to it: the run may have been killed before it came to them."""
    is_best = not checkpoints.has_weights(run.folder, state.weights_sha256)
    if is_best and (state.best_epoch < len(state.history) or state.train.num_batches):
        raise CheckpointError(
            f"{run.folder.name} cannot be resumed: model.safetensors is missing or damaged, and resume.pt is of a "
            f"later epoch"
        )
    save_resume(run, state)  # extended on purpose: a run that had stopped early is not stalled any more
    checkpoints.save_split(run.folder, run.split, run.checksums)  # of earlier FeXT there were no checksums in it
    publish(run, state, is_best=is_best, finished=False)


def _settings_to_resume(today: Settings, folder: Path, epochs: int | None, done: int, finished: bool) -> Settings:
    if (epochs or 0) <= done if finished else epochs is not None and epochs < done:
        raise CheckpointError(
            f"{folder.name} has {done} finished epochs: to extend it, give a total above {done} (--epochs)"
        )
    stored = checkpoints.load_settings_of(folder)
    machine = {info.name: getattr(today, info.name) for info in setting_infos() if info.category == "advanced"}
    return change_settings(stored, epochs=epochs or stored.epochs, **machine)


def _changed(settings: Settings, changes: Mapping[str, int], run: str, reporter: Reporter) -> Settings:
    """The settings of a run with other values for some that it goes on with; each is told."""
    size = changes.get("batch_size", settings.batch_size)
    fitting = {"gradient_accumulation": min(settings.gradient_accumulation, size)} | dict(changes)
    differing = {name: value for name, value in fitting.items() if getattr(settings, name) != value}
    if not differing:
        return settings
    words = ", ".join(f"{name} = {value} (before: {getattr(settings, name)})" for name, value in differing.items())
    reporter.warning(f"{run} goes on with {words}: the result differs from that of a run left alone")
    changed = change_settings(settings, **differing)
    refuse_contradictions(changed)
    return changed


def _say_what_holds(run: Run, today: Settings) -> None:
    """Name the settings of a run that today's configurations would have otherwise, and how its epoch is chosen."""
    own, others = run.settings.model_dump(), today.model_dump()
    is_old = run.split.chosen_by == "test"
    left_out = {"epochs", *(["num_validation_samples"] if is_old else [])}
    names = [info.name for info in setting_infos() if info.category in _OF_THE_RUN and info.name not in left_out]
    if differing := [f"{name} = {own[name]!r}" for name in names if own[name] != others[name]]:
        run.reporter.message(
            f"{run.folder.name} keeps the settings that it began with, others than today's: {', '.join(differing)}"
        )
    if is_old:
        run.reporter.message(
            f"{run.folder.name} was begun without validation images: its epoch is chosen by the test images as before, "
            f"and their scores are kind"
        )


def _warn_of_another_computation(
    description: Description, computation: Computation, processes: Processes, reporter: Reporter
) -> None:
    summary = description.summary
    before = summary.get("device"), summary.get("precision"), summary.get("num_processes", 1)
    now = computation.device.type, computation.precision, processes.count
    if before != now:
        so_far, from_here = (
            f"on {device} in {precision} by {count} process{'es' if count != 1 else ''}"
            for device, precision, count in (before, now)
        )
        reporter.warning(
            f"trained {so_far} so far, {from_here} from here on: the result differs a little from that of a run left "
            f"alone"
        )


def _packed(checksums: list[str]) -> torch.Tensor:
    """(N, 32) bytes: half the size of the text, and no object for each image."""
    data = bytearray().join(bytes.fromhex(checksum) for checksum in checksums)
    return torch.frombuffer(data, dtype=torch.uint8).reshape(-1, 32)


def _unpacked(checksums: torch.Tensor) -> list[str]:
    return [row.tobytes().hex() for row in checksums.numpy()]


def save_epoch(run: Run, state: State, *, is_best: bool) -> None:
    """Bring the checkpoint up to date: resume.pt, from which all else could be made again, first."""
    if is_best:
        state.weights_sha256 = checksum(checkpoints.weights_to_bytes(run.judged))
    save_resume(run, state)
    publish(run, state, is_best=is_best, finished=False)


def publish(run: Run, state: State, *, is_best: bool, finished: bool, test_scores: EpochScores | None = None) -> None:
    """Write what others read of a run: model.json, history.csv, and the weights where the model's are the best.

    test_scores are those of the kept weights, known when a run is finished.
    """
    description = _description(run, state, state.weights_sha256, state.best_epoch, finished, test_scores)
    if is_best:
        checkpoints.save_model(run.folder, checkpoints.weights_to_bytes(run.judged), description)
    else:
        checkpoints.save_description(run.folder, description)
    checkpoints.save_history(run.folder, state.history, run.split.chosen_by)


def keep_epoch(run: Run, state: State) -> None:
    """Keep the epoch that was just added to the history, where the settings say so."""
    every, epoch = run.settings.checkpoint_every, len(state.history)
    if every and epoch % every == 0:
        weights = checkpoints.weights_to_bytes(run.judged)
        description = _description(run, state, checksum(weights), epoch, finished=False)
        checkpoints.keep_epoch(run.folder, epoch, weights, description, run.settings, run.split, run.checksums)


def save_resume(run: Run, state: State) -> None:
    """Write resume.pt: all that the run goes on from."""
    names = run.split.names()
    resume_state = {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        **{name: head.state_dict() if head is not None else None for name, head in _by_name(run.heads).items()},
        "average": run.average.state_dict() if run.average is not None else None,
        "scaler": run.scaler.state_dict(),
        "checksums": _packed([run.checksums[name] for name in names]),
        **asdict(state),
    }
    checkpoints.save_resume(run.folder, resume_state)


def _description(
    run: Run,
    state: State,
    weights_sha256: str,
    epoch: int,
    finished: bool,
    test_scores: EpochScores | None = None,
) -> Description:
    """What model.json says of the weights of an epoch; 0 is the start."""
    source = str(run.source.location.absolute())
    summary = _summary(run, state, epoch, finished)
    if test_scores is not None:
        summary |= {"test_loss": test_scores.loss, "test_psnr": test_scores.psnr}
    return Description(run.model.plan, run.preprocessing, source, summary, weights_sha256)


def _summary(run: Run, state: State, epoch: int, finished: bool) -> dict[str, Any]:
    scores = state.history[epoch - 1] if epoch else {}
    subsets = "train", run.split.chosen_by
    return {
        "epochs": len(state.history),
        "finished": finished,
        "best_epoch": epoch,
        "epoch_chosen_by": run.split.chosen_by,
        "loss": run.settings.loss_name,
        **{f"{subset}_{score}": scores.get(f"{subset}_{score}") for score in ("loss", "psnr") for subset in subsets},
        **{name: scores.get(name) for name in FEATURE_COLUMNS},
        **{f"{name}_at_start": state.features_at_start.get(name) for name in FEATURE_COLUMNS},
        **{f"num_{side}_images": len(names) for side, names in run.split.sides()},
        "device": run.computation.device.type,
        "precision": run.computation.precision,
        "num_processes": run.processes.count,
    }
