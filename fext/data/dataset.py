"""The dataset generator: streams preprocessed images from disk in batches.

An image's augmentation and place depend on the seed, the epoch and the image alone, so the stream is the same for
any number of processes. Only the batches being prepared are in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from fext.data.images import Preprocessing, checksum, preprocess, read_bytes
from fext.errors import ImageRejected

_SHUFFLE, _AUGMENT = 0, 1  # independent random streams of one seed


class Batch(NamedTuple):
    """Images (N, C, H, W) float32 in [0, 1], their positions in the list of paths, and what was rejected."""

    images: torch.Tensor
    positions: list[int]
    checksums: list[str]
    rejected: list[tuple[int, str]]


class _Loaded(NamedTuple):
    position: int
    image: NDArray[np.float32] | None
    checksum: str
    reason: str


@dataclass(frozen=True)
class ImageDataset(Dataset[_Loaded]):
    """Loads the image at (epoch, position); augmented where a seed for that is given."""

    paths: Sequence[Path]
    preprocessing: Preprocessing
    augmentation_seed: int | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> _Loaded:
        epoch, position = key
        try:
            data = read_bytes(self.paths[position])
            image = preprocess(data, self.preprocessing)
        except ImageRejected as error:
            return _Loaded(position, None, "", str(error))
        if self.augmentation_seed is not None:
            image = augment(image, np.random.default_rng([self.augmentation_seed, _AUGMENT, epoch, position]))
        return _Loaded(position, image, checksum(data), "")


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position): in order, or shuffled anew for each epoch."""

    def __init__(self, num_images: int, batch_size: int, shuffle_seed: int | None) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.num_images)
        if self.shuffle_seed is not None:
            order = np.random.default_rng([self.shuffle_seed, _SHUFFLE, self.epoch]).permutation(self.num_images)
        for start in range(0, self.num_images, self.batch_size):
            yield [(self.epoch, int(position)) for position in order[start : start + self.batch_size]]


class ImageStream:
    """Batches of images, epoch after epoch, decoded by `num_processors` processes (1: this one)."""

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        num_processors: int,
        shuffle_seed: int | None = None,
        augmentation_seed: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        self._sampler = _EpochSampler(len(paths), batch_size, shuffle_seed)
        num_workers = 0 if num_processors == 1 else num_processors
        self._loader = DataLoader(
            ImageDataset(paths, preprocessing, augmentation_seed),
            batch_sampler=self._sampler,
            collate_fn=_collate,
            num_workers=num_workers,
            multiprocessing_context="spawn" if num_workers else None,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; the same epoch gives the same batches."""
        self._sampler.epoch = epoch
        yield from self._loader


def _collate(loaded: list[_Loaded]) -> Batch:
    good = [item for item in loaded if item.image is not None]
    rejected = [(item.position, item.reason) for item in loaded if item.image is None]
    arrays = [item.image.transpose(2, 0, 1) for item in good if item.image is not None]
    images = torch.from_numpy(np.stack(arrays)) if arrays else torch.empty(0)
    return Batch(images, [item.position for item in good], [item.checksum for item in good], rejected)


def augment(image: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """Vary an image: mirrored left to right, shifted by up to 6 %, brightness and contrast by up to 10 %.

    Takes and returns (H, W, C) float32 in [0, 1].
    """
    mirrored = random.random() < 0.5
    row_shift, column_shift = random.uniform(-0.06, 0.06, size=2)
    brightness, contrast = random.uniform(-0.1, 0.1, size=2).astype(np.float32)
    if mirrored:
        image = image[:, ::-1]
    image = _shifted(image, round(row_shift * image.shape[0]), round(column_shift * image.shape[1]))
    mean = image.mean(dtype=np.float32)
    varied = (image - mean) * (1 + contrast) + mean + brightness
    clipped: NDArray[np.float32] = np.clip(varied, 0, 1, dtype=np.float32)
    return clipped


def _shifted(image: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Moved by whole pixels; what comes in at the edge is the image's own mirror, so no border is learned."""
    padding = ((max(rows, 0), max(-rows, 0)), (max(columns, 0), max(-columns, 0)), (0, 0))
    padded = np.pad(image, padding, mode="symmetric")
    top, left = max(-rows, 0), max(-columns, 0)
    return padded[top : top + image.shape[0], left : left + image.shape[1]]
