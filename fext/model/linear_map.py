"""The yardstick: the best linear map to a latent of equal size, and the mean image.

The map is a principal component analysis of square blocks, one block for each position of the latent, with as many
components as the latent has channels (Hotelling, 1933). It is learned in one pass over the train images; its memory
is the covariance of a block, whatever the number of images.
"""

import torch
from scipy import linalg

_CHUNK = 256  # blocks multiplied at a time: few enough that float32 keeps its digits


class LinearMap:
    """Learns block covariances from batches, then reconstructs images through the leading components."""

    def __init__(self, picture_shape: tuple[int, int, int], latent_shape: tuple[int, int, int]) -> None:
        height, width, channels = picture_shape
        self.block = (height // latent_shape[0], width // latent_shape[1])
        self.num_components = min(latent_shape[2], self.block[0] * self.block[1] * channels)
        size = self.block[0] * self.block[1] * channels
        self.num_blocks = 0
        self.num_images = 0
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._products = torch.zeros(size, size, dtype=torch.float64)
        self._image_sum = torch.zeros(channels, height, width, dtype=torch.float64)
        self._components = torch.empty(0)
        self._mean = torch.empty(0)

    def learn(self, images: torch.Tensor) -> None:
        """Add a batch (N, C, H, W) to what is known of the train images."""
        blocks = self._to_blocks(images)
        self._sum += blocks.sum(dim=0, dtype=torch.float64)
        # Products in float32 within a batch, added up in float64: fast, and exact to about 1e-6.
        for chunk in torch.split(blocks, _CHUNK):
            self._products += (chunk.T @ chunk).double()
        self._image_sum += images.sum(dim=0, dtype=torch.float64)
        self.num_blocks += len(blocks)
        self.num_images += len(images)

    def finish(self) -> None:
        """Compute the components; call once, after the last batch."""
        mean = self._sum / self.num_blocks
        covariance = self._products / self.num_blocks - torch.outer(mean, mean)
        largest = (len(mean) - self.num_components, len(mean) - 1)
        _, vectors = linalg.eigh(covariance.numpy(), subset_by_index=largest)
        self._mean = mean.float()
        self._components = torch.from_numpy(vectors).float()  # (block values, components)

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Project a batch (N, C, H, W) on the components and back, clipped to [0, 1]."""
        blocks = self._to_blocks(images) - self._mean
        projected = (blocks @ self._components) @ self._components.T + self._mean
        return self._to_images(projected, images.shape).clamp(0, 1)

    def mean_image(self) -> torch.Tensor:
        """(C, H, W) mean of the train images."""
        return (self._image_sum / self.num_images).float()

    def _to_blocks(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N * blocks, C * block height * block width)."""
        tall, wide = self.block
        count, channels, height, width = images.shape
        grid = images.reshape(count, channels, height // tall, tall, width // wide, wide)
        return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * tall * wide)

    def _to_images(self, blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        tall, wide = self.block
        count, channels, height, width = shape
        grid = blocks.reshape(count, height // tall, width // wide, channels, tall, wide)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(shape)
