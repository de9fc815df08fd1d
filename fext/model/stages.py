"""What each stage of an encoder makes of images, and not the last one alone.

Early stages hold edges and textures, late ones what they add up to; a classifier does better with all of them. See
Zeiler and Fergus, 'Visualizing and understanding convolutional networks', 2014, and, for autoencoders, Zhang et al.,
'Split-brain autoencoders', 2017, whose stages are judged one by one.
"""

from itertools import accumulate

import torch
from torch import nn

from fext.model.autoencoder import Autoencoder
from fext.model.linear_path import LinearPathEncoder
from fext.model.plans import Plan


class StagedEncoder(nn.Module):
    """The encoder of a model, weights and all: (N, C, H, W) to the map of each stage, the latent last."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.ends = _stage_ends(model.plan)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        if isinstance(self.encoder, LinearPathEncoder):
            return list(self.encoder.stages(images))
        assert isinstance(self.encoder, nn.Sequential)
        maps = []
        for number, layer in enumerate(self.encoder, start=1):
            images = layer(images)
            if number in self.ends or number == len(self.encoder):
                maps.append(images)
        return maps


def stage_channels(plan: Plan) -> list[int]:
    """The channels of the map of each stage; those of the latent come last.

    A linear path has two: its components, and the latent.
    """
    if plan.block == "patch":
        return [plan.components, plan.latent_channels]
    channels = [stage.widths[-1] for stage in plan.stages]
    has_more = bool(plan.embedding) or channels[-1] != plan.latent_channels
    return [*channels, *([plan.latent_channels] if has_more else [])]


def _stage_ends(plan: Plan) -> list[int]:
    """How many layers of the encoder there are up to the end of each stage."""
    has_dropout = bool(plan.dropout_rate)
    if plan.block == "residual":
        return list(accumulate(len(stage.widths) + has_dropout for stage in plan.stages))
    per_width = 3 if plan.normalization else 2
    return list(
        accumulate(per_width * len(stage.widths) + (stage.pooling != "no" or has_dropout) for stage in plan.stages)
    )
