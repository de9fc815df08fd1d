"""3x3 convolutions by Winograd's minimal filtering: 16 multiplications for 4 results, where there were 36.

The picture is cut into tiles of 4x4 pixels that overlap by two. Each tile and each kernel is transformed, then a result
is a product of matrices for each of the 16 places in a tile, and transformed back: Lavin and Gray, 'Fast algorithms for
convolutional neural networks', 2016, with their F(2x2, 3x3). Additions take the place of multiplications, so it pays
where multiplying is what takes the time, and where channels are many.

All pictures here are (N, C, H, W) bfloat16 with channels last in memory; the sums within a product are float32. The
error was measured at 0.006 of the result, against 0.002 of a direct convolution in bfloat16.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# What a kernel is multiplied with from both sides; a tile has (a - c, b + c, c - b, d - b) of its rows a, b, c, d.
_KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_FROM_BEHIND = (3, 1, 2, 0)  # the rows of a transformed kernel, if the kernel is turned around
_LEAST_KERNELS = 2**16  # input times output channels; with fewer the transforms take more than they save
_VALUES_AT_A_TIME = 2**19  # tiles times channels, so that the 16 places of each fit the cache of a processor


class Convolution(nn.Conv2d):
    """A 3x3 convolution that keeps the size; computed so where `by_winograd` is on, autocast is, and it pays."""

    by_winograd = False

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, kernel_size=3, padding=1)
        self._kernels: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) to (N, width, H, W)."""
        if not self.by_winograd or not self._pays(images):
            return super().forward(images)
        images = images.to(torch.bfloat16)
        if self._kernels is not None and self.bias is not None:
            return filter_pictures(images, self._kernels, self.bias.to(torch.bfloat16))
        made: torch.Tensor = _Filtering.apply(images, self.weight, self.bias)
        return made

    @torch.no_grad()
    def keep_kernels(self) -> None:
        """Transform the kernels once and for all: the weights are not trained any more."""
        if self.by_winograd and self.is_wide:
            self._kernels = transform_kernels(self.weight)

    @property
    def is_wide(self) -> bool:
        """Whether it has the channels that make it pay."""
        return self.in_channels * self.out_channels >= _LEAST_KERNELS

    def _pays(self, images: torch.Tensor) -> bool:
        rows, columns = images.shape[2:]
        return (
            self.is_wide
            and rows % 2 == columns % 2 == 0
            and torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class _Filtering(torch.autograd.Function):
    """The convolution and its gradients, all three of them as products in a tile."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            kernels = transform_kernels(weight)
            context.save_for_backward(images, kernels)
            return filter_pictures(images, kernels, bias.to(torch.bfloat16))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, kernels = context.saved_tensors
        gradient = gradients[0]
        of_images = filter_pictures(gradient, _turned_around(kernels)) if context.needs_input_grad[0] else None
        of_weight = kernel_gradient(images, gradient) if context.needs_input_grad[1] else None
        return of_images, of_weight, gradient.sum(dim=(0, 2, 3), dtype=torch.float32)


def convolutions(model: nn.Module) -> list[Convolution]:
    """Those of a model that can be computed so."""
    return [module for module in model.modules() if isinstance(module, Convolution)]


def transform_kernels(weight: torch.Tensor) -> torch.Tensor:
    """Kernels (K, C, 3, 3) float32 as (16, K, C) bfloat16, rounded once."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (_both_sides() @ taps).view(16, *weight.shape[:2]).to(torch.bfloat16)


def filter_pictures(pictures: torch.Tensor, kernels: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(N, C, H, W) with kernels (16, K, C) to (N, K, H, W), zeros around the pictures; H and W are even."""
    count, _, height, width = pictures.shape
    channels = kernels.shape[1]
    made = torch.empty(count, channels, height, width, dtype=pictures.dtype, memory_format=torch.channels_last)
    pixels = _in_pairs(made)
    for start, tiles in _tiles(pictures, channels):
        products = torch.bmm(_by_place(tiles), kernels.transpose(1, 2)).view(*tiles.shape[:-1], channels)
        if bias is not None:
            products[1, 1] += bias  # goes into each of the four results
        results = pixels[:, :, start : start + tiles.shape[2]]
        rows = _results(products, products.new_empty(2, *products.shape[1:]))
        _results(rows.transpose(0, 1), results.transpose(0, 1))
    return made


def kernel_gradient(pictures: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Of pictures (N, C, H, W) and the gradient (N, K, H, W) of what they became, that of the kernels (K, C, 3, 3).

    float32, as are the sums over pictures; channels last in memory, as the weights are.
    """
    channels = gradient.shape[1]
    pixels = _in_pairs(gradient.contiguous(memory_format=torch.channels_last))
    total = torch.zeros(16, channels, pictures.shape[1])
    for start, tiles in _tiles(pictures, channels):
        results = pixels[:, :, start : start + tiles.shape[2]]
        spread = _spread(_spread(results.transpose(0, 1)).transpose(0, 1))
        total += torch.bmm(_by_place(spread).transpose(1, 2), _by_place(tiles))
    taps = _both_sides().T @ total.flatten(1)
    of_kernels = taps.view(3, 3, channels, -1).permute(2, 3, 0, 1)
    return of_kernels.contiguous(memory_format=torch.channels_last)


def _tiles(pictures: torch.Tensor, channels_made: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The transformed tiles (4, 4, n, H / 2, W / 2, C) of a few pictures at a time, with the number of the first.

    They are overwritten by the next. It is as many pictures every time, so that a picture's place among them does not
    matter.
    """
    count, channels, height, width = pictures.shape
    at_a_time = _divisor(count, _VALUES_AT_A_TIME // (height * width // 4 * max(channels, channels_made)))
    padded = pictures.new_zeros(at_a_time, height + 2, width + 2, channels)
    rows = pictures.new_empty(4, at_a_time, height // 2, width + 2, channels)
    tiles = pictures.new_empty(4, 4, at_a_time, height // 2, width // 2, channels)
    for start in range(0, count, at_a_time):
        padded[:, 1:-1, 1:-1] = pictures[start : start + at_a_time].permute(0, 2, 3, 1)
        _overlapping(padded.transpose(0, 1), rows.transpose(1, 2))
        _overlapping(rows.movedim(3, 0), tiles.transpose(0, 1).movedim(4, 1))
        yield start, tiles


def _by_place(tiles: torch.Tensor) -> torch.Tensor:
    """(4, 4, n, H / 2, W / 2, C) as (16, tiles, C)."""
    return tiles.flatten(0, 1).flatten(1, 3)


def _in_pairs(pictures: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) as (2, 2, N, H / 2, W / 2, C): the rows and columns of each 2x2 pixels come first. In place."""
    count, channels, height, width = pictures.shape
    lines = pictures.permute(0, 2, 3, 1).view(count, height // 2, 2, width // 2, 2, channels)
    return lines.permute(2, 4, 0, 1, 3, 5)


def _overlapping(pixels: torch.Tensor, out: torch.Tensor) -> None:
    """Lines (2n + 2, ...) as (4, n, ...): what each four of them, two lines apart, are transformed to."""
    first, second, third, fourth = pixels[0:-2:2], pixels[1:-1:2], pixels[2::2], pixels[3::2]
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(fourth, second, out=out[3])


def _results(products: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Four lines of products as the two lines of results that they make."""
    torch.add(products[0], products[1], out=out[0]).add_(products[2])
    torch.sub(products[1], products[2], out=out[1]).add_(products[3])
    return out


def _spread(results: torch.Tensor) -> torch.Tensor:
    """Two lines of results as what each gives to the four lines of products."""
    first, second = results
    return torch.stack([first, first + second, first - second, second])


def _turned_around(kernels: torch.Tensor) -> torch.Tensor:
    """(16, K, C) for the way back: (16, C, K), each kernel read from behind."""
    order = [4 * row + column for row in _FROM_BEHIND for column in _FROM_BEHIND]
    return kernels[order].transpose(1, 2)


def _both_sides() -> torch.Tensor:
    """(16, 9): from the taps of a kernel to the places of a tile."""
    sides = torch.tensor(_KERNEL)
    return torch.kron(sides, sides)


def _divisor(count: int, most: int) -> int:
    """The greatest divisor of count that is at most `most`; 1 at least."""
    return max(number for number in range(1, count + 1) if count % number == 0 and number <= max(1, most))
