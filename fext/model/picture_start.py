"""Where a plain model starts: the first filters are patches of the pictures, and the units of each layer vary alike.

With weights drawn at random and nothing else, what all pictures share grows from layer to layer and what tells them
apart goes under. So a model sees some pictures before its first step. Patches of them, whitened, become the filters of
its first convolution: Coates, Ng and Lee, 'An analysis of single-layer networks in unsupervised feature learning',
2011.
Then, layer by layer, each unit is scaled and shifted, so that it has variance 1 and the same mean over what reaches it:
Mishkin and Matas, 'All you need is a good init', 2016; Krähenbühl et al., 'Data-dependent initializations of
convolutional neural networks', 2016. The last layer starts at the mean picture.
"""

from collections.abc import Sequence

import torch
from torch import nn

from fext.model.autoencoder import Autoencoder, Sigmoid
from fext.model.moments import merged_variance
from fext.model.patch_responses import drawn_patches, whitened_filters
from fext.model.plans import Plan

_MEAN = 0.0  # of what reaches an activation, in standard deviations
_NUM_PATCHES = 10_000
_LEAST_DEVIATION = 0.01  # of that of the liveliest unit: what varies less is not blown up to variance 1
_LAST_DEVIATION = 0.1  # of what the last layer adds to the mean colour
_EPSILON = 1e-3  # a sigmoid of a finite number is neither 0 nor 1
_MOST_VALUES = 2**27  # between two layers: 512 MB
_MOST_PICTURES, _AT_A_TIME = 256, 4

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

    Its weights are scaled, and those of the first convolution are others. Without pictures it stays as it is.
    """
    maps = [part for batch in batches if len(batch) for part in batch.split(_AT_A_TIME)]
    if not maps:
        return
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, nn.Sequential)
    assert isinstance(decoder, nn.Sequential)
    model.eval()  # dropout is off
    _take_patches(_weighted(encoder)[0], maps, torch.Generator().manual_seed(seed))
    colour = torch.cat([batch.mean(dim=(2, 3)) for batch in maps]).mean(dim=0)
    _standardize(encoder, maps)
    _standardize(decoder, maps)
    _start_at_colour(_weighted(decoder)[-1], torch.logit(colour, _EPSILON) if _is_bounded(decoder) else colour)
    model.train()


def _weighted(layers: nn.Sequential) -> list[Weighted]:
    return [layer for layer in layers if isinstance(layer, Weighted)]


def _take_patches(convolution: Weighted, pictures: Sequence[torch.Tensor], generator: torch.Generator) -> None:
    """Filters of whitened patches, drawn the likelier the more contrast they have."""
    assert isinstance(convolution, nn.Conv2d)
    side = convolution.kernel_size[0]
    per_picture = -(-_NUM_PATCHES // sum(map(len, pictures)))
    drawn = [drawn_patches(picture, side, per_picture, generator) for batch in pictures for picture in batch]
    filters, _ = whitened_filters(torch.cat(drawn).double(), convolution.out_channels, generator)
    convolution.weight.copy_(filters.reshape(convolution.weight.shape))


def _standardize(layers: nn.Sequential, maps: list[torch.Tensor]) -> None:
    """Scale the layers one by one, and take the maps through them, in place."""
    for layer, next_layer in zip(layers, [*layers[1:], None], strict=True):
        for number, batch in enumerate(maps):
            maps[number] = layer(batch)
        if isinstance(layer, Weighted):
            mean, deviation = _spread(maps)
            norm = next_layer if isinstance(next_layer, nn.BatchNorm2d) else None
            shift = _scale(layer, norm, mean, deviation)
            for batch in maps:
                batch.div_(_beside(batch, deviation)).add_(_beside(batch, shift))


def _scale(layer: Weighted, norm: nn.BatchNorm2d | None, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Give the units of a layer variance 1; their mean is for what normalizes them, else for the layer itself to move.

    Gives what moves what the layer makes, once that is divided by its deviation.
    """
    assert layer.bias is not None
    layer.weight.div_(_beside(layer.weight[None], deviation))
    layer.bias.div_(deviation)
    if norm is None:
        shift = _MEAN - mean / deviation
        layer.bias.add_(shift)
        return shift
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean / deviation)
    norm.running_var.fill_(1)
    norm.bias.fill_(_MEAN)
    return torch.zeros_like(mean)


def _start_at_colour(layer: Weighted, colour: torch.Tensor) -> None:
    """Let the last layer give the mean colour, and a little around it."""
    assert layer.bias is not None
    layer.weight.mul_(_LAST_DEVIATION)
    layer.bias.sub_(_MEAN).mul_(_LAST_DEVIATION).add_(colour)


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
