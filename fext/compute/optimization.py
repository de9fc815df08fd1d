"""Optimizer, learning rate and the running average of the weights: how a step changes a model.

The learning rate is a function of how much of the run is done, and has no state: a resumed run has the same one, and
an extended run follows the schedule of its new length.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fext.compute.device import Computation
from fext.settings import Settings

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

_FLOOR = 0.01  # the share of learning_rate that 'cosine' and 'linear' end at
_LINEAR_FROM = 0.5  # the share of the run that 'linear' keeps learning_rate for
_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25 / 1e4  # torch's own defaults
_SGD_MOMENTUM = 0.9
_FUSED = ("adamw", "adam", "sgd")
_KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adadelta": torch.optim.Adadelta,
}
# What each keeps of every weight, in the shape of the weight, and whether it counts its steps.
_MOMENTS: dict[str, tuple[set[str], bool]] = {
    "adamw": ({"exp_avg", "exp_avg_sq"}, True),
    "adam": ({"exp_avg", "exp_avg_sq"}, True),
    "sgd": ({"momentum_buffer"}, False),
    "adadelta": ({"square_avg", "acc_delta"}, True),
}


def make_optimizer(model: nn.Module, settings: Settings, computation: Computation) -> torch.optim.Optimizer:
    """The optimizer of the settings over all weights that are trained, updating them in one fused pass where it can."""
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        options["momentum"] = _SGD_MOMENTUM
    if settings.optimizer in _FUSED:
        options["fused"] = computation.device.type in ("cpu", "cuda")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return _KINDS[settings.optimizer](weights, **options)


def values_per_weight(settings: Settings) -> int:
    """How many numbers training keeps of a weight: itself, its gradient, the optimizer's moments, its average."""
    return 2 + len(_MOMENTS[settings.optimizer][0]) + bool(settings.ema_decay)


def restore_optimizer(
    optimizer: torch.optim.Optimizer, settings: Settings, stored: dict[str, Any], *, begun: bool
) -> None:
    """Load a stored state into an optimizer of the same settings, which has made steps where it has `begun`.

    The device may be another one: whether a step is fused is not the state's to say. Raises ValueError or KeyError
    where it does not fit: torch itself would take moments of any shape, and fail, or worse, in the middle of a step.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments, fresh = stored["state"], optimizer.state_dict()["param_groups"]
    groups = [
        {**group, **{name: new[name] for name in ("lr", "fused") if name in new}}
        for group, new in zip(stored["param_groups"], fresh, strict=True)
    ]
    if groups != fresh or sorted(moments) != (list(range(len(weights))) if begun else []):
        raise ValueError("the state of another optimizer")
    names, counts_steps = _MOMENTS[settings.optimizer]
    for number, weight in enumerate(weights if begun else []):
        expected = dict.fromkeys(names, weight.shape) | ({"step": torch.Size([])} if counts_steps else {})
        if {name: tensor.shape for name, tensor in moments[number].items()} != expected:
            raise ValueError("moments that do not fit the weights")
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def learning_rate_at(settings: Settings, progress: float) -> float:
    """The learning rate when `progress` of all epochs is done, from 0 to 1.

    It rises linearly over warmup_epochs, then follows the schedule over what is left. 'cosine' is that of Loshchilov
    and Hutter, 'SGDR', 2017, without restarts; 'one_cycle' that of Smith and Topin, 'Super-convergence', 2018, as
    torch has it, which rises over warmup_epochs, or over 30 % of the run where that is 0.
    """
    progress = min(max(progress, 0.0), 1.0)
    warmup = min(settings.warmup_epochs / settings.epochs, 1.0)
    if settings.lr_schedule == "one_cycle":
        return settings.learning_rate * _one_cycle(progress, warmup or _ONE_CYCLE_RISE)
    if progress < warmup:
        return settings.learning_rate * progress / warmup
    return settings.learning_rate * _SCHEDULES[settings.lr_schedule]((progress - warmup) / (1 - warmup or 1.0))


def _constant(_progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    fallen = max(0.0, (progress - _LINEAR_FROM) / (1 - _LINEAR_FROM))
    return 1 - (1 - _FLOOR) * fallen


def _cosine(progress: float) -> float:
    return _between(1.0, _FLOOR, progress)


def _one_cycle(progress: float, rise: float) -> float:
    if progress < rise:
        return _between(_ONE_CYCLE_START, 1.0, progress / rise)
    return _between(1.0, _ONE_CYCLE_END, (progress - rise) / (1 - rise or 1.0))


def _between(start: float, end: float, share: float) -> float:
    """Along a half cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


_SCHEDULES: dict[str, Callable[[float], float]] = {"constant": _constant, "linear": _linear, "cosine": _cosine}


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of the weights and statistics of a model, of which update_parameters takes note of each step.

    Exponential with that decay, faster at first, when there is little to average: (1 + n) / (10 + n) after n steps, as
    in TensorFlow's ExponentialMovingAverage. Polyak and Juditsky, 'Acceleration of stochastic approximation', 1992.
    """

    def take_note(averages: Tensors, weights: Tensors, count: torch.Tensor | int) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - kept)  # as torch's own averages do
        else:
            torch._foreach_copy_(averages, weights)

    return AveragedModel(model, multi_avg_fn=take_note, use_buffers=True)
