"""What one writes in an hour to turn images into a table of features: the yardstick for FeXT's extraction.

The encoder in float32 and the default memory format, every latent kept in memory, one pandas table written at the
end. The encoders of vgg16 and vgg16_bn are torchvision's, that of redux is FeXT's. Prints one JSON line that counts
everything from finding the images to the written CSV, but neither imports nor building the model.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import vgg16, vgg16_bn

from benchmarks.naive_train import BATCH_SIZE, ImageFiles, choose_device, find_images


def build_encoder(architecture: str) -> nn.Module:
    """An encoder with random weights: they do not change the work."""
    if architecture == "redux":
        from fext.model.autoencoder import build_autoencoder
        from fext.model.plans import make_plan

        plan = make_plan("redux", (256, 256, 3), linear_shortcut=True)  # as configurations.py has it
        return build_autoencoder(plan, seed=0).encoder
    return {"vgg16": vgg16, "vgg16_bn": vgg16_bn}[architecture](weights=None).features


@torch.no_grad()
def encode(encoder: nn.Module, images: ImageFiles, device: torch.device) -> NDArray[np.float32]:
    """The latents of all images, flattened in (row, column, channel) order: (images, 8 * 8 * 512)."""
    latents: list[NDArray[np.float32]] = []
    for batch in DataLoader(images, batch_size=BATCH_SIZE, num_workers=0):
        latent = encoder(batch.to(device))  # (N, 512, 8, 8)
        latents.append(latent.permute(0, 2, 3, 1).flatten(1).cpu().numpy())
    return np.concatenate(latents)


def write_table(names: list[str], features: NDArray[np.float32], output: Path) -> None:
    table = pd.DataFrame(features, columns=[f"feature_{number}" for number in range(features.shape[1])])
    table.insert(0, "image", names)
    table.to_csv(output, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the features of a folder, the plain way.")
    parser.add_argument("images_folder", type=Path, help="folder of images, searched with its subfolders")
    parser.add_argument("output_csv", type=Path, help="the table to write")
    parser.add_argument("--num-images", type=int, help="encode the first N images (default: all)")
    parser.add_argument("--architecture", choices=("vgg16", "vgg16_bn", "redux"), default="vgg16_bn")
    arguments = parser.parse_args()

    device = choose_device()
    encoder = build_encoder(arguments.architecture).to(device).eval()
    start = time.perf_counter()
    images = ImageFiles(find_images(arguments.images_folder, arguments.num_images))
    features = encode(encoder, images, device)
    names = [path.relative_to(arguments.images_folder).as_posix() for path in images.paths]
    write_table(names, features, arguments.output_csv)
    seconds = time.perf_counter() - start
    print(json.dumps({"images": len(images), "seconds": seconds, "images_per_second": len(images) / seconds}))


if __name__ == "__main__":
    main()
