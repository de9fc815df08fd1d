"""The settings: what configurations.py may say, and what a person is told when it says something else."""

import dataclasses
from pathlib import Path

import pytest
from pydantic import ValidationError

from fext.errors import SettingsError
from fext.settings import (
    CONFIGURATIONS_FILE,
    RENAMED,
    Settings,
    change_settings,
    configurations_text,
    load_settings,
    setting_infos,
    settings_from_json,
)

REPOSITORY = Path(__file__).resolve().parent.parent
ALLOWED = {info.name: info.allowed for info in setting_infos()}

# For every setting, values that it must refuse: of a wrong type, and outside its range.
REFUSED: dict[str, list[object]] = {
    "training_device": ["gpus", "cuda", "cuda:", "cuda:-1", "", 0, True, None],
    "use_mixed_precision": ["bfloat16", "True", 1, 0, None],
    "jit_compile": ["yes", "True", 1, 0, None],
    "jit_backend": ["", 0, True, None],
    "use_tensorboard": ["yes", 1, 0, None],
    "cache_images": ["yes", 1, None],
    "check_contents": ["yes", "True", 1, 0, None],
    "num_processors": [0, -1, 257, 2.0, "2", "all", True, None],
    "num_threads": [0, -1, 1025, 2.0, "2", "all", True, None],
    "picture_shape": [
        (256, 256), (256, 256, 3, 1), (15, 256, 3), (0, 0, 3), (-32, 32, 3), (4128, 256, 3),
        (256, 256, 2), (256, 256, 4), (256.0, 256, 3), (256, 256, True), ("256", "256", "3"), 256, "256x256", None,
    ],
    "resize_mode": ["Stretch", "squash", "", 1, None],
    "split": ["", "folder", None, True],
    "num_train_samples": [0, -5, 1.5, "8000", True, None],
    "num_validation_samples": [0, -5, 1.5, "8", "tenth", True, None],
    "num_test_samples": [0, -5, 1.5, "2000", True, None],
    "augmentation": ["yes", "False", 1, 0, None],
    "architecture": ["vgg19", "VGG16", "", 16, None],
    "generate_model_graph": ["yes", 1, 0, None],
    "epochs": [0, -1, 1.5, "50", True, None],
    "batch_size": [0, -1, 4097, 8.0, "8", True, None],
    "learning_rate": [0, 0.0, -0.001, 1.001, "0.001", True, float("nan"), float("inf"), None],
    "lr_schedule": ["step", "Cosine", "", 1, None],
    "warmup_epochs": [-0.1, "1", True, float("inf"), None],
    "optimizer": ["rmsprop", "Adam", "", 1, None],
    "loss": ["mse+mae", "MSE", "", 1, None, {}, {"mse": 0}, {"mse": -1.0}, {"mse": "1"}, {"psnr": 1.0}, ["mse"]],
    "gradient_clip": [-1.0, "1", True, float("inf"), None],
    "gradient_accumulation": [0, -1, 1.5, "2", True, None],
    "ema_decay": [-0.1, 1.0, "0.9", True, None],
    "input_noise": [-0.1, "0", True, float("nan"), None],
    "input_masking": [-0.1, 1.0, "0", True, None],
    "latent_noise": [-0.1, "0", True, float("nan"), None],
    "activity_l1": [-0.1, "0", True, float("inf"), None],
    "checkpoint_every": [-1, 1.5, "2", True, None],
    "checkpoints_kept": [0, -1, 1.5, "2", True, None],
    "rotation_weight": [-0.1, "0", True, float("inf"), None],
    "views_weight": [-0.1, "none", True, float("inf"), None],
    "views_crop": [0.0, 1.1, "half", True, None],
    "views_mirrored": ["yes", 1, None],
    "views_light": [-0.1, 1.1, "0", True, None],
    "feature_stages": ["first", "", 1, None, ("last",)],
    "ordered_latent": ["yes", 1, 0, None],
    "latent_channels": [0, -1, 4097, 512.0, "512", True, None],
    "linear_shortcut": ["yes", 1, 0, None],
    "picture_channels": ["all", 0, -1, 4097, 64.5, True, None],
    "dropout_rate": ["none", -0.1, 1.0, True, None],
    "encoder_weights": ["ImageNet", "", True, None],
    "filters": [(), [], 0, (0,), (4097,), (1.5,), "32", (True,), (1,) * 13, None],
    "layers_per_block": [(), 0, (65,), 1.5, "2", True, None],
    "kernel_size": [(), 0, 2, (3, 4), 33, 3.0, "3", True, None],
    "strides": [(), 0, 9, (1.5,), "2", True, None],
    "pooling": [(), "mean", ("max", "none"), 1, True, None],
    "activation": ["ReLU", "swish", "", 1, None],
    "last_activation": ["relu", "", 1, None],
    "batch_normalization": ["yes", 1, 0, None],
    "mlp_bottleneck": ["yes", 1, 0, None],
    "dims": [(), 0, (0,), (4097,), (1.5,), "1000", (True,), None],
    "weight_decay": [-0.1, 1.1, "0", True, float("nan"), None],
    "early_stopping_patience": [-1, 1.5, "10", True, None],
    "early_stopping_delta": [-0.1, "0", True, float("nan"), float("inf"), None],
    "explore_grid": [0, 3, 16, 2.0, "2", True, None],
    "similarity": ["Cosine", "l2", "", 1, None],
    "similarity_normalization": ["Auto", "whitened", "", True, None],
    "duplicate_similarity": [0, 1.1, -0.5, "0.9", "Auto", True, float("nan"), None],
    "cluster_method": ["k-means", "", 1, None],
    "num_clusters": [1, 0, -1, 2.5, "3", True, None],
    "min_cluster_size": [1, 0, 2.5, "5", True, None],
    "interval_groups": ["names", "", True, None],
    "anomaly_views": [(), [], "depth", ("pixels", "depth"), ("pixels", 1), 1, None],
    "anomaly_threshold": ["f1", "", 1, None],
    "anomaly_false_alarms": [-0.1, 0.6, "0", True, float("nan"), None],
    "anomaly_relative": ["yes", 1, 0, None],
    "anomaly_bank": [0, -1, 10001, 1.5, "10", True, None],
    "test_share": [0, 0.0, 1.0, "0.2", True, None],
    "validation_share": [0, 0.0, 1.0, "0.2", True, None],
    "balance_classes": ["yes", 1, 0, None],
    "num_neighbours": [0, 1001, 1.5, "10", True, None],
    "head_stages": ["first", "All", "", 1, None],
    "head_width": [0, 1025, 1.5, "64", True, None],
    "head_epochs": [0, -1, 1.5, "30", True, None],
    "head_batch_size": [1, 4097, 8.0, "8", True, None],
    "head_learning_rate": [0, 0.0, 1.001, "0.001", True, float("nan"), None],
    "head_augmentation": ["yes", 1, 0, None],
    "head_patience": [-1, 1.5, "10", True, None],
    "finetune_epochs": [-1, 1.5, "2", True, None],
    "feature_grid": [0, -1, 3, 16, 8.5, "8", True, None],
    "feature_formats": [(), [], [[]], "excel", ("csv", "excel"), ("csv", 1), 1, None],
    "reconstruction_error": ["yes", 1, 0, None],
    "imagenet_reference": ["vgg16", "True", 1, 0, None],
    "inference_engine": ["onnx", "", 1, True, None],
    "inference_batch_size": [0, -1, 4097, 8.0, "8", True, None],
    "seed": [-1, 2**32, 1.5, "42", True, None],
    "split_seed": [-1, 2**32, 1.5, "42", True, None],
}  # fmt: skip

