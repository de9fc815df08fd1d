"""Steps of training a convolutional head on an encoder, and telling classes with them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from fext.compute.device import Computation
from fext.compute.drawing import drawing_from, seed_of
from fext.compute.inference import filled_up
from fext.compute.optimization import learning_rate_at, make_optimizer
from fext.compute.variation import vary
from fext.errors import TrainingError
from fext.model.classifier import ClassifierHead, Stages, Whitening, encoder_maps
from fext.model.moments import Moments
from fext.settings import Settings, change_settings

Phase = Literal["frozen", "finetuned"]

_VARIATION = 3  # the random stream of the seed that variations and dropout draw from
_SMOOTHING = 0.1  # Szegedy et al., 'Rethinking the inception architecture', 2016
_WEIGHT_DECAY, _WARMUP, _FINETUNING = 0.05, 0.1, 0.2


class EncoderAndHead(nn.Module):
    """An encoder with a head on it: images (N, C, H, W) to one score for each class."""

    def __init__(self, encoder: nn.Module, head: ClassifierHead, stages: Stages) -> None:
        super().__init__()
        self.encoder, self.head, self.stages = encoder, head, stages
        self._trained = [weight for weight in encoder.parameters() if weight.requires_grad]  # not a linear path

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) in [0, 1] to scores (N, num_classes), before the softmax."""
        scores: torch.Tensor = self.head(encoder_maps(self.encoder, images, self.stages))
        return scores

    def set_phase(self, phase: Phase) -> None:
        """Train the head alone, or the encoder with it; one that is frozen is used as it stands."""
        self.train()
        for weight in self._trained:
            weight.requires_grad_(phase == "finetuned")
        if phase == "frozen":
            self.encoder.eval()


def settings_of(settings: Settings, phase: Phase) -> Settings:
    """What optimizer and schedule go by in a phase."""
    epochs = settings.head_epochs if phase == "frozen" else settings.finetune_epochs
    rate = settings.head_learning_rate * (1 if phase == "frozen" else _FINETUNING)
    return change_settings(
        settings, epochs=max(1, epochs), learning_rate=rate, lr_schedule="cosine", warmup_epochs=_WARMUP * epochs,
        optimizer="adamw", weight_decay=_WEIGHT_DECAY,
    )  # fmt: skip


@dataclass(frozen=True)
class HeadTrainer:
    """What a step of training works with in one phase; `weights` (num_classes,) say how much each class counts."""

    model: EncoderAndHead
    settings: Settings
    weights: torch.Tensor
    computation: Computation
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def step(self, images: torch.Tensor, codes: torch.Tensor, place: tuple[int, int], progress: float) -> torch.Tensor:
        """Change the weights by one batch; gives the sum of the losses and how many images are told rightly.

        `place` is epoch and batch, from which random variations follow; `progress` is how much of the phase is done.
        Raises TrainingError where the loss is not finite.
        """
        rate = learning_rate_at(self.settings, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = seed_of(self.settings.seed, _VARIATION, *place)
        images, codes = self.computation.to_device(images), codes.to(self.computation.device)
        if self.settings.head_augmentation:
            images = vary(images, torch.Generator().manual_seed(seed))
        with drawing_from(seed, self.computation.device), self.computation.autocast():
            scores = self.model(images)
        loss = functional.cross_entropy(scores.float(), codes, self.weights, label_smoothing=_SMOOTHING)
        hits = (scores.argmax(dim=1) == codes).sum()
        told = torch.stack([loss.detach(), loss.detach() * len(codes), hits]).cpu()  # all at once: a GPU is waited for
        if not bool(torch.isfinite(told[0])):
            raise TrainingError(
                "the loss of the head is not finite: finished epochs are kept; a lower head_learning_rate may help"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return told[1:]


def make_head_trainer(
    model: EncoderAndHead, settings: Settings, weights: torch.Tensor, computation: Computation, phase: Phase
) -> HeadTrainer:
    """A trainer at the start of a phase."""
    model.set_phase(phase)
    own = settings_of(settings, phase)
    optimizer = make_optimizer(model, own, computation)
    return HeadTrainer(model, own, weights.to(computation.device), computation, optimizer, computation.make_scaler())


@torch.no_grad()
def set_whitenings(model: EncoderAndHead, batches: Iterable[torch.Tensor], computation: Computation) -> None:
    """Set the first layer of a head by what the encoder makes of some images, given as batches (N, C, H, W)."""
    model.eval()
    whitenings = [layer for layer in model.head.whitenings if isinstance(layer, Whitening)]
    moments = [Moments(layer.in_channels) for layer in whitenings]
    for images in batches:
        with computation.autocast():
            maps = encoder_maps(model.encoder, computation.to_device(images), model.stages)
        for one, seen in zip(moments, maps, strict=True):
            one.add(seen.float().permute(0, 2, 3, 1).flatten(0, 2))
    for layer, one in zip(whitenings, moments, strict=True):
        layer.set_to(one.mean, one.covariance())


@torch.inference_mode()
def head_probabilities(
    model: EncoderAndHead, images: torch.Tensor, computation: Computation, *, batch_size: int, mirrored: bool = False
) -> torch.Tensor:
    """How probable each class is for up to batch_size images, (N, num_classes) float32 on the CPU.

    `mirrored` takes the mean with what their mirror images are told to be.
    """
    model.eval()
    placed = computation.to_device(filled_up(images, batch_size))
    with computation.autocast():
        scores = [model(placed), model(placed.flip(3))] if mirrored else [model(placed)]
    shares = torch.stack([torch.softmax(one[: len(images)].float(), dim=1) for one in scores])
    return shares.mean(dim=0).cpu()
