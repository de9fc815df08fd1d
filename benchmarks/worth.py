"""What the features of a model are worth, beside those of simpler encoders of the same images.

Each FOLDER (or ZIP) holds a folder of images for each label. The program itself is run, as a user runs it: `pretrain`
and `extract`, then `explore classify` with a linear probe and with the nearest images (a fifth of the images to test
on), `explore similar` and `explore clusters` (as many clusters as labels), each with `--references`; their files are
collected. Labels are known to the explorations alone. With --tiles the folders hold photographs, of which 4 x 2 tiles
are cut: the photograph is the label. Where torchvision's weights of VGG16 are on this machine, its encoder is judged,
too, by the same commands.

    python -m benchmarks.worth FOLDER... [--seeds 0 1 2] [--set name=value ...] [--out FILE]

`feature_grid` is, unless it is set, the finest one that fits the latent.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.compare import IMAGE_EXTENSIONS, BenchmarkError, link_images
from benchmarks.endurance import start
from fext.data.labels import label_of, labels_of
from fext.data.source import find_images
from fext.model.intervals import Interval, mean_interval
from fext.settings import names_of
from fext.store.pretrained import has_imagenet_weights

MEASURES = {"probe": "linear probe", "knn": "nearest images", "precision": "precision at 10", "nmi": "NMI of k-means"}
MODEL, IMAGENET = "model", "imagenet_vgg16"
TILES = (4, 2)  # columns and rows of a photograph
GRIDS = (8, 4, 2, 1)
PIXELS_SIDE = 32
# VGG16's encoder as it comes: one step on one image, too small a step to change it.
NO_TRAINING = (
    "architecture=vgg16", "latent_channels=512", "encoder_weights=imagenet", "num_train_samples=2",
    "num_validation_samples=1", "num_test_samples=1", "epochs=1", "learning_rate=1e-12", "warmup_epochs=0",
    "rotation_weight=0", "views_weight=0", "jit_compile=False",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Labelled images, and how the program is to be run on them; `minutes` ends the training, None does not."""

    title: str
    images: Path
    num_images: int
    num_labels: int
    settings: tuple[str, ...]
    minutes: float | None


@dataclass(frozen=True)
class Worth:
    """What the features of one encoder came to with one seed; the model's minutes are those of the whole `pretrain`."""

    num_values: int
    scores: dict[str, float]
    minutes: float | None = None
    is_stopped: bool = False  # before the training was finished


Found = dict[str, list[Worth]]  # by encoder, one for each seed


