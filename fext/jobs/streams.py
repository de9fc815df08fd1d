"""The stream of images that a trained model is run over."""

from collections.abc import Sequence

from fext.compute.device import Computation
from fext.data.dataset import ImageStream
from fext.data.source import ImageSource
from fext.store.checkpoints import Checkpoint


def stream_for(
    checkpoint: Checkpoint,
    source: ImageSource,
    names: Sequence[str],
    batch_size: int,
    computation: Computation,
    checksums: Sequence[str] | None = None,
    *,
    as_bytes: bool = False,
) -> ImageStream:
    """The named images of a source in order, preprocessed as the checkpoint says.

    Where checksums are given, a file that has another one is rejected. `as_bytes` is for images that go to a device as
    they come: for a GPU they stay bytes, where they are such.
    """
    return ImageStream(
        source.root,
        names,
        checkpoint.preprocessing,
        batch_size=batch_size,
        num_processors=computation.num_processors,
        checksums=checksums,
        pin_memory=computation.device.type == "cuda",
        as_bytes=as_bytes and computation.device.type == "cuda",
    )
