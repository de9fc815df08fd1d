"""Several processes, as torchrun starts them, and processes that are killed: whole programs, as a user runs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from conftest import environment, make_home, read_history, run

from fext.jobs.pretrain import pretrain
from fext.reporting import SilentReporter
from fext.settings import load_settings
from fext.store.workspace import Workspace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
WORDS = ("--set", "feature_grid=1", "--set", "feature_formats=('csv', 'npy')")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it, with a checkpoint 'model' and 1,200 images; each test extracts under its own name."""
    home = tmp_path_factory.mktemp("home")
    make_home(home, 1200, inference_batch_size=4)
    result = run(home, "pretrain", "--name", "model")
    assert result.returncode == 0, result.stdout + result.stderr
    alone = run(home, "extract", "--name", "alone", *WORDS)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    return home


def same_table(home: Path, name: str) -> bool:
    one, other = (home / "inference" / folder for folder in ("alone", name))
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in ("features.csv", "features.npy"))


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(home: Path, *words: str, torchrun: bool = False) -> "subprocess.Popen[str]":
    return start_program(home, *(TORCHRUN if torchrun else ()), str(home / "featext.py"), "extract", *words, *WORDS)


def start_program(home: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def parts_with_rows(folder: Path) -> set[str]:
    """The journals in which something is safe."""
    return {path.name for path in folder.glob("unfinished/part-*.csv") if path.exists() and path.stat().st_size > 0}


def wait_for_rows(folder: Path, before: Collection[str]) -> None:
    """Wait until one part more holds what is safe on the disk."""
    wait_until(lambda: bool(parts_with_rows(folder).difference(before)))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_twice_it_goes_on_and_ends_as_one_left_alone(trained: Path) -> None:
    for _ in range(2):
        folder = trained / "inference" / "killed"
        before = parts_with_rows(folder)
        process = start(trained, "--name", "killed")
        wait_for_rows(folder, before)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    result = run(trained, "extract", "--name", "killed", *WORDS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "going on with inference/killed" in result.stdout
    assert same_table(trained, "killed")


def test_two_processes_make_the_same_file(trained: Path) -> None:
    process = start(trained, "--name", "two", torchrun=True)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert output.count("Extraction two") == 1
    assert same_table(trained, "two")


@pytest.mark.skipif(sys.platform != "linux", reason="finds a process by what Linux tells of it")
def test_one_of_two_processes_killed_the_other_says_so_and_the_next_start_completes_it(trained: Path) -> None:
    process = start(trained, "--name", "one_killed", torchrun=True)
    # As soon as both have begun: a process that has done its part may be killed, and nobody has to know.
    wait_until(lambda: len([*(trained / "inference" / "one_killed").glob("unfinished/part-*.csv")]) == 2)
    os.kill(child_of_rank(process.pid, "1"), signal.SIGKILL)
    output, _ = process.communicate(timeout=180)
    assert process.returncode != 0
    assert "Stopped. Whatever was finished before is kept." in output
    assert not (trained / "inference" / "one_killed" / "features.csv").exists()
    result = run(trained, "extract", "--name", "one_killed", *WORDS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "going on with inference/one_killed" in result.stdout
    assert same_table(trained, "one_killed")


def child_of_rank(parent: int, rank: str) -> int:
    children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=True)
    return next(int(pid) for pid in children.stdout.split() if rank_of(int(pid)) == rank)


def rank_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((value[5:].decode() for value in variables if value.startswith(b"RANK=")), "")


# ---------------------------------------------------------------- training


@pytest.mark.skipif(sys.platform != "linux", reason="finds a process by what Linux tells of it")
def test_two_processes_train_as_one_and_torchrun_restarts_them_after_a_kill(tmp_path: Path) -> None:
    # Five images in a batch of which each process has two or three; eight train images, so that three are the last. Of
    # three validation images each has one or two.
    # In float32, for bfloat16 rounds so coarsely that the two curves part in the third digit.
    small = {"architecture": "custom", "filters": (8, 8, 8), "layers_per_block": 1, "use_mixed_precision": False}
    small |= {"num_train_samples": 11, "num_validation_samples": 3, "num_test_samples": 1}
    make_home(tmp_path, epochs=8, batch_size=5, optimizer="sgd", learning_rate=0.01, checkpoint_every=1, **small)
    space = Workspace(tmp_path)
    pretrain(space, load_settings(space.configurations), space.images, "alone", SilentReporter())
    words = ("--max-restarts=1", str(tmp_path / "featext.py"), "pretrain", "--name", "together")
    together = start_program(tmp_path, *TORCHRUN, *words)
    wait_until(lambda: (space.checkpoints / "together" / "epochs" / "together_epoch_000002").exists())
    os.kill(child_of_rank(together.pid, "1"), signal.SIGKILL)
    output, _ = together.communicate(timeout=180)
    assert together.returncode == 0, output
    assert "together: going on after" in output
    assert output.count("Checkpoint together") == 1
    histories = [read_history(space.checkpoints / name) for name in ("alone", "together")]
    for one, other in zip(*histories, strict=True):
        for name in ("epoch", "train_loss", "validation_loss", "train_psnr", "validation_psnr"):
            assert one[name] == pytest.approx(other[name], rel=1e-3)
