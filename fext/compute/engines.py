"""Engines: what runs a trained model over many batches, always in one batch shape.

A smaller batch is filled up with black images whose results are dropped: a row of features then never depends on how
many images stood beside it. An engine may work on several batches at a time; results come in the order of the batches.
"""

import importlib.metadata
import importlib.util
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fext.compute.device import Computation
from fext.compute.inference import filled_up
from fext.data.dataset import Batch
from fext.errors import DeviceError
from fext.model.autoencoder import Autoencoder
from fext.model.scores import mean_squared_error
from fext.model.stages import StagedEncoder
from fext.model.winograd import convolutions
from fext.settings import Settings

if TYPE_CHECKING:
    import openvino

Rows = NDArray[np.float32]
EngineName = Literal["torch", "openvino"]


@dataclass(frozen=True)
class RowShape:
    """What a row is made of: the latent averaged to grid x grid (None: as it is), the error of the reconstruction.

    With all_stages the maps of all stages of the encoder are averaged so, and their channels follow each other.
    """

    grid: int | None
    has_error: bool
    all_stages: bool = False


class Engine(Protocol):
    """Runs a model; `start` takes up to batch_size images and gives a function that waits for their rows."""

    num_at_a_time: int

    def start(self, images: torch.Tensor) -> Callable[[], Rows]:
        """Begin with images (N, C, H, W) float32 in [0, 1]; the function gives (N, values) float32."""


def choose_engine(settings: Settings, computation: Computation, model: nn.Module) -> EngineName:
    """The engine that the settings mean for a model on this machine; nothing is timed.

    Raises DeviceError where OpenVINO is asked for and is not installed, or the device is not the CPU.
    """
    installed = importlib.util.find_spec("openvino") is not None
    device = computation.device
    if settings.inference_engine == "auto":
        is_quicker = device.type == "cpu" and not computation.filters_by_winograd(model)
        return "openvino" if installed and is_quicker else "torch"
    if settings.inference_engine == "openvino":
        if not installed:
            raise DeviceError(
                "inference_engine = 'openvino', but it is not installed: "
                "'pip install -r requirements-openvino.txt' does it, or set inference_engine to 'auto'"
            )
        if device.type != "cpu":
            raise DeviceError(
                f"inference_engine = 'openvino' runs on the CPU here, not on {device.type}: set training_device to "
                f"'CPU' or inference_engine to 'torch'"
            )
    return settings.inference_engine


def engine_version(name: EngineName) -> str:
    """The version of the package that computes."""
    return str(torch.__version__) if name == "torch" else importlib.metadata.version(name)


def make_engine(
    name: EngineName, model: Autoencoder, computation: Computation, batch_size: int, shape: RowShape
) -> Engine:
    """An engine for a trained model, which is the engine's own from now on."""
    engines: dict[EngineName, Callable[..., Engine]] = {"torch": TorchEngine, "openvino": OpenVinoEngine}
    return engines[name](model.eval(), computation, batch_size, shape)


def encode_all(engine: Engine, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Rows]]:
    """Each batch with the rows of its images, in order; several are worked on while the next is read."""
    started: deque[tuple[Batch, Callable[[], Rows]]] = deque()
    for batch in batches:
        started.append((batch, engine.start(batch.images) if batch.files else _no_rows))
        while len(started) > engine.num_at_a_time:
            yield _finished(started)
    while started:
        yield _finished(started)


def _finished(started: deque[tuple[Batch, Callable[[], Rows]]]) -> tuple[Batch, Rows]:
    batch, finish = started.popleft()
    return batch, finish()


def _no_rows() -> Rows:
    return np.empty((0, 0), dtype=np.float32)


class TorchEngine:
    """torch itself: channels-last, batch normalization folded into the convolutions, autocast.

    On a CPU, threads that each compute a batch of their own wait less for each other than those that share one.
    """

    def __init__(self, model: Autoencoder, computation: Computation, batch_size: int, shape: RowShape) -> None:
        computation.place(model)
        fold_normalization(model.encoder)
        fold_normalization(model.decoder)
        for convolution in convolutions(model):
            convolution.keep_kernels()
        self._parts = _Parts(model, shape)
        self._computation, self._batch_size, self._shape = computation, batch_size, shape
        self.num_at_a_time = _num_at_a_time(computation.device)
        self._streams = _start_streams(self.num_at_a_time) if computation.device.type == "cpu" else None

    def start(self, images: torch.Tensor) -> Callable[[], Rows]:
        if self._streams is None:
            return self._begin(images)
        return self._streams.submit(lambda: self._begin(images)()).result

    @torch.inference_mode()
    def _begin(self, images: torch.Tensor) -> Callable[[], Rows]:
        count = len(images)
        placed = self._computation.to_device(filled_up(images, self._batch_size))
        with self._computation.autocast():
            maps, reconstructions = self._parts(placed)
        rows = feature_rows(self._shape, maps, placed, reconstructions)
        if rows.device.type != "cuda":
            return lambda: rows[:count].cpu().numpy()
        return _copied_from_gpu(rows, count)


def _num_at_a_time(device: torch.device) -> int:
    """Batches that are begun before the first of them is waited for.

    On a CPU up to four, for each holds memory, with as many threads for each. A GPU works by itself while the next
    batch is read; an Apple GPU is waited for.
    """
    if device.type == "cpu":
        return max(number for number in (1, 2, 3, 4) if torch.get_num_threads() % number == 0)
    return 2 if device.type == "cuda" else 0


