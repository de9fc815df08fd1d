"""What takes too long for a test: kills at random moments, thousands of damaged files, memory over many images.

Each command works in a temporary folder with a copy of the program's two files, prints what it saw, and ends with
exit code 1 where a promise was not kept.
"""

import argparse
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.compare import REPOSITORY, link_images

SMALL = ("architecture=redux", "picture_shape=(64,64,3)", "feature_grid=1", "use_tensorboard=False")
TIMES = ("seconds", "waiting_seconds", "images_per_second")
TABLES = ("csv", "npy", "parquet")
JOBS = ("analyze", "analyze-copies", "pretrain", "evaluate", *TABLES)
FORMATS = ("jpg", "png", "gif", "bmp", "webp", "tif", "jp2", "ppm", "ico", "tga", "avif")


def start(folder: Path, *words: str, settings: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Run FeXT in a folder, with its output in output.txt there."""
    for name in ("featext.py", "configurations.py"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    overrides = [word for setting in settings for word in ("--set", setting)]
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(folder / "featext.py"), *words, *overrides],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def run(folder: Path, *words: str, settings: tuple[str, ...] = ()) -> float:
    """Run FeXT to its end; returns the peak memory of its process in MB."""
    process = start(folder, *words, settings=settings)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit((folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-2000:])
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def kills(folder: Path, images: Path, num_images: int, epochs: int, num_kills: int, seed: int) -> bool:
    """Kill a training run at random moments, resume it each time; compare it with one left alone."""
    link_images(images, folder / "images", num_images)
    settings = ("architecture=redux", f"epochs={epochs}", "lr_schedule=cosine")
    settings += (f"num_train_samples={num_images * 4 // 5}", f"num_test_samples={num_images // 5}")
    words = ("pretrain", "--images", str(folder / "images"))
    began = time.perf_counter()
    run(folder, *words, "--name", "alone", settings=settings)
    seconds = time.perf_counter() - began
    print(f"left alone: {seconds:.0f} s", flush=True)
    chance = random.Random(seed)
    checkpoint = folder / "training" / "checkpoints" / "killed"
    done = 0
    while True:
        if checkpoint.exists():
            process = start(folder, "resume", "killed", settings=settings)
        else:
            process = start(folder, *words, "--name", "killed", settings=settings)
        wait = chance.uniform(0, 2 * seconds / num_kills) if done < num_kills else None
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done} after {wait:.1f} s: {progress(checkpoint)}", flush=True)
            continue
        if code:
            print((folder / "output.txt").read_text(encoding="utf-8")[-1000:])
            return False
        break
    alone = checkpoint.with_name("alone")
    same_weights = (alone / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    same_history = history(alone) == history(checkpoint)
    for row, other in zip(history(alone), history(checkpoint), strict=False):
        if row != other:
            print(f"alone:  {row}\nkilled: {other}")
    print(f"{done} kills; equal weights: {same_weights}; equal history but for times: {same_history}")
    return same_weights and same_history


def progress(checkpoint: Path) -> str:
    return f"{len(history(checkpoint))} epochs done" if checkpoint.exists() else "no checkpoint yet"


def history(checkpoint: Path) -> list[dict[str, str]]:
    with (checkpoint / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def extraction_kills(folder: Path, images: Path, num_images: int, num_kills: int, architecture: str, seed: int) -> bool:
    """Kill an extraction at random moments, start it again each time; compare it with one left alone."""
    link_images(images, folder / "images", num_images)
    settings = (f"architecture={architecture}", "feature_formats=('csv','npy','parquet')", "use_tensorboard=False")
    words = ("--images", str(folder / "images"))
    few = ("num_train_samples=8", "num_test_samples=4", "epochs=1", "generate_model_graph=False")
    run(folder, "pretrain", *words, "--name", "model", settings=(*settings, *few))
    began = time.perf_counter()
    run(folder, "extract", *words, "--name", "alone", settings=settings)
    print(f"left alone: {time.perf_counter() - began:.0f} s", flush=True)
    chance = random.Random(seed)
    tables, most_lost = ["killed_1"], 0.0
    done_kills = 0
    while done_kills < num_kills:
        wait = chance.uniform(3, 12)  # it begins to encode after some four seconds
        process = start(folder, "extract", *words, "--name", tables[-1], settings=settings)
        began_at = time.time()
        try:
            process.wait(wait)
            tables.append(f"killed_{len(tables) + 1}")  # it came to its end: the next kills are for another one
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            journals = list((folder / "inference" / tables[-1] / "unfinished").glob("part-*.csv"))
            done = sum(path.read_bytes().count(b"\n") for path in journals)
            saved_at = max([began_at, *(path.stat().st_mtime for path in journals)])
            most_lost = max(most_lost, time.time() - saved_at)
            done_kills += 1
            print(f"kill {done_kills} after {wait:.1f} s: {done} of {num_images} images done", flush=True)
    run(folder, "extract", *words, "--name", tables[-1], settings=settings)
    one = folder / "inference" / "alone"
    files = [path.name for path in one.iterdir() if path.name != "manifest.json"]
    same = all(
        (one / file).read_bytes() == (one.with_name(table) / file).read_bytes() for table in tables for file in files
    )
    print(f"{num_kills} kills, {len(tables)} tables, equal bytes of {', '.join(sorted(files))}: {same}")
    print(f"at most {most_lost:.1f} s between what was last made safe, or the start, and a kill")
    return same and most_lost <= 15


def start_many(folder: Path, count: int) -> bool:
    """The time from the start of the command to the first encoded batch, with many images, and the peak memory."""
    images = folder / "images"
    make_copies(images, count)
    make_copies(folder / "few", 1000)
    settings = (*SMALL, "feature_formats='npy'", "inference_batch_size=32")
    run(folder, "pretrain", "--images", str(folder / "few"), "--name", "model", settings=(*settings, "epochs=1"))
    peaks = [
        run(folder, "extract", "model", "--images", str(folder / "few"), "--name", "few", settings=settings),
    ]
    words = ("extract", "model", "--images", str(images), "--name", "many")
    seconds = []
    for _ in range(3):
        seconds.append(time_to_first_rows(folder, words, settings))
        print(f"first batch written after {seconds[-1]:.1f} s", flush=True)
    peaks.append(run(folder, *words, settings=settings))
    manifest = json.loads((folder / "inference" / "many" / "manifest.json").read_text(encoding="utf-8"))
    print(f"{manifest['counts']}, {manifest['last_run']['seconds']:.0f} s for the rest")
    began = time.perf_counter()
    peaks.append(run(folder, *words, settings=settings))
    print(f"again, nothing new: {time.perf_counter() - began:.1f} s; peaks {', '.join(f'{p:.0f}' for p in peaks)} MB")
    return seconds[0] <= 25 and max(seconds[1:]) <= 5 and max(peaks[1:]) <= 1.05 * peaks[0]


def time_to_first_rows(folder: Path, words: tuple[str, ...], settings: tuple[str, ...]) -> float:
    """Start an extraction, wait until it has told of its first batches, and kill it."""
    (folder / "output.txt").unlink(missing_ok=True)
    began = time.perf_counter()
    process = start(folder, *words, settings=settings)
    while b"images/s; the table" not in (folder / "output.txt").read_bytes():
        if process.poll() is not None:
            sys.exit((folder / "output.txt").read_text(encoding="utf-8")[-2000:])
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    time.sleep(8)  # so that some rows are safe, and the next start has something to go on from
    process.kill()
    process.wait()
    return seconds


def make_copies(folder: Path, count: int) -> None:
    """Tiny images in folders of a thousand; made from fifty pictures."""
    chance = np.random.default_rng(0)
    make_images(folder.with_name("originals"), 50, chance)
    data = [path.read_bytes() for path in sorted(folder.with_name("originals").iterdir())]
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[number % len(data)])


def make_images(folder: Path, count: int, chance: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = chance.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 64)).save(folder / f"{number:06}.jpg")


def mutated(data: bytes, chance: np.random.Generator) -> bytes:
    """The bytes of a file with some flipped, cut out, repeated, overwritten, or the end gone."""
    changed = bytearray(data)
    for _ in range(chance.integers(1, 4)):
        position, length = int(chance.integers(len(changed))), int(chance.integers(1, 400))
        match int(chance.integers(5)):
            case 0:
                changed[position] ^= 1 << int(chance.integers(8))
            case 1:
                del changed[position : position + length]
            case 2:
                changed[position:position] = changed[position : position + length]
            case 3:
                changed[position : position + length] = chance.bytes(length)
            case _:
                del changed[max(1, position) :]
        if not changed:
            break
    return bytes(changed)


def damaged(folder: Path, images: Path, count: int, seed: int) -> bool:
    """Extract damaged copies of photographs in every format; every one must be written or rejected."""
    chance = np.random.default_rng(seed)
    photographs = sorted(images.iterdir())[:20]
    target = folder / "damaged"
    target.mkdir()
    for number in range(count):
        extension = FORMATS[number % len(FORMATS)]
        with Image.open(photographs[number // len(FORMATS) % len(photographs)]) as photograph:
            stream = io.BytesIO()
            photograph.convert("RGB").resize((200, 150)).save(stream, Image.registered_extensions()[f".{extension}"])
        (target / f"{number:06}.{extension}").write_bytes(mutated(stream.getvalue(), chance))
    make_images(folder / "good", 20, chance)
    run(folder, "pretrain", "--images", str(folder / "good"), "--name", "model", settings=(*SMALL, "epochs=1"))
    few = folder / "few"
    link_images(target, few, 100)
    peaks = [
        run(folder, "extract", "model", "--images", str(source), "--name", source.name, settings=SMALL)
        for source in (few, target)
    ]
    manifest = json.loads((folder / "inference" / "damaged" / "manifest.json").read_text(encoding="utf-8"))
    counts = manifest["counts"]
    with (folder / "inference" / "damaged" / "features.csv").open(encoding="utf-8", newline="") as rows:
        num_rows = sum(1 for _ in csv.reader(rows)) - 1
    print(f"{counts}; {num_rows} rows; peak memory with 100 and {count}: {peaks[0]:.0f} and {peaks[1]:.0f} MB")
    found = counts["found"] + counts["not_images"]
    return (
        found == count and counts["written"] == num_rows and counts["written"] + counts["rejected"] == counts["found"]
    )


def memory(folder: Path, counts: tuple[int, int], processors: int, jobs: tuple[str, ...]) -> bool:
    """Peak memory of each job with few and with many images, all different; the analysis with copies of fifty too."""
    chance = np.random.default_rng(0)
    if "pretrain" not in jobs and {"evaluate", *TABLES} & set(jobs):
        jobs = ("pretrain", *jobs)  # they need a model
    peaks: dict[str, list[float]] = {job: [] for job in jobs}
    for count in counts:
        images = folder / str(count)
        make_images(images, count, chance)
        if "analyze-copies" in jobs:
            make_copies(folder / f"copies_{count}", count)
        settings = (*SMALL, f"num_train_samples={count * 4 // 5}", f"num_test_samples={count // 5}", "epochs=1")
        settings += (f"num_processors={processors}", "inference_batch_size=32", "batch_size=32")
        for job in jobs:
            peaks[job].append(run(folder, *words_of(job, images), settings=(*settings, *settings_of(job))))
    for job, (few, many) in peaks.items():
        print(f"{job}: {few:.0f} MB with {counts[0]:,} images, {many:.0f} MB with {counts[1]:,}: {many / few - 1:+.1%}")
    return all(many <= 1.05 * few for few, many in peaks.values())


def words_of(job: str, images: Path) -> tuple[str, ...]:
    """The command of one of the jobs whose memory is measured."""
    name = f"of_{images.name}"
    match job:
        case "analyze":
            return ("analyze", "--images", str(images))
        case "analyze-copies":
            return ("analyze", "--images", str(images.with_name(f"copies_{images.name}")))
        case "pretrain":
            return ("pretrain", "--images", str(images), "--name", name)
        case "evaluate":
            return ("evaluate", name)
    return ("extract", name, "--images", str(images), "--name", f"{name}_{job}")


def settings_of(job: str) -> tuple[str, ...]:
    """An extraction is in the format that its job is named after."""
    return (f"feature_formats={job}",) if job in TABLES else ()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kills", help=kills.__doc__)
    killing.add_argument("images", type=Path)
    killing.add_argument("--num-images", type=int, default=80)
    killing.add_argument("--epochs", type=int, default=15)
    killing.add_argument("--kills", type=int, default=10)
    damaging = commands.add_parser("damaged", help=damaged.__doc__)
    damaging.add_argument("images", type=Path)
    damaging.add_argument("--count", type=int, default=2000)
    remembering = commands.add_parser("memory", help=memory.__doc__)
    remembering.add_argument("--counts", type=int, nargs=2, default=(1000, 20000))
    remembering.add_argument("--processors", type=int, default=1)
    remembering.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    extracting = commands.add_parser("extraction-kills", help=extraction_kills.__doc__)
    extracting.add_argument("images", type=Path)
    extracting.add_argument("--num-images", type=int, default=500)
    extracting.add_argument("--kills", type=int, default=20)
    extracting.add_argument("--architecture", default="vgg16")
    starting = commands.add_parser("start", help=start_many.__doc__)
    starting.add_argument("--count", type=int, default=200_000)
    for command in (killing, damaging, extracting):
        command.add_argument("--seed", type=int, default=1)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fext-endurance-") as name:
        folder = Path(name)
        if words.command == "kills":
            kept = kills(folder, words.images, words.num_images, words.epochs, words.kills, words.seed)
        elif words.command == "damaged":
            kept = damaged(folder, words.images, words.count, words.seed)
        elif words.command == "extraction-kills":
            kept = extraction_kills(folder, words.images, words.num_images, words.kills, words.architecture, words.seed)
        elif words.command == "start":
            kept = start_many(folder, words.count)
        else:
            kept = memory(folder, tuple(words.counts), words.processors, tuple(words.jobs))
    print("kept" if kept else "NOT KEPT")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
