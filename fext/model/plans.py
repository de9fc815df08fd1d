"""Architectures as data: what a model is made of, stage by stage, with the shapes that follow.

fext.model.autoencoder builds what stands here. A plan is stored in the checkpoint, and a model is always rebuilt
from there, never from what this file says today.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fext.errors import ModelError

Pooling = Literal["max", "avg", "no"]
Activation = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid"]
LastActivation = Literal["sigmoid", "linear"]


@dataclass(frozen=True)
class Stage:
    """A stretch of layers that work at one size; the decoder mirrors it.

    `widths` holds the output channels of its layers. In a plain plan these are convolutions, the first of them with
    `stride`, and the pooling, which halves height and width, comes last. In a residual plan the first layer is a
    downsampling that halves them, and residual blocks follow. In a patch plan squares of `stride` pixels become
    components, on whose grid residual blocks of equal width follow.
    """

    widths: tuple[int, ...]
    kernel_size: int = 3
    stride: int = 1
    pooling: Pooling = "max"

    @property
    def factor(self) -> int:
        """How many times smaller height and width leave it."""
        return self.stride * (1 if self.pooling == "no" else 2)


@dataclass(frozen=True)
class PatchScale:
    """Filters of PATCH_SIDE x PATCH_SIDE pixels, `stride` pixels apart, on pictures made `reduction` times smaller."""

    reduction: int
    stride: int
    num_filters: int


@dataclass(frozen=True)
class Plan:
    """An autoencoder as data.

    A patch plan is built around a linear map from squares of pixels to `components` values and back, of which the first
    are the latent's first channels, those that carry the picture; the layers beside it learn what a linear map cannot.
    The other channels tell what the picture shows: how it answers to the filters of `patches`, above a threshold and
    below its negative. `embedding` holds the sizes of fully connected
    layers between the last stage and the latent, which then is a vector. Dropout acts after each stage of the encoder.
    """

    architecture: str
    picture_shape: tuple[int, int, int]  # height, width, channels
    block: Literal["plain", "residual", "patch"]
    normalization: bool
    stages: tuple[Stage, ...]
    latent_channels: int
    components: int = 0
    dropout_rate: float = 0.0
    activation: Activation = "relu"
    last_activation: LastActivation = "sigmoid"
    embedding: tuple[int, ...] = ()
    patches: tuple[PatchScale, ...] = ()

    @property
    def shown_channels(self) -> int:
        """How many latent channels tell what a picture shows; they come last."""
        return 2 * sum(scale.num_filters for scale in self.patches)

    @property
    def picture_channels(self) -> int:
        """How many latent channels carry the picture itself; they come first."""
        return self.latent_channels - self.shown_channels

    @property
    def factor(self) -> int:
        """How many times smaller height and width leave the last stage."""
        return math.prod(stage.factor for stage in self.stages)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what leaves the last stage."""
        height, width, _ = self.picture_shape
        return height // self.factor, width // self.factor, self.stages[-1].widths[-1]

    @property
    def least_normalized(self) -> int:
        """Positions of the smallest map that is normalized over a batch; 0 where none is."""
        rows, columns, _ = self.map_shape
        last = self.stages[-1]
        grows = 1 if last.pooling == "no" or (self.block == "residual" and len(last.widths) > 1) else 4
        return rows * columns * grows if self.normalization else 0

    @property
    def is_bounded(self) -> bool:
        """Whether reconstructions lie within [0, 1] by themselves."""
        return self.block != "patch" and self.last_activation == "sigmoid"

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latent."""
        height, width, _ = self.map_shape
        return (1, 1, self.latent_channels) if self.embedding else (height, width, self.latent_channels)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        """The plan that to_dict wrote; raises ModelError where fields are missing, unknown or of no sense."""
        try:
            height, width, channels = (_whole(value) for value in data["picture_shape"])
            stages = tuple(map(_stage_from, data["stages"]))
            # The first checkpoints say nothing of these two.
            latent_channels = data.get("latent_channels", stages[-1].widths[-1])
            embedding = tuple(data.get("embedding", ()))
            patches = tuple(PatchScale(**scale) for scale in data.get("patches", ()))
            read = {
                "picture_shape": (height, width, channels), "stages": stages, "latent_channels": latent_channels,
                "embedding": embedding, "patches": patches,
            }  # fmt: skip
            plan = cls(**{**data, **read})
            _check(plan)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(f"the plan of the model is damaged or of a later version of FeXT ({error})") from error
        return plan


def _stage_from(data: Any) -> Stage:
    """A stage as to_dict writes it or, in the first checkpoints, the list of its widths."""
    return Stage(tuple(data)) if isinstance(data, list) else Stage(**{**data, "widths": tuple(data["widths"])})


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


# A plan read from a file that somebody changed must not ask for more memory than any machine has.
_MAX_STAGES, _MAX_LAYERS, _MAX_CHANNELS, _MAX_SIDE = 12, 64, 65_536, 4096
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_REDUX = ((16,), (32,), (64, 64), (128, 128), (512, 512))
_MEDIUM = ((32,), (64, 64), (128, 128), (256, 256, 256), (512, 512, 512))
_LARGE = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512, 512))
# Width and number of the residual blocks beside a linear shortcut, before the latent and again after it.
_PATCHES = {"redux": (256, 2), "medium": (384, 4), "large": (512, 6)}
# A decoder gains by guessing components that the latent does not hold, so there are at least twice as many of them.
_SQUARE_SIDE, _MIN_COMPONENTS = 32, 512
# Of the filters that tell what pictures show: the smallest side at one scale, and the most answers in a row. Those of a
# large picture are further apart, for they take as long as all else together.
PATCH_SIDE = 7
_LEAST_REDUCED_SIDE, _MOST_SCALES = 24, 4
_LARGE_SIDE, _MOST_ANSWERS, _MOST_ANSWERS_OF_LARGE = 192, 64, 32
_CIFAR = ((32, 32), (64, 64), (128, 128))
_CIFAR_DROPOUT = 0.2


@dataclass(frozen=True, kw_only=True)
class CustomStages:
    """What the settings say of a custom plan: one value for each stage; a short list is extended by its last value."""

    filters: Sequence[int]
    layers_per_block: Sequence[int]
    kernel_size: Sequence[int]
    strides: Sequence[int]
    pooling: Sequence[Pooling]
    activation: Activation
    last_activation: LastActivation
    normalization: bool
    embedding: Sequence[int]


def make_plan(
    architecture: str,
    picture_shape: tuple[int, int, int],
    *,
    latent_channels: int = 512,
    linear_shortcut: bool = False,
    picture_channels: int | Literal["auto"] = "auto",
    dropout_rate: float | Literal["auto"] = "auto",
    custom: CustomStages | None = None,
) -> Plan:
    """The plan of a named architecture for pictures of (height, width, channels).

    The linear shortcut is for the residual ones. Raises ModelError where the size cannot be halved often enough.
    """
    dropout = 0.0 if dropout_rate == "auto" else dropout_rate
    if architecture in ("vgg16_bn", "vgg16"):
        stages = _stages(_with_last(_VGG16, latent_channels))
        plan = Plan(
            architecture, picture_shape, "plain", architecture == "vgg16_bn", stages, latent_channels,
            dropout_rate=dropout,
        )  # fmt: skip
    elif has_linear_path(architecture, linear_shortcut):
        plan = _around_linear_path(architecture, picture_shape, latent_channels, picture_channels, dropout)
    elif architecture in _RESIDUAL:
        stages = _stages(_RESIDUAL[architecture])
        plan = Plan(architecture, picture_shape, "residual", True, stages, latent_channels, dropout_rate=dropout)
    elif architecture == "cifar":
        plan = _cifar(picture_shape, _CIFAR_DROPOUT if dropout_rate == "auto" else dropout)
    elif architecture == "custom" and custom is not None:
        plan = _custom(picture_shape, custom, dropout)
    else:
        raise ModelError(f"there is no architecture {architecture!r}")
    _check(plan)
    return plan


def has_linear_path(architecture: str, linear_shortcut: bool) -> bool:
    """Whether a model of that name is built around a linear path."""
    return linear_shortcut and architecture in _RESIDUAL


def _around_linear_path(
    architecture: str,
    picture_shape: tuple[int, int, int],
    latent_channels: int,
    picture_channels: int | Literal["auto"],
    dropout_rate: float,
) -> Plan:
    width, depth = _PATCHES[architecture]
    stage = Stage((width,) * depth, stride=_SQUARE_SIDE, pooling="no")
    kept = -(-latent_channels // 4) if picture_channels == "auto" else picture_channels
    if kept > latent_channels:
        raise ModelError(f"picture_channels = {kept} is more than latent_channels = {latent_channels}: set it lower")
    patches = _patch_scales(min(picture_shape[:2]), (latent_channels - kept) // 2)
    components = max(2 * (latent_channels - 2 * sum(scale.num_filters for scale in patches)), _MIN_COMPONENTS)
    return Plan(
        architecture, picture_shape, "patch", True, (stage,), latent_channels, components, dropout_rate, patches=patches
    )  # fmt: skip


def _patch_scales(side: int, num_filters: int) -> tuple[PatchScale, ...]:
    """So many filters, divided among scales from the picture's own to one at which it is 24 to 48 pixels small."""
    most_answers = _MOST_ANSWERS if side < _LARGE_SIDE else _MOST_ANSWERS_OF_LARGE
    num_scales = min(int(math.log2(max(side / _LEAST_REDUCED_SIDE, 1))) + 1, _MOST_SCALES, num_filters)
    scales = []
    for number in range(num_scales):
        reduction = 2**number
        stride = 1
        while side // (reduction * stride) > most_answers and 2 * reduction * stride <= _SQUARE_SIDE // 2:
            stride *= 2
        share = num_filters // num_scales + (number < num_filters % num_scales)
        scales.append(PatchScale(reduction, stride, share))
    return tuple(scales)


