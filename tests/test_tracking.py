"""What TensorBoard shows of a run: curves over steps and epochs, histograms, hyperparameters, and the projector."""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from conftest import history_without_times, read_history, same_tensors, write_images
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data as parse_start

from fext.errors import TrackingError
from fext.jobs import pretrain as pretraining
from fext.jobs import tracking
from fext.jobs.pretrain import pretrain, resume
from fext.pictures.sprite import THUMBNAIL_SIDE, sprite_sheet
from fext.reporting import Progress, SilentReporter, StopRequested
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint
from fext.store.projector import Embedding, write_projector
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model", "no_other_pictures")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]
STEP_TAGS = {"step/loss", "step/learning_rate", "step/gradient_norm", "step/images_per_second"}
BEST_TAGS = {"best/epoch", "best/train_loss", "best/validation_loss", "best/train_psnr", "best/validation_psnr"}


class StopAfter(SilentReporter):
    """Asks to stop once so many images are done."""

    def __init__(self, num_images: int) -> None:
        self.left = num_images

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= count
        if self.left <= 0:
            raise StopRequested

    def __enter__(self) -> "StopAfter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, title: str, total: int) -> AbstractContextManager[Progress]:
        return self if title == "training" else super().progress(title, total)


def images_in_folders(space: Workspace) -> None:
    """Twelve images: six in cats, four in dogs, two in neither."""
    for number, name in enumerate(write_images(space.images, 12)):
        if number < 10:
            folder = space.images / ("cats" if number < 6 else "dogs")
            folder.mkdir(exist_ok=True)
            (space.images / name).rename(folder / f"{number}, a {name}")


def train(space: Workspace, settings: Settings, name: str, reporter: SilentReporter = QUIET) -> Path:
    result = pretrain(space, settings, space.images, name, reporter)
    assert result is not None
    return result.folder


@pytest.fixture(scope="module")
def no_other_pictures() -> Iterator[None]:
    """Pretraining draws nothing beside what TensorBoard shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "_draw_pictures", lambda run, state: None)
        yield


@pytest.fixture(scope="module")
def tracked(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None, no_other_pictures: None
) -> Workspace:
    """A workspace with a checkpoint 'model' of three epochs of two steps; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("tracked"))
    images_in_folders(space)
    train(space, tiny(epochs=3, use_tensorboard=True), "model")
    return space


