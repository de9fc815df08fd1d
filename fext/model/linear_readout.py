"""How much of an image its latent still holds, as far as a linear map can read it: a neutral test of any encoder.

From the vector at each position of the latent a ridge regression (Hoerl and Kennard, 1970) reconstructs the square of
pixels that the position stands for. It is learned on train images and judged on others, and is the same for a trained
encoder, an untrained one, and one that was trained for something else.
"""

import torch

from fext.model.linear_map import to_blocks, to_images

_CHUNK = 1024  # vectors multiplied at a time: few enough that float32 keeps its digits
_RIDGE = 1e-4  # of the mean variance of the latent's channels


class LinearReadout:
    """Learns from latents (N, C, rows, columns) and their images, then reconstructs images from latents."""

    def __init__(self, picture_shape: tuple[int, int, int], latent_shape: tuple[int, int, int]) -> None:
        height, width, channels = picture_shape
        self.block = (height // latent_shape[0], width // latent_shape[1])
        inputs, outputs = latent_shape[2], self.block[0] * self.block[1] * channels
        self.num_vectors = 0
        self._input_sum = torch.zeros(inputs, dtype=torch.float64)
        self._output_sum = torch.zeros(outputs, dtype=torch.float64)
        self._products = torch.zeros(inputs, inputs, dtype=torch.float64)
        self._moments = torch.zeros(inputs, outputs, dtype=torch.float64)
        self._shift: torch.Tensor | None = None
        self._weights, self._offset = torch.empty(0), torch.empty(0)

    def learn(self, latent: torch.Tensor, images: torch.Tensor) -> None:
        """Add a batch of latents and the images (N, C, H, W) in [0, 1] that they come from."""
        vectors, blocks = _vectors(latent), to_blocks(images, self.block).flatten(0, 2)
        if self._shift is None:
            self._shift = vectors.mean(dim=0)
        for chunk, target in zip(
            torch.split(vectors - self._shift, _CHUNK), torch.split(blocks - 0.5, _CHUNK), strict=True
        ):
            self._input_sum += chunk.sum(dim=0, dtype=torch.float64)
            self._output_sum += target.sum(dim=0, dtype=torch.float64)
            self._products += (chunk.T @ chunk).double()
            self._moments += (chunk.T @ target).double()
        self.num_vectors += len(vectors)

    def finish(self) -> None:
        """Solve for the map; call once, after the last batch."""
        inputs, outputs = self._input_sum / self.num_vectors, self._output_sum / self.num_vectors
        covariance = self._products / self.num_vectors - torch.outer(inputs, inputs)
        moments = self._moments / self.num_vectors - torch.outer(inputs, outputs)
        ridge = _RIDGE * covariance.diagonal().mean().clamp_min(1e-12)
        weights = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64), moments)
        self._weights, self._offset = weights.float(), (outputs - inputs @ weights + 0.5).float()

    def reconstruct(self, latent: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1], read from latents."""
        assert self._shift is not None
        blocks = (_vectors(latent) - self._shift) @ self._weights + self._offset
        count, _, rows, columns = latent.shape
        return to_images(blocks.reshape(count, rows, columns, -1), self.block).clamp(0, 1)


def _vectors(latent: torch.Tensor) -> torch.Tensor:
    """(N, C, rows, columns) to (N * rows * columns, C)."""
    return latent.permute(0, 2, 3, 1).flatten(0, 2)
