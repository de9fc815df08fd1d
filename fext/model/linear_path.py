"""Encoder and decoder around a linear path: a linear map from squares of pixels to the latent and back, and beside it
residual blocks that learn what a linear map cannot.

High compression is hard to train: minutes of it take a plain stack to some 20 dB, where principal components of the
same size stand at 34 (README.md). So the path starts as they do (start_at_components), scaled to variance 1, and stays
as it is. The blocks see more components than the latent has channels, on the grid of the latent, where their
convolutions are cheap; their last layers start at zero, so that the whole starts as the linear map. The path computes
in float32 whatever the precision, for its largest components are two hundred times its smallest; training goes around
that (fext.model.component_errors).

The first channels of the latent carry the picture so. The others tell what it shows (fext.model.patch_responses), and
the decoder sees both. Beside these, the channels of the picture keep the proportions that they have in pictures, and
are small: similarity would else go by what is least in a picture, brought to the variance of the most.

benchmarks/README.md shows what else was tried. Zero-initialized ends as in Goyal et al., 'Accurate, large minibatch
SGD', 2017.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional

from fext.model.linear_map import LinearMap, to_blocks, to_images
from fext.model.patch_responses import PatchResponses
from fext.model.plans import Plan

# What varies less than this, five grey levels over a whole square, is noise, or there were too few images to know it:
# it is not scaled up to variance 1. The 512th component of photographs has a deviation of 0.07.
_LEAST_DEVIATION = 5 / 255
# Variance of the channels that carry the picture, all together, for each 1 of those that tell what it shows. Similarity
# of square roots (fext.compute.normalization), which make small values larger, still goes by the others.
_SHARE_OF_PICTURE = 1 / 1024


class GridResidual(nn.Module):
    """A convolution and a 1x1 one added to the input; (N, width, H, W) to the same shape."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2)
        self.second = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = images + self.second(functional.gelu(self.first(self.norm(images))))
        return changed

    def start_at_shortcut(self) -> None:
        """Let the branch begin at nothing."""
        nn.init.zeros_(self.second.weight)


class LinearPathEncoder(nn.Module):
    """(N, C, H, W) to the latent (N, latent channels, rows, columns): what carries the picture, then what it shows."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.picture_channels = plan.picture_channels
        self.block = _block(plan)
        self.linear = nn.Linear(_num_values(plan), plan.components).requires_grad_(False)
        self.branch = _branch(plan, plan.components, plan.picture_channels, plan.dropout_rate)
        self.weights = _weights(plan)
        self.responses = PatchResponses(plan) if plan.patches else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stages(images)[1]

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The components (N, components, rows, columns), and the latent that is made of them and of what is shown."""
        with _in_float32(images.device):
            components = self.linear(to_blocks(images.float(), self.block)).permute(0, 3, 1, 2)
        return components, self.latent_of(components, self.shown(images))

    def shown(self, images: torch.Tensor) -> torch.Tensor | None:
        """The channels that tell what images show; None where there are none."""
        if self.responses is None:
            return None
        with _in_float32(images.device):
            shown: torch.Tensor = self.responses(images.float())
        return shown

    def latent_of(self, components: torch.Tensor, shown: torch.Tensor | None) -> torch.Tensor:
        """The latent that is made of the components, and of what is shown."""
        picture: torch.Tensor = components[:, : self.picture_channels] + self.branch(components)
        if shown is None or self.weights is None:
            return picture
        return torch.cat([picture * self.weights, shown], dim=1)

    def units(self) -> torch.Tensor | float:
        """What 1 is in each channel of the latent, (channels, 1, 1), as far as it was scaled."""
        if self.weights is None or self.responses is None:
            return 1.0
        return torch.cat([self.weights, self.weights.new_ones(self.responses.num_channels, 1, 1)])

    def take_shown(self, other: "LinearPathEncoder") -> None:
        """Let what tells what a picture shows be that of another encoder of the same plan."""
        if self.responses is not None and other.responses is not None:
            self.responses.load_state_dict(other.responses.state_dict())

    def start_at_linear_path(self) -> None:
        """Let the branch begin at nothing."""
        _start_at_nothing(self.branch)


