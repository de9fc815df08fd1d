"""Learning from a set of images, in one pass: where a model starts, and the linear map that it is compared with."""

from collections.abc import Iterator, Sequence

import torch

from fext.data.dataset import ImageStream
from fext.data.source import ImageSource
from fext.jobs.choosing import refuse_vanished
from fext.model.linear_map import LinearMap
from fext.reporting import Reporter


def learn_linear_map(
    linear_map: LinearMap, source: ImageSource, names: Sequence[str], stream: ImageStream, reporter: Reporter
) -> None:
    """Let a linear map learn the named images that can be read, which `stream` gives; it is not yet finished.

    Raises SourceError where the folder of the images is gone.
    """
    for images in readable(source, names, stream, "learning the linear map", reporter):
        linear_map.learn(images)


def readable(
    source: ImageSource, names: Sequence[str], stream: ImageStream, title: str, reporter: Reporter
) -> Iterator[torch.Tensor]:
    """The named images that can be read, in batches (N, C, H, W), with their progress under a title.

    Raises SourceError where the folder of the images is gone.
    """
    with reporter.progress(title, len(names)) as progress:
        for batch in stream.epoch():
            refuse_vanished(source, names, batch)
            if len(batch.images):
                yield batch.images
            progress.advance(batch.num_files)
