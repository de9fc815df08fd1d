"""What runs a trained encoder fastest on this machine, and how near its features stay to float32.

Each engine in turn on the same batches in memory: seconds to start (compilation included), images per second, and the
least cosine similarity of an image's features with those of plain float32.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fext.compute.device import keeping_freed_memory, prepare_computation
from fext.compute.engines import EngineName, RowShape, encode_all, fold_normalization, make_engine
from fext.data.dataset import Batch, FileRead, ImageStream
from fext.data.images import NO_FILE
from fext.data.source import find_images
from fext.model.autoencoder import Autoencoder
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint

Run = Callable[[list[torch.Tensor]], list[NDArray[np.float32]]]
BATCH_SIZE = 8


def one_by_one(encode: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    def run(batches: list[torch.Tensor]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            return [encode(batch).float().numpy() for batch in batches]

    return run


def eager(encoder: nn.Module) -> Run:
    return one_by_one(encoder)


def eager_channels_last(encoder: nn.Module) -> Run:
    encoder.to(memory_format=torch.channels_last)
    return one_by_one(encoder)


def eager_folded_bfloat16(encoder: nn.Module) -> Run:
    encoder.to(memory_format=torch.channels_last)
    fold_normalization(encoder)

    def encode(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return torch.as_tensor(encoder(batch))

    return one_by_one(encode)


def compiled_bfloat16(encoder: nn.Module) -> Run:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    encoder.to(memory_format=torch.channels_last)
    fold_normalization(encoder)
    compiled = torch.compile(encoder.bfloat16())

    def run(batches: list[torch.Tensor]) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            return [compiled(batch.bfloat16()).float().numpy() for batch in batches]

    return run


def openvino_in(precision: str, streams: int | None) -> Callable[[nn.Module], Run]:
    """OpenVINO in a precision ('int8': quantized after calibration); streams None lets it choose."""

    def start(encoder: nn.Module) -> Run:
        import openvino

        graph = openvino.convert_model(encoder, example_input=torch.zeros(1, 3, 64, 64))
        graph.reshape([BATCH_SIZE, 3, 256, 256])
        if precision == "int8":
            import nncf

            graph = nncf.quantize(graph, nncf.Dataset([batch.numpy() for batch in calibration]))
        properties = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "int8" else precision}
        properties |= {"PERFORMANCE_HINT": "THROUGHPUT"} if streams is None else {"NUM_STREAMS": str(streams)}
        compiled = openvino.compile_model(graph, "CPU", properties)
        queue = openvino.AsyncInferQueue(compiled, streams or 0)

        def run(batches: list[torch.Tensor]) -> list[NDArray[np.float32]]:
            results: dict[int, NDArray[np.float32]] = {}
            queue.set_callback(lambda request, place: results.update({place: request.get_output_tensor().data.copy()}))
            for place, batch in enumerate(batches):
                queue.start_async({0: batch.numpy()}, place)
            queue.wait_all()
            return [results[place] for place in range(len(batches))]

        return run

    return start


def onnx_runtime(encoder: nn.Module) -> Run:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(encoder, (torch.zeros(BATCH_SIZE, 3, 256, 256),), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batches: [session.run(None, {name: batch.numpy()})[0] for batch in batches]


def as_fext_has_it(name: EngineName) -> Callable[[Autoencoder], Run]:
    """FeXT's own engine, with the settings that it starts with."""

    def start(model: Autoencoder) -> Run:
        channels = model.plan.latent_channels
        engine = make_engine(name, model, prepare_computation(Settings()), BATCH_SIZE, RowShape(None, False))
        files = [FileRead(place, NO_FILE) for place in range(BATCH_SIZE)]

        def run(batches: list[torch.Tensor]) -> list[NDArray[np.float32]]:
            made = encode_all(engine, (Batch(batch, files, []) for batch in batches))
            return [rows.reshape(BATCH_SIZE, -1, channels).transpose(0, 2, 1) for _, rows in made]

        return run

    return start


ENGINES: dict[str, Callable[[nn.Module], Run]] = {
    "eager float32": eager,
    "eager float32, channels last": eager_channels_last,
    "eager bfloat16, folded": eager_folded_bfloat16,
    "compiled, frozen, bfloat16": compiled_bfloat16,
    "OpenVINO float32": openvino_in("f32", None),
    "OpenVINO bfloat16, 1 stream": openvino_in("bf16", 1),
    "OpenVINO bfloat16": openvino_in("bf16", None),
    "OpenVINO int8": openvino_in("int8", None),
    "ONNX Runtime float32": onnx_runtime,
}
OWN_ENGINES = {"FeXT, torch": as_fext_has_it("torch"), "FeXT, OpenVINO": as_fext_has_it("openvino")}
calibration: list[torch.Tensor] = []


@keeping_freed_memory()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--only", help="engines whose name contains this")
    words = parser.parse_args()
    checkpoint = load_checkpoint(words.checkpoint)
    source = find_images(words.images)
    stream = ImageStream(
        source.root, source.names[: words.num_images], checkpoint.preprocessing, batch_size=BATCH_SIZE, num_processors=1
    )
    batches = [batch.images.contiguous() for batch in stream.epoch() if len(batch.images) == BATCH_SIZE]
    calibration.extend(batches[:8])
    encoder = checkpoint.model.encoder
    expected = _flat(eager(copy.deepcopy(encoder))(batches))
    for name in (*ENGINES, *OWN_ENGINES):
        if words.only and words.only not in name:
            continue
        began = time.perf_counter()
        try:
            model = copy.deepcopy(checkpoint.model)
            run = OWN_ENGINES[name](model) if name in OWN_ENGINES else ENGINES[name](model.encoder)
            run(batches[:1])
        except ImportError as error:
            print(f"{name}: not tried ({error})")
            continue
        started = time.perf_counter() - began
        rates = []
        for _ in range(3):
            began = time.perf_counter()
            results = run(batches)
            rates.append(BATCH_SIZE * len(batches) / (time.perf_counter() - began))
        similarity = torch.nn.functional.cosine_similarity(_flat(results), expected).min()
        print(
            f"{checkpoint.plan.architecture}, {name}: starts in {started:.1f} s, {np.median(rates):.2f} images/s "
            f"({min(rates):.2f} to {max(rates):.2f}), cosine {similarity:.6f} or more",
            flush=True,
        )


def _flat(latents: list[NDArray[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(latents)).flatten(1).double()


if __name__ == "__main__":
    main()
