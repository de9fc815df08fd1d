"""What each stage of an encoder makes of images, and not the last one alone.

A stage is a stretch of layers that work at one size, as plans have them, and there are two maps to speak of. What it
found is the map *before its pooling*, the last of its size. What it hands on is the map *after its pooling*, which the
next stage begins with. They are one where a stage has no pooling. What follows the last stage makes the latent.

Features of all stages are what stages hand on; heads and anomalies look at what they found, at its full size. An
encoder around a linear path has its components for the one stage.

Early stages hold edges and textures, late ones what they add up to; a classifier does better with all of them. See
Zeiler and Fergus, 'Visualizing and understanding convolutional networks', 2014, and, for autoencoders, Zhang et al.,
'Split-brain autoencoders', 2017, whose stages are judged one by one.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn

from fext.model.autoencoder import Autoencoder
from fext.model.linear_path import LinearPathEncoder
from fext.model.plans import Plan


class StagedEncoder(nn.Module):
    """The encoder of a model, weights and all: (N, C, H, W) to what each stage hands on, the latent last."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.ends = _stage_ends(model.plan)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The maps (N, channels, rows, columns), with the channels that stage_channels tells."""
        return [step.after for step in _walk(self.encoder, images) if step.number in self.ends or step.is_last]


def stage_channels(plan: Plan) -> list[int]:
    """The channels of what each stage hands on; those of the latent come last.

    A linear path has two: its components, and the latent.
    """
    if plan.block == "patch":
        return [plan.components, plan.latent_channels]
    channels = [stage.widths[-1] for stage in plan.stages]
    has_more = bool(plan.embedding) or channels[-1] != plan.latent_channels
    return [*channels, *([plan.latent_channels] if has_more else [])]


def found_by_stages(encoder: nn.Module, images: torch.Tensor) -> Iterator[torch.Tensor]:
    """What the stages found in images (N, C, H, W): the last map of each size, one by one, the latent last.

    Layers are computed as maps are asked for. Stages of one size count as one, and one of the latent's size as the
    latent.
    """
    for step in _walk(encoder, images):
        if step.changes_size:
            yield step.before
        if step.is_last:
            yield step.after


class _Step(NamedTuple):
    """The `number`th layer of an encoder, counted from 1, and what is before and after it."""

    number: int
    before: torch.Tensor
    after: torch.Tensor
    is_last: bool

    @property
    def changes_size(self) -> bool:
        """Whether it takes a map, not the picture, to another size, or to a vector."""
        return self.number > 1 and self.before.dim() == 4 and self.before.shape[2:] != self.after.shape[2:]


def _walk(encoder: nn.Module, images: torch.Tensor) -> Iterator[_Step]:
    """Through an encoder layer by layer; one that is no stack of layers is a single one."""
    if isinstance(encoder, LinearPathEncoder):
        components, latent = encoder.stages(images)
        yield _Step(1, images, components, False)
        yield _Step(2, components, latent, True)
        return
    layers = list(encoder) if isinstance(encoder, nn.Sequential) else [encoder]
    for number, layer in enumerate(layers, start=1):
        before, images = images, layer(images)
        yield _Step(number, before, images, number == len(layers))


def _stage_ends(plan: Plan) -> list[int]:
    """How many layers of the encoder there are up to the end of each stage."""
    has_dropout = bool(plan.dropout_rate)
    if plan.block == "patch":
        return [1]
    if plan.block == "residual":
        return list(accumulate(len(stage.widths) + has_dropout for stage in plan.stages))
    per_width = 3 if plan.normalization else 2
    return list(
        accumulate(per_width * len(stage.widths) + (stage.pooling != "no" or has_dropout) for stage in plan.stages)
    )