def events(checkpoint: Path) -> EventAccumulator:
    found = EventAccumulator(str(checkpoint / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    found.Reload()
    return found


def steps(checkpoint: Path, tag: str) -> list[int]:
    return [event.step for event in events(checkpoint).Scalars(tag)]


def curves(checkpoint: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point of every curve but for rates and seconds."""
    found = events(checkpoint)
    tags = [tag for tag in found.Tags()["scalars"] if "second" not in tag]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def hyperparameters(checkpoint: Path) -> dict[str, object]:
    content = events(checkpoint).summary_metadata[SESSION_START_INFO_TAG].plugin_data.content
    fields = parse_start(content).hparams
    return {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in fields.items()}


def num_written(checkpoint: Path, tag: str) -> int:
    """How many events have a summary of that tag."""
    loaded = [
        event for file in (checkpoint / "tensorboard").glob("events*") for event in EventFileLoader(str(file)).Load()
    ]
    return sum(value.tag == tag for event in loaded for value in event.summary.value)


# ---------------------------------------------------------------- curves


def test_steps_and_epochs_are_points_of_their_own_curves(tracked: Workspace) -> None:
    folder = tracked.checkpoints / "model"
    assert {*STEP_TAGS, *BEST_TAGS, "loss/train", "psnr/validation"} <= set(events(folder).Tags()["scalars"])
    for tag in STEP_TAGS:
        assert steps(folder, tag) == [1, 2, 3, 4, 5, 6]
    assert steps(folder, "loss/validation") == steps(folder, "best/validation_loss") == [1, 2, 3]


def test_the_curves_hold_what_the_history_says(tracked: Workspace) -> None:
    folder = tracked.checkpoints / "model"
    history, shown = read_history(folder), curves(folder)
    for subset in ("train", "validation"):
        assert [value for _, value in shown[f"loss/{subset}"]] == pytest.approx(
            [row[f"{subset}_loss"] for row in history]
        )
    losses = [value for _, value in shown["step/loss"]]
    means = [np.average(losses[at : at + 2], weights=(4, 3)) for at in (0, 2, 4)]  # images of each step
    assert means == pytest.approx([row["train_loss"] for row in history])


def test_an_epoch_of_many_steps_has_a_bounded_number_of_points(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_MAX_POINTS", 2)
    folder = train(workspace, tiny(epochs=2, batch_size=2, use_tensorboard=True), "model")
    assert steps(folder, "step/loss") == [2, 4, 6, 8]


# ---------------------------------------------------------------- runs that go on


@pytest.mark.parametrize("num_images", [4, 8 + 7, 16 + 8])
def test_a_stopped_run_goes_on_to_the_curves_of_one_left_alone(tracked: Workspace, tiny: Tiny, num_images: int) -> None:
    name = f"stopped_{num_images}"
    with pytest.raises(StopRequested):
        train(tracked, tiny(epochs=3, use_tensorboard=True), name, StopAfter(num_images))
    stopped = tracked.checkpoints / name
    resume(tiny(use_tensorboard=True), stopped, None, QUIET)
    assert curves(stopped) == curves(tracked.checkpoints / "model")


def test_what_a_killed_run_had_shown_of_lost_steps_and_epochs_is_not_shown_twice(
    tracked: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when epoch 2 was shown but not kept yet, and in the middle of writing an event."""

    def die(run: object, state: object, *, is_best: bool) -> None:
        raise KeyboardInterrupt

    train(tracked, tiny(epochs=1, use_tensorboard=True), "killed")
    killed = tracked.checkpoints / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "_keep", die)
        with pytest.raises(KeyboardInterrupt):
            resume(tiny(use_tensorboard=True), killed, 3, QUIET)
    assert steps(killed, "step/loss") == [1, 2, 3, 4]
    file = max((killed / "tensorboard").glob("events*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes() + b"half an event")
    resume(tiny(use_tensorboard=True), killed, 3, QUIET)
    assert curves(killed) == curves(tracked.checkpoints / "model")


def test_an_extended_run_shows_its_newest_settings_and_scores_once(tracked: Workspace, tiny: Tiny) -> None:
    folder = train(tracked, tiny(epochs=1, use_tensorboard=True), "extended")
    assert hyperparameters(folder)["epochs"] == 1
    resume(tiny(use_tensorboard=True), folder, 3, QUIET)
    assert hyperparameters(folder) == hyperparameters(tracked.checkpoints / "model")
    assert num_written(folder, SESSION_START_INFO_TAG) == num_written(folder, SESSION_END_INFO_TAG) == 1
    assert curves(folder) == curves(tracked.checkpoints / "model")
    found = events(folder)
    assert [event.step for event in found.Images("validation images above their reconstructions")] == [1, 2, 3]
    assert [event.step for event in found.Histograms("latents/validation")] == [1, 2, 3]
    assert found.Tags()["graph"]


def test_a_run_that_was_not_tracked_at_first_shows_its_later_epochs_and_the_graph(
    workspace: Workspace, tiny: Tiny
) -> None:
    folder = train(workspace, tiny(epochs=1), "model")
    resume(tiny(use_tensorboard=True), folder, 2, QUIET)
    assert steps(folder, "step/loss") == [3, 4]
    assert steps(folder, "loss/validation") == [2]
    assert events(folder).Tags()["graph"]


def test_being_tracked_changes_nothing_in_a_run(tracked: Workspace, tiny: Tiny) -> None:
    changes = {"dropout_rate": 0.2, "input_noise": 0.1, "ema_decay": 0.5, "epochs": 2}
    silent = train(tracked, tiny(**changes), "silent")
    shown = train(tracked, tiny(**changes, use_tensorboard=True), "shown")
    assert not (silent / "tensorboard").exists()
    assert same_tensors(silent, shown)
    assert history_without_times(silent) == history_without_times(shown)


def test_an_epoch_that_cannot_be_shown_is_kept_all_the_same(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise TrackingError("tensorboard cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracking, "epoch", full)
        with pytest.raises(TrackingError, match="No space left"):
            train(workspace, tiny(epochs=2, use_tensorboard=True), "model")
    assert len(read_history(workspace.checkpoints / "model")) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracking, "step", full)
        with pytest.raises(TrackingError, match="No space left"):
            resume(tiny(use_tensorboard=True), workspace.checkpoints / "model", None, QUIET)
    resume(tiny(use_tensorboard=True), workspace.checkpoints / "model", None, QUIET)
    assert same_tensors(train(workspace, tiny(epochs=2), "straight"), workspace.checkpoints / "model")


# ---------------------------------------------------------------- histograms and hyperparameters


def test_each_layer_and_the_latents_of_the_validation_images_have_a_histogram_of_each_epoch(tracked: Workspace) -> None:
    folder = tracked.checkpoints / "model"
    found = events(folder)
    model = load_checkpoint(folder).model
    layers = {name.removesuffix(".weight"): weights for name, weights in model.named_parameters() if weights.ndim > 1}
    assert {f"weights/{name}" for name in layers} == set(found.Tags()["histograms"]) - {"latents/validation"}
    for tag in found.Tags()["histograms"]:
        assert [event.step for event in found.Histograms(tag)] == [1, 2, 3]
    last = found.Histograms("latents/validation")[-1].histogram_value
    assert last.num == sum(last.bucket) == 1 * 512 * 2 * 2  # validation images, channels, positions


def test_the_hyperparameters_are_those_of_the_run_with_the_scores_of_the_weights_that_are_kept(
    tracked: Workspace, tiny: Tiny
) -> None:
    folder = tracked.checkpoints / "model"
    shown = hyperparameters(folder)
    assert shown["learning_rate"] == 0.001
    assert shown["augmentation"] is True
    assert shown["picture_shape"] == "(64, 64, 3)"
    assert "num_threads" not in shown
    assert "filters" not in shown  # of architecture 'custom' alone
    content = events(folder).summary_metadata[SESSION_START_INFO_TAG].plugin_data.content
    assert parse_start(content).group_name == "model"
    summary, last = load_checkpoint(folder).summary, {tag: points[-1] for tag, points in curves(folder).items()}
    assert last["best/epoch"] == (3, summary["best_epoch"])
    for name in ("train_loss", "validation_loss", "train_psnr", "validation_psnr"):
        assert last[f"best/{name}"] == (3, pytest.approx(summary[name]))


# ---------------------------------------------------------------- the projector


def read_projector(checkpoint: Path) -> tuple[np.ndarray, list[dict[str, str]], Image.Image]:
    """Vectors, words and sprite, found as TensorBoard finds them."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    folder = checkpoint / "tensorboard"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig())
    (info,) = config.embeddings
    assert list(info.sprite.single_image_dim) == [THUMBNAIL_SIDE, THUMBNAIL_SIDE]
    vectors = np.loadtxt(folder / info.tensor_path, delimiter="\t", dtype=np.float32, ndmin=2)
    with (folder / info.metadata_path).open(encoding="utf-8", newline="") as stream:
        words = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    with Image.open(folder / info.sprite.image_path) as sprite:
        sprite.load()
    return vectors, words, sprite


def test_the_projector_has_a_row_and_a_thumbnail_for_each_image_of_the_run(tracked: Workspace) -> None:
    folder = tracked.checkpoints / "model"
    vectors, words, sprite = read_projector(folder)
    split = load_checkpoint(folder).split()
    assert vectors.shape == (11, 512)
    assert [row["name"] for row in words if row["subset"] == "test"] == list(split.test)
    assert [row["name"] for row in words if row["subset"] == "train"] == list(split.train)
    assert {row["label"] for row in words} == {"cats", "dogs", "none"}
    assert all(row["label"] == (row["name"].partition("/")[0] if "/" in row["name"] else "none") for row in words)
    assert sprite.size == (4 * THUMBNAIL_SIDE, 4 * THUMBNAIL_SIDE)
    with Image.open(tracked.images / words[5]["name"]) as image:  # second row, second column
        expected = np.asarray(image.convert("RGB").resize((64, 64)), np.float32)
    shown = np.asarray(sprite.crop((64, 64, 128, 128)), np.float32)
    assert np.abs(shown - expected).mean() < 8


def test_the_vectors_are_means_of_the_latent_channels_of_the_kept_model(tracked: Workspace) -> None:
    import torch

    from fext.data.images import load_image

    vectors, words, _ = read_projector(tracked.checkpoints / "model")
    checkpoint = load_checkpoint(tracked.checkpoints / "model")
    image = torch.from_numpy(load_image(tracked.images / words[3]["name"], checkpoint.preprocessing))
    with torch.inference_mode():
        latent = checkpoint.model.encoder(image.permute(2, 0, 1)[None])
    assert vectors[3] == pytest.approx(latent.mean(dim=(2, 3))[0].numpy(), rel=1e-3, abs=1e-4)


def test_the_projector_of_a_run_that_goes_on_is_made_anew(workspace: Workspace, tiny: Tiny) -> None:
    folder = train(workspace, tiny(use_tensorboard=True), "model")
    first, *_ = read_projector(folder)
    (workspace.images / load_checkpoint(folder).split().train[0]).unlink()
    with pytest.raises(Exception, match="can no longer be used"):
        resume(tiny(use_tensorboard=True), folder, 2, QUIET)
    write_images(workspace.images, 12)
    resume(tiny(use_tensorboard=True), folder, 2, QUIET)
    second, words, _ = read_projector(folder)
    assert second.shape == first.shape
    assert len(words) == 11
    assert not np.array_equal(first, second)


def test_at_most_so_many_images_of_each_subset_are_in_the_projector(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_MAX_LATENTS", 3)
    _, words, _ = read_projector(train(workspace, tiny(use_tensorboard=True), "model"))
    assert [row["subset"] for row in words] == ["test"] * 2 + ["train"] * 3


def test_a_name_with_a_tab_a_line_break_or_a_comma_breaks_no_row(tmp_path: Path) -> None:
    names = ["tab\there.png", "line\nbreak.png", "return\r.png", "a,b.png", "odd\udce9.png", "été \u2028写真.png"]
    words = [(name, "test", "a\tb") for name in names]
    sprite = sprite_sheet([Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))] * len(names))
    embedding = Embedding("latents", np.zeros((len(names), 2), np.float32), words, sprite, THUMBNAIL_SIDE)
    write_projector(tmp_path / "tensorboard", embedding)
    _, rows, _ = read_projector(tmp_path)
    assert [row["name"] for row in rows] == [
        "tab\\there.png", "line\\nbreak.png", "return\\r.png", "a,b.png", "odd\\xe9.png", "été \\u2028写真.png",
    ]  # fmt: skip
    assert all((row["subset"], row["label"]) == ("test", "a\\tb") for row in rows)


def test_a_sprite_is_a_square_that_tensorboard_takes() -> None:
    picture = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    assert sprite_sheet([picture]).size == (64, 64)
    assert sprite_sheet([picture] * 1000).size == (32 * 64, 32 * 64)
    with pytest.raises(ValueError, match="do not fit"):
        sprite_sheet([picture] * (128 * 128 + 1))
