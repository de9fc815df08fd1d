"""Types and checks of the values of settings, for what a plain type with a range does not say."""

from typing import Annotated, Literal

from pydantic import Field

CustomSize = Annotated[int, Field(ge=1, le=4096)]
LossName = Literal["mse", "mae", "bce", "ssim"]


def list_as_tuple(value: object) -> object:
    """Accept a list in place of a tuple."""
    return tuple(value) if isinstance(value, list) else value


def for_each_stage(value: object) -> object:
    """Accept one value for all stages, and a list."""
    return list_as_tuple(value) if isinstance(value, list | tuple) else (value,)


def odd(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse even sizes."""
    if any(size % 2 == 0 for size in sizes):
        raise ValueError("not odd")
    return sizes


def whole_number(value: object) -> object:
    """Refuse True and 1.0, which a Literal takes for 1."""
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


def sorted_names(value: object) -> object:
    """Accept one name alone, and any order; the same names are always the same setting."""
    names = (value,) if isinstance(value, str) else list_as_tuple(value)
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        return names
    return tuple(sorted(set(names)))


def valid_loss(value: object) -> object:
    """Refuse a mixture that names nothing; the weights of the others are checked by their types."""
    if isinstance(value, dict) and not value:
        raise ValueError("an empty mixture")
    return value


def device_name(value: object) -> object:
    """Accept auto, CPU, GPU and MPS in any case, and cuda:N."""
    known = {"auto": "auto", "cpu": "CPU", "gpu": "GPU", "mps": "MPS"}
    return known.get(value.lower(), value.lower()) if isinstance(value, str) else value


def valid_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Refuse sides outside 16 to 4096, and channels other than 1 and 3."""
    height, width, channels = shape
    if min(height, width) < 16 or max(height, width) > 4096 or channels not in (1, 3):
        raise ValueError("not a picture shape")
    return shape