_RESIDUAL = {"redux": _REDUX, "medium": _MEDIUM, "large": _LARGE}


def _stages(widths: Sequence[tuple[int, ...]]) -> tuple[Stage, ...]:
    return tuple(Stage(layers) for layers in widths)


def _with_last(widths: Sequence[tuple[int, ...]], last: int) -> list[tuple[int, ...]]:
    return [*widths[:-1], (*widths[-1][:-1], last)]


def _cifar(picture_shape: tuple[int, int, int], dropout_rate: float) -> Plan:
    """Three blocks for small pictures; the last one keeps their size, so that 32x32 leaves a latent of 8x8x128."""
    first, second, last = _stages(_CIFAR)
    stages = (first, second, Stage(last.widths, pooling="no"))
    return Plan("cifar", picture_shape, "plain", True, stages, last.widths[-1], dropout_rate=dropout_rate)


def _custom(picture_shape: tuple[int, int, int], custom: CustomStages, dropout_rate: float) -> Plan:
    count = len(custom.filters)
    names = ("filters", "layers_per_block", "kernel_size", "strides", "pooling")
    filters, layers, kernels, strides, poolings = (_extended(name, getattr(custom, name), count) for name in names)
    stages = tuple(
        Stage((width,) * depth, kernel, stride, pooling)
        for width, depth, kernel, stride, pooling in zip(filters, layers, kernels, strides, poolings, strict=True)
    )
    embedding = tuple(custom.embedding)
    return Plan(
        "custom",
        picture_shape,
        "plain",
        custom.normalization,
        stages,
        embedding[-1] if embedding else filters[-1],
        dropout_rate=dropout_rate,
        activation=custom.activation,
        last_activation=custom.last_activation,
        embedding=embedding,
    )


