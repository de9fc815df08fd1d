"""Weights that others trained, which torchvision downloads into its own cache."""

import pickle
from pathlib import Path

import torch

from fext.errors import ModelError


def has_imagenet_weights(architecture: str) -> bool:
    """Whether the weights lie in torchvision's cache on this machine."""
    from torchvision.models import get_model_weights

    file = str(get_model_weights(architecture).DEFAULT.url).rpartition("/")[2]
    return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()


def imagenet_encoder_weights(
    architecture: str, wanted_by: str = "encoder_weights = 'imagenet'", remedy: str = "set encoder_weights to 'none'"
) -> dict[str, torch.Tensor]:
    """The weights of the feature stack of 'vgg16' or 'vgg16_bn' trained on ImageNet, for pictures in [0, 1].

    torchvision's are for pictures from which ImageNet's mean colour was taken, divided by its spread; here the first
    convolution does both. What it computes is the same but at the border, where it pads with black. Raises ModelError
    where they cannot be downloaded, or the copy in torchvision's cache is damaged.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(architecture).DEFAULT
    try:
        # torch checks the hash of what it downloads; of a pickle nothing but tensors is taken.
        everything = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{wanted_by}, but its weights cannot be downloaded or read ({reason}): connect this machine to the "
            f"internet once, remove a damaged copy from {torch.hub.get_dir()}, or {remedy}"
        ) from error
    features = {
        name.removeprefix("features."): tensor for name, tensor in everything.items() if name.startswith("features.")
    }
    normalization = weights.transforms()
    return _for_unit_range(features, torch.tensor(normalization.mean), torch.tensor(normalization.std))


def _for_unit_range(
    features: dict[str, torch.Tensor], mean: torch.Tensor, deviation: torch.Tensor
) -> dict[str, torch.Tensor]:
    kernel = features["0.weight"] / deviation[:, None, None]
    bias = features["0.bias"] - (kernel * mean[:, None, None]).sum(dim=(1, 2, 3))
    return {**features, "0.weight": kernel, "0.bias": bias}
