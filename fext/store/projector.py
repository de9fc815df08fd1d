"""What TensorBoard's projector shows of a run or an extraction: vectors, words for each, and thumbnails."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fext.data.names import readable
from fext.store import files
from fext.store.workspace import PROJECTOR_CONFIG

_FOLDER = "projector"


class Embedding(NamedTuple):
    """`vectors` (N, D); of each its words under `header`, and its place in the sprite, row by row."""

    title: str
    vectors: NDArray[np.float32]
    words: Sequence[tuple[str, str, str]]
    sprite: Image.Image
    thumbnail_side: int
    header: tuple[str, str, str] = ("name", "subset", "label")


def write_projector(folder: Path, embedding: Embedding) -> None:
    """Put an embedding into `folder`, beside event files where there are any, in place of what was there.

    Raises FextError where it cannot be written.
    """
    below = folder / _FOLDER

    def write_lines(stream: IO[bytes], lines: Iterator[str]) -> None:
        for line in lines:
            stream.write(f"{line}\n".encode())

    files.write_together(
        [
            (below / "tensors.tsv", lambda stream: write_lines(stream, _vector_lines(embedding.vectors))),
            (below / "metadata.tsv", lambda stream: write_lines(stream, _word_lines(embedding))),
            (below / "sprite.png", lambda stream: embedding.sprite.save(stream, format="PNG")),
            (folder / PROJECTOR_CONFIG, lambda stream: stream.write(_config(embedding).encode())),
        ]
    )


def _vector_lines(vectors: NDArray[np.float32]) -> Iterator[str]:
    return ("\t".join(f"{value:.6g}" for value in row.tolist()) for row in vectors)


def _word_lines(embedding: Embedding) -> Iterator[str]:
    return ("\t".join(_harmless(word) for word in row) for row in (embedding.header, *embedding.words))


def _harmless(word: str) -> str:
    """A word without what ends a cell or a line, which is spelled out, as in 'a\\tb.png'."""
    marks = (mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in readable(word))
    return "".join(marks)


def _config(embedding: Embedding) -> str:
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    config = ProjectorConfig()
    info = config.embeddings.add()
    info.tensor_name = embedding.title
    info.tensor_path = f"{_FOLDER}/tensors.tsv"
    info.metadata_path = f"{_FOLDER}/metadata.tsv"
    info.sprite.image_path = f"{_FOLDER}/sprite.png"
    info.sprite.single_image_dim.extend([embedding.thumbnail_side, embedding.thumbnail_side])
    return str(config)
