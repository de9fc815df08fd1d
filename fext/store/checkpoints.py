"""Checkpoints: a folder per model that is whole at every moment, and loads without running anything stored in it.

The order of writing is what makes it safe: resume.pt first, then what is made from it. A run killed in between finds in
resume.pt whatever the other files lack.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fext.data.images import Preprocessing
from fext.data.split import SIDES, ChosenBy, Split
from fext.errors import CheckpointError, FextError, SettingsError, is_out_of_memory
from fext.model.autoencoder import Autoencoder
from fext.model.plans import Plan
from fext.settings import Settings, settings_from_json
from fext.store import files
from fext.store.tensors import tensors_from_bytes, tensors_to_bytes

# Version 1 had no validation images and no checksums in split.csv: the epoch was chosen by the test images.
FORMAT_VERSION = 2
READ_VERSIONS = (1, FORMAT_VERSION)
# Version 3 called the pass that an epoch is chosen by 'test'.
RESUME_VERSION = 4
_SPLIT_COLUMNS = ("image", "subset", "sha256")
_OTHER_COLUMNS = ("gradient_norm", "dead_channels", "waiting_seconds", "seconds", "images_per_second")
FEATURE_COLUMNS = ("recognized", "effective_rank")  # epochs of earlier FeXT lack them
SCORES_FILE, EPOCHS_FOLDER, _START_FILE = "scores.csv", "epochs", "encoder_start.safetensors"
_NUM_READS, _SECONDS_BETWEEN_READS = 3, 0.2

History = list[dict[str, int | float]]


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

    @property
    def chosen_by(self) -> ChosenBy:
        """The side of the split that the epoch of these weights was chosen by."""
        return "validation" if self.summary.get("epoch_chosen_by") == "validation" else "test"

    def split(self) -> Split:
        """The names this model was trained and tested on, and its epoch chosen by."""
        return load_split(self.folder)


def history_columns(side: ChosenBy) -> tuple[str, ...]:
    """The columns of history.csv where epochs are chosen by the images of a side."""
    scores = (f"{subset}_{score}" for score in ("loss", "mse", "mae", "psnr") for subset in ("train", side))
    return ("epoch", "learning_rate", *scores, *_OTHER_COLUMNS, *FEATURE_COLUMNS)


def start_checkpoint(folder: Path, settings: Settings, split: Split, checksums: Mapping[str, str]) -> None:
    """Write what is known before the first epoch: the settings and the split, with the SHA-256 of each image."""
    files.write_text(folder / "configurations.json", settings.to_json())
    save_split(folder, split, checksums)


def save_split(folder: Path, split: Split, checksums: Mapping[str, str]) -> None:
    """Write split.csv."""
    rows = ((name, side, checksums[name]) for side, names in split.sides() for name in names)
    files.write_csv(folder / "split.csv", _SPLIT_COLUMNS, rows)


def save_settings(folder: Path, settings: Settings) -> None:
    """Store the settings of a run that is extended."""
    files.write_text(folder / "configurations.json", settings.to_json())


def save_encoder_start(folder: Path, model: Autoencoder) -> None:
    """Keep the weights that an encoder starts from, which its epochs are compared with."""
    weights = tensors_to_bytes(model.encoder.state_dict())
    files.write_bytes(folder / _START_FILE, weights)


def load_encoder_start(folder: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What save_encoder_start kept for a run or one of its epochs; raises CheckpointError unless it is as `expected`.

    Expected are names, shapes and types.
    """
    run = folder.parent.parent if folder.parent.name == EPOCHS_FOLDER else folder
    with _refusals(run):
        tensors = tensors_from_bytes((run / _START_FILE).read_bytes())
        if _kinds(tensors) != _kinds(expected) or not _are_finite(tensors):
            raise CheckpointError(f"{_START_FILE} does not fit its plan")
    return tensors


@dataclass(frozen=True)
class Description:
    """What model.json says: how the weights are to be used, where the images lay, how training went."""

    plan: Plan
    preprocessing: Preprocessing
    source: str
    summary: dict[str, Any]
    weights_sha256: str

    def to_bytes(self) -> bytes:
        """The text of model.json, in UTF-8."""
        rows, columns, channels = self.plan.latent_shape
        content = {
            "format_version": FORMAT_VERSION,
            "plan": self.plan.to_dict(),
            "preprocessing": asdict(self.preprocessing),
            "latent_shape": {"rows": rows, "columns": columns, "channels": channels},
            "picture_channels": self.plan.picture_channels,  # the first ones; the others tell what pictures show
            "weights_sha256": self.weights_sha256,
            "source": self.source,
            "training": self.summary,
        }
        return files.json_text(content).encode()