class LinearPathDecoder(nn.Module):
    """The latent (N, latent channels, rows, columns) to (N, C, H, W), about [0, 1]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.picture_channels = plan.picture_channels
        self.num_missing = plan.components - plan.picture_channels
        self.block = _block(plan)
        self.branch = _branch(plan, plan.latent_channels, plan.components)
        self.weights = _weights(plan)
        self.linear = nn.Linear(plan.components, _num_values(plan)).requires_grad_(False)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        components = self.components_of(latent)
        with _in_float32(latent.device):
            blocks = self.linear(components.float().permute(0, 2, 3, 1))
        return to_images(blocks, self.block)

    def components_of(self, latent: torch.Tensor) -> torch.Tensor:
        """The components (N, components, rows, columns) that are made of the latent."""
        if self.weights is not None:
            picture, shown = latent[:, : self.picture_channels], latent[:, self.picture_channels :]
            picture = picture / self.weights
            latent = torch.cat([picture, shown], dim=1)
        else:
            picture = latent
        components: torch.Tensor = functional.pad(picture, (0, 0, 0, 0, 0, self.num_missing)) + self.branch(latent)
        return components

    def start_at_linear_path(self) -> None:
        """Let the branch begin at nothing."""
        _start_at_nothing(self.branch)


def start_at_components(encoder: LinearPathEncoder, decoder: LinearPathDecoder, linear_map: LinearMap) -> None:
    """Let the path be a linear map that has learned and finished: the first component varies most, each by 1."""
    count = min(len(linear_map.directions()), encoder.linear.out_features)  # fewer, where a square has fewer values
    directions = linear_map.directions()[:count]
    deviations = linear_map.deviations()[:count].clamp_min(_LEAST_DEVIATION)
    with torch.no_grad():
        for values in (encoder.linear.weight, encoder.linear.bias, decoder.linear.weight):
            values.zero_()
        encoder.linear.weight[:count] = directions / deviations[:, None]
        encoder.linear.bias[:count] = -(directions @ linear_map.mean()) / deviations
        decoder.linear.weight[:, :count] = (directions * deviations[:, None]).T
        decoder.linear.bias.copy_(linear_map.mean())
        if encoder.weights is not None and decoder.weights is not None and encoder.responses is not None:
            kept = deviations[: encoder.picture_channels]
            variance = _SHARE_OF_PICTURE * encoder.responses.num_channels  # of those that tell what is shown, 1 each
            for weights in (encoder.weights, decoder.weights):
                weights[: len(kept)] = (kept * (variance / kept.square().sum()).sqrt())[:, None, None]


def _in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Leaves autocast where it is in force; elsewhere nothing is to be left, and what traces a model sees nothing."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _block(plan: Plan) -> tuple[int, int]:
    """Height and width of the squares, in pixels."""
    return plan.stages[0].stride, plan.stages[0].stride


def _num_values(plan: Plan) -> int:
    height, width = _block(plan)
    return height * width * plan.picture_shape[2]


def _weights(plan: Plan) -> nn.Parameter | None:
    """What each channel that carries the picture is multiplied by in the latent, (picture channels, 1, 1)."""
    return nn.Parameter(torch.ones(plan.picture_channels, 1, 1), requires_grad=False) if plan.patches else None


def _start_at_nothing(branch: nn.Sequential) -> None:
    last = branch[-1]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)


def _branch(plan: Plan, channels: int, out_channels: int, dropout_rate: float = 0.0) -> nn.Sequential:
    """1x1 into the width of the blocks, the blocks, and 1x1 out of it."""
    widths, kernel_size = plan.stages[0].widths, plan.stages[0].kernel_size
    return nn.Sequential(
        nn.Conv2d(channels, widths[0], kernel_size=1),
        *(GridResidual(width, kernel_size) for width in widths),
        *([nn.Dropout2d(dropout_rate)] if dropout_rate else []),
        nn.BatchNorm2d(widths[-1]),
        nn.Conv2d(widths[-1], out_channels, kernel_size=1),
    )