def _extended(name: str, values: Sequence[Any], count: int) -> list[Any]:
    """`count` values, where a short list goes on with its last one; raises ModelError where it is too long."""
    if len(values) > count:
        raise ModelError(f"{name} has {len(values)} values, but filters has {count}: give at most one for each stage")
    return [*values, *[values[-1]] * (count - len(values))]


def _check(plan: Plan) -> None:
    """Raise ModelError where a plan cannot be built, TypeError or ValueError where it is none."""
    _check_kinds(plan)
    _check_numbers(plan)
    height, width, channels = plan.picture_shape
    if max(height, width) > _MAX_SIDE or channels > _MAX_CHANNELS:
        raise ModelError(f"pictures of {height}x{width} with {channels} channels are larger than a plan may have")
    if height < plan.factor or width < plan.factor or height % plan.factor or width % plan.factor or channels < 1:
        raise ModelError(
            f"{plan.architecture} makes pictures {plan.factor} times smaller: height and width must be multiples of "
            f"{plan.factor}, not {height}x{width}"
        )


def _check_kinds(plan: Plan) -> None:
    if not plan.stages or not all(stage.widths for stage in plan.stages):
        raise ModelError("a plan needs stages with at least one layer")
    known = (
        plan.block in ("plain", "residual", "patch")
        and isinstance(plan.normalization, bool)
        and plan.activation in get_args(Activation)
        and plan.last_activation in get_args(LastActivation)
        and all(stage.pooling in get_args(Pooling) for stage in plan.stages)
    )
    if not known:
        raise ModelError("the plan of the model is of a later version of FeXT")
    if plan.block != "plain" and plan.embedding:
        raise ModelError("only a plain plan has an embedding")
    if plan.block == "residual" and any(stage != Stage(stage.widths) for stage in plan.stages):
        raise ModelError("a residual plan has stages of 3x3 convolutions that halve height and width")
    stage = plan.stages[0]
    if plan.patches and (plan.block != "patch" or plan.picture_channels < 1):
        raise ModelError("patches belong to a patch plan, beside at least one latent channel for the picture")
    if plan.block == "patch" and (len(plan.stages) > 1 or len(set(stage.widths)) > 1 or stage.pooling != "no"):
        raise ModelError("a patch plan has one stage of blocks of one width, without pooling")


