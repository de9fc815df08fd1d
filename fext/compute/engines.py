"""Engines: what runs a trained model over many batches, always in one shape.

On a CPU images are computed in small groups, each by one thread alone: libraries divide a sum among threads in ways
that differ from processor to processor, and one thread adds up in one order. A smaller group is filled up with black
images whose results are dropped. So a row of features depends neither on the number of threads or processes nor on
what stands beside it. An engine works on several batches at a time; results come in the order of the batches.
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

from fext.compute.device import Computation, device_name
from fext.compute.inference import filled_up
from fext.compute.openvino_package import import_openvino
from fext.data.dataset import Batch
from fext.errors import DeviceError, is_out_of_memory
from fext.model.autoencoder import Autoencoder
from fext.model.scores import mean_squared_error
from fext.model.stages import StagedEncoder
from fext.model.winograd import convolutions
from fext.settings import Settings

if TYPE_CHECKING:
    import openvino

# Images that a thread of a CPU computes together: in larger groups no model was quicker by more than a tenth or so,
# and each thread needs the memory of one.
_TOGETHER_ON_CPU = 4

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
    """Runs a model; `start` takes a batch of images and gives a function that waits for their rows.

    `num_under_way` images keep it busy: with these behind it, the oldest batch is waited for.
    """

    num_under_way: int

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


def images_together(computation: Computation, batch_size: int) -> int:
    """How many images are computed together: on a CPU always as many, elsewhere a whole batch."""
    return _TOGETHER_ON_CPU if computation.device.type == "cpu" else batch_size


def make_engine(
    name: EngineName, model: Autoencoder, computation: Computation, num_together: int, shape: RowShape
) -> Engine:
    """An engine for a trained model, which is the engine's own from now on; it computes num_together images at once.

    Raises DeviceError where the processor cannot compute in that precision with that engine.
    """
    engines: dict[EngineName, Callable[..., Engine]] = {"torch": TorchEngine, "openvino": OpenVinoEngine}
    return engines[name](model.eval(), computation, num_together, shape)


def encode_all(engine: Engine, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Rows]]:
    """Each batch with the rows of its images, in order; several are worked on while the next is read."""
    started: deque[tuple[Batch, Callable[[], Rows]]] = deque()
    num_started = 0
    for batch in batches:
        started.append((batch, engine.start(batch.images) if batch.files else _no_rows))
        num_started += len(batch.files)
        while started and num_started - len(started[0][0].files) >= engine.num_under_way:
            oldest, finish = started.popleft()
            num_started -= len(oldest.files)
            yield oldest, finish()
    for oldest, finish in started:
        yield oldest, finish()


def _no_rows() -> Rows:
    return np.empty((0, 0), dtype=np.float32)


class TorchEngine:
    """torch itself: channels-last, batch normalization folded into the convolutions, autocast."""

    def __init__(self, model: Autoencoder, computation: Computation, num_together: int, shape: RowShape) -> None:
        computation.place(model)
        fold_normalization(model.encoder)
        fold_normalization(model.decoder)
        for convolution in convolutions(model):
            convolution.keep_kernels()
        self._parts = _Parts(model, shape)
        self._computation, self._num_together, self._shape = computation, num_together, shape
        self._threads = _Threads(num_together) if computation.device.type == "cpu" else None
        # A GPU works by itself while the next batch is read; an Apple GPU is waited for.
        ahead = 2 * num_together if computation.device.type == "cuda" else 0
        self.num_under_way = self._threads.num_under_way if self._threads else ahead

    def start(self, images: torch.Tensor) -> Callable[[], Rows]:
        if self._threads is None:
            return self._begin(images)
        return self._threads.start(images, lambda group: self._begin(group)())

    @torch.inference_mode()
    def _begin(self, images: torch.Tensor) -> Callable[[], Rows]:
        count = len(images)
        placed = self._computation.to_device(filled_up(images, self._num_together))
        with self._computation.autocast():
            maps, reconstructions = self._parts(placed)
        rows = feature_rows(self._shape, maps, placed, reconstructions)
        if rows.device.type != "cuda":
            return lambda: rows[:count].cpu().numpy()
        return _copied_from_gpu(rows, count)


class _Threads:
    """Threads of this process that each compute a group of images alone, as many as torch may use."""

    def __init__(self, num_together: int) -> None:
        self._num_together, self.count = num_together, torch.get_num_threads()
        self.num_under_way = self.count * num_together
        self._pool = ThreadPoolExecutor(self.count, initializer=_compute_alone)
        all_started = Barrier(self.count + 1)
        try:
            for _ in range(self.count):
                self._pool.submit(all_started.wait)
        except RuntimeError:  # no memory for another thread: those that wait for it would do so for ever
            all_started.abort()
            raise
        all_started.wait()
        torch.set_num_threads(self.count)  # the last thread that set it did so for threads to come, too

    def start(self, images: torch.Tensor, rows_of: Callable[[torch.Tensor], Rows]) -> Callable[[], Rows]:
        """Begin with the groups of a batch; the function gives the rows of all."""
        running = [self._pool.submit(rows_of, group) for group in torch.split(images, self._num_together)]
        return lambda: np.concatenate([group.result() for group in running])


def _compute_alone() -> None:
    """Let the operations of this thread be divided among no others."""
    torch.get_num_threads()  # a thread takes the number that is set for all when it first asks, and keeps its own then
    torch.set_num_threads(1)


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
    """OpenVINO on the CPU: a stream of work on one thread for each group of images.

    The graph is the model's own, traced with torch; precision is a property of the compiled graph, and what comes out
    is float32.
    """

    def __init__(self, model: Autoencoder, computation: Computation, num_together: int, shape: RowShape) -> None:
        self._num_together, self._shape = num_together, shape
        self._threads = _Threads(num_together)
        self.num_under_way = self._threads.num_under_way
        compiled = _compiled(_traced(model, num_together, shape), computation, self._threads.count)
        self._free = deque(compiled.create_infer_request() for _ in range(self._threads.count))

    def start(self, images: torch.Tensor) -> Callable[[], Rows]:
        return self._threads.start(images, self._rows)

    def _rows(self, images: torch.Tensor) -> Rows:
        request = self._free.popleft()
        padded = filled_up(images, self._num_together)
        request.start_async({0: padded.permute(0, 2, 3, 1).numpy()}, share_inputs=True)
        request.wait()
        maps = [torch.from_numpy(output.data) for output in request.output_tensors]
        reconstructions = maps.pop() if self._shape.has_error else None
        rows = feature_rows(self._shape, maps, padded, reconstructions)
        found = rows[: len(images)].numpy().copy()  # the request's own memory is for its next group
        self._free.append(request)
        return found


def _compiled(graph: "openvino.Model", computation: Computation, num_threads: int) -> "openvino.CompiledModel":
    """Raises DeviceError where the processor would compute in another precision, or not at all."""
    openvino = import_openvino()
    kind = {"float32": "f32", "bfloat16": "bf16"}[computation.precision]
    properties = {
        "INFERENCE_PRECISION_HINT": kind,
        "NUM_STREAMS": num_threads,
        "INFERENCE_NUM_THREADS": num_threads,
    }
    try:
        compiled = openvino.Core().compile_model(graph, "CPU", properties)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise _not_with_openvino(computation) from error
    if compiled.get_property("INFERENCE_PRECISION_HINT") != getattr(openvino.Type, kind):
        raise _not_with_openvino(computation)
    return compiled


def _not_with_openvino(computation: Computation) -> DeviceError:
    return DeviceError(
        f"OpenVINO does not compute this model in {computation.precision} on {device_name(computation.device)}: set "
        f"inference_engine to 'torch', or use_mixed_precision to False"
    )


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
    openvino = import_openvino()
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
