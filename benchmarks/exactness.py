"""Do the bytes of a row depend on how it was computed? For each architecture, precision and engine.

An image's row from batches of 8 is compared with its row from batches of 1 and of 32, beside other neighbours, with
one thread and with two, and with images read by one process and by two. What changes a row is what an extraction has
to keep when it goes on: its manifest does.
"""

import argparse
import copy
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import torch

from fext.compute.device import prepare_computation
from fext.compute.engines import EngineName, Rows, RowShape, encode_all, make_engine
from fext.data.dataset import Batch, FileRead, ImageStream
from fext.data.images import NO_FILE, Preprocessing
from fext.data.source import find_images
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.plans import make_plan
from fext.settings import Settings

NUM_IMAGES = 32
SHORTCUT = "+shortcut"  # after the name of an architecture: with a linear shortcut


def make_model(architecture: str, images: torch.Tensor) -> Autoencoder:
    """A model whose normalization has seen images; its statistics depend on the number of threads, so make it once."""
    name = architecture.removesuffix(SHORTCUT)
    plan = make_plan(name, (256, 256, 3), linear_shortcut=architecture.endswith(SHORTCUT))
    model = build_autoencoder(plan, seed=0)
    with torch.no_grad():
        model.encoder(images[:8])
    return model.eval()


def rows(model: Autoencoder, engine: EngineName, images: torch.Tensor, settings: Settings, batch_size: int) -> Rows:
    computation = prepare_computation(settings)
    made = make_engine(engine, model, computation, batch_size, RowShape(None, False))
    batches = [
        Batch(part, [FileRead(number, NO_FILE) for number in range(len(part))], []) for part in images.split(batch_size)
    ]
    return np.concatenate([found for _, found in encode_all(made, batches)])


def read(source: Path, num_processors: int) -> torch.Tensor:
    found = find_images(source)
    stream = ImageStream(
        found.root,
        found.names[:NUM_IMAGES],
        Preprocessing(256, 256, 3, "stretch"),
        batch_size=8,
        num_processors=num_processors,
    )
    return torch.cat([batch.images for batch in stream.epoch()]).contiguous(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--architectures", nargs="+", default=["redux", f"redux{SHORTCUT}", "vgg16", "vgg16_bn"])
    words = parser.parse_args()
    images = read(words.images, 1)
    print(f"images read by 1 and by 2 processes: {same(images.numpy(), read(words.images, 2).numpy())}")
    engines: list[EngineName] = ["torch", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    models = {architecture: make_model(architecture, images) for architecture in words.architectures}
    for architecture, mixed, engine in itertools.product(words.architectures, (False, True), engines):
        if mixed and engine == "openvino" and architecture.endswith(SHORTCUT):
            continue  # FeXT computes that in float32

        def computed(
            pictures: torch.Tensor,
            batch_size: int = 8,
            threads: int = 2,
            model: Autoencoder = models[architecture],
            mixed: bool = mixed,
            engine: EngineName = engine,
        ) -> Rows:
            settings = Settings(use_mixed_precision=mixed, num_threads=threads, training_device="CPU")
            return rows(copy.deepcopy(model), engine, pictures, settings, batch_size)

        reference = computed(images)
        found = {
            "batches of 1": same(computed(images, batch_size=1), reference),
            "batches of 32": same(computed(images, batch_size=32), reference),
            "neighbours": same(computed(images.flip(0))[::-1], reference),
            "alone in a batch of 8": same(computed(images[:1]), reference[:1]),
            "1 thread": same(computed(images, threads=1), reference),
        }
        print(
            f"{architecture}, {'bfloat16' if mixed else 'float32'}, {engine}: "
            + ", ".join(f"{what}: {how}" for what, how in found.items()),
            flush=True,
        )


def same(one: Rows, other: Rows) -> str:
    """How two results compare."""
    if one.tobytes() == other.tobytes():
        return "same bytes"
    return f"differ by up to {np.abs(one - other).max():.1e}"


if __name__ == "__main__":
    main()