class Home:
    """A folder in which the program works, with a model and an extraction that are called as the task is."""

    def __init__(self, folder: Path, task: Task, settings: Sequence[str]) -> None:
        self.folder, self._task, self._settings = folder, task, (*task.settings, *settings)
        self._extracted: tuple[str, ...] = ()
        self._checkpoint = folder / "training" / "checkpoints" / "worth"
        self._extraction = folder / "inference" / "worth"

    @property
    def model(self) -> dict[str, Any]:
        return _read_json(self._checkpoint / "model.json")

    def train(self, minutes: float | None = None) -> float:
        """Train a model, for so many minutes at most, and extract with it; returns the minutes of the training."""
        began = time.perf_counter()
        self._run("pretrain", "--images", str(self._task.images), "--name", "worth", minutes=minutes)
        taken = (time.perf_counter() - began) / 60
        if "feature_grid" not in names_of(self._settings):
            latent = self.model["latent_shape"]
            self._extracted = (finest_grid(latent["rows"], latent["columns"]),)
        self._run("extract", "worth", "--images", str(self._task.images), "--name", "worth")
        return taken

    def explore(self, seed: int, *, references: bool) -> dict[str, Worth]:
        """What the explorations say of the features of the model, and of the others where they are asked for."""
        seeds = seeds_of(seed)
        more = ["--references"] if references else []
        scores: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
        for method in ("probe", "knn"):
            name = f"{method}_{seed}"
            self._run("explore", "classify", "worth", "--method", method, "--name", name, *more, settings=seeds)
            told = _read_json(self.folder / "training" / "classifiers" / name / "classifier.json")
            scores[method] = {MODEL: told["scores"]["accuracy"]}
            scores[method] |= {encoder: one["accuracy"] for encoder, one in told["references"].items()}
        # Its references tell of the model, too, as those of the clusters do: the mean of several seeds of k-means.
        self._run("explore", "similar", "worth", "--references", settings=seeds)
        scores["precision"] = {
            row["encoder"]: float(row["precision"]) for row in _rows(self._extraction / "similar" / "precision.csv")
        }
        count = str(self._task.num_labels)
        self._run("explore", "clusters", "worth", "--count", count, "--references", settings=seeds)
        summary = _read_json(self._extraction / "clusters" / "summary.json")
        scores["nmi"] = {encoder: one["nmi"]["mean"] for encoder, one in summary["references"]["encoders"].items()}
        return {
            encoder: Worth(
                self._num_values(encoder, summary["grid"]),
                {name: of_encoder[encoder] for name, of_encoder in scores.items() if encoder in of_encoder},
            )
            for encoder in scores["probe"]
        }

    def _num_values(self, encoder: str, grid: int) -> int:
        """How many values of an image the explorations compare."""
        height, width, channels = self.model["plan"]["picture_shape"]
        if encoder == "pixels":
            return int(min(height, PIXELS_SIDE) * min(width, PIXELS_SIDE) * channels)
        if encoder == "linear_map":
            return int(self.model["latent_shape"]["channels"]) * grid**2
        manifest = _read_json(self._extraction / "manifest.json")
        return int(manifest["num_features"]) // int(manifest["feature_grid"]) ** 2 * grid**2

    def _run(self, *words: str, settings: Sequence[str] = (), minutes: float | None = None) -> None:
        print(f"{self._task.title}: {' '.join([*words, *settings])}", file=sys.stderr, flush=True)
        process = start(self.folder, *words, settings=(*self._settings, *self._extracted, *settings))
        is_stopped = False
        try:
            process.wait(None if minutes is None else 60 * minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # the best epoch until then is a checkpoint
            process.wait()
            is_stopped = True
        except BaseException:
            process.kill()
            raise
        if process.returncode and not (is_stopped and (self._checkpoint / "model.json").is_file()):
            output = (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")
            raise BenchmarkError(f"failed: {' '.join(words)}\n{output[-2000:]}")


def finest_grid(rows: int, columns: int) -> str:
    """The setting that keeps as much of a latent as can be, up to the default."""
    return f"feature_grid={next(grid for grid in GRIDS if grid <= min(rows, columns))}"


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def seeds_of(seed: int) -> tuple[str, str]:
    """The settings that this seed stands for: of training and clusters, and of the divisions into subsets."""
    return f"seed={seed}", f"split_seed={seed}"


def judge(task: Task, seeds: Sequence[int]) -> tuple[Found, list[str]]:
    """Train once with each seed and explore; gives what each encoder is worth, and what is to be said of it."""
    found: Found = {}
    notes = []
    for seed in seeds:
        with home(task, seeds_of(seed)) as place:
            minutes = place.train(task.minutes)
            training, shape = place.model["training"], place.model["plan"]["picture_shape"]
            is_stopped = not training["finished"]
            if is_stopped:
                notes.append(f"seed {seed}: stopped after {minutes:.1f} minutes, {training['epochs']} whole epochs")
            for encoder, worth in place.explore(seed, references=True).items():
                one = replace(worth, minutes=minutes, is_stopped=is_stopped) if encoder == MODEL else worth
                found.setdefault(encoder, []).append(one)
    height, width, _ = shape
    if has_imagenet_weights("vgg16") and height % 32 == width % 32 == 0:
        shape_and_grid = f"picture_shape=({height},{width},3)", finest_grid(height // 32, width // 32)
        with home(task, (*NO_TRAINING, *shape_and_grid)) as place:
            place.train()
            found[IMAGENET] = [place.explore(seed, references=False)[MODEL] for seed in seeds]
    return found, notes


@contextmanager
def home(task: Task, settings: Sequence[str]) -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="fext_worth_") as folder:
        yield Home(Path(folder).resolve(), task, settings)


# ---------------------------------------------------------------- images


def placed(source: Path, target: Path, per_label: int | None, num_photographs: int | None) -> Path:
    """The folder of the labelled images: source, or target with those of an archive, with some or with tiles."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in IMAGE_EXTENSIONS)
            archive.extractall(target, _first_of_each(names, per_label))
        source = target
    elif not source.is_dir():
        raise BenchmarkError(f"{source} is neither a folder nor a ZIP archive")
    if num_photographs is not None:
        return cut_tiles(source, target / "tiles", num_photographs)
    if per_label is None or source == target:
        return source
    for label in sorted({label_of(name) for name in find_images(source).names}):
        link_images(source / label, target / label, per_label)
    return target


def _first_of_each(names: Sequence[str], count: int | None) -> list[str]:
    taken: dict[str, list[str]] = {}
    for name in names:
        taken.setdefault(label_of(name), []).append(name)
    return [name for of_label in taken.values() for name in of_label[:count]]


def cut_tiles(source: Path, target: Path, count: int) -> Path:
    """Cut the first photographs into tiles of equal size, as PNG files in a folder for each photograph."""
    columns, rows = TILES
    found = find_images(source)
    for place, name in enumerate(found.names[:count]):
        folder = target / f"{place:04}_{Path(name).stem}"
        folder.mkdir(parents=True)
        with Image.open(found.path(name)) as opened:
            photograph = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
            width, height = photograph.width // columns, photograph.height // rows
            for number in range(columns * rows):
                left, top = number % columns * width, number // columns * height
                photograph.crop((left, top, left + width, top + height)).save(folder / f"{number}.png")
    return target


def task_of(source: Path, images: Path, settings: Sequence[str], minutes: float | None) -> Task:
    names = find_images(images).names
    labelled = labels_of(names)
    if labelled is None:
        raise BenchmarkError(f"{source} holds no labels: give two or more folders, with two or more images each")
    return Task(source.stem, images, len(names), len(labelled.classes), tuple(settings), minutes)


# ---------------------------------------------------------------- tables


def intervals(worths: Sequence[Worth]) -> dict[str, Interval]:
    """Minutes and scores with their interval over the seeds, by name; what an encoder has not is left out."""
    values = {"minutes": [worth.minutes for worth in worths if worth.minutes is not None]}
    values |= {name: [worth.scores[name] for worth in worths if name in worth.scores] for name in MEASURES}
    return {name: mean_interval(np.array(some)) for name, some in values.items() if some}


def table(task: Task, found: Found) -> Iterator[str]:
    """Lines of Markdown."""
    for encoder, worths in found.items():
        known = intervals(worths)
        cells = [known["minutes"].text(digits=1, signed=False) if "minutes" in known else ""]
        cells[0] += ", stopped" if any(worth.is_stopped for worth in worths) else ""
        cells += [known[name].text(digits=3, signed=False) if name in known else "" for name in MEASURES]
        yield _line([task.title, encoder.replace("_", " "), f"{worths[0].num_values:,}", *cells])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


HEAD = ("images", "features", "values", "minutes", *MEASURES.values())
CSV_HEAD = (
    "images", "num_images", "num_labels", "features", "seeds", "settings", "values", "num_stopped",
    *(f"{name}{end}" for name in ("minutes", *MEASURES) for end in ("", "_low", "_high")),
)  # fmt: skip


def csv_rows(task: Task, found: Found, seeds: Sequence[int]) -> Iterator[list[object]]:
    for encoder, worths in found.items():
        known = intervals(worths)
        row = [task.title, task.num_images, task.num_labels, encoder, " ".join(map(str, seeds))]
        row += [" ".join(task.settings), worths[0].num_values, sum(worth.is_stopped for worth in worths)]
        for name in ("minutes", *MEASURES):
            row += ["" if end is None else f"{end:.6f}" for end in known.get(name, (None, None, None))]
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="+", metavar="FOLDER", help="or a ZIP archive of it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a training with each (default: 0)")
    parser.add_argument("--architecture", help="another setting, as --set architecture=... is")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="NAME=VALUE")
    parser.add_argument("--minutes", type=float, help="stop each training after so many")
    parser.add_argument("--per-label", type=int, metavar="N", help="only the first N images of each label")
    parser.add_argument("--tiles", type=int, metavar="N", help="tiles of the first N photographs of each folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV, too")
    words = parser.parse_args()
    settings = [*([f"architecture={words.architecture}"] if words.architecture else []), *words.overrides]
    rows: list[list[object]] = []
    lines, notes = [_line(HEAD), _line(["---"] * len(HEAD))], []
    try:
        for source in words.sources:
            with tempfile.TemporaryDirectory(prefix="fext_worth_images_") as folder:
                images = placed(source.resolve(), Path(folder).resolve(), words.per_label, words.tiles)
                task = task_of(source, images, settings, words.minutes)
                found, said = judge(task, words.seeds)
            lines += table(task, found)
            rows += csv_rows(task, found, words.seeds)
            notes += [f"{task.title}: {task.num_images:,} images, {task.num_labels:,} labels"]
            notes += [f"{task.title}, {note}" for note in said]
            if words.out:  # after each folder: what was measured is kept
                write(words.out, rows)
    except BenchmarkError as error:
        sys.exit(f"worth.py: {error}")
    print(f"Settings: {' '.join(settings) or 'all at their defaults'}. Seeds: {' '.join(map(str, words.seeds))}.")
    print(
        "Means, in brackets 95 % intervals by Student's t over the seeds: these tell of other seeds and divisions of "
        "the same images, not of other images; one seed has none.\n"
    )
    print("\n".join([*lines, "", *notes]))


def write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([CSV_HEAD, *rows])


if __name__ == "__main__":
    main()
