"""The jobs: pretraining, resuming, evaluating and extracting, on small pictures but whole."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import history_without_times, read_history, same_tensors, write_images
from PIL import Image

from fext.compute import device
from fext.data.images import load_image
from fext.errors import CheckpointError, SourceError, TooFewImagesError, TrainingError
from fext.jobs.evaluate import evaluate
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain, resume
from fext.reporting import Progress, SilentReporter, StopRequested
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint, load_checkpoint, load_resume, save_resume
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]


class Remembering(SilentReporter):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    warning = message


def train(workspace: Workspace, settings: Settings, name: str = "model") -> Path:
    return pretrain(workspace, settings, workspace.images, name, QUIET).folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with a checkpoint 'model' of two epochs; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_images(space.images, 12)
    train(space, tiny(epochs=2, use_tensorboard=True, generate_model_graph=True, picture_shape=(64, 64, 1)))
    return space


@pytest.fixture
def copy(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained workspace for a test to change."""
    shutil.copytree(trained.root, tmp_path / "copy")
    space = Workspace(tmp_path / "copy")
    description = space.checkpoints / "model" / "model.json"
    moved = json.loads(description.read_text()) | {"source": str(space.images)}
    description.write_text(json.dumps(moved))
    return space


# --- pretraining


def test_a_checkpoint_holds_everything_that_the_design_names(trained: Workspace) -> None:
    folder = trained.checkpoints / "model"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "model.safetensors",
        "model.json",
        "configurations.json",
        "split.csv",
        "history.csv",
        "history.png",
        "reconstructions_train.png",
        "reconstructions_test.png",
        "model_summary.txt",
        "model_graph.png",
        "rejected.csv",
        "resume.pt",
        "tensorboard",
    }
    for picture in folder.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 200
    assert any((folder / "tensorboard").iterdir())
    assert "512" in (folder / "model_summary.txt").read_text(encoding="utf-8")


def test_tensorboard_holds_scalars_pictures_and_the_graph(trained: Workspace) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.checkpoints / "model" / "tensorboard"))
    events.Reload()
    assert {"loss/train", "loss/validation", "psnr/validation", "learning_rate", "images_per_second"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("loss/validation")] == [1, 2]
    assert events.Tags()["images"]
    assert events.Tags()["graph"]


def test_training_lowers_the_loss(workspace: Workspace, tiny: Tiny) -> None:
    history = read_history(train(workspace, tiny(epochs=8)))
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]


def test_the_same_seed_gives_the_same_model_and_history(workspace: Workspace, tiny: Tiny) -> None:
    first, second = (train(workspace, tiny(epochs=2), name) for name in ("first", "second"))
    assert history_without_times(first) == history_without_times(second)
    assert same_tensors(first, second)


def test_the_number_of_processors_changes_nothing_but_the_speed(workspace: Workspace, tiny: Tiny) -> None:
    first = train(workspace, tiny(num_processors=1), "first")
    second = train(workspace, tiny(num_processors=2), "second")
    assert history_without_times(first) == history_without_times(second)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "changes",
    [
        *({"loss": loss} for loss in ("mse", "mae", "bce", "ssim", {"mse": 0.5, "ssim": 0.5})),
        {"optimizer": "adam"},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"optimizer": "adadelta", "learning_rate": 1.0},
        {"lr_schedule": "linear"},
        {"lr_schedule": "cosine", "warmup_epochs": 1.0},
        {"lr_schedule": "one_cycle"},
        {"input_noise": 0.05},
        {"input_masking": 0.25},
        {"latent_noise": 0.1},
        {"activity_l1": 0.001},
        {"dropout_rate": 0.1},
        {"ordered_latent": True},
        {"rotation_weight": 0.001},
        {"gradient_clip": 1.0, "gradient_accumulation": 2},
        {"ema_decay": 0.9},
    ],
    ids=str,
)
def test_training_lowers_the_loss_in_every_way_that_the_settings_know(
    workspace: Workspace, tiny: Tiny, changes: dict[str, object]
) -> None:
    settings = tiny(**{"epochs": 8, "batch_size": 2, "learning_rate": 0.003, "augmentation": False} | changes)
    history = read_history(train(workspace, settings))
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]


