"""The yardstick: the best linear map to a latent of equal size, and the mean image.

The map is a principal component analysis of square blocks, one block for each position of the latent, with as many
components as the latent has channels (Hotelling, 1933). It is learned in one pass over the train images; its memory
is the covariance of a block, whatever the number of images.
"""

import torch
from scipy import linalg

from fext.model.moments import Moments

_MAX_BLOCK_VALUES = 6144  # two blocks of 32x32 colour pixels: their covariance takes 0.3 GB


class LinearMap:
    """Learns block covariances from batches, then reconstructs images through the leading components."""

    def __init__(self, picture_shape: tuple[int, int, int], latent_shape: tuple[int, int, int]) -> None:
        height, width, channels = picture_shape
        self.block = (height // latent_shape[0], width // latent_shape[1])
        self.num_components = min(latent_shape[2], self.block[0] * self.block[1] * channels)
        size = self.block[0] * self.block[1] * channels
        self.num_images = 0
        self._moments: Moments | None = Moments(size)
        self._image_sum = torch.zeros(channels, height, width, dtype=torch.float64)
        self._components = torch.empty(0)
        self._variances = torch.empty(0)
        self._mean = torch.empty(0)

    @staticmethod
    def fits(picture_shape: tuple[int, int, int], latent_shape: tuple[int, int, int]) -> bool:
        """Whether the blocks of such a latent are small enough for their covariance to be kept."""
        height, width, channels = picture_shape
        return (height // latent_shape[0]) * (width // latent_shape[1]) * channels <= _MAX_BLOCK_VALUES

    def learn(self, images: torch.Tensor) -> None:
        """Add a batch (N, C, H, W) to what is known of the train images."""
        assert self._moments is not None
        self._moments.add(to_blocks(images, self.block).flatten(0, 2))
        self._image_sum += images.sum(dim=0, dtype=torch.float64)
        self.num_images += len(images)

    def finish(self) -> None:
        """Compute the components; call once, after the last batch."""
        assert self._moments is not None
        mean = self._moments.mean
        covariance = self._moments.products.div_(self._moments.count)  # in place: 75 MB of 32x32 in colour
        self._moments = None
        # All of them by divide and conquer: for a third of 3,072 the other way takes nearly twice as long. It is laid
        # out in the order of rows or of columns alike, and the components take its place.
        variances, vectors = linalg.eigh(covariance.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
        largest = slice(len(mean) - self.num_components, None)
        self._mean = mean.float()
        self._variances = torch.from_numpy(variances[largest]).flip(0).float()
        # (block values, components), the largest first.
        self._components = torch.from_numpy(vectors[:, largest]).flip(1).float()

    def reconstruct(self, images: torch.Tensor, num_components: int | None = None) -> torch.Tensor:
        """Project a batch (N, C, H, W) on the components, or on the first of them, and back, clipped to [0, 1]."""
        latent = self.encode(images)[:, :num_components].permute(0, 2, 3, 1)
        return to_images(latent @ self._components[:, :num_components].T + self._mean, self.block).clamp(0, 1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The latent (N, components, rows, columns) of a batch (N, C, H, W)."""
        blocks = to_blocks(images, self.block) - self._mean
        return (blocks @ self._components).permute(0, 3, 1, 2)

    def directions(self) -> torch.Tensor:
        """(components, block values): the principal directions, orthonormal, that of the largest variance first."""
        return self._components.T

    def deviations(self) -> torch.Tensor:
        """(components,) standard deviation of the blocks in each direction."""
        return self._variances.clamp_min(0).sqrt()

    def mean(self) -> torch.Tensor:
        """(block values,) mean of the blocks."""
        return self._mean

    def mean_image(self) -> torch.Tensor:
        """(C, H, W) mean of the train images."""
        return (self._image_sum / self.num_images).float()


def to_blocks(images: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) cut into blocks of height and width: (N, rows, columns, height * width * C), channels last."""
    tall, wide = block
    count, channels, height, width = images.shape
    grid = images.permute(0, 2, 3, 1).reshape(count, height // tall, tall, width // wide, wide * channels)
    return grid.permute(0, 1, 3, 2, 4).flatten(3)


def to_images(blocks: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """What to_blocks cut, put together again: (N, C, H, W)."""
    tall, wide = block
    count, rows, columns, size = blocks.shape
    grid = blocks.reshape(count, rows, columns, tall, size // tall).permute(0, 1, 3, 2, 4)
    return grid.reshape(count, rows * tall, columns * wide, size // (tall * wide)).permute(0, 3, 1, 2)
