"""Pictures that more than one job makes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from fext.compute.device import Computation
from fext.compute.inference import reconstruct
from fext.data.images import Preprocessing, load_image
from fext.data.source import ImageSource
from fext.errors import FextError, ImageRejected
from fext.model.autoencoder import Autoencoder
from fext.model.scores import reconstruction_scores
from fext.pictures.figures import Pair
from fext.pictures.model_graph import draw_model_graph
from fext.reporting import Reporter
from fext.store import files


def reconstruction_pairs(
    model: Autoencoder,
    source: ImageSource,
    names: Sequence[str],
    preprocessing: Preprocessing,
    computation: Computation,
) -> list[Pair]:
    """The named images beside what the model makes of them; an image that cannot be read is left out."""
    pairs = []
    for name in names:
        try:
            original = load_image(source.path(name), preprocessing)
        except ImageRejected:
            continue
        images = torch.from_numpy(original).permute(2, 0, 1).unsqueeze(0)
        made = reconstruct(model, images, computation, batch_size=1)[0].permute(1, 2, 0).contiguous().numpy()
        scores = reconstruction_scores(original, made)
        pairs.append(Pair(name, f"PSNR {scores.psnr:.1f} dB, SSIM {scores.ssim:.2f}", original, made))
    return pairs


def draw_graph(folder: Path, model: Autoencoder, picture_shape: tuple[int, int, int], reporter: Reporter) -> None:
    """Write model_graph.png; a drawing that fails is told and stops nothing."""
    try:
        graph = draw_model_graph(model, picture_shape)
    except FextError:
        raise
    except Exception as error:  # the picture is an extra: whatever the drawing library raises, training goes on
        reporter.warning(f"model_graph.png could not be drawn: {str(error) or type(error).__name__}")
        return
    files.write_picture(folder / "model_graph.png", graph)
