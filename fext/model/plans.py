"""Architectures as data: what a model is made of, stage by stage, with the shapes that follow.

fext.model.autoencoder builds what stands here. A plan is stored in the checkpoint, and a model is always rebuilt
from there, never from what this file says today.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fext.errors import ModelError


@dataclass(frozen=True)
class Plan:
    """An autoencoder as data.

    `stages` holds, for each halving of height and width, the output channels of its layers: 3x3 convolutions followed
    by a pooling where `block` is 'plain', a downsampling followed by residual blocks where it is 'residual'. The
    decoder mirrors the encoder.
    """

    architecture: str
    picture_shape: tuple[int, int, int]  # height, width, channels
    block: Literal["plain", "residual"]
    normalization: bool
    stages: tuple[tuple[int, ...], ...]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latent."""
        height, width, _ = self.picture_shape
        factor = 2 ** len(self.stages)
        return height // factor, width // factor, self.stages[-1][-1]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        """The plan that to_dict wrote; raises ModelError where fields are missing, unknown or of no sense."""
        try:
            height, width, channels = (_whole(value) for value in data["picture_shape"])
            stages = tuple(tuple(_whole(layer) for layer in stage) for stage in data["stages"])
            plan = cls(**{**data, "picture_shape": (height, width, channels), "stages": stages})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"the plan of the model is damaged or of a later version of FeXT ({error})") from error
        _check(plan)
        return plan


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


# A plan read from a file that somebody changed must not ask for more memory than any machine has.
_MAX_STAGES, _MAX_LAYERS, _MAX_CHANNELS, _MAX_SIDE = 12, 64, 65_536, 4096
_VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_REDUX_STAGES = ((16,), (32,), (64, 64), (128, 128), (512, 512))


def make_plan(architecture: str, picture_shape: tuple[int, int, int]) -> Plan:
    """The plan of a named architecture for pictures of (height, width, channels)."""
    if architecture == "vgg16_bn":
        plan = Plan(architecture, picture_shape, "plain", True, _VGG16_STAGES)
    elif architecture == "vgg16":
        plan = Plan(architecture, picture_shape, "plain", False, _VGG16_STAGES)
    elif architecture == "redux":
        plan = Plan(architecture, picture_shape, "residual", True, _REDUX_STAGES)
    else:
        raise ModelError(f"there is no architecture {architecture!r}")
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    factor = 2 ** len(plan.stages)
    height, width, channels = plan.picture_shape
    if plan.block not in ("plain", "residual") or not isinstance(plan.normalization, bool):
        raise ModelError("the plan of the model is of a later version of FeXT")
    if not plan.stages or not all(plan.stages) or min(min(stage) for stage in plan.stages) < 1:
        raise ModelError("a plan needs stages with at least one layer of at least one channel")
    widest = max(max(stage) for stage in plan.stages)
    if len(plan.stages) > _MAX_STAGES or max(map(len, plan.stages)) > _MAX_LAYERS or widest > _MAX_CHANNELS:
        raise ModelError("a plan has at most 12 stages of 64 layers of 65,536 channels")
    if max(height, width) > _MAX_SIDE or channels > _MAX_CHANNELS:
        raise ModelError(f"pictures of {height}x{width} with {channels} channels are larger than a plan may have")
    if height < factor or width < factor or height % factor or width % factor or channels < 1:
        raise ModelError(
            f"{plan.architecture} halves pictures {len(plan.stages)} times: height and width must be multiples of "
            f"{factor}, not {height}x{width}"
        )
