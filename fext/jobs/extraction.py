"""What an extraction is: what its rows hold, how they are computed, and which folder is the one to go on with.

An extraction is the same one where source, checkpoint and the settings that shape a row are the same. How it is
computed (device, precision, engine, batch shape) is fixed when it begins.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fext.compute.device import Computation, prepare_computation
from fext.compute.engines import EngineName, RowShape, choose_engine, engine_version, images_together
from fext.data.images import DECODERS
from fext.data.names import Names, readable
from fext.data.source import ImageSource, known_images
from fext.errors import CheckpointError, DeviceError, ExtractionError, FextError, OtherWayError
from fext.model.stages import stage_channels
from fext.settings import Settings, change_settings
from fext.store import extractions
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.extractions import Description
from fext.store.tables import Columns
from fext.store.workspace import Workspace

FLATTEN_ORDER = "row, column, channel"
_ANY = "any"  # what a classifier is made of is not promised to the bit
DIRECT = "direct"  # how convolutions are computed, unless by Winograd's method

# What to do where rows were computed in another way than new ones would be: stop, encode all anew, or go on knowingly.
Ways = Literal["stop", "anew", "mixed"]
WAYS: tuple[Ways, ...] = ("stop", "anew", "mixed")


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
        """Images read at a time: as many as are asked for, and whole groups of those that are computed together."""
        if self.computation.device.type != "cpu":
            return self.num_together
        return -(-self.settings.inference_batch_size // self.num_together) * self.num_together

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
            "computed_by": self.computed_by(),
            "settings": self.settings.model_dump(mode="json"),
        }

    def computed_by(self) -> dict[str, Any]:
        """All that the bits of a row depend on, beside the model and the file."""
        return way_to_compute(self.checkpoint, self.computation, self.engine, self.num_together)


def way_to_compute(
    checkpoint: Checkpoint,
    computation: Computation,
    engine: EngineName,
    num_together: int,
    threads_per_batch: int | Literal["any"] = 1,
) -> dict[str, Any]:
    """All that the bits of what an encoder makes of an image depend on, as extractions and classifiers keep it."""
    height, width, channels = checkpoint.preprocessing.shape
    by_winograd = engine == "torch" and computation.filters_by_winograd(checkpoint.model)
    return {
        "device": computation.device_kind(),
        "precision": computation.precision,
        "convolutions": "winograd" if by_winograd else DIRECT,
        "engine": engine,
        "engine_version": engine_version(engine),
        "decoders": f"{DECODERS}, preprocessing {checkpoint.preprocessing.version}",
        "batch_shape": [num_together, channels, height, width],
        **({"threads_per_batch": threads_per_batch} if computation.device.type == "cpu" else {}),
    }


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
    workspace: Workspace, settings: Settings, folder: Path, manifest: Description, what: str = "the table"
) -> tuple[Extraction, str]:
    """A finished extraction as it was made, to encode with once more, and ''; its source knows no names.

    Where this machine cannot compute in that way, as near to it as can be, and why; where its rows were made in several
    ways, by the newest, and that they were. Raises CheckpointError where the model is gone or is another one by now.
    """
    checkpoint = checkpoint_of(workspace, manifest, what)
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
        extraction = own_extraction(folder, exact, checkpoint, source, computed_by)
    except FextError as error:
        return own_extraction(folder, settings, checkpoint, source), str(error)
    several = f"its rows were made in {len(manifest['ways'])} ways" if len(manifest.get("ways", [])) > 1 else ""
    return extraction, differing_ways(computed_by, extraction.computed_by()) or several


def row_shape(settings: Settings, checkpoint: Checkpoint) -> RowShape:
    """What a row is made of; raises ExtractionError where feature_grid is finer than the latent."""
    rows, columns, _ = checkpoint.plan.latent_shape
    grid = settings.feature_grid
    if grid > min(rows, columns):
        raise ExtractionError(
            f"feature_grid = {grid} does not fit the {rows}x{columns} latent of {checkpoint.name}: choose a grid of at "
            f"most {min(rows, columns)}"
        )
    all_stages = settings.feature_stages == "all"
    is_whole = rows == columns == grid and not all_stages
    return RowShape(None if is_whole else grid, settings.reconstruction_error, all_stages)


def choose_extraction(
    workspace: Workspace,
    settings: Settings,
    checkpoint: Checkpoint,
    source: ImageSource,
    name: str | None,
    ways: Ways = "stop",
) -> Extraction:
    """The extraction to begin or to go on with; without a name, the one there is of this checkpoint and source.

    Raises ExtractionError where the name is another extraction's, and OtherWayError where this machine cannot compute
    as it was begun, unless `ways` says what to do: 'anew' computes as the settings say, 'mixed' as near as can be to
    what was begun.
    """
    row_shape(settings, checkpoint)  # a grid that does not fit is no other extraction, but a wrong setting
    folder = _folder(workspace, settings, checkpoint, source, name)
    before = extractions.describe(folder)
    if before is None or extractions.has_nothing(folder):
        return own_extraction(folder, settings, checkpoint, source)
    computed_by = before["computed_by"]
    try:
        extraction = own_extraction(folder, _as_before(settings, computed_by), checkpoint, source, computed_by)
        differences = differing_ways(computed_by, extraction.computed_by())
    except DeviceError as error:
        extraction, differences = None, str(error)
    if not differences and extraction is not None:
        return extraction
    if ways == "stop":
        raise _cannot_go_on(folder, differences)
    if ways == "anew" or extraction is None:
        return own_extraction(folder, settings, checkpoint, source)
    return extraction


def own_extraction(
    folder: Path,
    settings: Settings,
    checkpoint: Checkpoint,
    source: ImageSource,
    computed_by: Mapping[str, Any] | None = None,
) -> Extraction:
    """An extraction as the settings say on this machine; as many images together as rows were computed by before."""
    computation = prepare_computation(settings)
    engine = choose_engine(settings, computation, checkpoint.model)
    if _keeps_float32(engine, checkpoint):
        computation = replace(computation, precision="float32")
    shape = row_shape(settings, checkpoint)
    num_together = (
        images_together(computation, settings.inference_batch_size)
        if computed_by is None
        else computed_by["batch_shape"][0]
    )
    return Extraction(folder, checkpoint, source, settings, computation, engine, shape, num_together)


def join_extraction(
    folder: Path, settings: Settings, checkpoint: Checkpoint, source: ImageSource, description: Description
) -> Extraction:
    """The extraction that another process has begun; raises ExtractionError where this one computes in another way."""
    extraction = own_extraction(folder, settings, checkpoint, source, description["computed_by"])
    differences = differing_ways(description["computed_by"], extraction.computed_by())
    if differences:
        raise ExtractionError(
            f"this process would compute rows in another way than the first one ({differences}): start all processes "
            f"on machines of one kind"
        )
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


def differing_ways(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two ways to compute rows, to be read; '' where nothing does."""
    known = {"convolutions": DIRECT, "threads_per_batch": "not told", **before}  # the first ones say nothing of these
    return "; ".join(
        f"its {key.replace('_', ' ')} is {known[key]}, here it would be {value}"
        for key, value in now.items()
        if known.get(key) not in (value, _ANY)
    )


def _cannot_go_on(folder: Path, why: str) -> OtherWayError:
    return OtherWayError(
        f"inference/{folder.name} cannot go on in the way in which it was begun ({why})",
        "'extract --ways anew' encodes all of its images anew, '--ways mixed' goes on with rows that differ by "
        "rounding, '--name' begins another extraction beside it",
    )
