"""The dataset generator: streams preprocessed images from disk in batches.

An image's augmentation and place depend on the seed, the epoch and the image alone, so the stream is the same for
any number of processes. Only the batches being prepared are in memory.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fext.data.images import (
    NO_FILE,
    FileState,
    Preprocessing,
    checksum,
    from_bytes,
    preprocess_and_tell,
    read_file,
    to_bytes,
)
from fext.data.readers import READER_DIED, leave_ctrl_c_to_the_main_process, own_signals
from fext.errors import ImageRejected, ReaderDiedError, TooLittleMemory

# How torch says that a process is gone, or that what processes share is full.
_DIED = ("exited unexpectedly", "killed by signal", "shared memory", "No space left on device", "shm")
_MAX_THREADS = 4  # that decode: more would keep more large pictures in memory than they gain
_SHUFFLE, _AUGMENT = 0, 1  # independent random streams of one seed


class FileRead(NamedTuple):
    """One file as it was read: its position in the list of names, its state and checksum, why it was rejected if so,
    what there is to tell of a good one."""

    position: int
    state: FileState
    sha256: str = ""
    reason: str = ""
    note: str = ""


class Batch(NamedTuple):
    """Images (N, C, H, W) float32 in [0, 1], the N files they come from, and the files that were rejected.

    In memory the channels come last. Where a stream was asked for that, images may be the bytes that are 255ths.
    """

    images: torch.Tensor
    files: list[FileRead]
    rejected: list[FileRead]

    @property
    def num_files(self) -> int:
        """How many files were looked at, the rejected ones among them."""
        return len(self.files) + len(self.rejected)


class _Loaded(NamedTuple):
    image: NDArray[np.float32] | None
    file: FileRead


class ImageCache:
    """Keeps preprocessed images in memory, one byte a value, where all processes that read see them: torch shares the
    tensors that it hands to a process.

    An image that is not made of whole 255ths, such as a 16-bit one, is not kept: what comes back is always the same.
    """

    def __init__(self, num_images: int, shape: tuple[int, int, int]) -> None:
        self._pixels = torch.empty(num_images, *shape, dtype=torch.uint8)
        self._is_kept = torch.zeros(num_images, dtype=torch.bool)

    @staticmethod
    def size(num_images: int, shape: tuple[int, int, int]) -> int:
        """Bytes that a cache of so many images takes when it is full."""
        return num_images * math.prod(shape)

    def keep(self, position: int, image: NDArray[np.float32]) -> None:
        """Keep (H, W, C) float32 in [0, 1], where a byte for each value can hold it."""
        pixels = to_bytes(image)
        if np.array_equal(from_bytes(pixels), image):
            self._pixels[position] = torch.from_numpy(pixels)
            self._is_kept[position] = True

    def recall(self, position: int) -> NDArray[np.float32] | None:
        """The image at a position, or None where it is not kept."""
        return from_bytes(self._pixels[position].numpy()) if self._is_kept[position] else None


@dataclass(frozen=True)
class ImageDataset(Dataset[_Loaded]):
    """Loads the image at (epoch, position); augmented where a seed for that is given.

    Where checksums are given, a file that has another one is rejected. With a cache, which wants checksums, a file is
    read once.
    """

    root: Path
    names: Sequence[str]
    preprocessing: Preprocessing
    augmentation_seed: int | None = None
    checksums: Sequence[str] | None = None
    cache: ImageCache | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: tuple[int, int]) -> _Loaded:
        epoch, position = key
        loaded = self._recall(position) or self._load(position)
        if loaded.image is None or self.augmentation_seed is None:
            return loaded
        random = np.random.default_rng([self.augmentation_seed, _AUGMENT, epoch, position])
        return loaded._replace(image=augment(loaded.image, random))

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[_Loaded]:
        """The images at several keys, by as many threads as compute: they wait meanwhile. Other processes have one."""
        num_threads = min(torch.get_num_threads(), _MAX_THREADS, len(keys))
        if num_threads < 2:
            return [self[key] for key in keys]
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(self.__getitem__, keys))

    def _recall(self, position: int) -> _Loaded | None:
        image = self.cache.recall(position) if self.cache is not None else None
        if image is None:
            return None
        assert self.checksums is not None
        return _Loaded(image, FileRead(position, NO_FILE, self.checksums[position]))

    def _load(self, position: int) -> _Loaded:
        state, sha256 = NO_FILE, ""
        try:
            path = self.root / self.names[position]
            data, state = read_file(path)
            sha256 = checksum(data)
            if self.checksums is not None and sha256 != self.checksums[position]:
                raise ImageRejected("it is not the file any more that it was at first")
            image, note = preprocess_and_tell(data, self.preprocessing, path.suffix)
        except TooLittleMemory as error:
            return _Loaded(None, FileRead(position, NO_FILE, reason=str(error)))
        except ImageRejected as error:
            return _Loaded(None, FileRead(position, state, sha256, str(error)))
        if self.cache is not None:
            self.cache.keep(position, image)
        return _Loaded(image, FileRead(position, state, sha256, note=note))


@dataclass(frozen=True)
class Shard:
    """Which part of each batch is this process's: the `rank`-th of `count` that are as equal as can be.

    A batch of fewer images than processes is not divided: each has the whole of it, so that none has nothing to do.
    """

    rank: int
    count: int

    def of(self, batch: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The part."""
        if len(batch) < self.count:
            return batch
        return batch[len(batch) * self.rank // self.count : len(batch) * (self.rank + 1) // self.count]


WHOLE = Shard(0, 1)


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position): in order, or shuffled anew for each epoch; from any image on; a part of each."""

    def __init__(self, num_images: int, batch_size: int, shuffle_seed: int | None, shard: Shard) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.shard = shard
        self.epoch = 0
        self.first_image = 0

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.num_images)
        if self.shuffle_seed is not None:
            order = np.random.default_rng([self.shuffle_seed, _SHUFFLE, self.epoch]).permutation(self.num_images)
        for start in range(self.first_image, self.num_images, self.batch_size):
            yield self.shard.of([(self.epoch, int(position)) for position in order[start : start + self.batch_size]])


class _Datasets(Dataset[_Loaded]):
    """Several datasets for the same processes: those of streams that are read one after the other."""

    def __init__(self) -> None:
        self.datasets: list[ImageDataset] = []

    def __getitem__(self, key: tuple[int, int, int]) -> _Loaded:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int, int]]) -> list[_Loaded]:
        """The images at (number of the dataset, which is the same for all, epoch, position)."""
        return self.datasets[keys[0][0]].__getitems__([key[1:] for key in keys])


class _Turn(Sampler[list[tuple[int, int, int]]]):
    """Hands on the batches of the stream whose turn it is."""

    def __init__(self) -> None:
        self.number = 0
        self.samplers: list[_EpochSampler] = []

    def __len__(self) -> int:
        return len(self.samplers[self.number])

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        number = self.number
        for batch in self.samplers[number]:
            yield [(number, *key) for key in batch]


class ImageStream:
    """Batches of images, epoch after epoch, decoded by `num_processors` processes (1: this one).

    A stream `beside` another has the other's processes and settings of them; it is made before either is read, and of
    all of them one at a time is. With `as_bytes` images come as the bytes that are 255ths, where they are such.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        num_processors: int,
        shuffle_seed: int | None = None,
        augmentation_seed: int | None = None,
        checksums: Sequence[str] | None = None,
        cache: ImageCache | None = None,
        pin_memory: bool = False,
        as_bytes: bool = False,
        shard: Shard = WHOLE,
        beside: "ImageStream | None" = None,
    ) -> None:
        self._sampler = _EpochSampler(len(names), batch_size, shuffle_seed, shard)
        self._as_bytes = as_bytes
        self._datasets: _Datasets = _Datasets() if beside is None else beside._datasets
        self._turn: _Turn = _Turn() if beside is None else beside._turn
        self._number = len(self._datasets.datasets)
        self._datasets.datasets.append(ImageDataset(root, names, preprocessing, augmentation_seed, checksums, cache))
        self._turn.samplers.append(self._sampler)
        self._loader: DataLoader[_Loaded] = (
            self._make_loader(num_processors, pin_memory) if beside is None else beside._loader
        )

    def _make_loader(self, num_processors: int, pin_memory: bool) -> "DataLoader[_Loaded]":
        num_workers = 0 if num_processors == 1 else num_processors
        with _without_advice():
            return DataLoader(
                self._datasets,
                batch_sampler=self._turn,
                collate_fn=_collate,
                num_workers=num_workers,
                multiprocessing_context="spawn" if num_workers else None,
                worker_init_fn=leave_ctrl_c_to_the_main_process if num_workers else None,
                persistent_workers=num_workers > 0,
                pin_memory=pin_memory,
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._sampler)

    def epoch(self, epoch: int = 0, first_image: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from the image at that place on; the same epoch gives the same images in order.

        Raises ReaderDiedError where one of the processes that read images has died.
        """
        self._sampler.epoch, self._sampler.first_image = epoch, first_image
        self._turn.number = self._number
        try:
            with own_signals(), _without_advice():
                batches = iter(self._loader)
            for batch in batches:
                yield batch if self._as_bytes else batch._replace(images=_as_floats(batch.images))
        except (RuntimeError, OSError) as error:
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in _DIED):
                raise
            raise ReaderDiedError(READER_DIED) from error


@contextmanager
def _without_advice() -> Iterator[None]:
    """torch warns of more processes than cores; that many were asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _collate(loaded: list[_Loaded]) -> Batch:
    arrays = [item.image for item in loaded if item.image is not None]
    is_beside = get_worker_info() is not None
    stacked = _stacked(arrays, as_bytes=is_beside) if arrays else None
    # Stacked as they lie, with channels last in memory: the order in which convolutions are quickest.
    images = torch.from_numpy(stacked).permute(0, 3, 1, 2) if stacked is not None else torch.empty(0)
    if is_beside:
        # Here it can fail aloud: torch itself would do it in a thread whose errors are lost.
        images.share_memory_()  # type: ignore[no-untyped-call]
    files = [item.file for item in loaded]
    return Batch(images, [file for file in files if not file.reason], [file for file in files if file.reason])


def _stacked(arrays: list[NDArray[np.float32]], *, as_bytes: bool) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Images one above the other: as bytes, a quarter of the memory, where all are made of whole 255ths."""
    if as_bytes and _is_bytes(arrays[0][:1]):  # a first row tells most of what is not
        pixels = to_bytes(np.stack(arrays))
        if all(map(np.array_equal, map(from_bytes, pixels), arrays)):
            return pixels
    return np.stack(arrays)


def _is_bytes(image: NDArray[np.float32]) -> bool:
    return np.array_equal(from_bytes(to_bytes(image)), image)


def _as_floats(images: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) of bytes or floats as float32 in [0, 1], in the same order of memory."""
    if images.dtype != torch.uint8:
        return images
    return torch.from_numpy(from_bytes(images.permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2)


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
