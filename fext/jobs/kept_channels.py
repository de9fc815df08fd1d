"""How well a model with an ordered latent reconstructs from its first channels alone."""

from collections.abc import Sequence

from fext.compute.device import Computation
from fext.compute.inference import reconstruct_from_first
from fext.data.dataset import ImageStream
from fext.data.source import ImageSource
from fext.jobs.choosing import refuse_vanished
from fext.model.autoencoder import Autoencoder
from fext.model.scores import mean_squared_error, peak_signal_to_noise
from fext.reporting import Reporter


def counts_to_try(num_channels: int) -> list[int]:
    """1, 2, 4 and so on, and all."""
    return [*(2**power for power in range(num_channels.bit_length()) if 2**power < num_channels), num_channels]


def score_kept_channels(
    model: Autoencoder,
    source: ImageSource,
    names: Sequence[str],
    stream: ImageStream,
    computation: Computation,
    batch_size: int,
    reporter: Reporter,
) -> dict[int, float]:
    """Mean PSNR in dB of the named images that can be read, by how many of the first channels are kept.

    Raises SourceError where the folder of the images is gone.
    """
    counts = counts_to_try(model.plan.latent_channels)
    sums, num_images = dict.fromkeys(counts, 0.0), 0
    with reporter.progress("keeping fewer channels", len(names)) as progress:
        for batch in stream.epoch():
            refuse_vanished(source, names, batch)
            if len(batch.images):
                made = reconstruct_from_first(model, batch.images, computation, batch_size=batch_size, counts=counts)
                for count, images in zip(counts, made, strict=True):
                    sums[count] += peak_signal_to_noise(mean_squared_error(images, batch.images)).sum().item()
                num_images += len(batch.images)
            progress.advance(batch.num_files)
    return {count: total / num_images for count, total in sums.items()} if num_images else {}
