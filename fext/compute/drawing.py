"""Random streams: what is drawn at a place of a run follows from the seed and that place alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*place: int) -> int:
    """A seed of 63 bits that depends on all of the whole numbers, from 0 on."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch draw from the stream of a seed, on the CPU and on the device; then be as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
