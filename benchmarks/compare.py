"""Run FeXT and the naive scripts in turn on the same images and print images per second of each run.

Each run is a process of its own in a temporary folder: FeXT works in a copy of its workspace, so that the
user's own checkpoints and extractions stay as they are. This file only runs and reads; it imports neither
torch nor FeXT, whose memory would show in what is measured.
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
import time
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".png"}
MIN_IMAGES = 2

# What the naive scripts do; everything else is as configurations.py says.
SAME_WORK = (
    "picture_shape=(256, 256, 3)",
    "resize_mode=stretch",
    "epochs=1",
    "batch_size=8",
    "inference_batch_size=8",
    "feature_grid=8",
    "learning_rate=0.001",
    "lr_schedule=constant",
    "views_weight=0",
    "optimizer=adamw",
    "weight_decay=0.01",
    "loss=mse",
    "augmentation=False",
    "early_stopping_patience=0",
    "use_tensorboard=False",
    "generate_model_graph=False",
    "num_validation_samples=1",
    "num_test_samples=1",
)


@dataclass(frozen=True)
class Trial:
    """What a run is given: images to use the first num_images of, a folder of its own, settings for FeXT."""

    images: Path
    num_images: int
    folder: Path
    architecture: str
    overrides: list[str]

    @property
    def untrained(self) -> Path:
        """The checkpoint that lies beside the folders of the runs."""
        return self.folder.parent / "untrained" / "training" / "checkpoints" / "benchmark"


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


def train_with_fext(trial: Trial) -> Run:
    """FeXT trains on as many images as the naive script; two more lie in the folder, to choose by and to test on."""
    checkpoint, peak = pretrain(trial, [f"num_train_samples={trial.num_images + 1}"])
    num_trained = sum(row["subset"] == "train" for row in _read_csv(checkpoint / "split.csv"))
    _check_count("trained on", num_trained, trial.num_images)
    return Run(float(_read_csv(checkpoint / "history.csv")[-1]["images_per_second"]), peak)


def train_naively(trial: Trial) -> Run:
    words = [str(trial.images), "--num-images", str(trial.num_images), "--architecture", trial.architecture]
    return _run_script("naive_train.py", words, trial)


def multiply_matrices(trial: Trial) -> Run:
    """The rate at which all arithmetic of the training would run as matrix products."""
    return _run_script("matrix_product.py", ["--architecture", trial.architecture], trial)


def extract_with_fext(trial: Trial) -> Run:
    """FeXT extracts with an untrained checkpoint; the start of its engine is told and not counted."""
    command = ["extract", str(trial.untrained), "--images", str(trial.images), "--name", "benchmark"]
    peak = run_fext(command, trial, [])
    manifest_file = trial.folder / "inference" / "benchmark" / "manifest.json"
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    _check_count("extracted", manifest["counts"]["written"], trial.num_images)
    made, run = manifest["computed_by"], manifest["last_run"]
    started = run["engine_start_seconds"]
    print(
        f"{made['engine']} {made['engine_version']}, {made['precision']}, started in {started:.1f} s", file=sys.stderr
    )
    return Run(trial.num_images / (run["seconds"] - started), peak)


def extract_naively(trial: Trial) -> Run:
    words = [str(trial.images), str(trial.folder / "features.csv"), "--num-images", str(trial.num_images)]
    return _run_script("naive_extract.py", [*words, "--architecture", trial.architecture], trial)


def encode_barely(trial: Trial) -> Run:
    shutil.copyfile(REPOSITORY / "configurations.py", trial.folder / "configurations.py")
    overrides = [word for setting in (*SAME_WORK, *trial.overrides) for word in ("--set", setting)]
    words = [str(trial.untrained), str(trial.images), "--num-images", str(trial.num_images)]
    return _run_script("bare_encoder.py", [*words, *overrides], trial)


def make_untrained_checkpoint(trial: Trial) -> None:
    """A model to extract with: one step on one image, too small a step to change the weights."""
    pretrain(trial, ["num_train_samples=2", "learning_rate=1e-12"])


def pretrain(trial: Trial, settings: list[str]) -> tuple[Path, float | None]:
    """Let FeXT train for one epoch; returns the checkpoint and the peak memory in MB."""
    peak = run_fext(["pretrain", "--images", str(trial.images), "--name", "benchmark"], trial, settings)
    return trial.folder / "training" / "checkpoints" / "benchmark", peak


def analyze_with_fext(trial: Trial) -> Run:
    """FeXT analyzes a folder that it has not seen; the whole command is counted, for both."""
    started = time.perf_counter()
    peak = run_fext(["analyze", "--images", str(trial.images)], trial, [])
    rate = trial.num_images / (time.perf_counter() - started)
    images = _read_csv(trial.folder / "data" / "validation" / "images.csv")
    _check_count("analyzed", len(images), trial.num_images)
    return Run(rate, peak)


def analyze_naively(trial: Trial) -> Run:
    started = time.perf_counter()
    command = [str(BENCHMARKS / "naive_analyze.py"), str(trial.images), str(trial.folder / "images.csv")]
    _, peak = _run_python(command, trial.folder)
    return Run(trial.num_images / (time.perf_counter() - started), peak)


def run_fext(command: list[str], trial: Trial, settings: list[str], num_processes: int = 1) -> float | None:
    """Run FeXT in the folder of a trial, several processes under torchrun; returns the peak memory in MB."""
    for name in ("featext.py", "configurations.py"):
        shutil.copyfile(REPOSITORY / name, trial.folder / name)
    for setting in (f"architecture={trial.architecture}", *SAME_WORK, *settings, *trial.overrides):
        command = [*command, "--set", setting]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    _, peak = _run_python(
        [*(torchrun if num_processes > 1 else []), str(trial.folder / "featext.py"), *command], trial.folder
    )
    return peak


def _run_script(script: str, arguments: list[str], trial: Trial) -> Run:
    output, peak = _run_python([str(BENCHMARKS / script), *arguments], trial.folder)
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
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit_bytes / 1e6


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _check_count(did: str, count: int, expected: int) -> None:
    if count != expected:
        raise BenchmarkError(f"FeXT {did} {count} images and not {expected}: take a folder without damaged images")


CONTESTANTS = {
    "train": {"FeXT": train_with_fext, "naive": train_naively, "bfloat16 product": multiply_matrices},
    "analyze": {"FeXT": analyze_with_fext, "naive": analyze_naively},
    "extract": {"FeXT": extract_with_fext, "naive": extract_naively, "bare": encode_barely},
}


def compare(
    task: str, source: Path, num_images: int, *, architecture: str, repeats: int, overrides: list[str]
) -> dict[str, list[Run]]:
    """The runs of each contestant, taken in turn on the same num_images images."""
    num_others = 2 if task == "train" else 0
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS[task]}
    with tempfile.TemporaryDirectory(prefix="fext_benchmark_") as temporary:
        root = Path(temporary).resolve()
        num_images = link_images(source, root / "images", num_images + num_others) - num_others
        if num_images < MIN_IMAGES:
            raise BenchmarkError(f"{source} holds too few images ({', '.join(sorted(IMAGE_EXTENSIONS))})")
        print(f"{task}, {architecture}, {num_images} images, {_machine()}", flush=True)
        if task == "extract":
            (root / "untrained").mkdir()
            make_untrained_checkpoint(Trial(root / "images", num_images, root / "untrained", architecture, overrides))
        for repeat in range(repeats):
            for name, take_run in CONTESTANTS[task].items():
                print(f"run {repeat + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
                folder = root / "run"
                folder.mkdir()
                trial = Trial(root / "images", num_images, folder, architecture, overrides)
                runs[name].append(take_run(trial))
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
    for other in list(medians)[1:]:
        print(_row(f"FeXT / {other}", [f"{medians['FeXT'] / medians[other]:.2f}"]))
    print(_row("peak memory, MB", [_largest_memory(taken) for taken in runs.values()]))


def _row(title: str, cells: list[str]) -> str:
    return f"{title:<26}" + "".join(f"{cell:>18}" for cell in cells)


def _largest_memory(runs: list[Run]) -> str:
    known = [run.peak_megabytes for run in runs if run.peak_megabytes is not None]
    return f"{max(known):.0f}" if known else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the speed of FeXT with that of the naive scripts.")
    parser.add_argument("task", choices=list(CONTESTANTS))
    parser.add_argument("images_folder", type=Path, help="folder of images, searched with its subfolders")
    parser.add_argument("--num-images", type=int, default=64, help="images per run (default: %(default)s)")
    parser.add_argument("--architecture", choices=("vgg16_bn", "vgg16", "redux"), default="vgg16_bn")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each (default: %(default)s)")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting for FeXT's runs, such as use_mixed_precision=False",
    )
    arguments = parser.parse_args()
    if arguments.num_images < MIN_IMAGES or arguments.repeats < 1:
        parser.error(f"--num-images must be at least {MIN_IMAGES}, --repeats at least 1")
    try:
        runs = compare(
            arguments.task,
            arguments.images_folder,
            arguments.num_images,
            architecture=arguments.architecture,
            repeats=arguments.repeats,
            overrides=arguments.overrides,
        )
    except BenchmarkError as error:
        sys.exit(f"compare.py: {error}")
    print_table(runs)


if __name__ == "__main__":
    main()