def weights_to_bytes(model: Autoencoder) -> bytes:
    """What model.safetensors holds."""
    return tensors_to_bytes(model.state_dict())


def save_model(folder: Path, weights: bytes, description: Description) -> None:
    """Store the weights of the best epoch and their description, which take their places together."""
    files.write_together(
        [
            (folder / "model.safetensors", lambda stream: stream.write(weights)),
            (folder / "model.json", lambda stream: stream.write(description.to_bytes())),
        ]
    )


def keep_epoch(
    folder: Path,
    epoch: int,
    weights: bytes,
    description: Description,
    settings: Settings,
    split: Split,
    checksums: Mapping[str, str],
) -> None:
    """Keep the model of an epoch as a checkpoint of its own below `folder`, and the last checkpoints_kept of these.

    One that is there already was kept by a run that was killed before it could remember having done so. Folders of
    other names are the user's.
    """
    parent, name = folder / EPOCHS_FOLDER, f"{folder.name}_epoch_"
    target = parent / f"{name}{epoch:06}"
    if not has_weights(target, description.weights_sha256):
        files.remove_folder(target)
        with files.new_folder(target) as draft:
            start_checkpoint(draft, settings, split, checksums)
            save_model(draft, weights, description)
    kept = sorted(path for path in parent.iterdir() if path.name.startswith(name) and path.name[len(name) :].isdigit())
    for old in kept[: -settings.checkpoints_kept]:
        files.remove_folder(old)


def save_description(folder: Path, description: Description) -> None:
    """Write model.json anew, for the weights that are there."""
    files.write_bytes(folder / "model.json", description.to_bytes())


def save_history(folder: Path, history: History, side: ChosenBy) -> None:
    """One row per epoch."""
    rows = history or [dict.fromkeys(history_columns(side), 0)]
    columns = [column for column in history_columns(side) if any(column in row for row in rows)]
    lines = [[repr(row.get(column, math.nan)) for column in columns] for row in history]
    files.write_csv(folder / "history.csv", columns, lines)


def save_resume(folder: Path, state: dict[str, Any]) -> None:
    """The last state, for an interrupted run to go on from exactly; tensors, numbers and text only."""
    versioned = {"format_version": RESUME_VERSION, **state}
    files.write_whole(folder / "resume.pt", lambda stream: torch.save(versioned, stream))


def load_resume(folder: Path) -> dict[str, Any]:
    """The state that save_resume wrote; raises CheckpointError where there is none that can be trusted."""
    path = folder / "resume.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.name} has no resume.pt: it cannot be resumed") from error
    except Exception as error:  # torch raises many kinds on a damaged or tampered file
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path} is damaged or not FeXT's: it cannot be resumed") from error
    version = state.pop("format_version", None) if isinstance(state, dict) else None
    if not isinstance(state, dict) or version not in (RESUME_VERSION - 1, RESUME_VERSION):
        raise CheckpointError(f"{path} is of another version of FeXT: it cannot be resumed")
    if version != RESUME_VERSION and "test" in state:
        state["validation"] = state.pop("test")
    return state


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint; raises CheckpointError where it is incomplete, damaged or of a later version."""
    settings = load_settings_of(folder)
    description, weights = _load_pair(folder)
    with _refusals(folder):
        model = _load_model(description.plan, weights)
    return Checkpoint(
        folder=folder,
        name=folder.name,
        model=model,
        plan=description.plan,
        preprocessing=description.preprocessing,
        settings=settings,
        source=description.source,
        summary=description.summary,
        sha256=hashlib.sha256(weights).hexdigest(),
    )


def _load_pair(folder: Path) -> tuple[Description, bytes]:
    """model.json and the weights that it describes; read again where a training run was just replacing them."""
    for _ in range(_NUM_READS):
        description = load_description(folder)
        with _refusals(folder):
            weights = (folder / "model.safetensors").read_bytes()
        if description.weights_sha256 in ("", hashlib.sha256(weights).hexdigest()):
            return description, weights
        time.sleep(_SECONDS_BETWEEN_READS)
    raise CheckpointError(
        f"checkpoint {folder.name} is damaged: model.safetensors is not the file that model.json describes; where "
        f"training was interrupted, resuming mends it"
    )


def has_weights(folder: Path, sha256: str) -> bool:
    """Whether model.safetensors is the file of that checksum."""
    try:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def load_description(folder: Path) -> Description:
    """Read model.json; raises CheckpointError as load_checkpoint does."""
    content = _read_description(folder)
    with _refusals(folder):
        plan, preprocessing = Plan.from_dict(content["plan"]), _preprocessing(content["preprocessing"])
        if preprocessing.shape != plan.picture_shape:
            raise CheckpointError("its preprocessing does not fit its plan")
        return Description(
            plan=plan,
            preprocessing=preprocessing,
            source=str(content["source"]),
            summary=dict(content["training"]),
            weights_sha256=str(content.get("weights_sha256", "")),  # the first checkpoints of version 1 had none
        )


def load_settings_of(folder: Path) -> Settings:
    """The settings of a checkpoint's run; raises CheckpointError or SettingsError."""
    with _refusals(folder):
        text = (folder / "configurations.json").read_text(encoding="utf-8")
        return settings_from_json(text, f"{folder.name}/configurations.json")


