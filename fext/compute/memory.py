"""Memory that ends: in one place it becomes a line that says what to lower, and what is held is given back."""

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fext.errors import OutOfMemoryError, is_out_of_memory

LESS_TO_EXTRACT = (
    "what was finished is kept; set inference_batch_size or num_processors lower, or close other programs, and start "
    "again to go on"
)
LESS_TO_EVALUATE = "set inference_batch_size or num_processors lower, or close other programs, and start again"


@contextmanager
def lowering(remedy: str) -> Iterator[None]:
    """Turn whatever a library raises for lack of memory into OutOfMemoryError, which ends with the remedy.

    One that was told nearer to where memory ended stays as it is.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except BaseException as error:  # what is written in Rust raises none of Python's
        if not is_out_of_memory(error):
            raise
        whose = "the memory of the GPU" if _is_of_gpu(error) else "memory"
        traceback.clear_frames(error.__traceback__)  # what the step that failed holds goes free
        give_back()
        raise OutOfMemoryError(f"{whose} has ended: {remedy}") from error


def make_sure_of(num_bytes: int) -> None:
    """Raise MemoryError where so many bytes cannot be had: libraries in Rust would end the process instead."""
    np.empty(num_bytes, np.uint8)


def give_back() -> None:
    """Give back to the system what nothing uses any more: torch keeps the memory of a GPU for itself."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def _is_of_gpu(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(name in str(error) for name in ("CUDA", "CUBLAS", "MPS"))
