"""Run FeXT and the naive scripts in turn on the same images and print images per second of each run.

Each run is a process of its own in a temporary folder: FeXT works in a copy of its workspace, so that the user's own
checkpoints and extractions stay as they are. This file only runs and reads; it imports neither torch nor FeXT, whose
memory would show in what is measured.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".png"}

# What the naive scripts do; everything else is as configurations.py says.
SAME_WORK = (
    "architecture=vgg16_bn",
    "picture_shape=(256, 256, 3)",
    "resize_mode=stretch",
    "epochs=1",
    "batch_size=8",
    "inference_batch_size=8",
    "feature_grid=8",
    "learning_rate=0.001",
    "lr_schedule=constant",
    "optimizer=adamw",
    "loss=mse",
    "augmentation=False",
    "early_stopping_patience=0",
    "use_tensorboard=False",
    "generate_model_graph=False",
    "num_test_samples=1",
)


@dataclass(frozen=True)
class Run:
    """What one run showed; the memory is None where the system does not tell."""

    images_per_second: float
    peak_megabytes: float | None


class BenchmarkError(Exception):
    """A comparison that cannot be made, with what a person can do about it."""


def link_images(source: Path, target: Path, num_images: int) -> int:
    """Link the first num_images images below source into target; returns how many there are.

    Every image is read once, so that no run is the one that waits for the disk.
    """
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)[:num_images]
    for path in paths:
        path.read_bytes()
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        _link(path.resolve(), link)
    return len(paths)


def _link(path: Path, link: Path) -> None:
    for make in (os.symlink, os.link, shutil.copyfile):
        try:
            make(path, link)
            return
        except OSError as error:  # Windows needs a right to link, and a hard link stays on one disk
            reason = error
    raise BenchmarkError(f"{path} cannot be copied to {link}: {reason.strerror}")


def train_with_fext(images: Path, num_images: int, folder: Path, overrides: list[str]) -> Run:
    """FeXT trains on num_images of the images, one fewer than there are: the last is its test image."""
    checkpoint, peak = pretrain(images, folder, [f"num_train_samples={num_images}", *overrides])
    num_trained = sum(row["subset"] == "train" for row in _read_csv(checkpoint / "split.csv"))
    _check_count("trained on", num_trained, num_images)
    return Run(float(_read_csv(checkpoint / "history.csv")[-1]["images_per_second"]), peak)


def train_naively(images: Path, num_images: int, folder: Path, _overrides: list[str]) -> Run:
    command = [str(BENCHMARKS / "naive_train.py"), str(images), "--num-images", str(num_images)]
    return _run_naive(command, folder)


def extract_with_fext(images: Path, num_images: int, folder: Path, overrides: list[str]) -> Run:
    """FeXT extracts with the checkpoint that lies beside the folders of the runs."""
    checkpoint = folder.parent / "untrained" / "training" / "checkpoints" / "benchmark"
    command = ["extract", str(checkpoint), "--images", str(images), "--name", "benchmark"]
    peak = _run_fext(command, folder, overrides)
    manifest = json.loads((folder / "inference" / "benchmark" / "manifest.json").read_text(encoding="utf-8"))
    _check_count("extracted", manifest["counts"]["written"], num_images)
    return Run(num_images / manifest["seconds"], peak)


def extract_naively(images: Path, num_images: int, folder: Path, _overrides: list[str]) -> Run:
    command = [str(BENCHMARKS / "naive_extract.py"), str(images), str(folder / "features.csv")]
    return _run_naive([*command, "--num-images", str(num_images)], folder)


def make_untrained_checkpoint(images: Path, folder: Path, overrides: list[str]) -> None:
    """A model to extract with: one step on one image, too small a step to change the weights."""
    pretrain(images, folder, ["num_train_samples=1", *overrides, "learning_rate=1e-12"])


def pretrain(images: Path, folder: Path, overrides: list[str]) -> tuple[Path, float | None]:
    """Let FeXT train for one epoch in a workspace of its own; returns the checkpoint and the peak memory in MB."""
    command = ["pretrain", "--images", str(images), "--name", "benchmark"]
    peak = _run_fext(command, folder, overrides)
    return folder / "training" / "checkpoints" / "benchmark", peak


def _run_fext(command: list[str], folder: Path, overrides: list[str]) -> float | None:
    for name in ("featext.py", "configurations.py"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    settings = [word for setting in (*SAME_WORK, *overrides) for word in ("--set", setting)]
    _, peak = _run_python([str(folder / "featext.py"), *command, *settings], folder)
    return peak


def _run_naive(command: list[str], folder: Path) -> Run:
    output, peak = _run_python(command, folder)
    return Run(float(json.loads(output.splitlines()[-1])["images_per_second"]), peak)


def _run_python(command: list[str], folder: Path) -> tuple[str, float | None]:
    """Run Python with a command line in a folder; returns what it printed and its peak memory in MB."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
    output, errors = folder / "output.txt", folder / "errors.txt"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
        try:
            peak = _wait(process)
        except BaseException:
            process.kill()
            raise
    printed = output.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        last_lines = (printed + errors.read_text(encoding="utf-8", errors="replace")).splitlines()[-20:]
        raise BenchmarkError("\n".join([f"failed: {' '.join(command)}", *last_lines]))
    return printed, peak


