"""Memory that ends: one line that says what to lower, nothing lost, and less of it goes on where it stood."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from conftest import environment, history_without_times, make_home, same_tensors
from rich.console import Console

from fext.compute import device, engines
from fext.compute import training as passes
from fext.compute.device import free_memory, left_by_control_groups
from fext.compute.memory import lowering
from fext.errors import (
    OUT_OF_MEMORY,
    CheckpointError,
    FextError,
    ImageRejected,
    OutOfMemoryError,
    SettingsError,
    is_out_of_memory,
)
from fext.jobs import training_state
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain, resume
from fext.reporting import SilentReporter
from fext.screen.actions import Screen
from fext.screen.guard import FAILED, guarded
from fext.settings import Settings
from fext.store import checkpoints
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
QUIET = SilentReporter()

pytestmark = pytest.mark.usefixtures("small_model", "no_pictures")


class Noting(SilentReporter):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)

    def warning(self, text: str) -> None:
        self.told.append(text)


# ---------------------------------------------------------------- how it is known

ENDED = [
    MemoryError(),
    np._core._exceptions._ArrayMemoryError((10, 10), np.dtype(float)),  # type: ignore[attr-defined]
    pyarrow.ArrowMemoryError("malloc of size 64 failed"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    *map(
        RuntimeError,
        [
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8",
            "[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8",
            "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1 MB)",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "Exception from src/inference/src/cpp/infer_request.cpp:223:\nstd::bad_alloc",
            "Exception from src/plugins/intel_cpu/src/plugin.cpp:921:\nResource temporarily unavailable",
            "Error in faiss: std::bad_alloc",
            "can't start new thread",
            "Caught RuntimeError in DataLoader worker process 0.\nunable to mmap 8 bytes: Cannot allocate memory (12)",
        ],
    ),
    ImportError("libtorch.so: failed to map segment from shared object"),
]
OTHERS = [
    FileNotFoundError(errno.ENOENT, "No such file or directory", "out of memory.png"),
    ImageRejected("out of memory.png is damaged"),
    RuntimeError("Error(s) in loading state_dict: size mismatch"),
    KeyError("memory"),
]


@pytest.mark.parametrize("error", ENDED, ids=lambda error: f"{type(error).__name__}: {error}"[:50])
def test_whatever_a_library_says_for_lack_of_memory_is_one_line_with_what_to_lower(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"memory.* has ended: set batch_size lower") as caught,
        lowering("set batch_size lower"),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert ("GPU" in str(caught.value)) == any(word in str(error) for word in ("CUDA", "MPS"))


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), lowering("set batch_size lower"):
        raise error


def test_at_the_edge_of_the_program_it_is_a_line_too_and_the_menu_goes_on(tmp_path: Path) -> None:
    shown = StringIO()

    def end() -> None:
        raise MemoryError

    screen = Screen(Console(file=shown, width=1000), Workspace(tmp_path))
    assert guarded(screen, "testing", end) == FAILED
    assert OUT_OF_MEMORY in shown.getvalue()
    assert not (tmp_path / "training").exists()  # nothing is logged: it is no fault of the program


# ---------------------------------------------------------------- training


def ending(monkeypatch: pytest.MonkeyPatch, call: int, *, training: bool = True) -> None:
    """Memory ends at the so-manieth batch that is trained on, or tested, after it has gone through the model."""
    make, calls = passes.make_loss, [0]

    def made(loss: Any) -> Any:
        calls[0] += torch.is_inference_mode_enabled() is not training
        if calls[0] == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return make(loss)

    monkeypatch.setattr(passes, "make_loss", made)


@pytest.mark.parametrize(("call", "training"), [(1, True), (2, True), (3, True), (1, False), (4, True)])
def test_what_was_trained_is_kept_and_goes_on_to_the_bits_of_a_run_left_alone(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, call: int, training: bool
) -> None:
    """Statistics of normalizations that the failed step had moved on already are put back."""
    settings = tiny(epochs=2, ema_decay=0.9)
    straight = pretrain(workspace, settings, workspace.images, "straight", QUIET)
    assert straight is not None
    with monkeypatch.context() as patch:
        ending(patch, call, training=training)
        words = "batch_size = 2" if training else "inference_batch_size = 2"
        with pytest.raises(OutOfMemoryError, match=f"^the memory of the GPU has ended: what was done is kept.*{words}"):
            pretrain(workspace, settings, workspace.images, "ended", QUIET)
    ended = workspace.checkpoints / "ended"
    assert checkpoints.load_resume(ended)["train"]["num_batches"] == (2 if not training else (call - 1) % 2)
    resume(tiny(), ended, None, QUIET)
    assert same_tensors(straight.folder, ended)
    assert history_without_times(straight.folder) == history_without_times(ended)


def test_an_error_while_weights_change_saves_nothing_and_the_last_state_goes_on(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(epochs=2)
    straight = pretrain(workspace, settings, workspace.images, "straight", QUIET)
    assert straight is not None
    step, calls = torch.optim.AdamW.step, [0]

    def half_done(self: torch.optim.AdamW, closure: None = None) -> None:
        calls[0] += 1
        if calls[0] == 4:
            self.param_groups[0]["params"][0].data.zero_()
            raise MemoryError
        step(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", half_done)
        with pytest.raises(OutOfMemoryError, match=r"^memory has ended: what was done is kept"):
            pretrain(workspace, settings, workspace.images, "ended", QUIET)
    resume(tiny(), workspace.checkpoints / "ended", None, QUIET)
    assert same_tensors(straight.folder, workspace.checkpoints / "ended")


@pytest.mark.parametrize(
    "changes", [{"batch_size": 3}, {"batch_size": 1}, {"gradient_accumulation": 2}, {"batch_size": 8}]
)
def test_a_run_goes_on_with_another_batch_each_image_once_and_it_is_told(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int]
) -> None:
    with monkeypatch.context() as patch:
        ending(patch, 2)
        with pytest.raises(OutOfMemoryError):
            pretrain(workspace, tiny(), workspace.images, "ended", QUIET)
    folder, noting = workspace.checkpoints / "ended", Noting()
    seen: list[int] = []
    batches = training_state.Totals.add

    def count(self: training_state.Totals, num_images: int, *rest: object) -> float:
        seen.append(num_images)
        return batches(self, num_images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training_state.Totals, "add", count)
    result = resume(tiny(), folder, None, noting, changes)
    assert result is not None
    size = changes.get("batch_size", 4)
    assert seen == [*([size] * (4 // size)), *([4 % size] if 4 % size else []), 4] if size < 4 else [4, 4]
    (name, value), *_ = changes.items()
    assert any(f"ended goes on with {name} = {value} (before: " in text for text in noting.told)
    assert json.loads((folder / "configurations.json").read_text())[name] == value
    longer = resume(tiny(), folder, 2, QUIET)  # and once more, with what it has now
    assert longer is not None
    assert longer.epochs == 2


def test_parts_of_a_batch_are_no_more_than_its_images_and_a_senseless_change_is_refused(
    workspace: Workspace, tiny: Tiny
) -> None:
    pretrain(workspace, tiny(gradient_accumulation=4), workspace.images, "model", QUIET)
    folder = workspace.checkpoints / "model"
    with pytest.raises(SettingsError, match="gradient_accumulation = 9 is more than batch_size"):
        resume(tiny(), folder, 2, QUIET, {"gradient_accumulation": 9})
    resume(tiny(), folder, 2, QUIET, {"batch_size": 2})
    assert json.loads((folder / "configurations.json").read_text())["gradient_accumulation"] == 2


def test_resuming_tells_lack_of_memory_from_a_file_that_does_not_fit(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(workspace, tiny(), workspace.images, "model", QUIET)
    folder = workspace.checkpoints / "model"

    def failing(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    for place in ("build_autoencoder", "make_optimizer"):
        with monkeypatch.context() as patch:
            patch.setattr(training_state, place, failing(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
            with pytest.raises(OutOfMemoryError, match="memory has ended"):
                resume(tiny(), folder, 2, QUIET)
            patch.setattr(training_state, place, failing(RuntimeError("Error(s) in loading state_dict")))
            with pytest.raises(CheckpointError, match="does not fit its checkpoint"):
                resume(tiny(), folder, 2, QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.torch, "load", failing(MemoryError()))
        with pytest.raises(OutOfMemoryError, match="memory has ended"):
            resume(tiny(), folder, 2, QUIET)
        patch.setattr(checkpoints, "tensors_from_bytes", failing(MemoryError()))
        with pytest.raises(OutOfMemoryError, match="inference_batch_size"):
            extract(workspace, tiny(), folder, workspace.images, None, QUIET)


# ---------------------------------------------------------------- extraction


def test_an_extraction_goes_on_with_less_at_a_time_to_the_same_table(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(workspace, tiny(), workspace.images, "model", QUIET)
    folder = workspace.checkpoints / "model"
    monkeypatch.setattr(engines, "_TOGETHER_ON_CPU", 2)
    whole = extract(workspace, tiny(), folder, workspace.images, "whole", QUIET)
    assert whole is not None
    start, calls = engines.TorchEngine._begin, [0]

    def begin(self: engines.TorchEngine, images: torch.Tensor) -> Callable[[], engines.Rows]:
        calls[0] += 1
        if calls[0] == 5:
            raise RuntimeError("std::bad_alloc")
        return start(self, images)

    monkeypatch.setattr(engines.TorchEngine, "_begin", begin)
    with pytest.raises(OutOfMemoryError, match="inference_batch_size or num_processors lower"):
        extract(workspace, tiny(), folder, workspace.images, "ended", QUIET)
    result = extract(workspace, tiny(inference_batch_size=2), folder, workspace.images, "ended", QUIET)
    assert result is not None
    assert result.num_kept + result.num_new == 12
    assert result.num_kept >= 4
    for name in ("features.csv", "images.csv"):
        assert (result.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_threads_that_cannot_be_started_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    submit, calls = ThreadPoolExecutor.submit, [0]

    def once(self: ThreadPoolExecutor, *work: Any) -> object:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("can't start new thread")
        return submit(self, *work)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", once)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        engines._Threads(1)


# ---------------------------------------------------------------- a real end, by a limit of the system

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from fext.jobs import evaluate, extract, pretrain
from fext.screen.program import main

home, commands = Path(sys.argv[1]), [words.split(",") for words in sys.argv[2:]]
torch.nn.Conv2d(3, 4, 3)(torch.randn(1, 3, 16, 16))  # what it loads is loaded
for words in commands:
    more = int(words.pop(0))  # megabytes; 0 sets no limit
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + more * 2**20 if more else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    print("exit code", main(home, words), flush=True)
"""


