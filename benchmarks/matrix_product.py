"""The images per second at which a model would train if all its arithmetic ran as fast as a bfloat16 matrix product.

What a training step of the plain model computes, forward and backward, is counted by torch itself
(torch.utils.flop_counter); the rate is that of the fastest of several large products. Prints one JSON line.
"""

import argparse
import json
import time

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.naive_train import build_autoencoder

MATRIX_SIZE = 4096
NUM_PRODUCTS = 10


def count_operations(architecture: str) -> int:
    """Floating-point operations, a multiplication and an addition counted as two, of one image's training step."""
    model = build_autoencoder(architecture)
    image = torch.rand(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter:
        functional.mse_loss(model(image), image).backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops()


def measure_rate() -> float:
    """Floating-point operations per second of a bfloat16 matrix product, at best."""
    left, right = (torch.randn(MATRIX_SIZE, MATRIX_SIZE).bfloat16() for _ in range(2))
    seconds = []
    for _ in range(NUM_PRODUCTS):
        began = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - began)
    return 2 * MATRIX_SIZE**3 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", choices=("vgg16", "vgg16_bn", "redux"), default="vgg16_bn")
    architecture = parser.parse_args().architecture
    operations, rate = count_operations(architecture), measure_rate()
    told = {"gigaflop_per_image": operations / 1e9, "gigaflops": rate / 1e9}
    print(json.dumps({**told, "images_per_second": rate / operations}))


if __name__ == "__main__":
    main()
