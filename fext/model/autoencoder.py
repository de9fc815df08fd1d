"""A plan becomes a PyTorch module: an encoder, the latent between, and a decoder that mirrors it.

Tensors are (N, C, H, W) float32 in [0, 1] on the way in and out; the latent of a 256x256 picture is (N, 512, 8, 8).
"""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn

from fext.model.blocks import Downsample, Residual, Upsample, UpsampledConvolution
from fext.model.plans import Plan


class Autoencoder(nn.Module):
    """Encoder and decoder of a plan, for weights to be loaded into; build_autoencoder makes one to train."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        build_encoder, build_decoder = _BUILDERS[plan.block]
        self.encoder = nn.Sequential(*build_encoder(plan))
        self.decoder = nn.Sequential(*build_decoder(plan))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct images: (N, C, H, W) in [0, 1] to the same shape and range."""
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


def _plain_encoder(plan: Plan) -> list[nn.Module]:
    """The layers of torchvision's VGG feature stack, in its order, so that its weights load one to one.

    Simonyan and Zisserman, 'Very deep convolutional networks for large-scale image recognition', 2015.
    """
    layers: list[nn.Module] = []
    channels = plan.picture_shape[2]
    for stage in plan.stages:
        for out_channels in stage:
            layers += _convolution(channels, out_channels, plan.normalization)
            channels = out_channels
        layers.append(nn.MaxPool2d(2))
    return layers


def _plain_decoder(plan: Plan) -> list[nn.Module]:
    """The encoder read backwards: each pooling becomes an upsampling, each convolution its mirror image."""
    layers: list[nn.Module] = []
    first_inputs = [plan.picture_shape[2]] + [stage[-1] for stage in plan.stages[:-1]]
    for stage, image_side in zip(reversed(plan.stages), reversed(first_inputs), strict=True):
        upsampled, *others = pairwise([*reversed(stage), image_side])
        layers += _normalized(UpsampledConvolution(*upsampled), plan.normalization)
        for channels, out_channels in others:
            layers += _convolution(channels, out_channels, plan.normalization)
    while not isinstance(layers[-1], nn.Conv2d):  # the last convolution makes the picture: no rectifier after it
        layers.pop()
    return [*layers, nn.Sigmoid()]


def _convolution(channels: int, out_channels: int, normalization: bool) -> list[nn.Module]:
    return _normalized(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1), normalization)


def _normalized(convolution: nn.Conv2d, normalization: bool) -> list[nn.Module]:
    norm = [nn.BatchNorm2d(convolution.out_channels)] if normalization else []
    return [convolution, *norm, nn.ReLU(inplace=True)]


def _residual_encoder(plan: Plan) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = plan.picture_shape[2]
    for down, *blocks in plan.stages:
        layers.append(Downsample(channels, down))
        channels = down
        for width in blocks:
            layers.append(Residual(channels, width))
            channels = width
    return layers


def _residual_decoder(plan: Plan) -> list[nn.Module]:
    layers: list[nn.Module] = []
    image_sides = [plan.picture_shape[2]] + [stage[-1] for stage in plan.stages[:-1]]
    for (down, *blocks), image_side in zip(reversed(plan.stages), reversed(image_sides), strict=True):
        widths = [*reversed(blocks), down]
        for channels, width in pairwise(widths):
            layers.append(Residual(channels, width))
        layers.append(Upsample(down, image_side))
    return [*layers, nn.Sigmoid()]


def _initialize(modules: Iterable[nn.Module]) -> None:
    """He et al., 'Delving deep into rectifiers', 2015, as torchvision initializes VGG; residual branches start at 0."""
    residuals = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Residual):
            residuals.append(module)
    for residual in residuals:
        residual.start_at_shortcut()


_BUILDERS = {"plain": (_plain_encoder, _plain_decoder), "residual": (_residual_encoder, _residual_decoder)}