def load_split(folder: Path) -> Split:
    """Read split.csv; raises CheckpointError where it is missing or damaged."""
    images: dict[str, list[str]] = {side: [] for side in SIDES}
    with _refusals(folder):
        for row in files.iter_csv(folder / "split.csv"):
            if row.get("subset") not in images:
                raise CheckpointError("every row of split.csv is an image and train, validation or test")
            images[row["subset"]].append(row["image"])
        split = Split(*map(tuple, images.values()))
        if not split.train or not split.test:
            raise CheckpointError("split.csv lacks images to train or to test on")
    return split


def load_checksums(folder: Path) -> bytes | None:
    """The SHA-256 of each image of the split, in the order of Split.names, 32 bytes each, one behind the other.

    Checkpoints of version 1 have them in resume.pt alone; None where that is gone. Raises CheckpointError.
    """
    with _refusals(folder):
        by_side: dict[str, bytearray] = {side: bytearray() for side in SIDES}
        for row in files.iter_csv(folder / "split.csv"):
            if row.get("sha256") is None:
                return _checksums_of_resume(folder)
            digest = bytes.fromhex(row["sha256"])
            if len(digest) != 32:
                raise CheckpointError("a checksum in split.csv is none")
            by_side[row["subset"]] += digest
    return b"".join(by_side.values())


def _checksums_of_resume(folder: Path) -> bytes | None:
    try:
        checksums = load_resume(folder)["checksums"]
    except (CheckpointError, KeyError):
        return None
    return bytes(checksums.numpy()) if isinstance(checksums, torch.Tensor) else None


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Whatever goes wrong while a checkpoint is read is a refusal in one line that names it."""
    try:
        yield
    except SettingsError:
        raise
    except FextError as error:
        raise CheckpointError(f"checkpoint {folder.name} is damaged: {error}") from error
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise CheckpointError(f"checkpoint {folder.name} is incomplete: {missing} is missing") from error
    except Exception as error:  # safetensors and JSON of any shape raise many kinds
        if is_out_of_memory(error):
            raise
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"checkpoint {folder.name} is damaged: {first_line}") from error


def _load_model(plan: Plan, weights: bytes) -> Autoencoder:
    """The model of a plan with stored weights; memory is taken only for weights that fit the plan."""
    tensors = tensors_from_bytes(weights)
    with torch.device("meta"):
        model = Autoencoder(plan)
    if _kinds(tensors) != _kinds(model.state_dict()):
        raise CheckpointError("its weights do not fit its plan")
    if not _are_finite(tensors):
        raise CheckpointError("it has weights that are not finite")
    # Copied out of the file's bytes, where they lie at any address, to one that suits the processor.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return model.eval()


def _kinds(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _are_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format_version"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: model.json is missing") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if version not in READ_VERSIONS:
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


def record_scores(checkpoints: Path, row: dict[str, object]) -> Path:
    """Put one row into scores.csv, in place of the model's earlier one; returns its path."""
    path = checkpoints / SCORES_FILE
    old = files.read_csv(path) if path.is_file() else []
    rows: list[dict[str, Any]] = [*(other for other in old if other.get("checkpoint") != row["checkpoint"]), row]
    rows.sort(key=lambda other: str(other.get("checkpoint")))
    files.write_csv(path, list(row), [[other.get(column, "") for column in row] for other in rows])
    return path
