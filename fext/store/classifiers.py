"""Trained classifiers: a folder for each, which holds numbers and text alone.

classifier.json comes last and makes it whole; while a head is being trained, unfinished.safetensors holds the state
after each epoch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open

from fext.data.images import Preprocessing
from fext.errors import ClassifierError, FextError, is_out_of_memory
from fext.store import files
from fext.store.extractions import ComputedBy
from fext.store.tensors import tensors_from_bytes, tensors_to_bytes

DESCRIPTION, WEIGHTS, UNFINISHED = "classifier.json", "classifier.safetensors", "unfinished.safetensors"
FORMAT_VERSION = 1

Tensors = dict[str, torch.Tensor]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Checkpoint(_Part):
    name: str
    sha256: str
    folder: str


class _Head(_Part):
    stages: Literal["all", "last"]
    width: Annotated[int, Field(ge=1, le=1024)]
    finetuned: bool
    mirrored: bool


class _Accuracy(_Part):
    accuracy: float
    accuracy_interval: Annotated[list[float | None], Field(min_length=2, max_length=2)] = [None, None]


class _Scores(_Accuracy):
    confusion: list[list[int]]


class _Verdict(_Part):
    best_reference: str | None
    sentences: list[str]


class _Described(_Part):
    """What a description must hold to be relied on; somebody may have edited it."""

    format_version: Literal[1]
    method: Literal["probe", "knn", "head"]
    classes: Annotated[list[str], Field(min_length=2)]
    checkpoint: _Checkpoint
    grids: Annotated[list[Literal[8, 4, 2, 1]], Field(min_length=2, max_length=2)] | None
    stages: Literal["last", "all"] | None = None
    head: _Head | None
    computed_by: ComputedBy | None = None  # the first classifiers say nothing of it
    ways: list[dict[str, Any]] = []  # where the rows that it was made of were computed in several
    scores: _Scores | None = None
    references: dict[str, _Accuracy] = {}
    verdict: _Verdict | None = None  # earlier versions say nothing of it
    weights_sha256: str


@dataclass(frozen=True)
class Classifier:
    """A classifier as it is stored; `description` is what classifier.json says."""

    folder: Path
    description: dict[str, Any]
    tensors: Tensors

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def method(self) -> str:
        """'probe', 'knn' or 'head'."""
        return str(self.description["method"])

    @property
    def classes(self) -> list[str]:
        """The names of the classes; a code is a place in this list."""
        return list(self.description["classes"])


def save_classifier(folder: Path, tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> None:
    """Write a classifier; what was kept of its training goes."""
    weights = tensors_to_bytes(tensors)
    whole = {
        "format_version": FORMAT_VERSION,
        **description,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = files.json_text(whole).encode()
    files.write_together(
        [
            (folder / WEIGHTS, lambda stream: stream.write(weights)),
            (folder / DESCRIPTION, lambda stream: stream.write(text)),
        ]
    )
    files.remove_file(folder / UNFINISHED)


def load_classifier(folder: Path) -> Classifier:
    """Read a classifier; raises ClassifierError where it is missing, damaged or of a later version."""
    description = read_description(folder)
    try:
        weights = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
            raise ClassifierError(f"the classifier {folder.name} is damaged: {WEIGHTS} is not what {DESCRIPTION} says")
        # Copied out of the file's bytes, where they lie at any address.
        return Classifier(folder, description, {name: one.clone() for name, one in tensors_from_bytes(weights).items()})
    except OSError as error:
        raise ClassifierError(f"the classifier {folder.name} is damaged: {WEIGHTS} cannot be read") from error


def read_description(folder: Path) -> dict[str, Any]:
    """What classifier.json says; raises ClassifierError where it cannot be relied on."""
    try:
        description = files.read_json(folder / DESCRIPTION)
    except FextError as error:
        raise ClassifierError(f"the classifier {folder.name} is damaged: {error}") from error
    if isinstance(description, dict) and description.get("format_version", 0) not in (0, FORMAT_VERSION):
        raise ClassifierError(f"the classifier {folder.name} is of a later version of FeXT: update FeXT")
    try:
        _Described.model_validate(description)
        Preprocessing(**description["preprocessing"])
    except (ValidationError, KeyError, TypeError) as error:
        raise ClassifierError(f"the classifier {folder.name} is damaged: {DESCRIPTION} lacks something") from error
    assert isinstance(description, dict)
    return description


def save_state(folder: Path, tensors: Mapping[str, torch.Tensor], words: Mapping[str, Any]) -> None:
    """Keep how far training has come, in one file."""
    files.write_bytes(folder / UNFINISHED, tensors_to_bytes(tensors, {"state": json.dumps(words)}))


def load_state(folder: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """What save_state kept; None where there is nothing that can be relied on."""
    try:
        with safe_open(folder / UNFINISHED, "pt") as stored:
            words = json.loads(stored.metadata()["state"])
            return {name: stored.get_tensor(name).clone() for name in stored.keys()}, words  # noqa: SIM118
    except Exception as error:  # a file that is missing or damaged in any way: training begins anew
        if is_out_of_memory(error):
            raise
        return None