@pytest.mark.parametrize(
    "changes", [{"ema_decay": 0.9, "input_noise": 0.1, "dropout_rate": 0.2}, {"optimizer": "sgd"}], ids=str
)
def test_a_disturbed_and_averaged_run_goes_on_to_the_same_end(
    workspace: Workspace, tiny: Tiny, changes: dict[str, object]
) -> None:
    straight = train(workspace, tiny(epochs=3, **changes), "straight")
    extended = train(workspace, tiny(epochs=1, **changes), "extended")
    resume(tiny(), extended, 3, QUIET)
    assert history_without_times(straight) == history_without_times(extended)
    assert same_tensors(straight, extended)


def test_the_kept_weights_are_those_of_the_epoch_with_the_lowest_validation_loss(
    workspace: Workspace, tiny: Tiny
) -> None:
    result = pretrain(workspace, tiny(epochs=6, learning_rate=0.02), workspace.images, "model", QUIET)
    losses = [row["validation_loss"] for row in read_history(result.folder)]
    checkpoint = load_checkpoint(result.folder)
    assert checkpoint.summary["best_epoch"] == result.best_epoch == 1 + losses.index(min(losses))
    assert checkpoint.summary["epoch_chosen_by"] == result.chosen_by == "validation"
    split = checkpoint.split()
    assert mean_loss(checkpoint, workspace, split.validation) == pytest.approx(min(losses), rel=1e-4)
    assert checkpoint.summary["test_loss"] == pytest.approx(mean_loss(checkpoint, workspace, split.test), rel=1e-4)
    assert checkpoint.summary["test_psnr"] == result.test_psnr


def test_until_the_last_epoch_is_done_no_test_image_is_read(workspace: Workspace, tiny: Tiny) -> None:
    folder = train(workspace, tiny(use_tensorboard=True))
    split = load_checkpoint(folder).split()
    changed, *others = split.test
    Image.new("RGB", (50, 50), (1, 2, 3)).save(workspace.images / changed)
    for name in others:
        (workspace.images / name).unlink()
    said = Remembering()
    result = resume(tiny(epochs=2), folder, 2, said)
    assert result is not None
    assert (result.epochs, result.test_psnr) == (2, None)
    assert [line for line in said.lines if line.startswith("not scored")] == [
        f"not scored: {changed} (it is not the file any more that it was at first)",
        *(f"not scored: {name} (the file is not there)" for name in others),
    ]


def mean_loss(checkpoint: Checkpoint, workspace: Workspace, names: Sequence[str]) -> float:
    images = [load_image(workspace.images / name, checkpoint.preprocessing) for name in names]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return float((checkpoint.model(stacked) - stacked).square().mean())


def test_early_stopping_ends_a_run_that_no_longer_gets_better(workspace: Workspace, tiny: Tiny) -> None:
    said = Remembering()
    settings = tiny(epochs=20, early_stopping_patience=2, early_stopping_delta=10.0)
    result = pretrain(workspace, settings, workspace.images, "model", said)
    assert result.stopped_early
    assert result.epochs == 3
    assert "stopped early: the validation loss has not fallen by early_stopping_delta = 10.0 for 2 epochs" in said.lines


def test_a_run_that_stopped_early_is_extended_even_where_it_was_interrupted_at_its_very_end(
    workspace: Workspace, tiny: Tiny
) -> None:
    settings = tiny(epochs=20, early_stopping_patience=2, early_stopping_delta=10.0)
    with pytest.raises(KeyboardInterrupt):
        pretrain(workspace, settings, workspace.images, "model", Interrupt("stopped early"))
    result = resume(settings, workspace.checkpoints / "model", 5, QUIET)
    assert result is not None
    assert result.epochs == 5