def _start_streams(count: int) -> ThreadPoolExecutor:
    num_threads = torch.get_num_threads()
    all_started = Barrier(count + 1)
    streams = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(num_threads // count,))
    for _ in range(count):
        streams.submit(all_started.wait)
    all_started.wait()
    torch.set_num_threads(num_threads)  # the last thread that set it did so for threads to come, too
    return streams


def _copied_from_gpu(rows: torch.Tensor, count: int) -> Callable[[], Rows]:
    """Copy while the next batch computes."""
    host = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
    host.copy_(rows, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()

    def finish() -> Rows:
        done.synchronize()
        return host[:count].numpy()

    return finish


class OpenVinoEngine:
    """OpenVINO on the CPU: one stream of work for every few cores, each with a batch of its own.

    The graph is the model's own, traced with torch; precision is a property of the compiled graph, and what comes out
    is float32. Its bits were found not to depend on streams, threads or batch size (benchmarks/exactness.py).
    """

    def __init__(self, model: Autoencoder, computation: Computation, batch_size: int, shape: RowShape) -> None:
        import openvino

        graph = _traced(model, batch_size, shape)
        kind = {"float32": "f32", "bfloat16": "bf16"}[computation.precision]
        properties = {
            "INFERENCE_PRECISION_HINT": kind,
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(graph, "CPU", properties)
        self._batch_size, self._shape = batch_size, shape
        self.num_at_a_time = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # One more than work at a time: its result is being taken while the others compute.
        self._free = deque(compiled.create_infer_request() for _ in range(self.num_at_a_time + 1))

    def start(self, images: torch.Tensor) -> Callable[[], Rows]:
        request = self._free.popleft()
        padded = filled_up(images, self._batch_size)
        request.start_async({0: padded.permute(0, 2, 3, 1).numpy()}, share_inputs=True)

        def finish() -> Rows:
            request.wait()
            maps = [torch.from_numpy(output.data) for output in request.output_tensors]
            reconstructions = maps.pop() if self._shape.has_error else None
            rows = feature_rows(self._shape, maps, padded, reconstructions)
            self._free.append(request)
            return rows[: len(images)].numpy().copy()  # the request's own memory is for its next batch

        return finish


class _Parts(nn.Module):
    """What an engine computes: the latent, alone or after the maps of earlier stages, and maybe its reconstruction."""

    def __init__(self, model: Autoencoder, shape: RowShape) -> None:
        super().__init__()
        self.encoder = StagedEncoder(model) if shape.all_stages else model.encoder
        self.decoder = model.decoder if shape.has_error else None

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        encoded = self.encoder(images)
        maps = encoded if isinstance(encoded, list) else [encoded]
        return maps, self.decoder(maps[-1]) if self.decoder is not None else None


class _Traceable(nn.Module):
    """The parts in a row, as a graph can give them."""

    def __init__(self, model: Autoencoder, shape: RowShape) -> None:
        super().__init__()
        self.parts = _Parts(model, shape)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps, reconstructions = self.parts(images)
        return (*maps, reconstructions) if reconstructions is not None else tuple(maps)


def _traced(model: Autoencoder, batch_size: int, shape: RowShape) -> "openvino.Model":
    import openvino

    height, width, channels = model.plan.picture_shape
    # The smallest picture that the plan takes is quickest to trace; the graph then gets its real shape.
    rows, columns = (height, width) if model.plan.embedding else (model.plan.factor, model.plan.factor)
    example = torch.zeros(1, channels, rows, columns)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traceable = _Traceable(model, shape)
        script = torch.jit.trace(traceable, example, check_trace=False)  # type: ignore[no-untyped-call]
        graph = openvino.convert_model(script, example_input=example)
    graph.reshape([batch_size, channels, height, width])
    steps = openvino.preprocess.PrePostProcessor(graph)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))  # as images lie in memory
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def feature_rows(
    shape: RowShape, maps: Sequence[torch.Tensor], images: torch.Tensor, reconstructions: torch.Tensor | None
) -> torch.Tensor:
    """The rows (N, values) float32 of a latent (N, channels, rows, columns), in row, column, channel order.

    Of several maps, one for each stage, the channels follow each other.

    The error of the reconstruction comes last: the mean squared difference of the clipped reconstruction in float32.
    """
    averaged = [
        functional.adaptive_avg_pool2d(map_.float(), shape.grid) if shape.grid is not None else map_.float()
        for map_ in maps
    ]
    features = torch.cat([map_.permute(0, 2, 3, 1) for map_ in averaged], dim=3).flatten(1)
    if reconstructions is None:
        return features.contiguous()
    errors = mean_squared_error(reconstructions.float().clamp(0, 1), images)
    return torch.cat([features, errors[:, None]], dim=1)


def fold_normalization(layers: nn.Module) -> None:
    """Fold each batch normalization that follows a convolution into it; what it computes stays the same but rounding.

    Those before a convolution stay: its zero padding is not normalized.
    """
    for name, normalization in list(layers.named_children()):
        before = layers[int(name) - 1] if isinstance(layers, nn.Sequential) and int(name) else None
        if isinstance(normalization, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            assert isinstance(layers, nn.Sequential)
            layers[int(name) - 1] = fuse_conv_bn_eval(before, normalization)
            layers[int(name)] = nn.Identity()
