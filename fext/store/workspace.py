"""Where things lie: the folders of one FeXT installation, and names for what is written into them."""

import re
from dataclasses import dataclass
from pathlib import Path

from fext.errors import CheckpointError, ClassifierError, ExtractionError, FextError, UsageError

MAP_FOLDER, PROJECTOR_CONFIG = "map", "projector_config.pbtxt"  # of an extraction; what TensorBoard looks for in it

# Windows refuses these, and a leading dot or dash hides a folder or looks like an option.
_NAME = re.compile(r"[^\W_][\w .+-]{0,99}", re.UNICODE)


_MAX_NAME_BYTES = 200  # a folder's name has 255 at most, and some are added to it for a while


@dataclass(frozen=True)
class Workspace:
    """The folders below the one that holds featext.py."""

    root: Path

    @property
    def configurations(self) -> Path:
        """The settings, which the user edits."""
        return self.root / "configurations.py"

    @property
    def images(self) -> Path:
        """The images to train on."""
        return self.root / "data" / "images"

    @property
    def samples(self) -> Path:
        """The sample images, where they were asked for."""
        return self.root / "data" / "samples"

    @property
    def validation(self) -> Path:
        """What analyses write."""
        return self.root / "data" / "validation"

    @property
    def checked_images(self) -> Path:
        """What is known of files that pretraining has read."""
        return self.validation / "checked_images.sqlite"

    @property
    def analyzed_images(self) -> Path:
        """What is known of files that an analysis has measured."""
        return self.validation / "analyzed_images.sqlite"

    @property
    def catalogue(self) -> Path:
        """The database of all images, checkpoints and extractions."""
        return self.root / "data" / "fext.sqlite"

    @property
    def checkpoints(self) -> Path:
        """A folder for each checkpoint."""
        return self.root / "training" / "checkpoints"

    @property
    def classifiers(self) -> Path:
        """A folder for each classifier."""
        return self.root / "training" / "classifiers"

    @property
    def logs(self) -> Path:
        """The log files, with the tracebacks of unexpected errors."""
        return self.root / "training" / "logs"

    @property
    def caches(self) -> Path:
        """What libraries keep to find it again; it may be deleted."""
        return self.root / ".cache"

    @property
    def inference(self) -> Path:
        """A folder for each extraction."""
        return self.root / "inference"

    @property
    def inference_images(self) -> Path:
        """Images to extract from; they go before those to train on where there are any."""
        return self.root / "inference" / "images"

    def checkpoint_names(self) -> list[str]:
        """Names of the checkpoints, sorted."""
        return _folders_with(self.checkpoints, "model.json")

    def find_checkpoint(self, name: str | None) -> Path:
        """The folder of a checkpoint given by name or path; without one, the only one there is.

        Raises CheckpointError that lists the names there are.
        """
        names = self.checkpoint_names()
        if name is None:
            if len(names) == 1:
                return self.checkpoints / names[0]
            raise CheckpointError(_which("checkpoint", names, "train one with 'pretrain' first"))
        for folder in (self.checkpoints / name, Path(name)):
            if (folder / "model.json").is_file():
                return folder.resolve()
        raise CheckpointError(_unknown("checkpoint", name, names, "none is trained yet"))

    def new_checkpoint(self, name: str) -> Path:
        """The folder for a new checkpoint; raises CheckpointError where the name is taken or cannot be a folder."""
        folder = self.checkpoints / checked_name(name)
        if folder.exists():
            raise CheckpointError(f"there is already a checkpoint {name}: choose another name")
        return folder

    def extraction_folder(self, name: str) -> Path:
        """The folder of an extraction of that name, new or not; raises ExtractionError where it is kept for images."""
        if name.lower() == self.inference_images.name:
            raise ExtractionError(f"inference/{name} holds the images to extract from: choose another name")
        return self.inference / checked_name(name)

    def extraction_names(self) -> list[str]:
        """Names of the extractions, finished and stopped, sorted."""
        finished = _folders_with(self.inference, "manifest.json")
        return sorted({*finished, *_folders_with(self.inference, "unfinished/extraction.json")})

    def find_extraction(self, name: str | None) -> Path:
        """The folder of an extraction given by name or path; without one, the only one there is.

        Raises ExtractionError that lists the names there are.
        """
        names = self.extraction_names()
        if name is None:
            if len(names) == 1:
                return self.inference / names[0]
            raise ExtractionError(_which("extraction", names, "make one with 'extract' first"))
        for folder in (self.inference / name, Path(name)):
            if (folder / "manifest.json").is_file() or (folder / "unfinished").is_dir():
                return folder.resolve()
        raise ExtractionError(_unknown("extraction", name, names, "none is made yet"))

    def map_names(self) -> list[str]:
        """Names of the extractions that have a map, sorted."""
        return _folders_with(self.inference, f"{MAP_FOLDER}/{PROJECTOR_CONFIG}")

    def find_map(self, name: str) -> Path:
        """The map of an extraction given by name or path; raises ExtractionError where it has none."""
        folder = self.find_extraction(name) / MAP_FOLDER
        if not (folder / PROJECTOR_CONFIG).is_file():
            raise ExtractionError(f"{folder.parent.name} has no map: make one with 'explore map' first")
        return folder

    def anomalies_folder(self, checkpoint: str, source: Path) -> Path:
        """Where a search for anomalies is written: one of the same checkpoint and a source of that name is replaced."""
        return self.inference / _name_of(f"anomalies_{checkpoint}", source)

    def classifier_names(self) -> list[str]:
        """Names of the classifiers that are finished, sorted."""
        return _folders_with(self.classifiers, "classifier.json")

    def find_classifier(self, name: str | None) -> Path:
        """The folder of a classifier given by name or path; without one, the only one there is.

        Raises ClassifierError that lists the names there are.
        """
        names = self.classifier_names()
        if name is None:
            if len(names) == 1:
                return self.classifiers / names[0]
            raise ClassifierError(_which("classifier", names, "train one with 'explore classify' first"))
        for folder in (self.classifiers / name, Path(name)):
            if (folder / "classifier.json").is_file():
                return folder.resolve()
        raise ClassifierError(_unknown("classifier", name, names, "none is trained yet"))

    def free_extraction_name(self, checkpoint: str, source: Path) -> str:
        """A name made of checkpoint and source that no extraction has yet."""
        base = _name_of(checkpoint, source)
        name, number = base, 1
        while (self.inference / name).exists():
            number += 1
            name = f"{base}_{number}"
        return name


