"""The picture of an autoencoder's layers: what FeXT stores as ``model_graph.png``.

Every layer is a block shaped after the tensor it hands on, named and with its shape below it; the data flows
through the encoder, the latent and the decoder, and around the shortcuts of residual blocks.

The drawing is tensorgami's (https://pypi.org/project/tensorgami/). Nothing of it is imported until a picture
is asked for.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import torch

# The lengths of a row of layers that are tried, in the drawing's own pixels.
_ROW_LENGTHS = (900, 1200, 1600, 2000, 2600, 3000, 3600)
_SCREEN = (16, 10)
_DPI = 144
_MARGIN = 24
_CAPTION_SIZE = 20
_CAPTION = (
    "Shapes are channels, height, width; of linear layers height, width, channels.\n"
    "Normalisation, activation and dropout that follow a layer are drawn as part of it."
)


def draw_model_graph(model: torch.nn.Module, picture_shape: tuple[int, int, int]) -> Image.Image:
    """Draw the layers of ``model.encoder`` and ``model.decoder`` for pictures of height, width, channels.

    The model itself is never run: its mode, device, weights and statistics stay as they are.
    """
    with _quiet():
        hollow = _without_weights(model)
        figure = _best_figure(hollow, picture_shape)
        png: bytes = figure.to_png(dpi=_DPI)
    with Image.open(io.BytesIO(png)) as drawing:
        return _with_caption(drawing.convert("RGB"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back warnings about layers the library does not know, and matplotlib's notes about fonts."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        fonts.setLevel(level)


def _without_weights(model: torch.nn.Module) -> torch.nn.Module:
    """Copy the layers onto the meta device, where a forward pass yields shapes and costs next to nothing."""
    from torch import nn

    layers = nn.Sequential(
        OrderedDict(
            encoder=model.get_submodule("encoder"),
            latent=nn.Sequential(),  # passes the tensor on; it is there to be drawn
            decoder=model.get_submodule("decoder"),
        )
    )
    # deepcopy takes what is in the memo for already copied, so that no weight is ever duplicated.
    tensors = [*layers.parameters(), *layers.buffers()]
    memo: dict[int, Any] = {id(tensor): _meta_like(tensor) for tensor in tensors}
    return copy.deepcopy(layers, memo)


def _meta_like(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without data; one precision for all, since a half precision model is fed float32 here."""
    import torch

    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


def _best_figure(layers: torch.nn.Module, picture_shape: tuple[int, int, int]) -> Any:
    """Fold the chain of layers into the rows that leave the names largest when it fills a screen."""
    import tensorgami
    import torch

    height, width, channels = picture_shape
    picture = torch.empty(1, channels, height, width, dtype=torch.float32, device="meta")
    options = {"view": "volume", "style": _style(), "overrides": _overrides(layers)}
    figures = (tensorgami.draw(layers, picture, wrap_width=length, **options) for length in _ROW_LENGTHS)
    return min(figures, key=_screens_needed)


def _overrides(layers: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Draw the latent as a block, look inside our own blocks, and name our own layer as the library names torch's.

    The library knows layers by the name of their class: a block of ours that is called Upsample would pass
    for torch's, and what it does would not be drawn.
    """
    from fext.model.blocks import UpsampledConvolution

    overrides: dict[str, dict[str, Any]] = {
        path: {"leaf": False}
        for path, module in layers.named_modules()
        if any(module.children()) and not type(module).__module__.startswith("torch.")
    }
    for path, module in layers.named_modules():
        if isinstance(module, UpsampledConvolution):
            overrides[path] = {"label": "Upsample, Conv 3\N{MULTIPLICATION SIGN}3"}
    overrides["latent"] = {"leaf": True, "category": "tensor", "label": "latent"}
    return overrides


def _style() -> Any:
    """The library's own style, with the latent in a colour of its own and named in the legend."""
    from tensorgami.style import load_theme

    theme = load_theme()
    latent = replace(theme.nodes["attention"], name="Latent")
    return replace(theme, nodes={**theme.nodes, "tensor": latent})


def _screens_needed(figure: Any) -> float:
    width, height = figure.size
    return max(float(width) / _SCREEN[0], float(height) / _SCREEN[1])


def _with_caption(drawing: Image.Image) -> Image.Image:
    """Set the drawing on a white page, since its wires may touch its edges, and say how to read it."""
    font = ImageFont.load_default(size=_CAPTION_SIZE)
    left, _, right, bottom = ImageDraw.Draw(drawing).multiline_textbbox((0, 0), _CAPTION, font=font)
    width = max(drawing.width, round(right - left)) + 2 * _MARGIN
    page = Image.new("RGB", (width, drawing.height + round(bottom) + 2 * _MARGIN), "white")
    page.paste(drawing, (_MARGIN, _MARGIN))
    ImageDraw.Draw(page).multiline_text((2 * _MARGIN, drawing.height + _MARGIN), _CAPTION, "#334155", font)
    return page
