"""Every setting changes something that a user can see, or is refused: none is silently ignored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import read_history

from fext.compute.device import check_jit_backend, prepare_computation
from fext.data.dataset import ImageCache, ImageStream
from fext.errors import DeviceError, SettingsError
from fext.jobs import pretrain as pretraining
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.streams import stream_for
from fext.model.stages import stage_channels
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
pytestmark = pytest.mark.usefixtures("small_model")

# What a run is compared by: anything but the time it took.
CHANGES_THE_TRAINING = {
    "augmentation": False,
    "architecture": "cifar",
    "batch_size": 8,
    "learning_rate": 0.0001,
    "lr_schedule": "cosine",
    "optimizer": "adam",
    "loss": "mae",
    "weight_decay": 0.1,
    "seed": 1,
    "resize_mode": "crop",
    "picture_shape": (32, 64, 3),
    "use_mixed_precision": True,
    "latent_channels": 16,
    "dropout_rate": 0.5,
    "warmup_epochs": 1.0,
    "gradient_clip": 0.01,
    "gradient_accumulation": 2,
    "ema_decay": 0.9,
    "input_noise": 0.1,
    "input_masking": 0.5,
    "latent_noise": 0.5,
    "activity_l1": 0.1,
    "ordered_latent": True,
    "rotation_weight": 0.1,
    "views_weight": 0.5,
}
# Beside architecture = "custom", whose baseline has three stages.
CHANGES_A_CUSTOM_MODEL = {
    "filters": (4, 8),
    "layers_per_block": (1, 2),
    "kernel_size": (5, 3),
    "strides": (2, 1),
    "pooling": "avg",
    "activation": "elu",
    "last_activation": "linear",
    "batch_normalization": False,
    "mlp_bottleneck": True,
    "dims": (20, 10),
}
CHANGES_THE_SPLIT = {"split_seed": 1, "num_train_samples": 7, "num_validation_samples": 3, "num_test_samples": 3}
TESTED_ON_THEIR_OWN = {
    "training_device",
    "jit_compile",
    "jit_backend",
    "use_tensorboard",
    "num_processors",
    "num_threads",
    "cache_images",
    "check_contents",  # test_unchanged.py
    "generate_model_graph",
    "epochs",
    "early_stopping_patience",
    "early_stopping_delta",
    "feature_grid",
    "feature_stages",
    "feature_formats",
    "reconstruction_error",
    "inference_engine",
    "inference_batch_size",
    "split",
    "linear_shortcut",
    "picture_channels",  # test_patch_responses.py
    "views_crop",  # these three in test_views.py
    "views_mirrored",
    "views_light",
    "checkpoint_every",
    "checkpoints_kept",
    "encoder_weights",
    "imagenet_reference",
    "explore_grid",
    "similarity",
    "similarity_normalization",  # test_normalization.py
    "duplicate_similarity",
    "cluster_method",
    "num_clusters",
    "min_cluster_size",
    "interval_groups",
    "anomaly_views",
    "anomaly_threshold",
    "anomaly_false_alarms",
    "anomaly_relative",
    "anomaly_bank",
    "test_share",
    "validation_share",
    "balance_classes",
    "num_neighbours",
    "head_stages",
    "head_width",
    "head_epochs",
    "head_batch_size",
    "head_learning_rate",
    "head_augmentation",
    "head_patience",
    "finetune_epochs",
}


def test_every_setting_has_its_test() -> None:
    by_value = {*CHANGES_THE_TRAINING, *CHANGES_A_CUSTOM_MODEL, *CHANGES_THE_SPLIT}
    assert by_value | TESTED_ON_THEIR_OWN == set(Settings.model_fields)


def train(workspace: Workspace, settings: Settings, name: str) -> Path:
    return pretrain(workspace, settings, workspace.images, name, SilentReporter()).folder


def losses(folder: Path) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["validation_loss"]) for row in read_history(folder)]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> tuple[Workspace, Path]:
    from conftest import write_images

    space = Workspace(tmp_path_factory.mktemp("baseline"))
    write_images(space.images, 12)
    return space, train(space, tiny(use_mixed_precision=False, epochs=2), "baseline")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", CHANGES_THE_TRAINING)
def test_it_changes_the_training(baseline: tuple[Workspace, Path], tiny: Tiny, name: str) -> None:
    space, unchanged = baseline
    changes = {"use_mixed_precision": False, "epochs": 2, name: CHANGES_THE_TRAINING[name]}
    assert losses(train(space, tiny(**changes), name)) != losses(unchanged)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", CHANGES_A_CUSTOM_MODEL)
def test_it_changes_a_custom_model(baseline: tuple[Workspace, Path], tiny: Tiny, name: str) -> None:
    custom = {"architecture": "custom", "filters": (4, 4, 4), "layers_per_block": 1, "epochs": 2, "dims": 8}
    custom |= {"mlp_bottleneck": name == "dims"}
    unchanged, changed = (
        losses(train(baseline[0], tiny(**custom | change), f"{name}_{number}"))
        for number, change in enumerate(({}, {name: CHANGES_A_CUSTOM_MODEL[name]}))
    )
    assert changed != unchanged


@pytest.mark.parametrize("name", CHANGES_THE_SPLIT)
def test_it_changes_the_split(baseline: tuple[Workspace, Path], tiny: Tiny, name: str) -> None:
    space, unchanged = baseline
    changed = load_checkpoint(train(space, tiny(**{name: CHANGES_THE_SPLIT[name]}), name)).split()
    assert changed != load_checkpoint(unchanged).split()
    sizes = {
        "num_train_samples": len(changed.train) + len(changed.validation),
        "num_validation_samples": len(changed.validation),
        "num_test_samples": len(changed.test),
    }
    assert sizes.get(name, CHANGES_THE_SPLIT[name]) == CHANGES_THE_SPLIT[name]


def test_training_device_chooses_the_device_or_is_refused(tiny: Tiny) -> None:
    assert prepare_computation(tiny(training_device="CPU")).device.type == "cpu"
    if torch.cuda.is_available():
        assert prepare_computation(tiny(training_device="GPU")).device.type == "cuda"
    else:
        with pytest.raises(DeviceError):
            prepare_computation(tiny(training_device="GPU"))


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("name", "linear_shortcut"), [("compiled", False), ("compiled_shortcut", True)])
def test_jit_compile_compiles_with_jit_backend(
    baseline: tuple[Workspace, Path], tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, linear_shortcut: bool
) -> None:
    asked: list[str] = []
    compile_model = torch.compile

    def noting(model: torch.nn.Module, *, backend: str) -> object:
        asked.append(backend)
        return compile_model(model, backend=backend)

    monkeypatch.setattr(torch, "compile", noting)
    settings = tiny(jit_compile=True, jit_backend="eager", linear_shortcut=linear_shortcut, picture_shape=(64, 64, 1))
    folder = train(baseline[0], settings, name)
    assert asked == ["eager"]
    assert len(losses(folder)) == 1
    check_jit_backend(tiny(jit_compile=False, jit_backend="nonsense"))
    with pytest.raises(SettingsError, match="nonsense"):
        check_jit_backend(tiny(jit_compile=True, jit_backend="nonsense"))


def test_use_tensorboard_and_generate_model_graph_write_their_files_or_do_not(
    baseline: tuple[Workspace, Path], tiny: Tiny
) -> None:
    space, without = baseline
    with_both = train(space, tiny(use_tensorboard=True, generate_model_graph=True), "with_both")
    for name in ("tensorboard", "model_graph.png"):
        assert (with_both / name).exists()
        assert not (without / name).exists()


def test_num_processors_and_num_threads_are_taken(tiny: Tiny) -> None:
    before = torch.get_num_threads()
    try:
        assert prepare_computation(tiny(num_processors=3, num_threads=1)).num_processors == 3
        assert torch.get_num_threads() == 1
        assert prepare_computation(tiny(num_processors="auto", num_threads=2)).num_processors == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("no_pictures")
def test_cache_images_keeps_them_where_they_fit_and_says_where_they_do_not(
    baseline: tuple[Workspace, Path], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    kept: list[int] = []
    monkeypatch.setattr(SilentReporter, "warning", lambda self, text: warnings.append(text))
    monkeypatch.setattr(ImageCache, "keep", lambda self, position, image: kept.append(position))
    monkeypatch.setattr(pretraining, "free_memory", lambda *, shared: 2 * 8 * 64 * 64 * 3)
    train(baseline[0], tiny(cache_images=True), "cached")
    assert len(kept) == 8  # to train on and to choose by
    assert not warnings
    monkeypatch.setattr(pretraining, "free_memory", lambda *, shared: 2 * 8 * 64 * 64 * 3 - 2)
    train(baseline[0], tiny(cache_images=True), "too_large")
    assert len(kept) == 8  # to train on and to choose by
    assert "cache_images" in warnings[0]
    assert "they are read in each epoch" in warnings[0]


def test_epochs_and_early_stopping_end_the_run(baseline: tuple[Workspace, Path], tiny: Tiny) -> None:
    space = baseline[0]
    assert len(losses(train(space, tiny(epochs=4, early_stopping_patience=0, early_stopping_delta=9.0), "all"))) == 4
    assert len(losses(train(space, tiny(epochs=4, early_stopping_patience=1, early_stopping_delta=9.0), "two"))) == 2
    assert len(losses(train(space, tiny(epochs=3, early_stopping_patience=2, early_stopping_delta=0.0), "three"))) == 3


def test_checkpoint_every_keeps_epochs_and_checkpoints_kept_limits_them(
    baseline: tuple[Workspace, Path], tiny: Tiny
) -> None:
    space = baseline[0]
    folder = train(space, tiny(epochs=5, checkpoint_every=1, checkpoints_kept=2), "kept")
    names = sorted(path.name for path in (folder / "epochs").iterdir())
    assert names == ["kept_epoch_000004", "kept_epoch_000005"]
    kept = load_checkpoint(space.find_checkpoint(str(folder / "epochs" / names[1])))
    assert kept.name == names[1]
    assert kept.summary["best_epoch"] == 5
    assert kept.summary["validation_loss"] == read_history(folder)[4]["validation_loss"]
    assert kept.split() == load_checkpoint(folder).split()
    resumed = resume(tiny(), folder, 6, SilentReporter()).folder
    assert len(list((resumed / "epochs").iterdir())) == 2
    every_second = train(space, tiny(epochs=3, checkpoint_every=2), "every_second")
    assert [path.name for path in (every_second / "epochs").iterdir()] == ["every_second_epoch_000002"]
    assert not (baseline[1] / "epochs").exists()


def test_feature_grid_shapes_the_extraction(baseline: tuple[Workspace, Path], tiny: Tiny) -> None:
    space, folder = baseline
    for grid in (2, 1):
        result = extract(space, tiny(feature_grid=grid), folder, None, None, SilentReporter())
        assert result is not None
        assert result.num_features == grid * grid * 512


def test_inference_batch_size_is_how_many_images_are_read_at_a_time_and_changes_no_row(
    baseline: tuple[Workspace, Path], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, folder = baseline
    sizes, made = [], []

    def noted(*arguments: Any, **options: Any) -> ImageStream:
        sizes.append(arguments[3])
        return stream_for(*arguments, **options)

    monkeypatch.setattr("fext.jobs.encoding.stream_for", noted)
    for batch_size in (1, 5):
        settings = tiny(feature_grid=2, inference_batch_size=batch_size)
        result = extract(space, settings, folder, None, f"by_{batch_size}", SilentReporter())
        assert result is not None
        made.append((result.folder / "features.csv").read_bytes())
    assert sizes == [4, 8]  # whole groups of the images that are computed together
    assert made[0] == made[1]


def test_all_stages_come_before_the_latent_in_a_row(baseline: tuple[Workspace, Path], tiny: Tiny) -> None:
    space, folder = baseline
    rows = []
    for stages in ("last", "all"):
        settings = tiny(feature_grid=2, feature_formats="npy", feature_stages=stages)
        result = extract(space, settings, folder, None, None, SilentReporter())
        assert result is not None
        assert json.loads((result.folder / "manifest.json").read_text())["feature_stages"] == stages
        rows.append(np.load(result.folder / "features.npy").reshape(result.num_written, 4, -1))
    latent, every_stage = rows
    assert every_stage.shape[2] == sum(stage_channels(load_checkpoint(folder).plan))
    np.testing.assert_array_equal(every_stage[:, :, -latent.shape[2] :], latent)


def test_formats_error_and_engine_shape_the_extraction(baseline: tuple[Workspace, Path], tiny: Tiny) -> None:
    space, folder = baseline
    settings = tiny(feature_grid=1, feature_formats=("npy",), reconstruction_error=True, inference_engine="torch")
    result = extract(space, settings, folder, None, None, SilentReporter())
    assert result is not None
    assert {"features.npy", "reconstruction_error.npy"} <= {path.name for path in result.folder.iterdir()}
    assert not (result.folder / "features.csv").exists()
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["computed_by"]["engine"] == "torch"