def test_a_run_that_is_ended_within_an_epoch_has_nothing_to_train(workspace: Workspace, tiny: Tiny) -> None:
    class Totals(SilentReporter):
        """Notes how many images are to be trained on, and stops within the second epoch."""

        def __init__(self, *, stops: bool) -> None:
            self.stops, self.totals = stops, list[int]()

        @contextmanager
        def progress(self, title: str, total: int) -> Iterator[Progress]:
            outer, done = self, 0
            self.totals += [total] if title == "training" else []

            class Counting:
                def advance(self, count: int = 1, note: str = "") -> None:
                    nonlocal done
                    done += count
                    if outer.stops and done > 12:
                        raise StopRequested

            yield Counting()

    with pytest.raises(StopRequested):
        pretrain(workspace, tiny(epochs=3), workspace.images, "model", Totals(stops=True))
    ended = Totals(stops=False)
    result = resume(tiny(), workspace.checkpoints / "model", 1, ended)
    assert result is not None
    assert (result.epochs, ended.totals) == (1, [0])


def test_bad_images_are_named_counted_and_replaced_by_good_ones(workspace: Workspace, tiny: Tiny) -> None:
    for number in range(6):
        (workspace.images / f"bad_{number}.jpg").write_bytes(b"no image at all")
    said = Remembering()
    result = pretrain(workspace, tiny(num_train_samples=9, num_test_samples=3), workspace.images, "model", said)
    assert (result.num_train, result.num_validation, result.num_test) == (8, 1, 3)
    assert result.num_rejected == sum("rejected: bad_" in line for line in said.lines) > 0
    assert not any("bad" in name for name in (*load_checkpoint(result.folder).split().train,))
    rejected = pd.read_csv(result.folder / "rejected.csv")
    assert [f"rejected: {row.image} ({row.reason})" for row in rejected.itertuples()] == [
        line for line in said.lines if line.startswith("rejected: ")
    ]


def test_fewer_images_than_asked_are_all_used_and_that_is_said(workspace: Workspace, tiny: Tiny) -> None:
    said = Remembering()
    settings = tiny(num_train_samples=300, num_test_samples=100)
    result = pretrain(workspace, settings, workspace.images, "model", said)
    assert (result.num_train, result.num_validation, result.num_test) == (8, 1, 3)
    assert any("all are used" in line for line in said.lines)


def test_no_images_and_a_single_image_are_refused_with_what_to_do(tmp_path: Path, tiny: Tiny) -> None:
    space = Workspace(tmp_path)
    space.images.mkdir(parents=True)
    (space.images / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"no images .*1 other file.*samples"):
        train(space, tiny())
    write_images(space.images, 1)
    with pytest.raises(TooFewImagesError, match="at least 3 different images"):
        train(space, tiny())
    assert not space.checkpoints.exists()


def test_a_name_that_exists_is_refused_before_anything_is_read(trained: Workspace, tiny: Tiny) -> None:
    with pytest.raises(CheckpointError, match="already a checkpoint model"):
        train(trained, tiny())


def test_a_loss_that_is_not_finite_stops_training_with_the_last_good_state_kept(
    workspace: Workspace, tiny: Tiny
) -> None:
    folder = train(workspace, tiny(epochs=1))
    state = load_resume(folder)
    state["model"]["encoder.0.convolution.weight"].fill_(float("nan"))
    save_resume(folder, state)
    with pytest.raises(TrainingError, match="is nan: training stops with the last good state kept"):
        resume(tiny(), folder, 2, QUIET)
    assert len(read_history(folder)) == 1
    assert all(tensor.isfinite().all() for tensor in load_checkpoint(folder).model.state_dict().values())


def test_an_image_that_vanishes_while_training_is_named(workspace: Workspace, tiny: Tiny) -> None:
    folder = train(workspace, tiny(epochs=1))
    gone = load_checkpoint(folder).split().train[0]
    (workspace.images / gone).unlink()
    with pytest.raises(TrainingError, match=f"{gone} can no longer be used .the file is not there.: put it back"):
        resume(tiny(), folder, 2, QUIET)


# --- resuming and extending