AT_THE_EDGE: list[tuple[str, object]] = [
    ("training_device", "cuda:12"),
    ("use_mixed_precision", True),
    ("use_mixed_precision", False),
    ("imagenet_reference", "auto"),
    ("imagenet_reference", True),
    ("imagenet_reference", False),
    ("num_processors", 1),
    ("num_processors", 256),
    ("num_threads", 1024),
    ("picture_shape", (32, 4096, 1)),
    ("num_train_samples", 1),
    ("epochs", 1),
    ("batch_size", 4096),
    ("learning_rate", 1),
    ("learning_rate", 1e-9),
    ("weight_decay", 0),
    ("early_stopping_patience", 0),
    ("feature_grid", 1),
    ("feature_grid", 8),
    ("seed", 0),
    ("seed", 2**32 - 1),
]


def written(folder: Path, text: str) -> Path:
    """A configurations.py of that text."""
    file = folder / CONFIGURATIONS_FILE
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file: Path, *overrides: str) -> str:
    """The message with which the settings are refused; always a single line."""
    with pytest.raises(SettingsError) as caught:
        load_settings(file, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_file_in_the_repository_holds_every_setting_at_its_default() -> None:
    file = REPOSITORY / CONFIGURATIONS_FILE
    assert file.read_bytes() == configurations_text().encode("utf-8")
    assert load_settings(file) == Settings()


def test_every_setting_is_described_and_says_what_is_allowed() -> None:
    text = configurations_text()
    for info in setting_infos():
        assert info.description
        assert info.allowed
        assert f"\n{info.name} = " in text
    assert max(len(line) for line in text.splitlines()) <= 110


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_default_is_itself_allowed(name: str, tmp_path: Path) -> None:
    default = Settings.model_fields[name].default
    assert getattr(load_settings(written(tmp_path, f"{name} = {default!r}\n")), name) == default


def test_a_file_that_leaves_a_setting_out_means_its_default(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "epochs = 7\n"))
    assert settings == change_settings(Settings(), epochs=7)


