"""The layers of a model as text."""

import torch

from fext.model.autoencoder import Autoencoder


def model_summary(model: Autoencoder, picture_shape: tuple[int, int, int]) -> str:
    """A table of layers, shapes and parameters, drawn by torchinfo on tensors without data."""
    from torchinfo import summary

    height, width, channels = picture_shape
    with torch.device("meta"):
        hollow = Autoencoder(model.plan)
    table = summary(
        hollow,
        input_size=(1, channels, height, width),
        device="meta",
        depth=3,
        col_names=("output_size", "num_params", "kernel_size"),
        verbose=0,
    )
    rows, columns, latent_channels = model.plan.latent_shape
    for_picture = f"its first {model.plan.picture_channels} channels carry the picture" if model.plan.patches else ""
    told = ", ".join(filter(None, (f"latent {rows}x{columns}x{latent_channels}", for_picture)))
    return f"{model.plan.architecture}: {told}\n{table}\n"
