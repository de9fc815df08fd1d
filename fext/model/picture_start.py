"""Where a plain model starts: filters that are patches of what reaches them, and units that vary alike.

Little of what distinguishes pictures survives many layers of random weights. So a model sees some pictures
before its first step. Each layer of the encoder hands on the channels that it is given, averaged over 3x3 positions (or
as large as its filters are), the first one the colours. The channels that it has beyond those are patches of its input,
whitened, as filters: Coates, Ng and Lee, 'An analysis of single-layer networks in unsupervised feature learning', 2011;
Thiry et al., 'The unreasonable effectiveness of patches in deep convolutional kernels methods', 2021. So the latent
tells of patches at as many scales as there are stages that widen. Each unit is scaled, layer by layer, to variance 1
over what reaches it: Mishkin and Matas, 'All you need is a good init', 2016; Krähenbühl et al., 'Data-dependent
initializations of convolutional neural networks', 2016. The last layer starts at the mean colour.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from fext.model.autoencoder import Autoencoder, Sigmoid
from fext.model.moments import merged_variance
from fext.model.patch_responses import drawn_patches, whitened_filters
from fext.model.plans import Plan

_NUM_PATCHES, _MOST_PATCH_VALUES = 4000, 2304  # of larger patches the covariance would take long: filters stay random
_LEAST_DEVIATION = 0.01  # of that of the liveliest unit: what varies less is not blown up to variance 1
_SHARE_OF_COLOUR = 8  # one in so many units of the first layer at most hands on a colour: the light, for the decoder
_LAST_DEVIATION = 0.1  # of what the last layer adds to the mean colour
_EPSILON = 1e-3  # a sigmoid of a finite number is neither 0 nor 1
_MOST_VALUES = 2**26  # between two layers: 256 MB, of all pictures
_MOST_PICTURES, _AT_A_TIME = 256, 4
_HANDING_ON = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu")  # activations that leave what is above 0, nearly

Weighted = nn.Conv2d | nn.Linear


def num_pictures_to_start_from(plan: Plan) -> int:
    """How many pictures a model sees before its first step: fewer, the larger the maps between its layers are."""
    height, width, channels = plan.picture_shape
    largest = height * width * channels
    for stage in plan.stages:
        height, width = height // stage.stride, width // stage.stride
        largest = max(largest, height * width * max(stage.widths))
        height, width = height * stage.stride // stage.factor, width * stage.stride // stage.factor
    return max(1, min(_MOST_PICTURES, _MOST_VALUES // largest))


@torch.no_grad()
def start_from_pictures(model: Autoencoder, batches: Sequence[torch.Tensor], seed: int) -> None:
    """Let a model start from batches (N, C, H, W) of pictures in [0, 1]; what is drawn depends on `seed` alone.

    Without pictures it stays as it is.
    """
    maps = [part for batch in batches if len(batch) for part in torch.split(batch, _AT_A_TIME)]
    if not maps:
        return
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, nn.Sequential)
    assert isinstance(decoder, nn.Sequential)
    model.eval()  # dropout is off
    colour = torch.cat([batch.mean(dim=(2, 3)) for batch in maps]).mean(dim=0)
    _start_layers(encoder, maps, _Patches(seed, hands_on=model.plan.activation in _HANDING_ON))
    _start_layers(decoder, maps, None)
    _start_at_colour(_weighted(decoder)[-1], torch.logit(colour, _EPSILON) if _is_bounded(decoder) else colour)
    model.train()


def _weighted(layers: nn.Sequential) -> list[Weighted]:
    return [layer for layer in layers if isinstance(layer, Weighted)]


class _Patches:
    """Makes filters of patches for one convolution after the other."""

    def __init__(self, seed: int, *, hands_on: bool) -> None:
        self._generator, self._hands_on, self._is_first = torch.Generator().manual_seed(seed), hands_on, True

    def take(self, convolution: nn.Conv2d, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Replace the filters; gives which units (C,) hand on a channel."""
        side, width, channels = convolution.kernel_size[0], convolution.out_channels, convolution.in_channels
        most_kept = width // _SHARE_OF_COLOUR if self._is_first else width
        num_kept = min(most_kept, channels) if self._hands_on else 0
        if num_kept:
            kept = torch.arange(num_kept)
            convolution.weight[kept] = 0
            convolution.weight[kept, kept * channels // num_kept] = 1 / side**2
        if num_kept < width and channels * side**2 <= _MOST_PATCH_VALUES:
            filters = self._patches(maps, side, width - num_kept)
            convolution.weight[num_kept:] = filters.reshape(-1, channels, side, side)
        self._is_first = False
        return torch.arange(width) < num_kept

    def _patches(self, maps: Sequence[torch.Tensor], side: int, count: int) -> torch.Tensor:
        per_picture = -(-_NUM_PATCHES // sum(map(len, maps)))
        filled = (functional.pad(batch, (side // 2,) * 4) for batch in maps)  # as a convolution sees them
        drawn = [drawn_patches(one, side, per_picture, self._generator) for batch in filled for one in batch]
        filters, _ = whitened_filters(torch.cat(drawn).double(), count, self._generator, zero_sum=self._is_first)
        return filters.float()


def _start_layers(layers: nn.Sequential, maps: list[torch.Tensor], patches: _Patches | None) -> None:
    """Start the layers one by one, and take the maps through them, in place."""
    for layer, next_layer in zip(layers, [*layers[1:], None], strict=True):
        kept = torch.zeros(1, dtype=torch.bool)
        if patches and isinstance(layer, nn.Conv2d):
            kept = patches.take(layer, maps)
        for number, batch in enumerate(maps):
            maps[number] = layer(batch)
        if isinstance(layer, Weighted):
            norm = next_layer if isinstance(next_layer, nn.BatchNorm2d) else None
            _standardize(layer, norm, maps, kept)


def _standardize(
    layer: Weighted, norm: nn.BatchNorm2d | None, maps: Sequence[torch.Tensor], kept: torch.Tensor
) -> None:
    """Give units variance 1, in a layer and in the maps that it made, and the mean 0 to those that are not kept.

    Where a normalization follows, it is this that moves them.
    """
    assert layer.bias is not None
    mean, deviation = _spread(maps)
    mean = mean / deviation
    layer.weight.div_(_beside(layer.weight[None], deviation))
    layer.bias.div_(deviation)
    shift = torch.where(kept, 0, -mean)
    if norm is None:
        layer.bias.add_(shift)
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.fill_(1)
        norm.bias.copy_(mean + shift)
    for batch in maps:
        batch.div_(_beside(batch, deviation))
        if norm is None:
            batch.add_(_beside(batch, shift))


def _start_at_colour(layer: Weighted, colour: torch.Tensor) -> None:
    """Let the last layer give the mean colour, and a little around it."""
    assert layer.bias is not None
    layer.weight.mul_(_LAST_DEVIATION)
    layer.bias.mul_(_LAST_DEVIATION).add_(colour)


def _is_bounded(decoder: nn.Sequential) -> bool:
    return isinstance(decoder[-1], Sigmoid)


def _beside(maps: torch.Tensor, of_units: torch.Tensor) -> torch.Tensor:
    """A value of each unit (C,) in the shape that goes with maps (N, C, ...)."""
    return of_units.reshape(-1, *[1] * (maps.dim() - 2))


def _spread(maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (C,) of each unit in maps (N, C, ...); deviation 1 where nothing varies."""
    counts = torch.tensor([batch.numel() // batch.shape[1] for batch in maps], dtype=torch.float64)
    parts = [torch.var_mean(batch.transpose(0, 1).flatten(1), dim=1, correction=0) for batch in maps]
    variances, means = (torch.stack(values).double() for values in zip(*parts, strict=True))
    mean, variance = merged_variance(counts, means, variances)
    deviation = variance.sqrt()
    deviation = deviation.clamp_min(_LEAST_DEVIATION * float(deviation.max()))
    return mean.float(), torch.where(deviation > 0, deviation, 1.0).float()
