"""Export: the encoder alone, for use without FeXT."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from fext.errors import UsageError
from fext.store import files
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.tensors import tensors_to_bytes

Format = Literal["onnx", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "safetensors")


def export(checkpoint_folder: Path, file_format: Format, output: Path) -> Path:
    """Write the encoder of a checkpoint; returns where to.

    ONNX takes 'images' (batch, channels, height, width) float32 in [0, 1] and gives 'latent' (batch, channels, rows,
    columns) float32; safetensors holds the encoder's weights. Plan, preprocessing and checksum of the checkpoint stand
    in the metadata of either. Raises CheckpointError, and UsageError where the file exists.
    """
    if output.exists():
        raise UsageError(f"{output} exists: nothing is overwritten; name another file with --output")
    checkpoint = load_checkpoint(checkpoint_folder)
    to_bytes = {"onnx": _to_onnx, "safetensors": _to_safetensors}[file_format]
    files.write_bytes(output, to_bytes(checkpoint))
    return output


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    return {
        "checkpoint": checkpoint.name,
        "sha256": checkpoint.sha256,
        "plan": json.dumps(checkpoint.plan.to_dict()),
        "preprocessing": json.dumps(asdict(checkpoint.preprocessing)),
    }


def _to_safetensors(checkpoint: Checkpoint) -> bytes:
    return tensors_to_bytes(checkpoint.model.encoder.state_dict(), _metadata(checkpoint))


def _to_onnx(checkpoint: Checkpoint) -> bytes:
    height, width, channels = checkpoint.plan.picture_shape
    example = torch.zeros(2, channels, height, width)
    with _quiet():
        program = torch.onnx.export(
            checkpoint.model.encoder.eval(),
            (example,),
            input_names=["images"],
            output_names=["latent"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(_metadata(checkpoint))
    return bytes(program.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own makings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
