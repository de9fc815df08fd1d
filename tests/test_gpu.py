"""What is promised of a GPU: run with `pytest -m gpu` where there is one, else skipped; and what of it a CPU can tell.

Each test that needs CUDA or an Apple GPU states one claim. None was run on a GPU yet.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Acting, same_tensors
from torch import nn

from fext.compute import device as devices
from fext.compute.device import Computation, as_floats, keep_contiguous, prepare_computation
from fext.compute.engines import RowShape, TorchEngine
from fext.compute.optimization import make_optimizer
from fext.compute.training import Inputs, Trainer
from fext.compute.variation import vary
from fext.data.images import from_bytes
from fext.errors import OutOfMemoryError
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain, resume
from fext.model.autoencoder import build_autoencoder
from fext.model.blocks import UpsampledConvolution
from fext.model.disturbed import Disturbances, disturbed
from fext.model.heads import Heads
from fext.model.losses import structural_dissimilarity
from fext.model.plans import make_plan
from fext.reporting import SilentReporter, StopRequested
from fext.settings import Settings
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
QUIET = SilentReporter()
CUDA, MPS = torch.device("cuda:0"), torch.device("mps")

cuda = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of NVIDIA")]
apple = [pytest.mark.gpu, pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")]


def on_cuda(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs where CUDA is."""
    return cuda[0](cuda[1](test))  # type: ignore[no-any-return]


def on_apple(test: Callable[..., None]) -> Callable[..., None]:
    """A test that runs on an Apple GPU."""
    return apple[0](apple[1](test))  # type: ignore[no-any-return]


