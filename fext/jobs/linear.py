"""Learning the linear map of a set of images, in one pass: where a model starts, and what it is compared with."""

from collections.abc import Sequence

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
    with reporter.progress("learning the linear map", len(names)) as progress:
        for batch in stream.epoch():
            refuse_vanished(source, names, batch)
            if len(batch.images):
                linear_map.learn(batch.images)
            progress.advance(batch.num_files)