def test_two_epochs_and_two_more_are_the_same_as_four_straight(workspace: Workspace, tiny: Tiny) -> None:
    straight = train(workspace, tiny(epochs=4), "straight")
    extended = train(workspace, tiny(epochs=2), "extended")
    resume(tiny(), extended, 4, QUIET)
    assert history_without_times(straight) == history_without_times(extended)
    assert same_tensors(straight, extended)


class Interrupt(SilentReporter):
    """Presses Ctrl-C when something is said."""

    def __init__(self, start: str) -> None:
        self._start = start

    def message(self, text: str) -> None:
        if text.startswith(self._start):
            raise KeyboardInterrupt


@pytest.mark.parametrize(("said", "epochs_done"), [("training redux", 0), ("epoch 2/3", 2), ("epoch 3/3", 3)])
def test_an_interrupted_cosine_run_goes_on_to_the_same_end(
    workspace: Workspace, tiny: Tiny, said: str, epochs_done: int
) -> None:
    settings = tiny(epochs=3, lr_schedule="cosine")
    straight = train(workspace, settings, "straight")
    with pytest.raises(KeyboardInterrupt):
        pretrain(workspace, settings, workspace.images, "stopped", Interrupt(said))
    stopped = workspace.checkpoints / "stopped"
    assert len(read_history(stopped)) == epochs_done
    resume(tiny(), stopped, None, QUIET)
    assert history_without_times(straight) == history_without_times(stopped)
    assert same_tensors(straight, stopped)
    assert {path.name for path in straight.iterdir()} == {path.name for path in stopped.iterdir()}


def test_extending_a_cosine_run_follows_the_schedule_of_the_new_total(workspace: Workspace, tiny: Tiny) -> None:
    folder = train(workspace, tiny(epochs=1, lr_schedule="cosine"))
    resume(tiny(), folder, 2, QUIET)
    rates = [row["learning_rate"] for row in read_history(folder)]
    # In the middle of the last of two batches: three quarters, then seven eighths of the way.
    expected = [0.001 * (0.01 + 0.99 * (1 + np.cos(np.pi * share)) / 2) for share in (0.75, 0.875)]
    assert rates == pytest.approx(expected)
    assert json.loads((folder / "configurations.json").read_text())["epochs"] == 2


def test_a_finished_run_is_not_resumed_without_a_new_total(copy: Workspace, tiny: Tiny) -> None:
    for epochs in (None, 1, 2):
        with pytest.raises(CheckpointError, match=r"has 2 finished epochs.*total above 2"):
            resume(tiny(), copy.checkpoints / "model", epochs, QUIET)


def test_resuming_keeps_the_settings_of_the_run_but_takes_those_of_the_machine(copy: Workspace, tiny: Tiny) -> None:
    folder = copy.checkpoints / "model"
    said = Remembering()
    resume(tiny(batch_size=1, learning_rate=0.5, num_threads=1, picture_shape=(64, 64, 1)), folder, 3, said)
    assert [line for line in said.lines if line.startswith("model keeps")] == [
        "model keeps the settings that it began with, others than today's: generate_model_graph = True, "
        "batch_size = 4, learning_rate = 0.001"
    ]
    stored = json.loads((folder / "configurations.json").read_text())
    assert (stored["batch_size"], stored["learning_rate"], stored["num_threads"]) == (4, 0.001, 1)


# --- evaluation


@pytest.fixture(scope="module")
def evaluated(trained: Workspace, tiny: Tiny) -> Path:
    return evaluate(trained, tiny(), trained.checkpoints / "model", None, QUIET).folder