def _wait(process: subprocess.Popen[bytes]) -> float | None:
    """Wait for a process; returns its peak resident memory in MB where the system tells."""
    if sys.platform == "win32":
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)  # macOS counts bytes, Linux KiB


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _check_count(did: str, count: int, expected: int) -> None:
    if count != expected:
        raise BenchmarkError(
            f"FeXT {did} {count} images and not {expected}: take a folder without damaged and duplicate images"
        )


CONTESTANTS = {
    "train": {"FeXT": train_with_fext, "naive": train_naively},
    "extract": {"FeXT": extract_with_fext, "naive": extract_naively},
}


def compare(task: str, images: Path, num_images: int, *, repeats: int, overrides: list[str]) -> dict[str, list[Run]]:
    """The runs of each contestant, taken in turn on num_images images each."""
    num_for_test = 1 if task == "train" else 0
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS[task]}
    with tempfile.TemporaryDirectory(prefix="fext_benchmark_") as temporary:
        root = Path(temporary).resolve()
        num_images = link_images(images, root / "images", num_images + num_for_test) - num_for_test
        if num_images < 2:
            raise BenchmarkError(f"{images} holds too few images ({', '.join(sorted(IMAGE_EXTENSIONS))})")
        print(f"{task}, {num_images} images, {_machine()}", flush=True)
        if task == "extract":
            (root / "untrained").mkdir()
            make_untrained_checkpoint(root / "images", root / "untrained", overrides)
        for repeat in range(repeats):
            for name, run_contestant in CONTESTANTS[task].items():
                print(f"run {repeat + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
                folder = root / "run"
                folder.mkdir()
                runs[name].append(run_contestant(root / "images", num_images, folder, overrides))
                shutil.rmtree(folder)
    return runs


def _machine() -> str:
    torch_version = importlib.metadata.version("torch")
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch_version}"


def print_table(runs: dict[str, list[Run]]) -> None:
    """Images per second of each run, the medians and their ratio; the largest memory of each contestant."""
    medians = {name: statistics.median(run.images_per_second for run in taken) for name, taken in runs.items()}
    print(_row("images per second", list(runs)))
    for number, taken in enumerate(zip(*runs.values(), strict=True), start=1):
        print(_row(f"run {number}", [f"{run.images_per_second:.2f}" for run in taken]))
    print(_row("median", [f"{median:.2f}" for median in medians.values()]))
    print(_row("FeXT / naive", [f"{medians['FeXT'] / medians['naive']:.2f}"]))
    print(_row("peak memory, MB", [_largest_memory(taken) for taken in runs.values()]))


def _row(title: str, cells: list[str]) -> str:
    return f"{title:<20}" + "".join(f"{cell:>10}" for cell in cells)


def _largest_memory(runs: list[Run]) -> str:
    known = [run.peak_megabytes for run in runs if run.peak_megabytes is not None]
    return f"{max(known):.0f}" if known else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the speed of FeXT with that of the naive scripts.")
    parser.add_argument("task", choices=list(CONTESTANTS))
    parser.add_argument("images_folder", type=Path, help="folder of images, searched with its subfolders")
    parser.add_argument("--num-images", type=int, default=64, help="images per run (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each of the two (default: %(default)s)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="a setting of FeXT's runs"
    )
    arguments = parser.parse_args()
    if arguments.num_images < 1 or arguments.repeats < 1:
        parser.error("--num-images and --repeats must be at least 1")
    try:
        runs = compare(
            arguments.task,
            arguments.images_folder,
            arguments.num_images,
            repeats=arguments.repeats,
            overrides=arguments.overrides,
        )
    except BenchmarkError as error:
        sys.exit(f"compare.py: {error}")
    print_table(runs)


if __name__ == "__main__":
    main()
