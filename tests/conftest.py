"""Small images, a workspace, settings and a model that train in a moment; the program as a user runs it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from PIL import Image
from threadpoolctl import threadpool_limits

from fext.jobs import evaluation_output, starting
from fext.jobs import pretrain as pretraining
from fext.model.plans import PatchScale, Plan, Stage, make_plan
from fext.reporting import SilentReporter
from fext.settings import Settings, configurations_text
from fext.store import files
from fext.store.checkpoints import load_resume
from fext.store.workspace import Workspace

# A busy machine is no fault: how long it takes to make an example says nothing of FeXT.
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")
# matplotlib looks through the system's fonts once, and not once for each home that a test makes.
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "fext_tests_matplotlib"))

TIMES = ("seconds", "waiting_seconds", "images_per_second")
REPOSITORY = Path(__file__).resolve().parents[1]


LONGEST_FIRST = (
    "test_menu.py",
    "test_withstands.py",
    "test_processes.py",
    "test_environment.py",
    "test_screen.py",
    "test_memory.py",
    "test_extraction.py",
    "test_jobs.py",
    "test_verify.py",
    "test_engines.py",
    "test_each_setting.py",
    "test_starting.py",
    "test_export.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest, so that two processes end at about the same time."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tests run in two processes, which would stand in each other's way with more."""
    torch.set_num_threads(1)
    threadpool_limits(1)


class Said(SilentReporter):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    warning = message


class Acting(SilentReporter):
    """Does something once, when the job has done a number of images."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self._left, self._act = after, act

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Any]:
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        before, self._left = self._left, self._left - count
        if before > 0 >= self._left:
            self._act()


def write_images(folder: Path, count: int, size: tuple[int, int] = (80, 64), seed: int = 7) -> list[str]:
    """Smooth coloured pictures, all different, the same for the same seed; returns their names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    names = []
    for number in range(count):
        coarse = random.integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
        name = f"image_{number:03}.png"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / name)
        names.append(name)
    return names


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace with a dozen images in data/images."""
    space = Workspace(tmp_path)
    write_images(space.images, 12)
    return space


def small_plan(architecture: str, picture_shape: tuple[int, int, int], **options: Any) -> Plan:
    """`redux` with few channels but for the latent: most tests are about what is around the model."""
    if architecture != "redux":
        return make_plan(architecture, picture_shape, **options)
    dropout = 0.0 if options.get("dropout_rate", "auto") == "auto" else options["dropout_rate"]
    channels = options.get("latent_channels", 512)
    if options.get("linear_shortcut"):
        stage = Stage((16, 16), stride=32, pooling="no")
        patches = (PatchScale(1, 4, 1), PatchScale(2, 2, 1)) if channels > 4 else ()
        return Plan(
            architecture, picture_shape, "patch", True, (stage,), channels, channels + 16, dropout, patches=patches
        )  # fmt: skip
    stages = tuple(map(Stage, ((4,), (4,), (8, 8), (8,), (512,))))
    return Plan(architecture, picture_shape, "residual", True, stages, channels, dropout_rate=dropout)


@pytest.fixture(scope="module")
def small_model() -> Iterator[None]:
    """Pretraining makes small models and few pictures of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "make_plan", small_plan)
        patch.setattr(pretraining, "_NUM_PICTURES", 2)
        yield


def _draw_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pretraining, "_draw_pictures", lambda run, state: None)
    patch.setattr(evaluation_output, "_write_pictures", lambda folder, evaluation, found: None)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretraining and evaluation draw nothing: for tests of what they compute, of which there are many."""
    _draw_nothing(monkeypatch)


@pytest.fixture(scope="module")
def no_pictures_in_module() -> Iterator[None]:
    """The same for all of a module, its fixtures among it."""
    with pytest.MonkeyPatch.context() as patch:
        _draw_nothing(patch)
        yield


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Settings]:
    """Settings that train redux on 64x64 pictures for one epoch, with changes."""

    def make(**changes: object) -> Settings:
        values: dict[str, object] = {
            "training_device": "CPU",
            "num_threads": 1,
            "use_mixed_precision": False,
            "inference_engine": "torch",
            "architecture": "redux",
            "linear_shortcut": False,
            "lr_schedule": "constant",
            "views_weight": 0.0,
            "picture_shape": (64, 64, 3),
            "epochs": 1,
            "batch_size": 4,
            "inference_batch_size": 4,
            "num_train_samples": 8,
            "num_test_samples": 4,
            "feature_grid": 2,
            "use_tensorboard": False,
            "generate_model_graph": False,
        }
        return Settings.model_validate(values | changes)

    return make


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of history.csv."""
    return [{name: float(value) for name, value in row.items()} for row in files.read_csv(folder / "history.csv")]


def history_without_times(folder: Path) -> list[dict[str, str]]:
    """What history.csv says of a run, letter by letter, but for seconds and rates."""
    rows = files.read_csv(folder / "history.csv")
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def same_tensors(left: Path, right: Path) -> bool:
    """Whether two runs stand at the same weights and optimizer states, to the bit."""
    one, two = load_resume(left), load_resume(right)
    models_agree = all(torch.equal(tensor, two["model"][name]) for name, tensor in one["model"].items())
    states = zip(one["optimizer"]["state"].values(), two["optimizer"]["state"].values(), strict=True)
    optimizers_agree = all(torch.equal(a[name], b[name]) for a, b in states for name in a)
    return (
        models_agree
        and optimizers_agree
        and (left / "model.safetensors").read_bytes() == (right / "model.safetensors").read_bytes()
    )


SMALL = {
    "num_threads": 1,
    "inference_engine": "torch",
    "architecture": "redux",
    "linear_shortcut": False,
    "lr_schedule": "constant",
    "views_weight": 0.0,
    "picture_shape": (64, 64, 1),  # grey: the linear map of an evaluation is found in a third of the time
    "epochs": 1,
    "batch_size": 4,
    "num_train_samples": 8,
    "num_test_samples": 4,
    "feature_grid": 2,
    "use_tensorboard": False,
    "generate_model_graph": False,
}


def write_configurations(folder: Path, **changes: object) -> None:
    """configurations.py with other values, as a user's editor would leave it."""
    text = configurations_text()
    for name, value in (SMALL | changes).items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        assert count == 1
    (folder / "configurations.py").write_text(text, encoding="utf-8")


def make_home(folder: Path, num_images: int = 12, **changes: object) -> None:
    """featext.py and configurations.py, as a user has them, and images."""
    shutil.copy(REPOSITORY / "featext.py", folder)
    write_configurations(folder, **changes)
    write_images(folder / "data" / "images", num_images)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder as a user has it, with a dozen images."""
    make_home(tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100"}


def run(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """One command without a terminal."""
    return subprocess.run(
        [sys.executable, str(home / "featext.py"), *words],
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