def _check_numbers(plan: Plan) -> None:
    widths = [width for stage in plan.stages for width in stage.widths]
    counts = [*widths, *plan.embedding, plan.latent_channels, plan.components + 1]
    counts += [number for stage in plan.stages for number in (stage.kernel_size, stage.stride)]
    if min(map(_whole, counts)) < 1:
        raise ModelError("the layers of a plan have at least one channel")
    deepest = max(len(stage.widths) for stage in plan.stages)
    if len(plan.stages) > _MAX_STAGES or deepest > _MAX_LAYERS or max(counts) > _MAX_CHANNELS:
        raise ModelError("a plan has at most 12 stages of 64 layers of 65,536 channels")
    if any(stage.kernel_size % 2 == 0 for stage in plan.stages):
        raise ModelError("kernel sizes are odd, so that a convolution keeps height and width")
    if not 0 <= float(plan.dropout_rate) < 1:
        raise ModelError("dropout_rate is from 0 to below 1")
    if plan.block == "plain" and plan.latent_channels != (plan.embedding or widths)[-1]:
        raise ModelError("the latent of a plain plan is what its last layer gives")
    if plan.block == "patch" and plan.components < plan.picture_channels:
        raise ModelError("the latent of a patch plan is made of its first components")
    for scale in plan.patches:
        if min(map(_whole, (scale.reduction, scale.stride, scale.num_filters))) < 1:
            raise ModelError("a scale of patches has at least one filter")
        if plan.factor % (scale.reduction * scale.stride):
            raise ModelError("the answers to patches lie evenly in the squares of a patch plan")
