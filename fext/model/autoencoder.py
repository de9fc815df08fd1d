"""A plan becomes a PyTorch module: an encoder, the latent between, and a decoder that mirrors it.

Tensors are (N, C, H, W) float32 in [0, 1] on the way in and about so on the way out; the latent of a 256x256 picture
is (N, 512, 8, 8).
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import nn

from fext.model.blocks import Downsample, Residual, Upsample, UpsampledConvolution
from fext.model.linear_path import GridResidual, LinearPathDecoder, LinearPathEncoder
from fext.model.plans import Plan, Stage
from fext.model.winograd import Convolution


class Sigmoid(nn.Sigmoid):
    """In float32 whatever the precision: bfloat16 would make 1 of 0.998, of which nothing is left to learn."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of any shape to the same shape, float32, between 0 and 1."""
        return super().forward(values.float())


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.1, inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "selu": lambda: nn.SELU(inplace=True),
    "gelu": nn.GELU,
    "silu": lambda: nn.SiLU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
_LAST_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"sigmoid": Sigmoid, "linear": nn.Identity}


class Autoencoder(nn.Module):
    """Encoder and decoder of a plan, for weights to be loaded into; build_autoencoder makes one to train."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        build_encoder, build_decoder = _BUILDERS[plan.block]
        self.encoder = build_encoder(plan)
        self.decoder = build_decoder(plan)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct images: (N, C, H, W) in [0, 1] to the same shape; values may lie a little outside of [0, 1]."""
        latent: torch.Tensor = self.encoder(images)
        reconstructions: torch.Tensor = self.decoder(latent)
        return reconstructions


def build_autoencoder(plan: Plan, seed: int) -> Autoencoder:
    """Build the model of a plan with weights drawn from `seed`, leaving torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Autoencoder(plan)
        _initialize(model.modules())
    return model


def num_parameters(plan: Plan) -> int:
    """How many weights the model of a plan has, told without making room for them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in Autoencoder(plan).parameters())


def _plain_encoder(plan: Plan) -> nn.Sequential:
    """The layers of torchvision's VGG feature stack, in its order, so that its weights load one to one.

    Simonyan and Zisserman, 'Very deep convolutional networks for large-scale image recognition', 2015. Other plans add
    strides, dropout, and fully connected layers at the end, each activated but the last, which is the latent.
    """
    layers: list[nn.Module] = []
    channels = plan.picture_shape[2]
    for stage in plan.stages:
        for number, width in enumerate(stage.widths):
            layers += _activated(plan, _convolution(stage, channels, width, stage.stride if number == 0 else 1))
            channels = width
        layers += _end_of_stage(plan, stage)
    if plan.embedding:
        rows, columns, channels = plan.map_shape
        layers.append(nn.Flatten())
        layers += _connected(plan, [rows * columns * channels, *plan.embedding])
        layers.append(nn.Unflatten(1, (plan.latent_channels, 1, 1)))
    return nn.Sequential(*layers)


def _plain_decoder(plan: Plan) -> nn.Sequential:
    """The encoder read backwards: each pooling and stride becomes an upsampling, each layer its mirror image."""
    layers: list[nn.Module] = []
    if plan.embedding:
        rows, columns, channels = plan.map_shape
        layers.append(nn.Flatten())
        layers += _connected(plan, [*reversed(plan.embedding), rows * columns * channels])
        layers += [_ACTIVATIONS[plan.activation](), nn.Unflatten(1, (channels, rows, columns))]
    first_inputs = [plan.picture_shape[2]] + [stage.widths[-1] for stage in plan.stages[:-1]]
    for stage, image_side in zip(reversed(plan.stages), reversed(first_inputs), strict=True):
        layers += _mirrored(plan, stage, image_side)
    while not isinstance(layers[-1], nn.Conv2d):  # the last convolution makes the picture: no activation after it
        layers.pop()
    return nn.Sequential(*layers, _LAST_ACTIVATIONS[plan.last_activation]())