def _name_of(checkpoint: str, source: Path) -> str:
    plain_source = re.sub(r"[^\w.+-]", "_", source.stem) or "images"
    return f"{checkpoint}_{plain_source}".encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


def checked_name(name: str) -> str:
    """The name itself, where it can be a folder on every system; raises UsageError else."""
    if not _NAME.fullmatch(name) or name[-1] in ". ":
        raise UsageError(
            f"{name!r} cannot be a name: use up to 100 letters, digits, spaces, '_', '-', '+' and '.', beginning "
            f"with a letter or digit"
        )
    return name


def _which(kind: str, names: list[str], otherwise: str) -> str:
    article = "an" if kind[0] in "aeiou" else "a"
    return f"name {article} {kind}: {', '.join(names)}" if names else f"there is no {kind}: {otherwise}"


def _unknown(kind: str, name: str, names: list[str], otherwise: str) -> str:
    known = f"; {_which(kind, names, otherwise)}" if names else f": {otherwise}"
    return f"there is no {kind} {name}{known}"


def _folders_with(parent: Path, file: str) -> list[str]:
    try:
        folders = [folder for folder in parent.iterdir() if not folder.name.startswith(".")]
        return sorted(folder.name for folder in folders if (folder / file).is_file())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FextError(f"{parent} cannot be read: {error.strerror}") from error
