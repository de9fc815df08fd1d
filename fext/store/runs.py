"""How far a training run has come, read without loading its weights."""

from pathlib import Path

from fext.errors import CheckpointError
from fext.store import files


def run_progress(folder: Path) -> tuple[int, int, bool]:
    """(epochs done, epochs asked for, finished) of a checkpoint."""
    description = files.read_json(folder / "model.json")
    asked = files.read_json(folder / "configurations.json")
    try:
        training = description["training"]
        return int(training["epochs"]), int(asked["epochs"]), bool(training["finished"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {folder.name} is damaged: {error}") from error