@pytest.mark.parametrize(("name", "value"), AT_THE_EDGE)
def test_the_ends_of_a_range_are_allowed(name: str, value: object, tmp_path: Path) -> None:
    assert getattr(load_settings(written(tmp_path, f"{name} = {value!r}\n")), name) == value


def test_every_setting_is_tried_with_values_that_it_must_refuse() -> None:
    assert set(REFUSED) == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_wrong_value_is_refused_with_file_line_setting_value_and_what_is_allowed(
    name: str, value: object, tmp_path: Path
) -> None:
    literal = f"float({str(value)!r})" if isinstance(value, float) else repr(value)
    file = written(tmp_path, f"# my settings\n\n{name} = {literal}\n")
    assert refusal(file) == (f"configurations.py, line 3: {name} = {value!r} is not allowed; allowed: {ALLOWED[name]}")


def test_the_line_named_is_the_one_that_set_the_value_last(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "epochs = 3\nseed = 1\nepochs = -3\n")).startswith(
        "configurations.py, line 3: epochs = -3 "
    )


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("batchsize", "batch_size"),
        ("Learning_Rate", "learning_rate"),
        ("epoch", "epochs"),
        ("feature_gird", "feature_grid"),
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_known_one_named(name: str, known: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, f"\n{name} = 1\n")) == (
        f"configurations.py, line 2: there is no setting {name}; did you mean {known}?"
    )


def test_an_unknown_name_like_no_other_is_refused_too(tmp_path: Path) -> None:
    assert "there is no setting zzzzzzzz" in refusal(written(tmp_path, "zzzzzzzz = 1\n"))


def test_the_earlier_name_xla_acceleration_is_pointed_to_jit_compile(tmp_path: Path) -> None:
    message = "there is no setting XLA_acceleration; it is called jit_compile now"
    assert refusal(written(tmp_path, "XLA_acceleration = False\n")) == f"configurations.py, line 1: {message}"
    assert refusal(written(tmp_path, ""), "XLA_acceleration=false") == f"--set: {message}"


def test_every_earlier_name_points_to_a_setting_that_exists() -> None:
    assert set(RENAMED.values()) <= set(Settings.model_fields)
    assert not set(RENAMED) & set(Settings.model_fields)


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "epochs = 3\nbatch_size = = 4\n")).startswith(
        "configurations.py, line 2: not valid Python"
    )


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise ValueError('first\\nsecond')", "ValueError: first second"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("exit()", "SystemExit"),
    ],
)
def test_a_file_that_raises_is_told_with_its_line_and_the_error(statement: str, said: str, tmp_path: Path) -> None:
    message = refusal(written(tmp_path, f"epochs = 3\n\n{statement}\n"))
    assert message.startswith("configurations.py, line 3")
    assert said in message


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("numpy.zeros((3, 3))", id="shown on several lines"),
        pytest.param("-(10**5000)", id="more digits than Python prints"),
        pytest.param("'x' * 1000", id="long"),
    ],
)
def test_a_value_that_is_hard_to_show_is_still_refused_in_a_short_line(value: str, tmp_path: Path) -> None:
    message = refusal(written(tmp_path, f"import numpy\nepochs = {value}\n"))
    assert message.startswith("configurations.py, line 2: epochs = ")
    assert message.endswith(" is not allowed; allowed: a whole number from 1")
    assert len(message) < 200


def test_a_missing_file_and_one_that_is_not_text_are_told(tmp_path: Path) -> None:
    file = tmp_path / CONFIGURATIONS_FILE
    message = refusal(file)
    assert CONFIGURATIONS_FILE in message
    assert str(tmp_path) in message
    file.write_bytes(b"epochs = 3  # \xff\xfe")
    assert CONFIGURATIONS_FILE in refusal(file)