def test_an_evaluation_holds_a_row_for_each_image_a_summary_and_pictures(trained: Workspace, evaluated: Path) -> None:
    rows = pd.read_csv(evaluated / "per_image.csv")
    assert rows["subset"].value_counts().to_dict() == {"train": 7, "validation": 1, "test": 4}
    assert list(rows["image"]) == sorted(rows["image"])
    summary = json.loads((evaluated / "summary.json").read_text())
    for subset in ("train", "validation", "test"):
        for score in ("mse", "mae", "psnr", "ssim"):
            values = rows[rows["subset"] == subset][score]
            assert summary["subsets"][subset]["model"][score]["mean"] == pytest.approx(values.mean())
            assert summary["subsets"][subset]["model"][score]["std"] == pytest.approx(values.std(ddof=0))
    worst = rows[rows["subset"] == "test"].sort_values("psnr")["image"].iloc[0]
    assert summary["subsets"]["test"]["worst_images"][0]["image"] == worst
    for name in ("best.png", "typical.png", "worst.png", "psnr.png"):
        with Image.open(evaluated / name) as image:
            assert min(image.size) > 200
    scores = pd.read_csv(trained.checkpoints / "scores.csv")
    assert scores["checkpoint"].tolist() == ["model"]
    assert scores["test_psnr"][0] == pytest.approx(rows[rows["subset"] == "test"]["psnr"].mean())


def test_evaluation_agrees_with_what_training_measured(trained: Workspace, evaluated: Path) -> None:
    history = read_history(trained.checkpoints / "model")
    best = min(history, key=lambda row: row["validation_loss"])
    summary = json.loads((evaluated / "summary.json").read_text())
    measured = {"validation": best["validation_psnr"]}
    measured["test"] = load_checkpoint(trained.checkpoints / "model").summary["test_psnr"]
    for subset, psnr in measured.items():
        assert summary["subsets"][subset]["model"]["psnr"]["mean"] == pytest.approx(psnr, abs=0.01)


def test_the_mean_image_scores_as_worked_out_by_hand(trained: Workspace, evaluated: Path) -> None:
    checkpoint = load_checkpoint(trained.checkpoints / "model")
    split = checkpoint.split()
    train_images, test_images = (
        np.stack([load_image(trained.images / name, checkpoint.preprocessing) for name in names])
        for names in (split.train, split.test)
    )
    expected = ((test_images - train_images.mean(axis=0)) ** 2).mean()
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["subsets"]["test"]["mean_image"]["mse"]["mean"] == pytest.approx(expected, rel=1e-4)


def test_an_ordered_latent_is_evaluated_by_how_many_channels_are_kept(workspace: Workspace, tiny: Tiny) -> None:
    settings = tiny(ordered_latent=True, latent_channels=6, epochs=2, picture_shape=(64, 64, 1))
    result = evaluate(workspace, settings, train(workspace, settings), None, QUIET)
    kept = result.summary["kept_channels"]
    assert list(kept) == [1, 2, 4, 6]
    assert kept[6] == pytest.approx(result.summary["subsets"]["test"]["model"]["psnr"]["mean"], abs=0.01)
    table = pd.read_csv(result.folder / "kept_channels.csv")
    assert table["channels"].tolist() == [1, 2, 4, 6]
    assert table["psnr"].tolist() == pytest.approx(list(kept.values()))
    assert (result.folder / "kept_channels.png").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_images_that_have_gone_are_rejected_and_counted_in_an_evaluation(copy: Workspace, tiny: Tiny) -> None:
    gone = load_checkpoint(copy.checkpoints / "model").split().test[0]
    (copy.images / gone).unlink()
    result = evaluate(copy, tiny(), copy.checkpoints / "model", None, QUIET)
    assert (result.num_images, result.num_rejected) == (11, 1)
    assert result.summary["rejected"] == [{"image": gone, "reason": "the file is not there"}]


# --- speed


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
@pytest.mark.parametrize("job", [evaluate, extract, resume])
def test_freed_memory_is_kept_before_anything_is_computed(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, job: Callable[..., object]
) -> None:
    """Told later, the C library was measured to give most tensors back to the system all the same."""
    order: list[str] = []
    monkeypatch.setattr(device, "_set_malloc", lambda library, values: order.append("memory"))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: order.append("computes"))
    folder = copy.checkpoints / "model"
    words = {
        evaluate: (copy, tiny(), folder, None, QUIET),
        extract: (copy, tiny(), folder, None, None, QUIET),
        resume: (tiny(), folder, 3, QUIET),
    }
    job(*words[job])
    assert order[:2] == ["memory", "computes"]
