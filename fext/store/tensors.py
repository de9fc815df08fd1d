"""Tensors as the bytes of a safetensors file, and back; nothing stored in such a file is run."""

from collections.abc import Mapping

import torch
from safetensors.torch import load, save

from fext.compute.memory import make_sure_of

_COPIES = 3  # that safetensors makes of all bytes


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor], words: Mapping[str, str] | None = None) -> bytes:
    """The file of tensors from any device, with words beside them; raises MemoryError where it cannot be made."""
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    make_sure_of(_COPIES * sum(tensor.nbytes for tensor in contents.values()))
    return save(contents, None if words is None else dict(words))


def tensors_from_bytes(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a file, on the CPU; raises many kinds on a damaged one, MemoryError where they do not fit."""
    make_sure_of(_COPIES * len(data))
    return load(data)
