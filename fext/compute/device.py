"""Which device and precision a job computes with, decided from the settings and facts of the machine."""

import ctypes
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import nn

from fext.data.images import from_bytes
from fext.data.readers import num_usable_cores
from fext.errors import DeviceError, SettingsError
from fext.model.winograd import convolutions
from fext.settings import Settings

# Of glibc's malloc.h: how many blocks may be mapped one by one, how much free memory at the end is too much, and how
# many heaps there may be (0: a few for each core).
_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -4, -1, -8
_AS_BEFORE, _KEEP = (65_536, 131_072, 0), (0, 2**31 - 1, 1)
_TENSOR_CORES = (7, 0)  # the compute capability from which on GPUs have them

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Machine:
    """What was found of this machine."""

    processor: str
    num_cores: int
    fast_bfloat16: bool
    gpus: tuple[str, ...]
    has_mps: bool


@dataclass(frozen=True)
class Computation:
    """Device and precision in force for one job."""

    device: torch.device
    precision: Precision
    num_processors: int

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the chosen precision inside this context; weights and results stay float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def make_scaler(self) -> torch.amp.GradScaler:
        """What keeps small gradients from being lost in float16; does nothing in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last; not on an Apple GPU, where the gradient of batch normalization is wrong for that.

        See https://github.com/pytorch/pytorch/issues/175189 and 174345.
        """
        return torch.contiguous_format if self.device.type == "mps" else torch.channels_last

    def to_device(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) float32 on the device, in its memory order; bytes become 255ths there, a quarter to copy.

        Only from pinned memory to CUDA the copy goes on meanwhile: on an Apple GPU such a copy may read memory that is
        something else by then (https://github.com/pytorch/pytorch/issues/189690).
        """
        meanwhile = self.device.type == "cuda" and images.is_pinned()
        placed = images.to(self.device, memory_format=self.memory_format, non_blocking=meanwhile)
        return as_floats(placed)

    def place(self, model: nn.Module) -> None:
        """Move a model to the device, its weights in its memory order, and choose how it convolves there."""
        model.to(device=self.device)
        model.to(memory_format=self.memory_format)
        if self.device.type == "mps":
            keep_contiguous(model)
        by_winograd = self.filters_by_winograd(model)
        for convolution in convolutions(model):
            convolution.by_winograd = by_winograd

    def filters_by_winograd(self, model: nn.Module) -> bool:
        """Whether this model has wide 3x3 convolutions, and these are quicker by Winograd's method than direct.

        Decided by the instructions that there are: so where a processor multiplies bfloat16 fast and yet is short of
        multiplications, as benchmarks/ shows of AVX-512 BF16 on AMD; the matrix tiles (AMX) of others have them to
        spare.
        """
        facts = torch.cpu.get_capabilities()
        is_short = bool(facts.get("avx512_bf16")) and not facts.get("amx_bf16") and cpu_has_fast_bfloat16()
        is_asked = self.precision == "bfloat16" and self.device.type == "cpu"
        return is_asked and is_short and any(convolution.is_wide for convolution in convolutions(model))

    def describe(self) -> str:
        """Such as 'CPU (Intel Xeon), float32'."""
        return f"{device_name(self.device)}, {self.precision}"

    def device_kind(self) -> str:
        """What computes, whichever of several equal ones it is: 'GPU (NVIDIA H200)'."""
        return re.sub(r"^GPU \d+", "GPU", device_name(self.device))


def as_floats(images: torch.Tensor) -> torch.Tensor:
    """Images of bytes as float32 in [0, 1], channels last, by a table: what a GPU makes of a division differs.

    Images (N, C, H, W) of floats stay as they are.
    """
    if images.dtype != torch.uint8:
        return images
    table = torch.from_numpy(from_bytes(np.arange(256, dtype=np.uint8))).to(images.device)
    return table[images.permute(0, 2, 3, 1).int()].permute(0, 3, 1, 2)


def keep_contiguous(model: nn.Module) -> None:
    """Give normalizations and poolings what lies contiguous, whatever a layer before has made of the order."""

    def bring_in_order(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(one.contiguous() for one in given)

    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.AvgPool2d | nn.MaxPool2d):
            layer.register_forward_pre_hook(bring_in_order)


def find_machine() -> Machine:
    """Look at the processor and accelerators; nothing is timed."""
    gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Machine(
        processor=_processor_name(),
        num_cores=num_usable_cores(),
        fast_bfloat16=cpu_has_fast_bfloat16(),
        gpus=gpus,
        has_mps=torch.backends.mps.is_available(),
    )


def _cores_of_this_process() -> int:
    """An even share of the cores, where torchrun has started several processes on this machine."""
    return max(1, num_usable_cores() // num_local_processes())


def num_local_processes() -> int:
    """How many processes torchrun has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_memory(*, shared: bool = False) -> int:
    """Bytes of memory that programs can have without others being moved out of it, or that processes can share.

    In a container that is no more than its limit leaves.
    """
    available = min([int(psutil.virtual_memory().available), *left_by_control_groups()])
    shared_memory = "/dev/shm"
    if shared and os.path.isdir(shared_memory):
        return min(available, shutil.disk_usage(shared_memory).free)
    return available


def left_by_control_groups(root: Path = Path("/")) -> list[int]:
    """Bytes that each limited control group of Linux leaves this process: its own and those around it.

    Files in the cache of the disk count as used there, but those not touched lately go when their place is wanted. See
    the kernel's 'Control Group v2' and, for the older one, 'Memory Resource Controller'.
    """
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, used, cached = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        own = Path(path.lstrip("/"))
        for group in (root / top / part for part in (own, *own.parents)):
            limits, usages = _lines(group / limit), _lines(group / used)
            if limits and usages and limits[0].isdecimal():
                counts = dict(row.split() for row in _lines(group / "memory.stat"))
                left.append(max(0, int(limits[0]) - int(usages[0]) + int(counts.get(cached, 0))))
    return left


def _lines(file: Path) -> list[str]:
    """The lines of a file of the system; none where there is no such file."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def cpu_has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32, by the instructions it has.

    So with matrix tiles (AMX) and with AVX-512 BF16 on AMD, as benchmarks/ shows. Taken to be so with the BF16
    extension of ARM, which has not been measured with FeXT. False for AVX-512 BF16 without AMX on Intel: convolutions
    in bfloat16 were measured there at 0.6 times the speed of float32.
    """
    facts = torch.cpu.get_capabilities()
    if facts.get("amx_bf16") or facts.get("bf16"):
        return True
    return bool(facts.get("avx512_bf16")) and "intel" not in _processor_name().lower()


def _processor_name() -> str:
    name = torch.cpu.get_capabilities().get("cpu_name")
    return str(name or platform.processor() or platform.machine())


def device_name(device: torch.device) -> str:
    """The device as people know it, such as 'CPU (Intel Xeon)'."""
    if device.type == "cuda":
        return f"GPU {device.index or 0} ({torch.cuda.get_device_name(device)})"
    if device.type == "mps":
        return "MPS (Apple GPU)"
    return f"CPU ({_processor_name()})"


def prepare_computation(settings: Settings, *, for_training: bool = False) -> Computation:
    """Choose device, precision and number of processes, and set the number of threads.

    Raises DeviceError where the asked device is missing; only 'auto' falls back to the CPU.
    """
    device = choose_device(settings.training_device)
    torch.set_num_threads(_cores_of_this_process() if settings.num_threads == "auto" else settings.num_threads)
    _compute_reproducibly(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what torch asks and pins memory for is the current one
    precision = _choose_precision(settings.use_mixed_precision, device, for_training)
    return Computation(device, precision, _choose_processors(settings.num_processors, device))


def _compute_reproducibly(device: torch.device) -> None:
    """Let float32 be float32, and let a GPU add up in one order, where there is one; where not, torch warns of it.

    Without this cuDNN would round what it convolves in float32 to the 10 bits of TF32.
    """
    backends: Any = torch.backends
    backends.cudnn.allow_tf32 = False  # where torch.export, too, looks; it refuses cudnn.conv.fp32_precision
    for kind in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv):
        kind.fp32_precision = "ieee"
    is_cuda = device.type == "cuda"
    if is_cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # looked at when cuBLAS starts
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    if is_cuda != torch.are_deterministic_algorithms_enabled():  # to ask for it loads torch's compiler: seconds
        torch.use_deterministic_algorithms(is_cuda, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False  # costs time, and shows mistakes alone


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let the C library keep what is freed for the next tensor; only glibc's can be told so, others stay as they are.

    Left alone it returns the memory of each large tensor to the system, which hands it out again page by page and
    zeroed: 6 to 15 % of the time of training vgg16_bn on a CPU, and of encoding with it. What it costs is a peak that
    is up to a tenth higher. All threads share one heap, for that of a thread alone is too small for large tensors.
    To be entered before anything is computed: entered later, it left nearly all page faults of an extraction.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    _set_malloc(library, _KEEP)
    try:
        yield
    finally:
        _set_malloc(library, _AS_BEFORE)
        library.malloc_trim(0)


def _set_malloc(library: ctypes.CDLL, values: tuple[int, int, int]) -> None:
    for parameter, value in zip((_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_ARENA_MAX), values, strict=True):
        library.mallopt(parameter, value)


def _choose_processors(asked: int | Literal["auto"], device: torch.device) -> int:
    if asked != "auto":
        return asked
    return 1 if device.type == "cpu" else min(8, _cores_of_this_process())


def choose_device(name: str) -> torch.device:
    """The device that a training_device setting means on this machine; raises DeviceError where it is missing."""
    num_gpus = torch.cuda.device_count()
    has_mps = torch.backends.mps.is_available()
    own_gpu = int(os.environ.get("LOCAL_RANK", "0")) % max(1, num_gpus)  # torchrun starts one process for each
    if name == "auto":
        return torch.device(f"cuda:{own_gpu}" if num_gpus else "mps" if has_mps else "cpu")
    if name == "CPU":
        return torch.device("cpu")
    if name == "MPS" and has_mps:
        return torch.device("mps")
    index = own_gpu if name == "GPU" else int(name.partition(":")[2] or 0)
    if name != "MPS" and index < num_gpus:
        return torch.device(f"cuda:{index}")
    found = (
        f"{num_gpus} GPU{'s' if num_gpus != 1 else ''} that torch can use" if num_gpus else "no GPU that torch can use"
    )
    raise DeviceError(
        f"training_device = '{name}', but this machine has {found}: "
        f"set training_device to 'CPU', or to 'auto' to take what there is"
    )


def _choose_precision(mixed: bool | Literal["auto"], device: torch.device, for_training: bool) -> Precision:
    """bfloat16 where it is quick, float16 on GPUs that have nothing but that.

    'auto' takes float16 for training alone, where its range is watched, and on GPUs with tensor cores alone.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pays = for_training and _has_tensor_cores(device)
        return "float16" if mixed is True or (mixed == "auto" and pays) else "float32"
    if mixed == "auto":
        mixed = device.type == "cuda" or (device.type == "cpu" and cpu_has_fast_bfloat16())
    return "bfloat16" if mixed else "float32"


def _has_tensor_cores(device: torch.device) -> bool:
    is_without = "GTX 16" in torch.cuda.get_device_name(device)  # of the same capability as those that have them
    return torch.cuda.get_device_capability(device) >= _TENSOR_CORES and not is_without


def refuse_unfit_to_share(settings: Settings, computation: Computation, num_processes: int) -> None:
    """Raise DeviceError or SettingsError where several processes cannot train together as these settings say."""
    if num_processes == 1:
        return
    if settings.batch_size < num_processes:
        raise SettingsError(
            f"batch_size = {settings.batch_size} has less than one image for each of the {num_processes} processes: "
            f"set it to {num_processes} or more, or start fewer"
        )
    if computation.device.type == "mps":
        raise DeviceError("several processes cannot train on an Apple GPU: set training_device to 'CPU', or start one")
    if computation.device.type != "cuda":
        return
    if num_local_processes() > torch.cuda.device_count():
        raise DeviceError(
            f"torchrun started {num_local_processes()} processes for {torch.cuda.device_count()} GPUs: start one for "
            f"each GPU (--nproc-per-node), or set training_device to 'CPU'"
        )
    if settings.training_device.startswith("cuda:") and num_local_processes() > 1:
        raise DeviceError(
            f"training_device = '{settings.training_device}' is one GPU for {num_local_processes()} processes: set it "
            f"to 'GPU', which gives each its own"
        )


def check_jit_backend(settings: Settings) -> None:
    """Raise SettingsError where jit_compile is on with a backend that torch.compile does not know here."""
    if not settings.jit_compile:
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if settings.jit_backend not in known:
        raise SettingsError(
            f"jit_backend = '{settings.jit_backend}' is not allowed; allowed on this machine: {', '.join(known)}"
        )
