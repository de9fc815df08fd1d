"""What a picture shows: how strongly it answers to small patches of the training images, at several scales.

Squeezed to its principal components a picture keeps what it looks like, and little that tells what is in it. Patches of
the training images, whitened and used as the filters of one convolution, tell that better, without a step of training:
Coates, Ng and Lee, 'An analysis of single-layer networks in unsupervised feature learning', 2011; Thiry et al., 'The
unreasonable effectiveness of patches in deep convolutional kernels methods', 2021. Answers are divided by their root
mean square in the image, so that light and contrast count for little; what exceeds a threshold, in either direction,
is averaged over the square that a position of the latent stands for.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from fext.model.moments import Moments
from fext.model.plans import PATCH_SIDE, Plan

_THRESHOLD = 1.25  # in root mean squares of the answers
_FLOOR = 0.01  # of the mean square over all images: an even picture has no contrast to be divided by
_RIDGE = 0.1  # of the mean variance in whitening: what varies less is noise
_NUM_PATCHES = 30_000  # at each scale, to learn from
_TINY = torch.finfo(torch.float32).tiny


class PatchResponses(nn.Module):
    """(N, C, H, W) to (N, plan.shown_channels, rows, columns): scale by scale above the threshold, then below."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.scales, self.square, self.num_channels = plan.patches, plan.factor, plan.shown_channels
        channels = plan.picture_shape[2]
        self.patch_values = channels * PATCH_SIDE**2
        self.filters = nn.ModuleList(
            nn.Conv2d(channels, scale.num_filters, PATCH_SIDE, scale.stride) for scale in self.scales
        )
        self.floors = nn.Parameter(torch.ones(len(self.scales)))
        self.deviation = nn.Parameter(torch.ones(1))
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        exceeding = [self._exceeding(images, number) for number in range(len(self.scales))]
        return torch.cat(exceeding, dim=1) / self.deviation

    def _exceeding(self, images: torch.Tensor, number: int) -> torch.Tensor:
        scale = self.scales[number]
        answers = self.filters[number](padded(reduced(images, scale.reduction)))
        strength = (answers.square().mean(dim=(1, 2, 3), keepdim=True) + self.floors[number]).sqrt()
        threshold = _THRESHOLD * strength
        both = torch.cat([functional.relu(answers - threshold), functional.relu(-answers - threshold)], dim=1)
        averaged = functional.avg_pool2d(both, self.square // (scale.reduction * scale.stride))
        relative: torch.Tensor = averaged / strength
        return relative

    def scale_to(self, images: Iterable[torch.Tensor]) -> None:
        """Let the channels have variance 1 in the mean over batches (N, C, H, W); each as it is beside the others."""
        self.deviation.fill_(1.0)
        moments = Moments(self.num_channels, each_alone=True)
        for batch in images:
            moments.add(self(batch).permute(0, 2, 3, 1).flatten(0, 2))
        if (variance := float(moments.covariance().mean())) > 0:
            self.deviation.fill_(variance**0.5)


class PatchLearner:
    """Draws patches from batches of training images, and makes filters of them.

    `num_images` will be seen in all; the patches that each gives are drawn from `seed` and its number alone.
    """

    def __init__(self, responses: PatchResponses, num_images: int, seed: int) -> None:
        self._responses, self._seed, self._num_seen = responses, seed, 0
        self._per_image = -(-_NUM_PATCHES // num_images)
        # Room for all from the start: many small pieces, between large ones that go again, would tear memory apart.
        size = num_images * self._per_image, responses.patch_values
        self._patches = [torch.empty(size) for _ in responses.scales]

    def learn(self, images: torch.Tensor) -> None:
        """Draw from a batch (N, C, H, W)."""
        for image in images:
            generator = torch.Generator().manual_seed(self._seed + self._num_seen)
            place = slice(self._num_seen * self._per_image, (self._num_seen + 1) * self._per_image)
            self._num_seen += 1
            for patches, scale in zip(self._patches, self._responses.scales, strict=True):
                patches[place] = drawn_patches(
                    padded(reduced(image[None], scale.reduction))[0], PATCH_SIDE, self._per_image, generator
                )

    def finish(self) -> None:
        """Give the responses their filters; call once, after the last batch."""
        generator = torch.Generator().manual_seed(self._seed)
        for number, drawn in enumerate(self._patches):
            filters, patches = self._responses.filters[number], drawn[: self._num_seen * self._per_image].double()
            assert isinstance(filters, nn.Conv2d)
            assert filters.bias is not None
            weight, bias = whitened_filters(patches, filters.out_channels, generator)
            filters.weight.copy_(weight.reshape(filters.weight.shape))
            filters.bias.copy_(bias)
            strength = (patches @ weight.T + bias).square().mean()
            self._responses.floors[number] = (_FLOOR * strength).clamp_min(_TINY)
        self._patches = []


def reduced(images: torch.Tensor, factor: int) -> torch.Tensor:
    """The mean of squares of factor x factor pixels."""
    return functional.avg_pool2d(images, factor) if factor > 1 else images


def padded(images: torch.Tensor) -> torch.Tensor:
    """Repeats the border, so that a patch around each pixel is whole."""
    margin = PATCH_SIDE // 2
    return functional.pad(images, (margin,) * 4, mode="replicate")


def drawn_patches(image: torch.Tensor, side: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, values) patches of side x side pixels, drawn anywhere within an image (C, H, W)."""
    _, height, width = image.shape
    rows = torch.randint(height - side + 1, (count, 1, 1), generator=generator)
    columns = torch.randint(width - side + 1, (count, 1, 1), generator=generator)
    places = torch.arange(side)
    patches = image[:, rows + places[:, None], columns + places]  # (C, count, side, side)
    return patches.transpose(0, 1).flatten(1)


def whitened_filters(
    patches: torch.Tensor, count: int, generator: torch.Generator, *, zero_sum: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, values) filters and (count,) biases of patches (N, values): the more contrast, the likelier one is drawn.

    Whitening (ZCA, Bell and Sejnowski, 1997) is in the filters twice: for themselves, and for what they will meet. With
    zero_sum they add up to 0, so that light is nothing to them.
    """
    if zero_sum:
        patches = patches - patches.mean(dim=1, keepdim=True)
    mean = patches.mean(dim=0)
    values = patches - mean
    variances, directions = torch.linalg.eigh(values.T @ values / len(values))
    ridge = (_RIDGE * variances.mean()).clamp_min(_TINY)
    whitening = directions * (variances.clamp_min(0) + ridge).rsqrt() @ directions.T
    whitened = values @ whitening
    contrast = whitened.square().sum(dim=1)
    # Where nothing has contrast, as in pictures of one colour, any patch is as good.
    chances = contrast if int((contrast > 0).sum()) >= count else torch.ones_like(contrast)
    chosen = torch.multinomial(chances, count, replacement=len(chances) < count, generator=generator)
    filters = functional.normalize(whitened[chosen], dim=1) @ whitening
    return filters, -(filters @ mean)
