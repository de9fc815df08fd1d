"""The blocks that plans are made of, beside torch's own layers.

Those of residual plans add a normalized, rectified convolution to a shortcut. The shortcuts around down- and
upsampling move pixels between space and channels without weights, after Chen et al., 'Deep compression autoencoder for
efficient high-resolution diffusion models', 2025 (residual autoencoding). Blocks normalize before they convolve, after
He et al., 'Identity mappings in deep residual networks', 2016.
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


class UpsampledConvolution(nn.Conv2d):
    """Doubles height and width by nearest neighbour, then convolves 3x3: (N, channels, H, W) to (N, width, 2H, 2W).

    Taps that fall on copies of the same pixel are added up beforehand. For each of the four places within a pixel that
    leaves a 2x2 convolution of the small image: 4/9 of the multiplications, with the same weights and result. See Shi
    et al., 'Is the deconvolution layer the same as a convolutional layer?', 2016.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, kernel_size=3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert self.bias is not None
        kernels = [kernel for rows in _halves(self.weight, 2) for kernel in _halves(rows, 3)]
        made = functional.conv2d(images, torch.cat(kernels), self.bias.repeat(4), padding=1)  # (N, 4 * width, H+1, W+1)
        upper_left, upper_right, lower_left, lower_right = made.permute(0, 2, 3, 1).chunk(4, dim=3)
        # Rows of (N, H, 2W, width), which then lie between each other.
        upper = torch.stack([upper_left[:, :-1, :-1], upper_right[:, :-1, 1:]], dim=3).flatten(2, 3)
        lower = torch.stack([lower_left[:, 1:, :-1], lower_right[:, 1:, 1:]], dim=3).flatten(2, 3)
        return torch.stack([upper, lower], dim=2).flatten(1, 2).permute(0, 3, 1, 2)


def _halves(weights: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is left of three taps in one direction for the first and for the second place within a pixel: two each."""
    before, middle, after = torch.split(weights, 1, dim)
    return torch.cat([before, middle + after], dim), torch.cat([before + middle, after], dim)
