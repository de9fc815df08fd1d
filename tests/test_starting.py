"""What a new model starts from, and that settings which disagree are refused before anything is read."""

import importlib.util
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import TIMES, write_images

from fext.compute.device import prepare_computation
from fext.compute.optimization import values_per_weight
from fext.errors import ModelError, SettingsError
from fext.jobs import starting
from fext.jobs.evaluate import evaluate
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.starting import plan_of, refuse_single_values
from fext.model.autoencoder import build_autoencoder, num_parameters
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint
from fext.store.pretrained import imagenet_encoder_weights
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
QUIET = SilentReporter()
ENGINES = ("torch", "openvino") if importlib.util.find_spec("openvino") else ("torch",)


class Remembering(SilentReporter):
    """Keeps what a job warns of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("architecture", ["vgg16_bn", "vgg16", "redux", "medium", "large"])
@pytest.mark.parametrize("linear_shortcut", [False, True])
def test_latent_channels_and_grey_pictures_go_with_every_preset(
    tiny: Tiny, architecture: str, linear_shortcut: bool
) -> None:
    settings = tiny(
        architecture=architecture, latent_channels=7, picture_shape=(64, 32, 1), linear_shortcut=linear_shortcut
    )
    assert plan_of(settings).latent_shape == (2, 1, 7)


def test_cifar_makes_8_by_8_by_128_of_32_by_32_with_dropout_after_each_block(tiny: Tiny) -> None:
    from fext.model.autoencoder import Autoencoder

    plan = plan_of(tiny(architecture="cifar", picture_shape=(32, 32, 3)))
    assert plan.latent_shape == (8, 8, 128)
    encoder = Autoencoder(plan).encoder
    for kind in (torch.nn.Conv2d, torch.nn.BatchNorm2d):
        assert sum(isinstance(layer, kind) for layer in encoder.children()) == 6
    rates = [layer.p for layer in encoder.modules() if isinstance(layer, torch.nn.Dropout2d)]
    assert rates == [0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "cifar", "picture_shape": (34, 32, 3)}, "multiples of 4, not 34x32"),
        ({"architecture": "vgg16", "picture_shape": (100, 96, 3)}, "multiples of 32, not 100x96"),
        ({"architecture": "redux", "picture_shape": (48, 64, 3)}, "multiples of 32, not 48x64"),
        (
            {"architecture": "custom", "filters": (8, 8), "strides": (1, 1, 2)},
            "strides has 3 values, but filters",
        ),
        ({"architecture": "custom", "strides": 3, "filters": (4, 4), "pooling": "no"}, "multiples of 9, not 64x64"),
    ],
)
def test_a_size_that_a_plan_cannot_take_is_refused_with_those_it_can(
    tiny: Tiny, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        plan_of(tiny(**changes))


def test_a_custom_plan_is_what_the_settings_say_and_short_lists_go_on_with_their_last_value(tiny: Tiny) -> None:
    plan = plan_of(
        tiny(
            architecture="custom",
            picture_shape=(64, 64, 1),
            filters=(32, 64, 128, 256),
            layers_per_block=(1, 2),
            kernel_size=(5, 5, 3),
            strides=(2, 1),
            pooling=("avg", "avg", "no", "no"),
            activation="elu",
            mlp_bottleneck=True,
            dims=(50, 10),
        )
    )
    assert [stage.widths for stage in plan.stages] == [(32,), (64, 64), (128, 128), (256, 256)]
    assert [stage.kernel_size for stage in plan.stages] == [5, 5, 3, 3]
    assert [stage.stride for stage in plan.stages] == [2, 1, 1, 1]
    assert [stage.pooling for stage in plan.stages] == ["avg", "avg", "no", "no"]
    assert plan.map_shape == (8, 8, 256)
    assert plan.latent_shape == (1, 1, 10)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid"])
@pytest.mark.parametrize("mlp_bottleneck", [False, True])
def test_a_custom_model_reconstructs_pictures_of_its_size(tiny: Tiny, activation: str, mlp_bottleneck: bool) -> None:
    from fext.model.autoencoder import build_autoencoder

    settings = tiny(
        architecture="custom", picture_shape=(48, 24, 1), filters=(4, 6), strides=(3, 1), pooling=("no", "max"),
        kernel_size=(5, 3), activation=activation, mlp_bottleneck=mlp_bottleneck, dims=(20, 5),
    )  # fmt: skip
    model = build_autoencoder(plan_of(settings), seed=0).eval()
    pictures = torch.rand(2, 1, 48, 24)
    with torch.inference_mode():
        assert model.encoder(pictures).shape == ((2, 5, 1, 1) if mlp_bottleneck else (2, 6, 8, 4))
        assert model(pictures).shape == pictures.shape


# ---------------------------------------------------------------- the linear shortcut


def test_a_model_with_a_linear_shortcut_trains_resumes_and_beats_the_linear_map(
    tmp_path: Path, tiny: Tiny, small_model: None
) -> None:
    space = Workspace(tmp_path)
    write_images(space.images, 24)
    settings = tiny(
        epochs=8, learning_rate=0.01, num_train_samples=16, num_test_samples=8, latent_channels=4, linear_shortcut=True,
        picture_shape=(64, 64, 1),
    )  # fmt: skip
    straight = pretrain(space, settings, space.images, "straight", QUIET).folder
    pretrain(space, settings.model_copy(update={"epochs": 2}), space.images, "extended", QUIET)
    resume(settings, space.checkpoints / "extended", 8, QUIET)
    summary = evaluate(space, settings, straight, None, QUIET).summary
    train = summary["subsets"]["train"]
    assert train["model"]["psnr"]["mean"] > train["linear_map"]["psnr"]["mean"]
    encoders = summary["encoders"]["encoders"]  # before training it holds what the linear map holds
    assert encoders["untrained"]["readout_psnr"] == pytest.approx(encoders["linear_map"]["readout_psnr"], abs=0.5)
    states = (load_checkpoint(space.checkpoints / name).model.state_dict() for name in ("straight", "extended"))
    assert all(torch.equal(left, right) for left, right in zip(*(state.values() for state in states), strict=True))


def test_the_gradient_told_from_components_trains_as_that_of_pictures(
    workspace: Workspace, tiny: Tiny, small_model: None
) -> None:
    histories = []
    for name, loss in (("components", "mse"), ("pictures", {"mse": 1.0})):
        settings = tiny(
            loss=loss, epochs=6, latent_channels=4, linear_shortcut=True, optimizer="sgd", learning_rate=0.001,
            batch_size=8, num_train_samples=11, num_validation_samples=3, num_test_samples=1, picture_shape=(64, 64, 1),
            use_mixed_precision=False,
        )  # fmt: skip
        folder = pretrain(workspace, settings, workspace.images, name, QUIET).folder
        histories.append(pd.read_csv(folder / "history.csv").drop(columns=list(TIMES)))
    assert np.allclose(*histories, rtol=1e-4)
    assert histories[0]["validation_loss"].is_monotonic_decreasing


def test_without_its_linear_shortcut_a_residual_model_is_made_of_convolutions(tiny: Tiny) -> None:
    assert plan_of(tiny(linear_shortcut=True)).block == "patch"
    assert plan_of(tiny(linear_shortcut=False)).block == "residual"


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"linear_shortcut": True}, "linear_shortcut to False"),
        ({"architecture": "custom", "last_activation": "linear"}, "last_activation to 'sigmoid'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", ["bce", {"bce": 0.5, "mse": 0.5}], ids=str)
def test_cross_entropy_is_refused_where_reconstructions_may_leave_0_to_1(
    tiny: Tiny, changes: dict[str, Any], remedy: str, loss: Any
) -> None:
    with pytest.raises(SettingsError, match=rf"loss = .*bce.* wants .* a sigmoid: set {remedy}, or choose another"):
        plan_of(tiny(loss=loss, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2, "warmup_epochs": 2.5}, r"warmup_epochs = 2.5 is more than epochs = 2"),
        ({"batch_size": 4, "gradient_accumulation": 5}, r"gradient_accumulation = 5 is more than batch_size = 4"),
    ],
    ids=str,
)
def test_settings_that_cannot_both_be_meant_are_refused_before_anything_is_made(
    workspace: Workspace, tiny: Tiny, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        pretrain(workspace, tiny(**changes), workspace.images, "model", QUIET)
    assert not (workspace.checkpoints / "model").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, []),
        ({"filters": (8, 16), "activation": "elu"}, ["'redux': filters, activation"]),
        ({"architecture": "cifar", "latent_channels": 64}, ["'cifar': latent_channels"]),
        ({"architecture": "custom", "filters": (8, 16)}, []),
    ],
    ids=str,
)
def test_settings_of_no_effect_with_the_architecture_are_named(
    tiny: Tiny, changes: dict[str, Any], named: list[str]
) -> None:
    said: list[str] = []

    class Remembering(SilentReporter):
        def warning(self, text: str) -> None:
            said.append(text)

    starting.say_unused(tiny(**changes), Remembering())
    assert said == [f"of no effect with architecture = {words}" for words in named]


@pytest.mark.parametrize(
    ("changes", "num_train"),
    [
        ({"batch_size": 4}, 9),
        ({"batch_size": 1}, 8),
        ({"batch_size": 4, "gradient_accumulation": 4}, 8),
        ({"batch_size": 4, "gradient_accumulation": 3}, 8),  # parts of two, one and one
        ({"batch_size": 2, "gradient_accumulation": 8}, 8),
    ],
)
def test_one_value_alone_is_not_normalized(tiny: Tiny, changes: dict[str, Any], num_train: int) -> None:
    small = tiny(picture_shape=(32, 32, 3), linear_shortcut=True, **changes)
    with pytest.raises(SettingsError, match="would be one image: choose another batch_size"):
        refuse_single_values(plan_of(small), small, num_train)
    large = tiny(picture_shape=(64, 32, 3), linear_shortcut=True, **changes)
    refuse_single_values(plan_of(large), large, num_train)


@pytest.mark.parametrize("changes", [{"batch_normalization": False}, {"mlp_bottleneck": True, "dims": (8,)}], ids=str)
def test_turns_are_not_told_from_one_value_alone(tiny: Tiny, changes: dict[str, Any]) -> None:
    """What tells them normalizes the latent, whether the encoder normalizes or not."""
    stages = {"filters": (4,) * 4, "picture_shape": (16, 16, 3)}
    settings = tiny(architecture="custom", rotation_weight=0.2, batch_size=4, **stages, **changes)
    assert plan_of(settings).latent_shape[:2] == (1, 1)
    with pytest.raises(SettingsError, match=r"rotation_weight = 0.2 .* would be one image: choose another batch_size"):
        refuse_single_values(plan_of(settings), settings, 9)
    refuse_single_values(plan_of(settings), settings, 10)
    refuse_single_values(plan_of(settings), settings.model_copy(update={"rotation_weight": 0.0}), 10)


def test_a_model_larger_than_the_free_memory_is_refused_with_what_it_would_take(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "free_memory", lambda: 24_000_000_000)
    settings = tiny(
        architecture="custom", picture_shape=(256, 256, 1), filters=(32, 64, 128, 256), pooling=("avg", "avg", "no"),
        kernel_size=(5, 5, 3), mlp_bottleneck=True, dims=(1000,),
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"2,100,778,409 parameters takes 33.\d GB of memory to train, and 24.0 GB is"):
        pretrain(workspace, settings, workspace.images, "huge", QUIET)
    assert not (workspace.checkpoints / "huge").exists()
    fits = plan_of(settings.model_copy(update={"strides": (2,)}))
    starting.refuse_larger_than_memory(fits, settings, prepare_computation(settings))


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, 4), ({"optimizer": "sgd"}, 3), ({"ema_decay": 0.9}, 5)], ids=str
)
def test_what_training_keeps_of_a_weight_is_counted(tiny: Tiny, changes: dict[str, Any], expected: int) -> None:
    assert values_per_weight(tiny(**changes)) == expected


@pytest.mark.parametrize("architecture", ["redux", "vgg16", "cifar"])
def test_parameters_are_counted_without_a_model_being_made(tiny: Tiny, architecture: str) -> None:
    plan = plan_of(tiny(architecture=architecture, picture_shape=(64, 64, 3)))
    model = build_autoencoder(plan, seed=0)
    assert num_parameters(plan) == sum(weight.numel() for weight in model.parameters())


def test_parts_of_two_images_and_more_are_normalized(tiny: Tiny) -> None:
    settings = tiny(picture_shape=(32, 32, 3), linear_shortcut=True, batch_size=5, gradient_accumulation=2)
    refuse_single_values(plan_of(settings), settings, 5)


# ---------------------------------------------------------------- pictures and evaluation of every kind of plan


@pytest.mark.parametrize(
    "changes",
    [
        {"linear_shortcut": True, "latent_channels": 8, "picture_shape": (64, 64, 1)},
        {"architecture": "cifar"},
        {"architecture": "custom", "filters": (4, 8), "strides": 2, "mlp_bottleneck": True, "dims": (20, 10)},
        {"architecture": "custom", "filters": (4, 8), "pooling": "avg", "kernel_size": 5, "activation": "elu"},
    ],
    ids=str,
)
def test_every_kind_of_plan_is_drawn_evaluated_and_extracted(
    workspace: Workspace, tiny: Tiny, changes: dict[str, Any]
) -> None:
    settings = tiny(generate_model_graph=True, use_tensorboard=True, feature_grid=1, **changes)
    reporter = Remembering()
    folder = pretrain(workspace, settings, workspace.images, "model", reporter).folder
    assert reporter.warnings == []
    assert (folder / "model_graph.png").is_file()
    assert "param" in (folder / "model_summary.txt").read_text(encoding="utf-8").lower()
    subsets = evaluate(workspace, settings, folder, None, QUIET).summary["subsets"]
    assert subsets["test"]["model"]["psnr"]["mean"] > 0
    for engine in ENGINES:
        chosen = settings.model_copy(update={"inference_engine": engine})
        result = extract(workspace, chosen, folder, None, engine, QUIET)
        assert result is not None
        assert result.num_written == 12
        assert result.num_features == load_checkpoint(folder).plan.latent_channels
    tables = [pd.read_csv(workspace.inference / engine / "features.csv", index_col=0) for engine in ENGINES]
    assert np.allclose(tables[0], tables[-1], rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- ImageNet


@pytest.mark.parametrize(
    "changes", [{"architecture": "redux"}, {"latent_channels": 64}, {"picture_shape": (64, 64, 1)}], ids=str
)
def test_imagenet_weights_are_refused_where_they_do_not_fit(tiny: Tiny, changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="encoder_weights = 'imagenet' goes with architecture 'vgg16'"):
        plan_of(tiny(**{"architecture": "vgg16", "encoder_weights": "imagenet"} | changes))


@pytest.mark.parametrize("architecture", ["vgg16", "vgg16_bn"])
def test_imagenet_weights_see_pictures_in_0_to_1_as_torchvision_sees_normalized_ones(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fext.model.autoencoder import Autoencoder
    from fext.model.plans import make_plan

    reference = getattr(torchvision.models, architecture)(weights=None).eval()
    weights = torchvision.models.get_model_weights(architecture).DEFAULT
    asked: dict[str, object] = {}

    def downloaded(**options: object) -> dict[str, torch.Tensor]:
        asked.update(options)
        return dict(reference.state_dict())

    monkeypatch.setattr(type(weights), "get_state_dict", lambda _, **options: downloaded(**options))
    encoder = Autoencoder(make_plan(architecture, (64, 64, 3), dropout_rate=0.1)).encoder.eval()
    encoder.load_state_dict(imagenet_encoder_weights(architecture))
    pictures = torch.rand(1, 3, 64, 64)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        first, expected = encoder[0](pictures), reference.features[0]((pictures - mean) / deviation)  # type: ignore[index]
    assert torch.allclose(first[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], atol=1e-4)
    assert asked["weights_only"] is True  # nothing but tensors is taken from a file of the internet


def test_imagenet_weights_that_cannot_be_downloaded_are_a_line_that_says_what_to_do(
    tmp_path: pytest.TempPathFactory, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ModelError, match=r"cannot be downloaded or read .*no route to host.*to 'none'"):
        imagenet_encoder_weights("vgg16")