def pictures(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Bytes, channels last in memory."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- what a CPU can tell


def test_bytes_become_the_floats_that_a_division_by_255_makes_whatever_the_device() -> None:
    images = pictures(2)
    images[0, 0].flatten()[:256] = torch.arange(256, dtype=torch.uint8)
    made = as_floats(images)
    assert np.array_equal(made.numpy(), from_bytes(images.numpy()))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert as_floats(made) is made


@pytest.mark.parametrize(("kind", "pinned", "meanwhile"), [
    ("cuda", True, True), ("cuda", False, False), ("mps", True, False), ("mps", False, False), ("cpu", True, False),
])  # fmt: skip
def test_only_from_pinned_memory_to_cuda_a_copy_goes_on_meanwhile(kind: str, pinned: bool, meanwhile: bool) -> None:
    asked: dict[str, Any] = {}

    class Images:
        dtype = torch.float32

        def is_pinned(self) -> bool:
            return pinned

        def to(self, device: torch.device, **options: Any) -> "Images":
            asked.update(options, device=device)
            return self

    Computation(torch.device(kind), "float32", 1).to_device(Images())  # type: ignore[arg-type]
    assert asked["non_blocking"] is meanwhile
    assert asked["memory_format"] == (torch.contiguous_format if kind == "mps" else torch.channels_last)


def test_for_an_apple_gpu_normalizations_and_poolings_get_what_lies_contiguous() -> None:
    """Also where a layer before them makes another order of memory, and in copies of the model."""
    seen: list[bool] = []

    class Watched(nn.BatchNorm2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.is_contiguous())
            return super().forward(images)

    model = nn.Sequential(UpsampledConvolution(4, 8), Watched(8))
    images = torch.rand(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    before = model(images)
    keep_contiguous(model)
    assert torch.allclose(model(images), before, atol=1e-4)
    assert seen == [False, True]


def test_a_picture_that_is_varied_keeps_its_order_of_memory() -> None:
    for order in (torch.channels_last, torch.contiguous_format):
        images = torch.rand(3, 3, 16, 16).contiguous(memory_format=order)
        assert vary(images, torch.Generator().manual_seed(1)).is_contiguous(memory_format=order)


def test_float32_is_float32_and_a_gpu_adds_up_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    backends: Any = torch.backends
    for is_cuda in (True, False):
        devices._compute_reproducibly(CUDA if is_cuda else torch.device("cpu"))
        kinds = (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv)
        assert {kind.fp32_precision for kind in kinds} == {"ieee"}
        assert not backends.cudnn.allow_tf32  # as torch's compiler and exporter ask
        assert not backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        with backends.cudnn.flags(enabled=True, allow_tf32=False):
            pass
        assert torch.are_deterministic_algorithms_enabled() is is_cuda
        assert not is_cuda or torch.is_deterministic_algorithms_warn_only_enabled()  # told, not refused
    assert backends.cudnn.deterministic
    assert not backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_loss_of_ssim_has_no_mirrored_border_whose_gradient_a_gpu_adds_up_in_any_order() -> None:
    images = torch.rand(1, 3, 32, 32)
    made = torch.rand(1, 3, 32, 32, requires_grad=True)
    names: set[str] = set()

    def walk(function: Any) -> None:
        if function is not None and function not in visited:
            visited.add(function)
            names.add(function.name())
            for following, _ in function.next_functions:
                walk(following)

    visited: set[Any] = set()
    walk(structural_dissimilarity(made, images).sum().grad_fn)
    assert not [name for name in names if "Pad" in name and "Constant" not in name]


def test_a_step_is_read_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is waited for where a number is read; in float32 with parts, and with a gradient that is shortened."""
    settings = tiny(gradient_accumulation=2, gradient_clip=0.1)
    model = build_autoencoder(make_plan("cifar", (32, 32, 3)), seed=1)
    computation = prepare_computation(settings)
    forward = disturbed(model, Disturbances(), Heads(), settings.loss)
    trainer = Trainer(forward, model, make_optimizer(model, settings, computation), None, settings, computation)
    images = torch.rand(4, 3, 32, 32)
    trainer.step(Inputs(images))  # the first makes the optimizer's moments
    reads: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        own = getattr(torch.Tensor, name)

        def read(self: torch.Tensor, *given: Any, name: str = name, own: Any = own, **options: Any) -> Any:
            reads.append(name)
            return own(self, *given, **options)

        monkeypatch.setattr(torch.Tensor, name, read)
    trainer.step(Inputs(images))
    assert reads == ["tolist"]


# ---------------------------------------------------------------- CUDA


def stop() -> None:
    raise StopRequested


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["redux", "vgg16_bn"])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(precision: Any, architecture: str) -> None:
    prepare_computation(Settings(training_device="GPU"))
    images = as_floats(pictures(8))
    model = build_autoencoder(make_plan(architecture, (64, 64, 3), linear_shortcut=False), seed=1).eval()
    engine = TorchEngine(model, Computation(CUDA, precision, 1), 8, RowShape(None, has_error=True))
    together = engine.start(images)()
    for place in range(8):
        assert np.array_equal(engine.start(images[place : place + 1])()[0], together[place])
    assert np.array_equal(engine.start(images.flip(0))()[::-1], together)


@on_cuda
@pytest.mark.parametrize("loss", ["mse", {"mse": 0.5, "ssim": 0.5}])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.filterwarnings("error")  # torch warns of what it cannot add up in one order
def test_training_twice_and_in_two_halves_makes_the_same_bits(
    workspace: Workspace, tiny: Tiny, loss: Any, mixed: bool
) -> None:
    settings = tiny(training_device="GPU", epochs=2, loss=loss, use_mixed_precision=mixed, num_processors=2)
    first, second = (pretrain(workspace, settings, workspace.images, name, QUIET) for name in ("first", "second"))
    assert first is not None
    assert second is not None
    assert same_tensors(first.folder, second.folder)

    with pytest.raises(StopRequested):
        pretrain(workspace, settings, workspace.images, "halves", Acting(16, stop))
    resume(settings, workspace.checkpoints / "halves", None, QUIET)
    assert same_tensors(first.folder, workspace.checkpoints / "halves")


@on_cuda
def test_plain_float32_is_not_rounded_to_tf32() -> None:
    prepare_computation(Settings(training_device="GPU", use_mixed_precision=False))
    torch.manual_seed(0)
    images, weight = torch.rand(2, 64, 32, 32), torch.rand(64, 64, 3, 3)
    exact = nn.functional.conv2d(images.double(), weight.double())
    error = (nn.functional.conv2d(images.to(CUDA), weight.to(CUDA)).cpu().double() - exact).abs() / exact
    assert error.max() < 1e-5  # TF32 has 10 bits: about 5e-4
    left, right = torch.rand(256, 256), torch.rand(256, 256)
    exact = left.double() @ right.double()
    assert (((left.to(CUDA) @ right.to(CUDA)).cpu().double() - exact).abs() / exact).max() < 1e-5


@on_cuda
def test_bytes_that_are_copied_become_the_bits_that_a_cpu_makes() -> None:
    images = pictures(4, seed=3)
    computation = Computation(CUDA, "float32", 1)
    for source in (images, images.pin_memory()):
        placed = computation.to_device(source)
        assert torch.equal(placed.cpu(), as_floats(images))
        assert placed.is_contiguous(memory_format=torch.channels_last)


@on_cuda
def test_what_is_copied_from_pinned_memory_is_what_was_there() -> None:
    computation = Computation(CUDA, "float32", 1)
    batches = [as_floats(pictures(8, 256, seed=seed)).pin_memory() for seed in range(8)]
    placed = [computation.to_device(batch) for batch in batches]
    for one, batch in zip(placed, batches, strict=True):
        assert torch.equal(one.cpu(), batch)


@on_cuda
def test_a_batch_too_large_for_the_gpu_is_a_line_and_the_run_goes_on_with_a_smaller_one(
    workspace: Workspace, tiny: Tiny
) -> None:
    settings = tiny(training_device="GPU", picture_shape=(256, 256, 3), architecture="cifar", batch_size=8)
    torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(OutOfMemoryError, match=r"the memory of the GPU has ended: .*batch_size = 4"):
            pretrain(workspace, settings, workspace.images, "model", QUIET)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_reserved() < 2**28
    result = resume(settings, workspace.checkpoints / "model", None, QUIET, {"batch_size": 1})
    assert result is not None
    assert result.epochs == 1


@on_cuda
def test_a_table_made_twice_has_the_same_bytes(workspace: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(training_device="GPU", num_processors=2)
    result = pretrain(workspace, settings, workspace.images, "model", QUIET)
    assert result is not None
    made = [extract(workspace, settings, result.folder, workspace.images, name, QUIET) for name in ("one", "two")]
    tables = [(one.folder / "features.csv").read_bytes() for one in made if one is not None]
    assert tables[0] == tables[1]
    assert json.loads((workspace.inference / "one" / "manifest.json").read_text())["computed_by"]["device"][:3] == "GPU"


# ---------------------------------------------------------------- Apple


@on_apple
def test_what_an_apple_gpu_is_given_is_what_was_there() -> None:
    computation = Computation(MPS, "float32", 1)
    placed = [computation.to_device(as_floats(pictures(8, 256, seed=seed))) for seed in range(8)]
    for seed, one in enumerate(placed):
        assert torch.equal(one.cpu(), as_floats(pictures(8, 256, seed=seed)))


@on_apple
@pytest.mark.parametrize("architecture", ["redux", "cifar", "vgg16_bn"])
def test_the_gradient_of_an_apple_gpu_is_that_of_the_cpu(tiny: Tiny, architecture: str) -> None:
    settings, images = tiny(), as_floats(pictures(4, 64))
    gradients = []
    for device in (torch.device("cpu"), MPS):
        computation = Computation(device, "float32", 1)
        model = build_autoencoder(
            make_plan(architecture, (64, 64, 3), linear_shortcut=False, dropout_rate=0), seed=1
        ).train()
        computation.place(model)
        forward = disturbed(model, Disturbances(), Heads(), settings.loss)
        trainer = Trainer(forward, model, make_optimizer(model, settings, computation), None, settings, computation)
        trainer.step(Inputs(computation.to_device(images)))
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        gradients.append(torch.cat([grad.cpu().flatten() for grad in grads]))
    assert nn.functional.cosine_similarity(*gradients, dim=0) > 0.999