def test_values_may_be_computed_and_helpers_kept_under_an_underscore(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "import math\n_base = 5\nepochs = _base * math.floor(2.5)\n"))
    assert settings.epochs == 10


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "epochs = 3\n")).epochs == 3
    assert load_settings(written(tmp_path, "epochs = 4\n")).epochs == 4


def test_a_list_is_as_good_as_a_tuple_for_a_picture_shape(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "picture_shape = [64, 32, 1]\n")).picture_shape == (64, 32, 1)


@pytest.mark.parametrize(
    ("typed", "device"),
    [("cpu", "CPU"), ("Gpu", "GPU"), ("mps", "MPS"), ("AUTO", "auto"), ("CUDA:1", "cuda:1")],
)
def test_a_device_is_known_in_any_case(typed: str, device: str, tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, f"training_device = {typed!r}\n")).training_device == device


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("epochs=20", "epochs", 20),
        ("learning_rate = 1e-4", "learning_rate", 0.0001),
        ("augmentation=false", "augmentation", False),
        ("jit_compile=true", "jit_compile", True),
        ("jit_compile=True", "jit_compile", True),
        ("use_mixed_precision=FALSE", "use_mixed_precision", False),
        ("use_mixed_precision=auto", "use_mixed_precision", "auto"),
        ("architecture=redux", "architecture", "redux"),
        ("architecture='redux'", "architecture", "redux"),
        ("picture_shape=(64, 32, 3)", "picture_shape", (64, 32, 3)),
        ("picture_shape=64,32,3", "picture_shape", (64, 32, 3)),
        ("training_device=cuda:0", "training_device", "cuda:0"),
    ],
)
def test_set_overrides_one_setting(override: str, name: str, value: object, tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "batch_size = 3\n"), [override])
    assert getattr(settings, name) == value
    assert settings.batch_size == 3


def test_set_mends_a_wrong_value_of_the_file_and_the_last_set_wins(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, "epochs = 0\n"), ["epochs=2", "epochs=5"]).epochs == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=0", "--set: epochs = 0 is not allowed; allowed: a whole number from 1"),
        ("epochs=many", "--set: epochs = 'many' is not allowed; allowed: a whole number from 1"),
        ("epochs=true", "--set: epochs = True is not allowed; allowed: a whole number from 1"),
        ("epochs=", "--set: epochs = '' is not allowed; allowed: a whole number from 1"),
        ("epochs={[]: 1}", "--set: epochs = '{[]: 1}' is not allowed; allowed: a whole number from 1"),
        ("epochz=3", "--set: there is no setting epochz; did you mean epochs?"),
        ("epochs", "--set epochs: write it as name=value, such as --set epochs=20"),
        ("=3", "--set =3: write it as name=value, such as --set epochs=20"),
    ],
)
def test_a_wrong_override_is_refused_with_what_is_allowed(override: str, message: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, "epochs = 3\n"), override) == message


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.epochs = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        setting_infos()[0].name = "other"  # type: ignore[misc]


def test_settings_come_back_from_json_as_they_were() -> None:
    settings = change_settings(
        Settings(), picture_shape=(64, 32, 1), use_mixed_precision=False, learning_rate=1 / 3, num_processors=2,
        training_device="cuda:1", seed=2**32 - 1,
    )  # fmt: skip
    assert settings_from_json(settings.to_json(), "configurations.json") == settings
    assert settings_from_json(Settings().to_json(), "configurations.json") == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a table of settings"),
        ('{"epochs": 0}', "epochs = 0 is not allowed; allowed: a whole number from 1"),
        ('{"learning_rate": NaN}', "learning_rate = nan is not allowed"),
        ('{"epochz": 3}', "there is no setting epochz; did you mean epochs?"),
    ],
)
def test_damaged_json_is_refused_by_the_name_of_its_file(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from_json(text, "model_a/configurations.json")
    assert str(caught.value).startswith("model_a/configurations.json: ")
    assert said in str(caught.value)


def test_a_changed_copy_is_validated_and_leaves_the_original_alone() -> None:
    settings = Settings()
    assert change_settings(settings, epochs=3).epochs == 3
    assert settings.epochs == Settings().epochs
    with pytest.raises(SettingsError, match="epochs = 0 is not allowed"):
        change_settings(settings, epochs=0)
