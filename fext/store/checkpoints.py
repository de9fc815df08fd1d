"""Checkpoints: a folder per model that is whole at every moment, and loads without running anything stored in it.

The order of writing is what makes it safe: weights before the model.json that describes them, resume.pt last. A run
killed in between goes on from the resume.pt of the epoch before and writes the same again.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from fext.data.images import Preprocessing
from fext.data.split import Split
from fext.errors import CheckpointError, FextError, ModelError
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.plans import Plan
from fext.settings import Settings, settings_from_json
from fext.store import files

FORMAT_VERSION = 1
HISTORY_COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "test_loss",
    "train_mse",
    "test_mse",
    "train_mae",
    "test_mae",
    "train_psnr",
    "test_psnr",
    "seconds",
    "images_per_second",
)
SCORES_FILE = "scores.csv"

History = list[dict[str, float]]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model of its best epoch and what is needed to use it rightly."""

    folder: Path
    name: str
    model: Autoencoder
    plan: Plan
    preprocessing: Preprocessing
    settings: Settings
    source: str
    summary: dict[str, Any]
    sha256: str

    def split(self) -> Split:
        """The names this model was trained and tested on."""
        rows = files.read_csv(self.folder / "split.csv")
        train = tuple(row["image"] for row in rows if row.get("subset") == "train")
        test = tuple(row["image"] for row in rows if row.get("subset") == "test")
        if not train or not test or len(train) + len(test) != len(rows):
            raise CheckpointError(f"{self.folder / 'split.csv'} is damaged: every row is an image and train or test")
        return Split(train, test)


def start_checkpoint(folder: Path, settings: Settings, split: Split) -> None:
    """Write what is known before the first epoch: the settings and the split."""
    files.write_text(folder / "configurations.json", settings.to_json())
    rows = [(name, "train") for name in split.train] + [(name, "test") for name in split.test]
    files.write_csv(folder / "split.csv", ("image", "subset"), rows)


def save_settings(folder: Path, settings: Settings) -> None:
    """Store the settings of a run that is extended."""
    files.write_text(folder / "configurations.json", settings.to_json())


def save_model(folder: Path, model: Autoencoder) -> None:
    """Store the weights of the best epoch; save_description, which says what they are, must follow."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files.write_bytes(folder / "model.safetensors", save(weights))


def save_description(
    folder: Path, plan: Plan, preprocessing: Preprocessing, source: str, summary: dict[str, Any]
) -> None:
    """Write model.json: plan, preprocessing, latent shape, training summary, format version."""
    rows, columns, channels = plan.latent_shape
    description = {
        "format_version": FORMAT_VERSION,
        "plan": plan.to_dict(),
        "preprocessing": asdict(preprocessing),
        "latent_shape": {"rows": rows, "columns": columns, "channels": channels},
        "source": source,
        "training": summary,
    }
    files.write_json(folder / "model.json", description)


def save_history(folder: Path, history: History) -> None:
    """One row per epoch."""
    rows = [[repr(row[column]) for column in HISTORY_COLUMNS] for row in history]
    files.write_csv(folder / "history.csv", HISTORY_COLUMNS, rows)


def save_resume(folder: Path, state: dict[str, Any]) -> None:
    """The last state, for an interrupted run to go on from exactly; tensors, numbers and text only."""
    files.write_whole(folder / "resume.pt", lambda stream: torch.save(state, stream))


def load_resume(folder: Path) -> dict[str, Any]:
    """The state that save_resume wrote; raises CheckpointError where there is none that can be trusted."""
    path = folder / "resume.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.name} has no resume.pt: it cannot be resumed") from error
    except Exception as error:  # torch raises many kinds on a damaged or tampered file
        raise CheckpointError(f"{path} is damaged or not FeXT's: it cannot be resumed") from error
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} is of another version of FeXT: it cannot be resumed")
    return state


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint; raises CheckpointError where it is incomplete, damaged or of a later version."""
    description = _read_description(folder)
    try:
        plan = Plan.from_dict(description["plan"])
        preprocessing = _preprocessing(description["preprocessing"])
        settings_text = (folder / "configurations.json").read_text(encoding="utf-8")
        settings = settings_from_json(settings_text, f"{folder.name}/configurations.json")
        weights = (folder / "model.safetensors").read_bytes()
        model = build_autoencoder(plan, seed=0)
        model.load_state_dict(load(weights))
        summary, source = dict(description["training"]), str(description["source"])
    except ModelError as error:
        raise CheckpointError(f"checkpoint {folder.name}: {error}") from error
    except FextError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {folder.name} is incomplete: {Path(error.filename).name} is missing"
        ) from error
    except Exception as error:  # safetensors and load_state_dict raise many kinds
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"checkpoint {folder.name} is damaged: {first_line}") from error
    model.eval()
    sha256 = hashlib.sha256(weights).hexdigest()
    return Checkpoint(folder, folder.name, model, plan, preprocessing, settings, source, summary, sha256)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format_version"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: model.json is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {folder.name} has format version {version}, this FeXT reads {FORMAT_VERSION}: update FeXT"
        )
    assert isinstance(description, dict)
    return description


def _preprocessing(data: dict[str, Any]) -> Preprocessing:
    preprocessing = Preprocessing(**data)
    known = Preprocessing(
        int(preprocessing.height), int(preprocessing.width), int(preprocessing.channels), preprocessing.resize_mode
    )
    if preprocessing != known or known.resize_mode not in ("stretch", "crop", "pad") or known.channels not in (1, 3):
        raise CheckpointError("its preprocessing is damaged or of a later version of FeXT")
    return known


def read_history(folder: Path) -> History:
    """The epochs so far; raises FextError where history.csv cannot be read."""
    return [{name: float(value) for name, value in row.items()} for row in files.read_csv(folder / "history.csv")]


def record_scores(checkpoints: Path, row: dict[str, object]) -> Path:
    """Put one row into scores.csv, in place of the model's earlier one; returns its path."""
    path = checkpoints / SCORES_FILE
    old = files.read_csv(path) if path.is_file() else []
    rows: list[dict[str, Any]] = [*(other for other in old if other.get("checkpoint") != row["checkpoint"]), row]
    rows.sort(key=lambda other: str(other["checkpoint"]))
    files.write_csv(path, list(row), [[other.get(column, "") for column in row] for other in rows])
    return path
