"""What one writes in an hour to train an autoencoder: the yardstick for FeXT's pretraining.

The same network, batch size, optimizer and loss as FeXT's; float32, the default memory format, images decoded in
the main process. The encoders of vgg16 and vgg16_bn are torchvision's, redux is FeXT's own module. Prints one JSON
line that counts the training pass alone, decoding included.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.models import vgg16, vgg16_bn

BATCH_SIZE = 8
LEARNING_RATE = 1e-3
IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".png"}
DECODER_STAGES = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64, 3))


class ImageFiles(Dataset[torch.Tensor]):
    """Image files as (3, 256, 256) float32 in [0, 1]."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.paths[position]) as image:
            picture = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def find_images(folder: Path, num_images: int | None) -> list[Path]:
    """The first num_images images below a folder, sorted; all of them where num_images is None."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_EXTENSIONS)[:num_images]


def choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_autoencoder(architecture: str) -> nn.Module:
    """An autoencoder with random weights; (N, 3, 256, 256) to the same shape."""
    if architecture == "redux":
        from fext.model.autoencoder import build_autoencoder as build_redux
        from fext.model.plans import make_plan

        return build_redux(make_plan("redux", (256, 256, 3), linear_shortcut=True), seed=0)
    normalize = architecture == "vgg16_bn"
    encoder = (vgg16_bn if normalize else vgg16)(weights=None).features
    return nn.Sequential(encoder, mirrored_decoder(normalize=normalize))


def mirrored_decoder(*, normalize: bool) -> nn.Sequential:
    """VGG16's convolutions in reverse, each stage behind an upsampling."""
    layers: list[nn.Module] = []
    channels = 512
    for stage in DECODER_STAGES:
        layers.append(nn.Upsample(scale_factor=2))
        for width in stage:
            layers.append(nn.Conv2d(channels, width, kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(width)] if normalize else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
    last_convolution = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    return nn.Sequential(*layers[: last_convolution + 1], nn.Sigmoid())  # it makes the picture


def train(model: nn.Module, images: ImageFiles, device: torch.device) -> float:
    """Train one epoch and return the mean loss of its batches."""
    loader = DataLoader(images, batch_size=BATCH_SIZE, shuffle=True, num_workers=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()
    total = 0.0
    for batch in loader:
        originals = batch.to(device)
        loss = functional.mse_loss(model(originals), originals)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()  # waits for the device, so that all of its time is counted
    return total / len(loader)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an autoencoder for one epoch, the plain way.")
    parser.add_argument("images_folder", type=Path, help="folder of images, searched with its subfolders")
    parser.add_argument("--num-images", type=int, help="train on the first N images (default: all)")
    parser.add_argument("--architecture", choices=("vgg16", "vgg16_bn", "redux"), default="vgg16_bn")
    arguments = parser.parse_args()

    images = ImageFiles(find_images(arguments.images_folder, arguments.num_images))
    device = choose_device()
    model = build_autoencoder(arguments.architecture).to(device)
    start = time.perf_counter()
    train(model, images, device)
    seconds = time.perf_counter() - start
    print(json.dumps({"images": len(images), "seconds": seconds, "images_per_second": len(images) / seconds}))


if __name__ == "__main__":
    main()
