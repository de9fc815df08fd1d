"""How well defects are told from normal images: image AUROC of each score of `explore anomalies` and its references.

FOLDER holds one folder of normal images and others of defects, such as the magnetic tiles (free, blowhole, break,
crack, fray, uneven; Huang et al., 'Surface defect saliency of magnetic tile', 2020). A model is trained on two thirds
of the normal images; the rest is told from all defects.

    python -m benchmarks.anomalies FOLDER --normal free [--set name=value ...]

Choices that were made by looking at these figures are kind to them. Beside that of all images stand those of two
halves: every second image by name, and the others.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from fext.data.source import find_images
from fext.jobs.anomalies import find_anomalies
from fext.jobs.pretrain import pretrain
from fext.model.detection import curves
from fext.reporting import SilentReporter
from fext.settings import load_settings
from fext.store.workspace import Workspace

_REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--normal", default="normal", help="the folder of normal images")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="NAME=VALUE")
    words = parser.parse_args()
    count = len(find_images(words.folder / words.normal).names)
    sizes = [f"num_train_samples={count * 2 // 3}", f"num_test_samples={count - count * 2 // 3}"]
    settings = load_settings(_REPOSITORY / "configurations.py", [*sizes, "use_tensorboard=False", *words.overrides])
    with tempfile.TemporaryDirectory() as folder:
        space = Workspace(Path(folder))
        trained = pretrain(space, settings, words.folder / words.normal, "normal", SilentReporter())
        assert trained is not None
        print(f"trained for {trained.epochs} epochs in {trained.seconds:.0f} s: {trained.chosen_psnr:.2f} dB PSNR")
        result = find_anomalies(
            space, settings, trained.folder, words.folder, words.normal, SilentReporter(), references=True
        )
        print(f"searched in {result.seconds:.0f} s: " + " ".join(result.verdicts))
        show(result.folder / "anomalies.csv", words.normal)


def show(table: Path, normal: str) -> None:
    """Print a line for each score: AUROC of all images, of the halves, and of each folder against the normal images."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["image"])
    folders = np.array([row["folder"] for row in rows])
    is_odd = np.arange(len(rows)) % 2 == 1
    every = np.ones(len(rows), dtype=bool)
    chosen = {"all": every, "half": is_odd, "other half": ~is_odd}
    chosen |= {name: np.isin(folders, [name, normal]) for name in sorted(set(folders) - {normal})}
    print("| score | " + " | ".join(chosen) + " |")
    print("|---|" + "---|" * len(chosen))
    for name in list(rows[0])[2:]:
        if name == "threshold":
            break
        scores = np.array([float(row[name]) for row in rows])
        found = (curves(scores[places], folders[places] != normal) for places in chosen.values())
        print(f"| `{name}` | " + " | ".join(f"{curve.auroc:.3f}" if curve else "" for curve in found) + " |")


if __name__ == "__main__":
    main()
