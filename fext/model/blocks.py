"""The blocks of residual plans: each adds a normalized, rectified convolution to a shortcut.

The shortcuts around down- and upsampling move pixels between space and channels without weights, after Chen et al.,
'Deep compression autoencoder for efficient high-resolution diffusion models', 2025 (residual autoencoding). Blocks
normalize before they convolve, after He et al., 'Identity mappings in deep residual networks', 2016.
"""

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    """Two 3x3 convolutions added to the input; (N, channels, H, W) to (N, width, H, W)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.shortcut = nn.Identity() if channels == width else nn.Conv2d(channels, width, kernel_size=1)
        self.norm = nn.BatchNorm2d(channels)
        self.first = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.first(self.norm(images)))
        changed: torch.Tensor = self.shortcut(images) + self.second(hidden)
        return changed

    def start_at_shortcut(self) -> None:
        """Let the branch begin at nothing, so that a deep stack begins as its shortcuts."""
        nn.init.zeros_(self.second.weight)


class Downsample(nn.Module):
    """Halves height and width: (N, channels, H, W) to (N, width, H/2, W/2).

    Where 4 * channels is a multiple of width, the shortcut folds 2x2 pixels into channels and averages groups of them.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.has_shortcut = 4 * channels % width == 0
        self.norm = nn.BatchNorm2d(channels)
        self.convolution = nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.convolution(self.norm(images))
        if not self.has_shortcut:
            return changed
        folded = functional.pixel_unshuffle(images, 2)  # (N, 4 * channels, H/2, W/2)
        count, _, height, width = changed.shape
        return changed + folded.reshape(count, self.width, -1, height, width).mean(dim=2)


class Upsample(nn.Module):
    """Doubles height and width: (N, channels, H, W) to (N, width, 2H, 2W).

    Where 4 * width is a multiple of channels, the shortcut copies channels and unfolds them into 2x2 pixels.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.copies = 4 * width // channels if 4 * width % channels == 0 else 0
        self.norm = nn.BatchNorm2d(channels)
        self.convolution = nn.Conv2d(channels, 4 * width, kernel_size=3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.convolution(functional.relu(self.norm(images)))
        if self.copies:
            changed = changed + images.repeat_interleave(self.copies, dim=1)
        return functional.pixel_shuffle(changed, 2)