def _mirrored(plan: Plan, stage: Stage, image_side: int) -> list[nn.Module]:
    """The convolutions of a stage backwards; what the pooling halved doubles before them, the stride's share before the
    last of them.
    """
    steps = list(pairwise([*reversed(stage.widths), image_side]))
    factors = [1] * len(steps)
    factors[-1] *= stage.stride
    factors[0] *= stage.factor // stage.stride
    layers: list[nn.Module] = []
    for (channels, width), factor in zip(steps, factors, strict=True):
        if factor == 2 and stage.kernel_size == 3:
            layers += _activated(plan, UpsampledConvolution(channels, width))
        else:
            layers += [nn.Upsample(scale_factor=factor)] if factor > 1 else []
            layers += _activated(plan, _convolution(stage, channels, width, 1))
    return layers


def _convolution(stage: Stage, channels: int, width: int, stride: int) -> nn.Conv2d:
    if stage.kernel_size == 3 and stride == 1:
        return Convolution(channels, width)
    return nn.Conv2d(channels, width, stage.kernel_size, stride, padding=stage.kernel_size // 2)


def _activated(plan: Plan, convolution: nn.Conv2d) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(convolution.out_channels)] if plan.normalization else []
    return [convolution, *norm, _ACTIVATIONS[plan.activation]()]


def _end_of_stage(plan: Plan, stage: Stage) -> list[nn.Module]:
    """Pooling and dropout in one place, so that dropout moves no layer from where torchvision has it."""
    pools: dict[str, list[nn.Module]] = {"max": [nn.MaxPool2d(2)], "avg": [nn.AvgPool2d(2)], "no": []}
    layers = [*pools[stage.pooling], *([nn.Dropout2d(plan.dropout_rate)] if plan.dropout_rate else [])]
    return [nn.Sequential(*layers)] if len(layers) > 1 else layers


def _connected(plan: Plan, sizes: list[int]) -> list[nn.Module]:
    """Fully connected layers through these sizes, activated in between."""
    layers: list[nn.Module] = []
    for size, out_size in pairwise(sizes):
        layers += [nn.Linear(size, out_size), _ACTIVATIONS[plan.activation]()]
    return layers[:-1]


def _residual_encoder(plan: Plan) -> nn.Sequential:
    """Stages of residual blocks, and a 1x1 convolution that makes the latent of what leaves them."""
    layers: list[nn.Module] = []
    channels = plan.picture_shape[2]
    for stage in plan.stages:
        down, *blocks = stage.widths
        layers.append(Downsample(channels, down))
        channels = down
        for width in blocks:
            layers.append(Residual(channels, width))
            channels = width
        layers += [nn.Dropout2d(plan.dropout_rate)] if plan.dropout_rate else []
    if channels != plan.latent_channels:
        layers.append(nn.Conv2d(channels, plan.latent_channels, kernel_size=1))
    return nn.Sequential(*layers)


def _residual_decoder(plan: Plan) -> nn.Sequential:
    layers: list[nn.Module] = []
    if plan.stages[-1].widths[-1] != plan.latent_channels:
        layers.append(nn.Conv2d(plan.latent_channels, plan.stages[-1].widths[-1], kernel_size=1))
    image_sides = [plan.picture_shape[2]] + [stage.widths[-1] for stage in plan.stages[:-1]]
    for stage, image_side in zip(reversed(plan.stages), reversed(image_sides), strict=True):
        down, *blocks = stage.widths
        for channels, width in pairwise([*reversed(blocks), down]):
            layers.append(Residual(channels, width))
        layers.append(Upsample(down, image_side))
    return nn.Sequential(*layers, Sigmoid())


def _initialize(modules: Iterable[nn.Module]) -> None:
    """He et al., 'Delving deep into rectifiers', 2015, as torchvision initializes VGG; residual branches start at 0."""
    starts: list[Callable[[], None]] = []
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Residual | GridResidual):
            starts.append(module.start_at_shortcut)
        elif isinstance(module, LinearPathEncoder | LinearPathDecoder):
            starts.append(module.start_at_linear_path)
    for start in starts:
        start()


_BUILDERS: dict[str, tuple[Callable[[Plan], nn.Module], Callable[[Plan], nn.Module]]] = {
    "plain": (_plain_encoder, _plain_decoder),
    "residual": (_residual_encoder, _residual_decoder),
    "patch": (LinearPathEncoder, LinearPathDecoder),
}
