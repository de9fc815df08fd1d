"""Arrays as plain pictures, without axes or words."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def as_picture(array: NDArray[np.float32]) -> Image.Image:
    """An array (H, W, C) in [0, 1] with one or three channels as a picture of 8 bits."""
    levels = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