def run_limited(home: Path, *commands: str) -> str:
    """What commands tell that may have so many megabytes more than there are before them, in one process."""
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(home), *commands],
        env=environment() | {"COLUMNS": "1000"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return ended.stdout + ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_a_limit_of_the_system_ends_no_job_with_more_than_a_line_and_nothing_is_lost(tmp_path: Path) -> None:
    shape = {"picture_shape": (256, 256, 3), "architecture": "cifar", "use_mixed_precision": False}
    make_home(tmp_path, batch_size=8, inference_batch_size=64, **shape)  # type: ignore[arg-type]
    extracting = "extract,model,--name,table"
    told = run_limited(tmp_path, "350,pretrain,--name,model,--set,num_train_samples=5")
    told += run_limited(tmp_path, f"60,{extracting}", "60,evaluate,model")
    told += run_limited(tmp_path, f"0,{extracting}", "0,resume,model,--set,batch_size=1,--set,inference_batch_size=1")
    assert "Traceback" not in told
    assert [line for line in told.splitlines() if line.startswith("exit code")] == [
        f"exit code {code}" for code in (1, 1, 1, 0, 0)
    ], told
    lines = [line for line in told.splitlines() if line.startswith("memory has ended: ")]
    for line, words in zip(
        lines,
        ("gradient_accumulation = 2 or batch_size = 4", "start again to go on", "inference_batch_size"),
        strict=True,
    ):
        assert words in line
    assert not (tmp_path / "training" / "logs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
def test_a_program_for_which_there_is_no_memory_at_all_says_so(home: Path) -> None:
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (150 * 2**20,) * 2); "
    limited += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-c", limited, str(home / "featext.py"), "pretrain"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "memory has ended" in (ended.stdout + ended.stderr).replace("\n", " ")
    assert "Traceback" not in ended.stdout + ended.stderr


def write_all(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("texts", "left"),
    [
        ({}, []),  # not Linux
        ({"proc/self/cgroup": "0::/\n"}, []),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n", f"{V2}/memory.current": "5\n"}, []),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "900\n", f"{V2}/memory.current": "500\n"}, [400]),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/memory.max": "900\n",
                f"{V2}/a/b/memory.current": "500\n",
                f"{V2}/a/b/memory.stat": "anon 400\ninactive_file 100\n",
                f"{V2}/a/memory.max": "700\n",
                f"{V2}/a/memory.current": "800\n",
            },
            [500, 0],
        ),
        (  # as in a container, that sees only its own group
            {
                "proc/self/cgroup": "7:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
                f"{V1}/memory.limit_in_bytes": "900\n",
                f"{V1}/memory.usage_in_bytes": "300\n",
                f"{V1}/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
            },
            [650],
        ),
    ],
)
def test_the_limit_of_a_container_is_known(tmp_path: Path, texts: dict[str, str], left: list[int]) -> None:
    write_all(tmp_path, texts)
    assert left_by_control_groups(tmp_path) == left


def test_no_more_is_free_than_a_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "left_by_control_groups", lambda: [30_000, 20_000])
    assert free_memory() == 20_000


def test_every_error_of_the_tree_says_whether_it_is_of_memory() -> None:
    assert is_out_of_memory(OutOfMemoryError("memory has ended"))
    assert not is_out_of_memory(FextError("memory has ended"))
