"""How much of an image its latent still holds, as far as a linear map can read it: a neutral test of any encoder.

From the vector at each position of the latent a ridge regression (Hoerl and Kennard, 1970) reconstructs the square of
pixels that the position stands for. It is learned on train images and judged on others, and is the same for a trained
encoder, an untrained one, and one that was trained for something else.
"""

import torch

from fext.model.linear_map import to_blocks, to_images
from fext.model.moments import Moments

_RIDGE = 1e-4  # of the mean variance of the latent's channels


class LinearReadout:
    """Learns from latents (N, C, rows, columns) and their images, then reconstructs images from latents."""

    def __init__(self, picture_shape: tuple[int, int, int], latent_shape: tuple[int, int, int]) -> None:
        height, width, channels = picture_shape
        self.block = (height // latent_shape[0], width // latent_shape[1])
        inputs, outputs = latent_shape[2], self.block[0] * self.block[1] * channels
        self._inputs, self._outputs = Moments(inputs), Moments(inputs, outputs)
        self._centre = torch.empty(0)
        self._weights, self._offset = torch.empty(0), torch.empty(0)

    def learn(self, latent: torch.Tensor, images: torch.Tensor) -> None:
        """Add a batch of latents and the images (N, C, H, W) in [0, 1] that they come from."""
        vectors, blocks = _vectors(latent), to_blocks(images, self.block).flatten(0, 2)
        self._inputs.add(vectors)
        self._outputs.add(vectors, blocks)

    def finish(self) -> None:
        """Solve for the map; call once, after the last batch."""
        covariance, outputs = self._inputs.covariance(), self._outputs.covariance()
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        weights = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64), outputs)
        self._centre = self._inputs.mean.float()
        rest = (self._inputs.mean - self._centre) @ weights  # what float32 leaves of the mean
        self._weights, self._offset = weights.float(), (self._outputs.right_mean - rest).float()

    def reconstruct(self, latent: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1], read from latents."""
        blocks = (_vectors(latent) - self._centre) @ self._weights + self._offset
        count, _, rows, columns = latent.shape
        return to_images(blocks.reshape(count, rows, columns, -1), self.block).clamp(0, 1)


def _vectors(latent: torch.Tensor) -> torch.Tensor:
    """(N, C, rows, columns) to (N * rows * columns, C)."""
    return latent.permute(0, 2, 3, 1).flatten(0, 2)
