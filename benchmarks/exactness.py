"""Do the bytes of a row depend on how it was computed? For each architecture, precision and engine.

An image's row from batches of 8 on two threads is compared with its row from batches of 1 and of 32, beside other
neighbours, with 1, 3 and 4 threads, with images read by one process and by two; and whole extractions by one process
with those by two. All of it on this processor and on others that it imitates: libraries then use the instructions of
those alone. Ends with exit code 1 where anything differs.
"""

import argparse
import copy
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.compare import Trial, link_images, pretrain, run_fext
from fext.compute.device import prepare_computation
from fext.compute.engines import EngineName, Rows, RowShape, encode_all, images_together, make_engine
from fext.data.dataset import Batch, FileRead, ImageStream
from fext.data.images import NO_FILE, Preprocessing
from fext.data.source import find_images
from fext.errors import DeviceError
from fext.jobs.starting import plan_of
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.settings import Settings

SHORTCUT = "+shortcut"  # after the name of an architecture: with a linear shortcut
ARCHITECTURES = (
    "redux", f"redux{SHORTCUT}", "medium", f"medium{SHORTCUT}", "large", f"large{SHORTCUT}", "vgg16", "vgg16_bn",
    "cifar", "custom",
)  # fmt: skip
# Of oneDNN, torch's own kernels and MKL. OpenVINO looks at the processor itself and would use what it must not have.
PROCESSORS = {
    "this processor": {},
    "AVX-512 without bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE4": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
WITHOUT_OPENVINO = ("AVX2", "SSE4")


def engines() -> tuple[EngineName, ...]:
    return ("torch", "openvino") if importlib.util.find_spec("openvino") else ("torch",)


def make_model(architecture: str, images: torch.Tensor) -> Autoencoder:
    """A model whose normalization has seen images; its statistics depend on the number of threads, so make it once."""
    settings = Settings(
        architecture=architecture.removesuffix(SHORTCUT),
        picture_shape=(*images.shape[2:], images.shape[1]),
        linear_shortcut=architecture.endswith(SHORTCUT),
    )
    model = build_autoencoder(plan_of(settings), seed=0)
    with torch.no_grad():
        model.encoder(images[:8])
    return model.eval()


def rows(model: Autoencoder, engine: EngineName, images: torch.Tensor, settings: Settings, batch_size: int) -> Rows:
    computation = prepare_computation(settings)
    num_together = images_together(computation, batch_size)
    made = make_engine(engine, model, computation, num_together, RowShape(None, False))
    batches = [
        Batch(part, [FileRead(number, NO_FILE) for number in range(len(part))], [])
        for part in torch.split(images, batch_size)
    ]
    return np.concatenate([found for _, found in encode_all(made, batches)])


def read(source: Path, num_images: int, size: int, num_processors: int) -> torch.Tensor:
    found = find_images(source)
    stream = ImageStream(
        found.root,
        found.names[:num_images],
        Preprocessing(size, size, 3, "stretch"),
        batch_size=8,
        num_processors=num_processors,
    )
    return torch.cat([batch.images for batch in stream.epoch()]).contiguous(memory_format=torch.channels_last)


def compare_here(words: argparse.Namespace, processor: str) -> Iterator[bool]:
    """Compare on the processor that this process was started to have; tells of each whether all was the same."""
    images = {size: read(words.images, words.num_images, size, 1) for size in (256, 32)}
    print(f"images read by 1 and by 2 processes: {same(images[32], read(words.images, words.num_images, 32, 2))}")
    for architecture in words.architectures:
        pictures = images[32 if architecture == "cifar" else 256]
        model = make_model(architecture, pictures)
        for mixed, engine in itertools.product((False, True), engines()):
            if engine == "openvino" and (processor in WITHOUT_OPENVINO or (mixed and architecture.endswith(SHORTCUT))):
                continue  # FeXT computes a linear shortcut in float32 there
            what = f"{processor}, {architecture}, {'bfloat16' if mixed else 'float32'}, {engine}"
            try:
                found = differences(model, engine, pictures, mixed)
            except DeviceError as error:
                print(f"{what}: {error}", flush=True)
                continue
            print(f"{what}: {'; '.join(found) or 'same bytes'}", flush=True)
            yield not found


def differences(model: Autoencoder, engine: EngineName, images: torch.Tensor, mixed: bool) -> list[str]:
    """What changes a row, and by how much."""

    def computed(pictures: torch.Tensor, batch_size: int = 8, threads: int = 2) -> Rows:
        settings = Settings(use_mixed_precision=mixed, num_threads=threads, training_device="CPU")
        return rows(copy.deepcopy(model), engine, pictures, settings, batch_size)

    reference = computed(images)
    found = {
        "batches of 1": same(computed(images, batch_size=1), reference),
        "batches of 32": same(computed(images, batch_size=32), reference),
        "neighbours": same(computed(images.flip(0))[::-1], reference),
        "alone": same(computed(images[:1]), reference[:1]),
        **{f"{count} threads": same(computed(images, threads=count), reference) for count in (1, 3, 4)},
    }
    return [f"{what} {how}" for what, how in found.items() if how != "same bytes"]


def compare_processes(words: argparse.Namespace, architecture: str, folder: Path) -> Iterator[bool]:
    """Whole extractions by one process and by two, with a checkpoint trained on the images."""
    size = 32 if architecture == "cifar" else 256
    name, shortcut = architecture.removesuffix(SHORTCUT), architecture.endswith(SHORTCUT)
    overrides = [f"picture_shape=({size}, {size}, 3)", f"linear_shortcut={shortcut}", "feature_formats=npy"]
    trial = Trial(folder / "images", words.num_images, folder / "home", name, overrides)
    trial.folder.mkdir()
    checkpoint, _ = pretrain(trial, [f"num_train_samples={words.num_images - 1}"])
    for mixed, engine in itertools.product((False, True), engines()):
        made = []
        for count in (1, 2):
            command = ["extract", str(checkpoint), "--images", str(trial.images), "--name", f"{engine}_{mixed}_{count}"]
            run_fext(command, trial, [f"use_mixed_precision={mixed}", f"inference_engine={engine}"], count)
            made.append(np.load(trial.folder / "inference" / command[-1] / "features.npy"))
        how = same(*made)
        print(f"1 and 2 processes, {architecture}, {'bfloat16' if mixed else 'float32'}, {engine}: {how}", flush=True)
        yield how == "same bytes"


def same(one: Rows | torch.Tensor, other: Rows | torch.Tensor) -> str:
    """How two results compare."""
    left, right = np.asarray(one), np.asarray(other)
    if left.tobytes() == right.tobytes():
        return "same bytes"
    return f"differ by up to {np.abs(left - right).max():.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--processors", nargs="+", default=list(PROCESSORS), choices=list(PROCESSORS))
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--here", help=argparse.SUPPRESS)  # the processor that this process was started to have
    words = parser.parse_args()
    if words.here:
        sys.exit(not all(list(compare_here(words, words.here))))
    is_same = []
    for processor in words.processors:
        command = [sys.executable, "-m", "benchmarks.exactness", *sys.argv[1:], "--here", processor]
        is_same.append(subprocess.run(command, env={**os.environ, **PROCESSORS[processor]}).returncode == 0)
    with tempfile.TemporaryDirectory(prefix="fext_benchmark_") as temporary:
        for architecture in words.architectures:
            folder = Path(temporary).resolve() / architecture
            link_images(words.images, folder / "images", words.num_images)
            is_same += compare_processes(words, architecture, folder)
    print("all the same" if all(is_same) else "something differs")
    sys.exit(not all(is_same))


if __name__ == "__main__":
    main()
