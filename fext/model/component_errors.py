"""The squared error of a model with a linear path, told from components, so that no gradient need pass its pictures.

The directions of the path are orthonormal: what two pictures differ by within them is what their components differ by,
each times its deviation (Parseval's theorem), and what an image has beyond them no component changes. So the gradient
of the squared error is known without the product that leads from pictures back to components, and the two products
with pictures that are left may be in bfloat16, for nothing is the small difference of large numbers any more.
"""

import torch
from torch.nn import functional

from fext.model.autoencoder import Autoencoder
from fext.model.linear_map import to_blocks, to_images
from fext.model.linear_path import LinearPathDecoder, LinearPathEncoder

# Components that hold most of what varies: multiplied in float32, they leave bfloat16 little to round.
_NUM_LARGE = 16


class ComponentErrors:
    """Components of images, what they are wrong by, and the pictures that they make, of a model being trained.

    The path of the model must lie where it is trained and stay as it is.
    """

    def __init__(self, model: Autoencoder) -> None:
        encoder, decoder = model.encoder, model.decoder
        assert isinstance(encoder, LinearPathEncoder)
        assert isinstance(decoder, LinearPathDecoder)
        self._encoder, self._decoder = encoder, decoder
        into, out_of = encoder.linear.weight.detach(), decoder.linear.weight.detach()
        num_pixels = encoder.block[0] * encoder.block[1]
        self._of_colours = into.reshape(len(into), num_pixels, -1).sum(dim=1)
        self._weights = out_of.square().sum(dim=0)[:, None, None] / len(out_of)

    @torch.no_grad()
    def components(self, images: torch.Tensor) -> torch.Tensor:
        """(N, components, rows, columns) float32 of images (N, C, H, W), the product under autocast.

        The mean colour of each square, most of what it holds, goes its own way in float32; what bfloat16 rounds of the
        rest is 0.0000001 of squared error. Of all together it would be 0.000005, a hundredth of what training lowers.
        """
        blocks = to_blocks(images, self._encoder.block)
        blocks = blocks.reshape(*blocks.shape[:3], -1, images.shape[1])
        colours = blocks.mean(dim=-2)
        rest = functional.linear((blocks - colours.unsqueeze(-2)).flatten(-2), self._encoder.linear.weight)
        with torch.autocast(images.device.type, enabled=False):
            components = rest.float() + functional.linear(colours, self._of_colours, self._encoder.linear.bias)
        return components.permute(0, 3, 1, 2)

    def latent(self, components: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The latent that the encoder makes of images (N, C, H, W), and of their components."""
        return self._encoder.latent_of(components, self._encoder.shown(images))

    def decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """The components (N, components, rows, columns) that the decoder makes of a latent."""
        return self._decoder.components_of(latent).float()

    def of(self, components: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """(N,) mean squared error of the pictures, but for what no component changes; its gradient is that of all."""
        return ((components - wanted).square() * self._weights).mean(dim=(2, 3)).sum(dim=1)

    @torch.no_grad()
    def reconstructions(self, components: torch.Tensor) -> torch.Tensor:
        """The pictures (N, C, H, W) float32 that components make, the product under autocast."""
        made, weight = components.permute(0, 2, 3, 1), self._decoder.linear.weight
        rest = functional.linear(made[..., _NUM_LARGE:], weight[:, _NUM_LARGE:])
        with torch.autocast(components.device.type, enabled=False):
            large = functional.linear(made[..., :_NUM_LARGE], weight[:, :_NUM_LARGE], self._decoder.linear.bias)
        return to_images(large + rest, self._decoder.block)
