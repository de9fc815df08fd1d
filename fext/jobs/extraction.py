"""What an extraction is: what its rows hold, how they are computed, and which folder is the one to go on with.

An extraction is the same one where source, checkpoint and the settings that shape a row are the same. How it is
computed (device, precision, engine, batch shape) is fixed when it begins.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fext.compute.device import Computation, prepare_computation
from fext.compute.engines import EngineName, RowShape, choose_engine, engine_version, images_together
from fext.data.images import DECODERS
from fext.data.names import Names, readable
from fext.data.source import ImageSource, known_images
from fext.errors import CheckpointError, DeviceError, ExtractionError, FextError
from fext.model.stages import stage_channels
from fext.settings import Settings, change_settings
from fext.store import extractions
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.extractions import Description
from fext.store.tables import Columns
from fext.store.workspace import Workspace

FLATTEN_ORDER = "row, column, channel"
DIRECT = "direct"  # how convolutions are computed, unless by Winograd's method


@dataclass(frozen=True)
class Extraction:
    """One extraction: the model, the images, what a row holds, how it is computed, and where it lies."""

    folder: Path
    checkpoint: Checkpoint
    source: ImageSource
    settings: Settings
    computation: Computation
    engine: EngineName
    shape: RowShape
    num_together: int

    @property
    def columns(self) -> Columns:
        """What a row holds: grid x grid positions of the latent or of all stages, and the error where asked for."""
        plan = self.checkpoint.plan
        channels = sum(stage_channels(plan)) if self.shape.all_stages else plan.latent_shape[2]
        return Columns(self.settings.feature_grid**2 * channels, self.shape.has_error)

    @property
    def batch_size(self) -> int:
        """Images read at a time."""
        return self.settings.inference_batch_size if self.computation.device.type == "cpu" else self.num_together

    def describe(self) -> str:
        """Such as 'CPU (Intel Xeon), bfloat16, openvino'."""
        return f"{self.computation.describe()}, {self.engine}"

    def description(self) -> Description:
        """What is written of it: with the counts, its manifest."""
        checkpoint = self.checkpoint
        return {
            "format_version": extractions.FORMAT_VERSION,
            "checkpoint": {
                "name": checkpoint.name,
                "sha256": checkpoint.sha256,
                "folder": readable(str(checkpoint.folder.resolve())),
            },
            "source": full_path(self.source),
            "preprocessing": asdict(checkpoint.preprocessing),
            "feature_grid": self.settings.feature_grid,
            "feature_stages": self.settings.feature_stages,
            "flatten_order": FLATTEN_ORDER,
            "num_features": self.columns.num_features,
            "reconstruction_error": self.columns.has_error,
            "computed_by": self._computed_by(),
            "settings": self.settings.model_dump(mode="json"),
        }

    def _computed_by(self) -> dict[str, Any]:
        height, width, channels = self.checkpoint.preprocessing.shape
        return {
            "device": self.computation.device_kind(),
            "precision": self.computation.precision,
            "convolutions": self._convolutions(),
            "engine": self.engine,
            "engine_version": engine_version(self.engine),
            "decoders": f"{DECODERS}, preprocessing {self.checkpoint.preprocessing.version}",
            "batch_shape": [self.num_together, channels, height, width],
        }

    def _convolutions(self) -> str:
        by_winograd = self.engine == "torch" and self.computation.filters_by_winograd(self.checkpoint.model)
        return "winograd" if by_winograd else DIRECT


def full_path(source: ImageSource) -> str:
    """The path that tells a source from another of the same name."""
    return str(source.location.resolve())


def checkpoint_of(workspace: Workspace, manifest: Description, what: str = "the table") -> Checkpoint:
    """The checkpoint that a finished extraction or a classifier was made with, where its folder lies or by its name.

    Raises CheckpointError where it is gone or has other weights by now.
    """
    name, folder = manifest["checkpoint"]["name"], Path(manifest["checkpoint"]["folder"])
    if not (folder / "model.json").is_file():
        try:
            folder = workspace.find_checkpoint(name)
        except CheckpointError as error:
            raise CheckpointError(f"its checkpoint {name} is gone, and this needs it: bring its folder back") from error
    checkpoint = load_checkpoint(folder)
    if checkpoint.sha256 != manifest["checkpoint"]["sha256"]:
        raise CheckpointError(f"{what} was not made with {checkpoint.name} as it is now: its weights are others")
    return checkpoint


def stages_of(description: Description) -> str:
    """Which stages of the encoder rows hold; the first extractions say nothing of it."""
    return str(description.get("feature_stages", "last"))


def remade_extraction(
    workspace: Workspace, settings: Settings, folder: Path, manifest: Description
) -> tuple[Extraction, str]:
    """A finished extraction as it was made, to encode with once more, and ''; its source knows no names.

    Where this machine cannot compute in that way, as near to it as can be, and why. Raises CheckpointError where the
    model is gone or is another one by now.
    """
    checkpoint = checkpoint_of(workspace, manifest)
    source = known_images(Path(manifest["source"]), Names([]))
    computed_by = manifest["computed_by"]
    settings = change_settings(
        settings,
        feature_grid=manifest["feature_grid"],
        feature_stages=stages_of(manifest),
        reconstruction_error=manifest["reconstruction_error"],
    )
    exact = change_settings(
        settings,
        inference_engine=computed_by["engine"],
        use_mixed_precision=computed_by["precision"] != "float32",
    )
    try:
        return join_extraction(folder, exact, checkpoint, source, manifest), ""
    except FextError as error:
        return join_extraction(folder, settings, checkpoint, source, None), str(error)


def row_shape(settings: Settings, checkpoint: Checkpoint) -> RowShape:
    """What a row is made of; raises ExtractionError where feature_grid does not divide the latent."""
    rows, columns, _ = checkpoint.plan.latent_shape
    grid = settings.feature_grid
    if rows % grid or columns % grid:
        raise ExtractionError(
            f"feature_grid = {grid} does not fit the {rows}x{columns} latent of {checkpoint.name}: choose a grid that "
            f"divides both"
        )
    all_stages = settings.feature_stages == "all"
    is_whole = rows == columns == grid and not all_stages
    return RowShape(None if is_whole else grid, settings.reconstruction_error, all_stages)


def choose_extraction(
    workspace: Workspace, settings: Settings, checkpoint: Checkpoint, source: ImageSource, name: str | None
) -> Extraction:
    """The extraction to begin or to go on with; without a name, the one there is of this checkpoint and source.

    Raises ExtractionError where the name is another extraction's, or where this machine cannot go on with it.
    """
    row_shape(settings, checkpoint)  # a grid that does not fit is no other extraction, but a wrong setting
    folder = _folder(workspace, settings, checkpoint, source, name)
    before = extractions.describe(folder)
    if before is None or extractions.has_nothing(folder):
        return join_extraction(folder, settings, checkpoint, source, None)
    try:
        return join_extraction(folder, _as_before(settings, before["computed_by"]), checkpoint, source, before)
    except DeviceError as error:
        raise _cannot_go_on(folder, str(error)) from error


def join_extraction(
    folder: Path, settings: Settings, checkpoint: Checkpoint, source: ImageSource, description: Description | None
) -> Extraction:
    """An extraction that was begun elsewhere, with the settings given.

    Raises ExtractionError where a description is given and this process would compute in another way.
    """
    computation = prepare_computation(settings)
    engine = choose_engine(settings, computation, checkpoint.model)
    if _keeps_float32(engine, checkpoint):
        computation = replace(computation, precision="float32")
    shape = row_shape(settings, checkpoint)
    # Rows may depend in their last bits on how many images are computed together: it is what it was at first.
    before = description["computed_by"]["batch_shape"][0] if description is not None else None
    num_together = before or images_together(checkpoint.preprocessing.shape, computation, settings.inference_batch_size)
    extraction = Extraction(folder, checkpoint, source, settings, computation, engine, shape, num_together)
    if description is not None:
        _refuse_other_ways(folder, description["computed_by"], extraction.description()["computed_by"])
    return extraction


def _folder(
    workspace: Workspace, settings: Settings, checkpoint: Checkpoint, source: ImageSource, name: str | None
) -> Path:
    if name is not None:
        folder = workspace.extraction_folder(name)
        if folder.exists() and not _is_same(extractions.describe(folder), settings, checkpoint, source):
            raise ExtractionError(
                f"inference/{name} is another extraction (of another checkpoint, source or settings): choose another "
                f"name"
            )
        return folder
    for known in workspace.extraction_names():
        folder = workspace.inference / known
        if _is_same(extractions.describe(folder), settings, checkpoint, source):
            return folder
    return workspace.inference / workspace.free_extraction_name(checkpoint.name, source.location)


def _is_same(description: Description | None, settings: Settings, checkpoint: Checkpoint, source: ImageSource) -> bool:
    """Whether a folder is the extraction that is asked for; a setting that says 'auto' takes what it has."""
    return (
        description is not None
        and description["checkpoint"]["sha256"] == checkpoint.sha256
        and description["source"] == full_path(source)
        and description["feature_grid"] == settings.feature_grid
        and stages_of(description) == settings.feature_stages
        and description["reconstruction_error"] == settings.reconstruction_error
        and _may_compute_so(settings, checkpoint, description["computed_by"])
    )


def _keeps_float32(engine: str, checkpoint: Checkpoint) -> bool:
    """OpenVINO would round a linear path, too, in bfloat16: with it such a model computes in float32."""
    return engine == "openvino" and checkpoint.plan.block == "patch"


def _may_compute_so(settings: Settings, checkpoint: Checkpoint, computed_by: dict[str, Any]) -> bool:
    engine = computed_by["engine"] if settings.inference_engine == "auto" else settings.inference_engine
    is_mixed = computed_by["precision"] != "float32"
    device = settings.training_device.replace("cuda", "GPU").partition(":")[0]
    return (
        (settings.use_mixed_precision in ("auto", is_mixed) or _keeps_float32(engine, checkpoint))
        and engine == computed_by["engine"]
        and (device == "auto" or computed_by["device"].startswith(device))
    )


def _as_before(settings: Settings, computed_by: dict[str, Any]) -> Settings:
    """The settings with what was fixed when the extraction began."""
    return change_settings(
        settings,
        use_mixed_precision=computed_by["precision"] != "float32",
        inference_engine=computed_by["engine"],
    )


def _refuse_other_ways(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in {"convolutions": DIRECT, **before}.items():  # the first extractions say nothing of it
        if now[key] != value:
            raise _cannot_go_on(folder, f"its {key.replace('_', ' ')} is {value}, here it would be {now[key]}")


def _cannot_go_on(folder: Path, why: str) -> ExtractionError:
    return ExtractionError(
        f"inference/{folder.name} cannot go on in the way in which it was begun ({why}): give --name to begin another "
        f"extraction beside it"
    )
